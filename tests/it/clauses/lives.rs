//! The other actions of operators: `retry.sql`, `run_now.sql`, `delete_instances.sql`, and
//! `settle_keys.sql`.

use serde_json::{Value, json};
use sqlx::Row;

use super::{
    PAST, each,
    operate::{CHANGED, MACHINES, instance},
    rows, run, see, session, signals,
};
use crate::support::{database, sql};

const RETRY: &str = include_str!("../../../gen_durable/src/storage/sql/retry.sql");

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_retry_begins_the_life_of_a_row_anew() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, MACHINES).await;
    let ended = json!({
        "finished_at": PAST, "cancelled_at": PAST, "owes": 3, "report_to": 2, "result": 1,
        "unique_released": true, "unique_scope": ["runnable"],
    });
    rows(
        pool,
        json!([
            instance(1, "m", "cancelled", ended.clone()),
            instance(
                2,
                "r",
                "awaiting_signal",
                json!({ "awaits": ["ended(m)"], "awaits_more": 1 })
            ),
            instance(3, "m", "failed", ended),
        ]),
    )
    .await;
    signals(pool, &[(1, 1_001), (2, 1_002)]).await;
    sql(
        pool,
        r#"insert into gen_durable.signals (target_id, name, payload) values
           (2, 'ended(m)', '{"id": 1, "status": "cancelled"}'),
           (2, 'ended(m)', '{"id": 3, "status": "failed"}'),
           (2, 'ended(n)', '{"id": 1, "status": "failed"}'),
           (2, 'ended(m)', '{"id": 1, "status": "taken"}');
           insert into gen_durable.signal_keys values (1, 'a'), (3, 'a')"#,
    )
    .await;
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    let mut retry = async |step: Option<&str>, state: Option<&str>, forgets: bool| -> Value {
        let row = sqlx::query(RETRY)
            .bind([1_i64].as_slice())
            .bind(None::<&str>)
            .bind(None::<&str>)
            .bind("why")
            .bind(step)
            .bind(state)
            .bind(None::<i32>)
            .bind(forgets)
            .bind([2_i64].as_slice())
            .bind(None::<&str>)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        json!([
            row.get::<&str, _>("deed"),
            row.get::<Option<&str>, _>("queue"),
            row.get::<bool, _>("heard")
        ])
    };
    assert_eq!(retry(Some("none"), None, false).await, json!(["step", null, false]));
    assert_eq!(retry(Some("undo"), Some("5"), true).await, json!(["retried", "q1", false]));
    let after = each(pool, CHANGED).await;
    assert_eq!(
        after[0],
        json!([
            "runnable", "undo", 0, 0, 0, true, true, true, true, 0, 2, false, "old", null, false,
            10, null, true
        ])
    );
    let rest = "select json_build_array(i.state, i.result, i.report_to, i.unique_guard)
        from gen_durable.instances i where i.id = 1";
    assert_eq!(see(pool, rest).await, json!([5, null, 2, "k1"]));
    // Its own inbox stays, and of the receiver's, its own report alone is withdrawn.
    let inboxes =
        "select json_agg(json_build_array(target_id, name, payload) order by target_id, id)
        from gen_durable.signals";
    assert_eq!(
        see(pool, inboxes).await,
        json!([
            [1, "go", 1001],
            [2, "ended(m)", { "id": 3, "status": "failed" }],
            [2, "ended(n)", { "id": 1, "status": "failed" }],
            [2, "ended(m)", { "id": 1, "status": "taken" }],
            [2, "go", 1002],
        ])
    );
    let more = "select awaits_more from gen_durable.instances where id = 2";
    assert_eq!(see(pool, more).await, json!(2));
    let keys = "select json_agg(target_id) from gen_durable.signal_keys";
    assert_eq!(see(pool, keys).await, json!([3]));
    let audit =
        "select json_agg(json_build_array(actor = session_user, action, reason, instance_id, fsm))
        from gen_durable.audit";
    assert_eq!(see(pool, audit).await, json!([[true, "retry", "why", 1, "m"]]));
    assert_eq!(retry(None, None, false).await, json!(["live", null, false]));
}

/// Many rows at once: the deed of each, and what becomes of the reports to receivers in each
/// status.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a list of rows, and what becomes of each")]
async fn p70_a_retry_of_many_treats_each_by_itself() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, MACHINES).await;
    let ended = |id: i64, fsm: &str, status: &str, more: Value| {
        let mut row =
            json!({ "finished_at": PAST, "unique_scope": ["runnable"], "unique_released": true });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        instance(id, fsm, status, row)
    };
    let key = |key: &str| json!({ "unique_key": key });
    let to = |receiver: i64| json!({ "report_to": receiver });
    rows(
        pool,
        json!([
            ended(1, "n", "failed", json!({})),
            ended(2, "m", "done", json!({})),
            instance(3, "m", "runnable", json!({})),
            ended(4, "m", "failed", json!({ "fsm_version": 2 })),
            ended(5, "m", "failed", key("twin")),
            ended(6, "m", "cancelled", key("twin")),
            ended(7, "m", "failed", key("held")),
            instance(8, "m", "executing", json!({ "unique_key": "held" })),
            ended(9, "m", "failed", json!({ "unique_key": "held", "unique_scope": ["done"] })),
            ended(11, "m", "failed", to(21)),
            ended(12, "m", "failed", to(22)),
            ended(13, "m", "failed", to(23)),
            ended(14, "m", "failed", to(24)),
            ended(15, "m", "failed", to(24)),
            ended(16, "m", "failed", to(25)),
            ended(17, "m", "failed", to(99)),
            ended(18, "m", "failed", json!({ "report_to": 21, "owes": 1 })),
            instance(19, "x", "executing", key("k4")),
            instance(21, "r", "executing", json!({})),
            instance(22, "r", "runnable", json!({})),
            instance(23, "r", "awaiting_signal", json!({ "awaits": ["go"], "awaits_more": 1 })),
            instance(
                24,
                "r",
                "awaiting_signal",
                json!({ "awaits": ["go", "ended(m)"], "awaits_more": 3 })
            ),
            ended(25, "r", "failed", json!({})),
        ]),
    )
    .await;
    sql(
        pool,
        "insert into gen_durable.signals (target_id, name, payload)
         select i.report_to, 'ended(m)', json_build_object('id', i.id, 'status', 'failed')
         from gen_durable.instances i where i.id between 11 and 16 and i.id <> 12",
    )
    .await;
    let ids: Vec<i64> = (1..=18).chain([77]).collect();
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    let mut retry =
        async |fsm: Option<&str>, step: Option<&str>, version: Option<i32>, key: Option<&str>| {
            let found = sqlx::query(RETRY)
                .bind(&ids)
                .bind(fsm)
                .bind("ada")
                .bind(None::<&str>)
                .bind(step)
                .bind(None::<&str>)
                .bind(version)
                .bind(false)
                .bind([21_i64, 22, 23, 24, 25, 99].as_slice())
                .bind(key)
                .fetch_all(&mut connection)
                .await
                .unwrap();
            let answers: Vec<Value> = found
                .iter()
                .map(|row| {
                    json!([
                        row.get::<i64, _>("id"),
                        row.get::<&str, _>("deed"),
                        row.get::<Option<i64>, _>("holder"),
                        row.get::<bool, _>("heard"),
                    ])
                })
                .collect();
            answers
        };
    let by_key = retry(Some("m"), None, None, Some("held")).await;
    assert!(by_key.iter().all(|answer| answer[1] == if answer[0] == 8 { "live" } else { "moved" }));
    let at = retry(None, Some("s"), Some(2), None).await;
    assert!(at.contains(&json!([5, "version", null, false])), "{at:?}");
    assert_eq!(at[3], json!([4, "retried", null, false]));
    assert_eq!(
        retry(Some("m"), None, None, None).await,
        [
            json!([1, "foreign", null, false]),
            json!([2, "done", null, false]),
            json!([3, "live", null, false]),
            json!([4, "live", null, false]),
            json!([5, "taken", 6, false]),
            json!([6, "retried", null, false]),
            json!([7, "taken", 8, false]),
            json!([8, "live", null, false]),
            json!([9, "retried", null, false]),
            // The receiver runs, or its inbox has no report: it has heard.
            json!([11, "retried", null, true]),
            json!([12, "retried", null, true]),
            json!([13, "retried", null, false]),
            json!([14, "retried", null, false]),
            json!([15, "retried", null, false]),
            json!([16, "retried", null, false]),
            // The receiver is gone, and the report was never sent.
            json!([17, "retried", null, false]),
            json!([18, "retried", null, false]),
        ]
    );
    let seen = "select json_object_agg(i.id, json_build_array(i.status, i.report_to, i.unique_guard, i.owes))
        from gen_durable.instances i where i.id <= 18 and i.id not in (1, 2, 3, 8)";
    let row = |status: &str, to: Option<i64>, guard: Option<&str>| json!([status, to, guard, null]);
    assert_eq!(
        see(pool, seen).await,
        json!({
            "4": row("runnable", None, Some("k4")),
            "5": row("failed", None, None),
            "6": row("runnable", None, Some("twin")),
            "7": row("failed", None, None),
            "9": row("runnable", None, None),
            "11": row("runnable", None, Some("k11")),
            "12": row("runnable", None, Some("k12")),
            "13": row("runnable", Some(23), Some("k13")),
            "14": row("runnable", Some(24), Some("k14")),
            "15": row("runnable", Some(24), Some("k15")),
            "16": row("runnable", Some(25), Some("k16")),
            "17": row("runnable", Some(99), Some("k17")),
            "18": row("runnable", Some(21), Some("k18")),
        })
    );
    let left = "select json_agg(s.payload -> 'id') from gen_durable.signals s";
    assert_eq!(see(pool, left).await, json!([11]));
    let more = "select json_agg(i.awaits_more order by i.id) from gen_durable.instances i where i.id in (23, 24)";
    assert_eq!(see(pool, more).await, json!([1, 5]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_delayed_rows_run_now_and_ended_rows_are_deleted() {
    let db = database().await;
    let pool = db.pool();
    rows(
        pool,
        json!([
            instance(1, "m", "runnable", json!({})),
            instance(2, "m", "runnable", json!({ "eligible_at": PAST })),
            instance(3, "m", "awaiting_signal", json!({})),
            instance(4, "m", "failed", json!({ "finished_at": PAST })),
            instance(5, "m", "failed", json!({ "finished_at": PAST, "owes": 1 })),
            instance(6, "n", "failed", json!({ "finished_at": PAST, "owes": 3 })),
            instance(7, "m", "failed", json!({ "finished_at": PAST, "owes": 2 })),
        ]),
    )
    .await;
    signals(pool, &[(4, 1), (5, 2)]).await;
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    let run_now = include_str!("../../../gen_durable/src/storage/sql/run_now.sql");
    let found = sqlx::query(run_now)
        .bind([1_i64, 2, 3, 4].as_slice())
        .bind("m")
        .bind("ada")
        .bind(None::<&str>)
        .bind(None::<&str>)
        .bind(None::<&str>)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let deeds: Vec<(i64, &str, Option<&str>)> =
        found.iter().map(|row| (row.get("id"), row.get("deed"), row.get("queue"))).collect();
    let expected =
        [(1, "hastened", Some("q1")), (2, "due", None), (3, "other", None), (4, "ended", None)];
    assert_eq!(deeds, expected);
    let reasons: Vec<Option<&str>> = found.iter().map(|row| row.get("reason")).collect();
    assert_eq!(reasons, [None, None, None, Some("old")]);
    let times = "json_build_array(i.eligible_at <= now(), i.updated_at > '2021-01-01')";
    let seen = each(pool, times).await;
    assert_eq!((&seen[0], &seen[1]), (&json!([true, true]), &json!([true, false])));
    assert_eq!(seen[2], json!([false, false]));

    let delete = include_str!("../../../gen_durable/src/storage/sql/delete_instances.sql");
    let found = sqlx::query(delete)
        .bind([1_i64, 4, 5, 6].as_slice())
        .bind("m")
        .bind("ada")
        .bind("why")
        .bind(None::<&str>)
        .bind(None::<&str>)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let deeds: Vec<(i64, &str)> =
        found.iter().map(|row| (row.get("id"), row.get("deed"))).collect();
    assert_eq!(deeds, [(1, "live"), (4, "deleted"), (5, "owes"), (6, "foreign")]);
    assert_eq!(each(pool, "i.id").await, json!([1, 2, 3, 5, 6, 7]));
    let left = "select json_agg(target_id) from gen_durable.signals";
    assert_eq!(see(pool, left).await, json!([5]));
    let audit =
        "select json_agg(json_build_array(actor, action, reason, instance_id, fsm) order by id)
        from gen_durable.audit";
    assert_eq!(
        see(pool, audit).await,
        json!([["ada", "run_now", null, 1, "m"], ["ada", "delete", "why", 4, "m"]])
    );

    // A freed key is noted for the named rows that are not locked.
    let settle = include_str!("../../../gen_durable/src/storage/sql/settle_keys.sql");
    let owes = "select json_agg(owes order by id) from gen_durable.instances where id > 4";
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.instances where id = 7 for update").await;
    for (ids, left) in [(vec![5], json!([1, 3, 2])), (vec![5_i64, 6, 7], json!([1, 1, 2]))] {
        sqlx::query(settle).bind(ids).execute(&mut connection).await.unwrap();
        assert_eq!(see(pool, owes).await, left);
    }
    other.rollback().await.unwrap();
    sqlx::query(settle).bind(vec![7_i64]).execute(&mut connection).await.unwrap();
    assert_eq!(see(pool, owes).await, json!([1, 1, null]));
}
