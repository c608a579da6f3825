//! Looks at limits, and what operators do with them.
//!
//! Invariant: an action changes the row of its limit alone. No engine that admits runs waits for
//! it.

use std::time::SystemTime;

use sqlx::{
    PgConnection, Row,
    postgres::{PgArguments, PgRow},
};

use super::{LATEST, Locked, limits::Bounds, operate::notify_engines, pauses::PAUSED, time};

const LIST_BUCKETS: &str = include_str!("sql/list_buckets.sql");
const LIST_LIMITS: &str = include_str!("sql/list_limits.sql");
const LIST_WAITING: &str = include_str!("sql/list_waiting.sql");
const RESET_LIMIT: &str = include_str!("sql/reset_limit.sql");
const SET_LIMIT: &str = include_str!("sql/set_limit.sql");

/// The character between the name of a limit and a key, in the name of a bucket.
const SEPARATOR: char = '\u{1f}';

/// Returns the name of a bucket.
pub(crate) fn bucket_of(limit: &str, key: Option<&str>) -> String {
    key.map_or_else(|| limit.to_owned(), |key| format!("{limit}{SEPARATOR}{key}"))
}

/// Returns the limit and the key that the name of a bucket consists of.
pub(crate) fn limit_and_key(bucket: &str) -> (String, Option<String>) {
    match bucket.split_once(SEPARATOR) {
        Some((limit, key)) => (limit.to_owned(), Some(key.to_owned())),
        None => (bucket.to_owned(), None),
    }
}

/// A limit in a list.
#[derive(Debug)]
pub(crate) struct LimitRow {
    pub(crate) name: String,
    pub(crate) declared: Bounds,
    pub(crate) set: Bounds,
    pub(crate) set_at: Option<SystemTime>,
    pub(crate) set_by: Option<String>,
    pub(crate) set_reason: Option<String>,
    pub(crate) in_force: Bounds,
    pub(crate) declared_by: Vec<i64>,
}

/// Lists up to `limit` limits after a name, or the only one of a name.
pub(crate) async fn list_limits(
    connection: &mut PgConnection,
    after: &str,
    limit: i64,
    only: Option<&str>,
) -> Result<Vec<LimitRow>, sqlx::Error> {
    let rows =
        sqlx::query(LIST_LIMITS).bind(after).bind(limit).bind(only).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let bounds = |[at_once, starts, period, burst]: [&str; 4]| {
                Ok::<_, sqlx::Error>(Bounds {
                    at_once: row.try_get(at_once)?,
                    starts: row.try_get(starts)?,
                    period: row.try_get(period)?,
                    burst: row.try_get(burst)?,
                })
            };
            Ok(LimitRow {
                name: row.try_get("name")?,
                declared: bounds(["at_once", "starts", "period", "burst"])?,
                set: bounds(["set_at_once", "set_starts", "set_period", "set_burst"])?,
                set_at: row.try_get::<Option<i64>, _>("set_at")?.map(time),
                set_by: row.try_get("set_by")?,
                set_reason: row.try_get("set_reason")?,
                in_force: bounds(["max_at_once", "max_starts", "max_period", "max_burst"])?,
                declared_by: row.try_get("declared_by")?,
            })
        })
        .collect()
}

/// The rate of a bucket, and how much of it is used up. Times are in microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    used_until: i64,
    /// The starts in a period of so many microseconds, and those of a burst. None without a rate.
    bounds: Option<(i32, i64, i32)>,
    now: i64,
}

impl Rate {
    /// Reads the columns that `list_buckets.sql` documents.
    pub(crate) fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let starts: Option<i32> = row.try_get("max_starts")?;
        let period: Option<i64> = row.try_get("max_period")?;
        let burst: Option<i32> = row.try_get("max_burst")?;
        Ok(Self {
            used_until: row.try_get::<Option<_>, _>("used_until")?.unwrap_or(0),
            bounds: starts.zip(period).map(|(starts, period)| (starts, period, burst.unwrap_or(1))),
            now: row.try_get("now")?,
        })
    }

    /// Returns the time at which the rate lets an instance in, if `ahead` others come in before it
    /// and each run counts as one. None if the rate would let it in now.
    ///
    /// By the generic cell rate algorithm a start needs `period / starts`, and may come up to
    /// `burst` starts ahead of the theoretical arrival time.
    pub(crate) fn until(&self, ahead: i64) -> Option<SystemTime> {
        let (starts, period, burst) = self.bounds.filter(|(starts, ..)| *starts > 0)?;
        let behind = (i128::from(ahead) + 1 - i128::from(burst)) * i128::from(period);
        let used_until = i128::from(self.used_until.max(self.now));
        let until = used_until + behind.div_euclid(i128::from(starts));
        let until = i64::try_from(until).map_or(LATEST, |until| until.min(LATEST));
        (until > self.now).then(|| time(until))
    }
}

/// A bucket in a list.
#[derive(Debug)]
pub(crate) struct BucketRow {
    pub(crate) bucket: String,
    /// The weight of the runs that living workers have now.
    pub(crate) running: i64,
    pub(crate) waiting: i64,
    pub(crate) rate: Rate,
}

/// Lists up to `limit` buckets of a limit after a bucket. It counts up to `waiting_max` waiting
/// instances of each.
pub(crate) async fn list_buckets(
    connection: &mut PgConnection,
    name: &str,
    after: &str,
    limit: i64,
    waiting_max: i64,
) -> Result<Vec<BucketRow>, sqlx::Error> {
    let rows = sqlx::query(LIST_BUCKETS)
        .bind(name)
        .bind(after)
        .bind(limit)
        .bind(waiting_max)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(BucketRow {
                bucket: row.try_get("bucket")?,
                running: row.try_get("running")?,
                waiting: row.try_get("waiting")?,
                rate: Rate::of(row)?,
            })
        })
        .collect()
}

/// An instance that waits for a bucket.
#[derive(Debug)]
pub(crate) struct WaitingRow {
    pub(crate) id: i64,
    pub(crate) fsm: String,
    pub(crate) step: String,
    pub(crate) priority: i16,
    pub(crate) due_at: Option<SystemTime>,
    /// True if something else holds it back as well.
    pub(crate) blocked: bool,
    pub(crate) rate: Rate,
}

/// Lists the first `limit` instances that wait for a bucket.
pub(crate) async fn list_waiting(
    connection: &mut PgConnection,
    name: &str,
    bucket: &str,
    limit: i64,
) -> Result<Vec<WaitingRow>, sqlx::Error> {
    let rows =
        sqlx::query(LIST_WAITING).bind(name).bind(bucket).bind(limit).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(WaitingRow {
                id: row.try_get("id")?,
                fsm: row.try_get("fsm")?,
                step: row.try_get("step")?,
                priority: row.try_get("priority")?,
                due_at: row.try_get::<Option<i64>, _>("eligible_at")?.map(time),
                blocked: row.try_get("blocked")?,
                rate: Rate::of(row)?,
            })
        })
        .collect()
}

/// The action on a limit.
#[derive(Debug)]
pub(crate) struct LimitAct {
    pub(crate) name: String,
    /// The bounds to set; none to reset them.
    pub(crate) bounds: Option<Bounds>,
    pub(crate) actor: Option<String>,
    pub(crate) reason: Option<String>,
}

/// Acts on a limit, in a transaction that the caller has begun. Returns the deed as the statement
/// names it.
pub(crate) async fn act_on_limit(
    transaction: &mut PgConnection,
    act: &LimitAct,
    locked: Locked,
) -> Result<String, sqlx::Error> {
    let statement: sqlx::query::QueryScalar<'_, _, String, PgArguments> = match act.bounds {
        Some(bounds) => sqlx::query_scalar(SET_LIMIT)
            .bind(&act.name)
            .bind(bounds.at_once)
            .bind(bounds.starts)
            .bind(bounds.period)
            .bind(bounds.burst),
        None => sqlx::query_scalar(RESET_LIMIT).bind(&act.name),
    };
    let deed = statement
        .bind(act.actor.as_deref())
        .bind(act.reason.as_deref())
        .bind(locked.timeout())
        .fetch_one(&mut *transaction)
        .await?;
    // An engine looks at once at those that wait.
    if ["set", "reset"].contains(&&*deed) {
        notify_engines(transaction, PAUSED).await?;
    }
    Ok(deed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: i64 = 1_000_000;
    const NOW: i64 = 1_000 * SECOND;

    /// The seconds from now until an instance is let in: four starts in eight seconds.
    fn wait(used: i64, burst: i32, ahead: i64) -> Option<Duration> {
        let bounds = Some((4, 8 * SECOND, burst));
        let rate = Rate { used_until: NOW + used * SECOND, bounds, now: NOW };
        Some(rate.until(ahead)?.duration_since(time(NOW)).expect("a later time"))
    }

    #[test]
    fn an_instance_waits_for_those_ahead_of_it() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        // Nothing is used up: a burst comes in now, and then one each two seconds.
        assert_eq!([0, 1, 2].map(|ahead| wait(-5, 1, ahead)), [None, seconds(2), seconds(4)]);
        assert_eq!([1, 2, 3].map(|ahead| wait(0, 3, ahead)), [None, None, seconds(2)]);
        assert_eq!([0, 1].map(|ahead| wait(3, 1, ahead)), [seconds(3), seconds(5)]);
        assert_eq!([0, 1, 2].map(|ahead| wait(3, 3, ahead)), [None, seconds(1), seconds(3)]);
    }

    #[test]
    fn a_rate_of_absurd_numbers_gives_a_time_or_none() {
        for used_until in [i64::MIN, i64::MAX] {
            for bounds in [(1, i64::MAX, 1), (i32::MAX, 1, i32::MIN), (-1, 1, 1), (0, 0, 0)] {
                let rate = Rate { used_until, bounds: Some(bounds), now: NOW };
                for ahead in [0, i64::MAX] {
                    assert!(rate.until(ahead).is_none_or(|until| until <= time(LATEST)));
                }
            }
        }
        assert_eq!(Rate { used_until: i64::MAX, bounds: None, now: NOW }.until(9), None);
    }

    #[test]
    fn the_name_of_a_bucket_is_taken_apart_again() {
        for key in [None, Some(""), Some("ada"), Some("a\u{1f}b")] {
            let (limit, found) = limit_and_key(&bucket_of("stripe", key));
            assert_eq!((&*limit, found.as_deref()), ("stripe", key));
        }
    }
}
