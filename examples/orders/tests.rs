//! The tests of the service: steps without a database, orders in a lab, requests, explorations.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use gen_durable::testing::{Lab, LabError, PgPool, StepTest, TestResult};
use tower::ServiceExt as _;

use crate::{
    http::{self, Placed, Service},
    machine::{Line, NewOrder, Order, OrderState, PAY_WITHIN, Paid, Parcel, Receipt},
    machines,
    outside::{Bank, BankError, Carrier, Mailer},
    schema,
};

/// The service in a lab, and what is outside of it.
struct Shop {
    lab: Lab,
    service: Service,
    bank: Bank,
    carrier: Carrier,
    mailer: Mailer,
}

impl Shop {
    async fn open(pool: &PgPool) -> Result<Self, LabError> {
        let (bank, carrier, mailer) = (Bank::default(), Carrier::default(), Mailer::default());
        let lab = Lab::new(pool).engine(|engine| machines(engine, &bank, &carrier, &mailer));
        let lab = lab.start().await?;
        let service = Service { pool: pool.clone(), client: lab.client().clone() };
        Ok(Self { lab, service, bank, carrier, mailer })
    }

    async fn order(&self, lines: &[(&str, i32)]) -> Placed {
        http::place(&self.service, new_order(lines)).await.expect("the order is placed")
    }

    async fn pay(&self, order: &Placed, card: &str) -> TestResult {
        let paid = Order::signal_paid(order.id, Paid { card: card.to_owned() });
        paid.dedup_key("payment").execute(&self.lab).await?;
        Ok(())
    }

    async fn stock(&self, sku: &str) -> Result<i32, sqlx::Error> {
        let stock = "select available from public.stock where sku = $1";
        sqlx::query_scalar(stock).bind(sku).fetch_one(&self.service.pool).await
    }
}

fn new_order(lines: &[(&str, i32)]) -> NewOrder {
    let lines =
        lines.iter().map(|(sku, count)| Line { sku: (*sku).to_owned(), count: *count }).collect();
    NewOrder { customer: "Ada".to_owned(), lines, cents: 19_900 }
}

fn state(lines: &[(&str, i32)]) -> OrderState {
    OrderState {
        number: 7,
        new: new_order(lines),
        reserved: true,
        sent: Vec::new(),
        card: None,
        reason: None,
    }
}

fn called_off(reason: &str) -> Receipt {
    Receipt::CalledOff { reason: reason.to_owned() }
}

#[tokio::test]
async fn a_payment_leads_to_the_charge_and_its_lack_to_the_release() {
    let wait = || StepTest::at(Order::AwaitPay).state(state(&[("chair", 2)]));
    let run = wait().signal(Paid { card: "card-1".to_owned() }).run().await;
    run.assert_next(Order::Charge);
    assert_eq!(run.state().card.as_deref(), Some("card-1"));
    assert_eq!(wait().run().await.assert_awaits::<Paid>(), Some(PAY_WITHIN));
    wait().timed_out().run().await.assert_next(Order::Release);
}

#[tokio::test]
async fn a_busy_bank_leads_to_a_retry_and_a_declined_card_to_a_refund() {
    let charge = || StepTest::at(Order::Charge).state(state(&[("chair", 2)]));
    let run = charge().failures(2).failed_with(BankError::Busy).run().await;
    assert_eq!(run.assert_repeats(), Duration::from_secs(4));
    charge().failed_with(BankError::Declined).run().await.assert_next(Order::Refund);
    charge().failures(4).failed_with(BankError::Busy).run().await.assert_next(Order::Refund);
}

#[tokio::test]
async fn each_line_is_a_parcel() {
    let run = StepTest::at(Order::Ship).state(state(&[("chair", 2), ("lamp", 1)])).run().await;
    run.assert_next(Order::Join);
    let parcels = run.inserts::<Parcel>();
    assert_eq!(parcels.iter().map(|parcel| parcel.state.count).collect::<Vec<_>>(), [2, 1]);
    assert!(parcels.iter().all(|parcel| parcel.reports));
}

#[gen_durable::test(setup = schema)]
async fn an_order_that_is_paid_is_shipped_once(pool: PgPool) -> TestResult {
    let mut shop = Shop::open(&pool).await?;
    // Every step runs twice, as if each first run had met a crash.
    shop.lab.run_each_step_twice();
    let order = shop.order(&[("chair", 2)]).await;
    shop.lab.run_until_idle().await?;
    shop.lab.assert_parked(order.id, Order::AwaitPay).await?;
    assert_eq!(shop.stock("chair").await?, 3);
    shop.pay(&order, "card-1").await?;
    shop.lab.run_until_idle().await?;
    shop.lab.assert_done(order.id, &Receipt::Shipped { parcels: 1 }).await?;
    assert_eq!((shop.bank.sum(), shop.carrier.carried()), (19_900, 2));
    assert_eq!(shop.mailer.sent(), [format!("order {} is on its way", order.number)]);
    Ok(())
}

#[gen_durable::test(setup = schema)]
async fn an_order_that_nobody_pays_is_called_off_after_a_quarter_of_an_hour(
    pool: PgPool,
) -> TestResult {
    let mut shop = Shop::open(&pool).await?;
    let order = shop.order(&[("chair", 5)]).await;
    shop.lab.advance(Duration::from_secs(14 * 60 + 59)).await?;
    shop.lab.assert_parked(order.id, Order::AwaitPay).await?;
    assert_eq!(shop.stock("chair").await?, 0);
    shop.lab.advance(Duration::from_secs(1)).await?;
    shop.lab.assert_done(order.id, &called_off("it was not paid in time")).await?;
    assert_eq!(shop.stock("chair").await?, 5);
    Ok(())
}

#[gen_durable::test(setup = schema)]
async fn a_bank_that_is_busy_for_long_loses_the_order_and_nothing_else(pool: PgPool) -> TestResult {
    let mut shop = Shop::open(&pool).await?;
    shop.bank.be_busy(5);
    let order = shop.order(&[("chair", 1)]).await;
    shop.pay(&order, "card-1").await?;
    let tally = shop.lab.advance(Duration::from_mins(1)).await?;
    assert_eq!((tally.done, tally.failed), (2, 0), "the order, and its mail");
    shop.lab.assert_done(order.id, &called_off("the bank's line was busy")).await?;
    assert_eq!((shop.stock("chair").await?, shop.bank.sum()), (5, 0));
    Ok(())
}

#[gen_durable::test(setup = schema)]
async fn a_parcel_that_cannot_be_sent_takes_the_order_back(pool: PgPool) -> TestResult {
    let mut shop = Shop::open(&pool).await?;
    let order = shop.order(&[("chair", 1), ("table", 1)]).await;
    shop.pay(&order, "card-1").await?;
    shop.lab.run_until_idle().await?;
    shop.lab.assert_done(order.id, &called_off("1 of 2 parcels could not be sent")).await?;
    assert_eq!((shop.stock("chair").await?, shop.stock("table").await?), (5, 1));
    assert_eq!((shop.bank.sum(), shop.carrier.carried()), (0, 0));
    Ok(())
}

/// A cancel that comes before the first step gives nothing back, as nothing was taken.
#[gen_durable::test(setup = schema)]
async fn an_order_that_is_cancelled_at_once_leaves_the_stock_alone(pool: PgPool) -> TestResult {
    let mut shop = Shop::open(&pool).await?;
    let order = shop.order(&[("chair", 2)]).await;
    shop.service.client.instance(order.id).cancel("a mistake").execute(&shop.lab).await?;
    shop.lab.run_until_idle().await?;
    shop.lab.assert_done(order.id, &called_off("it was cancelled")).await?;
    assert_eq!(shop.stock("chair").await?, 5);
    Ok(())
}

/// Whatever the order of the steps, and whenever the process crashes, the books are right.
#[gen_durable::test(setup = schema)]
async fn the_books_are_right_after_any_crash(pool: PgPool) -> TestResult {
    Lab::explore(&pool, 1, async |pool| {
        let mut shop = Shop::open(&pool).await?;
        let shipped = shop.order(&[("chair", 1)]).await;
        let taken_back = shop.order(&[("chair", 1), ("table", 1)]).await;
        shop.pay(&shipped, "card-1").await?;
        shop.pay(&taken_back, "card-2").await?;
        shop.lab.run_until_idle().await?;
        shop.lab.assert_done(shipped.id, &Receipt::Shipped { parcels: 1 }).await?;
        assert_eq!((shop.stock("chair").await?, shop.stock("table").await?), (4, 1));
        assert_eq!((shop.bank.sum(), shop.carrier.carried()), (19_900, 1));
        Ok(())
    })
    .courses(4)
    .await?;
    Ok(())
}

#[gen_durable::test(setup = schema)]
async fn a_customer_orders_pays_looks_and_cancels(pool: PgPool) -> TestResult {
    let mut shop = Shop::open(&pool).await?;
    let router = http::router(shop.service.clone());
    let ask = async |method: &str, path: &str, body: serde_json::Value| {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = request.body(body).expect("a request");
        let response = router.clone().oneshot(request).await.expect("an answer");
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        let body = serde_json::from_slice(&body).unwrap_or(serde_json::Value::Null);
        (status, body)
    };
    let null = serde_json::Value::Null;
    let lines = serde_json::json!([{ "sku": "chair", "count": 2 }]);
    let order = serde_json::json!({ "customer": "Ada", "lines": lines, "cents": 19_900 });
    let nothing = serde_json::json!({ "customer": "Ada", "lines": [], "cents": 0 });
    let (status, _) = ask("POST", "/orders", nothing).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, first) = ask("POST", "/orders", order.clone()).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let (_, second) = ask("POST", "/orders", order).await;
    shop.lab.run_until_idle().await?;
    let path = |order: &serde_json::Value| format!("/orders/{}", order["number"]);
    let (status, seen) = ask("GET", &path(&first), null.clone()).await;
    assert_eq!((status, &seen["status"]), (StatusCode::OK, &"awaiting_signal".into()));
    // The request for the payment is sent twice.
    let payment = serde_json::json!({ "card": "card-1", "payment": "p-1" });
    for _ in 0..2 {
        let paid = ask("POST", &format!("{}/payment", path(&first)), payment.clone()).await;
        assert_eq!(paid.0, StatusCode::ACCEPTED);
    }
    assert_eq!(ask("DELETE", &path(&second), null.clone()).await.0, StatusCode::ACCEPTED);
    shop.lab.run_until_idle().await?;
    let (_, seen) = ask("GET", &path(&first), null.clone()).await;
    assert_eq!(seen["receipt"], serde_json::json!({ "Shipped": { "parcels": 1 } }));
    let (_, seen) = ask("GET", &path(&second), null.clone()).await;
    assert_eq!(
        seen["receipt"],
        serde_json::json!({ "CalledOff": { "reason": "it was cancelled" } })
    );
    assert_eq!((shop.stock("chair").await?, shop.bank.sum()), (3, 19_900));
    assert_eq!(ask("DELETE", &path(&first), null.clone()).await.0, StatusCode::CONFLICT);
    assert_eq!(ask("GET", "/orders/999", null).await.0, StatusCode::NOT_FOUND);
    Ok(())
}
