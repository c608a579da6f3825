//! The SQL functions meet an end, a claim, a park and other producers at the same rows.

use std::sync::Arc;

use gen_durable::prelude::*;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::{sync::Semaphore, task::JoinHandle};

use super::{Paid, register};
use crate::support::{WAIT_MAX, database, engine, row, sql, until, until_a_session_waits};

/// Makes a call in a transaction of its own. Returns its answer, or the SQLSTATE of its error.
fn call(pool: &PgPool, call: &'static str) -> JoinHandle<Result<Option<String>, String>> {
    let pool = pool.clone();
    tokio::spawn(async move {
        let call = format!("select gen_durable.{call}::text");
        let answer = sqlx::query_scalar(AssertSqlSafe(call)).fetch_one(&pool).await;
        answer.map_err(|error| error.as_database_error().unwrap().code().unwrap().into_owned())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_a_signal_waits_for_the_transaction_that_ends_claims_or_parks_its_target() {
    for (change, answer, status) in [
        ("status = 'done', finished_at = now()", Err("55000"), "done"),
        ("status = 'executing', locked_by = 1", Ok("delivered"), "executing"),
        ("status = 'awaiting_signal', awaits = '{paid}'", Ok("delivered"), "runnable"),
        ("status = 'awaiting_signal', awaits = '{other}'", Ok("delivered"), "awaiting_signal"),
        (
            "status = 'awaiting_signal', awaits = '{paid}', awaits_more = 2",
            Ok("delivered"),
            "awaiting_signal",
        ),
    ] {
        let db = database().await;
        register(&db).await;
        let pool = db.pool();
        sql(
            pool,
            "insert into gen_durable.instances (id, fsm, fsm_version, step, state, unique_key, unique_scope)
             values (1, 'order', 1, 'collect', '1', 'k', '{runnable,executing,awaiting_signal,done}')",
        )
        .await;
        for by in ["signal(1, 'paid', '1', 'a')", "signal_by_key('order', 'k', 'paid', '1', 'b')"] {
            sql(pool, "delete from gen_durable.signals; update gen_durable.instances set status = 'runnable', finished_at = null, awaits = null, awaits_more = null").await;
            let mut other = pool.begin().await.unwrap();
            let change = format!("update gen_durable.instances set {change}");
            sqlx::raw_sql(AssertSqlSafe(change)).execute(&mut *other).await.unwrap();
            let signal = call(pool, by);
            until_a_session_waits(pool, 1).await;
            other.commit().await.unwrap();
            let answer = answer.map(|text| Some(text.to_owned())).map_err(str::to_owned);
            assert_eq!(signal.await.unwrap(), answer, "{by}");
            let row = row(pool, 1).await;
            assert_eq!((row.status.as_str(), row.inbox), (status, i64::from(answer.is_ok())));
        }
    }
}

/// The doors that the step passes, one by one.
#[derive(Debug)]
pub struct Door(Arc<Semaphore>);

#[durable_fsm(state = (), output = i64, signals(Paid))]
pub enum Parks {
    Wait,
}

#[durable_fsm]
impl Parks {
    async fn wait(mut cx: Context<Self>, door: &Door) -> StepResult<Self> {
        if let Some(paid) = cx.take_signal::<Paid>()? {
            return Ok(cx.done(paid.cents));
        }
        door.0.acquire().await?.forget();
        Ok(cx.await_signal::<Paid>())
    }
}

/// The signal is there first, and not committed. The park waits for it, and wakes at once.
#[tokio::test(flavor = "multi_thread")]
async fn p41_a_park_waits_for_a_signal_that_is_not_committed_and_sees_it() {
    let db = database().await;
    let pool = db.pool();
    let door = Arc::new(Semaphore::new(0));
    let engine =
        engine(&db).machine::<Parks>().resource(Door(Arc::clone(&door))).start().await.unwrap();
    let id: i64 = sqlx::query_scalar("select gen_durable.insert('parks', 'null')")
        .fetch_one(pool)
        .await
        .unwrap();
    until(pool, id, "executing").await;
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("select gen_durable.signal($1, 'paid', '{\"cents\":9}')")
        .bind(id)
        .execute(&mut *transaction)
        .await
        .unwrap();
    door.add_permits(1);
    until_a_session_waits(pool, 1).await;
    transaction.commit().await.unwrap();
    let ended = engine.wait(InstanceId::<Parks>::from_raw(id), WAIT_MAX).await;
    assert_eq!(ended.unwrap(), 9);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_an_insert_waits_for_the_transaction_that_inserts_its_unique_key() {
    let db = database().await;
    register(&db).await;
    let pool = db.pool();
    for (n, by) in [
        "insert('order', '1', unique_key => 'k0')",
        "insert('order', '1', unique_key => 'k1', if_taken => 'holder')",
        "insert('order', '1', unique_key => 'k2', if_taken => 'null')",
    ]
    .into_iter()
    .enumerate()
    {
        for commits in [false, true] {
            let mut other = pool.begin().await.unwrap();
            let first = format!("select gen_durable.insert('order', '1', unique_key => 'k{n}')");
            let holder: i64 =
                sqlx::query_scalar(AssertSqlSafe(first)).fetch_one(&mut *other).await.unwrap();
            let second = call(pool, by);
            until_a_session_waits(pool, 1).await;
            if commits {
                other.commit().await.unwrap();
            } else {
                other.rollback().await.unwrap();
            }
            let answer = second.await.unwrap();
            if !commits {
                let id: i64 = answer.unwrap().unwrap().parse().unwrap();
                assert!(id > holder);
                sql(pool, "delete from gen_durable.instances").await;
                continue;
            }
            let expected = match n {
                0 => Err("23505".to_owned()),
                1 => Ok(Some(holder.to_string())),
                _ => Ok(None),
            };
            assert_eq!(answer, expected);
        }
    }
}

/// The holder gives its key back while the signal waits for it. Another instance has it then.
#[tokio::test(flavor = "multi_thread")]
async fn p41_a_signal_by_key_reaches_the_instance_that_holds_the_key_in_the_end() {
    let db = database().await;
    register(&db).await;
    let pool = db.pool();
    for (next, answer) in [(true, Ok("delivered")), (false, Err("P0002"))] {
        sql(pool, "delete from gen_durable.instances; select gen_durable.insert('order', '1', unique_key => 'k')").await;
        let mut other = pool.begin().await.unwrap();
        let end = "update gen_durable.instances set status = 'done', finished_at = now(), unique_released = true";
        sqlx::raw_sql(end).execute(&mut *other).await.unwrap();
        let mut new = 0_i64;
        if next {
            let insert = "select gen_durable.insert('order', '1', unique_key => 'k')";
            new = sqlx::query_scalar(insert).fetch_one(&mut *other).await.unwrap();
        }
        let signal = call(pool, "signal_by_key('order', 'k', 'paid', '1')");
        until_a_session_waits(pool, 1).await;
        other.commit().await.unwrap();
        let answer = answer.map(|text| Some(text.to_owned())).map_err(str::to_owned);
        assert_eq!(signal.await.unwrap(), answer);
        if next {
            assert_eq!(row(pool, new).await.inbox, 1);
        }
    }
}
