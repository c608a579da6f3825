//! Limits: their bounds, the turns of runs in their buckets, and the rows that wait for room.
//!
//! Invariant: a bucket's row is its lock, and no statement here holds it longer than itself.

use sqlx::{PgConnection, Row};

use super::{begin, row::Kind};

const TAKE_TURNS: &str = include_str!("sql/take_turns.sql");
const ADD_BUCKETS: &str = include_str!("sql/add_buckets.sql");
const HOLD_BACK: &str = include_str!("sql/hold_back.sql");
const WAKE_BUCKETS: &str = include_str!("sql/wake_buckets.sql");
const PRUNE_BUCKETS: &str = include_str!("sql/prune_buckets.sql");
const STRANDED_BUCKETS: &str = include_str!("sql/stranded_buckets.sql");
const REGISTER_LIMITS: &str = include_str!("sql/register_limits.sql");
const SETTLE_LIMITS: &str = include_str!("sql/settle_limits.sql");
const LOOK_AT_LIMITS: &str = include_str!("sql/look_at_limits.sql");
const TOUCH_BUCKETS: &str = include_str!("sql/touch_buckets.sql");
pub(super) const LOCK_DECLARATIONS: &str = include_str!("sql/lock_declarations.sql");

/// The kind of a limit among the declarations.
pub(crate) const LIMIT: &str = "limit";

/// The bounds of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The most runs at once.
    pub(crate) at_once: Option<i32>,
    /// The most starts in a period.
    pub(crate) starts: Option<i32>,
    /// The period, in microseconds.
    pub(crate) period: Option<i64>,
    /// The most starts at the same moment.
    pub(crate) burst: Option<i32>,
}

/// A limit that an engine declares.
#[derive(Clone, Debug)]
pub(crate) struct DeclaredLimit {
    pub(crate) name: String,
    pub(crate) body: String,
    pub(crate) bounds: Bounds,
}

/// The runs that ask for their turns in a bucket, and what the worker has in it besides.
#[derive(Debug)]
pub(crate) struct BucketAsk<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) limit: &'a str,
    /// The weight of the worker's other runs.
    pub(crate) mine: i64,
    /// The weight of each run that asks.
    pub(crate) weight: u32,
    /// The instances that ask, the first of which comes first.
    pub(crate) ids: Vec<i64>,
}

/// The answer of a bucket.
#[derive(Debug)]
pub(crate) struct BucketAnswer {
    /// The place of the bucket among those that were asked.
    pub(crate) place: usize,
    /// The instances that were admitted.
    pub(crate) admitted: Vec<i64>,
    /// True if rows wait for the bucket.
    pub(crate) waited: bool,
    /// The microseconds until which its rate is used up.
    pub(crate) used: i64,
    /// The weight of all runs in it.
    pub(crate) held: i64,
    pub(crate) bounds: Bounds,
}

/// Admits runs as far as there is room, and notes what the worker's other runs hold. Buckets that
/// have no row give no answer. `number` is larger than that of the worker's earlier calls.
pub(crate) async fn take_turns(
    connection: &mut PgConnection,
    worker: i64,
    number: i64,
    asks: &[BucketAsk<'_>],
    ahead: i64,
) -> Result<Vec<BucketAnswer>, sqlx::Error> {
    let small = |number: i64| i32::try_from(number).unwrap_or(i32::MAX);
    let rows = sqlx::query(TAKE_TURNS)
        .bind(worker)
        .bind(number)
        .bind(asks.iter().map(|ask| ask.bucket).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| ask.limit).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| small(ask.mine)).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| small(ask.weight.into())).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| array(&ask.ids)).collect::<Vec<_>>())
        .bind(ahead)
        .fetch_all(connection)
        .await?;
    let answer = |row: &sqlx::postgres::PgRow| {
        let bound = |column| row.try_get::<Option<i64>, _>(column);
        Ok(BucketAnswer {
            place: usize::try_from(row.try_get::<i32, _>("nth")? - 1).unwrap_or(usize::MAX),
            admitted: row.try_get("admitted")?,
            waited: row.try_get("waited")?,
            used: row.try_get("used")?,
            held: row.try_get("held")?,
            bounds: Bounds {
                at_once: bound("at_once")?.map(small),
                starts: bound("starts")?.map(small),
                period: bound("period")?,
                burst: bound("burst")?.map(small),
            },
        })
    };
    rows.iter().map(answer).collect()
}

/// Returns ids as the text of an array.
fn array(ids: &[i64]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + ids.len() * 8);
    text.push('{');
    for (nth, id) in ids.iter().enumerate() {
        let _ = if nth == 0 { write!(text, "{id}") } else { write!(text, ",{id}") };
    }
    text.push('}');
    text
}

/// Adds the rows of buckets, given with their limits.
pub(crate) async fn add_buckets(
    connection: &mut PgConnection,
    buckets: &[(&str, &str)],
) -> Result<(), sqlx::Error> {
    let (buckets, limits): (Vec<_>, Vec<_>) = buckets.iter().copied().unzip();
    sqlx::query(ADD_BUCKETS).bind(buckets).bind(limits).execute(connection).await?;
    Ok(())
}

/// A claimed row whose limit has no room.
#[derive(Debug)]
pub(crate) struct HeldRow<'a> {
    pub(crate) id: i64,
    pub(crate) revision: i64,
    pub(crate) bucket: &'a str,
    pub(crate) weight: u32,
}

/// Takes claimed rows out of the claim's index. Returns those that are marked, and for each whether
/// it is given back too.
pub(crate) async fn hold_back(
    connection: &mut PgConnection,
    worker: i64,
    rows: &[HeldRow<'_>],
) -> Result<Vec<(i64, bool)>, sqlx::Error> {
    let marked = sqlx::query(HOLD_BACK)
        .bind(worker)
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.revision).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.bucket).collect::<Vec<_>>())
        .bind(
            rows.iter()
                .map(|row| i32::try_from(row.weight).unwrap_or(i32::MAX))
                .collect::<Vec<_>>(),
        )
        .fetch_all(connection)
        .await?;
    marked.iter().map(|row| Ok((row.try_get("id")?, row.try_get("alone")?))).collect()
}

/// A group of rows: those of one queue, machine, version and priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowGroup {
    pub(crate) queue: String,
    pub(crate) kind: Kind,
    pub(crate) priority: i16,
}

/// The result of a look at buckets for which rows wait.
#[derive(Debug)]
pub(crate) struct Woken {
    /// The groups of the rows that were let in.
    pub(crate) groups: Vec<RowGroup>,
    /// The number of buckets that were looked at.
    pub(crate) looked: i64,
    /// The database's time, in microseconds since 1970.
    pub(crate) now: i64,
    /// The microseconds until another one is due.
    pub(crate) next: Option<i64>,
}

/// Looks at up to `buckets_max` buckets that have been due for `late` microseconds, and at `early`
/// ones.
pub(crate) async fn wake_buckets(
    connection: &mut PgConnection,
    buckets_max: i64,
    early: &[String],
    ahead: i64,
    late: i64,
) -> Result<Woken, sqlx::Error> {
    let row = sqlx::query(WAKE_BUCKETS)
        .bind(buckets_max)
        .bind(early)
        .bind(ahead)
        .bind(late)
        .fetch_one(connection)
        .await?;
    // An aggregate of no rows is null.
    let queues: Vec<String> = row.try_get::<Option<_>, _>("queues")?.unwrap_or_default();
    let fsms: Vec<String> = row.try_get::<Option<_>, _>("fsms")?.unwrap_or_default();
    let versions: Vec<i32> = row.try_get::<Option<_>, _>("versions")?.unwrap_or_default();
    let priorities: Vec<i16> = row.try_get::<Option<_>, _>("priorities")?.unwrap_or_default();
    let groups = queues.into_iter().zip(fsms).zip(versions).zip(priorities);
    Ok(Woken {
        groups: groups
            .map(|(((queue, fsm), fsm_version), priority)| RowGroup {
                queue,
                kind: Kind { fsm, fsm_version },
                priority,
            })
            .collect(),
        looked: row.try_get("looked")?,
        now: row.try_get("now")?,
        next: row.try_get("next")?,
    })
}

/// Deletes the idle ones of a page of buckets. Returns the last bucket of the page, if it was full.
pub(crate) async fn prune_buckets(
    connection: &mut PgConnection,
    after: &str,
    buckets_max: i64,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(PRUNE_BUCKETS).bind(after).bind(buckets_max).fetch_one(connection).await
}

/// Gives buckets for which rows wait a time of their next look, if they have none. Returns the
/// number of those.
pub(crate) async fn stranded_buckets(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(STRANDED_BUCKETS).execute(connection).await?.rows_affected())
}

/// Adds the limits that are not there yet.
pub(crate) async fn register_limits(
    connection: &mut PgConnection,
    limits: &[DeclaredLimit],
) -> Result<(), sqlx::Error> {
    bind(sqlx::query(REGISTER_LIMITS), limits).execute(connection).await?;
    Ok(())
}

/// Gives limits the bounds of the declarations that have come into force.
pub(crate) async fn settle_limits(
    connection: &mut PgConnection,
    limits: &[DeclaredLimit],
) -> Result<(), sqlx::Error> {
    let mut transaction = begin(connection).await?;
    sqlx::query(LOCK_DECLARATIONS).execute(&mut *transaction).await?;
    bind(sqlx::query(SETTLE_LIMITS), limits).execute(&mut *transaction).await?;
    transaction.commit().await
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Binds limits and their bounds.
fn bind<'q>(query: Query<'q>, limits: &'q [DeclaredLimit]) -> Query<'q> {
    query
        .bind(limits.iter().map(|limit| limit.name.as_str()).collect::<Vec<_>>())
        .bind(limits.iter().map(|limit| limit.body.as_str()).collect::<Vec<_>>())
        .bind(limits.iter().map(|limit| limit.bounds.at_once).collect::<Vec<_>>())
        .bind(limits.iter().map(|limit| limit.bounds.starts).collect::<Vec<_>>())
        .bind(limits.iter().map(|limit| limit.bounds.period).collect::<Vec<_>>())
        .bind(limits.iter().map(|limit| limit.bounds.burst).collect::<Vec<_>>())
}

/// A limit, as an engine that declares it sees it.
#[derive(Debug)]
pub(crate) struct LimitState {
    pub(crate) name: String,
    pub(crate) revision: i64,
    /// True if its declaration has come into force, and its bounds are not.
    pub(crate) unsettled: bool,
}

/// Reads the state of an engine's limits.
pub(crate) async fn look_at_limits(
    connection: &mut PgConnection,
    limits: &[DeclaredLimit],
) -> Result<Vec<LimitState>, sqlx::Error> {
    let rows = sqlx::query(LOOK_AT_LIMITS)
        .bind(limits.iter().map(|limit| limit.name.as_str()).collect::<Vec<_>>())
        .bind(limits.iter().map(|limit| limit.body.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let state = |row: &sqlx::postgres::PgRow| {
        Ok(LimitState {
            name: row.try_get("name")?,
            revision: row.try_get("revision")?,
            unsettled: row.try_get::<Option<bool>, _>("unsettled")?.unwrap_or(false),
        })
    };
    rows.iter().map(state).collect()
}

/// Makes the buckets of limits due now.
pub(crate) async fn touch_buckets(
    connection: &mut PgConnection,
    limits: &[String],
) -> Result<(), sqlx::Error> {
    sqlx::query(TOUCH_BUCKETS).bind(limits).execute(connection).await?;
    Ok(())
}
