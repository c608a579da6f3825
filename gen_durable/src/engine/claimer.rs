//! Claiming rows for the free slots of all queues, one claim at a time.
//!
//! ```text
//!            announced, slot freed, due, poll
//!   waiting ─────────────────────────────────► claiming ──► rows enter their queues' slots
//!      ▲                                          │
//!      └──────────── nothing (more) to claim ─────┘
//! ```
//!
//! Invariant: what is claimed and not finished stays within a queue's slots and its prefetch. The
//! prefetch is what the queue gets done in [`HORIZON`]: fast steps find the next row waiting, slow
//! ones hoard none that another process could run.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    Shared, executor,
    jitter::jittered,
    orphans::Orphans,
    outage::Outage,
    slots::{Queue, Row},
};
use crate::{
    registry::Work,
    storage::{self, ClaimRequest, Claimed, Due, Kinds},
};

/// How far ahead rows are claimed: a few times what a claim and a commit take.
const HORIZON: Duration = Duration::from_millis(50);
/// The most rows claimed ahead, per slot, and in all queues with few slots.
const PREFETCH_PER_SLOT: usize = 16;
const PREFETCH_MIN: usize = 64;
/// The most rows in one claim of a queue.
const CLAIM_MAX: usize = 1000;
/// The first pause after a claim that found nothing.
const IDLE_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Parked rows woken by one statement.
const WAKE_MAX: i64 = 1000;

/// What the claimer knows of a queue's speed.
struct Pace {
    queue: Arc<Queue>,
    finished: u64,
    since: Instant,
    per_second: f64,
}

impl Pace {
    fn new(queue: Arc<Queue>) -> Self {
        Self { queue, finished: 0, since: Instant::now(), per_second: 0.0 }
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of a rate, far below what a float can hold exactly"
    )]
    fn prefetch(&mut self) -> usize {
        let elapsed = self.since.elapsed();
        if elapsed >= HORIZON / 2 {
            let finished = self.queue.finished.load(Ordering::Relaxed);
            let now = (finished - self.finished) as f64 / elapsed.as_secs_f64();
            // Quick to rise, slower to fall.
            self.per_second = now.max(0.7 * self.per_second + 0.3 * now);
            self.finished = finished;
            self.since = Instant::now();
        }
        let ahead = (self.per_second * HORIZON.as_secs_f64()) as usize;
        ahead.min((self.queue.slots * PREFETCH_PER_SLOT).max(PREFETCH_MIN))
    }

    /// How many rows to ask for; none until it is worth a statement.
    fn wanted(&mut self) -> usize {
        let prefetch = self.prefetch();
        let wanted = (self.queue.slots + prefetch).saturating_sub(self.queue.claimed());
        if wanted > prefetch / 2 { wanted.min(CLAIM_MAX) } else { 0 }
    }
}

/// Says that the claimer has ended, however it did.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.claimer_ended.open();
    }
}

/// Claims until the engine begins to stop.
pub(crate) async fn run(shared: &Arc<Shared>) {
    let _ended = Ended(shared);
    let kinds = Arc::new(shared.registry.kinds());
    let mut paces: Vec<Pace> = shared.queues.values().cloned().map(Pace::new).collect();
    let mut outage = Outage::new("claim work");
    let mut idle_pause = IDLE_PAUSE_MIN;
    let mut orphans = Orphans::new();
    while !shared.stopping.is_open() {
        // The permit is taken before the look: what is announced after this line is seen by the
        // claim, or wakes the wait below.
        let announced = shared.work.notified();
        if let Err(error) = orphans.look(shared).await {
            pause(shared, outage.failed(&error)).await;
            continue;
        }
        let Some(request) = request(shared, &mut paces, &kinds).or_else(|| {
            // There is no room. Whoever makes some wakes the claimer from here on; what was made
            // before, and told nobody, is seen by the second look.
            shared.saturated.store(true, Ordering::SeqCst);
            request(shared, &mut paces, &kinds)
        }) else {
            // No slot is free, or the lease has lapsed; either change wakes the claimer.
            wait(shared, announced, shared.config.poll_interval).await;
            continue;
        };
        match claim(shared, &request).await {
            Err(error) => {
                // The claim may have been committed, and its answer lost.
                shared.suspect_orphans();
                pause(shared, outage.failed(&error)).await;
            }
            Ok((claimed, cleared)) => {
                outage.over();
                let full = enter(shared, &request, claimed) || cleared;
                shared.saturated.store(full, Ordering::SeqCst);
                if full {
                    idle_pause = IDLE_PAUSE_MIN;
                    continue;
                }
                let pause = idle(shared, &kinds, &mut outage, &mut idle_pause).await;
                wait(shared, announced, pause).await;
            }
        }
    }
}

/// What to ask for, if anything.
fn request(shared: &Shared, paces: &mut [Pace], kinds: &Arc<Kinds>) -> Option<ClaimRequest> {
    let worker = shared.lease.worker();
    if !shared.lease.may_start(worker) || kinds.fsms.is_empty() {
        return None;
    }
    let mut request =
        ClaimRequest { worker, queues: Vec::new(), wanted: Vec::new(), kinds: Arc::clone(kinds) };
    for pace in paces {
        let wanted = pace.wanted();
        if wanted > 0 {
            request.queues.push(pace.queue.name.to_string());
            request.wanted.push(i64::try_from(wanted).unwrap_or(i64::MAX));
        }
    }
    (!request.queues.is_empty()).then_some(request)
}

async fn claim(
    shared: &Shared,
    request: &ClaimRequest,
) -> Result<(Vec<Claimed>, bool), sqlx::Error> {
    let mut connection = shared.connections.get().await?;
    let claim = storage::claim(&mut connection, request);
    let result = shared.connections.within(claim).await;
    let (claimed, cleared) = connection.done(result)?;
    tracing::debug!(rows = claimed.len(), "claimed");
    Ok((claimed, cleared))
}

/// Hands the rows to their queues; whether any queue got all that was asked for, so that there may
/// be more.
fn enter(shared: &Arc<Shared>, request: &ClaimRequest, claimed: Vec<Claimed>) -> bool {
    let mut counts = vec![0; request.queues.len()];
    for row in claimed {
        // The claim asks for these queues and these machines alone.
        let Some(queue) = shared.queues.get(&row.queue) else { continue };
        let Some(runner) = shared.registry.get(&row.kind).cloned() else { continue };
        if let Some(index) = request.queues.iter().position(|name| *name == row.queue) {
            counts[index] += 1;
        }
        queue.claimed.fetch_add(1, Ordering::Relaxed);
        shared.tasks.begin(row.id);
        let work = Work::new(row, runner.name(), Arc::clone(&queue.name));
        if let Some(row) = queue.enter(Row { runner, work }) {
            executor::spawn(shared, queue, row);
        }
    }
    // A shutdown that began meanwhile has released what waited before these rows came.
    if shared.stopping.is_open() {
        shared.release_waiting();
    }
    counts.iter().zip(&request.wanted).any(|(count, wanted)| count >= wanted)
}

/// Looks for what is due later; how long to wait.
async fn idle(
    shared: &Shared,
    kinds: &Kinds,
    outage: &mut Outage,
    idle_pause: &mut Duration,
) -> Duration {
    let pause = *idle_pause;
    *idle_pause = (pause * 2).min(shared.config.poll_interval);
    match look_ahead(shared, kinds).await {
        Ok(due) => {
            let next = [due.eligible, due.wake, shared.take_due()].into_iter().flatten().min();
            match next {
                // A row that is due and was not claimed is locked or waits for its key.
                Some(next) if next > Duration::ZERO => jittered(pause).min(next),
                _ => jittered(pause),
            }
        }
        Err(error) => outage.failed(&error),
    }
}

async fn look_ahead(shared: &Shared, kinds: &Kinds) -> Result<Due, sqlx::Error> {
    let queues: Vec<String> = shared.queues.keys().cloned().collect();
    let mut connection = shared.connections.get().await?;
    let look = async {
        let due = storage::next_due(&mut connection, &queues, kinds).await?;
        if due.wake == Some(Duration::ZERO) {
            let woken = storage::wake_timed_out(&mut connection, WAKE_MAX).await?;
            shared.announcer.announce(woken.iter().map(String::as_str));
        }
        Ok(due)
    };
    let result = shared.connections.within(look).await;
    connection.done(result)
}

/// Waits out an outage.
async fn pause(shared: &Shared, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = shared.stopping.wait() => {}
    }
}

async fn wait(shared: &Shared, announced: impl Future<Output = ()>, pause: Duration) {
    tokio::select! {
        () = announced => {}
        () = tokio::time::sleep(pause) => {}
        () = shared.stopping.wait() => {}
    }
}
