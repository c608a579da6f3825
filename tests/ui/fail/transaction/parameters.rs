#![allow(unused)]

use gen_durable::prelude::*;
use sqlx::{Postgres, Transaction};

#[durable_fsm]
enum Order {
    Twice,
    Shared,
    Lifetime,
    Guard,
}

#[durable_fsm]
impl Order {
    async fn twice(cx: Context<Self>, tx: &mut PgConnection, more: &mut PgConnection) -> Outcome<Self> {
        cx.next(Order::Shared)
    }

    async fn shared(cx: Context<Self>, tx: &PgConnection) -> Outcome<Self> {
        cx.next(Order::Lifetime)
    }

    async fn lifetime(cx: Context<Self>, tx: &'static mut PgConnection) -> Outcome<Self> {
        cx.next(Order::Guard)
    }

    async fn guard(cx: Context<Self>, tx: &mut Transaction<'static, Postgres>) -> Outcome<Self> {
        cx.next(Order::Twice)
    }
}

fn main() {}
