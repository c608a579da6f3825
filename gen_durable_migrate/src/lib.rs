//! Brings a database to the Postgres schema of `gen_durable`, by numbered migrations. A migration
//! that was shipped never changes.
//!
//! ```no_run
//! # async fn example(pool: sqlx::PgPool) -> Result<(), gen_durable_migrate::Error> {
//! gen_durable_migrate::up(&pool).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The program `gen-durable` (crate `gen_durable_cli`) does the same: `gen-durable migrate up`.
//! Everything lives in the Postgres schema `gen_durable`, also the ledger of migrations
//! (`gen_durable.migrations`). The application's own ledger is not touched.
//!
//! Invariant: a run is one transaction under an advisory lock, and happens as a whole or not at
//! all. Any number of processes may therefore run it at once, also behind a transaction pooler.

mod error;
mod ledger;

use std::fmt::Write;

use sqlx::{AssertSqlSafe, Executor, PgPool, Postgres, Row, Transaction, pool::PoolConnection};

use crate::{error::why, ledger::Found};

pub use crate::error::{Cause, Error};

/// A migration.
#[derive(Debug)]
struct Migration {
    version: i32,
    name: &'static str,
    /// The oldest engine that the migration serves, by the schema version of that engine. Engines
    /// that are no older go on after a deployment was rolled back.
    serves: i32,
    up: &'static str,
    down: &'static str,
}

/// All migrations, in order. A new one is added at the end; a shipped one never changes.
const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "init",
    serves: 1,
    up: concat!(
        include_str!("../migrations/0001_init.up.sql"),
        include_str!("../migrations/0001_producers.up.sql"),
    ),
    down: include_str!("../migrations/0001_init.down.sql"),
}];

/// The version that this program brings a database to.
pub const LATEST: i32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// The key of the advisory lock that serialises runs: "`gen_dur`" in ASCII.
const LOCK: i64 = 0x67_656e_5f64_7572;

/// The script for psql that makes the group roles `gen_durable_app`, `gen_durable_worker`,
/// `gen_durable_supervisor` and `gen_durable_operator`. It does what [`roles`] does, for projects
/// that keep their own migrations.
pub const ROLES: &str = include_str!("roles.sql");

/// The options of [`down`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Down {
    /// The version to go down to; 0 removes everything, the schema included.
    pub to: i32,
    /// Goes on even if live instances are lost.
    pub force: bool,
}

/// A migration, and when a database applied it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The number of the migration.
    pub version: i32,
    /// The name of the migration.
    pub name: String,
    /// The oldest engine that the migration serves, by the schema version of that engine.
    pub serves: i32,
    /// The time at which the migration was applied, as Postgres prints it; none if it was not.
    pub applied_at: Option<String>,
    /// True if this program knows the migration. A newer program may have applied more.
    pub known: bool,
}

/// Brings the database to [`LATEST`]; does nothing if it is at that version.
///
/// A database at that version is only read. This needs no right beyond those of the role
/// `gen_durable_worker`, and waits for no other migration. The same holds for a database that a
/// newer program has migrated, if its schema [serves](Status::serves) this program too: a
/// deployment may be rolled back.
///
/// The function makes the schema `gen_durable` if there is none. For a login that may make no
/// schema, an administrator can make it: `create schema gen_durable authorization …`.
///
/// # Errors
///
/// [`Error`] if the database is newer than this program and does not serve it, if another program
/// made the schema, or if a statement failed. Nothing is changed then.
pub async fn up(pool: &PgPool) -> Result<(), Error> {
    up_to(pool, LATEST).await
}

/// Brings the database up to a version; does nothing if it is at that version or a later one.
///
/// # Errors
///
/// The same as [`up`], and [`Error::UnknownVersion`].
pub async fn up_to(pool: &PgPool, version: i32) -> Result<(), Error> {
    check_version(version)?;
    let needs_nothing = |found: Found| Ok(found.is_newer()? || found.version >= version);
    // This look takes no lock: a database that is up to date is only read.
    let mut connection = acquire(pool).await?;
    if needs_nothing(ledger::read(&mut connection).await?)? {
        return Ok(());
    }
    drop(connection);
    let mut transaction = begin(pool).await?;
    let found = ledger::read(&mut transaction).await?;
    if needs_nothing(found)? {
        return Ok(());
    }
    ledger::check_may_create(&mut transaction).await?;
    transaction.execute(ledger::CREATE).await.map_err(Error::database("make the ledger"))?;
    for migration in MIGRATIONS {
        if migration.version > found.version && migration.version <= version {
            transaction.execute(migration.up).await.map_err(Error::migration(migration, "up"))?;
            sqlx::query(
                "insert into gen_durable.migrations (version, name, serves) values ($1, $2, $3)",
            )
            .bind(migration.version)
            .bind(migration.name)
            .bind(migration.serves)
            .execute(&mut *transaction)
            .await
            .map_err(Error::database("write the ledger"))?;
        }
    }
    transaction.commit().await.map_err(Error::database("commit the migrations"))
}

/// Takes the database down to a version. Version 0 removes the schema too, if this login could make
/// it again.
///
/// # Errors
///
/// [`Error::LiveInstances`] if instances that have not ended would be lost and `force` is not set;
/// [`Error::TooNew`] if a newer program has migrated the database; otherwise the same as [`up`].
pub async fn down(pool: &PgPool, options: Down) -> Result<(), Error> {
    if options.to != 0 {
        check_version(options.to)?;
    }
    let mut transaction = begin(pool).await?;
    let found = ledger::read(&mut transaction).await?;
    if found.is_newer()? {
        return Err(found.too_new());
    }
    let found = found.version;
    if found > options.to && !options.force {
        check_no_live_instances(&mut transaction).await?;
    }
    for migration in MIGRATIONS.iter().rev() {
        if migration.version <= found && migration.version > options.to {
            transaction
                .execute(migration.down)
                .await
                .map_err(Error::migration(migration, "down"))?;
            sqlx::query("delete from gen_durable.migrations where version = $1")
                .bind(migration.version)
                .execute(&mut *transaction)
                .await
                .map_err(Error::database("write the ledger"))?;
        }
    }
    if options.to == 0 && found > 0 {
        transaction.execute(ledger::DROP).await.map_err(Error::database("drop the schema"))?;
    }
    transaction.commit().await.map_err(Error::database("commit the migrations"))
}

/// Returns the migrations that this program knows or the ledger has, in order.
///
/// # Errors
///
/// [`Error::Database`]; [`Error::ForeignLedger`] or [`Error::ForeignSchema`] if another program
/// made the schema.
pub async fn status(pool: &PgPool) -> Result<Vec<Status>, Error> {
    let failed = || Error::database("read the ledger");
    let mut all: Vec<Status> = MIGRATIONS
        .iter()
        .map(|known| Status {
            version: known.version,
            name: known.name.to_owned(),
            serves: known.serves,
            applied_at: None,
            known: true,
        })
        .collect();
    let mut connection = acquire(pool).await?;
    if !ledger::exists(&mut connection).await? {
        return Ok(all);
    }
    let rows = sqlx::query(
        "select version, name, serves, applied_at::text from gen_durable.migrations order by version",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed())?;
    for row in rows {
        let read = || {
            Ok(Status {
                version: row.try_get("version")?,
                name: row.try_get("name")?,
                serves: row.try_get("serves")?,
                applied_at: Some(row.try_get("applied_at")?),
                known: false,
            })
        };
        let found: Status = read().map_err(failed())?;
        match all.iter_mut().find(|known| known.version == found.version) {
            Some(known) => known.applied_at = found.applied_at,
            None => all.push(found),
        }
    }
    Ok(all)
}

/// Returns all migrations as one script for psql, for projects that keep their own migrations. On
/// an empty database, it leaves the same schema and the same ledger as [`up`].
pub fn script() -> String {
    let mut script = format!("begin;\n\n{}\n", ledger::CREATE);
    for Migration { version, name, serves, up, .. } in MIGRATIONS {
        let _ = write!(
            script,
            "\n-- {version:04} {name}\n\n{up}\ninsert into gen_durable.migrations (version, name, serves) values ({version}, '{name}', {serves});\n"
        );
    }
    script.push_str("\ncommit;\n");
    script
}

/// Makes the roles of [`ROLES`], if the cluster does not have them, and grants each what it needs
/// in this database. It first takes back what they had. Call it after each [`up`], as the owner of
/// the schema and with the right to create roles.
///
/// The roles belong to the cluster, and the grants to the database: [`down`] removes the grants
/// with the tables, and leaves the roles. On a newer schema that [serves](Status::serves) this
/// program, the function does nothing: the newer program has granted what its schema needs.
///
/// # Errors
///
/// [`Error::OtherVersion`] if the database is not at [`LATEST`] yet; [`Error::TooNew`];
/// [`Error::Database`] if a statement failed. Nothing is changed then.
pub async fn roles(pool: &PgPool) -> Result<(), Error> {
    let mut transaction = begin(pool).await?;
    let found = ledger::read(&mut transaction).await?;
    if found.is_newer()? {
        return Ok(());
    }
    if found.version != LATEST {
        return Err(Error::OtherVersion { found: found.version, latest: LATEST });
    }
    transaction.execute(ROLES).await.map_err(Error::database("grant the roles"))?;
    transaction.commit().await.map_err(Error::database("commit the roles"))
}

fn check_version(version: i32) -> Result<(), Error> {
    if MIGRATIONS.iter().any(|migration| migration.version == version) {
        Ok(())
    } else {
        Err(Error::UnknownVersion { version, latest: LATEST })
    }
}

/// Begins a transaction that holds the lock. The lock is released with the transaction.
async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Error> {
    let mut transaction = Transaction::begin(acquire(pool).await?, None)
        .await
        .map_err(Error::database("begin a transaction"))?;
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await
        .map_err(Error::database("wait for other migrations"))?;
    Ok(transaction)
}

async fn acquire(pool: &PgPool) -> Result<PoolConnection<Postgres>, Error> {
    match pool.acquire().await {
        Ok(connection) => Ok(connection),
        Err(error) => Err(Error::database("connect to the database")(why(pool, error).await)),
    }
}

async fn check_no_live_instances(
    transaction: &mut Transaction<'static, Postgres>,
) -> Result<(), Error> {
    // The lock comes first, so that no instance is inserted between the count and the drop.
    transaction
        .execute(AssertSqlSafe("lock table gen_durable.instances in access exclusive mode"))
        .await
        .map_err(Error::database("lock the instances"))?;
    let live: i64 = sqlx::query_scalar(
        "select count(*) from gen_durable.instances
         where status in ('runnable', 'executing', 'awaiting_signal')",
    )
    .fetch_one(&mut **transaction)
    .await
    .map_err(Error::database("count the live instances"))?;
    if live > 0 { Err(Error::LiveInstances { live }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes the FNV-1a hash of a text, which is enough to notice a change.
    fn checksum(text: &str) -> u64 {
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    #[test]
    fn shipped_migrations_are_frozen() {
        let sums: Vec<(i32, u64, u64)> = MIGRATIONS
            .iter()
            .map(|migration| (migration.version, checksum(migration.up), checksum(migration.down)))
            .collect();
        let shipped: &[(i32, u64, u64)] = &[];
        assert!(
            sums.starts_with(shipped),
            "a shipped migration was changed; add a new one instead: {sums:?}"
        );
    }

    #[test]
    fn versions_are_numbered_from_one() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(usize::try_from(migration.version), Ok(index + 1));
            assert!((1..=migration.version).contains(&migration.serves), "{migration:?}");
        }
    }
}
