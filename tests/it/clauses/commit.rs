//! Committing outcomes: `commit.sql`, and what follows it in its transaction.

use std::sync::Arc;

use gen_durable::prelude::*;
use serde_json::{Value, json};
use sqlx::{Acquire, PgConnection, Row};
use tokio::time::timeout;

use super::{
    FUTURE, each, in_a_circle, inbox, is_locked, rows, run, see, session, signals, without_indexes,
};
use crate::support::{Breakpoint, WAIT_MAX, database, engine, until};

/// An outcome, with the columns that `commit.sql` takes.
#[derive(Clone, Debug)]
pub(super) struct Outcome<'a> {
    pub(super) id: i64,
    pub(super) worker: i64,
    pub(super) revision: i64,
    pub(super) status: &'a str,
    pub(super) step: Option<&'a str>,
    pub(super) state: Option<&'a str>,
    pub(super) result: Option<&'a str>,
    pub(super) error: Option<&'a str>,
    pub(super) attempt: Option<i32>,
    pub(super) delay: Option<i64>,
    pub(super) awaits: Option<&'a str>,
    pub(super) wake: Option<i64>,
    pub(super) listens: bool,
    pub(super) consumed: &'a [i64],
    pub(super) version: Option<i32>,
    pub(super) failures: Option<i32>,
    pub(super) known: i64,
}

/// An outcome of the worker 7 that goes to the next step from revision 3, and changes nothing else.
pub(super) fn next(id: i64) -> Outcome<'static> {
    Outcome {
        id,
        worker: 7,
        revision: 3,
        status: "executing",
        step: Some("next"),
        state: None,
        result: None,
        error: None,
        attempt: Some(0),
        delay: None,
        awaits: None,
        wake: None,
        listens: false,
        consumed: &[],
        version: None,
        failures: Some(0),
        known: 0,
    }
}

/// Commits outcomes. Returns the ids of those that were applied, and the inboxes of instances that
/// go on.
pub(super) async fn commit(
    connection: &mut PgConnection,
    outcomes: &[Outcome<'_>],
) -> Result<(Vec<i64>, Vec<(i64, Value)>), sqlx::Error> {
    macro_rules! column {
        ($field:ident) => {
            outcomes.iter().map(|outcome| outcome.$field).collect::<Vec<_>>()
        };
    }
    let consumed = outcomes.iter().flat_map(|outcome| outcome.consumed);
    let consumed_of =
        outcomes.iter().flat_map(|outcome| outcome.consumed.iter().map(|_| outcome.id));
    let row = sqlx::query(include_str!("../../../gen_durable/src/storage/sql/commit.sql"))
        .bind(column!(id))
        .bind(column!(worker))
        .bind(column!(revision))
        .bind(column!(status))
        .bind(column!(step))
        .bind(column!(state))
        .bind(column!(result))
        .bind(column!(error))
        .bind(column!(attempt))
        .bind(column!(delay))
        .bind(column!(awaits))
        .bind(column!(wake))
        .bind(column!(listens))
        .bind(consumed.copied().collect::<Vec<_>>())
        .bind(column!(version))
        .bind(column!(failures))
        .bind(consumed_of.collect::<Vec<_>>())
        .bind(column!(known))
        .fetch_one(connection)
        .await?;
    let ids: Option<Vec<i64>> = row.get("ids");
    let mut ids = ids.unwrap_or_default();
    ids.sort_unstable();
    let of: Option<Vec<i64>> = row.get("inbox_ids");
    let inboxes: Option<Vec<String>> = row.get("inboxes");
    let inboxes = inboxes.unwrap_or_default();
    let inboxes = inboxes.iter().map(|inbox| serde_json::from_str(inbox).expect("JSON"));
    Ok((ids, of.unwrap_or_default().into_iter().zip(inboxes).collect()))
}

/// A row that the worker 7 executes at revision 3, with `more` columns.
pub(super) fn executing(id: i64, more: &Value) -> Value {
    let mut row = json!({
        "id": id, "status": "executing", "locked_by": 7, "revision": 3, "state": "old",
        "updated_at": FUTURE, "eligible_at": FUTURE,
    });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Go;

#[durable_fsm(name = "keyed", state = (), output = (), signals(Go))]
pub enum Keyed {
    Wait,
}

#[durable_fsm]
impl Keyed {
    async fn wait(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        if cx.take_signal::<Go>()?.is_none() {
            return Ok(cx.await_signal::<Go>());
        }
        breakpoint.pass(cx.id()).await;
        Ok(cx.done(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_key_whose_scope_a_park_has_left_stays_free() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Keyed>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let keyed =
        || Keyed::insert(()).unique_key("k").unique_while([Status::Runnable, Status::Executing]);
    let first = keyed().execute(&engine).await.unwrap();
    until(db.pool(), first, "awaiting_signal").await;
    Keyed::signal_go(first, Go).execute(&engine).await.unwrap();
    // The instance runs again, and no longer holds its key.
    assert_eq!(breakpoint.arrival().await, first.get());
    let second = keyed().execute(&engine).await.expect("the key is free");
    breakpoint.open(2);
    engine.wait(first, WAIT_MAX).await.unwrap();
    until(db.pool(), second, "awaiting_signal").await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_outcome_applies_to_the_row_that_its_worker_runs() {
    let db = database().await;
    let pool = db.pool();
    let others = json!([
        executing(1, &json!({})),
        executing(2, &json!({ "revision": 4 })),
        executing(3, &json!({ "locked_by": 8 })),
        executing(4, &json!({ "status": "runnable" })),
        executing(5, &json!({})),
        executing(6, &json!({})),
    ]);
    rows(pool, others).await;
    signals(pool, &[(1, 11), (2, 12), (3, 13), (4, 14), (1, 15), (6, 11), (6, 16), (1, 16)]).await;
    let mut connection = session(pool, "set lock_timeout = '30s'").await;
    let mut transaction = connection.begin().await.unwrap();
    let mut outcomes = [next(1), next(2), next(3), next(4), next(99)];
    let consumed: [&[i64]; 4] = [&[11], &[12], &[13], &[14]];
    for (outcome, consumed) in outcomes.iter_mut().zip(consumed) {
        outcome.consumed = consumed;
    }
    let (ids, inboxes) = commit(&mut transaction, &outcomes).await.unwrap();
    assert_eq!((ids, inboxes.len()), (vec![1], 0));
    // The commit does not lock a neighbour that is executing too.
    assert_eq!([is_locked(pool, 1).await, is_locked(pool, 5).await], [true, false]);
    transaction.commit().await.unwrap();
    let steps = each(pool, "concat(i.step, i.revision)").await;
    assert_eq!(steps, json!(["next4", "s4", "s3", "s3", "s3", "s3"]));
    let left = "select json_agg(concat(target_id, ':', id) order by id, target_id) from gen_durable.signals";
    let expected = json!(["6:11", "2:12", "3:13", "4:14", "1:15", "1:16", "6:16"]);
    assert_eq!(see(pool, left).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_commit_waits_for_nobody_and_keeps_its_rows_locked() {
    let db = database().await;
    let pool = db.pool();
    rows(
        pool,
        json!([executing(1, &json!({})), executing(2, &json!({})), executing(3, &json!({}))]),
    )
    .await;
    let mut somebody = pool.begin().await.unwrap();
    run(
        &mut somebody,
        "select from gen_durable.instances where id = 1 for no key update;
         select from gen_durable.instances where id = 2 for key share",
    )
    .await;
    let mut connection = session(pool, "").await;
    let outcomes = [next(1), next(2), next(3)];
    let committed = timeout(WAIT_MAX / 2, commit(&mut connection, &outcomes)).await;
    assert_eq!(committed.expect("it does not wait").unwrap().0, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_commit_writes_what_the_outcome_says_and_keeps_the_rest() {
    let db = database().await;
    let pool = db.pool();
    let before = json!({
        "state": "old", "last_error": "old", "attempt": 5, "failures": 6, "crashes": 7,
        "result": 8, "awaits": ["old"], "wake_at": FUTURE, "fsm_version": 2,
    });
    let with = |id, key: &str, scope: &[&str]| {
        let mut row = executing(id, &before);
        let row_columns = row.as_object_mut().unwrap();
        row_columns.insert("unique_key".to_owned(), key.into());
        row_columns.insert("unique_scope".to_owned(), scope.into());
        row
    };
    let live = ["runnable", "executing", "awaiting_signal"];
    let all = [
        with(1, "a", &live),
        with(2, "b", &live),
        with(3, "c", &["runnable", "executing"]),
        with(4, "d", &live),
        with(5, "e", &["runnable", "executing", "failed"]),
        with(6, "f", &live),
    ];
    rows(pool, all.into()).await;
    let hour = 3_600_000_000;
    let outcomes = [
        Outcome { step: None, attempt: None, failures: None, ..next(1) },
        Outcome {
            state: Some("\"new\""),
            error: Some("new"),
            attempt: Some(1),
            failures: Some(2),
            delay: Some(hour),
            version: Some(3),
            status: "runnable",
            awaits: Some(""),
            ..next(2)
        },
        Outcome {
            status: "awaiting_signal",
            awaits: Some("go\u{1f}stop"),
            wake: Some(hour),
            ..next(3)
        },
        Outcome { status: "done", step: None, result: Some("9"), ..next(4) },
        Outcome { status: "failed", step: None, error: Some("why"), ..next(5) },
        // This row is given back without a run.
        Outcome { status: "runnable", step: None, attempt: None, failures: None, ..next(6) },
    ];
    let mut connection = session(pool, "").await;
    assert_eq!(commit(&mut connection, &outcomes).await.unwrap().0, [1, 2, 3, 4, 5, 6]);
    let seen = each(
        pool,
        "json_build_array(i.status, i.fsm_version, i.step, i.state, i.result, i.last_error, i.attempt,
                          i.failures, i.crashes, i.revision)",
    );
    let expected = json!([
        ["executing", 2, "s", "old", null, "old", 5, 6, 7, 4],
        ["runnable", 3, "next", "new", null, "new", 1, 2, 0, 4],
        ["awaiting_signal", 2, "next", "old", null, "old", 0, 0, 0, 4],
        ["done", 2, "s", "old", 9, "old", 0, 0, 0, 4],
        ["failed", 2, "s", "old", null, "why", 0, 0, 0, 4],
        ["runnable", 2, "s", "old", null, "old", 5, 6, 7, 4],
    ]);
    assert_eq!(seen.await, expected);
    let seen = each(
        pool,
        "json_build_array(
             i.locked_by, i.awaits, array_length(case when i.unique_released is null then i.unique_scope end, 1), i.finished_at = i.updated_at,
             i.updated_at <= now(),
             case when i.eligible_at < now() + interval '2 hours' then i.eligible_at - i.updated_at end,
             case when i.wake_at < now() + interval '2 hours' then i.wake_at - i.updated_at end,
             i.wake_at is null)",
    );
    let expected = json!([
        [7, ["old"], 3, null, true, null, null, true],
        [null, [], 3, null, true, "01:00:00", null, true],
        [null, ["go", "stop"], null, null, true, null, "01:00:00", false],
        [null, null, null, true, true, null, null, true],
        [null, null, 3, true, true, null, null, true],
        [null, ["old"], 3, null, true, null, null, true],
    ]);
    assert_eq!(seen.await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_commit_brings_the_oldest_signals_that_its_worker_does_not_know() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, (0..=8).map(|id| executing(id, &json!({}))).collect()).await;
    inbox::fill(pool).await;
    let mut connection = without_indexes(pool).await;
    let listening = |id| Outcome { listens: true, ..next(id) };
    let outcomes: Vec<Outcome<'_>> = (0..=8).map(listening).collect();
    let (_, mut inboxes) = commit(&mut connection, &outcomes).await.unwrap();
    inboxes.sort_by_key(|inbox| inbox.0);
    assert_eq!(inboxes.iter().map(inbox::summary).collect::<Vec<_>>(), inbox::expected());
    // The commit brings no signal that the worker knows. It brings none to a machine that does not
    // listen, nor to an instance that does not go on.
    let again = |id| Outcome { revision: 4, ..listening(id) };
    let outcomes = [
        Outcome { known: 1118, ..again(1) },
        Outcome { listens: false, ..again(2) },
        Outcome { status: "awaiting_signal", ..again(3) },
    ];
    let (ids, inboxes) = commit(&mut connection, &outcomes).await.unwrap();
    assert_eq!(ids, [1, 2, 3]);
    let expected = (1, json!([[[1119, "go", 1119, null], [1120, "go", 1120, null]], false]));
    assert_eq!(inboxes, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_what_is_in_an_inbox_unseen_wakes_whoever_parks() {
    let db = database().await;
    let pool = db.pool();
    let parked = |id, more: Value| {
        let mut row = executing(id, &more);
        let columns = row.as_object_mut().unwrap();
        columns.insert("locked_by".to_owned(), Value::Null);
        for (name, value) in [
            ("status", json!("awaiting_signal")),
            ("awaits", json!(["go"])),
            ("wake_at", json!(FUTURE)),
        ] {
            columns.entry(name).or_insert(value.clone());
            if name == "status" && more.get("status").is_none() {
                columns.insert(name.to_owned(), value);
            }
        }
        row
    };
    let all = json!([
        parked(
            1,
            json!({ "queue": "q", "unique_key": "a", "unique_scope": ["runnable", "awaiting_signal"] })
        ),
        parked(2, json!({ "unique_key": "b", "unique_scope": ["awaiting_signal"] })),
        // Row 3 has seen its signal, row 4 awaits another name, and row 5 has no signal. Row 6 is
        // not parked, and the statement is not asked for row 7.
        parked(3, json!({})),
        parked(4, json!({ "awaits": ["other"] })),
        parked(5, json!({})),
        parked(6, json!({ "status": "runnable" })),
        parked(7, json!({})),
    ]);
    rows(pool, all).await;
    signals(pool, &[(1, 11), (1, 18), (2, 12), (3, 13), (4, 14), (6, 16), (7, 17)]).await;
    let mut queues: Vec<String> =
        sqlx::query_scalar(include_str!("../../../gen_durable/src/storage/sql/wake_parked.sql"))
            .bind([1_i64, 2, 3, 4, 5, 6])
            .bind([13_i64])
            .fetch_all(pool)
            .await
            .unwrap();
    queues.sort();
    assert_eq!(queues, ["default", "q"]);
    let seen = each(
        pool,
        "json_build_array(i.status, i.awaits, i.wake_at is null, i.eligible_at <= now(), case when i.unique_released is null then i.unique_scope end)",
    );
    let as_it_was = |status, awaits| json!([status, [awaits], false, false, null]);
    let expected = json!([
        ["runnable", null, true, true, ["runnable", "awaiting_signal"]],
        ["runnable", null, true, true, null],
        as_it_was("awaiting_signal", "go"),
        as_it_was("awaiting_signal", "other"),
        as_it_was("awaiting_signal", "go"),
        as_it_was("runnable", "go"),
        as_it_was("awaiting_signal", "go"),
    ]);
    assert_eq!(seen.await, expected);
}

/// Locks rows. Returns the ids of those that were left out, as another transaction has locked them.
/// Returns an error if it gave up.
async fn lock(
    connection: &mut PgConnection,
    ids: &[i64],
    skip: bool,
    lock_timeout: &str,
) -> Result<Vec<i64>, sqlx::Error> {
    let statement = include_str!("../../../gen_durable/src/storage/sql/lock_instances.sql");
    let query = sqlx::query_scalar(statement).bind(ids).bind(skip).bind(lock_timeout);
    query.fetch_all(connection).await
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_two_batches_that_lock_the_same_rows_do_not_wait_in_a_circle() {
    let db = database().await;
    let answers = in_a_circle(db.pool(), |mut connection, ids| {
        tokio::spawn(async move { lock(&mut connection, &ids, false, "50s").await })
    });
    for answer in answers.await {
        assert_eq!(answer.unwrap(), [0_i64; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_batch_locks_its_rows_alone_and_waits_as_long_as_it_is_told() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([{ "id": 1 }, { "id": 2 }, { "id": 3 }, { "id": 4 }])).await;
    let mut somebody = pool.begin().await.unwrap();
    run(
        &mut somebody,
        "select from gen_durable.instances where id in (1, 4) for no key update;
         select from gen_durable.instances where id = 2 for key share",
    )
    .await;
    let mut connection = session(pool, "").await;
    let lock_timeout = "show lock_timeout";
    for (skip, told) in [(false, "10s"), (true, "20s")] {
        let mut transaction = connection.begin().await.unwrap();
        assert_eq!(lock(&mut transaction, &[2], skip, told).await.unwrap(), [0_i64; 0]);
        assert_eq!([is_locked(pool, 2).await, is_locked(pool, 3).await], [true, false]);
        let seen: String =
            sqlx::query_scalar(lock_timeout).fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(seen, told);
        transaction.rollback().await.unwrap();
    }
    assert_eq!(lock(&mut connection, &[2], false, "30s").await.unwrap(), [0_i64; 0]);
    let seen: String = sqlx::query_scalar(lock_timeout).fetch_one(&mut connection).await.unwrap();
    assert_eq!(seen, "0", "it ended with the transaction");
    let skipping = timeout(WAIT_MAX / 2, lock(&mut connection, &[1, 2], true, "0")).await;
    assert_eq!(skipping.expect("it does not wait").unwrap(), [1]);
    let waiting = timeout(WAIT_MAX / 2, lock(&mut connection, &[1, 2], false, "10ms")).await;
    let error = waiting.expect("it gives up by itself").unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
}
