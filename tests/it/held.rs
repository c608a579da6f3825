//! Rows and keys that a caller's transaction has locked. The transaction delays the calls that need
//! them, and no others.

use gen_durable::{SignalError, prelude::*};

use crate::support::{WAIT_MAX, database, engine, eventually, row, sql, until};

#[derive(Clone, DurableSignal)]
pub struct Go {
    n: u32,
}

#[durable_fsm(output = u32, signals(Go))]
pub enum Parked {
    Wait,
}

#[durable_fsm]
impl Parked {
    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        match cx.take_signal::<Go>()? {
            Some(go) => Ok(cx.done(go.n)),
            None => Ok(cx.await_signal::<Go>()),
        }
    }
}

/// Its outcome ends it, and signals its target.
#[durable_fsm(state = InstanceId<Parked>, output = ())]
pub enum Signals {
    Run,
}

#[durable_fsm]
impl Signals {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        let target = cx.state;
        cx.done(()).signal(Parked::signal_go(target, Go { n: 3 }))
    }
}

/// Its outcome ends it, and inserts an instance with a unique key.
#[durable_fsm(state = String, output = ())]
pub enum Inserts {
    Run,
}

#[durable_fsm]
impl Inserts {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        let key = cx.state.clone();
        cx.done(()).insert(Parked::insert(()).unique_key(key))
    }
}

#[durable_fsm(output = ())]
pub enum Plain {
    Run,
}

#[durable_fsm]
impl Plain {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// A transaction has signalled one of sixty instances, and does not end. More signals to that
/// instance wait for it. Signals to the others are sent at the same time, and delivered meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn p62_an_open_transaction_delays_only_the_signals_to_its_target() {
    let db = database().await;
    let engine = engine(&db).machine::<Parked>().queue("default", 100).start().await.unwrap();
    let mut parked = Vec::new();
    for _ in 0..60 {
        parked.push(Parked::insert(()).execute(&engine).await.unwrap());
    }
    for id in &parked {
        until(db.pool(), *id, "awaiting_signal").await;
    }
    let mut tx = db.pool().begin().await.unwrap();
    Parked::signal_go(parked[0], Go { n: 1 }).execute(&mut *tx).await.unwrap();
    let send = |id| {
        let client = engine.client().clone();
        tokio::spawn(async move { Parked::signal_go(id, Go { n: 2 }).execute(&client).await })
    };
    let mut held = Vec::new();
    for neighbours in parked[1..].chunks(20) {
        // Two signals to the locked instance, one for each batch that may be under way.
        held.extend([send(parked[0]), send(parked[0])]);
        let sends: Vec<_> = neighbours.iter().map(|id| send(*id)).collect();
        for send in sends {
            send.await.unwrap().unwrap();
        }
    }
    for id in &parked[1..] {
        assert_eq!(engine.wait(*id, WAIT_MAX).await.unwrap(), 2);
    }
    assert!(held.iter().all(|send| !send.is_finished()), "they wait for the transaction");
    tx.commit().await.unwrap();
    assert_eq!(engine.wait(parked[0], WAIT_MAX).await.unwrap(), 1);
    for send in held {
        match send.await.unwrap() {
            // The transaction's own signal ends the instance. Each of these signals comes before or
            // after that end.
            Ok(_) | Err(SignalError::Terminal { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    engine.shutdown().await.unwrap();
}

/// An open transaction delays the outcomes that signal its row or insert its unique key, and no
/// others.
#[tokio::test(flavor = "multi_thread")]
async fn p62_an_open_transaction_delays_only_the_outcomes_that_need_its_rows() {
    let db = database().await;
    let builder = engine(&db).machine::<Parked>().machine::<Signals>().machine::<Inserts>();
    let engine = builder.queue("default", 100).start().await.unwrap();
    let mut parked = Vec::new();
    for _ in 0..5 {
        parked.push(Parked::insert(()).execute(&engine).await.unwrap());
    }
    for id in &parked {
        until(db.pool(), *id, "awaiting_signal").await;
    }
    let mut tx = db.pool().begin().await.unwrap();
    Parked::signal_go(parked[0], Go { n: 1 }).execute(&mut *tx).await.unwrap();
    Parked::insert(()).unique_key("held").execute(&mut *tx).await.unwrap();
    let insert = async |key: &str| Inserts::insert(key.to_owned()).execute(&engine).await.unwrap();
    let signals = Signals::insert(parked[0]).execute(&engine).await.unwrap();
    let inserts = insert("held").await;
    for id in &parked[1..] {
        let other = Signals::insert(*id).execute(&engine).await.unwrap();
        engine.wait(other, WAIT_MAX).await.unwrap();
        assert_eq!(engine.wait(*id, WAIT_MAX).await.unwrap(), 3);
        let other = insert(&format!("free {id}")).await;
        engine.wait(other, WAIT_MAX).await.unwrap();
    }
    for id in [signals.get(), inserts.get()] {
        until(db.pool(), id, "executing").await;
    }
    tx.rollback().await.unwrap();
    engine.wait(signals, WAIT_MAX).await.unwrap();
    engine.wait(inserts, WAIT_MAX).await.unwrap();
    assert_eq!(engine.wait(parked[0], WAIT_MAX).await.unwrap(), 3, "the transaction's was undone");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p62_a_unique_key_that_is_held_delays_only_the_inserts_that_need_it() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let mut tx = db.pool().begin().await.unwrap();
    Parked::insert(()).unique_key("held").execute(&mut *tx).await.unwrap();
    let insert = |key: Option<String>| {
        let client = client.clone();
        tokio::spawn(async move {
            let insert = Parked::insert(());
            let insert = match key {
                Some(key) => insert.unique_key(key),
                None => insert,
            };
            insert.execute(&client).await
        })
    };
    let held: Vec<_> = (0..2).map(|_| insert(Some("held".to_owned()))).collect();
    let others = (0..40).map(|n| insert((n % 2 == 0).then(|| format!("free {n}"))));
    for other in others.collect::<Vec<_>>() {
        other.await.unwrap().unwrap();
    }
    assert!(held.iter().all(|insert| !insert.is_finished()), "they wait for the transaction");
    tx.rollback().await.unwrap();
    let mut answers = Vec::new();
    for insert in held {
        answers.push(insert.await.unwrap());
    }
    assert!(answers.iter().any(Result::is_ok), "{answers:?}");
    assert!(
        answers.iter().any(|answer| matches!(answer, Err(InsertError::Duplicate(_)))),
        "{answers:?}"
    );
}

/// The caller's transaction keeps its settings.
#[tokio::test(flavor = "multi_thread")]
async fn p62_calls_change_no_setting_of_the_callers_transaction() {
    let db = database().await;
    let mut tx = db.pool().begin().await.unwrap();
    let settings = async |tx: &mut sqlx::PgConnection| -> Vec<(String, String)> {
        sqlx::query_as("select name, setting from pg_settings order by name")
            .fetch_all(tx)
            .await
            .unwrap()
    };
    let before = settings(&mut tx).await;
    let id = Parked::insert(()).unique_key("key").execute(&mut *tx).await.unwrap();
    Parked::signal_go(id, Go { n: 1 }).execute(&mut *tx).await.unwrap();
    assert_eq!(settings(&mut tx).await, before);
    tx.commit().await.unwrap();
    eventually("it is there", async || {
        Client::new(db.pool().clone()).find(id).await.unwrap().map(drop)
    })
    .await;
}

/// A unique key changes hands while a batch looks for its holder, so the batch is tried again. The
/// rows that it has inserted by then are not inserted a second time.
#[tokio::test(flavor = "multi_thread")]
async fn p62_a_batch_that_is_tried_again_inserts_nothing_twice() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    // At the first try the key seems to be taken, but the batch finds no holder. At the next two
    // tries the key is locked.
    crate::support::sql(
        db.pool(),
        "create sequence public.tries;
         create function public.held() returns trigger language plpgsql as $$
         begin
             if nextval('public.tries') = 1 then
                 -- The row is left out, as if the key had been taken.
                 return null;
             elsif currval('public.tries') <= 3 then
                 raise exception 'held' using errcode = 'lock_not_available';
             end if;
             return new;
         end $$;
         create trigger held before insert on gen_durable.instances for each row
         when (new.unique_key = 'held') execute function public.held();",
    )
    .await;
    let rows = [Parked::insert(()).unique_key("held"), Parked::insert(())];
    let inserted = Parked::insert_many(rows).execute(&client).await.unwrap();
    assert!(inserted.iter().all(Result::is_ok), "{inserted:?}");
    let count: i64 = sqlx::query_scalar("select count(*) from gen_durable.instances")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(count, 2);
}

/// An open transaction has locked the heads of ten keys, and the queue has ten slots. A claim of
/// ten rows first finds only rows that wait for these heads. A row without a key, behind them, runs
/// all the same.
#[tokio::test(flavor = "multi_thread")]
async fn p62_an_open_transaction_delays_only_the_keys_of_its_rows() {
    let db = database().await;
    let rows = (0..30).map(|n| Plain::insert(()).partition_key(format!("key {}", n % 10)));
    let keyed = Plain::insert_many(rows).execute(db.pool()).await.unwrap();
    let keyed: Vec<_> = keyed.into_iter().map(Result::unwrap).collect();
    // The rows behind the heads are in the claim's index, as in a queue in which other rows have
    // run.
    sql(db.pool(), "update gen_durable.instances set blocked_by = 0").await;
    let behind = Plain::insert(()).execute(db.pool()).await.unwrap();
    let mut tx = db.pool().begin().await.unwrap();
    let heads: Vec<i64> = keyed[..10].iter().map(|id| id.get()).collect();
    sqlx::query("select from gen_durable.instances where id = any ($1) for update")
        .bind(heads)
        .execute(&mut *tx)
        .await
        .unwrap();
    let engine = engine(&db).machine::<Plain>().queue("default", 10).start().await.unwrap();
    engine.wait(behind, WAIT_MAX).await.unwrap();
    for id in &keyed {
        assert_eq!(row(db.pool(), *id).await.status, "runnable");
    }
    tx.rollback().await.unwrap();
    for id in keyed {
        engine.wait(id, WAIT_MAX).await.unwrap();
    }
    engine.shutdown().await.unwrap();
}

/// The wait for a locked row takes longer than the statement timeout. The calls go on trying until
/// the row is free.
#[tokio::test(flavor = "multi_thread")]
async fn p62_a_statement_timeout_ends_no_call_that_waits_for_a_row() {
    let db = database().await;
    let id = Parked::insert(()).execute(db.pool()).await.unwrap();
    let alter = format!("alter database \"{}\" set statement_timeout = '100ms'", db.name());
    sqlx::raw_sql(sqlx::AssertSqlSafe(alter)).execute(db.pool()).await.unwrap();
    let mut tx = db.pool().begin().await.unwrap();
    Parked::signal_go(id, Go { n: 1 }).execute(&mut *tx).await.unwrap();
    let pool = sqlx::PgPool::connect_with((*db.pool().connect_options()).clone()).await.unwrap();
    let client = Client::new(pool.clone());
    let signals = [
        tokio::spawn(async move { Parked::signal_go(id, Go { n: 2 }).execute(&client).await }),
        tokio::spawn(async move { Parked::signal_go(id, Go { n: 3 }).execute(&pool).await }),
    ];
    // A batch waits for less than this, so a statement that has waited for so long is one of a call
    // that waits by itself.
    let waiting = "select pid, query_start::text from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'
           and query_start < clock_timestamp() - interval '50 milliseconds'";
    let first: (i32, String) = eventually("a call waits", async || {
        sqlx::query_as(waiting).fetch_optional(db.pool()).await.unwrap()
    })
    .await;
    eventually("Postgres ends the wait", async || {
        let still: Option<(i32, String)> =
            sqlx::query_as(waiting).fetch_optional(db.pool()).await.unwrap();
        (still.as_ref() != Some(&first)).then_some(())
    })
    .await;
    tx.rollback().await.unwrap();
    for signal in signals {
        signal.await.unwrap().unwrap();
    }
    assert_eq!(row(db.pool(), id).await.inbox, 2);
}
