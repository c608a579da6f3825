//! Producers in other languages: psql, and Python with psycopg. The guide's snippets are run as
//! they stand there.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use gen_durable::{operate::Page, testing::Lab};
use gen_durable_migrate::roles;
use gen_durable_postgres::TestDb;
use sqlx::PgPool;

use super::{Order, register};
use crate::support::{WAIT_MAX, database, engine, sql};
use gen_durable::prelude::*;

const GUIDE: &str = include_str!("../../../gen_durable/src/guide/producers.md");

/// Returns the guide's snippets of a language.
fn snippets(language: &str) -> Vec<&'static str> {
    let begin = format!("```{language}\n");
    let blocks = GUIDE.split(begin.as_str()).skip(1);
    let snippets: Vec<_> = blocks.filter_map(|block| block.split("```").next()).collect();
    assert!(!snippets.is_empty(), "the guide has no {language}");
    snippets
}

/// Runs a program, and returns what it prints. Panics with its error if it fails.
fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program runs");
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{text}{}", String::from_utf8_lossy(&stderr));
    text
}

/// The address of a test's database, for a login.
fn address(db: &TestDb, login: Option<&str>) -> String {
    let options = db.pool().connect_options();
    let host = options
        .get_socket()
        .map_or_else(|| options.get_host().to_owned(), |socket| socket.display().to_string());
    let user = login.unwrap_or(options.get_username());
    format!("host='{host}' port={} user='{user}' dbname='{}'", options.get_port(), db.name())
}

fn psql(db: &TestDb, script: &str) -> String {
    let beside = std::env::var_os("PG_BIN_DIR").map(|dir| PathBuf::from(dir).join("psql"));
    let program = beside.filter(|program| program.exists()).unwrap_or_else(|| "psql".into());
    let mut command = Command::new(program);
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d"]);
    output(command.arg(address(db, None)).args(["-c", script]))
}

/// True if the other languages are there: `GEN_DURABLE_PYTHON` names a Python that has psycopg.
/// Without it the test says that it is skipped. The project's CI sets it.
fn has_drivers() -> bool {
    let has = std::env::var_os("GEN_DURABLE_PYTHON").is_some();
    if !has {
        println!(
            "skipped: this needs psql and a Python with psycopg: `python3 -m venv DIR && DIR/bin/pip install 'psycopg[binary]'`, and GEN_DURABLE_PYTHON=DIR/bin/python"
        );
    }
    has
}

/// Runs Python.
fn python(db: &TestDb, script: &str) -> String {
    let program = std::env::var_os("GEN_DURABLE_PYTHON").expect("it is there");
    let mut command = Command::new(program);
    output(command.args(["-c", script]).env("DATABASE_URL", address(db, None)))
}

/// Returns what the guide's orders cost, in the order of their numbers.
async fn cents(pool: &PgPool) -> Vec<i64> {
    sqlx::query_scalar("select cents from orders order by id").fetch_all(pool).await.unwrap()
}

/// The snippets of SQL need no other language. They run here by sqlx, and the orders in a lab.
#[tokio::test]
async fn p41_the_guides_sql_starts_orders_that_run_in_a_lab() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, "create table orders (id bigint primary key, cents bigint)").await;
    let mut lab = Lab::new(pool).machine::<Order>().start().await.unwrap();
    for snippet in snippets("sql") {
        sql(pool, snippet).await;
        lab.run_until_idle().await.unwrap();
    }
    assert_eq!(cents(pool).await, [1999]);
    let client = lab.client();
    for (key, paid) in [("order 42", 1999), ("order 44", 700)] {
        let order = client.instances::<Order>().unique_key(key);
        let page = order.list(Page::first()).await.unwrap();
        let [order] = &page.entries[..] else { panic!("one order has the key {key}: {page:?}") };
        lab.assert_done(order.id, &paid).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_the_guides_snippets_run_in_psql_and_in_python() {
    if !has_drivers() {
        return;
    }
    let db = database().await;
    let pool = db.pool();
    sql(pool, "create table orders (id bigint primary key, cents bigint)").await;
    let engine = engine(&db).queue("orders", 5).machine::<Order>().start().await.unwrap();
    let mut ids = Vec::new();
    let psql = |script: &'static str| {
        let output = psql(&db, script);
        output.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i64>>()
    };
    for snippet in snippets("sql") {
        ids.extend(psql(snippet));
    }
    for snippet in snippets("python") {
        python(&db, snippet);
    }
    assert_eq!(cents(pool).await, [1999, 500]);
    let all: Vec<i64> = sqlx::query_scalar("select id from gen_durable.instances order by id")
        .fetch_all(pool)
        .await
        .unwrap();
    assert!(all.len() == 3 && ids == all[..1], "{all:?} {ids:?}");
    let mut paid = Vec::new();
    for id in all {
        let id = InstanceId::<Order>::from_raw(id);
        paid.push(engine.wait(id, WAIT_MAX).await.unwrap());
    }
    paid.sort_unstable();
    assert_eq!(paid, [500, 700, 1999]);
    engine.shutdown().await.unwrap();
}

/// An error in the block takes back the instance, the signal and the driver's own row.
#[tokio::test(flavor = "multi_thread")]
async fn p41_a_python_transaction_has_its_instances_and_rows_or_none_of_them() {
    if !has_drivers() {
        return;
    }
    let db = database().await;
    register(&db).await;
    let pool = db.pool();
    sql(pool, "create table orders (id bigint primary key)").await;
    let script = r#"
import os, psycopg
from psycopg.types.json import Json, Jsonb

def produce(db, number):
    db.execute("insert into orders (id) values (%s)", (number,))
    (order,) = db.execute(
        "select gen_durable.insert('order', %s, unique_key => %s, priority => %s, delay => %s)",
        (Json({"id": number, "cents": 1}), f"order {number}", 3, "1 hour"),
    ).fetchone()
    (answer,) = db.execute(
        "select gen_durable.signal(%s, 'paid', %s::jsonb::json, dedup_key => %s)",
        (order, Jsonb({"cents": 2}), "evt")).fetchone()
    assert answer == "delivered", answer
    return order

url = os.environ["DATABASE_URL"]
with psycopg.connect(url) as db:
    order = produce(db, 1)
try:
    with psycopg.connect(url) as db:
        produce(db, 2)
        raise KeyError("on second thoughts")
except KeyError:
    pass
with psycopg.connect(url) as db:
    try:
        with db.transaction():
            db.execute("insert into orders (id) values (3)")
            db.execute("select gen_durable.insert('order', '1', unique_key => 'order 1')")
    except psycopg.errors.UniqueViolation as error:
        assert error.diag.message_detail == str(order), error.diag.message_detail
    try:
        with db.transaction():
            db.execute("insert into orders (id) values (4)")
            db.execute("select gen_durable.insert('ordr', '1')")
    except psycopg.errors.UndefinedObject as error:
        assert "order version 1" in error.diag.message_hint, error.diag.message_hint
"#;
    python(&db, script);
    let seen: (Vec<i64>, i64, i64) = sqlx::query_as(
        "select array(select id from orders), (select count(*) from gen_durable.instances),
                (select count(*) from gen_durable.signals)",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(seen, (vec![1], 1, 1));
}

/// The application's role calls the functions, and reads no more of the registered rows than they
/// need. Others do not call them.
#[tokio::test(flavor = "multi_thread")]
async fn p41_the_applications_role_may_call_the_functions_and_nothing_more() {
    let db = database().await;
    register(&db).await;
    roles(db.pool()).await.unwrap();
    let as_role = async |role: &str, statement: &str| -> Result<(), String> {
        let mut transaction = db.pool().begin().await.unwrap();
        let statement = format!("set local role {role}; {statement}");
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut *transaction).await;
        done.map(|_| ())
            .map_err(|error| error.as_database_error().unwrap().code().unwrap().into_owned())
    };
    let calls = [
        "select gen_durable.insert('order', '1', unique_key => 'a', partition_key => 'p', report_to => null);
         select gen_durable.insert('order', '1', unique_key => 'a', if_taken => 'holder')",
        "select gen_durable.signal(gen_durable.insert('order', '1'), 'paid', '1', 'evt')",
        "select gen_durable.insert('order', '1', unique_key => 'a');
         select gen_durable.signal_by_key('order', 'a', 'paid', '1')",
        "select gen_durable.insert('order', '1', report_to => gen_durable.insert('order', '1'))",
    ];
    for call in calls {
        for role in ["gen_durable_app", "gen_durable_worker"] {
            assert_eq!(as_role(role, call).await, Ok(()), "{role}: {call}");
        }
        assert_eq!(as_role("gen_durable_operator", call).await, Err("42501".to_owned()));
        assert_eq!(as_role("pg_monitor", call).await, Err("42501".to_owned()));
    }
    // A signal that wakes its target.
    let parked = "insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, awaits, awaits_more)
                  values (901, 'order', 1, 'collect', '1', 'awaiting_signal', '{paid}', 2)";
    sql(db.pool(), parked).await;
    let twice = "select gen_durable.signal(901, 'paid', '1') from generate_series(1, 2)";
    assert_eq!(as_role("gen_durable_app", twice).await, Ok(()));
    for statement in [
        "select graph from gen_durable.machines",
        "select graph from gen_durable.machines",
        "select * from gen_durable.queues",
        "insert into gen_durable.machines (fsm, fsm_version, initial, steps) values ('mine', 1, 'x', '{x}')",
        "update gen_durable.machines set steps = '{}'",
        "delete from gen_durable.machines",
        "insert into gen_durable.queues (name) values ('mine')",
    ] {
        let refused = as_role("gen_durable_app", statement).await;
        assert_eq!(refused, Err("42501".to_owned()), "{statement}");
    }
}
