//! The clauses of `register_machines.sql` and `register_queues.sql`.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use super::{run, see};
use crate::support::{database, until_a_session_waits};

/// A machine of the version 1: its name, its text, and true if its engine knows a graph.
type Stated = (&'static str, &'static str, bool);

/// Registers machines. All columns of a row have the row's text.
async fn register(connection: &mut PgConnection, machines: &[Stated]) {
    let column = |of: fn(&Stated) -> String| machines.iter().map(of).collect::<Vec<_>>();
    let list = |row: &Stated| json!([row.1]).to_string();
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/register_machines.sql"))
        .bind(column(|row| row.0.to_owned()))
        .bind(vec![1; machines.len()])
        .bind(column(|row| row.1.to_owned()))
        .bind(column(|row| row.1.to_owned()))
        .bind(column(|row| row.1.to_owned()))
        .bind(machines.iter().map(list).collect::<Vec<_>>())
        .bind(machines.iter().map(list).collect::<Vec<_>>())
        .bind(
            machines.iter().map(|row| row.2.then(|| json!(row.1).to_string())).collect::<Vec<_>>(),
        )
        .bind(vec!["steps"; machines.len()])
        .execute(connection)
        .await
        .unwrap();
}

/// Returns the rows, each with two marks: it was written just now, or it was locked though it says
/// what it said.
async fn rows(pool: &PgPool) -> Value {
    let rows = "select json_agg(json_build_array(
                    fsm, queue, initial, on_cancel, steps[1], signals[1], graph #>> '{}', history,
                    registered_at > now() - interval '1 hour',
                    registered_at < now() - interval '1 hour' and xmax::text <> '0') order by fsm)
                from gen_durable.machines";
    see(pool, rows).await
}

fn row(fsm: &str, text: &str, graph: Option<&str>, new: bool) -> Value {
    json!([fsm, text, text, text, text, text, graph, "steps", new, false])
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_registered_row_changes_if_its_engine_says_something_else() {
    let db = database().await;
    let pool = db.pool();
    let mut connection = pool.acquire().await.unwrap();
    register(&mut connection, &[("b", "one", true), ("a", "one", true), ("o", "one", false)]).await;
    crate::support::sql(pool, "update gen_durable.machines set registered_at = '2020-01-01'").await;
    crate::support::sql(pool, "vacuum full gen_durable.machines").await;
    let said = [("a", "one", true), ("b", "two", true), ("n", "one", true), ("o", "two", false)];
    register(&mut connection, &said).await;
    let expected = json!([
        row("a", "one", Some("one"), false),
        row("b", "two", Some("two"), true),
        row("n", "one", Some("one"), true),
        row("o", "one", None, false),
    ]);
    assert_eq!(rows(pool).await, expected);
    // An older version's own engine has come, and one that upgrades it.
    register(&mut connection, &[("o", "three", true)]).await;
    register(&mut connection, &[("o", "four", false)]).await;
    assert_eq!(rows(pool).await[3], row("o", "three", Some("three"), true));
}

/// Each column of a row tells it from another one.
#[tokio::test(flavor = "multi_thread")]
async fn p70_a_change_of_any_column_is_registered() {
    let db = database().await;
    let pool = db.pool();
    let mut connection = pool.acquire().await.unwrap();
    for change in [
        "queue = 'x'",
        "initial = 'x'",
        "on_cancel = null",
        "steps = '{x}'",
        "signals = '{x}'",
        "graph = '\"x\"'",
        "history = 'off'",
    ] {
        register(&mut connection, &[("a", "one", true)]).await;
        run(&mut connection, format!("update gen_durable.machines set {change}")).await;
        register(&mut connection, &[("a", "one", true)]).await;
        assert_eq!(rows(pool).await, json!([row("a", "one", Some("one"), true)]), "{change}");
    }
}

/// Two engines meet at a row. The second one looks once more at what the first has said meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn p70_engines_that_register_at_once_take_rows_in_the_order_of_their_keys() {
    let db = database().await;
    let pool = db.pool();
    let columns = "(fsm, fsm_version, queue, initial, on_cancel, steps, signals, history, graph)";
    let one = "1, 'one', 'one', 'one', '{one}', '{one}', 'steps'";
    let mut barrier = pool.begin().await.unwrap();
    let first = format!(
        "insert into gen_durable.machines {columns}
         values ('a', {one}, '\"one\"'), ('o', {one}, '\"one\"');
         insert into gen_durable.queues (name) values ('a')"
    );
    run(&mut barrier, first).await;
    let mut own = pool.acquire().await.unwrap();
    let second = tokio::spawn(async move {
        let said = [("z", "one", true), ("o", "two", false), ("a", "one", true)];
        register(&mut own, &said).await;
    });
    let mut own = pool.acquire().await.unwrap();
    let queues = tokio::spawn(async move {
        sqlx::query(include_str!("../../../gen_durable/src/storage/sql/register_queues.sql"))
            .bind(["z", "a"])
            .execute(&mut *own)
            .await
            .unwrap();
    });
    until_a_session_waits(pool, 2).await;
    // Both wait for `a`, and have taken nothing that comes after it.
    let mut third = pool.begin().await.unwrap();
    run(
        &mut third,
        format!(
            "set local lock_timeout = '5s';
             insert into gen_durable.machines {columns} values ('z', {one}, null);
             insert into gen_durable.queues (name) values ('z')"
        ),
    )
    .await;
    third.rollback().await.unwrap();
    barrier.commit().await.unwrap();
    second.await.unwrap();
    queues.await.unwrap();
    // `on conflict` locks the row that it finds, but the row that says the same is not written.
    let seen = see(
        pool,
        "select json_build_object('rows', json_agg(json_build_array(fsm, queue, graph #>> '{}') order by fsm),
                                  'queues', (select json_agg(name order by name) from gen_durable.queues),
                                  'written', count(distinct xmin::text))
         from gen_durable.machines",
    );
    let expected = json!({
        "rows": [["a", "one", "one"], ["o", "one", "one"], ["z", "one", "one"]],
        "queues": ["a", "z"], "written": 2,
    });
    assert_eq!(seen.await, expected);
}
