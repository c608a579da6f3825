//! Reads a database's ledger of migrations, after a check that this program made it.
//!
//! Invariant: it reads nothing that the role of a worker may not read. Each role may read
//! Postgres's own catalogs, and these show first if the tables are as they should be.

use sqlx::{PgConnection, Row};

use crate::{Error, LATEST};

/// Makes the schema, if there is none, and the ledger.
///
/// It does not use `create schema if not exists`, which needs the right to create schemas even if
/// the schema exists. An administrator may have made the schema for a login without that right.
pub(crate) const CREATE: &str = "do $$
begin
    if not exists (select from pg_catalog.pg_namespace n where n.nspname = 'gen_durable') then
        create schema gen_durable;
    end if;
end
$$;
create table if not exists gen_durable.migrations (
    version    integer primary key,
    name       text not null,
    applied_at timestamptz not null default now(),
    -- The oldest engine that it serves, by the schema version of that engine.
    serves     integer not null
);";

/// Removes the ledger, and the schema if this login could make it again. A schema that an
/// administrator made for the login stays.
pub(crate) const DROP: &str = "drop table gen_durable.migrations;
do $$
begin
    if pg_catalog.pg_has_role((select n.nspowner from pg_catalog.pg_namespace n where n.nspname = 'gen_durable'), 'usage')
       and pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create') then
        drop schema gen_durable;
    end if;
end
$$;";

/// The columns that this program reads from the ledger, with their types.
const COLUMNS: [&str; 4] =
    ["version integer", "name text", "applied_at timestamp with time zone", "serves integer"];

/// Reads from the catalogs how the schema `gen_durable` looks; no row if there is none.
const LOOK: &str = "
with relations as (
    select c.oid, c.relnamespace, c.relname
    from pg_catalog.pg_class c
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
)
select pg_catalog.pg_get_userbyid(n.nspowner)::text as owner,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'usage'), false)
           and coalesce(pg_catalog.has_schema_privilege(n.oid, 'create'), false) as may_create,
       (select min(r.relname::text) from relations r where r.relnamespace = n.oid) as relation,
       exists (
           select from relations r where r.relnamespace = n.oid and r.relname = 'migrations'
       ) as has_ledger,
       array(
           select pg_catalog.format('%s %s', a.attname, pg_catalog.format_type(a.atttypid, null))
           from pg_catalog.pg_attribute a
           join relations r on r.oid = a.attrelid
           where r.relnamespace = n.oid and r.relname = 'migrations'
             and a.attnum > 0 and not a.attisdropped
       ) as columns
from pg_catalog.pg_namespace n
where n.nspname = 'gen_durable'";

/// The sum of a database's migrations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// The version of the newest migration; 0 if there is none.
    pub(crate) version: i32,
    /// The oldest engine that all migrations serve, by its schema version.
    serves: i32,
}

impl Found {
    /// Returns true if a newer program has migrated the database, to a schema that serves this
    /// program too.
    ///
    /// # Errors
    ///
    /// [`Error::TooNew`] if the schema no longer serves this program.
    pub(crate) fn is_newer(self) -> Result<bool, Error> {
        if self.serves > LATEST { Err(self.too_new()) } else { Ok(self.version > LATEST) }
    }

    pub(crate) fn too_new(self) -> Error {
        Error::TooNew { found: self.version, serves: self.serves, latest: LATEST }
    }
}

/// Returns true if the database has a ledger; it is then one that this program made.
pub(crate) async fn exists(connection: &mut PgConnection) -> Result<bool, Error> {
    Ok(look(connection).await?.is_some_and(|schema| schema.has_ledger))
}

/// Reads the ledger; without one, the version is 0.
pub(crate) async fn read(connection: &mut PgConnection) -> Result<Found, Error> {
    if !exists(connection).await? {
        return Ok(Found::default());
    }
    let failed = "read the ledger";
    let row = sqlx::query(
        "select coalesce(max(version), 0) as version, coalesce(max(serves), 0) as serves
         from gen_durable.migrations",
    )
    .fetch_one(connection)
    .await
    .map_err(Error::database(failed))?;
    let read = || Ok(Found { version: row.try_get("version")?, serves: row.try_get("serves")? });
    read().map_err(Error::database(failed))
}

/// Refuses a schema in which this login may make no tables.
pub(crate) async fn check_may_create(connection: &mut PgConnection) -> Result<(), Error> {
    match look(connection).await? {
        Some(Schema { owner, may_create: false, .. }) => Err(Error::NoRight { owner }),
        _ => Ok(()),
    }
}

/// A schema `gen_durable` that is empty, or has this program's ledger.
struct Schema {
    owner: String,
    may_create: bool,
    has_ledger: bool,
}

/// Looks for the schema, and refuses one that another program made.
async fn look(connection: &mut PgConnection) -> Result<Option<Schema>, Error> {
    let failed = || Error::database("look for the ledger");
    let row = sqlx::query(LOOK).fetch_optional(connection).await.map_err(failed())?;
    let Some(row) = row else { return Ok(None) };
    let read = || {
        let schema = Schema {
            owner: row.try_get("owner")?,
            may_create: row.try_get("may_create")?,
            has_ledger: row.try_get("has_ledger")?,
        };
        Ok((schema, row.try_get("relation")?, row.try_get("columns")?))
    };
    let (schema, relation, columns): (Schema, Option<String>, Vec<String>) =
        read().map_err(failed())?;
    if schema.has_ledger {
        let missing = COLUMNS.iter().find(|column| !columns.iter().any(|found| found == *column));
        missing.map_or(Ok(Some(schema)), |missing| Err(Error::ForeignLedger { missing }))
    } else {
        relation.map_or(Ok(Some(schema)), |relation| Err(Error::ForeignSchema { relation }))
    }
}
