//! The Postgres schema of `gen_durable`: numbered migrations that are frozen once shipped.
//!
//! ```no_run
//! # async fn example(pool: sqlx::PgPool) -> Result<(), gen_durable_migrate::Error> {
//! gen_durable_migrate::up(&pool).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The program `gen-durable-migrate` does the same from the command line. Everything lives in the
//! Postgres schema `gen_durable`, the ledger of migrations (`gen_durable.migrations`) included: the
//! host application's own ledger is not touched.
//!
//! Invariant: a run is one transaction under an advisory lock, so that any number of processes may
//! run it at once, also behind a transaction pooler; it either happens as a whole or not at all.

#[cfg(feature = "cli")]
pub mod cli;
mod error;

use std::fmt::Write;

use sqlx::{AssertSqlSafe, Executor, PgPool, Postgres, Row, Transaction, pool::PoolConnection};

use crate::error::why;

pub use crate::error::{Cause, Error};

/// A migration.
#[derive(Debug)]
struct Migration {
    version: i32,
    name: &'static str,
    up: &'static str,
    down: &'static str,
}

/// All migrations, in order; a new one is added at the end, and a shipped one never changed.
const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "init",
    up: include_str!("../migrations/0001_init.up.sql"),
    down: include_str!("../migrations/0001_init.down.sql"),
}];

/// The version that this program brings a database to.
pub const LATEST: i32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// The key of the advisory lock that serialises runs: "`gen_dur`" in ASCII.
const LOCK: i64 = 0x67_656e_5f64_7572;

const LEDGER: &str = "create schema if not exists gen_durable;
create table if not exists gen_durable.migrations (
    version    integer primary key,
    name       text not null,
    applied_at timestamptz not null default now()
);";

/// The group roles `gen_durable_app`, `gen_durable_worker` and `gen_durable_operator`, as one script for psql, for those
/// who keep their own: it does what [`roles`] does.
pub const ROLES: &str = include_str!("roles.sql");

/// What a migration down may do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Down {
    /// The version to go down to; 0 removes everything, the schema included.
    pub to: i32,
    /// Go on although live instances would be lost.
    pub force: bool,
}

/// A migration, and whether a database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Its number.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// When it was applied, if it was, as Postgres prints it.
    pub applied_at: Option<String>,
    /// Whether this program knows it; a newer one may have applied more.
    pub known: bool,
}

/// Brings the database to [`LATEST`]; does nothing if it is there.
///
/// # Errors
///
/// [`Error`]: the database is newer than this program, or a statement failed. Nothing is changed
/// then.
pub async fn up(pool: &PgPool) -> Result<(), Error> {
    up_to(pool, LATEST).await
}

/// Brings the database up to a version; does nothing if it is there or beyond.
///
/// # Errors
///
/// As [`up`], and [`Error::UnknownVersion`].
pub async fn up_to(pool: &PgPool, version: i32) -> Result<(), Error> {
    check_version(version)?;
    // Without the lock: a database that is up to date is only read.
    let found = found_version(pool).await?;
    if found > LATEST {
        return Err(Error::TooNew { found, latest: LATEST });
    }
    if found >= version {
        return Ok(());
    }
    let mut transaction = begin(pool).await?;
    transaction.execute(LEDGER).await.map_err(Error::database("make the ledger"))?;
    let found = ledger_version(&mut transaction).await?;
    if found > LATEST {
        return Err(Error::TooNew { found, latest: LATEST });
    }
    for migration in MIGRATIONS {
        if migration.version > found && migration.version <= version {
            transaction.execute(migration.up).await.map_err(Error::migration(migration, "up"))?;
            sqlx::query("insert into gen_durable.migrations (version, name) values ($1, $2)")
                .bind(migration.version)
                .bind(migration.name)
                .execute(&mut *transaction)
                .await
                .map_err(Error::database("write the ledger"))?;
        }
    }
    transaction.commit().await.map_err(Error::database("commit the migrations"))
}

/// Takes the database down to a version.
///
/// # Errors
///
/// [`Error::LiveInstances`] if instances that have not ended would be lost and `force` is not set;
/// otherwise as [`up`].
pub async fn down(pool: &PgPool, options: Down) -> Result<(), Error> {
    if options.to != 0 {
        check_version(options.to)?;
    }
    let mut transaction = begin(pool).await?;
    let found = if has_ledger(&mut transaction).await? {
        ledger_version(&mut transaction).await?
    } else {
        0
    };
    if found > LATEST {
        return Err(Error::TooNew { found, latest: LATEST });
    }
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
        transaction
            .execute("drop table gen_durable.migrations; drop schema gen_durable")
            .await
            .map_err(Error::database("drop the schema"))?;
    }
    transaction.commit().await.map_err(Error::database("commit the migrations"))
}

/// The migrations, known here or found in the ledger, in order.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn status(pool: &PgPool) -> Result<Vec<Status>, Error> {
    let failed = "read the ledger";
    let mut connection = acquire(pool).await?;
    let ledger: bool =
        sqlx::query_scalar("select to_regclass('gen_durable.migrations') is not null")
            .fetch_one(&mut *connection)
            .await
            .map_err(Error::database(failed))?;
    let mut all: Vec<Status> = MIGRATIONS
        .iter()
        .map(|known| Status {
            version: known.version,
            name: known.name.to_owned(),
            applied_at: None,
            known: true,
        })
        .collect();
    if !ledger {
        return Ok(all);
    }
    let rows = sqlx::query(
        "select version, name, applied_at::text from gen_durable.migrations order by version",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(Error::database(failed))?;
    for row in rows {
        let (version, applied_at) = (row.get(0), Some(row.get(2)));
        match all.iter_mut().find(|known| known.version == version) {
            Some(known) => known.applied_at = applied_at,
            None => all.push(Status { version, name: row.get(1), applied_at, known: false }),
        }
    }
    Ok(all)
}

/// All migrations as one script for psql, for those who keep their own: it leaves the same schema
/// and the same ledger as [`up`] on an empty database.
pub fn script() -> String {
    let mut script = format!("begin;\n\n{LEDGER}\n");
    for Migration { version, name, up, .. } in MIGRATIONS {
        let _ = write!(
            script,
            "\n-- {version:04} {name}\n\n{up}\ninsert into gen_durable.migrations (version, name) values ({version}, '{name}');\n"
        );
    }
    script.push_str("\ncommit;\n");
    script
}

/// Makes the roles of [`ROLES`], if the cluster has them not yet, and grants each what it needs in this database; what they
/// had before is taken back. Call it after each [`up`], as the owner of the schema and with the right to create roles.
///
/// The roles belong to the cluster, the grants to the database: [`down`] takes the grants with the tables, and leaves
/// the roles.
///
/// # Errors
///
/// [`Error::OtherVersion`] if the database is not at [`LATEST`]; [`Error::Database`] if a statement failed. Nothing is
/// changed then.
pub async fn roles(pool: &PgPool) -> Result<(), Error> {
    let mut transaction = begin(pool).await?;
    let found = if has_ledger(&mut transaction).await? {
        ledger_version(&mut transaction).await?
    } else {
        0
    };
    if found != LATEST {
        return Err(Error::OtherVersion { found, latest: LATEST });
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

/// A transaction that holds the lock; it is released with the transaction.
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

/// The version found without a lock; 0 if there is no ledger.
async fn found_version(pool: &PgPool) -> Result<i32, Error> {
    let status = status(pool).await?;
    Ok(status
        .iter()
        .filter(|one| one.applied_at.is_some())
        .map(|one| one.version)
        .max()
        .unwrap_or(0))
}

async fn has_ledger(transaction: &mut Transaction<'static, Postgres>) -> Result<bool, Error> {
    sqlx::query_scalar("select to_regclass('gen_durable.migrations') is not null")
        .fetch_one(&mut **transaction)
        .await
        .map_err(Error::database("read the ledger"))
}

async fn ledger_version(transaction: &mut Transaction<'static, Postgres>) -> Result<i32, Error> {
    sqlx::query_scalar("select coalesce(max(version), 0) from gen_durable.migrations")
        .fetch_one(&mut **transaction)
        .await
        .map_err(Error::database("read the ledger"))
}

async fn check_no_live_instances(
    transaction: &mut Transaction<'static, Postgres>,
) -> Result<(), Error> {
    // The lock comes first, so that no instance is inserted between the look and the drop.
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

    /// FNV-1a: enough to notice a change.
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
        }
    }
}
