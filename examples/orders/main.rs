//! An order service: an HTTP interface by axum, its own tables, and a machine for each order.
//!
//! ```text
//! cargo run --example orders                        # plays three orders, and ends
//! cargo run --example orders -- --serve 127.0.0.1:8080
//! cargo test --example orders                       # the tests, which skip the quarter of an hour
//! ```
//!
//! An order reserves stock in the service's own table, awaits its payment for a quarter of an hour,
//! charges with retries, sends a parcel for each line, and mails. If the payment does not come, if
//! the bank declines or if a parcel cannot be sent, it gives back what it took.

pub mod http;
pub mod machine;
pub mod outside;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use gen_durable::{EngineBuilder, prelude::*};
use gen_durable_examples::{Error, Options, Session};
use sqlx::PgPool;

use crate::{
    machine::{Line, Mail, NewOrder, Order, Parcel},
    outside::{Bank, Carrier, Mailer},
};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Serves HTTP on this address until Ctrl-C, instead of playing three orders.
    #[arg(long, value_name = "ADDRESS")]
    serve: Option<SocketAddr>,
}

/// Makes the service's own tables.
///
/// # Errors
///
/// The database failed.
pub async fn schema(pool: PgPool) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "create table if not exists public.stock (
             sku text primary key, available integer not null check (available >= 0)
         );
         create table if not exists public.orders (
             number bigint generated always as identity primary key, customer text not null,
             instance bigint
         );
         insert into public.stock (sku, available) values ('chair', 5), ('table', 1)
         on conflict (sku) do update set available = excluded.available",
    )
    .execute(&pool)
    .await
    .map(drop)
}

/// Adds the service's machines to an engine, or to the engine of a lab.
fn machines(
    engine: EngineBuilder,
    bank: &Bank,
    carrier: &Carrier,
    mailer: &Mailer,
) -> EngineBuilder {
    engine
        .machine::<Order>()
        .machine::<Parcel>()
        .machine::<Mail>()
        .queue("orders", 10)
        .queue("mail", 2)
        .resource(bank.clone())
        .resource(carrier.clone())
        .resource(mailer.clone())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::with(arguments.options).await?;
    schema(session.pool.clone()).await?;
    let (bank, carrier, mailer) = (Bank::default(), Carrier::default(), Mailer::default());
    let engine = Engine::builder(session.pool.clone());
    let engine = machines(engine, &bank, &carrier, &mailer).start().await?;
    let service = http::Service { pool: session.pool.clone(), client: engine.client().clone() };
    if let Some(address) = arguments.serve {
        let listener = tokio::net::TcpListener::bind(address).await?;
        println!("serving on http://{}; Ctrl-C ends it", listener.local_addr()?);
        axum::serve(listener, http::router(service))
            .with_graceful_shutdown(async {
                let _ = tokio::signal::ctrl_c().await;
            })
            .await?;
    } else {
        play(&service).await?;
    }
    engine.shutdown().await?;
    Ok(())
}

/// Plays three orders: one is paid, one is declined, and one finds no stock.
async fn play(service: &http::Service) -> Result<(), Error> {
    for (customer, sku, card) in
        [("Ada", "chair", "card-1"), ("Bob", "chair", "declined"), ("Eve", "sofa", "card-2")]
    {
        let lines = vec![Line { sku: sku.to_owned(), count: 2 }];
        let new = NewOrder { customer: customer.to_owned(), lines, cents: 19_900 };
        let order = http::place(service, new).await?;
        println!("order {} of {customer}", order.number);
        let paid = machine::Paid { card: card.to_owned() };
        let payment = Order::signal_paid(order.id, paid).dedup_key("payment-1");
        // An order without stock may have ended by now.
        let _ = payment.execute(&service.client).await;
        let end = service.client.wait(order.id, Duration::from_secs(30)).await?;
        println!("  {end:?}");
    }
    let left: Vec<(String, i32)> =
        sqlx::query_as("select sku, available from public.stock order by sku")
            .fetch_all(&service.pool)
            .await?;
    println!("in stock: {left:?}");
    assert_eq!(left, [("chair".to_owned(), 3), ("table".to_owned(), 1)]);
    Ok(())
}
