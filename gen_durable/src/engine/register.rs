//! The start of an engine in the database: checks, retentions, the worker.
//!
//! Invariant: nothing is written before all has been found to fit.

use std::collections::BTreeMap;

use crate::{
    config::Config,
    connections::Connections,
    error::{DatabaseError, Error},
    registry::Registry,
    storage::{self, Retention},
};

/// The most tries to state the retentions. Each may wait a second for another engine that states
/// its own.
const TRIES_MAX: usize = 5;

/// Checks the schema and the sessions, states the retentions, and registers the worker.
pub(super) async fn register(
    connections: &Connections,
    config: &Config,
    registry: &Registry,
) -> Result<i64, Error> {
    check(connections).await?;
    let retentions = retentions(config, registry);
    let mut tries = 0;
    while let Err(error) = retain(connections, &retentions).await {
        tries += 1;
        let again = storage::is_rolled_back(&error) || storage::is_lock_timeout(&error);
        if tries == TRIES_MAX || !again {
            return Err(DatabaseError::new("state for how long instances are kept")(error).into());
        }
    }
    let worker = async {
        let mut connection = connections.get().await?;
        let (name, queues) = (&config.name, config.queue_names());
        let register = storage::register_worker(&mut connection, name, config.lease_ttl, &queues);
        let result = connections.within(register).await;
        connection.done(result)
    };
    Ok(worker.await.map_err(DatabaseError::new("register the worker"))?)
}

/// Checks the schema's version.
async fn check(connections: &Connections) -> Result<(), Error> {
    let mut connection =
        connections.get().await.map_err(DatabaseError::new("connect to the database"))?;
    let found = connections.within(storage::schema_version(&mut connection)).await;
    let found = found.map_err(|error| {
        let foreign = storage::is_foreign_ledger(&error);
        let error = DatabaseError::new("read the schema's version")(error);
        if foreign { Error::ForeignSchema { cause: error } } else { error.into() }
    })?;
    let needed = storage::SCHEMA_VERSION;
    if found.version < needed {
        return Err(Error::SchemaTooOld { found: found.version, needed });
    }
    // A newer schema may serve this engine too: a deployment that was rolled back goes on.
    if found.serves > needed {
        let (found, serves) = (found.version, found.serves);
        return Err(Error::SchemaTooNew { found, serves, needed });
    }
    Ok(())
}

/// The retention of each machine that the engine runs, and of others; none where the default
/// applies.
fn retentions(config: &Config, registry: &Registry) -> BTreeMap<&'static str, Option<Retention>> {
    let run = registry.runners().map(|runner| (runner.name(), None));
    let said = config.retentions.iter().map(|(machine, retention)| (*machine, Some(*retention)));
    run.chain(said).collect()
}

async fn retain(
    connections: &Connections,
    retentions: &BTreeMap<&'static str, Option<Retention>>,
) -> Result<(), sqlx::Error> {
    if retentions.is_empty() {
        return Ok(());
    }
    let mut connection = connections.get().await?;
    let result = connections.within(storage::retain(&mut connection, retentions)).await;
    connection.done(result)
}
