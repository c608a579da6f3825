//! A machine whose steps keep books in tables of their own, in the transactions that commit their
//! outcomes. The books are an oracle for these steps: after all faults, there is one entry for each
//! committed step.

use std::time::Duration;

use gen_durable::prelude::*;

use crate::random::mix;

/// The state of a [`Booker`].
#[derive(Clone, Debug, Default, DurableState)]
pub struct BookerState {
    /// The number of steps that were committed.
    pub n: u32,
    /// The number of entries to make.
    pub entries: u32,
    /// The seed of its choices.
    pub seed: u32,
}

/// Makes entries, at two isolation levels, with errors and panics in between.
#[derive(Debug)]
#[durable_fsm(
    state = BookerState,
    output = u32,
    retry(max_attempts = 1000, backoff = "constant", initial = "1ms")
)]
pub enum Booker {
    /// Makes an entry.
    Book,
    /// Makes an entry, after a look at all accounts.
    Check,
    /// Ends.
    Close,
}

#[durable_fsm]
impl Booker {
    #[step(timeout = "20s")]
    async fn book(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        enter(cx, tx, Booker::Check).await
    }

    #[step(isolation = "serializable", timeout = "20s")]
    async fn check(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        let _: Option<i64> = sqlx::query_scalar("select sum(balance)::bigint from chaos.accounts")
            .fetch_one(&mut *tx)
            .await?;
        enter(cx, tx, Booker::Book).await
    }

    async fn close(cx: Context<Self>) -> Outcome<Self> {
        let n = cx.state.n;
        cx.done(n)
    }
}

/// Makes an entry and moves an account that few instances share.
#[allow(clippy::panic, reason = "a panic on purpose")]
async fn enter(mut cx: Context<Booker>, tx: &mut PgConnection, next: Booker) -> StepResult<Booker> {
    let choice = mix(u64::from(cx.state.seed), u64::from(cx.state.n));
    sqlx::query("insert into chaos.book (instance, n) values ($1, $2)")
        .bind(cx.id().get())
        .bind(i64::from(cx.state.n))
        .execute(&mut *tx)
        .await?;
    tokio::time::sleep(Duration::from_millis(choice % 8)).await;
    sqlx::query("update chaos.accounts set balance = balance + 1 where id = $1")
        .bind(i64::try_from(choice % 16).unwrap_or(0))
        .execute(&mut *tx)
        .await?;
    if cx.attempt() == 0 {
        match choice % 11 {
            0 => return Err(std::io::Error::other("an error on purpose").into()),
            1 => panic!("a panic on purpose"),
            _ => {}
        }
    }
    cx.state.n += 1;
    Ok(if cx.state.n >= cx.state.entries { cx.next(Booker::Close) } else { cx.next(next) })
}
