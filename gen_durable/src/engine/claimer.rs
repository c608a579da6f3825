//! The claimer: claims rows for the free slots of all queues, one claim at a time.
//!
//! ```text
//!            announced, slot freed, due, poll
//!   waiting ─────────────────────────────────► claiming ──► rows enter their queues' slots
//!      ▲                                          │
//!      └──────────── nothing (more) to claim ─────┘
//! ```
//!
//! Invariant: the rows of a queue that are claimed and not finished stay within its slots and its
//! [prefetch](super::prefetch).

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    Shared,
    claim_lock::ClaimLocks,
    executor,
    life::Life,
    limits::Limits,
    lost_claims::LostClaims,
    outage::{Outage, no_connection},
    prefetch::{CLAIM_MAX, Prefetch},
    registry::Work,
    watermarks::Watermarks,
};
use crate::{
    backoff::jittered,
    client::notifier::Notifier,
    connections::Connections,
    fault::Fault,
    group::WEIGHT_MAX,
    storage::{self, ClaimRequest, Claimed, Due, Kinds},
};

/// The first pause after a claim that found nothing. It doubles, up to the poll interval.
const IDLE_PAUSE_MIN: Duration = Duration::from_millis(50);
/// The shortest and the longest pause after a claim that left out rows, because others hold their
/// keys or have them locked. The pause is the shortest if the claim got other rows. Otherwise it
/// doubles with each such claim.
const CONTENDED_PAUSE_MIN: Duration = Duration::from_micros(2500);
const CONTENDED_PAUSE_MAX: Duration = Duration::from_millis(250);
/// The longest time for which the answer of a look for due rows is used while the claimer claims
/// again soon anyway. That is the case after a refused claim lock, after locked rows, and before a
/// whole claim.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Statements that are sent at the same time may reach Postgres this far apart. The look for due
/// rows allows for it, so no row falls between the claim and the look.
const MARGIN: Duration = Duration::from_millis(5);
/// The most queues in one statement. It takes an advisory lock for each, and a thousand would fill
/// the lock table of a small server.
const QUEUES_MAX: usize = 250;
/// The error of an instance whose state was left out of a claim that was not light.
const TOO_LARGE: &str = "it takes more than 256 MiB, the most that an engine loads";
/// The most parked rows that one statement wakes.
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
    let kinds = Arc::new(shared.registry.kinds());
    let mut prefetches: Vec<Prefetch> =
        shared.queues.values().cloned().map(Prefetch::new).collect();
    let mut outage = Outage::new("claim work");
    let mut idle_pause = IDLE_PAUSE_MIN;
    let mut contended_pause = CONTENDED_PAUSE_MIN;
    let mut lost_claims = LostClaims::new();
    let mut limits = Limits::default();
    let mut told = false;
    let mut claim_locks = ClaimLocks::default();
    let mut watermarks = Watermarks::default();
    let mut next_look = Instant::now();
    while !shared.life.stopping.is_open() {
        // A row that is announced after this line is seen by the claim, or its wake ends the wait
        // below at once. The wake leaves a permit, so it is not lost between the claim and the
        // wait.
        let announced = shared.wake.next();
        if let Err(error) = lost_claims.look(shared).await {
            pause(&shared.life, outage.failed(&error)).await;
            continue;
        }
        let asked = Instant::now();
        let Some(mut request) =
            wanted(shared, &mut prefetches, &kinds, &mut limits, &claim_locks, asked)
        else {
            // No slot is free, or the lease has lapsed: a change of either wakes the claimer. Or
            // the queues with free slots pause, because their claim locks were refused or their
            // claims failed. The claimer asks for such a queue again after its pause.
            let again = [claim_locks.next(asked), limits.next()].into_iter().flatten().min();
            wait(&shared.life, announced, until(shared.config.poll_interval, again)).await;
            continue;
        };
        request.known = watermarks.known(&request.queues, asked);
        match claim(shared, &request).await {
            Err(error) => {
                failed(shared, &request, &error, false, &mut limits, &mut outage).await;
            }
            Ok(mut claim) => {
                if claim.failed.is_none() {
                    outage.over();
                    let contended = claim.contended || !claim.refused.is_empty();
                    limits.heard(&request.queues, &claim.rows, contended);
                }
                let contended = claim.contended;
                // A claim may be cut off by the weight of rows that could not be claimed
                // themselves. It is not repeated at once: the same rows would cut it off again.
                let more_at_once = claim.cleared || claim.cut && !claim.rows.is_empty();
                let now = Instant::now();
                let first = std::mem::take(&mut claim.first);
                watermarks.heard(&request, &claim.refused, first, asked, now);
                let some = !claim.rows.is_empty();
                let counts = enter(shared, &request, std::mem::take(&mut claim.rows), &mut limits);
                tell(&mut prefetches, &request, &counts, &claim);
                if let Some(error) = &claim.failed {
                    failed(shared, &request, error, true, &mut limits, &mut outage).await;
                }
                claim_locks.heard(&request.queues, claim.refused, now);
                let lock_retry = claim_locks.next(now);
                if lock_retry.is_none() || some {
                    shared.wake.backoff.answered(some, now);
                }
                let full = got_all(&request, &counts);
                // A refused claim lock says nothing about how many rows wait.
                if full || lock_retry.is_none() {
                    shared.flusher.set_backlog(full);
                }
                let full = full || more_at_once;
                // A queue without free slots was not asked for. Once `saturated` is set below, each
                // instance that leaves the worker wakes the claimer. One that left before that did
                // not, but the look for `freed_up` sees its slot.
                let left_out = |prefetch: &Prefetch| {
                    let name = &prefetch.queue.name;
                    !request.queues.iter().any(|queue| **queue == **name)
                        && !claim_locks.paused(name, now)
                        && !limits.paused(name, now)
                };
                // Locked rows count against the number asked for. If some were left out beside rows
                // that were claimed, other machines may have more rows.
                let more = full || contended && some || prefetches.iter().any(left_out);
                shared.wake.set_saturated(more);
                let freed_up = prefetches
                    .iter_mut()
                    .any(|prefetch| left_out(prefetch) && prefetch.wanted() > 0);
                if full || freed_up {
                    idle_pause = IDLE_PAUSE_MIN;
                    if full {
                        announce_rest(shared, &request, &mut told);
                    }
                    continue;
                }
                told &= lock_retry.is_some();
                // Another claim holds the keys for as long as a statement takes. Or another
                // transaction has the rows locked for as long as it likes. Neither tells when it
                // ends. The pause doubles, so it is about as long as they have been held already.
                contended_pause = if contended && !some {
                    (contended_pause * 2).min(CONTENDED_PAUSE_MAX)
                } else {
                    CONTENDED_PAUSE_MIN
                };
                let freed = contended.then(|| now + jittered(contended_pause));
                let again = [lock_retry, freed, watermarks.again(&request), limits.next()];
                let again = again.into_iter().flatten().min();
                let pause = if again.is_none() || next_look <= now {
                    // In a queue whose claim lock is refused, another process claims what is due.
                    // The look leaves it out, as its due rows would end the pause at once.
                    let queues =
                        shared.queues.keys().filter(|queue| !claim_locks.paused(queue, now));
                    let queues: Vec<String> = queues.cloned().collect();
                    let pause =
                        idle(shared, &queues, &kinds, &mut outage, &mut idle_pause, asked).await;
                    next_look = Instant::now() + pause.min(LOOK_EVERY);
                    pause
                } else {
                    // A row that this engine delayed itself may be due before the next look.
                    let own = shared.wake.take_due().filter(|at| *at >= asked);
                    until(next_look.saturating_duration_since(now), own)
                };
                wait(&shared.life, announced, until(pause, again)).await;
            }
        }
    }
}

/// Returns what to ask for, or none if no queue has free slots or may be claimed.
fn wanted(
    shared: &Shared,
    prefetches: &mut [Prefetch],
    kinds: &Arc<Kinds>,
    limits: &mut Limits,
    claim_locks: &ClaimLocks,
    now: Instant,
) -> Option<ClaimRequest> {
    request(shared, prefetches, kinds, limits, claim_locks, now).or_else(|| {
        // There are no free slots. From here on each instance that leaves the worker wakes the
        // claimer. One that left before that did not, but the second look sees its slot.
        let some_full =
            prefetches.iter().any(|prefetch| !claim_locks.paused(&prefetch.queue.name, now));
        shared.wake.set_saturated(some_full);
        request(shared, prefetches, kinds, limits, claim_locks, now)
    })
}

/// Builds the request for the queues that want rows and do not pause, if there are any.
fn request(
    shared: &Shared,
    prefetches: &mut [Prefetch],
    kinds: &Arc<Kinds>,
    limits: &mut Limits,
    claim_locks: &ClaimLocks,
    now: Instant,
) -> Option<ClaimRequest> {
    let worker = shared.lease.worker();
    if !shared.lease.may_start(worker) || kinds.fsms.is_empty() {
        return None;
    }
    let mut request = ClaimRequest {
        worker,
        queues: Vec::new(),
        wanted: Vec::new(),
        beyond: Vec::new(),
        kinds: Arc::clone(kinds),
        without_lock: Vec::new(),
        known: Vec::new(),
        bytes_max: i64::try_from(WEIGHT_MAX).unwrap_or(i64::MAX),
        light: None,
    };
    let mut wanted: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for prefetch in
        prefetches.iter_mut().filter(|prefetch| !claim_locks.paused(&prefetch.queue.name, now))
    {
        let rows = prefetch.wanted().min(limits.rows_max(&prefetch.queue.name));
        if rows > 0 {
            wanted.insert(
                prefetch.queue.name.to_string(),
                (rows, prefetch.beyond().min(CLAIM_MAX - rows)),
            );
        }
    }
    for queue in limits.together(wanted.keys().cloned().collect(), now) {
        if claim_locks.waited_out(&queue, now) {
            request.without_lock.push(queue.clone());
        }
        let (rows, beyond) = wanted.get(&queue).copied().unwrap_or_default();
        request.wanted.push(i64::try_from(rows + beyond).unwrap_or(i64::MAX));
        request.beyond.push(i64::try_from(beyond).unwrap_or(i64::MAX));
        request.queues.push(queue);
    }
    if let [queue] = &request.queues[..] {
        request.light = limits.light(queue);
    }
    (!request.queues.is_empty()).then_some(request)
}

/// Learns from a claim that failed. An error of the connection or the database has nothing to do
/// with the rows, and is waited out. After any other error the queues are asked for less.
async fn failed(
    shared: &Shared,
    request: &ClaimRequest,
    error: &sqlx::Error,
    brought: bool,
    limits: &mut Limits,
    outage: &mut Outage,
) {
    // The claim may have been committed, and only its answer lost.
    shared.wake.suspect_lost_claims();
    shared.flusher.set_backlog(false);
    match Fault::of(error) {
        Fault::Connection | Fault::Database | Fault::Locked => {
            pause(&shared.life, outage.failed(error)).await;
        }
        Fault::Data | Fault::Size | Fault::Unclear => {
            limits.failed(&request.queues, error, brought, Instant::now());
        }
    }
}

/// Tells other processes that there is more work than this process can do, once in a row of full
/// claims. They have not heard of that work: this process took the announcements of it.
fn announce_rest(shared: &Shared, request: &ClaimRequest, told: &mut bool) {
    if !std::mem::replace(told, true) {
        shared.notifier.announce_elsewhere(request.queues.iter().map(String::as_str));
    }
}

/// Claims, with as many statements as the number of queues needs.
async fn claim(shared: &Shared, request: &ClaimRequest) -> Result<storage::Claim, sqlx::Error> {
    let mut connection = shared.connections.get().await.map_err(no_connection)?;
    let claim = async {
        if request.queues.len() <= QUEUES_MAX {
            return storage::claim(&mut connection, request).await;
        }
        let mut claim = storage::Claim::default();
        for part in request.parts(QUEUES_MAX) {
            match storage::claim(&mut connection, &part).await {
                Ok(more) => claim.add(more),
                // Rows of the statements before are claimed and must run. The remaining queues
                // count as refused, as nothing is known of them.
                Err(error) if !claim.rows.is_empty() && error.as_database_error().is_some() => {
                    let answered = claim.stuck.len();
                    claim.refused.extend(request.queues[answered..].iter().cloned());
                    claim.failed = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(claim)
    };
    let result = shared.connections.within(claim).await;
    let claim = connection.done(result)?;
    tracing::debug!(rows = claim.rows.len(), "claimed");
    Ok(claim)
}

/// Hands the claimed rows to their queues, and returns how many rows each queue of the request got.
///
/// A row that there is no free slot for is given back. A row that came without its state is given
/// back too, and is claimed whole later. If it is to blame for the claims that failed, it enters
/// and fails.
fn enter(
    shared: &Arc<Shared>,
    request: &ClaimRequest,
    claimed: Vec<Claimed>,
    limits: &mut Limits,
) -> Vec<usize> {
    let mut counts = vec![0; request.queues.len()];
    let free = |index: usize| request.wanted[index] - request.beyond[index];
    for row in claimed {
        // The claim asks for these queues and these machines alone, so each is found.
        let Some(queue) = shared.queues.get(&row.queue) else { continue };
        let Some(runner) = shared.registry.get(&row.kind).cloned() else { continue };
        let Some(index) = request.queues.iter().position(|name| *name == row.queue) else {
            continue;
        };
        let fits = request.beyond[index] == 0
            || i64::try_from(counts[index]).is_ok_and(|count| count < free(index));
        let whole = row.state.is_some() || request.light.is_none();
        let enters = fits && (whole || limits.is_to_blame(&row.queue, row.id));
        counts[index] += 1;
        queue.claimed.fetch_add(1, Ordering::Relaxed);
        shared.tasks.begin(row.id);
        let unloaded =
            request.light.clone().or_else(|| row.state.is_none().then(|| TOO_LARGE.into()));
        let work = Work::new(row, runner, Arc::clone(&queue.name), unloaded);
        if !enters {
            executor::release(shared, queue, work);
        } else if let Some(work) = queue.enter(work) {
            executor::spawn(shared, queue, work);
        }
    }
    // A shutdown that began meanwhile has released the waiting rows before these rows came.
    if shared.life.stopping.is_open() {
        shared.release_waiting();
    }
    counts
}

/// Tells each queue's prefetch what the claim found for it. A queue whose claim lock was refused
/// learns nothing.
fn tell(
    prefetches: &mut [Prefetch],
    request: &ClaimRequest,
    counts: &[usize],
    claim: &storage::Claim,
) {
    let keys = claim.busy_keys.iter().zip(&claim.stuck);
    for ((queue, count), (busy, stuck)) in request.queues.iter().zip(counts).zip(keys) {
        let prefetch = prefetches.iter_mut().find(|prefetch| *prefetch.queue.name == **queue);
        if let Some(prefetch) = prefetch.filter(|_| !claim.refused.contains(queue)) {
            prefetch.heard(*count, *busy, *stuck);
        }
    }
}

/// True if any queue got all that was asked for, so that there may be more.
fn got_all(request: &ClaimRequest, counts: &[usize]) -> bool {
    let all = |(count, wanted): (&usize, &i64)| i64::try_from(*count).is_ok_and(|n| n >= *wanted);
    counts.iter().zip(&request.wanted).any(all)
}

/// Looks for rows that are due later, and returns how long to wait. The claim was sent at `asked`,
/// and may have missed rows that have become due since. If there are such rows, the wait is zero.
async fn idle(
    shared: &Shared,
    queues: &[String],
    kinds: &Kinds,
    outage: &mut Outage,
    idle_pause: &mut Duration,
    asked: Instant,
) -> Duration {
    let pause = *idle_pause;
    *idle_pause = (pause * 2).min(shared.config.poll_interval);
    match look_ahead(&shared.connections, &shared.notifier, queues, kinds, asked.elapsed() + MARGIN)
        .await
    {
        Ok(due) => {
            let own = shared.wake.take_due();
            let missed = own.is_some_and(|at| asked <= at && at <= Instant::now())
                || due.eligible == Some(Duration::ZERO);
            if missed {
                return Duration::ZERO;
            }
            // A park that is still overdue is locked by another transaction. Its zero must not hide
            // rows that are due later.
            let own = own.map(|at| at.saturating_duration_since(Instant::now()));
            let next = [due.eligible, due.wake, own].into_iter().flatten();
            let next = next.filter(|next| !next.is_zero()).min();
            next.map_or_else(|| jittered(pause), |next| jittered(pause).min(next))
        }
        Err(error) => outage.failed(&error),
    }
}

/// Asks Postgres when the next row is due, and wakes parks whose time is up.
async fn look_ahead(
    connections: &Connections,
    notifier: &Notifier,
    queues: &[String],
    kinds: &Kinds,
    since: Duration,
) -> Result<Due, sqlx::Error> {
    let mut connection = connections.get().await?;
    let look = async {
        let due = storage::next_due(&mut connection, queues, kinds, since).await?;
        if due.wake == Some(Duration::ZERO) {
            let woken = storage::wake_timed_out(&mut connection, WAKE_MAX).await?;
            notifier.announce(woken.iter().map(String::as_str));
        }
        Ok(due)
    };
    let result = connections.within(look).await;
    connection.done(result)
}

/// Returns the pause, or the time until `then` if that is shorter.
fn until(pause: Duration, then: Option<Instant>) -> Duration {
    then.map_or(pause, |then| pause.min(then.saturating_duration_since(Instant::now())))
}

/// Waits for the whole pause, whatever is announced, unless the engine stops.
async fn pause(life: &Life, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = life.stopping.wait() => {}
    }
}

/// Waits for an announcement, for the end of the pause, or for the engine to stop.
async fn wait(life: &Life, announced: impl Future<Output = ()>, pause: Duration) {
    tokio::select! {
        () = announced => {}
        () = tokio::time::sleep(pause) => {}
        () = life.stopping.wait() => {}
    }
}
