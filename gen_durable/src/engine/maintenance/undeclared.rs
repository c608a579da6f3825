//! Logs that the database has schedules that no running program declares.
//!
//! Invariant: they stay as they are, as a program that declares them may come. Each engine logs one
//! line a minute, whether it declares schedules or not: the program that had them may be gone for
//! good.

use super::{Database, Progress};
use crate::storage;

/// Looks once.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let mut connection = database.connections.get().await?;
    let look = storage::undeclared_schedules(&mut connection);
    let result = database.connections.within(look).await;
    let undeclared = connection.done(result)?;
    if !undeclared.is_empty() {
        tracing::warn!(
            "schedules fire no more, as no running program declares them: {}; run a program that does, or delete their rows",
            undeclared.join(", ")
        );
    }
    Ok(Progress::Idle)
}
