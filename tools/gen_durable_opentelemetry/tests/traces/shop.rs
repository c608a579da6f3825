//! A web shop with two requests: one starts an order, one pays it. A layer of the router opens a
//! span for each request, as applications do.

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    middleware::{self, Next},
    response::Response,
    routing::post,
};
use gen_durable::{Client, InstanceId};
use tracing::Instrument;

use crate::machines::{Order, Paid};

pub(crate) fn shop(client: Client) -> Router {
    Router::new()
        .route("/orders", post(order))
        .route("/orders/{id}/paid", post(pay))
        .layer(middleware::from_fn(traced))
        .with_state(client)
}

async fn traced(request: Request, next: Next) -> Response {
    let name = format!("{} {}", request.method(), request.uri().path());
    let span = tracing::info_span!("request", otel.name = name);
    next.run(request).instrument(span).await
}

async fn order(State(client): State<Client>) -> Json<i64> {
    Json(Order::insert(0).execute(&client).await.expect("a database that works").into())
}

async fn pay(State(client): State<Client>, Path(id): Path<i64>) -> Json<bool> {
    let order = InstanceId::<Order>::from_raw(id);
    let paid = Order::signal_paid(order, Paid { amount: 100 });
    Json(paid.execute(&client).await.is_ok())
}
