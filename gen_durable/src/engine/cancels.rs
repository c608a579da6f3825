//! Answers the cancels of instances that this engine runs.
//!
//! ```text
//!   cancel ──► row: executing, revision raised, an answer owed
//!                │
//!                └─► service `debts` ──► run dropped ──► task ended ──► answered: the row leaves
//!                                                                       the worker
//! ```
//!
//! Invariant: a cancel is answered only while no task of this process has the instance, and no
//! claim or birth is under way that may bring it. Its row keeps its partition key until then.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{
    Shared, executor, maintenance::debts::log_dropped, outage::no_connection,
    unblock::unblock_again,
};
use crate::{error::Cause, storage};

/// The most cancels that one transaction answers: it takes an advisory lock for each partition key.
const PART_MAX: usize = 250;

/// The cancels that this engine has to answer, and when each was seen. A run that began after that
/// may be the machine's answer, and is not dropped.
#[derive(Debug, Default)]
pub(crate) struct Cancels(Mutex<BTreeMap<i64, Instant>>);

impl Cancels {
    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn all(&self) -> Vec<(i64, Instant)> {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().map(|(id, seen)| (*id, *seen)).collect()
    }

    fn add(&self, ids: &[i64], seen: Instant) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            let known = asked.entry(*id).or_insert(seen);
            *known = seen.max(*known);
        }
    }

    fn clear(&self, ids: &[i64]) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            asked.remove(id);
        }
    }
}

/// Drops the runs of these instances that had begun when their cancels were `seen`, and has the
/// claimer answer these cancels.
pub(super) fn ask(shared: &Arc<Shared>, ids: &[i64], seen: Instant) {
    if ids.is_empty() {
        return;
    }
    shared.cancels.add(ids, seen);
    for id in ids {
        shared.tasks.drop_run(*id, seen);
    }
    // A row that waits for a slot has no run to drop. Its release is refused, and its task ends.
    for queue in shared.queues.values() {
        for work in
            queue.take_rows(|work| ids.contains(&work.instance.id) && work.instance.received < seen)
        {
            executor::release(shared, queue, work);
        }
    }
    shared.wake.claimer();
}

/// Notes that the outcome of a run was refused because its instance was cancelled.
pub(super) fn note(shared: &Shared, id: i64) {
    shared.cancels.add(&[id], Instant::now());
}

/// Says that a task has ended whose instance may have been cancelled.
pub(super) fn task_ended(shared: &Shared) {
    if !shared.cancels.is_empty() {
        shared.wake.claimer();
        // In a shutdown there is no claimer any more.
        if shared.life.claimer_ended.is_open() {
            shared.wake.debts.notify_one();
        }
    }
}

/// Answers the cancels whose instances no task has any more. The claimer runs it between its
/// claims, and the service `debts` once the claimer has ended.
pub(super) async fn answer(shared: &Arc<Shared>) {
    if shared.cancels.is_empty() {
        return;
    }
    // A birth may bring an instance that no task has yet. The end of the last one wakes the
    // claimer.
    if !shared.births.close() {
        return;
    }
    answer_free(shared).await;
    // In a shutdown no birth begins any more.
    if !shared.life.claimer_ended.is_open() {
        shared.births.open();
    }
}

async fn answer_free(shared: &Arc<Shared>) {
    let running: HashSet<i64> = shared.tasks.ids().into_iter().collect();
    let asked = shared.cancels.all().into_iter();
    let (running, free): (Vec<_>, Vec<_>) = asked.partition(|(id, _)| running.contains(id));
    // A claim or a birth that was under way may have brought one since its cancel was seen. The
    // next look of the service `debts` sees that cancel again, and drops the run.
    for (id, seen) in running {
        shared.tasks.drop_run(id, seen);
    }
    let ids: Vec<i64> = free.into_iter().map(|(id, _)| id).collect();
    // Whatever becomes of these now, the service `debts` asks again for those that are still owed.
    shared.cancels.clear(&ids);
    if let Err(error) = answer_these(shared, &ids, Some(shared.lease.worker())).await {
        tracing::debug!(cancels = ids.len(), error = %Cause(&error), "cancels are answered later");
    }
}

/// Answers cancels of instances that this worker does not run any more, and of those that nobody
/// runs. Returns the first error; the other parts are answered all the same.
pub(super) async fn answer_these(
    shared: &Arc<Shared>,
    ids: &[i64],
    worker: Option<i64>,
) -> Result<(), sqlx::Error> {
    let mut result = Ok(());
    for part in ids.chunks(PART_MAX) {
        let answering = async {
            let mut connection = shared.connections.get().await.map_err(no_connection)?;
            let answer = storage::answer_cancels(&mut connection, part, worker);
            let result = shared.connections.within(answer).await;
            connection.done(result)
        };
        match answering.await {
            Ok(answered) => {
                for id in &answered.ids {
                    shared.client.waiters().hasten(*id);
                }
                log_dropped(&answered.settled.dropped);
                let locked = answered.locked_partitions;
                unblock_again(&shared.connections, &shared.notifier, &shared.life, locked);
                let queues = answered.queues.iter().chain(&answered.settled.queues);
                shared.notifier.announce(queues.map(String::as_str));
            }
            Err(error) => result = result.and(Err(error)),
        }
    }
    result
}
