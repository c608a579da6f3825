//! The doctor's looks at the server: its settings, its tables and its transactions.
//!
//! Invariant: every role may read the views that they read. A finding counts the sessions that the
//! role may not see.

use std::time::{Duration, SystemTime};

use sqlx::{PgConnection, Row};

use super::{doctor::at, time};

const CHECK_HISTORY: &str = include_str!("sql/check_history.sql");
const CHECK_SERVER: &str = include_str!("sql/check_server.sql");
const CHECK_TABLES: &str = include_str!("sql/check_tables.sql");
const CHECK_TIMEOUTS: &str = include_str!("sql/check_timeouts.sql");
const CHECK_TRANSACTIONS: &str = include_str!("sql/check_transactions.sql");

/// The facts of the server that the doctor judges.
#[derive(Debug)]
pub(crate) struct ServerState {
    pub(crate) clock: SystemTime,
    /// Its version as a number: 150004.
    pub(crate) version: i32,
    /// Settings: their names and values.
    pub(crate) settings: Vec<(&'static str, String)>,
    pub(crate) max_connections: i64,
    /// The connections of all databases.
    pub(crate) connections: i64,
    /// The age of the database's oldest transaction id.
    pub(crate) xid_age: i64,
}

pub(crate) async fn check_server(
    connection: &mut PgConnection,
) -> Result<ServerState, sqlx::Error> {
    let row = sqlx::query(CHECK_SERVER).fetch_one(connection).await?;
    let names = ["fsync", "full_page_writes", "synchronous_commit", "autovacuum", "track_counts"];
    let setting = |name: &'static str| Ok((name, row.try_get(name)?));
    Ok(ServerState {
        clock: time(row.try_get("clock")?),
        version: row.try_get("version")?,
        settings: names.into_iter().map(setting).collect::<Result<_, sqlx::Error>>()?,
        max_connections: row.try_get("max_connections")?,
        connections: row.try_get::<Option<_>, _>("connections")?.unwrap_or(0),
        xid_age: row.try_get("xid_age")?,
    })
}

/// A timeout that is too short.
#[derive(Debug)]
pub(crate) struct Timeout {
    /// The role that has it. None for a setting of the server or the database.
    pub(crate) role: Option<String>,
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Returns the timeouts that are set and shorter than this.
pub(crate) async fn check_timeouts(
    connection: &mut PgConnection,
    shortest: Duration,
    options: Option<&str>,
) -> Result<Vec<Timeout>, sqlx::Error> {
    let shortest = i64::try_from(shortest.as_millis()).unwrap_or(i64::MAX);
    let rows =
        sqlx::query(CHECK_TIMEOUTS).bind(shortest).bind(options).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Timeout {
                role: row.try_get("role")?,
                name: row.try_get("name")?,
                value: row.try_get("value")?,
            })
        })
        .collect()
}

/// A transaction that has been open for long, or sessions that this role may not see.
#[derive(Debug)]
pub(crate) struct OldTransaction {
    /// `session`, `prepared` or `hidden`.
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) since: Option<SystemTime>,
}

/// Returns the transactions that have been open for longer than this.
pub(crate) async fn check_transactions(
    connection: &mut PgConnection,
    age: Duration,
) -> Result<Vec<OldTransaction>, sqlx::Error> {
    let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    let rows = sqlx::query(CHECK_TRANSACTIONS).bind(age).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(OldTransaction {
                kind: row.try_get("kind")?,
                name: row.try_get("name")?,
                since: at(row, "since")?,
            })
        })
        .collect()
}

/// A table of the schema.
#[derive(Debug)]
pub(crate) struct TableState {
    pub(crate) name: String,
    pub(crate) live: i64,
    pub(crate) dead: i64,
    /// The last vacuum, or the time since which the table is in use.
    pub(crate) vacuumed: Option<SystemTime>,
    /// True if its own settings turn autovacuum off.
    pub(crate) off: bool,
}

pub(crate) async fn check_tables(
    connection: &mut PgConnection,
) -> Result<Vec<TableState>, sqlx::Error> {
    let rows = sqlx::query(CHECK_TABLES).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(TableState {
                name: row.try_get("name")?,
                live: row.try_get("live")?,
                dead: row.try_get("dead")?,
                vacuumed: at(row, "vacuumed")?,
                off: row.try_get("off")?,
            })
        })
        .collect()
}

/// The partitions of the history.
#[derive(Debug)]
pub(crate) struct HistoryState {
    /// The days, of today and tomorrow, that have none.
    pub(crate) missing: Vec<String>,
    /// True if the default partition has or had rows. Engines keep it empty.
    pub(crate) rest: bool,
}

pub(crate) async fn check_history(
    connection: &mut PgConnection,
) -> Result<HistoryState, sqlx::Error> {
    let row = sqlx::query(CHECK_HISTORY).fetch_one(connection).await?;
    Ok(HistoryState { missing: row.try_get("missing")?, rest: row.try_get("rest")? })
}
