//! Committing an outcome in its step's transaction: `commit_step.sql` and the looks that follow it.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{
    FUTURE,
    commit::{Outcome, commit, executing, next},
    each, rows, run, see, session, signals,
};
use crate::support::{database, until_a_session_waits};

const BEGIN: &str = include_str!("../../../gen_durable/src/storage/sql/begin_read_committed.sql");

/// Applies an outcome. True if it was applied.
async fn commit_step(connection: &mut PgConnection, outcome: &Outcome<'_>) -> bool {
    sqlx::query_scalar(include_str!("../../../gen_durable/src/storage/sql/commit_step.sql"))
        .bind(outcome.id)
        .bind(outcome.worker)
        .bind(outcome.revision)
        .bind(outcome.status)
        .bind(outcome.step)
        .bind(outcome.state)
        .bind(outcome.result)
        .bind(outcome.error)
        .bind(outcome.attempt)
        .bind(outcome.delay)
        .bind(outcome.awaits)
        .bind(outcome.wake)
        .bind(outcome.version)
        .bind(outcome.failures)
        .bind(outcome.consumed)
        .bind("read committed")
        .bind(false)
        .fetch_one(connection)
        .await
        .unwrap()
}

/// All columns of each row but its id. A time counts as kept, as none, or as so many minutes from
/// now.
const COLUMNS: &str = "to_jsonb(i) - 'id' - 'inserted_at' || jsonb_build_object(
    'updated_at', i.updated_at = '2100-01-01',
    'finished_at', i.finished_at is not null,
    'eligible_at', round(extract(epoch from i.eligible_at - now()) / 60),
    'wake_at', round(extract(epoch from i.wake_at - now()) / 60),
    'inbox', (select array_agg(s.id % 10 order by s.id) from gen_durable.signals s
              where s.target_id = i.id)
)";

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_outcome_in_its_steps_transaction_is_applied_like_any_other() {
    let hour = Some(3_600_000_000);
    let full = Outcome {
        state: Some("\"new\""),
        error: Some("what went wrong"),
        attempt: Some(4),
        failures: Some(2),
        version: Some(2),
        ..next(1)
    };
    let park = Outcome {
        status: "awaiting_signal",
        step: None,
        awaits: Some("go\u{1f}stop"),
        ..full.clone()
    };
    let end = Outcome { status: "done", step: None, ..full.clone() };
    for outcome in [
        next(1),
        full.clone(),
        Outcome { status: "runnable", delay: hour, ..full.clone() },
        Outcome { status: "runnable", step: None, awaits: Some(""), delay: Some(0), ..next(1) },
        Outcome { wake: hour, ..park.clone() },
        park,
        Outcome { result: Some("{\"a\":1}"), ..end.clone() },
        Outcome { status: "failed", ..end },
        // A row that is given back without a run.
        Outcome { status: "runnable", step: None, attempt: None, failures: None, ..next(1) },
    ] {
        for scope in [json!(["executing", "runnable", "awaiting_signal"]), json!(["runnable"])] {
            let db = database().await;
            let pool = db.pool();
            let more = json!({
                "attempt": 3, "failures": 1, "crashes": 5, "awaits": ["old"], "last_error": "old",
                "unique_key": "k", "unique_scope": scope,
            });
            let [mut one, mut other] = [1, 2].map(|id| executing(id, &more));
            one["unique_key"] = json!("k1");
            other["unique_key"] = json!("k2");
            rows(pool, json!([one, other])).await;
            signals(pool, &[(1, 11), (1, 12), (1, 13), (2, 21), (2, 22), (2, 23)]).await;
            let mut session = session(pool, "").await;
            let consumed = Outcome { consumed: &[11, 13, 22], ..outcome.clone() };
            assert_eq!(commit(&mut session, &[consumed]).await.unwrap().0, [1]);
            run(&mut session, BEGIN).await;
            let consumed = Outcome { id: 2, consumed: &[21, 23, 12], ..outcome.clone() };
            assert!(commit_step(&mut session, &consumed).await, "{outcome:?}");
            run(&mut session, "commit").await;
            let columns = format!("({COLUMNS}) - 'unique_key' - 'unique_guard'");
            let rows = each(pool, &columns).await;
            assert_eq!(rows[0], rows[1], "{outcome:?}");
            assert_eq!(rows[0]["inbox"], json!([2]));
            let keys = each(pool, "i.unique_guard is null").await;
            assert_eq!(keys[0], keys[1], "{outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_only_the_owner_commits_and_only_in_the_steps_transaction() {
    let db = database().await;
    let pool = db.pool();
    let other = |id: i64, more: Value| executing(id, &more);
    rows(
        pool,
        json!([
            other(1, json!({})),
            other(2, json!({ "locked_by": 8 })),
            other(3, json!({ "revision": 4 })),
            other(4, json!({ "status": "runnable" })),
        ]),
    )
    .await;
    signals(pool, &[(2, 21)]).await;
    let mut session = session(pool, "").await;
    let before = each(pool, "to_jsonb(i)").await;
    run(&mut session, BEGIN).await;
    for id in 2..=4 {
        let consumed: &[i64] = &[21];
        assert!(!commit_step(&mut session, &Outcome { consumed, ..next(id) }).await, "{id}");
    }
    // The step has ended its transaction, and has begun another one.
    run(&mut session, "commit; begin").await;
    assert!(!commit_step(&mut session, &next(1)).await);
    let state = include_str!("../../../gen_durable/src/storage/sql/step_state.sql");
    assert_eq!(state_of(&mut session, state).await, "ended");
    run(&mut session, "commit").await;
    assert!(!commit_step(&mut session, &next(1)).await);
    assert_eq!(each(pool, "to_jsonb(i)").await, before);
    assert_eq!(see(pool, "select count(*) from gen_durable.signals").await, 1);
    let serializable = include_str!("../../../gen_durable/src/storage/sql/begin_serializable.sql");
    run(&mut session, serializable).await;
    assert!(!commit_step(&mut session, &next(1)).await, "at another level");
    assert_eq!(state_of(&mut session, state).await, "level");
    run(&mut session, "rollback").await;
    run(&mut session, BEGIN).await;
    assert_eq!(state_of(&mut session, state).await, "lost");
    assert!(commit_step(&mut session, &next(1)).await);
}

async fn state_of(session: &mut PgConnection, statement: &'static str) -> String {
    sqlx::query_scalar(statement).bind("read committed").fetch_one(session).await.unwrap()
}

/// Unlike `commit.sql`, it waits for the row's lock, and sees the row as it is then.
#[tokio::test(flavor = "multi_thread")]
async fn p70_an_outcome_in_its_steps_transaction_waits_for_its_row() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([executing(1, &json!({}))])).await;
    let mut holder = pool.begin().await.unwrap();
    run(&mut holder, "update gen_durable.instances set revision = 4, crashes = 1").await;
    let mut waiting = session(pool, BEGIN).await;
    let commit = tokio::spawn(async move { commit_step(&mut waiting, &next(1)).await });
    until_a_session_waits(pool, 1).await;
    holder.commit().await.unwrap();
    assert!(!commit.await.unwrap(), "the worker has lost it meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_the_looks_after_the_lock_see_what_they_should() {
    let db = database().await;
    let pool = db.pool();
    let parked = |id: i64, scope: Value| {
        json!({
            "id": id, "status": "awaiting_signal", "awaits": ["go"], "wake_at": FUTURE,
            "eligible_at": FUTURE, "queue": "q", "unique_key": id.to_string(),
            "unique_scope": scope,
        })
    };
    let mut done = parked(4, json!([]));
    done["status"] = json!("done");
    rows(
        pool,
        json!([
            parked(1, json!(["runnable"])),
            parked(2, json!(["awaiting_signal"])),
            parked(3, json!([])),
            done,
        ]),
    )
    .await;
    signals(pool, &[(1, 5), (1, 7), (2, 6), (2, 9)]).await;
    let mut session = session(pool, "").await;
    let there = include_str!("../../../gen_durable/src/storage/sql/is_awaited_there.sql");
    for (names, seen, expected) in [
        (["go", "x"], vec![], true),
        (["go", "x"], vec![5], true),
        (["go", "x"], vec![5, 7], false),
        (["go", "x"], vec![5, 6, 9], true),
        (["x", "y"], vec![], false),
    ] {
        let query = sqlx::query_scalar(there).bind(1_i64).bind(names).bind(&seen);
        let is_there: bool = query.fetch_one(&mut session).await.unwrap();
        assert_eq!(is_there, expected, "{names:?} {seen:?}");
    }
    let ids = include_str!("../../../gen_durable/src/storage/sql/signal_ids.sql");
    for (id, name, expected) in [
        (1_i64, None, vec![5_i64, 7]),
        (1, Some("x"), vec![]),
        (2, None, vec![6, 9]),
        (3, None, vec![]),
    ] {
        let query = sqlx::query_scalar(ids).bind(id).bind(name);
        let mut ids: Vec<i64> = query.fetch_one(&mut session).await.unwrap();
        ids.sort_unstable();
        assert_eq!(ids, expected, "{id} {name:?}");
    }
    let wake = include_str!("../../../gen_durable/src/storage/sql/wake_step.sql");
    for id in [1_i64, 2, 4] {
        let woken: Vec<String> =
            sqlx::query_scalar(wake).bind(id).fetch_all(&mut session).await.unwrap();
        assert_eq!(woken.len(), usize::from(id != 4), "{id}: {woken:?}");
    }
    let seen = each(
        pool,
        "json_build_array(i.status, i.awaits is null, i.wake_at is null, i.eligible_at < now() + interval '1 day', i.unique_guard is null, case when i.unique_released is null then i.unique_scope end is null)",
    )
    .await;
    assert_eq!(
        seen,
        json!([
            ["runnable", true, true, true, false, false],
            ["runnable", true, true, true, true, true],
            ["awaiting_signal", false, false, false, true, false],
            ["done", false, false, false, true, false],
        ])
    );
}

/// The inbox of a next step is the one that `commit.sql` brings.
#[tokio::test(flavor = "multi_thread")]
async fn p70_new_signals_are_read_as_a_commit_reads_them() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([executing(1, &json!({})), executing(2, &json!({}))])).await;
    let new = include_str!("../../../gen_durable/src/storage/sql/new_signals.sql");
    let mut session = session(pool, "").await;
    let many: Vec<(i64, i64)> = (1..=150).map(|id| (1, id)).collect();
    signals(pool, &many).await;
    signals(pool, &[(2, 200)]).await;
    sqlx::query(
        "insert into gen_durable.signals (target_id, id, name, payload)
         overriding system value
         select 1, 300 + n, 'big', to_json((
             select string_agg(md5((1000 * n + k)::text), '') from generate_series(1, 1000) k
         ))
         from generate_series(1, 5) n",
    )
    .execute(pool)
    .await
    .unwrap();
    for known in [0, 10, 49, 50, 51, 149, 150, 301, 304, 305] {
        let outcome = Outcome { known, listens: true, ..next(1) };
        run(&mut session, "begin").await;
        let (_, inboxes) = commit(&mut session, &[outcome]).await.unwrap();
        let expected = inboxes.into_iter().next().map(|(_, inbox)| inbox);
        run(&mut session, "rollback").await;
        let text: Option<String> = sqlx::query_scalar(new)
            .bind(1_i64)
            .bind(known)
            .fetch_optional(&mut session)
            .await
            .unwrap();
        let seen: Option<Value> = text.map(|text| serde_json::from_str(&text).unwrap());
        assert_eq!(seen, expected, "{known}");
    }
}
