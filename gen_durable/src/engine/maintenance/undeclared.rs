//! Logs that the database has schedules that no running program declares.
//!
//! Invariant: they stay as they are, as a program that declares them may come. An engine that
//! declares schedules logs one line a minute. Any other engine looks once.

use std::sync::atomic::Ordering;

use super::{Database, Progress};
use crate::storage;

/// Looks once.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    if database.looked_for_undeclared.load(Ordering::Relaxed) && !database.has_schedules {
        return Ok(Progress::Idle);
    }
    let mut connection = database.connections.get().await?;
    let look = storage::undeclared_schedules(&mut connection);
    let result = database.connections.within(look).await;
    let undeclared = connection.done(result)?;
    database.looked_for_undeclared.store(true, Ordering::Relaxed);
    if !undeclared.is_empty() {
        tracing::warn!(
            "schedules fire no more, as no running program declares them: {}; run a program that does, or delete their rows",
            undeclared.join(", ")
        );
    }
    Ok(Progress::Idle)
}
