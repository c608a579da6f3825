//! The limiter: limited steps ask it for their turns, and it lets in the rows that wait for room.
//!
//! ```text
//!   step ──► asks ──┬─► admitted: runs, and holds its place until its outcome is committed
//!                   └─► no room: held back (`blocked_by`), out of the claim's index
//!                            ▲                    │
//!        claimed, asks again ┘                    ▼
//!                            └── let in ◄── look: is there room?
//! ```
//!
//! Runs that ask at the same time share a statement ([`batch`]), and so do runs that have ended.
//! An end that nobody waits for goes with the next question about its bucket.
//!
//! Invariant: a run that was admitted is in the [`Book`] until its [`Turn`] is dropped, and what
//! the book has is what the worker says that it holds. Therefore neither a lost answer nor a late
//! statement leaves a place behind. An engine without limited steps runs no statement here.

mod batch;
mod book;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::batch::{Ask, Item};
use self::book::Book;
pub(crate) use self::book::Turn;
use super::{
    Shared,
    lease::Lease,
    outage::{Outage, no_connection},
    registry::{Registry, Work},
};
use crate::{
    backoff::jittered,
    connections::Connections,
    error::{Error, StepError},
    group::Group,
    keys::check_name,
    machine::limit::Limit,
    meters::LimitMeters,
    storage::{self, Declarations, DeclaredLimit},
};

/// A run may be admitted this much before its time, and then waits in its slot. A waiting row needs
/// three commits to come to its slot, and without this they would leave a gap between two runs.
const AHEAD: Duration = Duration::from_millis(50);
/// The longest time for which the end of a run is kept back that nobody waits for.
const ENDS_LATER: Duration = Duration::from_millis(250);
/// The time between two looks at the bounds that are in force.
const BOUNDS_EVERY: Duration = Duration::from_secs(1);
/// The shortest pause between two looks, and the one before a look at buckets that another engine
/// looks at. Engines spread theirs.
const LOOK_MIN: Duration = Duration::from_millis(5);
const LOOK_AFTER_OTHERS: Duration = Duration::from_millis(40);
/// The pause after a statement failed about the ends of runs.
const SETTLE_AGAIN: Duration = Duration::from_millis(100);
/// The clock of the database went back if it shows so much less than at the last look.
const WENT_BACK: i64 = 1_000_000;
/// The most buckets that one statement looks at, and the most statements of one round.
const BUCKETS_MAX: i64 = 50;
const LOOKS_MAX: usize = 100;
/// The most runs that one statement asks for. Each answer is small.
const ASKS_MAX: usize = 1000;

/// The limits of an engine.
pub(crate) struct Limiter {
    book: Arc<Book>,
    group: Arc<Group<Item>>,
    declared: Vec<DeclaredLimit>,
    /// True if a step of this engine is limited.
    limits: bool,
    meters: Vec<(&'static str, LimitMeters)>,
    ahead: Duration,
    seen: Mutex<Seen>,
}

/// The bounds as the engine last saw them.
#[derive(Debug, Default)]
struct Seen {
    revisions: BTreeMap<String, i64>,
    looked_at: Option<Instant>,
    /// The database's time at the last look at buckets, in microseconds since 1970.
    now: i64,
    /// Limits whose buckets are to be looked at once more: one may have been locked.
    again: Vec<String>,
}

/// The answer to a step that asks for its turn.
pub(super) enum Entry {
    /// It may begin. A limited run has a turn, which its work keeps.
    Admitted,
    /// It does not begin now, and its row waits for room. `gone` says that the row is given back.
    HeldBack { gone: bool },
    /// It does not begin now, and the row is as it was.
    Left,
    /// Its key is no key. This is the run's error.
    Wrong(StepError),
}

/// Checks the limits of an engine, and adds them to what it declares.
pub(super) fn declare(
    limits: Vec<(String, Limit)>,
    registry: &Registry,
    declarations: &mut Declarations,
) -> Result<(), Error> {
    let mut known = BTreeMap::new();
    for (name, limit) in limits {
        let wrong =
            |reason: String| Error::InvalidOption { option: format!("the limit `{name}`"), reason };
        check_name("the name of a limit", &name).map_err(|error| wrong(error.to_string()))?;
        if name.contains(char::is_control) {
            return Err(wrong("give it a name without control characters".to_owned()));
        }
        limit.check().map_err(|reason| wrong(reason.to_owned()))?;
        let (body, bounds) = (limit.to_string(), limit.bounds());
        if known.insert(name.clone(), limit).is_some() {
            return Err(wrong("is declared twice: declare it once".to_owned()));
        }
        declarations.add_limit(DeclaredLimit { name, body, bounds });
    }
    for runner in registry.runners() {
        for (step, limit) in runner.limits() {
            let wrong = |reason| Error::InvalidOption {
                option: format!("machine `{}`, the limit of step `{step}`", runner.name()),
                reason,
            };
            let Some(declared) = known.get(limit.name) else {
                let names: Vec<_> = known.keys().map(|name| format!("`{name}`")).collect();
                let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(wrong(format!(
                    "the engine has no limit `{}`; add `.limit(\"{}\", Limit::new()…)` (it has {known})",
                    limit.name, limit.name
                )));
            };
            let (most, bound) = declared.weight_max();
            if limit.weight == 0 {
                return Err(wrong("a weight is at least 1".to_owned()));
            }
            if limit.weight > most {
                return Err(wrong(format!(
                    "its weight {} is above the limit's `{bound}` of {most}, so it would never run; make the weight smaller or the bound larger",
                    limit.weight
                )));
            }
        }
    }
    Ok(())
}

impl Limiter {
    pub(super) fn new(
        connections: &Connections,
        lease: &Arc<Lease>,
        declared: &Declarations,
        registry: &Registry,
        by_hand: bool,
    ) -> Self {
        // A lab moves the time by itself, and no run waits in its slot there.
        let ahead = if by_hand { Duration::ZERO } else { AHEAD };
        let book = Arc::new(Book::new(lease.worker()));
        let parts = batch::Parts {
            book: Arc::clone(&book),
            connections: connections.clone(),
            lease: Arc::clone(lease),
            ahead,
        };
        let parts = Arc::new(parts);
        let run = Box::new(move |items| {
            let parts = Arc::clone(&parts);
            Box::pin(async move { batch::run(&parts, items).await }) as _
        });
        Self {
            book,
            // One at a time: the statements of a worker are numbered.
            group: Group::new(ASKS_MAX, 1, run),
            declared: declared.limits.clone(),
            meters: registry
                .runners()
                .flat_map(|runner| runner.limits())
                .map(|(_, limit)| limit.name)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(|name| (name, LimitMeters::new(name)))
                .collect(),
            limits: registry.runners().any(|runner| !runner.limits().is_empty()),
            ahead,
            seen: Mutex::default(),
        }
    }

    /// True if steps may ask for turns.
    pub(super) fn asks(&self) -> bool {
        self.limits
    }

    /// True if the engine has nothing to do with limits.
    pub(super) fn is_empty(&self) -> bool {
        !self.limits && self.declared.is_empty()
    }

    /// Has the ends of runs written that are due: those that somebody waits for, and old ones. All
    /// of them, if `all` is true. False if that failed.
    async fn settle(&self, all: bool) -> bool {
        if !self.book.make_due(if all { Duration::ZERO } else { ENDS_LATER }) {
            return true;
        }
        let (done, settled) = oneshot::channel();
        self.group.submit(Item::Settle(done));
        settled.await.unwrap_or(false)
    }

    fn count(&self, limit: &str, count: impl FnOnce(&LimitMeters)) {
        if let Some((_, meters)) = self.meters.iter().find(|(name, _)| *name == limit) {
            count(meters);
        }
    }

    /// Notes the database's time. If it went back, the times of looks lie too far ahead, and all
    /// buckets are looked at.
    fn see(&self, now: i64) {
        let mut seen = self.seen();
        if now < seen.now - WENT_BACK {
            seen.again = self.declared.iter().map(|limit| limit.name.clone()).collect();
            seen.looked_at = None;
            self.book.wake.notify_one();
        }
        seen.now = now;
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks anew for the turn of a step that has waited since it might have begun, if that took long:
/// the starts of many such runs would come together.
pub(super) async fn refresh(shared: &Shared, work: &mut Work) -> Entry {
    if work.turn.as_ref().is_none_or(|turn| turn.age() <= AHEAD) {
        return Entry::Admitted;
    }
    work.turn = None;
    enter(shared, work).await
}

/// Asks for the turn of the step at which this work stands.
pub(super) async fn enter(shared: &Shared, work: &mut Work) -> Entry {
    let limiter = &shared.limiter;
    if !limiter.limits || work.turn.is_some() {
        return Entry::Admitted;
    }
    let runner = Arc::clone(&work.runner);
    let place = match runner.limit(work) {
        None => return Entry::Admitted,
        Some(Ok(place)) => place,
        Some(Err(error)) => return Entry::Wrong(error),
    };
    let (answer, answered) = oneshot::channel();
    limiter.group.submit(Item::Ask(Ask {
        id: work.instance.id,
        revision: work.revision,
        worker: work.worker,
        bucket: place.bucket,
        limit: place.name,
        weight: place.weight,
        answer,
    }));
    match answered.await {
        Ok(batch::Answer::Admitted(mut turn, delay)) => {
            limiter.count(place.name, LimitMeters::admitted);
            turn.begins_in(delay);
            work.turn = Some(Box::new(turn));
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            Entry::Admitted
        }
        Ok(batch::Answer::HeldBack { gone }) => {
            limiter.count(place.name, LimitMeters::held_back);
            Entry::HeldBack { gone }
        }
        // The statement failed, or the runtime ends.
        Ok(batch::Answer::Left) | Err(_) => Entry::Left,
    }
}

/// Lets rows in, notes the ends of runs and looks at the bounds until the worker is removed.
pub(super) async fn run(shared: &Arc<Shared>) {
    let mut outage = Outage::new("let in what limits hold back");
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.limiter.book.wake.notified() => {}
            () = shared.wake.limits.notified() => shared.limiter.seen().looked_at = None,
            () = shared.life.stopped.wait() => return,
        }
        let settled = shared.limiter.settle(false).await;
        pause = match round(shared).await {
            Ok(next) => {
                outage.over();
                let next = next.map_or(BOUNDS_EVERY, |next| next + jittered(LOOK_MIN));
                let ends = shared.limiter.book.due_in(ENDS_LATER).unwrap_or(BOUNDS_EVERY);
                let ends = if settled { ends } else { ends.max(SETTLE_AGAIN) };
                next.min(ends).min(jittered(BOUNDS_EVERY)).max(LOOK_MIN)
            }
            Err(error) => outage.failed(&error),
        };
    }
}

/// Does all of that once, for a lab. Returns the time until the next bucket is due.
#[cfg(feature = "testing")]
pub(super) async fn run_once(shared: &Shared) -> Result<Option<Duration>, sqlx::Error> {
    if shared.limiter.is_empty() {
        return Ok(None);
    }
    shared.limiter.settle(true).await;
    shared.limiter.seen().looked_at = None;
    round(shared).await
}

/// Looks at the bounds, and then at the buckets that are due. Returns the time until the next one
/// is.
async fn round(shared: &Shared) -> Result<Option<Duration>, sqlx::Error> {
    let limiter = &shared.limiter;
    if limiter.seen().looked_at.is_none_or(|at| at.elapsed() >= BOUNDS_EVERY) {
        look_at_bounds(shared).await?;
    }
    let mut early = limiter.book.take_early();
    let ahead = i64::try_from(limiter.ahead.as_micros()).unwrap_or(0);
    for _ in 0..LOOKS_MAX {
        let woken = match wake(shared, &early, ahead, 0).await {
            Ok(woken) => woken,
            Err(error) => {
                limiter.book.put_early(early);
                return Err(error);
            }
        };
        early.clear();
        limiter.see(woken.now);
        if woken.looked == 0 {
            // Other buckets that are due are locked: another engine looks at them.
            let next = |micros: i64| match u64::try_from(micros) {
                Ok(micros) if micros > 0 => Duration::from_micros(micros),
                _ => jittered(LOOK_AFTER_OTHERS),
            };
            return Ok(woken.next.map(next));
        }
    }
    Ok(Some(Duration::ZERO))
}

/// Looks at buckets that have been due for `late` microseconds, and announces what was let in.
pub(super) async fn wake(
    shared: &Shared,
    early: &[String],
    ahead: i64,
    late: i64,
) -> Result<storage::Woken, sqlx::Error> {
    let mut connection = shared.connections.get().await.map_err(no_connection)?;
    let wake = storage::wake_buckets(&mut connection, BUCKETS_MAX, early, ahead, late);
    let result = shared.connections.within(wake).await;
    let woken = connection.done(result)?;
    if !woken.groups.is_empty() {
        let queues: BTreeSet<&str> =
            woken.groups.iter().map(|group| group.queue.as_str()).collect();
        shared.wake.groups_came_back(&woken.groups);
        shared.notifier.announce(queues);
    }
    Ok(woken)
}

/// Takes up declarations that have come into force, and has the buckets looked at whose bounds have
/// changed.
async fn look_at_bounds(shared: &Shared) -> Result<(), sqlx::Error> {
    let limiter = &shared.limiter;
    if limiter.declared.is_empty() {
        return Ok(());
    }
    let mut connection = shared.connections.get().await.map_err(no_connection)?;
    let again = std::mem::take(&mut limiter.seen().again);
    let looking = async {
        let mut found = storage::look_at_limits(&mut connection, &limiter.declared).await?;
        if found.len() < limiter.declared.len() {
            // Somebody has deleted the rows of limits.
            storage::register_limits(&mut connection, &limiter.declared).await?;
        }
        if found.iter().any(|limit| limit.unsettled) {
            storage::settle_limits(&mut connection, &limiter.declared).await?;
            found = storage::look_at_limits(&mut connection, &limiter.declared).await?;
        }
        let known = limiter.seen().revisions.clone();
        let changed = |limit: &&storage::LimitState| {
            known.get(&limit.name).is_some_and(|known| *known != limit.revision)
        };
        let changed: Vec<String> =
            found.iter().filter(changed).map(|limit| limit.name.clone()).collect();
        let touched: Vec<String> = changed.iter().chain(&again).cloned().collect();
        if !touched.is_empty() {
            storage::touch_buckets(&mut connection, &touched).await?;
        }
        Ok((found, changed))
    };
    let result = shared.connections.within(looking).await;
    let (found, changed) = connection.done(result)?;
    let mut seen = limiter.seen();
    seen.revisions = found.into_iter().map(|limit| (limit.name, limit.revision)).collect();
    seen.looked_at = Some(Instant::now());
    seen.again = changed;
    Ok(())
}
