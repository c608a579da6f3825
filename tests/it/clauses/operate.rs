//! Cancels and kills: `cancel.sql` and `answer_cancels.sql`.

use serde_json::{Value, json};
use sqlx::{PgConnection, Row};

use super::{FUTURE, PAST, each, in_a_circle, is_locked, rows, run, see, session};
use crate::support::{database, sql};

const CANCEL: &str = include_str!("../../../gen_durable/src/storage/sql/cancel.sql");
const RUN_NOW: &str = include_str!("../../../gen_durable/src/storage/sql/run_now.sql");
const DELETE: &str = include_str!("../../../gen_durable/src/storage/sql/delete_instances.sql");
const PAUSE: &str = include_str!("../../../gen_durable/src/storage/sql/pause_instances.sql");
const RESUME: &str = include_str!("../../../gen_durable/src/storage/sql/resume_instances.sql");
const ANSWER: &str = include_str!("../../../gen_durable/src/storage/sql/answer_cancels.sql");

/// Machine `m` answers a cancel with the step `undo`, `n` with its end, and `u` is not registered.
pub(super) const MACHINES: &str = "insert into gen_durable.machines (fsm, fsm_version, initial, steps, on_cancel)
    values ('m', 1, 's', '{s,undo}', 'undo'), ('m', 2, 's', '{s}', null), ('n', 1, 's', '{s}', null)";

/// The columns that an action changes.
pub(super) const CHANGED: &str = "json_build_array(i.status, i.step, i.attempt, i.failures, i.crashes,
    i.awaits is null, i.awaits_more is null, i.wake_at is null, i.eligible_at < now() + interval '1 h',
    i.blocked_by, i.owes, i.cancelled_at is not null, i.last_error, i.locked_by,
    i.finished_at is not null, i.revision, i.unique_released, i.updated_at > '2021-01-01')";

pub(super) fn instance(id: i64, fsm: &str, status: &str, more: Value) -> Value {
    let mut row = json!({
        "id": id, "fsm": fsm, "status": status, "attempt": 3, "failures": 2, "crashes": 1,
        "revision": 9, "updated_at": PAST, "last_error": "old", "queue": format!("q{id}"),
        "unique_key": format!("k{id}"), "unique_scope": [status], "eligible_at": FUTURE,
    });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

/// Cancels or kills instances. Returns the id, deed, status, reason, queue and debt of each.
async fn cancel(connection: &mut PgConnection, ids: &[i64], kills: bool) -> Value {
    let found = sqlx::query(CANCEL)
        .bind(ids)
        .bind(None::<&str>)
        .bind("ada")
        .bind("why")
        .bind(kills)
        .bind(Some("20ms"))
        .bind(None::<&str>)
        .fetch_all(connection)
        .await
        .unwrap();
    found
        .iter()
        .map(|row| {
            json!([
                row.get::<i64, _>("id"),
                row.get::<&str, _>("deed"),
                row.get::<&str, _>("status"),
                row.get::<Option<&str>, _>("reason"),
                row.get::<Option<&str>, _>("queue"),
                row.get::<bool, _>("owes"),
            ])
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a list of rows, and what becomes of each")]
async fn p70_a_cancel_does_what_each_row_needs() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, MACHINES).await;
    let parked = json!({ "awaits": ["go"], "awaits_more": 2, "wake_at": FUTURE });
    let running = json!({ "locked_by": 7, "awaits": [], "blocked_by": 0, "eligible_at": PAST });
    rows(
        pool,
        json!([
            instance(
                1,
                "m",
                "runnable",
                json!({ "blocked_by": 21, "paused_by": 3, "partition_key": "p" })
            ),
            instance(2, "m", "awaiting_signal", parked.clone()),
            instance(3, "m", "executing", running.clone()),
            instance(
                4,
                "n",
                "runnable",
                json!({ "blocked_by": 17, "partition_key": "p", "report_to": 9 })
            ),
            instance(5, "n", "awaiting_signal", json!({ "report_to": 9 })),
            instance(6, "u", "runnable", json!({ "blocked_by": 1 })),
            instance(7, "u", "awaiting_signal", parked),
            instance(8, "n", "executing", running),
            instance(9, "m", "done", json!({ "finished_at": PAST })),
            instance(10, "m", "failed", json!({ "finished_at": PAST })),
            instance(11, "m", "cancelled", json!({ "finished_at": PAST })),
            instance(12, "m", "runnable", json!({ "cancelled_at": PAST })),
            instance(13, "m", "runnable", json!({ "fsm_version": 2, "partition_key": "p" })),
            instance(14, "m", "runnable", json!({})),
        ]),
    )
    .await;
    let before = each(pool, CHANGED).await;
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    let ids: Vec<i64> = (1..=13).collect();
    let answer = cancel(&mut connection, &ids, false).await;
    assert_eq!(
        answer,
        json!([
            [1, "goes", "runnable", null, "q1", false],
            [2, "goes", "awaiting_signal", null, "q2", false],
            [3, "asked", "executing", null, null, true],
            [4, "cancelled", "runnable", null, null, true],
            [5, "cancelled", "awaiting_signal", null, null, true],
            [6, "asked", "runnable", null, null, true],
            [7, "asked", "awaiting_signal", null, null, true],
            [8, "asked", "executing", null, null, true],
            [9, "ended", "done", null, null, false],
            [10, "ended", "failed", "old", null, false],
            [11, "ended", "cancelled", "old", null, false],
            [12, "before", "runnable", null, null, false],
            [13, "cancelled", "runnable", null, null, true],
        ])
    );
    let after = each(pool, CHANGED).await;
    let goes = |blocked, released: Value| {
        json!([
            "runnable", "undo", 0, 0, 0, true, true, true, true, blocked, null, true, "old", null,
            false, 10, released, true
        ])
    };
    let ends = |owes: Value| {
        json!([
            "cancelled",
            "s",
            3,
            2,
            1,
            true,
            true,
            true,
            true,
            0,
            owes,
            true,
            "why",
            null,
            true,
            10,
            true,
            true
        ])
    };
    let asked = json!([
        "executing",
        "s",
        3,
        2,
        1,
        false,
        true,
        true,
        true,
        0,
        4,
        true,
        "old",
        7,
        false,
        10,
        null,
        true
    ]);
    let waits = |blocked, released: Value| {
        json!([
            "runnable", "s", 3, 2, 1, true, true, true, true, blocked, 4, true, "old", null, false,
            10, released, true
        ])
    };
    let expected = [
        goes(1, Value::Null),
        goes(0, true.into()),
        asked.clone(),
        ends(3.into()),
        ends(1.into()),
        waits(3, Value::Null),
        waits(2, true.into()),
        asked,
    ];
    for (index, expected) in expected.into_iter().enumerate() {
        assert_eq!(after[index], expected, "{}", index + 1);
    }
    for index in [8, 9, 10, 11, 13] {
        assert_eq!(after[index], before[index], "{}", index + 1);
    }
    assert_eq!(after[12], ends(2.into()));
    let audit =
        "select json_agg(json_build_array(actor, action, reason, instance_id, fsm) order by id)
        from gen_durable.audit";
    let noted = |id: i64, fsm: &str| json!(["ada", "cancel", "why", id, fsm]);
    assert_eq!(
        see(pool, audit).await,
        json!([
            noted(1, "m"),
            noted(2, "m"),
            noted(3, "m"),
            noted(4, "n"),
            noted(5, "n"),
            noted(6, "u"),
            noted(7, "u"),
            noted(8, "n"),
            noted(13, "m"),
        ])
    );
    // A kill asks no machine, and ends what was cancelled before.
    let answer = cancel(&mut connection, &[3, 12, 14], true).await;
    assert_eq!(
        answer,
        json!([
            [3, "cancelled", "executing", null, null, false],
            [12, "cancelled", "runnable", null, null, false],
            [14, "cancelled", "runnable", null, null, false],
        ])
    );
    let after = each(pool, CHANGED).await;
    let mut killed = ends(Value::Null);
    assert_eq!((&after[11], &after[13]), (&killed, &killed));
    killed[15] = 11.into();
    assert_eq!(after[2], killed);
    let last = "select json_build_array(action, instance_id) from gen_durable.audit order by id desc limit 1";
    assert_eq!(see(pool, last).await, json!(["kill", 14]));
}

/// Runs an action on rows, each of which it leaves alone or changes.
async fn act(
    statement: &'static str,
    connection: &mut PgConnection,
    ids: &[i64],
    timeout: Option<&str>,
) -> Result<usize, sqlx::Error> {
    let query =
        sqlx::query(statement).bind(ids).bind(None::<&str>).bind(None::<&str>).bind(None::<&str>);
    let query = if statement == CANCEL { query.bind(true) } else { query };
    let query = query.bind(timeout).bind(None::<&str>);
    let query = if statement == PAUSE { query.bind(None::<i64>) } else { query };
    Ok(query.fetch_all(connection).await?.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_action_waits_for_its_rows_in_order_and_for_as_long_as_it_may() {
    for statement in [CANCEL, RUN_NOW, DELETE, PAUSE, RESUME] {
        let db = database().await;
        let pool = db.pool();
        let [first, second] = in_a_circle(pool, |mut connection, ids| {
            tokio::spawn(async move { act(statement, &mut connection, &ids, None).await })
        })
        .await;
        assert_eq!((first.unwrap(), second.unwrap()), (2, 2));
        let mut other = pool.begin().await.unwrap();
        run(&mut other, "select from gen_durable.instances where id = 1 for update").await;
        // The statement's own timeout ends the wait, and the session's is as it was.
        let mut connection =
            session(pool, "set lock_timeout = 0; set statement_timeout = '10s'").await;
        let error = act(statement, &mut connection, &[1], Some("20ms")).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
        let kept: String =
            sqlx::query_scalar("show lock_timeout").fetch_one(&mut connection).await.unwrap();
        assert_eq!(kept, "0");
        // Without one the session's own ends it.
        run(&mut connection, "set lock_timeout = '20ms'").await;
        let error = act(statement, &mut connection, &[1], None).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
        act(statement, &mut connection, &[2], Some("1s")).await.unwrap();
        let kept: String =
            sqlx::query_scalar("show lock_timeout").fetch_one(&mut connection).await.unwrap();
        assert_eq!(kept, "20ms");
        other.rollback().await.unwrap();
        assert!(!is_locked(pool, 1).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_answer_goes_to_the_step_or_ends() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, MACHINES).await;
    let asked = |id, fsm: &str, status: &str, more: Value| {
        let mut row = instance(id, fsm, status, more);
        let columns = json!({ "owes": 6, "cancelled_at": PAST, "awaits": [], "partition_key": format!("p{id}") });
        row.as_object_mut().unwrap().extend(columns.as_object().unwrap().clone());
        row
    };
    rows(
        pool,
        json!([
            asked(1, "m", "executing", json!({ "locked_by": 7, "report_to": 9 })),
            asked(2, "m", "runnable", json!({ "blocked_by": 23, "paused_by": 3 })),
            asked(3, "n", "executing", json!({ "locked_by": 7, "report_to": 1 })),
            asked(4, "n", "runnable", json!({ "blocked_by": 19 })),
            asked(5, "u", "runnable", json!({ "blocked_by": 2 })),
            asked(6, "m", "executing", json!({ "locked_by": 8 })),
            instance(7, "m", "executing", json!({ "locked_by": 7, "owes": 2 })),
            asked(8, "m", "runnable", json!({ "blocked_by": 2 })),
            asked(9, "m", "runnable", json!({ "blocked_by": 2 })),
        ]),
    )
    .await;
    sql(
        pool,
        "insert into gen_durable.audit (actor, action, reason, instance_id) values
         ('a', 'cancel', 'first', 3), ('a', 'cancel', 'last', 3), ('a', 'kill', 'no', 3),
         ('a', 'cancel', 'other', 1)",
    )
    .await;
    let before = each(pool, CHANGED).await;
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.instances where id = 8 for update").await;
    let ids: Vec<i64> = (1..=8).collect();
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    // Without a worker no running row is answered.
    let nobody = sqlx::query(ANSWER).bind([1_i64, 6].as_slice()).bind(None::<i64>);
    assert!(nobody.fetch_all(&mut connection).await.unwrap().is_empty());
    let found = sqlx::query(ANSWER).bind(ids).bind(7_i64).fetch_all(&mut connection).await.unwrap();
    let mut answers: Vec<Value> = found
        .iter()
        .map(|row| {
            json!([
                row.get::<i64, _>("id"),
                row.get::<Option<&str>, _>("queue"),
                row.get::<Option<&str>, _>("partition_key"),
                row.get::<bool, _>("reports"),
            ])
        })
        .collect();
    answers.sort_by_key(|answer| answer[0].as_i64());
    assert_eq!(
        answers,
        [
            json!([1, "q1", "p1", false]),
            json!([2, "q2", "p2", false]),
            json!([3, null, "p3", true]),
            json!([4, null, "p4", false]),
        ]
    );
    other.rollback().await.unwrap();
    let after = each(pool, CHANGED).await;
    let goes = |blocked, released: Value| {
        json!([
            "runnable", "undo", 0, 0, 0, true, true, true, true, blocked, 2, true, "old", null,
            false, 10, released, true
        ])
    };
    let ends = |owes, why: &str| {
        json!([
            "cancelled",
            "s",
            3,
            2,
            0,
            true,
            true,
            true,
            true,
            0,
            owes,
            true,
            why,
            null,
            true,
            10,
            true,
            true
        ])
    };
    assert_eq!(after[0], goes(0, true.into()));
    assert_eq!(after[1], goes(1, Value::Null));
    assert_eq!(after[2], ends(3, "last"));
    assert_eq!(after[3], ends(2, "cancelled"));
    for index in 4..9 {
        assert_eq!(after[index], before[index], "{}", index + 1);
    }
}
