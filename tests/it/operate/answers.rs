//! The answers to actions that cannot be done, and a look at all of an instance.

use std::time::{Duration, SystemTime};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn p40_each_action_answers_in_each_status() {
    let db = database().await;
    let (engine, breakpoint) = start(&db).await;
    let pool = db.pool();
    let insert = |plan| Plain::insert(plan).execute(&engine);
    let done = insert(Plan::Done(1)).await.unwrap();
    let failed = insert(Plan::Fail).await.unwrap();
    let parked = insert(Plan::Wait).await.unwrap();
    let delayed = Plain::insert(Plan::Done(2))
        .schedule_in(Duration::from_hours(1))
        .execute(&engine)
        .await
        .unwrap();
    let running = insert(Plan::Stand).await.unwrap();
    breakpoint.arrival().await;
    until(pool, done, "done").await;
    until(pool, failed, "failed").await;
    until(pool, parked, "awaiting_signal").await;
    let on = |id| engine.instance(id);

    // An ended instance says how it ended.
    let error = on(done).cancel("no").execute(pool).await.unwrap_err();
    assert!(matches!(error, OperateError::Ended { status: Status::Done, reason: None, .. }));
    assert_eq!(error.to_string(), format!("instance {done} has ended before: it is done"));
    for error in [
        on(failed).cancel("no").execute(pool).await.unwrap_err(),
        on(failed).kill("no").execute(pool).await.unwrap_err(),
        on(failed).run_now().execute(pool).await.unwrap_err(),
    ] {
        let text = format!("instance {failed} has ended before: it is failed (it fails)");
        assert_eq!(error.to_string(), text);
    }
    let error = on(done).retry().execute(pool).await.unwrap_err();
    assert!(matches!(error, OperateError::Ended { status: Status::Done, .. }), "{error}");

    // A live instance is neither retried nor deleted.
    for id in [parked, delayed, running] {
        let error = on(id).retry().execute(pool).await.unwrap_err();
        assert!(matches!(error, OperateError::Live { .. }), "{error}");
        let error = on(id).delete().execute(pool).await.unwrap_err();
        assert!(error.to_string().contains("has not ended: cancel it or kill it first"), "{error}");
    }
    for id in [parked, running] {
        let error = on(id).run_now().execute(pool).await.unwrap_err();
        assert!(matches!(error, OperateError::NotDelayed { .. }), "{error}");
    }
    for id in [done, failed, parked, delayed, running] {
        assert_eq!(audit(pool, id).await, [], "what is refused is not done");
    }

    on(delayed).run_now().by("ada").execute(&engine).await.unwrap();
    assert_eq!(engine.wait(delayed, WAIT_MAX).await.unwrap(), 2);
    on(running).kill("stuck").by("ada").execute(&engine).await.unwrap();
    let error = engine.wait(running, WAIT_MAX).await.unwrap_err();
    assert_eq!(error.to_string(), format!("instance {running} was cancelled: stuck"));
    // The run was dropped: its slot is free, and its outcome has no effect.
    eventually("the run is dropped", async || (engine.metrics().claimed == 0).then_some(())).await;
    for (id, status) in [(done, "done"), (failed, "failed")] {
        assert_eq!(row(pool, id).await.status, status);
        on(id).delete().by("ada").reason("tidy").execute(&engine).await.unwrap();
        let error = on(id).get().await.unwrap_err();
        assert!(matches!(error, OperateError::Unknown { .. }), "{error}");
        assert_eq!(audit(pool, id).await, [noted("ada", "delete", "tidy")]);
    }
    engine.shutdown().await.unwrap();
    assert_eq!(row(pool, running).await.status, "cancelled", "the run's outcome had no effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn p40_bad_input_gets_a_clear_answer() {
    let db = database().await;
    let (engine, _) = start(&db).await;
    let pool = db.pool();
    let plain = Plain::insert(Plan::Fail).unique_key("k").execute(&engine).await.unwrap();
    until(pool, plain, "failed").await;

    let nobody = InstanceId::<Plain>::from_raw(4_000_000);
    for error in [
        engine.instance(nobody).get().await.map(drop).unwrap_err(),
        engine.instance(nobody).cancel("").execute(pool).await.map(drop).unwrap_err(),
        engine.instance(nobody).retry().execute(pool).await.map(drop).unwrap_err(),
        engine.instance(nobody).delete().execute(pool).await.unwrap_err(),
        engine.instance(nobody).run_now().execute(pool).await.unwrap_err(),
    ] {
        assert_eq!(
            error.to_string(),
            "instance 4000000 does not exist; it was never committed, was deleted, or ended and was pruned"
        );
    }
    let error = engine.instance(Plain::by_key("k")).cancel("").execute(pool).await.unwrap_err();
    assert!(
        error.to_string().starts_with("no instance of machine `plain` holds the unique key `k`")
    );

    let other = InstanceId::<Order>::from_raw(plain.get());
    for error in [
        engine.instance(other).get().await.map(drop).unwrap_err(),
        engine.instance(other).kill("").execute(pool).await.unwrap_err(),
        engine.instance(other).run_now().execute(pool).await.unwrap_err(),
        engine.instance(other).retry().execute(pool).await.map(drop).unwrap_err(),
        engine.instance(other).delete().execute(pool).await.unwrap_err(),
    ] {
        let text = format!("instance {plain} is of machine `plain`, not `order`");
        assert_eq!(error.to_string(), text);
    }

    let handle = engine.instance(plain);
    let error = handle.retry().by("x".repeat(10_000)).execute(pool).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the name of the operator has 10000 bytes, over the limit of 255; shorten it, or use a hash of it"
    );
    let error = handle.retry().by("").execute(pool).await.unwrap_err();
    assert!(matches!(error, OperateError::Encode(_)), "{error}");
    let error = handle.retry().reason("x".repeat(5_000)).execute(pool).await.unwrap_err();
    assert!(matches!(error, OperateError::Encode(_)), "{error}");

    let any = engine.instance_by_id(plain.get());
    let error = any.retry().at_step("refund").execute(pool).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "machine `plain` version 1 has no step `refund`; it has work, inside"
    );
    let holder = Plain::insert(Plan::Wait).unique_key("k").execute(&engine).await.unwrap();
    let error = any.retry().execute(pool).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "instance {plain} cannot go on: instance {holder} holds its unique key `k`; end that one first"
        )
    );
    assert_eq!(audit(pool, plain).await, []);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p40_a_look_shows_all_of_an_instance() {
    let db = database().await;
    let (engine, breakpoint) = start(&db).await;
    let before = SystemTime::now() - Duration::from_mins(1);
    let insert = Plain::insert(Plan::Wait).unique_key("k").partition_key("p").priority(-3);
    let id = insert.execute(&engine).await.unwrap();
    until(db.pool(), id, "awaiting_signal").await;
    let seen = engine.instance(id).get().await.unwrap();
    assert_eq!((seen.id, &*seen.machine, seen.version), (id, "plain", 1));
    assert_eq!(seen.status, Status::AwaitingSignal);
    assert!(matches!(seen.step(), Some(Plain::Work)));
    assert_eq!(seen.state().unwrap(), Plan::Wait);
    assert_eq!(seen.awaits, ["word"]);
    assert_eq!((seen.attempt, seen.failures, seen.crashes), (0, 0, 0));
    assert_eq!((&*seen.queue, seen.priority), ("default", -3));
    assert_eq!(seen.partition_key.as_deref(), Some("p"));
    assert_eq!((seen.unique_key.as_deref(), seen.holds_unique_key), (Some("k"), true));
    assert_eq!((&seen.worker, seen.wakes_at, seen.finished_at), (&None, None, None));
    for time in [seen.inserted_at, seen.updated_at, seen.due_at] {
        assert!(time.unwrap() > before);
    }
    assert!(!format!("{seen:?}").contains("Wait"), "no state is printed");
    Plain::signal_word(Plain::by_key("k"), Word(4)).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 4);
    let seen = engine.instance(id).get().await.unwrap();
    assert_eq!((seen.status, seen.output().unwrap()), (Status::Done, Some(4)));
    assert!(!seen.holds_unique_key && seen.finished_at.is_some());

    let running = Plain::insert(Plan::Stand).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let seen = engine.instance_by_id(running.get()).get().await.unwrap();
    assert_eq!(seen.worker.unwrap().0, engine.worker());
    breakpoint.open(1);
    engine.shutdown().await.unwrap();
}
