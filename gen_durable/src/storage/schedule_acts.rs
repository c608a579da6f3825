//! Looks at schedules, and what operators do with them.
//!
//! Invariant: an action raises the revision of the row, so no engine fires what it found before.

use std::time::SystemTime;

use sqlx::{PgConnection, Row};

use super::{Locked, operate::notify_engines, pauses::PAUSED, since_1970, time};

const LIST_SCHEDULES: &str = include_str!("sql/list_schedules.sql");
const PAUSE_SCHEDULE: &str = include_str!("sql/pause_schedule.sql");
const RESUME_SCHEDULE: &str = include_str!("sql/resume_schedule.sql");
const RUN_SCHEDULE_NOW: &str = include_str!("sql/run_schedule_now.sql");

/// A schedule in a list.
#[derive(Debug)]
pub(crate) struct ScheduleRow {
    pub(crate) name: String,
    pub(crate) body: String,
    pub(crate) fsm: String,
    pub(crate) next_at: Option<SystemTime>,
    pub(crate) last_at: Option<SystemTime>,
    pub(crate) last_id: Option<i64>,
    pub(crate) waiting_at: Option<SystemTime>,
    pub(crate) asked_at: Option<SystemTime>,
    pub(crate) last_error: Option<String>,
    pub(crate) failed_at: Option<SystemTime>,
    pub(crate) paused_at: Option<SystemTime>,
    pub(crate) paused_until: Option<SystemTime>,
    pub(crate) paused_by: Option<String>,
    pub(crate) pause_reason: Option<String>,
    pub(crate) declared_by: Vec<i64>,
}

/// Lists up to `limit` schedules after a name, or the only one of a name.
pub(crate) async fn list_schedules(
    connection: &mut PgConnection,
    after: &str,
    limit: i64,
    only: Option<&str>,
) -> Result<Vec<ScheduleRow>, sqlx::Error> {
    let rows = sqlx::query(LIST_SCHEDULES)
        .bind(after)
        .bind(limit)
        .bind(only)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let at =
                |column| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(column)?.map(time));
            Ok(ScheduleRow {
                name: row.try_get("name")?,
                body: row.try_get("body")?,
                fsm: row.try_get("fsm")?,
                next_at: at("next_at")?,
                last_at: at("last_at")?,
                last_id: row.try_get("last_id")?,
                waiting_at: at("waiting_at")?,
                asked_at: at("asked_at")?,
                last_error: row.try_get("last_error")?,
                failed_at: at("failed_at")?,
                paused_at: at("paused_at")?,
                paused_until: at("paused_until")?,
                paused_by: row.try_get("paused_by")?,
                pause_reason: row.try_get("pause_reason")?,
                declared_by: row.try_get("declared_by")?,
            })
        })
        .collect()
}

/// The action on a schedule.
#[derive(Debug)]
pub(crate) struct ScheduleAct {
    pub(crate) name: String,
    pub(crate) deed: ScheduleDeed,
    pub(crate) actor: Option<String>,
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ScheduleDeed {
    Pause { until: Option<SystemTime> },
    Resume,
    RunNow,
}

/// Acts on a schedule, in a transaction that the caller has begun. Returns the deed as the
/// statement names it.
pub(crate) async fn act_on_schedule(
    transaction: &mut PgConnection,
    act: &ScheduleAct,
    locked: Locked,
) -> Result<String, sqlx::Error> {
    let statement = match act.deed {
        ScheduleDeed::Pause { until } => {
            sqlx::query_scalar(PAUSE_SCHEDULE).bind(&act.name).bind(until.map(since_1970))
        }
        ScheduleDeed::Resume => sqlx::query_scalar(RESUME_SCHEDULE).bind(&act.name),
        ScheduleDeed::RunNow => sqlx::query_scalar(RUN_SCHEDULE_NOW).bind(&act.name),
    };
    let deed: String = statement
        .bind(act.actor.as_deref())
        .bind(act.reason.as_deref())
        .bind(locked.timeout())
        .fetch_one(&mut *transaction)
        .await?;
    // An engine looks at once. A pause needs no look: the revision holds back what was found.
    if ["resumed", "asked", "undeclared"].contains(&&*deed) {
        notify_engines(transaction, PAUSED).await?;
    }
    Ok(deed)
}
