//! The clauses of the statements by which engines fire schedules.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::{run, see};
use crate::support::{database, sql};

macro_rules! statement {
    ($name:literal) => {
        include_str!(concat!("../../../gen_durable/src/storage/sql/", $name, ".sql"))
    };
}

/// Inserts workers and what they declare: the schedule, its text, the minute at which it appeared,
/// and true if the worker is alive. Their ids count from 1.
async fn declared(pool: &PgPool, rows: &[(&str, &str, i32, bool)]) {
    let mut connection = pool.acquire().await.unwrap();
    for (id, (name, body, minute, alive)) in (1..).zip(rows) {
        let lease = if *alive { "1 hour" } else { "-1 hour" };
        let insert = format!(
            "insert into gen_durable.workers (id, name, lease_expires_at)
             overriding system value values ({id}, 'w', now() + interval '{lease}');
             insert into gen_durable.declarations (worker, kind, name, body, appeared_at)
             values ({id}, 'schedule', '{name}', '{body}', now() + {minute} * interval '1 minute'),
                    ({id}, 'limit', '{name}', 'of a limit', now() + interval '1 day')"
        );
        run(&mut connection, insert).await;
    }
}

/// Inserts schedules by columns, each with the text `old`.
async fn schedules(pool: &PgPool, rows: &[&str]) {
    let mut connection = pool.acquire().await.unwrap();
    for row in rows {
        let (columns, values) = row.split_once(": ").unwrap();
        run(
            &mut connection,
            format!(
                "insert into gen_durable.schedules
                     (body, fsm, passed_at, skipped, skipped_to, {columns})
                 values ('old', 'm', now(), '{{}}', '2020-01-01', {values})"
            ),
        )
        .await;
    }
}

async fn lock(connection: &mut PgConnection, name: &str, revision: i64, body: &str) -> bool {
    let locked: Option<i64> = sqlx::query_scalar(statement!("lock_schedule"))
        .bind(name)
        .bind(revision)
        .bind(body)
        .fetch_optional(connection)
        .await
        .unwrap();
    locked.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_schedule_is_locked_as_it_was_seen_and_by_the_declaration_in_force() {
    let db = database().await;
    let pool = db.pool();
    declared(
        pool,
        &[
            ("a", "old", 1, true),
            ("a", "new", 2, true),
            ("a", "lost", 3, false),
            ("b", "x", 4, true),
        ],
    )
    .await;
    let rows = ["name, revision: 'a', 7", "name, revision: 'b', 9", "name, revision: 'c', 7"];
    schedules(pool, &rows).await;
    let mut first = pool.begin().await.unwrap();
    for (name, revision, body) in [
        ("a", 6, "new"),
        ("a", 9, "new"),
        ("a", 7, "old"),
        ("a", 7, "lost"),
        ("a", 7, "of a limit"),
        ("c", 7, "new"),
    ] {
        assert!(!lock(&mut first, name, revision, body).await, "{name} {revision} {body}");
    }
    assert!(lock(&mut first, "a", 7, "new").await);
    // Another engine does not wait for it.
    let mut second = pool.begin().await.unwrap();
    run(&mut second, "set local lock_timeout = '5s'").await;
    assert!(!lock(&mut second, "a", 7, "new").await);
    first.rollback().await.unwrap();
    assert!(lock(&mut second, "a", 7, "new").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_engine_finds_those_of_its_schedules_that_are_due() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, finished_at)
         overriding system value
         values (1, 'm', 1, 's', '{}', 'done', now()), (2, 'm', 1, 's', '{}', 'runnable', null)",
    )
    .await;
    let past = "now() - interval '1 minute'";
    let future = "now() + interval '1 hour'";
    let rows = [
        format!("name, next_at, last_id: 'due', {past}, 1"),
        format!("name, next_at, last_id: 'runs', {past} - interval '1 s', 2"),
        format!("name, next_at, last_id: 'gone', {past} - interval '2 s', 3"),
        format!("name, next_at: 'later', {future}"),
        format!("name, next_at, body: 'foreign', {past}, 'new'"),
        format!("name, next_at: 'not mine', {past}"),
        format!("name, next_at, paused_at: 'paused', {past}, {past}"),
        format!(
            "name, next_at, paused_at, asked_at: 'asked', {past}, {past}, {past} - interval '3 s'"
        ),
        format!(
            "name, next_at, paused_at, paused_until: 'resumed', {past}, {past}, {past} + interval '1 s'"
        ),
        format!("name, next_at, paused_at, paused_until: 'until', {past}, {past}, {future}"),
        format!("name, next_at, look_at: 'looks', {future}, {past} + interval '2 s'"),
    ];
    let mut connection = pool.acquire().await.unwrap();
    for row in &rows {
        let (columns, values) = row.split_once(": ").unwrap();
        let body = if columns.contains("body") { ("", "") } else { ("body, ", "'old', ") };
        run(
            &mut connection,
            format!(
                "insert into gen_durable.schedules ({}fsm, passed_at, skipped, skipped_to, {columns})
                 values ({}'m', now(), '{{}}', '2020-01-01', {values})",
                body.0, body.1
            ),
        )
        .await;
    }
    let back = "insert into gen_durable.schedules
                    (name, body, fsm, passed_at, skipped, skipped_to, next_at)
                values ('back', 'old', 'm', now(), '{}', now() + interval '1 minute', now() + interval '1 hour')";
    run(&mut connection, back).await;
    let names = [
        "due", "runs", "gone", "later", "foreign", "paused", "asked", "resumed", "until", "looks",
        "back",
    ];
    let query = format!(
        "select json_agg(json_build_array(name, paused, active)) from ({}) as found",
        statement!("due_schedules").replace('\n', "\n ")
    );
    let found: Value = sqlx::query_scalar(AssertSqlSafe(query))
        .bind(names)
        .bind(vec!["old"; names.len()])
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    let expected = json!([
        ["asked", true, false],
        ["gone", false, false],
        ["runs", false, true],
        ["due", false, false],
        ["resumed", false, false],
        ["looks", false, false],
        ["back", false, false],
    ]);
    assert_eq!(found, expected);
    // The header tells the next of them, and that some are due.
    let times = format!(
        "select json_build_array(due, next_at - now between 3590000000 and 3600000000)
         from ({}) as times",
        statement!("schedule_times")
    );
    assert_eq!(see(pool, times.clone()).await, json!([true, true]));
    sql(pool, "delete from gen_durable.schedules where due_at <= now()").await;
    assert_eq!(see(pool, times.clone()).await, json!([true, true]), "the clock went back");
    sql(pool, "delete from gen_durable.schedules where name = 'back'").await;
    assert_eq!(see(pool, times).await, json!([false, true]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_declaration_that_comes_into_force_is_written_once() {
    let db = database().await;
    let pool = db.pool();
    let said = [
        ("a", "old", 1, true),
        ("a", "new", 2, true),
        ("b", "old", 2, true),
        ("b", "new", 1, true),
        ("c", "old", 1, true),
        ("d", "new", 2, false),
        ("d", "old", 1, true),
    ];
    declared(pool, &said).await;
    schedules(pool, &["name, revision: 'a', 3", "name, revision: 'c', 3"]).await;
    let query = format!(
        "select json_agg(json_build_array(name, revision) order by name, revision)
         from ({}) as found",
        statement!("unsettled_schedules")
    );
    let unsettled = async |body: &'static str| -> Value {
        let found: Option<Value> = sqlx::query_scalar(AssertSqlSafe(query.clone()))
            .bind(["a", "b", "c", "d", "e"])
            .bind([body; 5])
            .fetch_one(pool)
            .await
            .unwrap();
        found.unwrap_or_default()
    };
    // `c` has its text already, `e` is not declared, and that of `d` is a lost worker's.
    assert_eq!(unsettled("new").await, json!([["a", 3]]));
    assert_eq!(unsettled("old").await, json!([["b", null], ["d", null]]));
    let settle = async |name: &str, revision: i64| {
        sqlx::query(statement!("settle_schedules"))
            .bind([name])
            .bind(["new"])
            .bind(["n"])
            .bind([Some(5_000_000_i64)])
            .bind([4_000_000_i64])
            .bind(["[1000000,2000000,3000000,4000000]"])
            .bind([4_000_000_i64])
            .bind([revision])
            .execute(pool)
            .await
            .unwrap()
            .rows_affected()
    };
    assert_eq!((settle("a", 3).await, settle("a", 5).await, settle("b", 0).await), (0, 0, 1));
    assert_eq!((settle("a", 4).await, settle("a", 4).await, settle("b", 0).await), (1, 0, 0));
    let rows = "select json_agg(json_build_array(name, body, fsm, revision, skipped,
                    extract(epoch from next_at), extract(epoch from passed_at),
                    extract(epoch from skipped_to)) order by name)
                from gen_durable.schedules where name <> 'c'";
    let times = json!([1_000_000, 2_000_000, 3_000_000, 4_000_000]);
    let row = |name, revision| json!([name, "new", "n", revision, times, 5.0, 4.0, 4.0]);
    let found = see(pool, rows).await;
    let plain = |value: &Value| value.to_string().replace(".000000", "").replace(".0", "");
    assert_eq!(plain(&found), plain(&json!([row("a", 4), row("b", 0)])));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_what_was_done_about_a_schedule_is_noted() {
    let db = database().await;
    let pool = db.pool();
    schedules(
        pool,
        &["name, asked_at, paused_at, paused_by, last_error, failed_at: 'a', now(), now(), 'x', 'e', '2020-01-01'",
          "name, asked_at: 'b', now()"],
    )
    .await;
    let pass = async |error: Option<&str>, paused: bool| {
        sqlx::query(statement!("pass_schedule"))
            .bind("a")
            .bind(Some(9_000_000_i64))
            .bind(8_000_000_i64)
            .bind([1_i64, 2])
            .bind(2_i64)
            .bind(Some(7_000_000_i64))
            .bind(Some(42_i64))
            .bind(Some(6_000_000_i64))
            .bind(Some(1_000_000_i64))
            .bind(error)
            .bind(paused)
            .execute(pool)
            .await
            .unwrap();
    };
    let row = "select json_build_array(last_error, failed_at = '2020-01-01', paused_by, paused_at is null,
                   asked_at is null, revision, last_id, extract(epoch from waiting_at)::int,
                   look_at between now() and now() + interval '1 s')
               from gen_durable.schedules where name = 'a'";
    pass(None, true).await;
    assert_eq!(see(pool, row).await, json!(["e", true, "x", false, true, 1, 42, 6, true]));
    pass(Some("f"), false).await;
    assert_eq!(see(pool, row).await, json!(["f", false, null, true, true, 2, 42, 6, true]));
    let other = "select asked_at is not null from gen_durable.schedules where name = 'b'";
    assert_eq!(see(pool, other).await, json!(true));
}

/// An engine that looked before an action does not fire after it.
#[tokio::test(flavor = "multi_thread")]
async fn p70_an_action_raises_the_revision_of_its_schedule() {
    let db = database().await;
    let pool = db.pool();
    schedules(pool, &["name: 'a'", "name: 'b'"]).await;
    let deeds = [
        (statement!("pause_schedule").replace("$2::bigint", "null::bigint"), "paused"),
        (statement!("resume_schedule").to_owned(), "resumed"),
        (statement!("run_schedule_now").to_owned(), "undeclared"),
        (statement!("resume_schedule").to_owned(), "not_paused"),
    ];
    for (text, told) in deeds {
        let nulls = ["$2", "$3", "$4", "$5"].iter().fold(text, |text, parameter| {
            text.replace(&format!("{parameter}::text"), "null::text")
        });
        let deed: String =
            sqlx::query_scalar(AssertSqlSafe(nulls)).bind("a").fetch_one(pool).await.unwrap();
        assert_eq!(deed, told);
    }
    let revisions = "select json_agg(revision order by name) from gen_durable.schedules";
    assert_eq!(see(pool, revisions).await, json!([3, 0]));
}

/// Beside ten thousand schedules that are not due, a look and a find read indexes.
#[tokio::test(flavor = "multi_thread")]
async fn p15_schedules_that_are_not_due_are_not_read() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.schedules (name, body, fsm, passed_at, skipped, skipped_to, next_at)
         select n::text, 'old', 'm', now(), '{}', '2020-01-01', now() + n * interval '1 hour'
         from generate_series(1, 10000) as n;
         update gen_durable.schedules set next_at = now() where name in ('1', '2', '3')",
    )
    .await;
    let session = include_str!("../../../gen_durable/src/storage/sql/session.sql");
    for analyzed in [false, true] {
        if analyzed {
            sql(pool, "analyze gen_durable.schedules").await;
        }
        let mut connection = pool.acquire().await.unwrap().detach();
        run(&mut connection, session).await;
        let arrays = "(select array_agg(name) from gen_durable.schedules),
                      (select array_agg(body) from gen_durable.schedules)";
        for (name, text, parameters) in [
            ("times", statement!("schedule_times"), String::new()),
            ("found", statement!("due_schedules"), "($1, $2)".to_owned()),
            ("locked", statement!("lock_schedule"), "('1', 0, 'old')".to_owned()),
        ] {
            run(&mut connection, format!("prepare {name} as {text}")).await;
            let parameters = if parameters.contains("$1") {
                let arrays: (String, String) = sqlx::query_as(AssertSqlSafe(format!(
                    "select a::text, b::text from (select {arrays}) as x (a, b)"
                )))
                .fetch_one(&mut connection)
                .await
                .unwrap();
                format!("('{}', '{}')", arrays.0, arrays.1)
            } else {
                parameters
            };
            let explain = format!("explain execute {name}{parameters}");
            let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain))
                .fetch_all(&mut connection)
                .await
                .unwrap();
            let plan = plan.join("\n");
            assert!(!plan.contains("Seq Scan on schedules"), "{name}: {plan}");
        }
    }
}
