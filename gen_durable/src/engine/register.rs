//! The start of an engine in the database: checks the schema, registers the machines and queues,
//! states the retentions, registers the worker.
//!
//! Invariant: nothing is written before everything was found to fit.

use std::collections::BTreeMap;

use super::{config::Config, process::process, registry::Registry};
use crate::{
    connections::Connections,
    error::{DatabaseError, Error},
    fault,
    storage::{self, Declarations, NewMachine, Retention},
};

/// The most tries to write what an engine says of its machines. Each may wait a second for another
/// engine that does the same.
const TRIES_MAX: usize = 5;

/// Checks the schema, registers the machines and queues, states the retentions, and registers the
/// worker, whose id it returns.
pub(super) async fn register(
    connections: &Connections,
    config: &Config,
    registry: &Registry,
    declared: &Declarations,
) -> Result<i64, Error> {
    check(connections).await?;
    let (machines, queues) = (registry.machines(), config.queue_names());
    let mut tries = 0;
    while let Err(error) = write(connections, &machines, &queues).await {
        tries += 1;
        if !is_held_up(&error, tries) {
            return Err(refused(error));
        }
    }
    let retentions = retentions(config, registry);
    let mut tries = 0;
    while let Err(error) = retain(connections, &retentions).await {
        tries += 1;
        if !is_held_up(&error, tries) {
            return Err(DatabaseError::new("state for how long instances are kept")(error).into());
        }
    }
    let kinds = registry.kinds();
    let process = process(config, &kinds);
    let mut tries = 0;
    loop {
        let worker = async {
            let mut connection = connections.get().await?;
            let ttl = config.lease_ttl;
            let register = storage::register_declaring(&mut connection, ttl, &process, declared);
            let result = connections.within(register).await;
            connection.done(result)
        };
        match worker.await {
            Ok(worker) => return Ok(worker),
            Err(error) => {
                tries += 1;
                if !is_held_up(&error, tries) {
                    return Err(DatabaseError::new("register the worker")(error).into());
                }
            }
        }
    }
}

/// True if another engine held up the last of these tries, and a further one is due.
fn is_held_up(error: &sqlx::Error, tries: usize) -> bool {
    tries < TRIES_MAX && (fault::is_rolled_back(error) || fault::is_lock_timeout(error))
}

/// Registers machines and queues.
async fn write(
    connections: &Connections,
    machines: &[NewMachine],
    queues: &[String],
) -> Result<(), sqlx::Error> {
    let mut connection = connections.get().await?;
    let result = connections.within(storage::register(&mut connection, machines, queues)).await;
    connection.done(result)
}

/// Returns the error of machines and queues that could not be registered.
fn refused(error: sqlx::Error) -> Error {
    if storage::is_inexpressible(&error) {
        return Error::InvalidOption {
            option: "the machines and queues".to_owned(),
            reason: format!(
                "the name of a machine, step, signal or queue has a character that this database cannot store ({}): rename it, or use a database in UTF-8",
                fault::reason(error)
            ),
        };
    }
    DatabaseError::new("register the machines")(error).into()
}

/// Checks that the schema's version fits.
async fn check(connections: &Connections) -> Result<(), Error> {
    let mut connection =
        connections.get().await.map_err(DatabaseError::new("connect to the database"))?;
    let found = connections.within(storage::schema_version(&mut connection)).await;
    let found = connection.done(found).map_err(|error| {
        let foreign = storage::is_foreign_ledger(&error);
        let error = DatabaseError::new("read the schema's version")(error);
        if foreign { Error::ForeignSchema { cause: error } } else { error.into() }
    })?;
    let needed = storage::SCHEMA_VERSION;
    if found.version < needed {
        return Err(Error::SchemaTooOld { found: found.version, needed });
    }
    // A newer schema may serve this engine too, so that a deployment that was rolled back goes on.
    if found.serves > needed {
        let (found, serves) = (found.version, found.serves);
        return Err(Error::SchemaTooNew { found, serves, needed });
    }
    Ok(())
}

/// Returns the retention of each machine that the engine runs or has an option for. None stands for
/// the default.
fn retentions(config: &Config, registry: &Registry) -> BTreeMap<&'static str, Option<Retention>> {
    let run = registry.runners().map(|runner| (runner.name(), None));
    let said = config.retentions.iter().map(|(machine, retention)| (*machine, Some(*retention)));
    run.chain(said).collect()
}

/// States the retentions in the database.
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
