//! Shared by all tests: a database for each test, and functions that wait for a condition.
//!
//! Invariant: a test waits for the condition that it expects. It never waits for a fixed time.

mod breakpoint;

use std::{path::PathBuf, time::Duration};

use gen_durable::{Engine, EngineBuilder};
use gen_durable_postgres::{Cluster, Template, TestDb};
use gen_durable_tests::proxy::Proxy;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::OnceCell;

pub(crate) use breakpoint::Breakpoint;

/// The longest time that a condition may take. It is generous, as the machine may be slow and busy.
pub(crate) const WAIT_MAX: Duration = Duration::from_mins(1);

struct Shared {
    template: Template,
    // The field keeps the server for the life of the process; the watchdog removes the server then.
    cluster: Cluster,
}

async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let cluster = Cluster::from_env_or_throwaway(true).expect("a Postgres server");
            let template =
                Template::create(&cluster, async |pool| gen_durable_migrate::up(&pool).await);
            let template = template.await.expect("a migrated template");
            Shared { template, cluster }
        })
        .await
}

/// A migrated database of the test's own.
pub(crate) async fn database() -> TestDb {
    shared().await.template.database().await.expect("a copy of the template")
}

/// An empty database of the test's own.
pub(crate) async fn empty_database() -> TestDb {
    shared().await.template.empty_database().await.expect("an empty database")
}

/// The directory of the server's socket, for a program that a test puts in front of the server.
pub(crate) async fn server_dir() -> PathBuf {
    let server = shared().await.cluster.server();
    let server = server.expect("this needs a throw-away server: unset DATABASE_URL");
    server.socket_dir().to_owned()
}

/// A proxy in front of the server.
pub(crate) async fn proxy() -> Proxy {
    Proxy::start(&server_dir().await).expect("a proxy")
}

/// True if the database can store the text: its encoding is UTF-8, or all characters are in LATIN1.
/// `GEN_DURABLE_TEST_ENCODING` chooses the encoding.
pub(crate) async fn holds(pool: &PgPool, text: &str) -> bool {
    if text.chars().all(|character| character <= '\u{ff}') {
        return true;
    }
    let encoding: String =
        sqlx::query_scalar("show server_encoding").fetch_one(pool).await.expect("an encoding");
    encoding == "UTF8"
}

/// The text, in which each character that the database cannot store is replaced by another one.
pub(crate) async fn fitting(pool: &PgPool, text: &str) -> String {
    if holds(pool, text).await {
        return text.to_owned();
    }
    text.chars().map(|character| character.min('\u{ff}')).collect()
}

/// Part of the error that Postgres gives for a text that the database's encoding cannot express.
pub(crate) const NOT_HELD: &str = "has no equivalent in encoding";

/// An engine with the queue "default".
pub(crate) fn engine(db: &TestDb) -> EngineBuilder {
    log();
    Engine::builder(db.pool().clone()).queue("default", 10)
}

/// Prints the engine's log, filtered by `RUST_LOG`.
pub(crate) fn log() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
}

/// Calls `look` every 5 ms until it returns a value, and returns that value. Panics after
/// [`WAIT_MAX`].
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let looked = tokio::time::timeout(WAIT_MAX, async {
        loop {
            ticks.tick().await;
            if let Some(seen) = look().await {
                return seen;
            }
        }
    });
    looked.await.unwrap_or_else(|_elapsed| panic!("waited in vain until {what}"))
}

/// The columns of a row of `instances` that tests look at.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub(crate) struct Row {
    pub(crate) status: String,
    pub(crate) step: String,
    pub(crate) state: serde_json::Value,
    pub(crate) result: Option<serde_json::Value>,
    pub(crate) last_error: Option<String>,
    pub(crate) attempt: i32,
    pub(crate) failures: i32,
    pub(crate) crashes: i32,
    pub(crate) locked_by: Option<i64>,
    pub(crate) inbox: i64,
}

/// Reads a row.
pub(crate) async fn row(pool: &PgPool, id: impl Into<i64>) -> Row {
    sqlx::query_as(
        "select i.status, i.step, i.state, i.result, i.last_error, i.attempt, i.failures, i.crashes, i.locked_by,
                (select count(*) from gen_durable.signals s where s.target_id = i.id) as inbox
         from gen_durable.instances i where i.id = $1",
    )
    .bind(id.into())
    .fetch_one(pool)
    .await
    .expect("the instance exists")
}

/// Waits until a row has a status.
pub(crate) async fn until(pool: &PgPool, id: impl Into<i64>, status: &str) -> Row {
    let id = id.into();
    eventually(&format!("instance {id} is {status}"), async || {
        let row = row(pool, id).await;
        (row.status == status).then_some(row)
    })
    .await
}

/// Counts the instances of a status.
pub(crate) async fn count(pool: &PgPool, status: &str) -> i64 {
    sqlx::query_scalar("select count(*) from gen_durable.instances where status = $1")
        .bind(status)
        .fetch_one(pool)
        .await
        .expect("a count")
}

/// Makes the database note the claims of rows that were inserted before.
pub(crate) async fn note_claims(pool: &PgPool) {
    sql(
        pool,
        "create table if not exists public.claims (id bigint);
         create or replace function public.note_claim() returns trigger language plpgsql as $$
         begin
             insert into public.claims values (new.id);
             return null;
         end $$;
         create or replace trigger note_claim after update on gen_durable.instances for each row
             when (old.status = 'runnable' and new.status = 'executing')
             execute function public.note_claim()",
    )
    .await;
}

/// True if the row was claimed, and not born claimed.
pub(crate) async fn was_claimed(pool: &PgPool, id: impl Into<i64>) -> bool {
    sqlx::query_scalar("select exists (select from public.claims where id = $1)")
        .bind(id.into())
        .fetch_one(pool)
        .await
        .expect("an answer")
}

/// Runs one or more statements.
pub(crate) async fn sql(pool: &PgPool, statements: &'static str) {
    sqlx::raw_sql(statements).execute(pool).await.expect("the statements run");
}

/// Begins to count the rows that are taken from lost workers; [`reaps`] reads the count.
pub(crate) async fn count_reaps(pool: &PgPool) {
    sql(
        pool,
        "create table public.reaps ();
         create function public.reaps() returns trigger language plpgsql as $$
         begin
             insert into public.reaps default values;
             return null;
         end $$;
         create trigger reaps after update on gen_durable.instances for each row
         when (new.crashes > old.crashes) execute function public.reaps();",
    )
    .await;
}

/// Returns how many rows were taken from lost workers since [`count_reaps`].
pub(crate) async fn reaps(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from public.reaps").fetch_one(pool).await.expect("a count")
}

/// Returns how many deadlocks Postgres has ended in a database. Closes the database's pool. A
/// session reports what it has counted at its end at the latest, so this waits until all other
/// sessions ended.
pub(crate) async fn deadlocks(db: &TestDb) -> i64 {
    let options = (*db.pool().connect_options()).clone();
    db.pool().close().await;
    let mut connection = PgConnection::connect_with(&options).await.expect("a connection");
    eventually("all sessions have ended", async || {
        let others: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and backend_type = 'client backend'
               and pid <> pg_backend_pid()",
        )
        .fetch_one(&mut connection)
        .await
        .expect("a count");
        (others == 0).then_some(())
    })
    .await;
    sqlx::query_scalar("select deadlocks from pg_stat_database where datname = current_database()")
        .fetch_one(&mut connection)
        .await
        .expect("a count")
}

/// Lets a worker's lease run out, as if the worker's process had been gone for a while.
pub(crate) async fn expire_lease(pool: &PgPool, worker: i64) {
    sqlx::query("update gen_durable.workers set lease_expires_at = now() - interval '1 second' where id = $1")
        .bind(worker)
        .execute(pool)
        .await
        .expect("the worker is in the table");
}

/// Lets a worker's lease run out and reaps its rows, again and again, until this row is reaped.
/// Once may not suffice: the worker may renew its lease in between, and `maintain` does not wait
/// for a reaper that is already running.
pub(crate) async fn lose_worker(pool: &PgPool, worker: i64, reaper: &Engine, id: impl Into<i64>) {
    let id = id.into();
    eventually("the row was reaped", async || {
        expire_lease(pool, worker).await;
        reaper.maintain().await.expect("the database is there");
        (row(pool, id).await.locked_by != Some(worker)).then_some(())
    })
    .await;
}

/// Waits until at least this many sessions of the test's database wait for a lock.
pub(crate) async fn until_a_session_waits(pool: &PgPool, sessions: i64) {
    eventually("a session waits for a lock", async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(distinct pid) from pg_locks where not granted
             and pid in (select pid from pg_stat_activity where datname = current_database())",
        )
        .fetch_one(pool)
        .await
        .expect("a count");
        (waiting >= sessions).then_some(())
    })
    .await;
}
