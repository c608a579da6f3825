//! Copies of a database that is in use, one after the other.
//!
//! Invariant: the original is copied once. The copies are made of that copy, which nobody uses. If
//! the process is killed, the copies stay on the server: their names begin with `gen_durable_lab_`.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use sqlx::{ConnectOptions as _, Connection as _, PgPool, postgres::PgConnectOptions};

use crate::{Error, cluster::execute};

/// Makes copies of a database.
#[derive(Debug)]
pub struct Copies {
    admin: PgConnectOptions,
    template: String,
}

impl Copies {
    /// Copies this database, with what was committed so far. The sessions of others in it are
    /// ended, because Postgres copies no database that is in use. The pool's own sessions are among
    /// them; it opens others.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] if the login may not make databases, or may not end a session.
    pub async fn of(database: &PgPool) -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let failed = || Error::database("copy a database");
        let name: String = sqlx::query_scalar("select pg_catalog.current_database()::text")
            .fetch_one(database)
            .await
            .map_err(failed())?;
        let options = database.connect_options();
        // Nobody copies a database to which this session is connected.
        let admin = options.as_ref().clone().database("postgres");
        let mut connection = admin.connect().await.map_err(failed())?;
        let end = "select pg_catalog.pg_terminate_backend(a.pid, 5000)
                   from pg_catalog.pg_stat_activity a
                   where a.datname = $1 and a.backend_type = 'client backend'";
        sqlx::query(end).bind(&name).execute(&mut connection).await.map_err(failed())?;
        connection.close().await.map_err(failed())?;
        // The name is short: Postgres cuts off what is longer than 63 bytes.
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let template = format!("gen_durable_lab_{:x}_{time:x}_{count}", std::process::id());
        let copies = Self { admin, template };
        copies.copy(&name, &copies.template).await?;
        Ok(copies)
    }

    /// Makes a copy, in place of the last one. Returns its name.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] if it cannot be made.
    pub async fn make(&self) -> Result<String, Error> {
        let copy = format!("{}_copy", self.template);
        self.drop(&copy).await?;
        self.copy(&self.template, &copy).await?;
        Ok(copy)
    }

    /// Drops all copies.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] if one cannot be dropped.
    pub async fn end(self) -> Result<(), Error> {
        self.drop(&format!("{}_copy", self.template)).await?;
        self.drop(&self.template).await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let create = format!("create database {} template {}", quoted(to), quoted(from));
        execute(&self.admin, create).await
    }

    async fn drop(&self, database: &str) -> Result<(), Error> {
        let drop = format!("drop database if exists {} with (force)", quoted(database));
        execute(&self.admin, drop).await
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
