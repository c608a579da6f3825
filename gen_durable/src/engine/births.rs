//! Births: rows that are claimed in the commit that inserts or wakes them, for a slot of the
//! process that commits. Such a row runs one commit earlier than a row that the claimer has to
//! find. The rows of an outcome may also be claimed ahead of the slots, as the claimer would.
//!
//! ```text
//!   insert ──reserve a slot──► insert and claim, one commit ───────────► slot
//!                                        └──a row waits──► inserted as any other row
//!
//!   outcome with inserts ──reserve slots──► as above, in the outcome's commit
//!
//!   signal ──► deliver ──reserve slots──► claim the woken ──commit──► slots
//!                                        └──a row waits──► woken as any other row
//! ```
//!
//! Invariant: a reserved slot counts as taken. From the reservation until its rows are among the
//! tasks, a birth is under way: nobody looks for lost claims, and no shutdown takes the worker's
//! rows for complete ([`Births`]).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::Notify};

use super::{Shared, claimer::HORIZON, executor, registry::Work, slots::Queue};
use crate::{
    client::local::{LocalEngine, Reservation},
    status::Status,
    storage::{Birth, Born, Claimed, Eligible, Kind, NewInstance},
};

/// The statement steps over dead entries as it looks for waiting rows, like a whole claim. If a
/// look takes longer than this, there are no births for [`PAUSE`] times as long.
const QUICK: Duration = Duration::from_millis(20);
const PAUSE: u32 = 10;
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A transaction that claims whom its signals wake costs more than a delivery by itself. If it woke
/// nobody, signals are delivered without it for this long.
const NOBODY: Duration = Duration::from_millis(100);
/// The longest time for which a shutdown waits for births under way.
const END_MAX: Duration = Duration::from_secs(2);

/// The engine as its client sees it.
pub(super) struct Local(pub(super) Weak<Shared>);

impl LocalEngine for Local {
    fn hear(&self, queue: &str) -> bool {
        self.0.upgrade().is_some_and(|shared| shared.hear(queue))
    }

    fn reserve(&self, rows: &[&NewInstance]) -> Option<Box<dyn Reservation>> {
        self.reserve_rows(rows, Duration::ZERO)
    }

    fn reserve_ahead(&self, rows: &[&NewInstance]) -> Option<Box<dyn Reservation>> {
        self.reserve_rows(rows, HORIZON)
    }

    fn may_claim_woken(&self) -> bool {
        self.0.upgrade().is_some_and(|shared| {
            has_free_slot(&shared)
                && shared.births.may_claim_woken()
                && may_begin(&shared).is_some()
        })
    }

    fn reserve_woken(&self, woken: &[(i64, String)]) -> Option<Box<dyn Reservation>> {
        let shared = self.0.upgrade()?;
        if woken.is_empty() {
            shared.births.woke_nobody();
            return None;
        }
        let mut reserved = Reserved::begin(shared, woken.len())?;
        reserved.fill_all(woken);
        Some(Box::new(reserved.sent()?))
    }

    fn refused(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.births.pause(PAUSE_MAX);
        }
    }
}

impl Local {
    /// Reserves slots for new rows, and places ahead of the slots if the claimer has counted them
    /// within the `horizon`.
    fn reserve_rows(
        &self,
        rows: &[&NewInstance],
        horizon: Duration,
    ) -> Option<Box<dyn Reservation>> {
        let shared = self.0.upgrade()?;
        // The statement that claims inserts plain rows alone.
        if !has_free_slot(&shared) || !rows.iter().all(|row| is_plain(row)) {
            return None;
        }
        let mut reserved = Reserved::begin(shared, rows.len())?;
        reserved.fill(rows, horizon);
        Some(Box::new(reserved.sent()?))
    }
}

/// The births that are under way.
#[derive(Debug, Default)]
pub(crate) struct Births {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    /// No birth begins.
    closed: bool,
    /// No birth begins before this time.
    next: Option<Instant>,
    /// Signals claim nobody before this time.
    next_woken: Option<Instant>,
}

impl Births {
    /// Notes how long a statement looked for waiting rows.
    fn looked(&self, looked: Duration) {
        if looked > QUICK {
            self.pause(looked.saturating_mul(PAUSE).min(PAUSE_MAX));
        }
    }

    /// True if a transaction of signals may claim whom it wakes.
    fn may_claim_woken(&self) -> bool {
        let state = self.lock();
        state.may_begin() && state.next_woken.is_none_or(|next| next <= Instant::now())
    }

    /// Notes that a transaction of signals woke nobody.
    fn woke_nobody(&self) {
        self.lock().next_woken = Some(Instant::now() + NOBODY);
    }

    fn pause(&self, pause: Duration) {
        self.lock().next = Some(Instant::now() + pause);
    }

    /// Lets no birth begin until [`open`](Self::open). True if none is under way. Otherwise the
    /// claimer is woken when the last one has ended.
    pub(super) fn close(&self) -> bool {
        let mut state = self.lock();
        state.closed = true;
        state.under_way == 0
    }

    pub(super) fn open(&self) {
        self.lock().closed = false;
    }

    /// Lets no birth begin any more, and waits until none is under way, for [`END_MAX`] at most. A
    /// connection may carry nothing any more, and the rows of its birth are left to the reaper.
    pub(super) async fn end(&self) {
        let _ = tokio::time::timeout(END_MAX, self.ended()).await;
    }

    async fn ended(&self) {
        loop {
            // Registered before the look, so that an end between the look and the wait is not
            // missed.
            let ended = self.ended.notified();
            if self.close() {
                return;
            }
            ended.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_begin(&self) -> bool {
        !self.closed && self.next.is_none_or(|next| next <= Instant::now())
    }
}

/// A birth that is under way.
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn begin(shared: &Arc<Shared>) -> Option<Self> {
        let mut state = shared.births.lock();
        if !state.may_begin() {
            return None;
        }
        state.under_way += 1;
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.births.lock();
        state.under_way -= 1;
        if state.under_way == 0 && state.closed {
            drop(state);
            self.0.births.ended.notify_waiters();
            self.0.wake.claimer();
        }
    }
}

/// The slots that are reserved for the rows of one insert.
struct Reserved {
    shared: Arc<Shared>,
    birth: Birth,
    /// Each reserved slot: the place of its row in the insert, and the queue.
    slots: Vec<(usize, Arc<Queue>)>,
    /// The statement is under way.
    sent: bool,
    _under_way: UnderWay,
}

impl Reserved {
    /// Begins a birth of some of `rows` rows, with no slots yet.
    fn begin(shared: Arc<Shared>, rows: usize) -> Option<Self> {
        // A shutdown first ends the claims, and then waits for the births under way. This one is
        // seen there, or it sees then that the engine is stopping.
        let under_way = UnderWay::begin(&shared)?;
        let worker = may_begin(&shared)?;
        let kinds = Arc::clone(&shared.kinds);
        Some(Self {
            birth: Birth { worker, kinds, claims: vec![false; rows] },
            shared,
            slots: Vec::new(),
            sent: false,
            _under_way: under_way,
        })
    }

    /// Notes that the statement is sent. None if there is nothing to claim.
    fn sent(mut self) -> Option<Self> {
        // A claim notes that its queues are not idle before it counts their free slots. It sees the
        // reserved slots, or the birth sees its note here: the two never fill the same slot.
        if self.slots.is_empty() || !self.slots.iter().all(|(_, queue)| queue.is_idle()) {
            return None;
        }
        self.sent = true;
        Some(self)
    }

    /// Reserves slots for woken rows: for all of a queue, or for none.
    fn fill_all(&mut self, woken: &[(i64, String)]) {
        let shared = Arc::clone(&self.shared);
        let mut waited_in: HashSet<&str> = HashSet::new();
        for (index, (_, name)) in woken.iter().enumerate() {
            match shared.queues.get(name) {
                Some(queue) if queue.is_idle() && queue.reserve(0) => {
                    self.slots.push((index, Arc::clone(queue)));
                }
                _ => {
                    waited_in.insert(name);
                }
            }
        }
        let (given_back, kept): (Vec<_>, Vec<_>) =
            self.slots.drain(..).partition(|(_, queue)| waited_in.contains(&*queue.name));
        for (_, queue) in given_back {
            give_back(&shared, &queue);
        }
        for (index, _) in &kept {
            self.birth.claims[*index] = true;
        }
        self.slots = kept;
    }

    /// Reserves slots, for the most urgent rows first.
    fn fill(&mut self, rows: &[&NewInstance], horizon: Duration) {
        let shared = Arc::clone(&self.shared);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|index| rows[*index].priority);
        // The queues in which a row has to wait. No less urgent one may run before it.
        let mut waited_in: HashSet<&str> = HashSet::new();
        for index in order {
            let row = rows[index];
            let Some(queue) = shared.queues.get(&row.queue) else { continue };
            // Nothing is born in a queue that is not idle, whatever comes first.
            if !queue.is_idle() || waited_in.contains(row.queue.as_str()) || !knows(&shared, row) {
                continue;
            }
            if can_be_born(row) && queue.reserve(queue.ahead(horizon)) {
                self.birth.claims[index] = true;
                self.slots.push((index, Arc::clone(queue)));
            } else {
                waited_in.insert(&row.queue);
            }
        }
    }

    /// Hands the rows to their queues.
    fn enter(&mut self, rows: Vec<Claimed>) {
        let mut free: HashMap<Arc<str>, Vec<(usize, Arc<Queue>)>> = HashMap::new();
        for (index, queue) in self.slots.drain(..) {
            free.entry(Arc::clone(&queue.name)).or_default().push((index, queue));
        }
        for row in rows {
            // The rows have the reserved queues and known machines, so both are found.
            let runner = self.shared.registry.get(&row.kind).map(Arc::clone);
            let slot = free.get_mut(&*row.queue).filter(|_| runner.is_some()).and_then(Vec::pop);
            let (Some((_, queue)), Some(runner)) = (slot, runner) else {
                self.shared.wake.suspect_lost_claims();
                continue;
            };
            queue.meters.born();
            let dropped = self.shared.tasks.begin(row.id);
            let name = Arc::clone(&queue.name);
            let work = Work::new(row, runner, name, None, dropped, &self.shared.lease);
            if let Some(work) = queue.enter(work) {
                executor::spawn(&self.shared, &queue, work);
            }
        }
        self.slots.extend(free.into_values().flatten());
        // A shutdown that began meanwhile has released the waiting rows before these came.
        if self.shared.life.stopping.is_open() {
            self.shared.release_waiting();
        }
    }
}

/// True if a queue has a free slot and nothing to do.
fn has_free_slot(shared: &Shared) -> bool {
    shared.queues.values().any(|queue| queue.is_idle() && queue.has_slot())
}

/// Returns the worker for which a birth may begin now, on this runtime.
fn may_begin(shared: &Shared) -> Option<i64> {
    // The task that runs the statement ends the birth. On another runtime nobody may poll that
    // task, and the engine would wait for it.
    let own_runtime = Handle::try_current().ok()?.id() == shared.runtime.id();
    let worker = shared.lease.worker();
    let begins = own_runtime && shared.life.claims() && shared.lease.may_start(worker);
    begins.then_some(worker)
}

/// Gives a reserved slot back.
fn give_back(shared: &Shared, queue: &Queue) {
    queue.claimed.fetch_sub(1, Ordering::SeqCst);
    shared.wake.slot_freed();
}

/// True if the row may run at once, and no other row is to run before it for a partition key.
fn is_plain(row: &NewInstance) -> bool {
    matches!(row.eligible, Eligible::Now) && row.partition_key.is_none()
}

/// True if the worker runs the row's machine.
fn knows(shared: &Shared, row: &NewInstance) -> bool {
    let Ok(fsm_version) = i32::try_from(row.fsm_version) else { return false };
    let kind = Kind { fsm: row.fsm.to_owned(), fsm_version };
    shared.registry.get(&kind).is_some()
}

/// True if the row is announced at all, and keeps its unique key while it runs.
fn can_be_born(row: &NewInstance) -> bool {
    !row.silent && (row.unique_key.is_none() || row.unique_scope.contains(&Status::Executing))
}

impl Reservation for Reserved {
    fn birth(&self) -> &Birth {
        &self.birth
    }

    fn run(mut self: Box<Self>, rows: &[Option<i64>], born: Born) {
        self.sent = false;
        self.shared.births.looked(born.looked);
        // Other rows wait in the queue of a row that was not claimed, so the next births there
        // would be in vain too. The claimer says when the queue is idle again.
        let claimed: HashSet<i64> = born.claimed.iter().map(|row| row.id).collect();
        for (index, queue) in &self.slots {
            let id = rows.get(*index).copied().flatten();
            if id.is_some_and(|id| !claimed.contains(&id)) {
                queue.set_idle(false);
            }
        }
        self.enter(born.claimed);
    }

    fn undo(mut self: Box<Self>) {
        self.sent = false;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        for (_, queue) in &self.slots {
            give_back(&self.shared, queue);
        }
        // The insert may have been committed and its answer lost. It may also have looked for
        // waiting rows all this time, as the next one would.
        if self.sent {
            self.shared.births.pause(PAUSE_MAX);
            self.shared.wake.suspect_lost_claims();
        }
    }
}
