//! An order that spawns parcels and joins them. Each parcel enters itself into a book, in the
//! transaction of its step. After all faults, there is one entry for each parcel, and the order has
//! heard of each parcel once.

use std::collections::BTreeSet;

use gen_durable::prelude::*;

use crate::random::mix;

/// The state of an [`Order`].
#[derive(Clone, Debug, Default, DurableState)]
pub struct OrderState {
    /// The number of steps that were committed.
    pub n: u32,
    /// The number of parcels.
    pub parcels: u32,
    /// The seed of their choices.
    pub seed: u32,
}

/// Spawns its parcels, and is done when it has heard of all of them: with the number of those that
/// were sent.
#[derive(Debug)]
#[durable_fsm(state = OrderState, output = u32, signals(Ended<Parcel>))]
pub enum Order {
    /// Spawns the parcels. Some of them share a unique key, and only one of these is inserted.
    Split,
    /// Waits for all.
    Join,
    /// Ends.
    Close,
}

#[durable_fsm]
impl Order {
    async fn split(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.n += 1;
        let (id, parcels, seed) = (cx.id(), cx.state.parcels, cx.state.seed);
        let parcel = |place: u32| {
            let seed = u32::try_from(mix(u64::from(seed), u64::from(place)) >> 40).unwrap_or(0);
            let insert = Parcel::insert(ParcelState { n: 0, seed });
            match seed % 16 {
                0 => insert.unique_key(format!("parcel {} of {id}", place % 3)),
                _ => insert,
            }
        };
        cx.next(Order::Join).spawn((0..parcels).map(parcel))
    }

    async fn join(mut cx: Context<Self>) -> StepResult<Self> {
        let wanted = usize::try_from(cx.state.parcels)?;
        let Some(reports) = cx.gather::<Ended<Parcel>>(wanted)? else {
            return Ok(cx.await_count::<Ended<Parcel>>(wanted));
        };
        let (mut ended, mut sent) = (BTreeSet::new(), 0);
        for report in reports {
            match report.result() {
                Err(EndError::Taken { .. }) => continue,
                Err(EndError::Decode(why)) => return Ok(cx.stop(why)),
                Ok(one) => sent += one,
                Err(_) => {}
            }
            if !ended.insert(report.id().get()) {
                return Ok(cx.stop(format!("parcel {} was reported twice", report.id())));
            }
        }
        cx.state = OrderState { n: cx.state.n + 1, parcels: sent, ..cx.state };
        Ok(cx.next(Order::Close))
    }

    async fn close(cx: Context<Self>) -> Outcome<Self> {
        let sent = cx.state.parcels;
        cx.done(sent)
    }
}

/// The state of a [`Parcel`].
#[derive(Clone, Debug, Default, DurableState)]
pub struct ParcelState {
    /// The number of steps that were committed.
    pub n: u32,
    /// The seed of its choices.
    pub seed: u32,
}

/// Enters itself into the book, and ends: in a plain step, or in a transaction of its own.
#[derive(Debug)]
#[durable_fsm(
    state = ParcelState,
    output = u32,
    retry(max_attempts = 1000, backoff = "constant", initial = "1ms")
)]
pub enum Parcel {
    /// Makes the entry.
    Pack,
    /// Ends.
    Send,
    /// Ends in a transaction.
    Check,
    /// Ends in a transaction whose snapshot is older than the reports of other parcels.
    Audit,
}

#[durable_fsm]
impl Parcel {
    #[step(timeout = "20s")]
    #[allow(clippy::panic, reason = "a panic on purpose")]
    async fn pack(mut cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        sqlx::query("insert into chaos.parcels (instance) values ($1)")
            .bind(cx.id().get())
            .execute(tx)
            .await?;
        if cx.attempt() == 0 {
            match cx.state.seed % 23 {
                0 => return Err(std::io::Error::other("an error on purpose").into()),
                1 => panic!("a panic on purpose"),
                _ => {}
            }
        }
        cx.state.n += 1;
        Ok(match cx.state.seed % 8 {
            0 => cx.next(Parcel::Check),
            1 => cx.next(Parcel::Audit),
            _ => cx.next(Parcel::Send),
        })
    }

    async fn send(cx: Context<Self>) -> Outcome<Self> {
        end(cx)
    }

    #[step(timeout = "20s")]
    async fn check(cx: Context<Self>, _tx: &mut PgConnection) -> Outcome<Self> {
        end(cx)
    }

    #[step(isolation = "repeatable read", timeout = "20s")]
    async fn audit(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        sqlx::query("select count(*) from chaos.accounts").execute(tx).await?;
        Ok(end(cx))
    }
}

fn end(cx: Context<Parcel>) -> Outcome<Parcel> {
    if cx.state.seed.is_multiple_of(5) { cx.stop("lost on purpose") } else { cx.done(1) }
}
