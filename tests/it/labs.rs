//! The test kit: labs, step tests, explorations.

mod explored;
mod faults;
mod sqlx_tests;
mod steps;
mod times;
mod versions;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gen_durable::{prelude::*, testing::Lab};
use sqlx::PgPool;

use crate::support::{database, sql};

#[derive(Clone, Debug, DurableSignal)]
pub struct Paid {
    pub amount: i64,
}

#[derive(Clone, Debug, Default, PartialEq, DurableState)]
pub struct Order {
    #[serde(default)]
    pub number: i64,
    #[serde(default)]
    pub paid: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, DurableState)]
pub enum End {
    Shipped,
    Expired,
}

/// The calls that steps have made to the outside.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    pub fn note(&self, call: impl Into<String>) {
        self.0.lock().unwrap().push(call.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Takes an order, awaits the payment for a quarter of an hour, ships with retries, and mails.
#[durable_fsm(state = Order, output = End, queue = "orders", signals(Paid))]
pub enum Checkout {
    Start,
    AwaitPay,
    Ship,
    /// Writes into a table of the application's in its own transaction.
    Book,
}

#[durable_fsm]
impl Checkout {
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        cx.next_in(Checkout::AwaitPay, Duration::from_secs(5))
    }

    #[step(entry)]
    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        match cx.take_signal::<Paid>()? {
            Some(paid) => {
                cx.state.paid = Some(paid.amount);
                Ok(cx.next(Checkout::Ship))
            }
            None if cx.timed_out() => Ok(cx.done(End::Expired)),
            None => Ok(cx.await_signal_for::<Paid>(Duration::from_mins(15))),
        }
    }

    #[step(retry(max_attempts = 3, initial = "1m"), entry)]
    async fn ship(cx: Context<Self>, calls: &Calls) -> StepResult<Self> {
        calls.note(format!("ship {}", cx.state.number));
        if cx.state.number < 0 {
            return Err("no such address".into());
        }
        let mail = Mail::insert(format!("order {}", cx.state.number)).unique_key("mail");
        Ok(cx.next(Checkout::Book).insert(mail))
    }

    async fn book(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        let book = "insert into public.book (number) values ($1)";
        sqlx::query(book).bind(cx.state.number).execute(tx).await?;
        Ok(cx.done(End::Shipped))
    }
}

/// Sends a mail.
#[durable_job(queue = "mail")]
pub async fn mail(cx: JobContext<String>, calls: &Calls) -> Result<(), StepError> {
    calls.note(format!("mail {}", cx.state));
    Ok(())
}

pub async fn with_book(pool: &PgPool) {
    sql(pool, "create table public.book (number bigint)").await;
}

pub async fn books(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from public.book").fetch_one(pool).await.unwrap()
}

pub async fn checkout(pool: &PgPool, calls: &Calls) -> Lab {
    let lab = Lab::new(pool).machine::<Checkout>().machine::<Mail>().resource(calls.clone());
    lab.start().await.unwrap()
}

#[tokio::test]
async fn p75_a_lab_runs_what_is_due_and_nothing_else() {
    let db = database().await;
    let pool = db.pool();
    with_book(pool).await;
    let calls = Calls::default();
    let mut lab = checkout(pool, &calls).await;
    let id = Checkout::insert(Order { number: 7, paid: None }).execute(&lab).await.unwrap();
    let tally = lab.run_until_idle().await.unwrap();
    assert_eq!((tally.runs, tally.committed, tally.done), (1, 1, 0));
    lab.assert_runnable(id, Checkout::AwaitPay).await.unwrap();
    assert_eq!(lab.advance(Duration::from_millis(4_999)).await.unwrap().runs, 0);
    assert_eq!(lab.advance(Duration::from_millis(1)).await.unwrap().runs, 1);
    lab.assert_parked(id, Checkout::AwaitPay).await.unwrap();
    // A signal comes through any client, and nothing happens before the next call.
    Checkout::signal_paid(id, Paid { amount: 100 }).execute(pool).await.unwrap();
    lab.assert_runnable(id, Checkout::AwaitPay).await.unwrap();
    let tally = lab.run_until_idle().await.unwrap();
    assert_eq!((tally.runs, tally.done, tally.failed), (4, 2, 0));
    lab.assert_done(id, &End::Shipped).await.unwrap();
    assert_eq!(lab.state(id).await.unwrap(), Order { number: 7, paid: Some(100) });
    assert_eq!((calls.all(), books(pool).await), (vec!["ship 7".into(), "mail order 7".into()], 1));
    assert_eq!(lab.client().wait(id, crate::support::WAIT_MAX).await.unwrap(), End::Shipped);
}

#[tokio::test]
async fn p75_an_expectation_that_fails_says_where_the_instance_stands_and_what_it_did() {
    let db = database().await;
    let pool = db.pool();
    with_book(pool).await;
    let mut lab = checkout(pool, &Calls::default()).await;
    let id = Checkout::insert(Order { number: -1, paid: None })
        .step(Checkout::Ship)
        .execute(&lab)
        .await
        .unwrap();
    lab.run_until_idle().await.unwrap();
    let error = lab.assert_parked(id, Checkout::AwaitPay).await.unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        format!(
            "expected that the instance is parked at `await_pay`, but instance {id} of `checkout` is runnable at `ship`, due in 60s, attempt 1, last error: no such address; its state is {{\"number\":-1,\"paid\":null}}
What was done:
  +0ns checkout #{id} `ship`: error: no such address
  +0ns checkout #{id} `ship`: runs again (no such address) in 60s"
        )
    );
    assert_eq!(error.to_string(), format!("{error:?}"));
    lab.advance(Duration::from_hours(1)).await.unwrap();
    assert_eq!(lab.assert_failed(id).await.unwrap(), "no such address");
    let error = lab.assert_done(id, &End::Expired).await.unwrap_err().to_string();
    assert!(error.contains("is done with Expired, but instance"), "{error}");
    assert!(error.contains("+3m checkout") || error.contains("+180s checkout"), "{error}");
    let gone = InstanceId::<Checkout>::from_raw(9_999);
    let error = lab.assert_failed(gone).await.unwrap_err().to_string();
    assert!(error.contains("there is no instance 9999 of `checkout`"), "{error}");
}

#[tokio::test]
async fn p75_a_second_lab_is_refused_until_the_first_one_is_closed() {
    let db = database().await;
    let pool = db.pool();
    let lab = Lab::new(pool).machine::<Slow>().start().await.unwrap();
    let began = lab.now();
    let error = Lab::new(pool).machine::<Slow>().start().await.unwrap_err();
    assert!(error.to_string().starts_with("another lab has this database"), "{error}");
    lab.close().await.unwrap();
    // A lab that does not start leaves the database to others.
    let error = Lab::new(pool).machine::<Checkout>().start().await.unwrap_err();
    assert!(error.to_string().contains("Calls"), "{error}");
    let lab = Lab::new(pool).machine::<Slow>().start().await.unwrap();
    assert_eq!(lab.now(), began, "the time stays where it was");
}

/// Wakes itself for ever.
#[durable_fsm(output = ())]
pub enum Slow {
    Turn,
}

#[durable_fsm]
impl Slow {
    async fn turn(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Slow::Turn)
    }
}

#[tokio::test]
async fn p75_a_lab_stops_after_max_steps() {
    let db = database().await;
    let mut lab = Lab::new(db.pool()).machine::<Slow>().max_steps(20).start().await.unwrap();
    Slow::insert(()).execute(&lab).await.unwrap();
    let error = lab.run_until_idle().await.unwrap_err().to_string();
    assert!(error.contains("the lab stopped after the runs that `max_steps` allows"), "{error}");
    assert!(error.contains("slow #1 `turn`: goes to `turn`"), "{error}");
    // It goes on with the next call.
    lab.run_until_idle().await.unwrap_err();
    assert_eq!(lab.tally().committed, 40);
}

/// A lab migrates an empty database, holds no connection between its calls, and needs few of them.
/// Such a database can be dropped at the end, as `#[sqlx::test]` does.
#[tokio::test]
async fn p75_a_labs_database_can_be_dropped_at_the_end() {
    let db = database().await;
    let name = format!("{}_own", db.name());
    let on_server = async |statement: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(db.pool()).await.unwrap();
    };
    on_server(format!("create database {name}")).await;
    let own = sqlx::postgres::PgPoolOptions::new()
        .max_connections(3)
        .connect_with(db.pool().connect_options().as_ref().clone().database(&name))
        .await
        .unwrap();
    with_book(&own).await;
    let mut lab = checkout(&own, &Calls::default()).await;
    lab.run_each_step_twice();
    let id = Checkout::insert(Order::default()).step(Checkout::Ship).execute(&lab).await.unwrap();
    lab.run_until_idle().await.unwrap();
    lab.assert_done(id, &End::Shipped).await.unwrap();
    own.close().await;
    // Without `force`, this fails if a session is left.
    on_server(format!("drop database {name}")).await;
    drop(lab);
}
