//! Small annoyances of a newcomer, which must stay away: ids bind in queries and parse from texts,
//! answers are typed, and values can be cloned and converted.

use std::collections::HashSet;

// A service needs nothing but the prelude for what it writes.
use gen_durable::prelude::*;
use serde_json::json;

use crate::support::{WAIT_MAX, database, engine, until};

#[derive(Clone, Debug, DurableSignal)]
pub struct Paid {
    amount: i64,
}

#[derive(Clone, Debug, PartialEq, DurableState)]
pub struct Receipt {
    amount: i64,
}

#[durable_fsm(state = u32, output = Receipt, signals(Paid))]
pub enum Order {
    Await,
}

#[durable_fsm]
impl Order {
    async fn r#await(mut cx: Context<Self>) -> StepResult<Self> {
        match cx.take_signal::<Paid>()? {
            Some(Paid { amount }) if amount < 0 => Err("nobody pays less than nothing".into()),
            Some(Paid { amount }) => Ok(cx.done(Receipt { amount })),
            None => Ok(cx.await_signal::<Paid>()),
        }
    }
}

#[durable_fsm(output = ())]
pub enum Other {
    Do,
}

#[durable_fsm]
impl Other {
    async fn r#do(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Ids go into a table of the user's own and come back: alone, in arrays, in tuples, and as null.
#[tokio::test(flavor = "multi_thread")]
async fn p59_an_id_is_bound_fetched_and_parsed() {
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    let ids: Vec<InstanceId<Order>> = Order::insert_many(0..3)
        .execute(&client)
        .await
        .unwrap()
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    sqlx::raw_sql("create table orders (number int primary key, instance bigint)")
        .execute(pool)
        .await
        .unwrap();
    sqlx::query("insert into orders select n, id from unnest($1) with ordinality as i (id, n)")
        .bind(&ids)
        .execute(pool)
        .await
        .unwrap();
    sqlx::query("insert into orders values (4, $1)")
        .bind(None::<InstanceId<Order>>)
        .execute(pool)
        .await
        .unwrap();
    let found: Vec<(i32, Option<InstanceId<Order>>)> =
        sqlx::query_as("select number, instance from orders order by 1")
            .fetch_all(pool)
            .await
            .unwrap();
    let expected: Vec<_> = (1..).zip(ids.iter().copied().map(Some).chain([None])).collect();
    assert_eq!(found, expected);
    let all: Vec<InstanceId<Order>> = sqlx::query_scalar(
        "select array_agg(instance order by number) from orders where number < 4",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(all, ids);
    let number: i32 = sqlx::query_scalar("select number from orders where instance = $1")
        .bind(ids[1])
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(number, 2);

    let parsed: InstanceId<Order> = ids[2].to_string().parse().unwrap();
    assert_eq!(parsed, ids[2]);
    for text in ["", "x", "1.5", "9223372036854775808"] {
        assert!(text.parse::<InstanceId<Order>>().is_err(), "{text}");
    }
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn p59_a_duplicate_and_a_snapshot_are_typed() {
    let db = database().await;
    let engine = engine(&db).machine::<Order>().machine::<Other>().start().await.unwrap();
    let client = engine.client();
    let insert = Order::insert(7).unique_key("order 7");
    let id = insert.clone().execute(&engine).await.unwrap();
    // The id of a duplicate can be waited for, signalled and looked up like any other id.
    let InsertError::Duplicate(held) = insert.clone().execute(&engine).await.unwrap_err() else {
        panic!("the key is taken")
    };
    until(db.pool(), id, "awaiting_signal").await;
    let found = client.find(held.id).await.unwrap().expect("it is there");
    assert_eq!((found.id, found.status), (id, Status::AwaitingSignal));
    assert!(matches!(found.step(), Some(Order::Await)));
    assert!(found.output().unwrap().is_none());
    let pay = Order::signal_paid(held.id, Paid { amount: 5 }).dedup_key("once");
    assert_eq!(pay.clone().execute(&engine).await.unwrap(), Delivery::Delivered);
    let receipt = engine.wait(held.id, WAIT_MAX).await.unwrap();
    let found = client.find(id).await.unwrap().expect("it is there");
    assert_eq!(found.output().unwrap(), Some(receipt));

    // A lookup by the number works for any machine. A lookup with another machine's type is an
    // error.
    let any = client.find(id.get()).await.unwrap().expect("it is there");
    assert_eq!((any.id, any.machine.as_str()), (id.get(), "order"));
    assert_eq!(any.result, Some(json!({ "amount": 5 })));
    let other = InstanceId::<Other>::from_raw(id.get());
    let error = client.find(other).await.unwrap_err();
    assert!(matches!(error, FindError::WrongMachine { .. }), "{error}");
    assert!(client.find(0).await.unwrap().is_none());

    // Code that does not know the machine can use the error without its type.
    let untyped = async || -> Result<i64, InsertError> {
        Order::insert_many([insert.clone(), insert.clone()]).execute(&engine).await?;
        Ok(insert.clone().execute(&engine).await?.get())
    };
    let InsertError::Duplicate(Duplicate { id: number, .. }) = untyped().await.unwrap_err() else {
        panic!("the key is taken")
    };
    assert!(number > id.get());
    engine.shutdown().await.unwrap();
}

/// An insert and a signal are built once and executed several times, as clones.
#[tokio::test(flavor = "multi_thread")]
async fn p59_inserts_and_signals_are_cloned() {
    let db = database().await;
    let engine = engine(&db).machine::<Order>().start().await.unwrap();
    let insert = Order::insert(1).partition_key("k").priority(3);
    let many = Order::insert_many([insert.clone(), insert.clone()]);
    let mut ids = vec![insert.clone().execute(&engine).await.unwrap()];
    for answers in
        [many.clone().execute(&engine).await.unwrap(), many.execute(db.pool()).await.unwrap()]
    {
        ids.extend(answers.into_iter().map(Result::unwrap));
    }
    let same: i64 = sqlx::query_scalar(
        "select count(*) from gen_durable.instances
         where id = any ($1) and partition_key = 'k' and priority = 3 and state::text = '1'",
    )
    .bind(&ids)
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(same, 5);
    let signal = Order::signal_paid(ids[0], Paid { amount: 1 }).dedup_key("k");
    assert_eq!(signal.clone().execute(&engine).await.unwrap(), Delivery::Delivered);
    engine.wait(ids[0], WAIT_MAX).await.unwrap();
    let error = signal.execute(&engine).await.unwrap_err();
    assert!(matches!(error, SignalError::Terminal { status: Status::Done, .. }), "{error}");
    engine.shutdown().await.unwrap();
}

#[test]
fn p59_a_status_converts_as_others_do() {
    let live: &'static [Status] = Status::LIVE;
    assert_eq!(live, [Status::Runnable, Status::Executing, Status::AwaitingSignal]);
    let text: &str = Status::AwaitingSignal.into();
    assert_eq!(text, "awaiting_signal");
    assert_eq!("done".parse(), Ok(Status::Done));
    assert_eq!(Status::try_from("failed"), Ok(Status::Failed));
    assert!("canceled".parse::<Status>().unwrap_err().to_string().contains("`canceled`"));
    assert_eq!(format!("{:>8}", Status::Done), "    done");
    let scope = Order::insert(1).unique_while(Status::LIVE.iter().copied().chain([Status::Done]));
    assert!(format!("{scope:?}").contains("order"));
}

/// Compiles only if the prelude exports each of these types.
#[allow(clippy::too_many_arguments, dead_code, reason = "it is never called")]
fn p59_the_prelude_has_the_error_types(
    _: DatabaseError,
    _: DecodeError,
    _: Duplicate,
    _: EncodeError,
    _: FindError,
    _: InsertError,
    _: SignalError,
    _: StepError,
    _: StepErrorKind,
    _: UpgradeError,
    _: WaitError,
    _: Retry,
    _: Delivery,
) {
}
