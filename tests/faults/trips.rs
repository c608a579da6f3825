//! Trips that are cancelled or killed at any moment; killed ones are retried or deleted. Each leg,
//! and the undoing after a cancel, enters itself into a book, in the transaction of its step. After
//! all faults, no leg was entered after the cancel, each cancelled trip was undone once, and the
//! history has each of these outcomes once.

use std::time::Duration;

use gen_durable::prelude::*;

/// The state of a [`Trip`].
#[derive(Clone, Debug, Default, DurableState)]
pub struct TripState {
    /// The number of steps that were committed.
    pub n: u32,
    /// The number of legs.
    pub legs: u32,
    /// The seed of its choices.
    pub seed: u32,
}

/// A signal that nobody sends.
#[derive(Clone, Debug, DurableSignal)]
pub struct Call {}

/// Rides its legs with rests in between, and is done with their number.
#[derive(Debug)]
#[durable_fsm(
    state = TripState,
    output = u32,
    signals(Call),
    on_cancel = Undo,
    history = "steps",
    retry(max_attempts = 1000, backoff = "constant", initial = "1ms")
)]
pub enum Trip {
    /// Makes an entry.
    Ride,
    /// Waits: in the queue, in a run, or parked.
    Rest,
    /// Undoes the legs.
    Undo,
}

#[durable_fsm]
impl Trip {
    #[step(timeout = "20s")]
    async fn ride(mut cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        enter(&cx, tx, "ride").await?;
        if cx.attempt() == 0 && (cx.state.seed ^ cx.state.n).is_multiple_of(13) {
            return Err(std::io::Error::other("an error on purpose").into());
        }
        cx.state.n += 1;
        let (n, legs) = (cx.state.n, cx.state.legs);
        Ok(if n < legs { cx.next(Trip::Rest) } else { cx.done(n) })
    }

    async fn rest(cx: Context<Self>) -> Outcome<Self> {
        let pause = Duration::from_millis(u64::from(cx.state.seed % 50));
        match (cx.state.seed ^ cx.state.n) % 4 {
            0 if !cx.timed_out() => cx.await_signal_for::<Call>(pause),
            1 => cx.next_in(Trip::Ride, pause),
            2 => {
                tokio::time::sleep(pause).await;
                cx.next(Trip::Ride)
            }
            _ => cx.next(Trip::Ride),
        }
    }

    #[step(timeout = "20s")]
    async fn undo(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        enter(&cx, tx, "undo").await?;
        Ok(cx.done(0))
    }
}

async fn enter(cx: &Context<Trip>, tx: &mut PgConnection, kind: &str) -> Result<(), sqlx::Error> {
    sqlx::query("insert into chaos.legs (instance, kind) values ($1, $2)")
        .bind(cx.id().get())
        .bind(kind)
        .execute(tx)
        .await?;
    Ok(())
}
