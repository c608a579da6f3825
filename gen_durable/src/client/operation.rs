//! Runs what operators do: in the caller's transaction, or in one of its own that is tried again.
//!
//! Invariant: an operation is done as a whole, or not at all.

use sqlx::PgConnection;

use super::{
    Target,
    calls::{DEADLOCK_TRIES_MAX, Wait},
};
use crate::{
    connections::Connections,
    error::DatabaseError,
    fault,
    storage::{self, Act, Acted, Locked},
};

/// An operation, whose statements run in one transaction.
pub(super) trait Operation: Sync {
    type Answer: Send;

    /// Its name, for an error of the database.
    const NAME: &'static str;

    fn run(
        &self,
        transaction: &mut PgConnection,
        locked: Locked,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send;
}

impl Operation for Act {
    type Answer = Vec<Acted>;

    const NAME: &'static str = "act on an instance";

    async fn run(
        &self,
        transaction: &mut PgConnection,
        locked: Locked,
    ) -> Result<Vec<Acted>, sqlx::Error> {
        storage::act(transaction, self, locked).await
    }
}

/// Runs an operation. `what` names its subject, in case that is locked for long.
pub(super) async fn operate<O: Operation>(
    target: Target<'_>,
    operation: &O,
    what: &str,
) -> Result<O::Answer, DatabaseError> {
    let connections = match target {
        Target::Connection(connection) => {
            let answer = operation.run(connection, Locked::Wait).await;
            return answer.map_err(DatabaseError::new(O::NAME));
        }
        Target::Client(client) => client.connections().clone(),
        Target::Pool(pool) => Connections::once(pool.clone()),
    };
    let mut wait = Wait::new(&connections, O::NAME, what);
    let mut tries = 0;
    loop {
        let call = async {
            let mut connection = connections.get().await?;
            let locked = wait.locked;
            let operating = async {
                let mut transaction = storage::begin(&mut connection).await?;
                let answer = operation.run(&mut transaction, locked).await?;
                transaction.commit().await?;
                Ok(answer)
            };
            let result = connections.within(operating).await;
            connection.done(result)
        };
        let answer = match call.await {
            // The next try names the instance that has taken the unique key.
            Err(error)
                if tries < DEADLOCK_TRIES_MAX
                    && (fault::is_rolled_back(&error) || is_taken(&error)) =>
            {
                tries += 1;
                continue;
            }
            answer => answer,
        };
        if let Some(answer) = wait.over(answer.map_err(DatabaseError::new(O::NAME))) {
            return answer.inspect_err(|error| connections.tell(error));
        }
    }
}

fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}
