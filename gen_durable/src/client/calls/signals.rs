//! Signals that share commits.
//!
//! Invariant: a batch waits only a moment for a target that another transaction has locked. It then
//! leaves out the signals to that target, which are tried again. Signals to other targets do not
//! wait for them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Instant,
};

use sqlx::PgConnection;
use tokio::sync::{Semaphore, oneshot, watch};

use super::{BATCH_MAX, CANCELLED, DEADLOCK_TRIES_MAX, TASKS_MAX, WAITING_MAX, held};
use crate::{
    backoff::Tries,
    client::{local::LocalEngine, notifier::Notifier},
    connections::Connections,
    error::{DatabaseError, SignalError},
    fault,
    group::{Group, Item},
    status::Delivery,
    storage::{self, Addressee, Born, Locked, LockedRows, NewSignal, Sent},
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
        let mut targets: BTreeMap<(Option<String>, Addressee), Vec<PendingSignal>> =
            BTreeMap::new();
        for pending in held {
            let target = (pending.signal.fsm.clone(), pending.signal.target.clone());
            targets.entry(target).or_default().push(pending);
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
            let local = self.notifier.local();
            match deliver_or_claim(&self.connections, &signals, locked, local).await {
                Ok(sent) => {
                    self.notifier.announce(sent.queues());
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
            let target = pending.signal.target.to_string();
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
    deliver_or_claim(connections, signals, locked, None).await
}

/// Delivers signals in a transaction of their own. The engine of this process may claim the
/// instances that they wake in it, and runs these. They are not among the woken of the answer.
async fn deliver_or_claim(
    connections: &Connections,
    signals: &[&NewSignal],
    locked: Locked,
    local: Option<&dyn LocalEngine>,
) -> Result<Sent, DatabaseError> {
    let (mut tries, mut local, mut refused) = (0, local, None);
    loop {
        let mut connection = connections.get().await.map_err(DatabaseError::new(DELIVER))?;
        let announced = signals.iter().any(|signal| !signal.silent);
        let claiming = local.filter(|local| announced && local.may_claim_woken());
        let mut claim_began = false;
        // Signals by unique key take several statements. If one of them fails, nothing may stay of
        // the others: a signal would be delivered twice.
        let by_key = signals.iter().any(|signal| signal.unique_key().is_some());
        let result = if claiming.is_some() || by_key {
            let began = &mut claim_began;
            let deliver = deliver_and_claim(&mut connection, signals, locked, claiming, began);
            connections.within(Box::pin(deliver)).await
        } else {
            connections.within(storage::deliver(&mut connection, signals, locked)).await
        };
        let error = match connection.done(result) {
            Ok(sent) => {
                refused.inspect(|local: &&dyn LocalEngine| local.refused());
                return Ok(sent);
            }
            Err(error) => error,
        };
        if claim_began && !fault::is_uncertain(&error) {
            refused = local.take();
        } else if fault::is_rolled_back(&error) && tries < DEADLOCK_TRIES_MAX {
            tries += 1;
        } else {
            return Err(DatabaseError::new(DELIVER)(error));
        }
    }
}

/// Delivers signals and commits. In between, the engine of this process claims the instances that
/// they wake, if there is one and it has free slots. Sets `claim_began` before the claim.
async fn deliver_and_claim(
    connection: &mut PgConnection,
    signals: &[&NewSignal],
    locked: Locked,
    local: Option<&dyn LocalEngine>,
    claim_began: &mut bool,
) -> Result<Sent, sqlx::Error> {
    let mut transaction = storage::begin(connection).await?;
    let delivered = async {
        let sent = storage::deliver(&mut transaction, signals, locked).await?;
        let Some(reservation) = local.and_then(|local| local.reserve_woken(&sent.woken)) else {
            return Ok((sent, None));
        };
        *claim_began = true;
        let began = Instant::now();
        let claimed =
            storage::claim_woken(&mut transaction, reservation.birth(), &sent.woken).await;
        match claimed {
            Ok(claimed) => {
                let born = Born { claimed, looked: began.elapsed() };
                Ok((sent, Some((reservation, born))))
            }
            Err(error) => {
                if !fault::is_uncertain(&error) {
                    reservation.undo();
                }
                Err(error)
            }
        }
    };
    match delivered.await {
        Ok((mut sent, birth)) => {
            // If the answer is lost, the claimed rows count as lost claims: the reservation is
            // dropped.
            transaction.commit().await?;
            if let Some((reservation, born)) = birth {
                let ids: HashSet<i64> = born.claimed.iter().map(|row| row.id).collect();
                let rows: Vec<_> = sent.woken.iter().map(|(id, _)| Some(*id)).collect();
                reservation.run(&rows, born);
                sent.woken.retain(|(id, _)| !ids.contains(id));
            }
            Ok(sent)
        }
        // The transaction is ended here and not by a drop. After a drop, the connection would be
        // kept with the open transaction.
        Err(error) => {
            if error.as_database_error().is_some() {
                transaction.rollback().await?;
            }
            Err(error)
        }
    }
}
