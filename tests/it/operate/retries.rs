//! Retries: an instance goes on where it stood, with what it had.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn p40_a_retried_instance_goes_on_with_its_state_inbox_and_keys() {
    let db = database().await;
    let (engine, _) = start(&db).await;
    let pool = db.pool();
    let id = Plain::insert(Plan::Fail).unique_key("k").execute(&engine).await.unwrap();
    until(pool, id, "failed").await;
    let dead = Plain::signal_word(id, Word(1)).execute(&engine).await;
    assert!(matches!(dead, Err(gen_durable::SignalError::Terminal { .. })));
    sql(
        pool,
        "insert into gen_durable.signals (target_id, name, payload, dedup_key)
         select id, 'word', '5', 'once' from gen_durable.instances;
         insert into gen_durable.signal_keys select id, 'once' from gen_durable.instances",
    )
    .await;
    // It fails again, and is then sent to wait with another state.
    let retried = engine.instance(id).retry().by("ada").reason("again").execute(pool).await;
    assert!(!retried.unwrap().heard);
    eventually("it fails again", async || {
        let row = row(pool, id).await;
        (row.status == "failed" && row.inbox == 1).then_some(())
    })
    .await;
    let retry = engine.instance(id).retry().at(Plain::Work).with_state(Plan::Wait).by("ada");
    retry.execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 5, "the inbox is as it was");
    assert_eq!(audit(pool, id).await, [noted("ada", "retry", "again"), noted("ada", "retry", "")]);

    // The key is held again, and the deduplication keys are kept unless they are forgotten.
    let id = Plain::insert(Plan::Fail).unique_key("l").execute(&engine).await.unwrap();
    until(pool, id, "failed").await;
    sql(
        pool,
        "insert into gen_durable.signal_keys
         select id, 'once' from gen_durable.instances where status = 'failed'",
    )
    .await;
    let wait = || engine.instance(id).retry().with_state(Plan::Wait);
    let word = || Plain::signal_word(Plain::by_key("l"), Word(6)).dedup_key("once");
    wait().execute(&engine).await.unwrap();
    until(pool, id, "awaiting_signal").await;
    assert_eq!(word().execute(&engine).await.unwrap(), Delivery::Duplicate);
    engine.instance(id).cancel("").execute(&engine).await.unwrap();
    wait().forget_dedup_keys().execute(&engine).await.unwrap();
    assert_eq!(word().execute(&engine).await.unwrap(), Delivery::Delivered);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 6);
    engine.shutdown().await.unwrap();
}

/// An action finds the holder of a key, and waits for its row. Meanwhile the key goes to another
/// instance: the action is done on that one.
#[tokio::test(flavor = "multi_thread")]
async fn p40_an_action_by_key_is_done_on_the_instance_that_holds_it() {
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    for (action, status) in
        [("cancel", "runnable"), ("run_now", "runnable"), ("retry", "failed"), ("delete", "failed")]
    {
        let insert = format!(
            "insert into gen_durable.instances
                 (fsm, fsm_version, step, state, status, unique_key, unique_scope, eligible_at, finished_at)
             values ('plain', 1, 'work', '\"Wait\"', '{status}', '{action}', '{{runnable,failed}}',
                     now() + interval '1 h', case when '{status}' = 'failed' then now() end)
             returning id"
        );
        let insert = || sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(insert.clone()));
        let first = insert().fetch_one(pool).await.unwrap();
        let mut other = pool.begin().await.unwrap();
        sqlx::query("update gen_durable.instances set unique_released = true where id = $1")
            .bind(first)
            .execute(&mut *other)
            .await
            .unwrap();
        let second = insert().fetch_one(&mut *other).await.unwrap();
        let acting = {
            let handle = client.instance(Plain::by_key(action));
            let pool = pool.clone();
            tokio::spawn(async move {
                match action {
                    "cancel" => handle.cancel("").execute(&pool).await.map(drop),
                    "run_now" => handle.run_now().execute(&pool).await,
                    "retry" => handle.retry().execute(&pool).await.map(drop),
                    _ => handle.delete().execute(&pool).await,
                }
            })
        };
        until_a_session_waits(pool, 1).await;
        other.commit().await.unwrap();
        acting.await.unwrap().unwrap();
        assert_eq!(audit(pool, first).await, [], "{action}");
        assert_eq!(audit(pool, second).await.len(), 1, "{action}");
    }
}

/// Another transaction inserts an instance with the key of a retried one, and commits last.
#[tokio::test(flavor = "multi_thread")]
async fn p40_a_retry_in_the_callers_transaction_says_that_the_key_was_just_taken() {
    let db = database().await;
    let (engine, _) = start(&db).await;
    let pool = db.pool();
    let id = Plain::insert(Plan::Fail).unique_key("k").execute(&engine).await.unwrap();
    until(pool, id, "failed").await;
    let mut other = pool.begin().await.unwrap();
    Plain::insert(Plan::Wait).unique_key("k").execute(&mut *other).await.unwrap();
    let retrying = {
        let (handle, pool) = (engine.instance(id), pool.clone());
        tokio::spawn(async move {
            let mut transaction = pool.begin().await.unwrap();
            let answer = handle.retry().execute(&mut *transaction).await;
            transaction.rollback().await.unwrap();
            answer
        })
    };
    until_a_session_waits(pool, 1).await;
    other.commit().await.unwrap();
    let error = retrying.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "instance {id} cannot go on: an instance that was inserted at the same moment holds its unique key; end that one first"
        )
    );
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p40_a_retry_withdraws_the_report_that_nobody_has_seen() {
    let db = database().await;
    let (engine, breakpoint) = start(&db).await;
    let pool = db.pool();
    let parent = Parent::insert(Vec::new()).execute(&engine).await.unwrap();
    until(pool, parent, "awaiting_signal").await;
    let heard = async || -> Vec<String> {
        let state = row(pool, parent).await.state;
        serde_json::from_value(state).unwrap()
    };
    let hears = async |count: usize| {
        eventually("the parent hears", async || {
            let heard = heard().await;
            (heard.len() == count).then_some(heard)
        })
        .await
    };
    // The parent has consumed the report: the next end sends none.
    let child = Plain::insert(Plan::Fail).report_to(parent).execute(&engine).await.unwrap();
    assert_eq!(hears(1).await, ["instance N failed: it fails"]);
    let retry = engine.instance(child).retry().with_state(Plan::Done(1));
    assert!(retry.execute(&engine).await.unwrap().heard);
    assert_eq!(engine.wait(child, WAIT_MAX).await.unwrap(), 1);

    // The parent runs while the report comes, and may have seen it.
    Parent::signal_word(parent, Word(0)).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let child = Plain::insert(Plan::Wait).report_to(parent).execute(&engine).await.unwrap();
    until(pool, child, "awaiting_signal").await;
    engine.instance(child).cancel("one").execute(&engine).await.unwrap();
    eventually("the report is there", async || (row(pool, parent).await.inbox == 2).then_some(()))
        .await;
    let retry = engine.instance(child).retry().with_state(Plan::Done(2));
    assert!(retry.execute(&engine).await.unwrap().heard);
    breakpoint.open(1);
    assert_eq!(engine.wait(child, WAIT_MAX).await.unwrap(), 2);
    assert_eq!(hears(2).await[1], "instance N was cancelled: one");

    // The parent does not run, and has not seen the report: it is withdrawn.
    sql(pool, "update gen_durable.instances set queue = 'nobody''s' where fsm = 'parent'").await;
    let child = Plain::insert(Plan::Fail).report_to(parent).execute(&engine).await.unwrap();
    until(pool, child, "failed").await;
    eventually("the report is there", async || (row(pool, parent).await.inbox == 1).then_some(()))
        .await;
    let retry = engine.instance(child).retry().with_state(Plan::Done(3));
    assert!(!retry.execute(&engine).await.unwrap().heard);
    assert_eq!(engine.wait(child, WAIT_MAX).await.unwrap(), 3);
    sql(pool, "update gen_durable.instances set queue = 'default' where fsm = 'parent'").await;
    assert_eq!(hears(3).await[2], "3");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p40_a_report_that_is_withdrawn_is_waited_for_again() {
    let db = database().await;
    let (engine, _) = start(&db).await;
    let pool = db.pool();
    // A parent that waits for two reports, of which one has come.
    let child = Plain::insert(Plan::Fail).queue("default").execute(&engine).await.unwrap();
    until(pool, child, "failed").await;
    sql(
        pool,
        "with parent as (
             insert into gen_durable.instances (fsm, fsm_version, step, state, status, awaits, awaits_more)
             values ('parent', 1, 'hear', '[]', 'awaiting_signal', '{ended(plain)}', 1)
             returning id
         ), child as (
             update gen_durable.instances i set report_to = p.id from parent p where i.fsm = 'plain'
             returning i.id, i.report_to
         )
         insert into gen_durable.signals (target_id, name, payload)
         select report_to, 'ended(plain)', json_build_object('id', id, 'status', 'failed') from child",
    )
    .await;
    let more = "select awaits_more, (select count(*) from gen_durable.signals)
         from gen_durable.instances where fsm = 'parent'";
    let retry = engine.instance(child).retry().with_state(Plan::Wait);
    assert!(!retry.execute(&engine).await.unwrap().heard);
    let found: (i32, i64) = sqlx::query_as(more).fetch_one(pool).await.unwrap();
    assert_eq!(found, (2, 0));
    engine.shutdown().await.unwrap();
}

/// The receiver has failed, and keeps the report in its inbox. A retry withdraws it all the same:
/// the receiver may be retried too.
#[tokio::test(flavor = "multi_thread")]
async fn p40_a_retry_withdraws_the_report_from_a_receiver_that_has_ended() {
    let db = database().await;
    let (engine, _) = start(&db).await;
    let pool = db.pool();
    let parent = Parent::insert(Vec::new()).queue("nobody's").execute(&engine).await.unwrap();
    let child = Plain::insert(Plan::Fail).report_to(parent).execute(&engine).await.unwrap();
    until(pool, child, "failed").await;
    eventually("the report is there", async || (row(pool, parent).await.inbox == 1).then_some(()))
        .await;
    engine.instance(parent).kill("too late").execute(&engine).await.unwrap();
    let retry = engine.instance(child).retry().with_state(Plan::Wait);
    assert!(!retry.execute(&engine).await.unwrap().heard);
    assert_eq!(row(pool, parent).await.inbox, 0);
    until(pool, child, "awaiting_signal").await;
    engine.instance(parent).retry().execute(&engine).await.unwrap();
    Plain::signal_word(child, Word(4)).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(child, WAIT_MAX).await.unwrap(), 4);
    sql(pool, "update gen_durable.instances set queue = 'default' where fsm = 'parent'").await;
    let heard = eventually("the parent hears", async || {
        let state = row(pool, parent).await.state;
        let heard: Vec<String> = serde_json::from_value(state).unwrap();
        (!heard.is_empty()).then_some(heard)
    })
    .await;
    assert_eq!(heard, ["4"]);
    engine.shutdown().await.unwrap();
}

/// Version 2 of a machine retries what version 1 has left failed.
mod versions {
    use super::*;

    mod v1 {
        use super::*;

        #[durable_fsm(version = 1, state = i64, output = i64, on_cancel = Undo)]
        pub enum Bill {
            Charge,
            Undo,
        }

        #[durable_fsm]
        impl Bill {
            async fn charge(cx: Context<Self>) -> StepResult<Self> {
                Err(format!("no {}", cx.state).into())
            }

            async fn undo(cx: Context<Self>) -> Outcome<Self> {
                let cents = cx.state;
                cx.done(-cents)
            }
        }
    }

    #[durable_fsm(version = 2, state = String, output = i64, upgrades = v1::Bill)]
    pub enum Bill {
        Charge,
        Refund,
    }

    impl Upgrade<v1::Bill> for Bill {
        fn upgrade(step: v1::Bill, state: i64) -> Result<(Self, String), UpgradeError> {
            let step = match step {
                v1::Bill::Charge => Bill::Charge,
                v1::Bill::Undo => Bill::Refund,
            };
            Ok((step, state.to_string()))
        }
    }

    #[durable_fsm]
    impl Bill {
        async fn charge(cx: Context<Self>) -> StepResult<Self> {
            let cents: i64 = cx.state.parse()?;
            Ok(cx.done(cents))
        }

        #[step(entry)]
        async fn refund(cx: Context<Self>) -> StepResult<Self> {
            let cents: i64 = cx.state.parse()?;
            Ok(cx.done(-cents))
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn p40_a_newer_version_retries_and_cancels_what_an_older_one_has_left() {
        let db = database().await;
        let pool = db.pool();
        let old = engine(&db).machine::<v1::Bill>().start().await.unwrap();
        let mut ids = Vec::new();
        for cents in 1..=4 {
            let id = v1::Bill::insert(cents).execute(&old).await.unwrap();
            until(pool, id, "failed").await;
            ids.push(InstanceId::<Bill>::from_raw(id.get()));
        }
        let later = Duration::from_hours(1);
        let waiting = v1::Bill::insert(5).schedule_in(later).execute(&old).await.unwrap();
        old.shutdown().await.unwrap();

        let new = engine(&db).machine::<Bill>().start().await.unwrap();
        let on = |index: usize| new.instance(ids[index]).retry();
        on(0).execute(&new).await.unwrap();
        assert_eq!(new.wait(ids[0], WAIT_MAX).await.unwrap(), 1);
        let error = on(1).at(Bill::Refund).execute(&new).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "instance {} is of version 1, and the step or the state is of version 2: give both, or neither",
                ids[1]
            )
        );
        let both = on(1).at(Bill::Refund).with_state("20".to_owned());
        both.execute(&new).await.unwrap();
        assert_eq!(new.wait(ids[1], WAIT_MAX).await.unwrap(), -20);
        // The step of a cancel is that of the instance's own version, which is then upgraded.
        let cancel = new.instance_by_id(waiting.get()).cancel("old").execute(&new).await.unwrap();
        assert_eq!(cancel, Cancelled::Answering);
        let waiting = InstanceId::<Bill>::from_raw(waiting.get());
        assert_eq!(new.wait(waiting, WAIT_MAX).await.unwrap(), -5);
        new.shutdown().await.unwrap();
    }
}
