//! Crashes and lost leases in a lab, and steps that are not idempotent.

use std::time::Duration;

use gen_durable::{prelude::*, testing::Lab};

use super::{Calls, Checkout, End, Order, books, checkout, with_book};
use crate::support::{database, row};

#[tokio::test]
async fn p75_a_crash_and_a_lost_lease_run_the_step_again() {
    let db = database().await;
    let pool = db.pool();
    with_book(pool).await;
    let calls = Calls::default();
    let mut lab = checkout(pool, &calls).await;
    lab.crash_before_commit(Checkout::Ship).crash_before_commit(Checkout::Book);
    let insert = Checkout::insert(Order::default()).step(Checkout::Ship);
    let id = insert.execute(&lab).await.unwrap();
    let tally = lab.run_until_idle().await.unwrap();
    // The step's own row took effect once, and so did the insert of the mail.
    assert_eq!((tally.runs, tally.lost, tally.done), (5, 2, 2));
    assert_eq!(books(pool).await, 1);
    assert_eq!(calls.all(), ["ship 0", "ship 0", "mail order 0"]);
    lab.assert_done(id, &End::Shipped).await.unwrap();
    assert_eq!(row(pool, id).await.crashes, 0);

    for step in [Checkout::Ship, Checkout::Book] {
        let before = books(pool).await;
        lab.lose_lease();
        let id = Checkout::insert(Order::default()).step(step).execute(&lab).await.unwrap();
        let tally = lab.run_until_idle().await.unwrap();
        assert_eq!((tally.lost, tally.committed), (1, tally.runs - 1));
        assert_eq!(books(pool).await, before + 1);
        lab.assert_done(id, &End::Shipped).await.unwrap();
    }
}

/// Counts outside of its state, which a crash does not undo.
#[durable_fsm(state = Order, output = usize)]
pub enum Forgetful {
    Count,
    Look,
    /// Its own transaction makes the second run see what the first one left: nothing.
    Inside,
}

#[durable_fsm]
impl Forgetful {
    async fn count(cx: Context<Self>, calls: &Calls) -> Outcome<Self> {
        calls.note("count");
        cx.done(calls.all().len())
    }

    #[step(entry)]
    async fn look(cx: Context<Self>, calls: &Calls) -> Outcome<Self> {
        cx.done(calls.all().len())
    }

    #[step(entry)]
    async fn inside(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        sqlx::query("insert into public.book (number) values (1)").execute(&mut *tx).await?;
        let count = "select count(*) from public.book";
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut *tx).await?;
        Ok(cx.done(usize::try_from(count)?))
    }
}

#[tokio::test]
async fn p75_a_step_that_is_not_idempotent_is_found() {
    let db = database().await;
    with_book(db.pool()).await;
    let calls = Calls::default();
    let lab = Lab::new(db.pool()).machine::<Forgetful>().resource(calls.clone());
    let mut lab = lab.start().await.unwrap();
    lab.run_each_step_twice();
    let insert = |step| Forgetful::insert(Order::default()).step(step);
    let inside = insert(Forgetful::Inside).execute(&lab).await.unwrap();
    let look = insert(Forgetful::Look).execute(&lab).await.unwrap();
    let tally = lab.run_until_idle().await.unwrap();
    assert_eq!((tally.runs, tally.lost, tally.done), (4, 2, 2));
    lab.assert_done(inside, &1).await.unwrap();
    lab.assert_done(look, &0).await.unwrap();

    let id = insert(Forgetful::Count).execute(&lab).await.unwrap();
    let error = lab.run_until_idle().await.unwrap_err().to_string();
    let expected = format!(
        "step `count` of `forgetful` is not idempotent: run again after a crash, instance {id} did something else
  first:  is done: 1
  second: is done: 2\n"
    );
    assert!(error.starts_with(&expected), "{error}");
    // A step may be exempt.
    lab.exempt(Forgetful::Count);
    let id = insert(Forgetful::Count).execute(&lab).await.unwrap();
    lab.run_until_idle().await.unwrap();
    lab.assert_done(id, &4).await.unwrap();
}

/// A whole machine runs twice, step by step, with its retries, its park and its transaction.
#[tokio::test]
async fn p75_a_machine_whose_steps_are_idempotent_runs_twice() {
    let db = database().await;
    let pool = db.pool();
    with_book(pool).await;
    let mut lab = checkout(pool, &Calls::default()).await;
    lab.run_each_step_twice();
    let order = |number| Checkout::insert(Order { number, paid: None });
    let expires = order(1).execute(&lab).await.unwrap();
    let fails = order(-1).step(Checkout::Ship).execute(&lab).await.unwrap();
    lab.advance(Duration::from_mins(30)).await.unwrap();
    lab.assert_done(expires, &End::Expired).await.unwrap();
    lab.assert_failed(fails).await.unwrap();
    let ships = order(2).step(Checkout::Ship).execute(&lab).await.unwrap();
    lab.run_until_idle().await.unwrap();
    lab.assert_done(ships, &End::Shipped).await.unwrap();
    assert_eq!(books(pool).await, 1);
}
