//! The statements about pauses of instances, and those with which engines follow any pause.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Row};

use super::{FUTURE, PAST, each, operate::instance, rows, run, see, session};
use crate::support::{database, sql};

const BLOCK: &str = include_str!("../../../gen_durable/src/storage/sql/block_paused.sql");
const UNBLOCK: &str = include_str!("../../../gen_durable/src/storage/sql/unblock_paused.sql");
const END: &str = include_str!("../../../gen_durable/src/storage/sql/end_pauses.sql");
const PAUSES: &str = include_str!("../../../gen_durable/src/storage/sql/pauses.sql");
const PAUSE: &str = include_str!("../../../gen_durable/src/storage/sql/pause_instances.sql");
const RESUME: &str = include_str!("../../../gen_durable/src/storage/sql/resume_instances.sql");
const LIST: &str = include_str!("../../../gen_durable/src/storage/sql/list_pauses.sql");

/// A row of a queue, a machine and a step.
fn at(id: i64, queue: &str, fsm: &str, step: &str, more: Value) -> Value {
    let mut row =
        json!({ "id": id, "queue": queue, "fsm": fsm, "step": step, "eligible_at": PAST });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

/// A queue, a machine and a step are paused, and two pauses are over.
const SCOPES: &str = "insert into gen_durable.pauses (queue, fsm, step, until, actor) values
    ('q', null, null, null, 'a'), (null, 'm', null, '2100-01-01', 'a'), (null, 'n', 's', null, 'a'),
    ('over', null, null, '2020-01-01', 'a'), (null, 'n', 'over', '2020-01-01', 'a')";

async fn blocked(pool: &PgPool) -> Value {
    each(pool, "i.blocked_by").await
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_claimed_and_following_rows_are_marked_if_their_scope_is_paused() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, SCOPES).await;
    let mine = || json!({ "status": "executing", "locked_by": 7 });
    rows(
        pool,
        json!([
            at(1, "q", "x", "t", mine()),
            at(2, "d", "m", "t", mine()),
            at(3, "d", "n", "s", mine()),
            at(4, "over", "n", "over", mine()),
            at(5, "q", "x", "t", json!({ "status": "executing", "locked_by": 8 })),
            at(6, "q", "x", "t", json!({ "status": "executing", "locked_by": 7 })),
            // The least urgent of the claimed rows, and those that follow it or not.
            at(7, "d", "n", "s", json!({ "status": "executing", "locked_by": 7, "priority": 5 })),
            at(8, "d", "n", "s", json!({ "priority": 5 })),
            at(9, "d", "n", "t", json!({ "priority": 5 })),
            at(10, "d", "n", "s", json!({ "priority": 4 })),
            at(11, "d", "n", "s", json!({ "priority": 5, "eligible_at": FUTURE })),
            at(12, "d", "n", "s", json!({ "priority": 5, "blocked_by": 1 })),
            at(13, "d", "n", "s", json!({ "priority": 5, "fsm_version": 2 })),
            at(14, "e", "n", "s", json!({ "priority": 5 })),
            at(15, "d", "n", "s", json!({ "priority": 5 })),
            at(16, "d", "n", "s", json!({ "priority": 5, "eligible_at": "2019-01-01T00:00:00Z" })),
            // It was not named.
            at(17, "q", "x", "t", mine()),
        ]),
    )
    .await;
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.instances where id in (6, 15) for update").await;
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    let mut marked: Vec<i64> = sqlx::query_scalar(BLOCK)
        .bind(7_i64)
        .bind(vec![1_i64, 2, 3, 4, 5, 6, 7])
        .fetch_all(&mut connection)
        .await
        .unwrap();
    marked.sort_unstable();
    assert_eq!(marked, [1, 2, 3, 7]);
    other.rollback().await.unwrap();
    assert_eq!(blocked(pool).await, json!([4, 4, 4, 0, 0, 0, 4, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0]));
    let pauses = each(pool, "i.paused_by").await;
    assert_eq!((&pauses[0], &pauses[1], &pauses[2]), (&json!(1), &json!(2), &json!(3)));
    assert_eq!((&pauses[6], &pauses[7], &pauses[8]), (&json!(3), &json!(3), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_marks_are_cleared_once_no_pause_is_left_for_them() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, SCOPES).await;
    // Pauses 1 to 3 are in force, 4 and 5 are over, and there are no others.
    let marked = |bits: i64, pause: i64| json!({ "blocked_by": bits, "paused_by": pause });
    rows(
        pool,
        json!([
            at(1, "q", "x", "t", marked(4, 1)),
            at(2, "d", "m", "t", marked(4, 2)),
            at(3, "d", "n", "s", marked(4, 3)),
            at(4, "over", "n", "over", marked(4, 4)),
            at(5, "over", "x", "t", marked(13, 5)),
            at(6, "d", "n", "t", marked(4, 9)),
            at(7, "d", "n", "t", marked(4, 9)),
            at(8, "d", "n", "t", marked(8, 0)),
            at(9, "d", "y", "t", json!({ "blocked_by": 4, "paused_by": 9, "status": "executing" })),
            at(10, "z", "y", "t", marked(4, 10)),
            at(11, "d", "n", "t", marked(4, 9)),
        ]),
    )
    .await;
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.instances where id = 10 for update").await;
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    let mut unblock = async |max: i64| {
        let row = sqlx::query(UNBLOCK).bind(max).fetch_one(&mut connection).await.unwrap();
        let mut queues: Vec<String> = row.get("queues");
        queues.sort();
        json!([row.get::<i64, _>("freed"), queues, row.get::<bool, _>("found")])
    };
    assert_eq!(unblock(4).await, json!([4, ["d", "over"], true]));
    assert_eq!(blocked(pool).await, json!([4, 4, 4, 0, 9, 0, 0, 8, 4, 4, 4]));
    assert_eq!(unblock(4).await, json!([1, ["d"], true]));
    assert_eq!(unblock(4).await, json!([0, [], true]), "one is locked");
    other.rollback().await.unwrap();
    assert_eq!(unblock(4).await, json!([1, ["z"], true]));
    assert_eq!(unblock(4).await, json!([0, [], false]));
    let pauses = each(pool, "i.paused_by").await;
    assert_eq!(pauses, json!([1, 2, 3, null, 0, null, null, 0, 9, null, null]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_pauses_end_with_their_time() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, SCOPES).await;
    rows(
        pool,
        json!([
            at(1, "q1", "x", "t", json!({ "blocked_by": 8, "paused_by": 0 })),
            at(2, "q2", "x", "t", json!({ "blocked_by": 13, "paused_by": 3 })),
            at(3, "q3", "x", "t", json!({ "blocked_by": 8, "status": "executing" })),
            at(4, "q4", "x", "t", json!({ "blocked_by": 8 })),
            at(5, "q5", "x", "t", json!({ "blocked_by": 8 })),
        ]),
    )
    .await;
    sql(
        pool,
        "insert into gen_durable.pauses (instance_id, until, actor)
         select n, case when n = 4 then timestamptz '2100-01-01' else '2020-01-01' end, 'a'
         from generate_series(1, 5) as n",
    )
    .await;
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.instances where id = 5 for update").await;
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    let mut end = async |max: i64| {
        let ended = sqlx::query_scalar::<_, Option<String>>(END).bind(max);
        let ended = ended.fetch_all(&mut connection).await.unwrap();
        let mut queues: Vec<String> = ended.iter().flatten().cloned().collect();
        queues.sort();
        json!([ended.len(), queues])
    };
    assert_eq!(end(100).await, json!([5, ["q1"]]));
    other.rollback().await.unwrap();
    assert_eq!(blocked(pool).await, json!([0, 5, 0, 8, 8]));
    assert_eq!(each(pool, "i.paused_by").await, json!([null, 3, null, null, null]));
    let left = "select json_agg(coalesce(queue, fsm || coalesce('@' || step, ''), instance_id::text) order by id) from gen_durable.pauses";
    assert_eq!(see(pool, left).await, json!(["q", "m", "n@s", "4", "5"]));
    assert_eq!(end(100).await, json!([1, ["q5"]]));
    sql(pool, "update gen_durable.pauses set until = '2020-01-01'").await;
    // The oldest pause is of a locked instance, and the next one ends.
    sql(pool, "update gen_durable.pauses set until = '2019-01-01' where instance_id = 4").await;
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.instances where id = 4 for update").await;
    assert_eq!(end(1).await[0], json!(1));
    other.rollback().await.unwrap();
    assert_eq!(blocked(pool).await, json!([0, 5, 0, 8, 0]));
    // A pause of an instance goes with the instance.
    sql(pool, "delete from gen_durable.instances where id = 4").await;
    assert_eq!(
        see(
            pool,
            "select json_agg(instance_id) from gen_durable.pauses where instance_id is not null"
        )
        .await,
        Value::Null
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_engine_reads_the_scopes_and_its_own_paused_rows() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, SCOPES).await;
    let mine = |bits: i64, worker: i64| json!({ "status": "executing", "locked_by": worker, "blocked_by": bits });
    rows(
        pool,
        json!([
            at(1, "d", "x", "t", mine(8, 7)),
            at(2, "d", "x", "t", mine(4, 7)),
            at(3, "d", "x", "t", mine(8, 8)),
            at(4, "d", "x", "t", json!({ "blocked_by": 8 })),
        ]),
    )
    .await;
    sql(pool, "insert into gen_durable.pauses (instance_id, actor) values (4, 'a')").await;
    let found = sqlx::query(PAUSES).bind(7_i64).fetch_all(pool).await.unwrap();
    let found: Vec<Value> = found
        .iter()
        .map(|row| {
            json!([
                row.get::<Option<&str>, _>("queue"),
                row.get::<Option<&str>, _>("fsm"),
                row.get::<Option<&str>, _>("step"),
                row.get::<Option<i64>, _>("instance_id"),
                row.get::<Option<i64>, _>("ends_in").map(|left| left < 0),
            ])
        })
        .collect();
    assert_eq!(
        found,
        [
            json!(["q", null, null, null, null]),
            json!([null, "m", null, null, null]),
            json!([null, "n", "s", null, null]),
            json!([null, null, null, 1, null]),
            json!([null, null, null, null, true]),
        ]
    );
    // The same for people: those in force, or those of an instance.
    let list = async |instance: Option<i64>, max: i64| -> Vec<String> {
        let rows = sqlx::query(LIST).bind(instance).bind(max).fetch_all(pool).await.unwrap();
        rows.iter()
            .map(|row| {
                let [queue, fsm, step] = ["queue", "fsm", "step"]
                    .map(|c| row.get::<Option<String>, _>(c).unwrap_or_default());
                format!("{queue}/{fsm}/{step}/{:?}", row.get::<Option<i64>, _>("instance_id"))
            })
            .collect()
    };
    assert_eq!(list(None, 100).await, ["q///None", "/m//None", "/n/s/None"]);
    assert_eq!(list(None, 1).await, ["q///None"]);
    assert_eq!(list(Some(4), 100).await, ["///Some(4)"]);
    sql(pool, "update gen_durable.instances set queue = 'q', fsm = 'n', step = 's' where id = 4")
        .await;
    assert_eq!(list(Some(4), 100).await, ["q///None", "/n/s/None", "///Some(4)"]);
    sql(pool, "update gen_durable.instances set fsm = 'm' where id = 4").await;
    assert_eq!(list(Some(4), 100).await, ["q///None", "/m//None", "///Some(4)"]);
    sql(pool, "update gen_durable.instances set queue = 'd', fsm = 'n', step = 't' where id = 4")
        .await;
    assert_eq!(list(Some(4), 100).await, ["///Some(4)"]);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a list of rows, and what becomes of each")]
async fn p70_instances_are_paused_and_resumed_by_themselves() {
    let db = database().await;
    let pool = db.pool();
    rows(
        pool,
        json!([
            instance(1, "m", "runnable", json!({ "blocked_by": 1, "eligible_at": PAST })),
            instance(2, "m", "executing", json!({ "locked_by": 7 })),
            instance(3, "m", "awaiting_signal", json!({})),
            instance(4, "m", "failed", json!({ "finished_at": PAST })),
            instance(5, "n", "runnable", json!({})),
            instance(6, "m", "runnable", json!({ "eligible_at": PAST })),
            instance(7, "m", "runnable", json!({})),
        ]),
    )
    .await;
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    let pause = async |connection: &mut PgConnection,
                       until: Option<i64>,
                       key: Option<&str>,
                       reason: &str| {
        let found = sqlx::query(PAUSE)
            .bind(vec![1_i64, 2, 3, 4, 5, 6])
            .bind("m")
            .bind("ada")
            .bind(reason)
            .bind(None::<&str>)
            .bind(key)
            .bind(until)
            .fetch_all(connection)
            .await
            .unwrap();
        let deeds: Vec<String> = found.iter().map(|row| row.get("deed")).collect();
        (deeds, found[3].get::<Option<String>, _>("reason"))
    };
    let (past, _) = pause(&mut connection, Some(0), None, "no").await;
    assert_eq!(past, ["past", "past", "past", "ended", "foreign", "past"]);
    let (moved, _) = pause(&mut connection, None, Some("k6"), "no").await;
    assert_eq!(moved, ["moved", "moved", "moved", "moved", "moved", "paused"]);
    let (deeds, reason) = pause(&mut connection, Some(4_102_444_800_000_000), None, "why").await;
    assert_eq!(deeds, ["paused", "paused", "paused", "ended", "foreign", "paused"]);
    assert_eq!(reason.as_deref(), Some("old"));
    assert_eq!(blocked(pool).await, json!([9, 8, 8, 0, 0, 8, 0]));
    assert_eq!(each(pool, "i.paused_by").await, json!([0, 0, 0, null, null, 0, null]));
    let seen = "select json_agg(json_build_array(instance_id, actor, reason, until = '2100-01-01') order by instance_id)
        from gen_durable.pauses";
    let row = |id: i64| json!([id, "ada", "why", true]);
    assert_eq!(see(pool, seen).await, json!([row(1), row(2), row(3), row(6)]));
    let audit =
        "select json_agg(json_build_array(actor, action, reason, instance_id, fsm) order by id)
        from gen_durable.audit";
    let noted = |action: &str, reason: &str, id: i64| json!(["ada", action, reason, id, "m"]);
    assert_eq!(
        see(pool, audit).await,
        json!([
            noted("pause", "no", 6),
            noted("pause", "why", 1),
            noted("pause", "why", 2),
            noted("pause", "why", 3),
            noted("pause", "why", 6)
        ])
    );

    let resume = async |connection: &mut PgConnection, key: Option<&str>| {
        let found = sqlx::query(RESUME)
            .bind(vec![1_i64, 2, 4, 5, 6])
            .bind("m")
            .bind("ada")
            .bind("go")
            .bind(None::<&str>)
            .bind(key)
            .fetch_all(connection)
            .await
            .unwrap();
        let deeds: Vec<Value> = found
            .iter()
            .map(|row| json!([row.get::<&str, _>("deed"), row.get::<Option<&str>, _>("queue")]))
            .collect();
        deeds
    };
    let moved = resume(&mut connection, Some("k1")).await;
    assert_eq!(moved[0], json!(["resumed", null]), "it waits for its key");
    assert!(moved[1..].iter().all(|deed| deed[0] == "moved"));
    assert_eq!(
        resume(&mut connection, None).await,
        [
            json!(["before", null]),
            json!(["resumed", null]),
            json!(["before", null]),
            json!(["foreign", null]),
            json!(["resumed", "q6"]),
        ]
    );
    assert_eq!(blocked(pool).await, json!([1, 0, 8, 0, 0, 0, 0]));
    assert_eq!(each(pool, "i.paused_by").await, json!([null, null, 0, null, null, null, null]));
    assert_eq!(see(pool, seen).await, json!([row(3)]));
    let last =
        "select json_agg(json_build_array(actor, action, reason, instance_id, fsm) order by id)
        from gen_durable.audit where action = 'resume'";
    assert_eq!(
        see(pool, last).await,
        json!([noted("resume", "go", 1), noted("resume", "go", 2), noted("resume", "go", 6)])
    );
}
