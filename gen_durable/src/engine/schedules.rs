//! Fires the schedules that this engine declares, whenever they are due.
//!
//! ```text
//!   look: is anything due? ──► each schedule: closure ──► lock ──► insert ──► note ──► commit
//!    ▲                                                     └─ it has changed: leave it
//!    └── the next due time, or the poll interval
//! ```
//!
//! There is no leader. Each engine whose declaration is in force tries, and the row's lock and
//! revision let one of them do it. The instances and the note of their ticks commit together, so a
//! crash at any point leaves all of it or nothing.
//!
//! Invariant: an engine without schedules runs no statement here. With thousands of them, a look at
//! which nothing is due runs one, but for one look a minute.

mod plan;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};

use self::plan::Plan;
use super::{
    Shared,
    outage::Outage,
    registry::{catch, describe, storable},
};
use crate::{
    backoff::jittered,
    client::{Target, notifier::Notifier},
    error::{Cause, Error, InsertError},
    fault::Fault,
    keys::check_name,
    machine::schedule::{Calendar, Declared, Tick},
    meters::ScheduleMeters,
    storage::{
        self, Declarations, DueSchedule, NewInstance, Passed, SCHEDULE, SettledSchedule, Unsettled,
    },
};

/// The longest pause between two looks.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// The pause before a schedule is tried again that another transaction held up, say by a unique
/// key. Other schedules do not wait for it.
const HELD_UP: Duration = Duration::from_secs(5);
/// The pause before a look at a schedule that another engine fires, or that has changed: its next
/// tick may come soon.
const LEFT: Duration = Duration::from_millis(100);
/// The time after which an engine looks in any case which declarations are in force: this much for
/// each of its schedules, within these bounds. A row may be that of a program which came and went
/// between two looks, or somebody may have deleted it.
const SETTLE_EACH: Duration = Duration::from_millis(20);
const SETTLE_MIN: Duration = Duration::from_secs(1);
const SETTLE_MAX: Duration = Duration::from_mins(1);
/// The most looks for declarations that have come into force. Each finds what another engine has
/// changed at the same moment. The next poll goes on.
const SETTLES_MAX: usize = 5;

/// A schedule of this engine.
#[derive(Debug)]
struct Own {
    declared: Declared,
    calendar: Calendar,
    body: String,
    meters: ScheduleMeters,
}

/// The schedules of an engine.
#[derive(Debug, Default)]
pub(super) struct Schedules {
    own: BTreeMap<String, Own>,
    names: Vec<String>,
    bodies: Vec<String>,
    seen: Mutex<Seen>,
}

/// The findings of the last looks.
#[derive(Debug, Default)]
struct Seen {
    /// The workers that were alive when the engine last settled which declarations are in force,
    /// and when that was.
    fleet: Option<(String, Instant)>,
    /// The database's time at the last look.
    looked_at: Option<i64>,
    /// Schedules that are held up, until when.
    held_up: HashMap<String, Instant>,
}

impl Schedules {
    /// Checks the schedules, and adds them to what the engine declares.
    pub(super) fn new(all: Vec<Declared>, declarations: &mut Declarations) -> Result<Self, Error> {
        let mut schedules = Self::default();
        for declared in all {
            let wrong = |reason| Error::InvalidOption {
                option: format!("the schedule `{}`", declared.name),
                reason,
            };
            check_name("schedule", &declared.name).map_err(|error| wrong(error.to_string()))?;
            let calendar = declared.schedule.calendar().map_err(wrong)?;
            if schedules.own.contains_key(&declared.name) {
                return Err(wrong("is declared twice: give one of them another name".to_owned()));
            }
            let body = declared.schedule.to_string();
            declarations.add(SCHEDULE, &declared.name, body.clone());
            let meters = ScheduleMeters::new(&declared.name);
            schedules.own.insert(declared.name.clone(), Own { declared, calendar, body, meters });
        }
        schedules.names = schedules.own.keys().cloned().collect();
        schedules.bodies = schedules.own.values().map(|own| own.body.clone()).collect();
        Ok(schedules)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    fn settle_every(&self) -> Duration {
        let all = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        SETTLE_EACH.saturating_mul(all).clamp(SETTLE_MIN, SETTLE_MAX)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time until the first schedule is tried again that is held up.
    fn held_up_for(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut seen = self.seen();
        seen.held_up.retain(|_, until| *until > now);
        seen.held_up.values().map(|until| until.saturating_duration_since(now)).min()
    }
}

/// Fires schedules until the worker is removed. While steps finish after the engine has begun to
/// stop, its declarations are still in force, and no other engine fires for it.
pub(super) async fn run(shared: &Arc<Shared>) {
    let mut outage = Outage::new("fire schedules");
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.wake.schedules.notified() => {}
            () = shared.life.stopped.wait() => return,
        }
        pause = match look(shared).await {
            Ok(next) => {
                outage.over();
                let poll = jittered(shared.config.poll_interval.min(LOOK_MAX));
                let held_up = shared.schedules.held_up_for();
                [next, held_up].into_iter().flatten().fold(poll, Duration::min)
            }
            Err(error) => outage.failed(&error),
        };
    }
}

/// Looks once, and fires what is due. Returns the time until the next schedule is due.
pub(super) async fn look(shared: &Shared) -> Result<Option<Duration>, sqlx::Error> {
    let schedules = &shared.schedules;
    if schedules.is_empty() {
        return Ok(None);
    }
    let mut connection = shared.connections.get().await?;
    let times = shared.connections.within(storage::schedule_times(&mut connection)).await;
    let times = connection.done(times)?;
    let settled = schedules.seen().fleet.as_ref().is_some_and(|(fleet, since)| {
        *fleet == times.fleet && since.elapsed() < schedules.settle_every()
    });
    // Without this a declaration of a program that has just ended could stay in force.
    let mut changed = !settled && settle(shared, &times.fleet).await?;
    let again = if times.due { fire_due(shared, times.now).await? } else { None };
    if times.due && again.is_none() {
        // A row of this engine's may be due, and still follow another declaration.
        changed |= settle(shared, &times.fleet).await?;
    }
    schedules.seen().looked_at = Some(times.now);
    let until = |next: i64| Duration::from_micros(u64::try_from(next - times.now).unwrap_or(0));
    let next = [times.next.map(until), again].into_iter().flatten().min();
    // A schedule that has just been settled may be due sooner than the first look could tell.
    Ok(if changed { Some(Duration::ZERO) } else { next })
}

/// Takes up the schedules whose declaration has come into force. True if there were any.
async fn settle(shared: &Shared, fleet: &str) -> Result<bool, sqlx::Error> {
    let schedules = &shared.schedules;
    for settles in 0..SETTLES_MAX {
        let mut connection = shared.connections.get().await?;
        let settling = async {
            let (names, bodies) = (&schedules.names, &schedules.bodies);
            let found = storage::unsettled_schedules(&mut connection, names, bodies).await?;
            let rows: Vec<_> = found.iter().filter_map(|found| settled(schedules, found)).collect();
            if !rows.is_empty() {
                storage::settle_schedules(&mut connection, &rows).await?;
            }
            Ok(rows.is_empty())
        };
        let done = shared.connections.within(settling).await;
        if connection.done(done)? {
            schedules.seen().fleet = Some((fleet.to_owned(), Instant::now()));
            return Ok(settles > 0);
        }
    }
    Ok(true)
}

/// Returns the row of a schedule whose declaration has come into force.
fn settled<'a>(schedules: &'a Schedules, found: &Unsettled) -> Option<SettledSchedule<'a>> {
    let (name, own) = schedules.own.get_key_value(&found.name)?;
    let (course, revision) = match &found.known {
        None => (storage::Course::begin(&own.calendar, found.now), 0),
        Some((revision, course)) => {
            // A tick of the former declaration that is due and has not fired is a tick of this one,
            // if it is one by this calendar. Otherwise this declaration came into force after the
            // last look of this engine, and its ticks since then are its own.
            let since = match course.next {
                Some(next) if next <= found.now => next - 1,
                _ => schedules.seen().looked_at.unwrap_or(found.now).min(found.now),
            };
            (course.clone().change(&own.calendar, since), revision + 1)
        }
    };
    Some(SettledSchedule { name, body: &own.body, fsm: own.declared.fsm, course, revision })
}

/// Fires all that is due, one after the other. Returns the time after which another look is due,
/// as what was due has another next tick now. None if nothing could be done.
async fn fire_due(shared: &Shared, now: i64) -> Result<Option<Duration>, sqlx::Error> {
    let schedules = &shared.schedules;
    let mut connection = shared.connections.get().await?;
    let find = storage::due_schedules(&mut connection, &schedules.names, &schedules.bodies);
    let found = shared.connections.within(find).await;
    let mut again = None;
    for seen in connection.done(found)? {
        let Some(own) = schedules.own.get(&seen.name) else { continue };
        let held_up = schedules.seen().held_up.get(&seen.name).copied();
        if held_up.is_some_and(|until| until > Instant::now()) {
            continue;
        }
        let Some(plan) = Plan::new(&own.calendar, &own.declared.schedule, &seen, now) else {
            continue;
        };
        match fire(shared, own, &seen, plan).await {
            Ok(Fired::Done) => again = Some(Duration::ZERO),
            Ok(Fired::Left) => again = again.or(Some(LEFT)),
            Ok(Fired::HeldUp) => {
                schedules.seen().held_up.insert(seen.name, Instant::now() + HELD_UP);
            }
            Err(error) if Fault::of(&error) == Fault::Connection => return Err(error),
            // Others must not wait for it.
            Err(error) => {
                tracing::warn!(
                    schedule = seen.name,
                    error = %Cause(&error),
                    "could not fire a schedule; trying again until it works"
                );
                schedules.seen().held_up.insert(seen.name, Instant::now() + HELD_UP);
            }
        }
    }
    Ok(again)
}

/// The end of a try to fire a schedule.
enum Fired {
    Done,
    /// Another engine has it, or it has changed.
    Left,
    /// Another transaction holds what the instance needs.
    HeldUp,
}

/// Fires a schedule: the instances of its ticks, and the note about them, in one transaction.
async fn fire(
    shared: &Shared,
    own: &Own,
    seen: &DueSchedule,
    plan: Plan,
) -> Result<Fired, sqlx::Error> {
    // Before anything is locked, as the closure is the user's code.
    let made: Vec<_> = plan.fires.iter().map(|tick| (*tick, make(shared, own, *tick))).collect();
    let mut connection = shared.connections.get().await?;
    let (ticks, skipped) = (made.len(), plan.skipped);
    let commit = commit(&mut connection, own, seen, plan, made);
    // On the heap, as the statements of an insert are large.
    let committed = Box::pin(shared.connections.within(commit)).await;
    let committed = connection.done(committed)?;
    let (rows, error) = match committed {
        Ok(committed) => committed,
        Err(why) => return Ok(why),
    };
    own.meters.passed(rows.len(), ticks - rows.len(), skipped);
    announce(&shared.notifier, &rows);
    if let Some(error) = error {
        tracing::warn!(
            schedule = seen.name,
            error,
            "a schedule could not insert an instance; its tick is over, and the next one comes"
        );
    }
    Ok(Fired::Done)
}

/// Announces the new instances. Their inserts were silent, so that no transaction carries a NOTIFY.
fn announce(notifier: &Notifier, rows: &[(NewInstance, bool)]) {
    let loud = rows.iter().filter(|(_, silent)| !silent).map(|(row, _)| row.queue.as_str());
    notifier.announce(loud);
}

/// Makes the instance of a tick, or says why there is none.
fn make(shared: &Shared, own: &Own, tick: i64) -> Result<NewInstance, String> {
    let tick = Tick::new(&own.declared.name, tick, &own.calendar);
    match catch(|| (own.declared.make)(tick, shared.config.value_max)) {
        Ok(Ok(row)) => Ok(row),
        Ok(Err(error)) => Err(storable(error.to_string())),
        Err(panic) => Err(storable(format!("its closure {}", describe(&panic)))),
    }
}

/// The instances that a schedule has inserted, each true if it was to be silent, and the reason why
/// a tick has none.
type Committed = (Vec<(NewInstance, bool)>, Option<String>);

/// Commits the ticks of a schedule, or says why they are left.
async fn commit(
    connection: &mut PgConnection,
    own: &Own,
    seen: &DueSchedule,
    plan: Plan,
    made: Vec<(i64, Result<NewInstance, String>)>,
) -> Result<Result<Committed, Fired>, sqlx::Error> {
    let mut transaction = storage::begin(connection).await?;
    if !storage::lock_schedule(&mut transaction, seen, &own.body).await? {
        transaction.rollback().await?;
        return Ok(Err(Fired::Left));
    }
    let (mut last, mut error, mut rows) = (seen.last, None, Vec::new());
    let mut ready = Vec::new();
    for (tick, row) in made {
        match row {
            Ok(mut row) => {
                let silent = std::mem::replace(&mut row.silent, true);
                ready.push((tick, row, silent));
            }
            Err(reason) => error = Some(reason),
        }
    }
    // All at once, and one by one if the database refuses that: an instance that it refuses must
    // not take the others with it.
    let mut parts: Vec<Vec<_>> = vec![ready];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        let states: Vec<NewInstance> = part.iter().map(|(_, row, _)| row.clone()).collect();
        let mut own_part = transaction.begin().await?;
        match Target::Connection(&mut own_part).insert_many(states).await {
            Ok(answers) => {
                own_part.commit().await?;
                for ((tick, row, silent), answer) in part.into_iter().zip(answers) {
                    match answer {
                        Ok(id) => {
                            last = Some((tick, id));
                            rows.push((row, silent));
                        }
                        Err(duplicate) => error = Some(storable(duplicate.to_string())),
                    }
                }
            }
            Err(refused) => {
                // This fails if the connection is lost, and the tick is left for the next look.
                own_part.rollback().await?;
                if is_held_up(&refused) {
                    transaction.rollback().await?;
                    return Ok(Err(Fired::HeldUp));
                }
                if part.len() == 1 {
                    error = Some(storable(refused.to_string()));
                } else {
                    // The last one is taken first.
                    parts.extend(part.into_iter().rev().map(|one| vec![one]));
                }
            }
        }
    }
    let mut passed = Passed {
        course: plan.course,
        last,
        waiting: plan.waiting,
        look_in: plan.look_in,
        error,
        paused: plan.paused,
    };
    if passed.error.is_none() {
        storage::pass_schedule(&mut transaction, &seen.name, &passed).await?;
    } else {
        let mut note = transaction.begin().await?;
        match storage::pass_schedule(&mut note, &seen.name, &passed).await {
            Ok(()) => note.commit().await?,
            // The encoding of the database may lack a character of the text.
            Err(error) if Fault::of(&error) == Fault::Data => {
                note.rollback().await?;
                passed.error = passed.error.map(|text| text.replace(|c: char| !c.is_ascii(), "?"));
                storage::pass_schedule(&mut transaction, &seen.name, &passed).await?;
            }
            Err(error) => return Err(error),
        }
    }
    transaction.commit().await?;
    Ok(Ok((rows, passed.error)))
}

/// True if the same insert may work a little later.
fn is_held_up(error: &InsertError) -> bool {
    matches!(error, InsertError::Database(error) if error.is_locked() || error.is_transient())
}
