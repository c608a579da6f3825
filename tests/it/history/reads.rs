//! Reading the history: by id and by key, typed and not, and by which role.

use gen_durable::{Engine, FindError, operate::Page, prelude::*};
use gen_durable_migrate::roles;
use gen_durable_postgres::TestDb;
use sqlx::PgPool;

use super::{Ending, Go, Way, entries, states, whole, without_states};
use crate::{
    roles::{APP, Login, OPERATOR, WORKER},
    support::{WAIT_MAX, database, engine, log, until},
};

const DELETE_HISTORY: &str =
    include_str!("../../../gen_durable/src/storage/sql/delete_history.sql");

async fn rows(pool: &PgPool, id: i64, count: i32) {
    sqlx::query(
        "insert into gen_durable.history (day, instance_id, fsm, fsm_version, step, attempt, outcome, started_at, ended_at)
         select '-infinity', $1, 'm', 1, 's', n, 'next', 'epoch'::timestamptz - n * interval '1 hour', now()
         from generate_series(1, $2) as n",
    )
    .bind(id)
    .bind(count)
    .execute(pool)
    .await
    .unwrap();
}

/// Starts an engine and runs a course, which keeps its unique key, to its end.
async fn ended(db: &TestDb) -> (Engine, InstanceId<states::Course>) {
    use states::Course;
    let engine = engine(db).machine::<Course>().machine::<Ending>().start().await.unwrap();
    let key = Course::insert(0).unique_key("k").unique_while(Status::ALL.to_vec());
    let id = key.execute(&engine).await.unwrap();
    until(db.pool(), id, "awaiting_signal").await;
    Course::signal_go(id, Go).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    (engine, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn p73_a_handle_reads_the_history_newest_last() {
    use states::Course;
    let db = database().await;
    let pool = db.pool();
    let (engine, id) = ended(&db).await;
    let client = engine.client();
    let expected = whole();
    for history in [
        client.instance(id).history().await.unwrap(),
        client.instance(Course::by_key("k")).history().await.unwrap(),
    ] {
        assert_eq!(history.len(), expected.len());
        for (entry, expected) in history.iter().zip(&expected) {
            assert_eq!((entry.instance, &*entry.machine, entry.version), (id, "course", 1));
            assert_eq!((&entry.step, &entry.outcome), (&expected.0, &expected.2));
            assert_eq!(entry.attempt, u32::try_from(expected.1).unwrap());
            assert_eq!(entry.step().unwrap().name(), expected.0);
            assert_eq!(entry.next_step().map(|step| step.name()), expected.3.as_deref());
            assert_eq!(entry.next_step, expected.3);
            assert_eq!(entry.error, expected.4);
            assert_eq!(entry.state_json(), expected.5.as_deref());
            assert_eq!(entry.state().unwrap(), Some(expected.5.as_ref().unwrap().parse().unwrap()));
            assert!(entry.started_at <= entry.ended_at && entry.worker.is_some(), "{entry:?}");
        }
        assert!(history.is_sorted_by_key(|entry| (entry.id, entry.ended_at)));
    }
    let untyped = client.instance_by_id(id.get()).history().await.unwrap();
    assert_eq!((untyped[0].instance, untyped[0].id > 0), (id.get(), true));
    assert!(!format!("{untyped:?}").contains("state:"), "no state is printed");
    let other = client.instance(InstanceId::<Ending>::from_raw(id.get())).history().await;
    assert!(matches!(other, Err(FindError::WrongMachine { .. })), "{other:?}");
    let nobody = client.instance(Course::by_key("nobody")).history().await.unwrap();
    assert_eq!(nobody.len(), 0);
    assert!(client.instance(Course::by_key("")).history().await.is_err());

    // The history outlives its instance, until it is deleted.
    sqlx::query("delete from gen_durable.instances").execute(pool).await.unwrap();
    assert_eq!(without_states(entries(pool, id).await), without_states(whole()));
    rows(pool, id.get() + 1, 1).await;
    sqlx::query(DELETE_HISTORY).bind([id.get()].as_slice()).execute(pool).await.unwrap();
    assert_eq!(client.instance(id).history().await.unwrap().len(), 0);
    assert_eq!(entries(pool, id.get() + 1).await.len(), 1);

    // A long one, with times before 1970.
    rows(pool, 77, 1200).await;
    let long = client.instance(77_i64).history().await.unwrap();
    let attempts: Vec<u32> = long.iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, (201..=1200).collect::<Vec<_>>());
    let hours = std::time::Duration::from_hours(201);
    assert_eq!(long[0].started_at + hours, std::time::SystemTime::UNIX_EPOCH);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p73_pages_of_runs_have_no_states_and_reach_the_whole_history() {
    use states::Course;
    let db = database().await;
    let pool = db.pool();
    let (engine, id) = ended(&db).await;
    let client = engine.client();
    let history = client.instance(id).history().await.unwrap();
    for page in [
        client.instance(id).runs(Page::first()).await.unwrap(),
        client.instance(Course::by_key("k")).runs(Page::first()).await.unwrap(),
    ] {
        assert_eq!(page.next, None);
        assert_eq!(page.entries.len(), history.len());
        for (run, entry) in page.entries.iter().rev().zip(&history) {
            assert_eq!((run.id, &run.machine, run.version), (entry.id, &entry.machine, 1));
            assert_eq!((&run.step, run.attempt), (&entry.step, entry.attempt));
            assert_eq!((&run.outcome, &run.next_step), (&entry.outcome, &entry.next_step));
            assert_eq!((&run.error, run.error_cut), (&entry.error, false));
            assert_eq!((run.started_at, run.ended_at), (entry.started_at, entry.ended_at));
            assert_eq!(run.worker, entry.worker);
            let shown = entry.state_json().unwrap().len();
            assert!(run.state_size.is_some_and(|size| (1..=4).contains(&(size as usize - shown))));
        }
    }
    // One entry is read with its state, by its own number alone.
    let third = &history[2];
    let found = client.instance(id).history_entry(third.id).await.unwrap().unwrap();
    assert_eq!((found.id, found.state_json()), (third.id, third.state_json()));
    rows(pool, id.get() + 1, 1).await;
    let foreign = client.instance(id.get() + 1).history().await.unwrap()[0].id;
    for none in [history[0].id - 1, foreign, i64::MAX, i64::MIN] {
        assert!(client.instance(id).history_entry(none).await.unwrap().is_none(), "{none}");
    }
    let other = client.instance(InstanceId::<Ending>::from_raw(id.get()));
    let refused = other.runs(Page::first()).await;
    assert!(matches!(refused, Err(FindError::WrongMachine { .. })), "{refused:?}");
    assert!(other.history_entry(third.id).await.is_err());
    let nobody = client.instance(Course::by_key("nobody"));
    assert_eq!(nobody.runs(Page::first()).await.unwrap().entries, []);

    // A long history is reached page by page, and long errors are cut.
    rows(pool, 77, 1200).await;
    let error = "é".repeat(1_001);
    sqlx::query("update gen_durable.history set error = $1 where instance_id = 77 and attempt = 7")
        .bind(&error)
        .execute(pool)
        .await
        .unwrap();
    let (mut attempts, mut page) = (Vec::new(), Page::first());
    loop {
        let runs = client.instance(77_i64).runs(page.size(500)).await.unwrap();
        for run in &runs.entries {
            assert_eq!(run.error_cut, run.attempt == 7);
            let shown = run.error.as_ref().map(|error| error.chars().count());
            assert_eq!(shown, (run.attempt == 7).then_some(1_000));
            attempts.push(run.attempt);
        }
        let Some(next) = runs.next else { break };
        assert_eq!(runs.entries.len(), 500);
        page = Page::after(next);
    }
    assert_eq!(attempts, (1..=1200).rev().collect::<Vec<_>>());
    engine.shutdown().await.unwrap();
}

/// The worker records, keeps the partitions and reads; the operator reads; the application does
/// none of these.
#[tokio::test(flavor = "multi_thread")]
async fn p73_each_role_has_its_rights_on_the_history() {
    log();
    let db = database().await;
    roles(db.pool()).await.unwrap();
    let worker = Login::of(&db, WORKER).await;
    let (app, operator) = (Login::of(&db, APP).await, Login::of(&db, OPERATOR).await);
    sqlx::raw_sql(
        "do $$
         begin
             execute (select format('drop table gen_durable.%I', max(c.relname))
                      from pg_class c where c.relname ~ '^history_[0-9]{8}$');
         end $$",
    )
    .execute(db.pool())
    .await
    .unwrap();
    let engine = Engine::builder(worker.pool.clone()).machine::<Ending>().start().await.unwrap();
    let id = Ending::insert(Way::Stop).execute(&app.pool).await.unwrap();
    until(db.pool(), id, "failed").await;
    assert_eq!(engine.client().instance(id).history().await.unwrap().len(), 1);
    engine.maintain().await.unwrap();
    let days: i64 =
        sqlx::query_scalar("select count(*) from pg_class where relname ~ '^history_[0-9]{8}$'")
            .fetch_one(db.pool())
            .await
            .unwrap();
    assert_eq!(days, 8);
    engine.shutdown().await.unwrap();
    let (by_app, by_operator) = (
        Client::new(app.pool.clone()).instance(id),
        Client::new(operator.pool.clone()).instance(id),
    );
    assert_eq!(by_operator.history().await.unwrap().len(), 1);
    assert_eq!(by_operator.runs(Page::first()).await.unwrap().entries.len(), 1);
    assert!(by_app.history().await.is_err() && by_app.runs(Page::first()).await.is_err());
    let keep = "select gen_durable.keep_history('1 day')";
    app.is_refused(&[keep, "select from gen_durable.history", "delete from gen_durable.history"])
        .await;
    operator.is_refused(&[keep, "delete from gen_durable.history"]).await;
    worker
        .is_refused(&[
            "truncate gen_durable.history",
            "drop table gen_durable.history_default",
            "alter table gen_durable.history detach partition gen_durable.history_default",
            "update gen_durable.history set step = 'x'",
        ])
        .await;
    for login in [worker, app, operator] {
        login.remove(&db).await;
    }
}
