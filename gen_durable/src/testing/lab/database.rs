//! The statements of a lab that are not an engine's: they move the clock, end a lease, and look.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{PgPool, Row};

use super::LabError;
use crate::error::DatabaseError;

const TAKE: &str = include_str!("../sql/lab_take.sql");
const SET_CLOCK: &str = include_str!("../sql/lab_set_clock.sql");
const CLOCK: &str = include_str!("../sql/lab_clock.sql");
const LEAVE: &str = include_str!("../sql/lab_leave.sql");
const RECALL: &str = include_str!("../sql/lab_recall.sql");
const LOOK: &str = include_str!("../sql/lab_look.sql");

/// The error of Postgres if a function exists already.
const EXISTS: &str = "42723";

/// The database of a test, and the time in it.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) pool: PgPool,
    /// Microseconds since 1970.
    now: i64,
}

/// A row of `instances`, as a lab shows it.
#[derive(Debug)]
pub(super) struct Stands {
    pub(super) fsm: String,
    pub(super) step: String,
    pub(super) status: String,
    pub(super) attempt: i32,
    pub(super) awaits: Option<Vec<String>>,
    pub(super) last_error: Option<String>,
    pub(super) state: String,
    pub(super) result: Option<String>,
    due: i64,
}

impl Database {
    /// Takes the database's time over, which stands still from here on.
    pub(super) async fn take(pool: PgPool, at: Option<SystemTime>) -> Result<Self, LabError> {
        let failed = || DatabaseError::new("take over the database's clock");
        let now = match at {
            Some(at) => micros(at),
            None => sqlx::query_scalar(CLOCK).fetch_one(&pool).await.map_err(failed())?,
        };
        match sqlx::raw_sql(TAKE).execute(&pool).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(EXISTS) => {
                return Err(LabError::taken());
            }
            Err(error) => return Err(failed()(error).into()),
        }
        let mut database = Self { pool, now };
        if let Err(error) = database.set_clock(now).await {
            // Nothing of a lab that does not start is left.
            database.leave().await?;
            return Err(error);
        }
        Ok(database)
    }

    /// Returns the time, in microseconds since 1970.
    pub(super) fn micros(&self) -> i64 {
        self.now
    }

    pub(super) fn now(&self) -> SystemTime {
        let now = Duration::from_micros(self.now.unsigned_abs());
        if self.now < 0 { UNIX_EPOCH - now } else { UNIX_EPOCH + now }
    }

    pub(super) async fn set_clock(&mut self, now: i64) -> Result<(), LabError> {
        let set = sqlx::query(SET_CLOCK).bind(now).execute(&self.pool).await;
        set.map_err(DatabaseError::new("move the database's clock"))?;
        self.now = now;
        Ok(())
    }

    pub(super) async fn leave(&self) -> Result<(), LabError> {
        let left = sqlx::raw_sql(LEAVE).execute(&self.pool).await;
        left.map_err(DatabaseError::new("leave the database to another lab"))?;
        Ok(())
    }

    pub(super) async fn recall(&self, id: i64) -> Result<(), LabError> {
        let recalled = sqlx::query(RECALL).bind(id).execute(&self.pool).await;
        recalled.map_err(DatabaseError::new("have a lost row run again"))?;
        Ok(())
    }

    pub(super) async fn look(&self, id: i64) -> Result<Option<Stands>, LabError> {
        let look = async {
            let Some(row) = sqlx::query(LOOK).bind(id).fetch_optional(&self.pool).await? else {
                return Ok(None);
            };
            Ok(Some(Stands {
                fsm: row.try_get("fsm")?,
                step: row.try_get("step")?,
                status: row.try_get("status")?,
                attempt: row.try_get("attempt")?,
                awaits: row.try_get("awaits")?,
                last_error: row.try_get("last_error")?,
                state: row.try_get("state")?,
                result: row.try_get("result")?,
                due: row.try_get("due")?,
            }))
        };
        let looked: Result<_, sqlx::Error> = look.await;
        Ok(looked.map_err(DatabaseError::new("look at an instance"))?)
    }

    /// Says in words where an instance stands.
    pub(super) fn describe(&self, id: i64, stands: &Stands) -> String {
        let Stands { fsm, step, status, attempt, awaits, last_error, state, result, due } = stands;
        let mut text = match &**status {
            "awaiting_signal" => {
                let names = awaits.as_deref().unwrap_or_default().join("` or `");
                format!("parked at `{step}`, awaiting `{names}`")
            }
            "runnable" => format!("runnable at `{step}`"),
            "done" => format!("done: {}", result.as_deref().unwrap_or("null")),
            status => format!("{status} at `{step}`"),
        };
        let later = u64::try_from(due - self.now).ok().filter(|later| *later > 0);
        if let Some(later) = later.filter(|_| matches!(&**status, "runnable" | "awaiting_signal")) {
            let _ = write!(text, ", due in {:?}", Duration::from_micros(later));
        }
        if *attempt > 0 {
            let _ = write!(text, ", attempt {attempt}");
        }
        if let Some(error) = last_error {
            let _ = write!(text, ", last error: {error}");
        }
        format!("instance {id} of `{fsm}` is {text}; its state is {state}")
    }
}

pub(super) fn micros(at: SystemTime) -> i64 {
    let (since, sign) = match at.duration_since(UNIX_EPOCH) {
        Ok(since) => (since, 1),
        Err(before) => (before.duration(), -1),
    };
    i64::try_from(since.as_micros()).map_or(i64::MAX, |micros| micros * sign)
}
