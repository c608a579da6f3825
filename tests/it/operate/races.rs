//! Actions that race claims, commits, parks, deliveries, reaps and each other.

use super::*;
use crate::support::expire_lease;

/// A cancel waits for the row's lock, which another transaction has. It then sees the row as that
/// one has left it.
#[tokio::test(flavor = "multi_thread")]
async fn p39_a_cancel_sees_what_it_waited_for() {
    let db = database().await;
    let pool = db.pool();
    log();
    let client = Client::new(pool.clone());
    sql(pool, "insert into gen_durable.machines (fsm, fsm_version, initial, steps, on_cancel) values ('order', 1, 'work', '{work,inside,refund}', 'refund')").await;
    // The change of the other transaction, the answer to the cancel, and the row afterwards.
    let cases = [
        // A claim.
        (
            "status = 'executing', locked_by = 7, revision = revision + 1",
            Ok(Cancelled::Asked),
            "executing",
            "work",
        ),
        // A park.
        (
            "status = 'awaiting_signal', awaits = '{word}'",
            Ok(Cancelled::Answering),
            "runnable",
            "refund",
        ),
        // An end.
        ("status = 'done', result = '1', finished_at = now()", Err("done"), "done", "work"),
        // A kill.
        (
            "status = 'cancelled', last_error = 'killed', finished_at = now()",
            Err("cancelled (killed)"),
            "cancelled",
            "work",
        ),
        // A delay.
        ("eligible_at = now() + interval '1 hour'", Ok(Cancelled::Answering), "runnable", "refund"),
        // An upgrade to a version that is not registered.
        ("fsm_version = 2", Ok(Cancelled::Asked), "runnable", "work"),
        // Another cancel.
        ("cancelled_at = now()", Ok(Cancelled::Before), "runnable", "work"),
    ];
    for (change, answer, status, step) in cases {
        let id = Order::insert(errand(Plan::Wait, None)).execute(&client).await.unwrap();
        let mut other = pool.begin().await.unwrap();
        let statement = format!("update gen_durable.instances set {change} where id = {id}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut *other).await.unwrap();
        let cancelling = {
            let client = client.clone();
            tokio::spawn(async move { client.instance(id).cancel("").execute(&client).await })
        };
        until_a_session_waits(pool, 1).await;
        other.commit().await.unwrap();
        let answered = cancelling.await.unwrap();
        match answer {
            Ok(expected) => assert_eq!(answered.unwrap(), expected, "{change}"),
            Err(how) => {
                let text = format!("instance {id} has ended before: it is {how}");
                assert_eq!(answered.unwrap_err().to_string(), text);
            }
        }
        let row = row(pool, id).await;
        assert_eq!((&*row.status, &*row.step), (status, step), "{change}");
    }
}

/// The outcome of a run is committed after the cancel: it is refused, whatever it is.
#[tokio::test(flavor = "multi_thread")]
async fn p39_no_outcome_is_applied_after_a_cancel() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db).await;
    for _ in 0..20 {
        let id = Order::insert(errand(Plan::Walk, Some(7))).execute(&engine).await.unwrap();
        breakpoint.arrival().await;
        // The step goes on at the moment at which the cancel comes.
        let (engine, other) = (&engine, &breakpoint);
        let (cancelled, ()) = tokio::join!(
            async { engine.instance(id).cancel("").execute(engine).await.unwrap() },
            async { other.open(1) },
        );
        assert!(matches!(cancelled, Cancelled::Asked | Cancelled::Answering));
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 7);
        assert_eq!(row(pool, id).await.step, "refund");
    }
    engine.shutdown().await.unwrap();
}

/// The worker is lost before it answers. The reaper leaves the row to the next engine.
#[tokio::test(flavor = "multi_thread")]
async fn p39_a_cancel_outlives_its_worker() {
    let db = database().await;
    let pool = db.pool();
    let (engine, _) = start(&db).await;
    let ids = [
        Order::insert(errand(Plan::Wait, Some(7)))
            .partition_key("k")
            .execute(&engine)
            .await
            .unwrap(),
        Order::insert(errand(Plan::Wait, None)).execute(&engine).await.unwrap(),
    ];
    for id in ids {
        until(pool, id, "awaiting_signal").await;
    }
    // Their worker is one that is gone. It had crashed often.
    sql(
        pool,
        "update gen_durable.instances
         set status = 'executing', locked_by = 999, awaits = null, crashes = 4",
    )
    .await;
    for id in ids {
        let cancelled = engine.instance(id).cancel("").execute(&engine).await.unwrap();
        assert_eq!(cancelled, Cancelled::Asked);
    }
    engine.maintain().await.unwrap();
    assert_eq!(engine.wait(ids[0], WAIT_MAX).await.unwrap(), 7);
    assert!(matches!(engine.wait(ids[1], WAIT_MAX).await, Err(WaitError::Cancelled { .. })));
    engine.shutdown().await.unwrap();
}

/// An engine that drains drops a run that is cancelled meanwhile, and answers its cancel.
#[tokio::test(flavor = "multi_thread")]
async fn p39_a_shutdown_answers_the_cancels_that_it_knows_of() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db).await;
    let id = Order::insert(errand(Plan::Stand, Some(7))).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let mut stopping = Box::pin(engine.shutdown());
    tokio::select! {
        biased;
        _ = &mut stopping => panic!("a run is under way"),
        () = std::future::ready(()) => {}
    }
    engine.instance(id).cancel("").execute(pool).await.unwrap();
    // The run never ends by itself: the drain goes on until it is dropped.
    stopping.await.unwrap();
    let row = row(pool, id).await;
    assert_eq!((&*row.status, &*row.step, row.locked_by), ("runnable", "refund", None));
}

/// A cancelled instance that stands between two steps, and waits for a slot, is answered while
/// another one keeps that slot. The slot is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn p39_a_cancel_does_not_wait_for_a_slot() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db)
        .machine::<Order>()
        .resource(Arc::clone(&breakpoint))
        .queue("narrow", 1)
        .start()
        .await
        .unwrap();
    let order = |plan| Order::insert(errand(plan, Some(7))).queue("narrow");
    // The quick ones run first: the faster a queue is, the more rows the engine claims ahead.
    let quick = (0..2_000).map(|_| order(Plan::Done(0)).priority(-1));
    gen_durable::InsertMany::new(quick).execute(&engine).await.unwrap();
    let walking = order(Plan::Walk).execute(&engine).await.unwrap();
    let standing = order(Plan::Stand).priority(1).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, walking.get());
    until(pool, standing, "executing").await;
    breakpoint.open(1);
    // The slot goes to the other one as soon as the first step has ended.
    assert_eq!(breakpoint.arrival().await, standing.get());
    engine.instance(walking).cancel("").execute(&engine).await.unwrap();
    eventually("the cancel is answered", async || {
        let row = row(pool, walking).await;
        (row.step == "refund").then_some(())
    })
    .await;
    assert_eq!(row(pool, standing).await.status, "executing");
    breakpoint.open(1);
    assert_eq!(engine.wait(standing, WAIT_MAX).await.unwrap(), 1);
    assert_eq!(engine.wait(walking, WAIT_MAX).await.unwrap(), 7);
    engine.shutdown().await.unwrap();
}

/// More cancels than one transaction answers, and each with a partition key.
#[tokio::test(flavor = "multi_thread")]
async fn p39_many_cancels_are_answered_part_by_part() {
    let db = database().await;
    let pool = db.pool();
    let (engine, _) = start(&db).await;
    sql(
        pool,
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, status, partition_key, locked_by)
         select 'order', 1, 'work', '{\"plan\": \"Wait\", \"refund\": 7}', 'executing', 'k' || n, 0
         from generate_series(1, 600) as n",
    )
    .await;
    let ids: Vec<i64> =
        sqlx::query_scalar("select id from gen_durable.instances").fetch_all(pool).await.unwrap();
    for id in &ids {
        let cancelled = engine.instance_by_id(*id).cancel("").execute(&engine).await.unwrap();
        assert_eq!(cancelled, Cancelled::Asked);
    }
    engine.maintain().await.unwrap();
    for id in ids {
        let id = InstanceId::<Order>::from_raw(id);
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 7);
    }
    engine.shutdown().await.unwrap();
}

/// The lease of the worker runs out while a cancelled run stands: the flag is set.
#[tokio::test(flavor = "multi_thread")]
async fn p39_the_flag_is_set_when_the_lease_is_lost() {
    let db = database().await;
    let (engine, breakpoint) = start(&db).await;
    let id = Order::insert(errand(Plan::Compute, Some(7))).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    breakpoint.open(1);
    expire_lease(db.pool(), engine.worker()).await;
    engine.instance(id).cancel("").execute(db.pool()).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 7);
    engine.shutdown().await.unwrap();
}

/// Everything at once: inserts, signals and all actions on the same instances, by several tasks.
#[tokio::test(flavor = "multi_thread")]
async fn p40_actions_at_random_leave_nothing_behind() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db).await;
    breakpoint.open(1_000_000);
    let mut ids = Vec::new();
    for number in 0..24 {
        let plan = [Plan::Wait, Plan::Done(1), Plan::Fail, Plan::Walk][number % 4].clone();
        let insert = Order::insert(errand(plan, (number % 3 != 0).then_some(7)));
        let insert = insert.partition_key(format!("p{}", number % 5));
        ids.push(insert.execute(&engine).await.unwrap());
    }
    let tasks = (0..4).map(|task: usize| {
        let (client, ids) = (engine.client().clone(), ids.clone());
        tokio::spawn(async move {
            for turn in 0..120 {
                let id = ids[(turn * 7 + task * 5) % ids.len()];
                let on = client.instance(id);
                let error = match (turn + task) % 6 {
                    0 => on.cancel("").execute(&client).await.err(),
                    1 => on.retry().execute(&client).await.err(),
                    2 => on.kill("").execute(&client).await.err(),
                    3 => on.run_now().execute(&client).await.err(),
                    4 => on.get().await.err(),
                    _ => {
                        let _ = Order::signal_word(id, Word(1)).execute(&client).await;
                        None
                    }
                };
                if let Some(OperateError::Database(error)) = error {
                    panic!("{error}");
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for id in &ids {
        let _ = engine.instance(*id).kill("end").execute(&engine).await;
    }
    eventually("all have ended, and nothing is owed", async || {
        let left: i64 = sqlx::query_scalar(
            "select count(*) from gen_durable.instances
             where status not in ('done', 'failed', 'cancelled') or owes is not null or blocked_by <> 0
                or (finished_at is null) or locked_by is not null",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (left == 0).then_some(())
    })
    .await;
    // The keys are free.
    for number in 0..5 {
        let insert = Order::insert(errand(Plan::Done(9), None)).partition_key(format!("p{number}"));
        let id = insert.execute(&engine).await.unwrap();
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 9);
    }
    engine.shutdown().await.unwrap();
}
