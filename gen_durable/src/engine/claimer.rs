//! The claimer: claims rows for the free slots of all queues, one claim at a time.
//!
//! [`plan`] decides what to do, and this module does it: it asks Postgres, waits, and hands the
//! rows to their queues.
//!
//! A claim is *full* if it got all that it asked for of some queue: more rows may wait. A claim is
//! *contended* if it left out rows because other transactions have them or their keys locked. A
//! *light* claim loads no large states and no signals ([`limits`]). A *whole* claim looks from the
//! beginning of each group ([`watermarks`]).
//!
//! Invariant: the rows of a queue that are claimed and not finished stay within its slots and its
//! [prefetch]. Rows beyond that are given back at once.

mod claim_lock;
mod limits;
mod plan;
mod prefetch;
mod watermarks;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use self::plan::{Absorbed, Plan, Planner};
pub(super) use self::prefetch::HORIZON;
use super::{
    Shared, cancels, executor,
    life::Life,
    lost_claims::LostClaims,
    outage::{Outage, no_connection},
    pauses,
    registry::Work,
    slots::Queue,
};
use crate::{
    meters::Timer,
    storage::{self, ClaimRequest, Claimed, Due, Kinds},
};

/// The most queues in one statement. A claim takes an advisory lock for each, and a thousand would
/// fill the lock table of a small server.
const QUEUES_MAX: usize = 250;
/// The error of an instance whose state was left out although the claim was not light.
const TOO_LARGE: &str = "it takes more than 256 MiB, the most that an engine loads";
/// The most parks (rows that wait for a signal) that one statement wakes.
const WAKE_MAX: i64 = 1000;

/// A guard that tells the engine that the claimer has ended, even if it panicked or was dropped.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.flusher.set_backlog(false);
        self.0.life.claimer_ended.open();
    }
}

/// Claims until the engine begins to stop.
pub(crate) async fn run(shared: &Arc<Shared>) {
    let _ended = Ended(shared);
    let kinds = Arc::clone(&shared.kinds);
    let queues = shared.queues.values().cloned();
    let poll_interval = shared.config.poll_interval;
    let mut planner = Planner::new(queues, Arc::clone(&kinds), poll_interval, Instant::now());
    let mut lost_claims = LostClaims::new();
    // An engine that has just started begins no step of a paused scope.
    let mut outage = Outage::new("claim work");
    while let Err(error) = pauses::look(shared).await {
        let again = Instant::now() + outage.failed(&error);
        wait(&shared.life, std::future::pending(), again).await;
        if shared.life.stopping.is_open() {
            return;
        }
    }
    outage.over();
    while !shared.life.stopping.is_open() {
        // No row that is announced after this line is missed. The claim sees it, or its wake ends
        // the wait below at once: a wake between the claim and the wait leaves a permit.
        let announced = shared.wake.next();
        cancels::answer(shared).await;
        let back = shared.wake.take_came_back();
        if back.anywhere {
            planner.watermarks.forget();
        }
        for group in &back.groups {
            planner.watermarks.forget_group(group, &kinds);
        }
        if let Err(error) = lost_claims.look(shared).await {
            planner.unreachable(&error, Instant::now());
        }
        let worker = shared.lease.worker();
        let worker = shared.lease.may_start(worker).then_some(worker);
        match planner.plan(worker, Instant::now()) {
            Plan::Claim(request) => {
                let answer = claim(shared, &request).await;
                let own = shared.wake.take_due();
                let mut absorbed = planner.absorb(&request, answer, own, Instant::now());
                pauses::hold_claimed(shared, &mut absorbed.rows).await;
                follow(shared, &request, absorbed);
            }
            Plan::Look { queues, since } => {
                let answer = look(shared, &queues, &kinds, since).await;
                planner.absorb_look(answer, shared.wake.take_due(), Instant::now());
            }
            // Slots may have become free before the flag was set.
            Plan::Wait { saturated, .. } if shared.wake.set_saturated(saturated) => {}
            Plan::Wait { until, .. } => {
                wait(&shared.life, announced, until).await;
                planner.woken();
            }
            Plan::Pause { until } => {
                wait(&shared.life, std::future::pending(), until).await;
                planner.woken();
            }
        }
    }
}

/// Does what follows from the answer of a claim.
fn follow(shared: &Arc<Shared>, request: &ClaimRequest, absorbed: Absorbed) {
    if absorbed.failed {
        shared.wake.suspect_lost_claims();
    }
    enter(shared, request, absorbed.rows);
    // From here on, rows of these queues may be born claimed. `enter` has counted the rows of the
    // claim, so their slots are not given to births.
    for queue in absorbed.idle.iter().filter_map(|queue| shared.queues.get(queue)) {
        queue.set_idle(true);
    }
    if let Some(found) = absorbed.found {
        shared.wake.backoff.answered(found, Instant::now());
    }
    if let Some(backlog) = absorbed.backlog {
        shared.flusher.set_backlog(backlog);
    }
    if absorbed.announce {
        shared.notifier.announce_elsewhere(request.queues.iter().map(String::as_str));
    }
}

/// Claims, with as many statements as the number of queues needs.
pub(super) async fn claim(
    shared: &Shared,
    request: &ClaimRequest,
) -> Result<storage::Claim, sqlx::Error> {
    let mut connection = shared.connections.get().await.map_err(no_connection)?;
    let timer = Timer::start();
    let claim = async {
        if request.queues.len() <= QUEUES_MAX {
            return storage::claim(&mut connection, request).await;
        }
        let mut claim = storage::Claim::default();
        for part in request.parts(QUEUES_MAX) {
            match storage::claim(&mut connection, &part).await {
                Ok(more) => claim.add(more),
                // The statements before this one have claimed rows, which must run. The remaining
                // queues count as refused, because nothing is known of them.
                Err(error) if !claim.rows.is_empty() && error.as_database_error().is_some() => {
                    // `stuck` has an element for each queue that was answered.
                    let answered = claim.stuck.len();
                    claim.refused.extend(request.queues[answered..].iter().cloned());
                    claim.failed = Some(error);
                    break;
                }
                // Rows that the statements before this one have claimed become lost claims.
                Err(error) => return Err(error),
            }
        }
        Ok(claim)
    };
    let result = shared.connections.within(claim).await;
    let claim = connection.done(result)?;
    shared.meters.claims.answered(timer);
    tracing::debug!(rows = claim.rows.len(), "claimed");
    Ok(claim)
}

/// Hands the claimed rows to their queues. Those that do not run are given back.
fn enter(shared: &Arc<Shared>, request: &ClaimRequest, rows: Vec<(Claimed, bool)>) {
    for (row, runs) in rows {
        let Some((queue, work)) = begin(shared, request, row) else { continue };
        if !runs {
            executor::release(shared, queue, work);
        // Without a free slot, the queue keeps the work until there is one.
        } else if let Some(work) = queue.enter(work) {
            executor::spawn(shared, queue, work);
        }
    }
    // A shutdown that began during the claim has released the waiting rows before these came.
    if shared.life.stopping.is_open() {
        shared.release_waiting();
    }
}

/// Counts a claimed row, and returns its queue and its work.
pub(super) fn begin<'s>(
    shared: &'s Shared,
    request: &ClaimRequest,
    row: Claimed,
) -> Option<(&'s Arc<Queue>, Work)> {
    // The claim asks for these queues and machines alone, so both look-ups succeed.
    let queue = shared.queues.get(&row.queue)?;
    let runner = shared.registry.get(&row.kind).cloned()?;
    queue.claimed.fetch_add(1, Ordering::Relaxed);
    queue.meters.claimed();
    let dropped = shared.tasks.begin(row.id);
    // Each row of a light claim carries the reason, in case its state is missing.
    let unloaded = request.light.clone().or_else(|| row.state.is_none().then(|| TOO_LARGE.into()));
    let name = Arc::clone(&queue.name);
    Some((queue, Work::new(row, runner, name, unloaded, dropped, &shared.lease)))
}

/// Asks Postgres when the next row is due, and wakes parks whose timeout has passed.
async fn look(
    shared: &Shared,
    queues: &[String],
    kinds: &Kinds,
    since: Duration,
) -> Result<Due, sqlx::Error> {
    let mut connection = shared.connections.get().await?;
    let look = async {
        let due = storage::next_due(&mut connection, queues, kinds, since).await?;
        if due.wake == Some(Duration::ZERO) {
            let woken = storage::wake_timed_out(&mut connection, WAKE_MAX).await?;
            shared.notifier.announce(woken.iter().map(String::as_str));
        }
        Ok(due)
    };
    let result = shared.connections.within(look).await;
    connection.done(result)
}

/// Waits for a wake, for this time, or for the engine to stop.
async fn wait(life: &Life, woken: impl Future<Output = ()>, until: Instant) {
    tokio::select! {
        () = woken => {}
        () = tokio::time::sleep_until(until.into()) => {}
        () = life.stopping.wait() => {}
    }
}
