//! The console, on a fleet that works, fails, waits and is late.
//!
//! ```text
//! cargo run --example console
//! ```
//!
//! It prints the address of the console and a link by which a browser may act, and runs until
//! somebody presses Enter.

use std::{
    io::BufRead,
    time::{Duration, SystemTime},
};

use gen_durable::{Limit, Schedule, Tick, prelude::*};
use gen_durable_console::{Options, Server};
use gen_durable_examples::{Error, Session};

/// A basket, and how it goes on.
#[derive(Clone, Debug, DurableState)]
struct Basket {
    number: u64,
    customer: String,
    cents: u64,
    parcels: u64,
}

/// The customer has paid.
#[derive(Clone, Debug, DurableSignal)]
struct Paid {}

/// An order: reserve, be paid, charge, send the parcels, thank. A cancel refunds.
#[derive(Debug)]
#[durable_fsm(
    state = Basket,
    output = u64,
    signals(Paid, Ended<Parcel>),
    on_cancel = Refund,
    history = "states",
    retry(max_attempts = 3, backoff = "exponential", initial = "2s", max = "20s")
)]
enum Order {
    Reserve,
    AwaitPay,
    Charge,
    Ship,
    AwaitParcels,
    Refund,
}

#[durable_fsm]
impl Order {
    async fn reserve(cx: Context<Self>) -> Outcome<Self> {
        work(120).await;
        cx.next(Order::AwaitPay)
    }

    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.take_signal::<Paid>()?.is_some() {
            return Ok(cx.next(Order::Charge));
        }
        if cx.timed_out() {
            return Ok(cx.stop("nobody paid within ten minutes"));
        }
        Ok(cx.await_signal_for::<Paid>(Duration::from_mins(10)))
    }

    #[step(limit("bank", key = state.customer))]
    async fn charge(cx: Context<Self>) -> StepResult<Self> {
        work(400).await;
        if cx.state.number.is_multiple_of(7) {
            return Err(format!("the bank refused {} cents: code 51", cx.state.cents).into());
        }
        if cx.state.number.is_multiple_of(3) && cx.attempt() == 0 {
            return Err("the bank did not answer within 400 ms".into());
        }
        Ok(cx.next(Order::Ship))
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        let parcels = (0..cx.state.parcels).map(Parcel::insert);
        cx.next(Order::AwaitParcels).spawn(parcels)
    }

    async fn await_parcels(mut cx: Context<Self>) -> StepResult<Self> {
        let wanted = usize::try_from(cx.state.parcels)?;
        let Some(parcels) = cx.gather::<Ended<Parcel>>(wanted)? else {
            return Ok(cx.await_count::<Ended<Parcel>>(wanted));
        };
        if parcels.iter().any(|parcel| parcel.result().is_err()) {
            return Ok(cx.next(Order::Refund));
        }
        let cents = cx.state.cents;
        Ok(cx.done(cents))
    }

    async fn refund(cx: Context<Self>) -> Outcome<Self> {
        work(300).await;
        cx.done(0)
    }
}

/// A parcel of an order.
#[derive(Debug)]
#[durable_fsm(state = u64, output = String, queue = "parcels")]
enum Parcel {
    Pack,
    HandOver,
}

#[durable_fsm]
impl Parcel {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        work(250).await;
        cx.next_in(Parcel::HandOver, Duration::from_secs(4))
    }

    async fn hand_over(cx: Context<Self>) -> StepResult<Self> {
        work(150).await;
        if cx.id().get() % 23 == 0 {
            return Err("the carrier has lost it".into());
        }
        Ok(cx.done("handed over".to_owned()))
    }
}

/// Checks the stock, every few seconds.
#[durable_job(queue = "reports", history = "steps")]
async fn check_stock(cx: JobContext<Tick>) -> Result<String, std::io::Error> {
    work(900).await;
    Ok(format!("checked at {}", cx.state.local()))
}

/// Reports the day, each night.
#[durable_job(queue = "reports", cron = "0 3 * * *", zone = "Europe/Berlin")]
async fn daily_report(_cx: JobContext<()>) {
    work(500).await;
}

/// Stands for the work of a step.
async fn work(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

async fn start(session: &Session, orders: usize) -> Result<Engine, gen_durable::Error> {
    Engine::builder(session.pool.clone())
        .machine::<Order>()
        .machine::<Parcel>()
        .machine::<CheckStock>()
        .machine::<DailyReport>()
        .queue("default", orders)
        .queue("parcels", 4)
        .queue("reports", 1)
        .limit("bank", Limit::new().at_once(1).per(20, Duration::from_mins(1)).burst(3))
        .schedule("stock", Schedule::every(Duration::from_secs(10)), CheckStock::insert)
        .start()
        .await
}

/// Inserts orders, and pays most of them.
async fn shop(client: Client) -> Result<(), Error> {
    for number in 1.. {
        let customer = format!("customer {}", number % 5);
        let basket = Basket { number, customer, cents: 199 * number, parcels: 1 + number % 3 };
        let order = Order::insert(basket).unique_key(format!("order {number}"));
        // Some are ordered ahead.
        let order =
            if number % 11 == 0 { order.schedule_in(Duration::from_hours(2)) } else { order };
        let id = order.execute(&client).await?;
        if number % 5 != 0 {
            Order::signal_paid(id, Paid {}).execute(&client).await?;
        }
        work(if number < 40 { 60 } else { 1_500 }).await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;
    let engines = [start(&session, 6).await?, start(&session, 4).await?];
    let client = engines[0].client().clone();
    tokio::spawn(shop(client.clone()));
    let later = SystemTime::now() + Duration::from_hours(1);
    let pause = client.machine::<Parcel>().pause_step(Parcel::HandOver).until(later);
    pause.by("grace").reason("the carrier's van is broken").execute(&client).await?;

    let any_port = ([127, 0, 0, 1], 0).into();
    let options = Options::new().address(any_port).write("ada").with_states();
    let server = Server::bind(session.pool.clone(), options).await?;
    println!("the console:           {}", server.url());
    println!("a link to act, once:   {}", server.link().unwrap_or_default());
    println!("press Enter to end");
    let ended =
        tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new()));
    server.run(async { drop(ended.await) }).await?;
    for engine in engines {
        engine.shutdown().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gen_durable::testing::{Lab, PgPool};

    use super::*;

    fn basket(number: u64) -> Basket {
        Basket { number, customer: "ada".to_owned(), cents: 5, parcels: 2 }
    }

    #[gen_durable::test]
    async fn an_order_waits_for_its_parcels_and_one_that_the_bank_refuses_fails(
        pool: PgPool,
    ) -> Result<(), Error> {
        let lab = Lab::new(&pool).machine::<Order>().machine::<Parcel>();
        let mut lab = lab.limit("bank", Limit::new().at_once(1)).start().await?;
        let good = Order::insert(basket(1)).execute(&lab).await?;
        let bad = Order::insert(basket(7)).execute(&lab).await?;
        for id in [good, bad] {
            Order::signal_paid(id, Paid {}).execute(&lab).await?;
        }
        lab.run_until_idle().await?;
        lab.assert_parked(good, Order::AwaitParcels).await?;
        lab.advance(Duration::from_mins(1)).await?;
        lab.assert_done(good, &5).await?;
        lab.assert_failed(bad).await?;
        Ok(())
    }
}
