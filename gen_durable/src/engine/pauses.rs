//! The pauses that this engine knows of.
//!
//! ```text
//!   pause ──► NOTIFY, or the next look ──► known here
//!                                            ├─► rows that wait for a slot: given back
//!                                            ├─► the next step of a run: not begun, given back
//!                                            └─► claimed rows: marked (`blocked_by`), given back
//!   resume ─► NOTIFY, or the next look ──► forgotten here ──► marks cleared, a whole claim
//! ```
//!
//! Invariant: no step begins of which this engine knows that it is paused. Only the claimer marks
//! rows. A row that is given back elsewhere comes to the claimer, or to that of another engine.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Mutex;

use super::{Shared, executor, outage::no_connection, registry::Work};
use crate::{
    error::Cause,
    storage::{self, Claimed, Freed, Paused, Scope},
};

/// The most rows that one statement frees, and the most pauses that one ends.
const BATCH_MAX: i64 = 1000;

/// The pauses that this engine knows of.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    known: RwLock<Known>,
    /// True if anything is known to be paused. Most engines read only this.
    any: AtomicBool,
    /// True if a look is due: something was paused or resumed.
    told: AtomicBool,
    /// True from the first pause on that is known, until a while after the last one.
    recent: AtomicBool,
    /// Held during a look, so that an older answer replaces no younger one.
    looking: Mutex<()>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    queues: HashSet<String>,
    machines: HashSet<String>,
    steps: HashMap<String, HashSet<String>>,
    /// Instances that this worker has had since they were paused.
    instances: HashSet<i64>,
}

impl Known {
    fn of(paused: Paused) -> Self {
        let mut known =
            Self { instances: paused.instances.into_iter().collect(), ..Self::default() };
        for scope in paused.scopes {
            match scope {
                Scope::Queue(queue) => {
                    known.queues.insert(queue);
                }
                Scope::Machine(fsm) => {
                    known.machines.insert(fsm);
                }
                Scope::Step { fsm, step } => {
                    known.steps.entry(fsm).or_default().insert(step);
                }
            }
        }
        known
    }

    fn hold(&self, id: i64, queue: &str, fsm: &str, step: &str) -> bool {
        self.queues.contains(queue)
            || self.machines.contains(fsm)
            || self.steps.get(fsm).is_some_and(|steps| steps.contains(step))
            || self.instances.contains(&id)
    }
}

impl Pauses {
    /// Makes the next look due at once.
    pub(super) fn tell(&self) {
        self.told.store(true, Ordering::Release);
    }

    /// True if a look was due. It is none any more.
    pub(super) fn take_told(&self) -> bool {
        self.told.swap(false, Ordering::AcqRel)
    }

    /// True if anything is known to be paused.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// True if the instance, its queue, its machine or its step is paused.
    fn hold(&self, id: i64, queue: &str, fsm: &str, step: &str) -> bool {
        self.any()
            && self.known.read().unwrap_or_else(PoisonError::into_inner).hold(id, queue, fsm, step)
    }

    /// True if the step at which this work stands is not to begin.
    pub(super) fn hold_work(&self, work: &Work) -> bool {
        let instance = &work.instance;
        self.hold(instance.id, &instance.queue, work.fsm, &instance.step)
    }

    /// Replaces what is known. True if it was something else.
    fn set(&self, known: Known) -> bool {
        let any = known != Known::default();
        let mut now = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *now != known;
        *now = known;
        self.any.store(any, Ordering::Release);
        if any {
            self.recent.store(true, Ordering::Release);
        }
        changed
    }

    /// Forgets that something was paused, if nothing is.
    pub(super) fn forget_all(&self) {
        if !self.any() {
            self.recent.store(false, Ordering::Release);
        }
    }

    /// Forgets the pause of an instance that this worker gives back. The row says that it is
    /// paused.
    pub(super) fn forget(&self, id: i64) {
        if self.any() {
            self.known.write().unwrap_or_else(PoisonError::into_inner).instances.remove(&id);
        }
    }
}

/// Sees to a row that was given back as it was paused, if its pause is known to be over by now. The
/// look that told of the end may have come before the row was back: it is unmarked, and claimed.
/// While the end is not known, the look that tells of it comes later, and does both.
pub(super) fn gave_back(shared: &Shared, work: &Work) {
    let pauses = &shared.pauses;
    if pauses.recent.load(Ordering::Acquire) && !pauses.hold_work(work) {
        pauses.tell();
        shared.wake.rows_came_back();
        shared.wake.debts.notify_one();
    }
}

/// Marks those of the claimed rows that are paused, so that they are given back and not claimed
/// again.
pub(super) async fn hold_claimed(shared: &Shared, rows: &mut [(Claimed, bool)]) {
    if !shared.pauses.any() {
        return;
    }
    let mut held = Vec::new();
    for (row, runs) in rows {
        if shared.pauses.hold(row.id, &row.queue, &row.kind.fsm, &row.step) {
            *runs = false;
            held.push(row.id);
        }
    }
    if held.is_empty() {
        return;
    }
    let marking = async {
        let mut connection = shared.connections.get().await.map_err(no_connection)?;
        let mark = storage::block_paused(&mut connection, shared.lease.worker(), &held);
        let result = shared.connections.within(mark).await;
        connection.done(result)
    };
    // Rows without a mark are claimed again. The pause may be over, and this engine not know it.
    match marking.await {
        Ok(marked) if marked.len() == held.len() => return,
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(rows = held.len(), error = %Cause(&error), "paused rows stay unmarked");
        }
    }
    shared.pauses.tell();
    shared.wake.debts.notify_one();
}

/// Reads what is paused, and gives back rows that wait for a slot and are paused now. Returns the
/// time until a pause ends by itself, and whether anything is new.
pub(super) async fn look(shared: &Arc<Shared>) -> Result<(Option<Duration>, bool), sqlx::Error> {
    let _one_by_one = shared.pauses.looking.lock().await;
    let mut connection = shared.connections.get().await?;
    let look = storage::pauses(&mut connection, shared.lease.worker());
    let result = shared.connections.within(look).await;
    let paused = connection.done(result)?;
    let ends_in = paused.ends_in;
    let changed = shared.pauses.set(Known::of(paused));
    if changed {
        for queue in shared.queues.values() {
            for work in queue.take_rows(|work| shared.pauses.hold_work(work)) {
                shared.pauses.forget(work.instance.id);
                executor::release(shared, queue, work);
            }
        }
        // Rows without a mark, which were given back while the scope was paused, lie before the
        // watermarks.
        shared.wake.rows_came_back();
    }
    Ok((ends_in, changed))
}

/// The rows that [`tidy`] has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// There may be more of them than one batch has.
    More,
    /// Other transactions have locked them.
    Locked,
}

/// Ends pauses whose time is over, if `ends` is true, and frees rows of pauses that have ended: a
/// batch of each. Then has the claimer look at all rows.
pub(super) async fn tidy(shared: &Shared, ends: bool) -> Result<Left, sqlx::Error> {
    let mut connection = shared.connections.get().await?;
    let tidying = async {
        if ends {
            let ended = storage::end_pauses(&mut connection, BATCH_MAX).await?;
            freed(shared, ended.iter().flatten());
        }
        storage::unblock_paused(&mut connection, BATCH_MAX).await
    };
    let result = shared.connections.within(tidying).await;
    let free = connection.done(result)?;
    freed(shared, free.queues.iter());
    Ok(match free {
        Freed { more: false, .. } => Left::Nothing,
        Freed { rows: 0, .. } => Left::Locked,
        Freed { .. } => Left::More,
    })
}

/// Announces queues in which rows may run again. They come before the watermarks of all claimers;
/// that of this engine looks at once.
fn freed<'a>(shared: &Shared, queues: impl Iterator<Item = &'a String>) {
    let queues: HashSet<&String> = queues.collect();
    if !queues.is_empty() {
        shared.wake.rows_came_back();
        shared.notifier.announce(queues.into_iter().map(String::as_str));
    }
}
