//! Whatever waits follows the lab's time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gen_durable::{prelude::*, testing::Lab};

use super::{Calls, Checkout, End, Mail, Order, checkout, with_book};
use crate::support::database;

#[tokio::test]
async fn p75_delays_retries_and_timeouts_follow_the_labs_time() {
    let db = database().await;
    let pool = db.pool();
    with_book(pool).await;
    let calls = Calls::default();
    let mut lab = checkout(pool, &calls).await;
    let parked =
        Checkout::insert(Order::default()).step(Checkout::AwaitPay).execute(&lab).await.unwrap();
    let failing = Checkout::insert(Order { number: -1, paid: None }).step(Checkout::Ship);
    let failing = failing.execute(&lab).await.unwrap();
    let later = Mail::insert("later".to_owned()).schedule_in(Duration::from_hours(24 * 40));
    let later = later.execute(&lab).await.unwrap();
    lab.advance(Duration::from_mins(15) - Duration::from_micros(1)).await.unwrap();
    lab.assert_parked(parked, Checkout::AwaitPay).await.unwrap();
    // One run at once, one after a minute, one two minutes later.
    assert_eq!(calls.all().len(), 3);
    lab.assert_failed(failing).await.unwrap();
    lab.advance(Duration::from_micros(1)).await.unwrap();
    lab.assert_done(parked, &End::Expired).await.unwrap();
    // The lease is long over by that time, and so is the retention of what ended before.
    lab.advance(Duration::from_hours(24 * 40)).await.unwrap();
    assert_eq!(calls.all().last().unwrap(), "mail later");
    lab.assert_done(later, &()).await.unwrap();
    lab.assert_done(parked, &End::Expired).await.unwrap_err();
}

/// Notes the time at which it runs.
#[durable_fsm(state = Vec<u64>, output = Vec<u64>)]
pub enum Clock {
    Tick,
}

#[durable_fsm]
impl Clock {
    async fn tick(mut cx: Context<Self>) -> Outcome<Self> {
        let now = cx.now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        cx.state.push(now);
        if cx.state.len() == 3 {
            let all = cx.state.clone();
            return cx.done(all);
        }
        cx.next_in(Clock::Tick, Duration::from_secs(10))
    }
}

/// A step sees the moment at which it became due, and so does every connection to the database.
#[tokio::test]
async fn p75_each_moment_is_that_at_which_something_is_due() {
    let db = database().await;
    let began = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut lab = Lab::new(db.pool()).machine::<Clock>().starts_at(began).start().await.unwrap();
    let id = Clock::insert(vec![]).execute(&lab).await.unwrap();
    let told = async || -> (i64, i64) {
        sqlx::query_as(
            "select extract(epoch from gen_durable.now())::bigint, extract(epoch from gen_durable.clock())::bigint",
        )
        .fetch_one(db.pool())
        .await
        .unwrap()
    };
    assert_eq!(told().await, (1_700_000_000, 1_700_000_000));
    lab.advance(Duration::from_mins(1)).await.unwrap();
    let all = vec![1_700_000_000, 1_700_000_010, 1_700_000_020];
    lab.assert_done(id, &all).await.unwrap();
    assert_eq!(told().await, (1_700_000_060, 1_700_000_060));
    assert_eq!(lab.now(), began + Duration::from_mins(1));
    assert!(lab.now() < SystemTime::now());
}

/// A pause that ends by itself ends at the lab's time, and so does a delay of an operator.
#[tokio::test]
async fn p75_pauses_and_cancels_work_in_a_lab() {
    let db = database().await;
    let mut lab = Lab::new(db.pool()).machine::<Clock>().start().await.unwrap();
    let clock = lab.client().machine::<Clock>();
    clock.pause().until(lab.now() + Duration::from_mins(5)).execute(&lab).await.unwrap();
    let id = Clock::insert(vec![]).execute(&lab).await.unwrap();
    assert_eq!(lab.run_until_idle().await.unwrap().runs, 0);
    assert_eq!(lab.advance(Duration::from_mins(4)).await.unwrap().runs, 0);
    assert_eq!(lab.advance(Duration::from_mins(1)).await.unwrap().runs, 1);
    lab.client().instance(id).cancel("enough").execute(&lab).await.unwrap();
    assert_eq!(lab.advance(Duration::from_mins(1)).await.unwrap().runs, 0);
    let status = lab.client().instance(id).get().await.unwrap().status;
    assert_eq!(status, Status::Cancelled);
}

/// Postgres inlines the functions that tell the time, the database's own and those of a lab.
#[tokio::test]
async fn p75_the_functions_of_the_time_are_inlined() {
    let db = database().await;
    let plan = async || -> String {
        let explain = "explain (verbose, costs off)
            select from gen_durable.instances where eligible_at <= gen_durable.now()";
        let lines: Vec<String> = sqlx::query_scalar(explain).fetch_all(db.pool()).await.unwrap();
        lines.join("\n")
    };
    assert!(plan().await.contains("eligible_at <= now()"), "{}", plan().await);
    let began = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let lab = Lab::new(db.pool()).machine::<Clock>().starts_at(began).start().await.unwrap();
    assert!(plan().await.contains("eligible_at <= '2023-11-14 22:13:20"), "{}", plan().await);
    drop(lab);
}
