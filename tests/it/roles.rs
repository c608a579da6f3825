//! The roles of the database: each can do its whole work and nothing else.

mod grants;

use std::time::Duration;

use gen_durable::{Delivery, Engine, InsertError, prelude::*};
use gen_durable_migrate::{roles, up};
use gen_durable_postgres::TestDb;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, postgres::PgPoolOptions};

use crate::support::{WAIT_MAX, database, engine, eventually, expire_lease, log, sql, until};

pub(crate) const APP: &str = "gen_durable_app";
pub(crate) const WORKER: &str = "gen_durable_worker";
pub(crate) const SUPERVISOR: &str = "gen_durable_supervisor";
pub(crate) const OPERATOR: &str = "gen_durable_operator";

async fn run(connection: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.map(|_| ())
}

/// A login that is a member of one role and has no other right.
pub(crate) struct Login {
    name: String,
    pub(crate) pool: PgPool,
}

impl Login {
    pub(crate) async fn of(db: &TestDb, role: &str) -> Self {
        let name = format!("{}_{role}", db.name());
        let mut connection = db.pool().acquire().await.unwrap();
        run(&mut connection, format!("create role {name} login password 'enter' in role {role}"))
            .await
            .unwrap();
        let options = db.pool().connect_options().as_ref().clone();
        let options = options.username(&name).password("enter");
        let pool = PgPoolOptions::new().max_connections(5).connect_with(options).await.unwrap();
        Self { name, pool }
    }

    /// Removes the login. It belongs to the cluster, which may be the user's own server.
    pub(crate) async fn remove(self, db: &TestDb) {
        self.pool.close().await;
        let mut connection = db.pool().acquire().await.unwrap();
        run(&mut connection, format!("drop owned by {0}; drop role {0}", self.name)).await.unwrap();
    }

    /// Checks that Postgres refuses each of these statements to the login.
    pub(crate) async fn is_refused(&self, statements: &[&str]) {
        for statement in statements {
            let mut connection = self.pool.acquire().await.unwrap();
            let error = run(&mut connection, format!("begin; {statement}")).await;
            let error = error.expect_err(statement);
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
            run(&mut connection, "rollback".to_owned()).await.unwrap();
        }
    }
}

async fn database_with_roles() -> TestDb {
    let db = database().await;
    roles(db.pool()).await.unwrap();
    db
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Go {
    on: bool,
}

/// Returns every kind of outcome on its way.
#[durable_fsm(state = u32, output = u32, signals(Go))]
pub enum Tour {
    Begin,
    Wait,
    Rest,
    End,
}

#[durable_fsm]
impl Tour {
    async fn begin(mut cx: Context<Self>) -> Outcome<Self> {
        if cx.attempt() == 0 {
            return cx.replay(Duration::ZERO);
        }
        cx.state += 1;
        cx.next(Tour::Wait)
    }

    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        match cx.take_signal::<Go>()? {
            Some(Go { on: true }) => Ok(cx.next_in(Tour::Rest, Duration::from_millis(1))),
            Some(Go { on: false }) => Ok(cx.stop("told to")),
            None => Ok(cx.await_signal::<Go>()),
        }
    }

    async fn rest(cx: Context<Self>) -> Outcome<Self> {
        if cx.timed_out() {
            let child = Tour::insert(0).unique_key("child");
            let signal = Tour::signal_go(cx.id(), Go { on: true });
            return cx.next(Tour::End).insert(child).signal(signal);
        }
        cx.await_signal_for::<Go>(Duration::from_millis(1))
    }

    async fn end(cx: Context<Self>) -> Outcome<Self> {
        let result = cx.state;
        cx.done(result)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_and_an_application_do_their_whole_work() {
    log();
    let db = database_with_roles().await;
    let (worker, app) = (Login::of(&db, WORKER).await, Login::of(&db, APP).await);
    let engine = Engine::builder(worker.pool.clone())
        .machine::<Tour>()
        .retention(Duration::ZERO)
        .maintenance(false)
        .start()
        .await
        .unwrap();
    let client = Client::new(app.pool.clone());

    // Inserts: one by one, many at once, a duplicate, and with partition keys.
    let plain = Tour::insert(1).unique_key("plain").execute(&client).await.unwrap();
    let taken = Tour::insert(1).unique_key("plain").execute(&app.pool).await.unwrap_err();
    assert!(matches!(taken, InsertError::Duplicate(duplicate) if duplicate.id == plain));
    let keyed = (0..20).map(|n| Tour::insert(n).partition_key("same"));
    let keyed = Tour::insert_many(keyed).execute(&client).await.unwrap();

    // An insert and a signal in the application's own transaction, beside a row in a table of its
    // own.
    sql(db.pool(), "create table orders (instance bigint); grant insert on orders to public").await;
    let mut transaction = app.pool.begin().await.unwrap();
    let own = Tour::insert(2).execute(&mut *transaction).await.unwrap();
    Tour::signal_go(own, Go { on: true }).execute(&mut *transaction).await.unwrap();
    sqlx::query("insert into orders values ($1)")
        .bind(own.get())
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(engine.wait(own, WAIT_MAX).await.unwrap(), 3);

    // Signals: one that wakes, the same one again, and signals by name.
    until(db.pool(), plain, "awaiting_signal").await;
    for delivery in [Delivery::Delivered, Delivery::Duplicate] {
        let signal = Tour::signal_go(plain, Go { on: true }).dedup_key("once");
        assert_eq!(signal.execute(&client).await.unwrap(), delivery);
    }
    assert_eq!(client.wait(plain, WAIT_MAX).await.unwrap(), 2);
    for (id, on) in keyed.into_iter().zip(std::iter::repeat([true, false]).flatten()) {
        let id = id.unwrap();
        let payload = serde_json::json!({ "on": on });
        client.signal_by_name(id.get(), "go", &payload, None).await.unwrap();
        assert_eq!(client.wait(id, WAIT_MAX).await.is_ok(), on);
    }
    assert!(client.find(plain.get()).await.unwrap().is_some());

    // The engine reaps the row of a lost worker, and deletes the ended instances.
    let lost: i64 = sqlx::query_scalar(
        "insert into gen_durable.workers (name, lease_expires_at) values ('lost', now()) returning id",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    sqlx::query(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status, locked_by)
         values ('tour', 1, 'end', '7', 'executing', $1)",
    )
    .bind(lost)
    .execute(db.pool())
    .await
    .unwrap();
    expire_lease(db.pool(), lost).await;
    eventually("all but the child of the tours is pruned, and the lost worker gone", async || {
        engine.maintain().await.unwrap();
        (rows(db.pool()).await == (1, 1)).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
    assert_eq!(rows(db.pool()).await, (1, 0));
    worker.remove(&db).await;
    app.remove(&db).await;
}

/// Counts the instances and the workers.
async fn rows(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as(
        "select (select count(*) from gen_durable.instances), (select count(*) from gen_durable.workers)",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

/// Statements that only the owner of the schema may run.
const DDL: &[&str] = &[
    "create table gen_durable.mine ()",
    "create function gen_durable.mine() returns int language sql as 'select 1'",
    "alter table gen_durable.instances add column mine int",
    "alter table gen_durable.instances disable trigger all",
    "create index mine on gen_durable.instances (step)",
    "create trigger mine before update on gen_durable.instances for each row execute function tsvector_update_trigger()",
    "create table mine (id bigint references gen_durable.instances)",
    "create temp table mine (id bigint); create trigger mine after delete on mine referencing old table as deleted
     for each statement execute function gen_durable.delete_inboxes()",
    "drop table gen_durable.signals",
    "drop schema gen_durable cascade",
    "truncate gen_durable.instances cascade",
    "truncate gen_durable.signals",
    "truncate gen_durable.signal_keys",
    "truncate gen_durable.workers",
    "truncate gen_durable.history",
    "drop table gen_durable.history_default",
    "create table gen_durable.mine partition of gen_durable.history for values from ('2000-01-01') to ('2000-01-02')",
    "lock table gen_durable.instances in access exclusive mode",
    "select setval('gen_durable.instances_id_seq', 1)",
    "insert into gen_durable.migrations (version, name) values (999, 'mine')",
    "update gen_durable.migrations set version = 999",
    "delete from gen_durable.migrations",
    "grant gen_durable_worker to current_user",
];

/// A service may call `up` whenever it starts. Another transaction holds the lock of migrations and
/// locks every table. The schema is current, so `up` must succeed under each role and wait for
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn p68_up_on_a_current_schema_needs_no_rights_and_waits_for_nobody() {
    let db = database_with_roles().await;
    let mut migration = db.pool().begin().await.unwrap();
    // The lock of migrations: "gen_dur" in ASCII.
    run(&mut migration, format!("select pg_advisory_xact_lock({})", 0x67_656e_5f64_7572_i64))
        .await
        .unwrap();
    for table in ["instances", "signals", "signal_keys", "workers", "retention"] {
        let lock = format!("lock table gen_durable.{table} in access exclusive mode");
        run(&mut migration, lock).await.unwrap();
    }
    for role in [APP, WORKER, OPERATOR] {
        let login = Login::of(&db, role).await;
        let tried = tokio::time::timeout(WAIT_MAX, up(&login.pool)).await;
        tried.expect("it waits for no lock").expect(role);
        login.remove(&db).await;
    }
    migration.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_changes_no_state_and_reads_none() {
    let db = database_with_roles().await;
    // Older servers let every role create tables in `public`. The test allows it on every server,
    // so that only the rights on `gen_durable` can refuse a statement.
    sql(db.pool(), "grant create on schema public to public").await;
    let app = Login::of(&db, APP).await;
    app.is_refused(&DDL.iter().copied().filter(|ddl| !ddl.starts_with("lock")).collect::<Vec<_>>())
        .await;
    app.is_refused(&[
        "select state from gen_durable.instances",
        "select * from gen_durable.instances",
        "select unique_key from gen_durable.instances",
        "update gen_durable.instances set state = '{}'",
        "update gen_durable.instances set result = '1'",
        "update gen_durable.instances set fsm_version = 2",
        "update gen_durable.instances set queue = 'mine'",
        "update gen_durable.instances set report_to = 1",
        "delete from gen_durable.instances",
        "select actor from gen_durable.audit",
        "update gen_durable.audit set actor = ''",
        "delete from gen_durable.audit",
        "select * from gen_durable.history",
        "select * from gen_durable.limits",
        "update gen_durable.limit_buckets set used_until = 0",
        "insert into gen_durable.instances (fsm, fsm_version, step, state, result) values ('m', 1, 's', '1', '1')",
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status) values ('m', 1, 's', '1', 'done')",
        "insert into gen_durable.instances (fsm, fsm_version, step, state, revision) values ('m', 1, 's', '1', 9)",
        "select payload from gen_durable.signals",
        "select name from gen_durable.signals",
        "update gen_durable.signals set payload = '1'",
        "delete from gen_durable.signals",
        "update gen_durable.signal_keys set dedup_key = ''",
        "delete from gen_durable.signal_keys",
        "select id from gen_durable.workers",
        "insert into gen_durable.workers (name, lease_expires_at) values ('mine', now())",
        "update gen_durable.workers set lease_expires_at = now()",
        "delete from gen_durable.workers",
        "select name from gen_durable.migrations",
    ])
    .await;
    let error = Engine::builder(app.pool.clone()).machine::<Tour>().start().await.unwrap_err();
    let text = error.to_string();
    for part in ["could not register the machines: permission denied", "gen_durable_worker"] {
        assert!(text.contains(part), "{text}");
    }
    app.remove(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_changes_no_schema_and_not_what_an_instance_is() {
    let db = database_with_roles().await;
    sql(db.pool(), "grant create on schema public to public").await;
    let worker = Login::of(&db, WORKER).await;
    // A role that may delete rows of a table may also lock the table.
    let ddl: Vec<_> = DDL.iter().copied().filter(|ddl| !ddl.starts_with("lock")).collect();
    worker.is_refused(&ddl).await;
    worker
        .is_refused(&[
            "update gen_durable.instances set id = 1",
            "update gen_durable.instances set fsm = 'mine'",
            "update gen_durable.instances set queue = 'mine'",
            "update gen_durable.instances set priority = 0",
            "update gen_durable.instances set partition_key = null",
            "update gen_durable.instances set unique_key = null",
            "update gen_durable.instances set inserted_at = now()",
            "insert into gen_durable.instances (fsm, fsm_version, step, state, result) values ('m', 1, 's', '1', '1')",
            "update gen_durable.signals set payload = '1'",
            "update gen_durable.signal_keys set dedup_key = ''",
            "update gen_durable.audit set actor = ''",
            "delete from gen_durable.audit",
            "update gen_durable.workers set id = default",
            "update gen_durable.workers set name = 'mine'",
            "update gen_durable.limits set name = 'mine'",
            "delete from gen_durable.limits",
            "update gen_durable.limit_buckets set bucket = 'mine'",
            "select * from gen_durable.migrations",
        ])
        .await;
    worker.remove(&db).await;
}

/// The application cancels, and a supervisor does all that `operate` offers, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn p40_a_supervisor_acts_and_an_application_cancels() {
    let db = database_with_roles().await;
    sql(db.pool(), "grant create on schema public to public").await;
    let (app, supervisor) = (Login::of(&db, APP).await, Login::of(&db, SUPERVISOR).await);
    let insert = || Tour::insert(1).schedule_in(Duration::from_hours(1)).execute(db.pool());
    sql(
        db.pool(),
        "insert into gen_durable.machines (fsm, fsm_version, initial, steps) values ('tour', 1, '', '{}')",
    )
    .await;
    let id = insert().await.unwrap();
    let handle = Client::new(app.pool.clone()).instance(id);
    let mut tx = app.pool.begin().await.unwrap();
    handle.cancel("no").by("ada").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let error = handle.retry().execute(&app.pool).await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");

    let client = Client::new(supervisor.pool.clone());
    let on = |id| client.instance(id);
    sql(db.pool(), "update gen_durable.instances set owes = null").await;
    on(id).retry().execute(&client).await.unwrap();
    on(id).run_now().execute(&client).await.unwrap();
    let other = insert().await.unwrap();
    on(other).run_now().execute(&client).await.unwrap();
    on(other).kill("no").execute(&supervisor.pool).await.unwrap();
    on(other).delete().execute(&client).await.unwrap();
    on(id).pause().execute(&client).await.unwrap();
    on(id).resume().execute(&client).await.unwrap();
    sql(db.pool(), "insert into gen_durable.queues (name) values ('default')").await;
    client.queue("default").pause().execute(&client).await.unwrap();
    client.queue("default").resume().execute(&client).await.unwrap();
    assert!(client.pauses().await.unwrap().is_empty());
    let bulk = client.all_instances().pause().execute(&client).await.unwrap();
    client.all_instances().resume().execute(&client).await.unwrap();
    assert_eq!(bulk.locked, 0);
    assert_eq!(on(id).get().await.unwrap().status, gen_durable::Status::Runnable);
    assert!(on(id).history().await.unwrap().is_empty());
    supervisor.is_refused(DDL_OF_ROWS).await;
    supervisor.remove(&db).await;
    app.remove(&db).await;
}

/// Statements that are refused to a supervisor.
const DDL_OF_ROWS: &[&str] = &[
    "insert into gen_durable.instances (fsm, fsm_version, step, state, unique_key) values ('m', 1, 's', '1', 'k')",
    "insert into gen_durable.signals (target_id, name, payload) values (1, 'go', '1')",
    "update gen_durable.instances set queue = 'mine'",
    "update gen_durable.instances set unique_key = null",
    "update gen_durable.signals set payload = '1'",
    "update gen_durable.audit set actor = ''",
    "delete from gen_durable.audit",
    "delete from gen_durable.workers",
    "drop table gen_durable.instances",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_reads_everything_and_changes_nothing() {
    let db = database_with_roles().await;
    sql(db.pool(), "grant create on schema public to public").await;
    let id = Tour::insert(1).execute(db.pool()).await.unwrap();
    let operator = Login::of(&db, OPERATOR).await;
    let mut connection = operator.pool.acquire().await.unwrap();
    for table in ["instances", "signals", "signal_keys", "workers", "migrations"] {
        run(&mut connection, format!("select * from gen_durable.{table}")).await.expect(table);
    }
    let found = Client::new(operator.pool.clone()).find(id.get()).await.unwrap();
    assert!(found.is_some());
    let up_to_date = gen_durable_migrate::status(&operator.pool).await.unwrap();
    assert!(up_to_date.iter().all(|one| one.applied_at.is_some()));
    operator.is_refused(DDL).await;
    operator
        .is_refused(&[
            "insert into gen_durable.instances (fsm, fsm_version, step, state) values ('m', 1, 's', '1')",
            "update gen_durable.instances set status = 'failed'",
            "update gen_durable.instances set updated_at = now()",
            "delete from gen_durable.instances",
            "select id from gen_durable.instances for no key update",
            "select id from gen_durable.instances for key share",
            "insert into gen_durable.signals (target_id, name, payload) values (1, 'go', '1')",
            "update gen_durable.signals set name = ''",
            "delete from gen_durable.signals",
            "insert into gen_durable.signal_keys values (1, 'mine')",
            "delete from gen_durable.signal_keys",
            "insert into gen_durable.workers (name, lease_expires_at) values ('mine', now())",
            "update gen_durable.workers set lease_expires_at = now()",
            "delete from gen_durable.workers",
            "select nextval('gen_durable.instances_id_seq')",
        ])
        .await;
    drop(connection);
    operator.remove(&db).await;
}

/// The owner of the schema is a member of no role. Its engine must work in a database that has the
/// roles.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_needs_no_role() {
    let db = database_with_roles().await;
    let engine = engine(&db).machine::<Tour>().start().await.unwrap();
    let id = Tour::insert(5).execute(&engine).await.unwrap();
    Tour::signal_go(id, Go { on: true }).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 6);
    engine.shutdown().await.unwrap();
}
