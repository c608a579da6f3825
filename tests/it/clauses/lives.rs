//! The other actions of operators: `retry.sql`, `run_now.sql`, `delete_instance.sql`, and
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
            .bind(1_i64)
            .bind(None::<&str>)
            .bind(None::<&str>)
            .bind("why")
            .bind(step)
            .bind(state)
            .bind(None::<i32>)
            .bind(forgets)
            .bind(2_i64)
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
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let deeds: Vec<(i64, &str, Option<&str>)> =
        found.iter().map(|row| (row.get("id"), row.get("deed"), row.get("queue"))).collect();
    let expected =
        [(1, "moved", Some("q1")), (2, "due", None), (3, "other", None), (4, "ended", None)];
    assert_eq!(deeds, expected);
    let times = "json_build_array(i.eligible_at <= now(), i.updated_at > '2021-01-01')";
    let seen = each(pool, times).await;
    assert_eq!((&seen[0], &seen[1]), (&json!([true, true]), &json!([true, false])));
    assert_eq!(seen[2], json!([false, false]));

    let delete = include_str!("../../../gen_durable/src/storage/sql/delete_instance.sql");
    for (id, deed) in [(1, "live"), (4, "deleted"), (5, "owes"), (6, "foreign")] {
        let row = sqlx::query(delete)
            .bind(id)
            .bind("m")
            .bind("ada")
            .bind("why")
            .bind(None::<&str>)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(row.get::<&str, _>("deed"), deed, "{id}");
    }
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
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.instances where id = 7 for update").await;
    let settle = include_str!("../../../gen_durable/src/storage/sql/settle_keys.sql");
    let ids = [5_i64, 6, 7].as_slice();
    sqlx::query(settle).bind(ids).execute(&mut connection).await.unwrap();
    other.rollback().await.unwrap();
    let owes = "select json_agg(owes order by id) from gen_durable.instances where id > 4";
    assert_eq!(see(pool, owes).await, json!([1, 1, 2]));
    let ids = [7_i64].as_slice();
    sqlx::query(settle).bind(ids).execute(&mut connection).await.unwrap();
    assert_eq!(see(pool, owes).await, json!([1, 1, null]));
}
