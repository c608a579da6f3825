//! Finds instances of a filter, and reads what lists show of them.
//!
//! Invariant: each call examines a bounded number of rows, whatever the filter and however many
//! instances there are.

use std::time::SystemTime;

use sqlx::{
    PgConnection, Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{since_1970, time};
use crate::status::Status;

const FIND_BUSY: &str = include_str!("sql/find_busy.sql");
const FIND_FAILED: &str = include_str!("sql/find_failed.sql");
const FIND_INSTANCES: &str = include_str!("sql/find_instances.sql");
const LIST_INSTANCES: &str = include_str!("sql/list_instances.sql");

/// The instances to find. None stands for any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) fsm: Option<String>,
    pub(crate) status: Option<Status>,
    pub(crate) step: Option<String>,
    pub(crate) queue: Option<String>,
    pub(crate) fsm_version: Option<i32>,
    pub(crate) partition_key: Option<String>,
    pub(crate) unique_key: Option<String>,
    /// The time from which on they were changed last.
    pub(crate) changed_since: Option<SystemTime>,
    /// The time before which they were changed last.
    pub(crate) changed_before: Option<SystemTime>,
}

impl Filter {
    /// True if the instance still fits.
    pub(crate) fn fits(&self, item: &Item) -> bool {
        fn is<T: PartialEq + ?Sized>(wanted: Option<&T>, found: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let key =
            |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        is(self.fsm.as_deref(), &*item.fsm)
            && is(self.status.map(Status::as_str), &*item.status)
            && is(self.step.as_deref(), &*item.step)
            && is(self.queue.as_deref(), &*item.queue)
            && is(self.fsm_version.as_ref(), &item.fsm_version)
            && key(&self.partition_key, &item.partition_key)
            && key(&self.unique_key, &item.unique_key)
            && self.changed_since.is_none_or(|since| item.updated_at >= since)
            && self.changed_before.is_none_or(|before| item.updated_at < before)
    }
}

/// The instances that were found.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// Their ids, the newest first.
    pub(crate) ids: Vec<i64>,
    /// The id before which the search may go on. None if there are no others.
    pub(crate) next: Option<i64>,
}

/// An instance in a list.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) id: i64,
    pub(crate) fsm: String,
    pub(crate) fsm_version: i32,
    pub(crate) status: String,
    pub(crate) step: String,
    pub(crate) attempt: i32,
    pub(crate) queue: String,
    pub(crate) partition_key: Option<String>,
    pub(crate) unique_key: Option<String>,
    pub(crate) last_error: Option<String>,
    pub(crate) due_at: Option<SystemTime>,
    pub(crate) inserted_at: SystemTime,
    pub(crate) updated_at: SystemTime,
    pub(crate) finished_at: Option<SystemTime>,
}

/// Finds at most `limit` instances before an id, the newest first. Fewer may be found though there
/// are more: then `next` says where to go on.
pub(crate) async fn find(
    connection: &mut PgConnection,
    filter: &Filter,
    before: i64,
    limit: usize,
) -> Result<Ids, sqlx::Error> {
    let max = i64::try_from(limit).unwrap_or(i64::MAX);
    let (found, edge) = match filter.status {
        Some(Status::Failed | Status::Cancelled) => {
            let find = with(sqlx::query(FIND_FAILED), filter, before, max);
            window(&find.fetch_one(connection).await?)?
        }
        Some(Status::Runnable | Status::Executing) => {
            let find = with(sqlx::query(FIND_BUSY), filter, before, max);
            let row = find.fetch_one(&mut *connection).await?;
            if row.try_get("more")? {
                find_instances(connection, filter, before, max).await?
            } else {
                (row.try_get("ids")?, None)
            }
        }
        Some(Status::Done | Status::AwaitingSignal) | None => {
            find_instances(connection, filter, before, max).await?
        }
    };
    // A full answer may have more behind it, nearer than the edge.
    let next = if found.len() >= limit { found.last().copied() } else { edge };
    Ok(Ids { ids: found, next })
}

fn with<'q>(
    query: Query<'q, Postgres, PgArguments>,
    filter: &'q Filter,
    before: i64,
    limit: i64,
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(before)
        .bind(limit)
        .bind(filter.fsm.as_deref())
        .bind(filter.status.map(Status::as_str))
        .bind(filter.step.as_deref())
        .bind(filter.queue.as_deref())
        .bind(filter.fsm_version)
        .bind(filter.partition_key.as_deref())
        .bind(filter.unique_key.as_deref())
        .bind(filter.changed_since.map(since_1970))
        .bind(filter.changed_before.map(since_1970))
}

/// Finds instances by a walk from an id back.
async fn find_instances(
    connection: &mut PgConnection,
    filter: &Filter,
    before: i64,
    max: i64,
) -> Result<(Vec<i64>, Option<i64>), sqlx::Error> {
    let find = with(sqlx::query(FIND_INSTANCES), filter, before, max);
    window(&find.fetch_one(connection).await?)
}

/// Returns the ids of a search in a window, and the window's edge if there is more behind it.
fn window(row: &PgRow) -> Result<(Vec<i64>, Option<i64>), sqlx::Error> {
    Ok((row.try_get("ids")?, row.try_get("edge")?))
}

/// Returns what a list shows of these instances, the newest first. Those that are gone are left
/// out.
pub(crate) async fn list_instances(
    connection: &mut PgConnection,
    ids: &[i64],
) -> Result<Vec<Item>, sqlx::Error> {
    let rows = sqlx::query(LIST_INSTANCES).bind(ids).fetch_all(connection).await?;
    let mut items = rows.iter().map(item).collect::<Result<Vec<_>, _>>()?;
    items.sort_by_key(|item| std::cmp::Reverse(item.id));
    Ok(items)
}

fn item(row: &PgRow) -> Result<Item, sqlx::Error> {
    let at = |column: &str| -> Result<Option<SystemTime>, sqlx::Error> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(time))
    };
    let always =
        |column: &str| -> Result<SystemTime, sqlx::Error> { Ok(time(row.try_get(column)?)) };
    Ok(Item {
        id: row.try_get("id")?,
        fsm: row.try_get("fsm")?,
        fsm_version: row.try_get("fsm_version")?,
        status: row.try_get("status")?,
        step: row.try_get("step")?,
        attempt: row.try_get("attempt")?,
        queue: row.try_get("queue")?,
        partition_key: row.try_get("partition_key")?,
        unique_key: row.try_get("unique_key")?,
        last_error: row.try_get("last_error")?,
        due_at: at("due_at")?,
        inserted_at: always("inserted_at")?,
        updated_at: always("updated_at")?,
        finished_at: at("finished_at")?,
    })
}
