//! Lets the rows that wait for freed partition keys go on.
//!
//! Invariant: the transaction has the locks of the keys before it looks for their next rows.

use sqlx::{PgConnection, Row};

use super::begin;

const LOCK_PARTITIONS: &str = include_str!("sql/lock_partitions.sql");
const UNBLOCK_PARTITIONS: &str = include_str!("sql/unblock_partitions.sql");

/// The result of unblocking partition keys.
#[derive(Debug, Default)]
pub(crate) struct Unblocked {
    /// Queues of the rows that became claimable.
    pub(crate) queues: Vec<String>,
    /// Keys of which another transaction has locked the row that goes next. They must be unblocked
    /// again.
    pub(crate) locked: Vec<String>,
}

/// Lets the next row of each key into the claim's index. The caller's transaction has freed the
/// keys.
pub(super) async fn free_partitions(
    connection: &mut PgConnection,
    keys: &[String],
) -> Result<Unblocked, sqlx::Error> {
    let mut freed = Unblocked::default();
    if keys.is_empty() {
        return Ok(freed);
    }
    sqlx::query(LOCK_PARTITIONS).bind(keys).execute(&mut *connection).await?;
    for row in sqlx::query(UNBLOCK_PARTITIONS).bind(keys).fetch_all(connection).await? {
        freed.queues.extend(row.try_get::<Option<String>, _>(0)?);
        freed.locked.extend(row.try_get::<Option<String>, _>(1)?);
    }
    Ok(freed)
}

/// Unblocks keys once more, because another transaction had the row that goes next locked.
pub(crate) async fn unblock_again(
    connection: &mut PgConnection,
    keys: &[String],
) -> Result<Unblocked, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let freed = free_partitions(&mut transaction, keys).await?;
    transaction.commit().await?;
    Ok(freed)
}
