//! The claimer: claims rows for the free slots of all queues, one claim at a time.
//!
//! ```text
//!            announced, slot freed, due, poll
//!   waiting ─────────────────────────────────► claiming ──► rows enter their queues' slots
//!      ▲                                          │
//!      └──────────── nothing (more) to claim ─────┘
//! ```
//!
//! A claim is *full* if it got all that it asked for of some queue: more rows may wait. A claim is
//! *contended* if it left out rows because others hold their keys or have them locked. A *light*
//! claim loads no large states and no signals ([`super::limits`]). A *whole* claim looks from the
//! beginning of each group ([`super::watermarks`]).
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

/// The first pause after a claim that found nothing. The pause doubles, up to the poll interval.
const IDLE_PAUSE_MIN: Duration = Duration::from_millis(50);
/// The shortest and the longest pause after a contended claim. The pause is the shortest if the
/// claim got other rows. Otherwise it doubles with each such claim.
const CONTENDED_PAUSE_MIN: Duration = Duration::from_micros(2500);
const CONTENDED_PAUSE_MAX: Duration = Duration::from_millis(250);
/// The longest time for which the answer of a look for due rows is used while the claimer has
/// another time to claim again (`again` in [`run`]).
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The look for due rows counts those that became due since the claim was sent, and for this long
/// before. The look may take longer to reach Postgres than the claim did. Without the margin, both
/// could miss a row that became due just after the claim.
const MARGIN: Duration = Duration::from_millis(5);
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
        // No row that is announced after this line is missed. The claim sees it, or its wake ends
        // the wait below at once: a wake between the claim and the wait leaves a permit.
        let announced = shared.wake.next();
        if let Err(error) = lost_claims.look(shared).await {
            pause(&shared.life, outage.failed(&error)).await;
            continue;
        }
        let asked = Instant::now();
        let Some(mut request) =
            wanted(shared, &mut prefetches, &kinds, &mut limits, &claim_locks, asked)
        else {
            // There are two cases. No slot is free or the lease has lapsed: a freed slot and a
            // renewal wake the claimer. Or all queues with free slots pause, because their claim
            // locks were refused or their claims failed: the wait ends with the first pause.
            let again = earliest([claim_locks.next(asked), limits.next()]);
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
                // A claim is repeated at once if it moved rows of busy keys out of the way, which
                // may have hidden others. A claim that the weight of rows cut off is repeated if it
                // got some rows. Otherwise the same rows would cut the next claim off.
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
                // The announcement that woke the claimer led to rows or to nothing. Without rows, a
                // refused claim lock leaves that open.
                if lock_retry.is_none() || some {
                    shared.wake.backoff.answered(some, now);
                }
                let full = got_all(&request, &counts);
                // A full claim is a backlog. A refused claim lock leaves open if there is one.
                if full || lock_retry.is_none() {
                    shared.flusher.set_backlog(full);
                }
                // From here on, `full` includes claims that are repeated at once.
                let full = full || more_at_once;
                // Queues that were not asked for and do not pause: they had no free slots, or a
                // queue that failed was claimed alone. Once `set_saturated` has run below, each
                // instance that leaves the worker wakes the claimer (`End` in the executor).
                // `freed_up` is read after that, and counts the slots of those that left before.
                let left_out = |prefetch: &Prefetch| {
                    let name = &prefetch.queue.name;
                    !request.queues.iter().any(|queue| **queue == **name)
                        && !claim_locks.paused(name, now)
                        && !limits.paused(name, now)
                };
                // A claim divides the number asked for among the groups before it skips locked
                // rows. A group gives no other group the part that its locked rows leave unused. If
                // some rows were claimed and others locked, more rows of other groups may wait.
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
                // The series of full claims is over, unless a refused claim lock leaves that open.
                told &= lock_retry.is_some();
                contended_pause = next_contended_pause(contended_pause, contended && !some);
                let freed = contended.then(|| now + jittered(contended_pause));
                // The times to claim again without a wake: a claim lock may be free, contended rows
                // may be free, a whole claim is due, or a queue that failed may be claimed again.
                let again =
                    earliest([lock_retry, freed, watermarks.again(&request), limits.next()]);
                let pause = if again.is_none() || next_look <= now {
                    let pause =
                        idle(shared, &claim_locks, &kinds, &mut outage, &mut idle_pause, asked)
                            .await;
                    next_look = Instant::now() + pause.min(LOOK_EVERY);
                    pause
                } else {
                    // A row that this engine delayed may be due before the next look. If it was due
                    // before `asked`, its time is dropped: the claim has seen the row.
                    let own = shared.wake.take_due().filter(|at| *at >= asked);
                    until(next_look.saturating_duration_since(now), own)
                };
                wait(&shared.life, announced, until(pause, again)).await;
            }
        }
    }
}

/// Returns what to ask for, or none if no queue with free slots may be claimed now.
fn wanted(
    shared: &Shared,
    prefetches: &mut [Prefetch],
    kinds: &Arc<Kinds>,
    limits: &mut Limits,
    claim_locks: &ClaimLocks,
    now: Instant,
) -> Option<ClaimRequest> {
    request(shared, prefetches, kinds, limits, claim_locks, now).or_else(|| {
        // Nothing may be asked for. Once `set_saturated` has run, each instance that leaves the
        // worker wakes the claimer. The second request counts the slots of those that left before.
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

/// Learns from a claim that failed, though it may have `brought` rows. An error of the connection
/// or the database has nothing to do with the rows, and is waited out. After any other error the
/// claimer asks the queues for less.
async fn failed(
    shared: &Shared,
    request: &ClaimRequest,
    error: &sqlx::Error,
    brought: bool,
    limits: &mut Limits,
    outage: &mut Outage,
) {
    // The claim may have been committed and its answer lost. Its rows are lost claims then.
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

/// Tells other processes that there is more work than this process can do, once for each series of
/// full claims. They have not heard of the rows: while this process had free slots, it did not pass
/// announcements on.
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
                // The statements before this one have claimed rows, which must run. The remaining
                // queues count as refused, because nothing is known of them.
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
/// Two kinds of rows are given back at once. All others enter the slots.
///
/// - Rows beyond the free slots. The claim asks for `beyond` rows more, to look behind stuck rows:
///   rows at the head of the queue that it can neither claim nor move away. If these rows are stuck
///   no more, the claim gets too many.
/// - Rows that a light claim brought without their state. A later claim tries to load it. A row
///   that has proved to be to blame for failed claims enters all the same, and the executor fails
///   it.
///
/// A claim that is not light leaves out a state that no claim can load. Its row enters, and the
/// executor fails it as too large.
fn enter(
    shared: &Arc<Shared>,
    request: &ClaimRequest,
    claimed: Vec<Claimed>,
    limits: &mut Limits,
) -> Vec<usize> {
    let mut counts = vec![0; request.queues.len()];
    let free = |index: usize| request.wanted[index] - request.beyond[index];
    for row in claimed {
        // The claim asks for these queues and machines alone, so the three look-ups succeed.
        let Some(queue) = shared.queues.get(&row.queue) else { continue };
        let Some(runner) = shared.registry.get(&row.kind).cloned() else { continue };
        let Some(index) = request.queues.iter().position(|name| *name == row.queue) else {
            continue;
        };
        let fits = request.beyond[index] == 0
            || i64::try_from(counts[index]).is_ok_and(|count| count < free(index));
        // The row came with its state, or no claim can bring the state.
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
    // A shutdown that began during the claim has released the waiting rows before these came.
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

/// Returns how long to wait for contended rows. Another claim holds keys for as long as a statement
/// takes, and another transaction locks rows for as long as it likes. No announcement says that
/// they are free. The pause doubles, so it is about as long as the rows were held before.
fn next_contended_pause(pause: Duration, only_contended: bool) -> Duration {
    if only_contended { (pause * 2).min(CONTENDED_PAUSE_MAX) } else { CONTENDED_PAUSE_MIN }
}

/// The first of these times.
fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    times.into_iter().flatten().min()
}

/// Looks for rows that are due later, and returns how long to wait. The claim that was sent at
/// `asked` may have missed rows that have become due since. If there are any, the wait is zero.
async fn idle(
    shared: &Shared,
    claim_locks: &ClaimLocks,
    kinds: &Kinds,
    outage: &mut Outage,
    idle_pause: &mut Duration,
    asked: Instant,
) -> Duration {
    let pause = *idle_pause;
    *idle_pause = (pause * 2).min(shared.config.poll_interval);
    // If a queue's claim lock is refused, another process claims its due rows. The look leaves the
    // queue out: those rows would end the pause at once.
    let now = Instant::now();
    let queues = shared.queues.keys().filter(|queue| !claim_locks.paused(queue, now));
    let queues: Vec<String> = queues.cloned().collect();
    let since = asked.elapsed() + MARGIN;
    match look_ahead(&shared.connections, &shared.notifier, &queues, kinds, since).await {
        Ok(due) => {
            let own = shared.wake.take_due();
            let missed = own.is_some_and(|at| asked <= at && at <= Instant::now())
                || due.eligible == Some(Duration::ZERO);
            if missed {
                return Duration::ZERO;
            }
            // Times of zero are left out, so that they do not hide rows that are due later. The
            // time of an overdue park is zero: it was just woken and announced, or another
            // transaction has it locked.
            let own = own.map(|at| at.saturating_duration_since(Instant::now()));
            let next = [due.eligible, due.wake, own].into_iter().flatten();
            let next = next.filter(|next| !next.is_zero()).min();
            next.map_or_else(|| jittered(pause), |next| jittered(pause).min(next))
        }
        Err(error) => outage.failed(&error),
    }
}

/// Asks Postgres when the next row is due, and wakes parks whose timeout has passed.
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

/// Waits until the pause is over, whatever is announced, unless the engine stops.
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
