//! The table `schedules`, as engines keep it: what is due, and what was done about it.
//!
//! Invariant: an engine changes a row only as it has seen it, and only while its own declaration is
//! in force.

use std::time::Duration;

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{begin, micros};

const DUE_SCHEDULES: &str = include_str!("sql/due_schedules.sql");
const LOCK_SCHEDULE: &str = include_str!("sql/lock_schedule.sql");
const PASS_SCHEDULE: &str = include_str!("sql/pass_schedule.sql");
const SCHEDULE_TIMES: &str = include_str!("sql/schedule_times.sql");
const SETTLE_SCHEDULES: &str = include_str!("sql/settle_schedules.sql");
const UNDECLARED_SCHEDULES: &str = include_str!("sql/undeclared_schedules.sql");
const UNSETTLED_SCHEDULES: &str = include_str!("sql/unsettled_schedules.sql");

/// The kind of the declarations of schedules.
pub(crate) const SCHEDULE: &str = "schedule";

/// The course of a schedule: what its row knows of its ticks. Times are in microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Course {
    /// The next tick; none if no more comes.
    pub(crate) next: Option<i64>,
    /// The latest tick that was dealt with.
    pub(crate) passed: i64,
    /// Ranges before that in which no tick has fired, in their order: each from its first moment to
    /// before its last.
    pub(crate) skipped: Vec<(i64, i64)>,
}

impl Course {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let skipped: Vec<i64> = row.try_get("skipped")?;
        let (ranges, _) = skipped.as_chunks::<2>();
        Ok(Self {
            next: row.try_get("next_at")?,
            passed: row.try_get("passed_at")?,
            skipped: ranges.iter().map(|[from, to]| (*from, *to)).collect(),
        })
    }

    /// Returns the end of the last skipped range.
    pub(crate) fn skipped_to(&self) -> i64 {
        self.skipped.iter().map(|(_, to)| *to).max().unwrap_or(0)
    }

    /// Returns the skipped ranges, each as two times.
    fn ranges(&self) -> Vec<i64> {
        self.skipped.iter().flat_map(|(from, to)| [*from, *to]).collect()
    }
}

/// When schedules are due.
#[derive(Debug)]
pub(crate) struct ScheduleTimes {
    /// The database's time.
    pub(crate) now: i64,
    /// Another text stands for other workers.
    pub(crate) fleet: String,
    /// The next time at which some schedule is due.
    pub(crate) next: Option<i64>,
    /// True if some schedule may be due now.
    pub(crate) due: bool,
}

/// Tells when schedules are due.
pub(crate) async fn schedule_times(
    connection: &mut PgConnection,
) -> Result<ScheduleTimes, sqlx::Error> {
    let row = sqlx::query(SCHEDULE_TIMES).fetch_one(connection).await?;
    Ok(ScheduleTimes {
        now: row.try_get("now")?,
        fleet: row.try_get("fleet")?,
        next: row.try_get("next_at")?,
        due: row.try_get("due")?,
    })
}

/// A schedule that is due, as an engine has found it.
#[derive(Clone, Debug)]
pub(crate) struct DueSchedule {
    pub(crate) name: String,
    pub(crate) revision: i64,
    pub(crate) course: Course,
    /// The tick that fired last, and its instance.
    pub(crate) last: Option<(i64, i64)>,
    /// The tick that waits for the end of the last instance.
    pub(crate) waiting: Option<i64>,
    /// The time at which an operator asked for a run.
    pub(crate) asked: Option<i64>,
    pub(crate) paused: bool,
    /// True if the last instance has not ended.
    pub(crate) active: bool,
}

/// Finds the schedules of these names and declarations that are due.
pub(crate) async fn due_schedules(
    connection: &mut PgConnection,
    names: &[String],
    bodies: &[String],
) -> Result<Vec<DueSchedule>, sqlx::Error> {
    let rows = sqlx::query(DUE_SCHEDULES).bind(names).bind(bodies).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let last: (Option<i64>, Option<i64>) =
                (row.try_get("last_at")?, row.try_get("last_id")?);
            Ok(DueSchedule {
                name: row.try_get("name")?,
                revision: row.try_get("revision")?,
                course: Course::of(row)?,
                last: last.0.zip(last.1),
                waiting: row.try_get("waiting_at")?,
                asked: row.try_get("asked_at")?,
                paused: row.try_get("paused")?,
                active: row.try_get("active")?,
            })
        })
        .collect()
}

/// Locks a schedule until the transaction ends. False if another engine has it, if it has changed,
/// or if another declaration is in force.
pub(crate) async fn lock_schedule(
    transaction: &mut PgConnection,
    seen: &DueSchedule,
    body: &str,
) -> Result<bool, sqlx::Error> {
    let locked = sqlx::query(LOCK_SCHEDULE)
        .bind(&seen.name)
        .bind(seen.revision)
        .bind(body)
        .fetch_optional(transaction)
        .await?;
    Ok(locked.is_some())
}

/// The things that an engine has done about a schedule.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) course: Course,
    pub(crate) last: Option<(i64, i64)>,
    pub(crate) waiting: Option<i64>,
    /// The time until the next look at the last instance, while a tick waits.
    pub(crate) look_in: Option<Duration>,
    /// The reason why a tick could not insert its instance.
    pub(crate) error: Option<String>,
    pub(crate) paused: bool,
}

/// Notes what was done about a schedule, which the transaction has locked.
pub(crate) async fn pass_schedule(
    transaction: &mut PgConnection,
    name: &str,
    passed: &Passed,
) -> Result<(), sqlx::Error> {
    sqlx::query(PASS_SCHEDULE)
        .bind(name)
        .bind(passed.course.next)
        .bind(passed.course.passed)
        .bind(passed.course.ranges())
        .bind(passed.course.skipped_to())
        .bind(passed.last.map(|(tick, _)| tick))
        .bind(passed.last.map(|(_, id)| id))
        .bind(passed.waiting)
        .bind(passed.look_in.map(micros))
        .bind(passed.error.as_deref())
        .bind(passed.paused)
        .execute(transaction)
        .await?;
    Ok(())
}

/// A schedule whose declaration has come into force.
#[derive(Debug)]
pub(crate) struct Unsettled {
    pub(crate) name: String,
    /// The database's time.
    pub(crate) now: i64,
    /// Its row by another declaration, with the revision of it.
    pub(crate) known: Option<(i64, Course)>,
}

/// Finds those of these schedules whose declaration is in force, and whose row says something else.
pub(crate) async fn unsettled_schedules(
    connection: &mut PgConnection,
    names: &[String],
    bodies: &[String],
) -> Result<Vec<Unsettled>, sqlx::Error> {
    let rows =
        sqlx::query(UNSETTLED_SCHEDULES).bind(names).bind(bodies).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let revision: Option<i64> = row.try_get("revision")?;
            let known = revision.map(|revision| Ok::<_, sqlx::Error>((revision, Course::of(row)?)));
            Ok(Unsettled {
                name: row.try_get("name")?,
                now: row.try_get("now")?,
                known: known.transpose()?,
            })
        })
        .collect()
}

/// A row of a schedule whose declaration has come into force.
#[derive(Debug)]
pub(crate) struct SettledSchedule<'a> {
    pub(crate) name: &'a str,
    pub(crate) body: &'a str,
    pub(crate) fsm: &'a str,
    pub(crate) course: Course,
    /// 0 for a new row, and otherwise one more than the revision that was seen.
    pub(crate) revision: i64,
}

/// Writes them, but for those that have changed meanwhile.
pub(crate) async fn settle_schedules(
    connection: &mut PgConnection,
    rows: &[SettledSchedule<'_>],
) -> Result<(), sqlx::Error> {
    let mut transaction = begin(connection).await?;
    sqlx::query(SETTLE_SCHEDULES)
        .bind(rows.iter().map(|row| row.name).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.body).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.fsm).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.course.next).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.course.passed).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| json(&row.course.ranges())).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.course.skipped_to()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.revision).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// Finds schedules that no living worker declares.
pub(crate) async fn undeclared_schedules(
    connection: &mut PgConnection,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(UNDECLARED_SCHEDULES).fetch_all(connection).await
}

/// Returns times as a JSON array: an array of arrays must have rows of one length.
fn json(times: &[i64]) -> String {
    serde_json::Value::from(times).to_string()
}
