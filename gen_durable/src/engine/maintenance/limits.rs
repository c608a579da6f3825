//! Lets in rows that wait for limits which no engine looks at any more, and deletes idle buckets.
//!
//! An engine looks at buckets if it has limited steps. The program that had them may be gone, or
//! its newer version may have no limit there. Every engine therefore looks now and then at what has
//! been due for long.
//!
//! Invariant: no row waits for ever because nobody has its limit.

use super::{Database, Progress};
use crate::{engine::limiter, storage};

/// The most buckets in a page.
const BUCKETS_MAX: i64 = 1000;
/// The time after which a bucket that is due counts as left alone, in microseconds.
const LATE: i64 = 30_000_000;

/// Looks once.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let mut connection = database.connections.get().await?;
    let tidying = async {
        storage::stranded_buckets(&mut connection).await?;
        let mut after = String::new();
        while let Some(last) = storage::prune_buckets(&mut connection, &after, BUCKETS_MAX).await? {
            after = last;
        }
        Ok(())
    };
    let result = database.connections.within(tidying).await;
    connection.done(result)?;
    let Some(shared) = database.engine.upgrade() else { return Ok(Progress::Idle) };
    let woken = limiter::wake(&shared, &[], 0, LATE).await?;
    Ok(if woken.looked > 0 { Progress::More } else { Progress::Idle })
}
