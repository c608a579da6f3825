//! Explorations find orders and faults in which a test fails, and the shortest of them.

use std::sync::{Arc, Mutex};

use gen_durable::{
    prelude::*,
    testing::{Lab, TestResult},
};
use sqlx::PgPool;

use super::{Calls, Order};
use crate::support::{database, sql};

/// Moves an amount in two steps, each with a statement of its own that commits by itself. A crash
/// between such a statement and the step's commit does it twice.
#[durable_fsm(state = Order, output = ())]
pub enum Move {
    Take,
    Give,
}

/// The application's own pool.
#[derive(Clone)]
pub struct Bank(PgPool);

impl Bank {
    async fn add(&self, account: i64, amount: i64) -> Result<(), sqlx::Error> {
        let add = "update public.accounts set amount = amount + $2 where account = $1";
        sqlx::query(add).bind(account).bind(amount).execute(&self.0).await.map(drop)
    }
}

#[durable_fsm]
impl Move {
    async fn take(cx: Context<Self>, bank: &Bank) -> StepResult<Self> {
        bank.add(1, -5).await?;
        Ok(cx.next(Move::Give))
    }

    /// This one does it right.
    async fn give(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        let add = "update public.accounts set amount = amount + 5 where account = 2";
        sqlx::query(add).execute(tx).await?;
        Ok(cx.done(()))
    }
}

async fn moves(pool: PgPool) -> TestResult {
    let mut lab = Lab::new(&pool).machine::<Move>().resource(Bank(pool.clone())).start().await?;
    for _ in 0..2 {
        Move::insert(Order::default()).execute(&lab).await?;
    }
    lab.run_until_idle().await?;
    let sum: i64 = sqlx::query_scalar("select sum(amount)::bigint from public.accounts")
        .fetch_one(&pool)
        .await?;
    if sum != 0 {
        return Err(format!("the sum is {sum}").into());
    }
    Ok(())
}

#[tokio::test]
async fn p75_an_exploration_finds_the_shortest_course_that_fails() {
    let db = database().await;
    sql(
        db.pool(),
        "create table public.accounts (account bigint, amount bigint);
         insert into public.accounts values (1, 0), (2, 0)",
    )
    .await;
    let error = Lab::explore(db.pool(), 42, moves).await.unwrap_err().to_string();
    assert!(error.starts_with("the test fails: the sum is -5"), "{error}");
    let (_, course) = error.split_once("The shortest course found: seed 42, course ").unwrap();
    let (faults, trace) = course.split_once("\nWhat was done:").unwrap();
    assert!(trace.contains("`take`: goes to `give` -- dropped: "), "{error}");
    let faults: Vec<&str> = faults.lines().skip(1).collect();
    assert_eq!(faults.len(), 1, "{error}");
    assert!(faults[0].contains("a fault after a run of instance"), "{error}");
    assert!(faults[0].contains("at `take` of `move`"), "{error}");
    // The same seed leads to the same course.
    let again = Lab::explore(db.pool(), 42, moves).await.unwrap_err().to_string();
    assert_eq!(again, error);
}

/// Two instances race for the first place. The test expects what the order decides.
#[durable_fsm(state = i64, output = usize)]
pub enum Race {
    Run,
}

#[durable_fsm]
impl Race {
    async fn run(cx: Context<Self>, calls: &Calls) -> Outcome<Self> {
        let name = cx.state.to_string();
        if !calls.all().contains(&name) {
            calls.note(name);
        }
        cx.done(0)
    }
}

#[tokio::test]
async fn p75_an_exploration_tries_other_orders_and_panics_are_failures() {
    let db = database().await;
    let copies = Arc::new(Mutex::new(Vec::new()));
    let race = async |pool: PgPool| -> TestResult {
        let name: String =
            sqlx::query_scalar("select current_database()::text").fetch_one(&pool).await.unwrap();
        copies.lock().unwrap().push(name);
        let calls = Calls::default();
        let lab = Lab::new(&pool).machine::<Race>().resource(calls.clone());
        let mut lab = lab.start().await?;
        for n in 0..3 {
            Race::insert(n).execute(&lab).await.unwrap();
        }
        lab.run_until_idle().await?;
        assert_eq!(calls.all()[0], "0", "the first one comes first");
        Ok(())
    };
    let error = Lab::explore(db.pool(), 1, race).await.unwrap_err().to_string();
    assert!(error.contains("the first one comes first"), "{error}");
    assert!(error.contains("choice 0: another instance goes first"), "{error}");
    let copies = copies.lock().unwrap().clone();
    assert!(copies.len() > 1);
    let left = "select count(*) from pg_database where datname = any ($1)";
    let left: i64 = sqlx::query_scalar(left).bind(&copies).fetch_one(db.pool()).await.unwrap();
    assert_eq!(left, 0, "the copies are gone");
}

#[tokio::test]
async fn p75_an_exploration_passes_what_holds_in_every_course() {
    let db = database().await;
    let holds = async |pool: PgPool| -> TestResult {
        let mut lab = Lab::new(&pool).machine::<Race>().resource(Calls::default()).start().await?;
        let id = Race::insert(7).execute(&lab).await?;
        lab.run_until_idle().await?;
        lab.assert_done(id, &0).await?;
        Ok(())
    };
    let explored = Lab::explore(db.pool(), 3, holds).courses(10).await.unwrap();
    assert_eq!(explored.courses, 10);
}
