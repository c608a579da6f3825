//! The isolation levels of a step's transaction.
//!
//! Invariant: a step's level is stated by its machine. The database's default does not apply.

/// The isolation level of a step's transaction; see
/// [the guide](crate::guide::transactions#isolation).
///
/// ```
/// use gen_durable::{PgConnection, prelude::*};
///
/// #[durable_fsm(output = i64)]
/// pub enum Audit {
///     Count,
/// }
///
/// #[durable_fsm]
/// impl Audit {
///     #[step(isolation = "repeatable read")]
///     async fn count(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
///         let books = sqlx::query_scalar("select count(*) from books").fetch_one(&mut *tx).await?;
///         Ok(cx.done(books))
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// `read committed`: each statement sees what was committed before it. This is the default.
    #[default]
    ReadCommitted,
    /// `repeatable read`: all statements see what was committed before the first one.
    RepeatableRead,
    /// `serializable`: the transaction takes effect as if it ran alone.
    Serializable,
}

impl Isolation {
    /// Returns the name of the level in Postgres.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ReadCommitted => "read committed",
            Self::RepeatableRead => "repeatable read",
            Self::Serializable => "serializable",
        }
    }

    /// True if each statement sees what was committed before it.
    pub(crate) fn has_fresh_snapshots(self) -> bool {
        self == Self::ReadCommitted
    }
}
