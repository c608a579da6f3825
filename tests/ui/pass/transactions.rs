//! Steps, a `handle` and a job that take a transaction, with all lints denied.

#![deny(warnings)]

use gen_durable::{Isolation, PgConnection, Steps, durable_fsm, durable_job, prelude::*};

pub struct Carrier;

#[durable_fsm(output = i64)]
pub enum Order {
    Reserve,
    Ship,
    Bill,
}

#[durable_fsm]
impl Order {
    async fn reserve(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        sqlx::query("select 1").execute(&mut *tx).await?;
        Ok(cx.next(Order::Ship))
    }

    #[step(isolation = "serializable", timeout = "1s")]
    async fn ship(
        cx: Context<Self>,
        _carrier: &Carrier,
        tx: &mut gen_durable::PgConnection,
        _bank: &String,
    ) -> Result<Outcome<Self>, sqlx::Error> {
        sqlx::query("select 1").execute(&mut *tx).await?;
        Ok(cx.next(Order::Bill))
    }

    async fn bill(cx: Context<Self>, _bank: &String) -> Outcome<Self> {
        cx.done(1)
    }

    #[step(isolation = "repeatable read")]
    async fn handle(
        cx: Context<Self>,
        error: StepError,
        _bank: &String,
        tx: &mut sqlx::PgConnection,
    ) -> StepResult<Self> {
        sqlx::query("select 1").execute(&mut *tx).await?;
        Ok(cx.stop(error))
    }
}

/// Only steps with a transaction.
#[durable_fsm(output = ())]
pub enum Single {
    Only,
}

#[durable_fsm]
impl Single {
    async fn only(cx: Context<Self>, _tx: &mut PgConnection) -> Outcome<Self> {
        cx.done(())
    }
}

#[durable_job(isolation = "repeatable read")]
pub async fn settle(
    cx: JobContext<i64>,
    _carrier: &Carrier,
    tx: &mut PgConnection,
    _bank: &String,
) -> Result<i64, sqlx::Error> {
    sqlx::query("select 1").execute(&mut *tx).await?;
    Ok(cx.state)
}

#[durable_job]
async fn plain(_: JobContext, _tx: &mut PgConnection) -> JobOutcome<()> {
    unreachable!()
}

fn main() {
    assert_eq!(Order::Reserve.transaction(), Some(Isolation::ReadCommitted));
    assert_eq!(Order::Ship.transaction(), Some(Isolation::Serializable));
    assert_eq!(Order::Bill.transaction(), None);
    assert_eq!(Order::handle_transaction(), Some(Isolation::RepeatableRead));
    assert_eq!(Single::Only.transaction(), Some(Isolation::ReadCommitted));
    assert_eq!(Settle::Run.transaction(), Some(Isolation::RepeatableRead));
    assert_eq!(Plain::Run.transaction(), Some(Isolation::ReadCommitted));
    assert_eq!(Single::handle_transaction(), None);
}
