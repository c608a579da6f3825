//! The HTTP interface of the service.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use gen_durable::{operate::OperateError, prelude::*};
use sqlx::PgPool;

use crate::machine::{Line, NewOrder, Order, OrderState, Paid};

/// The parts that a request needs.
#[derive(Clone, Debug)]
pub struct Service {
    /// The database of the service, which is that of the engine too.
    pub pool: PgPool,
    /// Inserts and signals.
    pub client: Client,
}

/// An order that was placed.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// Its number, which the customer knows.
    pub number: i64,
    /// Its instance.
    pub id: InstanceId<Order>,
}

/// Returns the routes of the service.
pub fn router(service: Service) -> Router {
    Router::new()
        .route("/orders", post(post_order))
        .route("/orders/{number}", get(get_order).delete(delete_order))
        .route("/orders/{number}/payment", post(post_payment))
        .with_state(service)
}

/// Any error.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Places an order: a row in the service's own table and an instance, in one transaction.
///
/// # Errors
///
/// The database failed.
pub async fn place(service: &Service, new: NewOrder) -> Result<Placed, BoxError> {
    let mut tx = service.pool.begin().await?;
    let insert = "insert into public.orders (customer) values ($1) returning number";
    let number: i64 = sqlx::query_scalar(insert).bind(&new.customer).fetch_one(&mut *tx).await?;
    let state =
        OrderState { number, new, reserved: false, sent: Vec::new(), card: None, reason: None };
    let id = Order::insert(state).execute(&mut *tx).await?;
    let link = "update public.orders set instance = $2 where number = $1";
    sqlx::query(link).bind(number).bind(id).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Placed { number, id })
}

/// Returns the instance of an order.
async fn instance(service: &Service, number: i64) -> Result<Option<InstanceId<Order>>, BoxError> {
    let find = "select instance from public.orders where number = $1";
    let id = sqlx::query_scalar(find).bind(number).fetch_optional(&service.pool).await?;
    Ok(id.map(InstanceId::from_raw))
}

#[derive(Debug, serde::Deserialize)]
struct OrderRequest {
    customer: String,
    lines: Vec<Line>,
    cents: i64,
}

async fn post_order(
    State(service): State<Service>,
    Json(OrderRequest { customer, lines, cents }): Json<OrderRequest>,
) -> Result<Response, Failed> {
    if lines.is_empty() || lines.iter().any(|line| line.count < 1) || cents < 0 {
        let why = "an order has lines, at least one of each thing, and a price";
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, why).into_response());
    }
    let placed = place(&service, NewOrder { customer, lines, cents }).await?;
    let location = [("location", format!("/orders/{}", placed.number))];
    let body = Json(serde_json::json!({ "number": placed.number }));
    Ok((StatusCode::ACCEPTED, location, body).into_response())
}

async fn get_order(
    State(service): State<Service>,
    Path(number): Path<i64>,
) -> Result<Response, Failed> {
    let Some(id) = instance(&service, number).await? else {
        return Ok(StatusCode::NOT_FOUND.into_response());
    };
    let Some(order) = service.client.find(id).await? else {
        return Ok(StatusCode::GONE.into_response());
    };
    let status = order.status.to_string();
    let body = serde_json::json!({ "number": number, "status": status, "receipt": order.result });
    Ok(Json(body).into_response())
}

#[derive(Debug, serde::Deserialize)]
struct PaymentRequest {
    card: String,
    /// The customer's own number of the payment. A request that is sent twice pays once.
    payment: String,
}

async fn post_payment(
    State(service): State<Service>,
    Path(number): Path<i64>,
    Json(PaymentRequest { card, payment }): Json<PaymentRequest>,
) -> Result<Response, Failed> {
    let Some(id) = instance(&service, number).await? else {
        return Ok(StatusCode::NOT_FOUND.into_response());
    };
    let paid = Order::signal_paid(id, Paid { card }).dedup_key(payment);
    Ok(match paid.execute(&service.client).await {
        Ok(_) => StatusCode::ACCEPTED.into_response(),
        Err(SignalError::Database(error)) => return Err(error.into()),
        // The order has ended.
        Err(_) => StatusCode::CONFLICT.into_response(),
    })
}

async fn delete_order(
    State(service): State<Service>,
    Path(number): Path<i64>,
) -> Result<Response, Failed> {
    let Some(id) = instance(&service, number).await? else {
        return Ok(StatusCode::NOT_FOUND.into_response());
    };
    let cancel = service.client.instance(id).cancel("the customer cancelled it");
    Ok(match cancel.execute(&service.client).await {
        Ok(_) => StatusCode::ACCEPTED.into_response(),
        Err(OperateError::Database(error)) => return Err(error.into()),
        // The order has ended.
        Err(_) => StatusCode::CONFLICT.into_response(),
    })
}

/// Something failed that is not the customer's fault. The text goes to the log, and not to the
/// customer.
#[derive(Debug)]
pub struct Failed(BoxError);

impl<E: Into<BoxError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        eprintln!("a request failed: {}", self.0);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}
