//! Tests of a crate that depends on `gen_durable` under another name, and on no tokio and no sqlx:
//! its tests have databases. Without the option that states the name, each use of a macro gives one
//! error.

use std::time::Duration;

use durable::{prelude::*, testing::PgPool};
use gen_durable_renamed_tests::{Checkout, Order, Paid, SendMail};

async fn mail(pool: PgPool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    SendMail::insert(Order { id: 6 }).unique_key("prepared").execute(&pool).await?;
    Ok(())
}

#[durable::test(crate = durable)]
async fn a_checkout_runs(pool: PgPool) -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder(pool).machine::<Checkout>().start().await?;
    let id = Checkout::insert(Order { id: 7 }).execute(&engine).await?;
    Checkout::signal_paid(id, Paid).execute(&engine).await?;
    assert_eq!(engine.wait(id, Duration::from_mins(1)).await?, 7);
    engine.shutdown().await?;
    Ok(())
}

#[durable::test(setup = mail, crate = durable)]
async fn a_job_of_the_setup_runs(pool: PgPool) {
    let engine = Engine::builder(pool).machine::<SendMail>().start().await.expect("it starts");
    let sent = engine.wait(SendMail::by_key("prepared"), Duration::from_mins(1)).await;
    assert_eq!(sent.expect("it runs"), 6);
    engine.shutdown().await.expect("it ends");
}

#[test]
fn p60_a_renamed_dependency_is_one_error_for_each_macro() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("fail/*.rs");
}
