//! Signals that share commits.
//!
//! Invariant: a batch waits only a moment for a target that another transaction has locked. It then
//! leaves out the signals to that target, which are tried again. Signals to other targets do not
//! wait for them.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use tokio::sync::{Semaphore, oneshot, watch};

use super::{BATCH_MAX, CANCELLED, DEADLOCK_TRIES_MAX, TASKS_MAX, WAITING_MAX, held};
use crate::{
    backoff::Tries,
    client::notifier::Notifier,
    connections::Connections,
    error::{DatabaseError, SignalError},
    fault,
    group::{Group, Item},
    status::Delivery,
    storage::{self, Locked, LockedRows, NewSignal, Sent},
};

const DELIVER: &str = "deliver a signal";

type Answer = Result<Delivery, SignalError>;

/// A signal that waits for its batch.
pub(super) struct PendingSignal {
    signal: NewSignal,
    reply: oneshot::Sender<Answer>,
    since: Instant,
}

impl PendingSignal {
    pub(super) fn new(signal: NewSignal) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Self { signal, reply, since: Instant::now() }, answer)
    }
}

impl Item for PendingSignal {
    fn weight(&self) -> usize {
        self.signal.payload.0.len()
    }
}

/// The parts that the signals of a group share.
struct Signals {
    connections: Connections,
    notifier: Arc<Notifier>,
    /// Told when a batch has ended: the targets that it had locked are free.
    ended: watch::Sender<()>,
    locked: LockedRows,
    waiting: Semaphore,
}

pub(super) fn group(
    connections: &Connections,
    notifier: &Arc<Notifier>,
) -> Arc<Group<PendingSignal>> {
    let signals = Arc::new(Signals {
        connections: connections.clone(),
        notifier: Arc::clone(notifier),
        ended: watch::Sender::new(()),
        locked: LockedRows::default(),
        waiting: Semaphore::new(WAITING_MAX),
    });
    let run = move |batch: Vec<PendingSignal>| {
        let signals = Arc::clone(&signals);
        Box::pin(async move { signals.run(batch).await }) as _
    };
    Group::new(BATCH_MAX, TASKS_MAX, Box::new(run))
}

impl Signals {
    /// Delivers a batch. The signals whose targets are locked are left to tasks of their own.
    async fn run(self: &Arc<Self>, batch: Vec<PendingSignal>) {
        // Before the try: a batch that had a target locked may end while the try is on its way. A
        // subscription after the try would miss that end, and the next try would come only after
        // its pause.
        let ended = self.ended.subscribe();
        let mut locked = self.locked.treatment();
        let mut held = self.deliver(batch, locked).await;
        if !held.is_empty() && locked == Locked::WaitAMoment {
            self.locked.found();
            locked = Locked::Skip;
            held = self.deliver(held, locked).await;
        }
        // Each target has its own task: signals to one do not wait for another.
        let mut targets: BTreeMap<i64, Vec<PendingSignal>> = BTreeMap::new();
        for pending in held {
            targets.entry(pending.signal.target).or_default().push(pending);
        }
        for batch in targets.into_values() {
            let (signals, ended) = (Arc::clone(self), ended.clone());
            tokio::spawn(async move { signals.wait(batch, ended).await });
        }
    }

    /// Tries the signals to a locked target again, until each is answered.
    async fn wait(&self, mut batch: Vec<PendingSignal>, mut ended: watch::Receiver<()>) {
        let mut tries = Tries::new();
        while !batch.is_empty() {
            let _ = tokio::time::timeout(tries.pause(), ended.changed()).await;
            ended = self.ended.subscribe();
            batch = self.deliver(batch, Locked::Skip).await;
            batch = self.give_up(batch);
            if tries.found_locked()
                && !batch.is_empty()
                && let Ok(_place) = self.waiting.try_acquire()
            {
                // This waits in Postgres's own queue for the row, behind those that came before.
                batch = self.deliver(batch, Locked::WaitASecond).await;
                if !batch.is_empty() {
                    tries.waited();
                }
            }
        }
    }

    /// Delivers signals and answers their calls. Returns those whose targets are locked.
    async fn deliver(&self, batch: Vec<PendingSignal>, locked: Locked) -> Vec<PendingSignal> {
        let (mut held, mut answered) = (Vec::new(), false);
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            let signals: Vec<&NewSignal> = batch.iter().map(|pending| &pending.signal).collect();
            match deliver_with(&self.connections, &signals, locked).await {
                Ok(sent) => {
                    self.notifier.announce(sent.queues.iter().map(String::as_str));
                    for (pending, delivery) in batch.into_iter().zip(sent.deliveries) {
                        match delivery {
                            Some(answer) => {
                                answered = true;
                                let _ = pending.reply.send(answer);
                            }
                            None => held.push(pending),
                        }
                    }
                }
                // Perhaps the statement waited for a lock until a statement timeout ended it.
                Err(error)
                    if error.is_locked()
                        || locked == Locked::WaitASecond && error.sqlstate() == Some(CANCELLED) =>
                {
                    held.extend(batch);
                }
                Err(error) if batch.len() > 1 && error.is_divisible() => {
                    let right = batch.split_off(batch.len() / 2);
                    batches.extend([right, batch]);
                }
                Err(error) => {
                    self.connections.tell(&error);
                    for pending in batch {
                        let _ = pending.reply.send(Err(error.clone().into()));
                    }
                }
            }
        }
        // A batch that found every target locked has locked none itself, so its end frees none.
        if answered {
            self.ended.send_replace(());
        }
        held
    }

    /// Answers the calls that have waited for as long as a call may, and returns the others.
    fn give_up(&self, batch: Vec<PendingSignal>) -> Vec<PendingSignal> {
        let lock_wait_max = self.connections.answer_timeout();
        let mut left = Vec::new();
        for pending in batch {
            let target = format!("instance {}", pending.signal.target);
            match held(DELIVER, &target, pending.since, lock_wait_max) {
                Some(error) => drop(pending.reply.send(Err(error.into()))),
                None => left.push(pending),
            }
        }
        left
    }
}

/// Delivers signals in a transaction of their own.
pub(in crate::client) async fn deliver_with(
    connections: &Connections,
    signals: &[&NewSignal],
    locked: Locked,
) -> Result<Sent, DatabaseError> {
    let mut tries = 0;
    loop {
        let mut connection = connections.get().await.map_err(DatabaseError::new(DELIVER))?;
        let deliver = storage::deliver(&mut connection, signals, locked);
        let result = connections.within(deliver).await;
        match connection.done(result) {
            Err(error) if fault::is_rolled_back(&error) && tries < DEADLOCK_TRIES_MAX => {
                tries += 1;
            }
            result => return result.map_err(DatabaseError::new(DELIVER)),
        }
    }
}
