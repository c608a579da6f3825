//! The machine of an order, with its parcels and mails.

use std::time::Duration;

use gen_durable::prelude::*;

use crate::outside::{Bank, BankError, Carrier, Mailer};

/// The time that a customer has to pay.
pub const PAY_WITHIN: Duration = Duration::from_mins(15);
/// The runs of a step that may fail, one after the other.
const TRIES: u32 = 5;

/// A line of an order.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub struct Line {
    /// The name of the thing.
    pub sku: String,
    /// The number of them.
    pub count: i32,
}

/// An order as a customer makes it.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub struct NewOrder {
    /// The customer.
    pub customer: String,
    /// The things that are ordered.
    pub lines: Vec<Line>,
    /// The price of all of them.
    pub cents: i64,
}

/// The state of an order.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub struct OrderState {
    /// The number in the table of orders.
    pub number: i64,
    /// The order as the customer made it.
    pub new: NewOrder,
    /// True while things are taken out of the stock for it.
    #[serde(default)]
    pub reserved: bool,
    /// The parcels that are with the carrier, if others could not be sent.
    #[serde(default)]
    pub sent: Vec<InstanceId<Parcel>>,
    /// The card that pays; none before the payment.
    #[serde(default)]
    pub card: Option<String>,
    /// The reason for which the order is called off; none before.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The customer has paid with this card.
#[derive(Clone, Debug, DurableSignal)]
pub struct Paid {
    /// The card.
    pub card: String,
}

/// The end of an order.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub enum Receipt {
    /// All parcels are on their way.
    Shipped {
        /// The number of parcels.
        parcels: usize,
    },
    /// Nothing was sold, and nothing is reserved or charged any more.
    CalledOff {
        /// The reason.
        reason: String,
    },
}

/// An order.
#[derive(Debug)]
#[durable_fsm(queue = "orders", state = OrderState, output = Receipt,
              signals(Paid, Ended<Parcel>), on_cancel = Refund)]
pub enum Order {
    /// Takes what is ordered out of the stock.
    Reserve,
    /// Waits for the payment.
    AwaitPay,
    /// Charges the card.
    Charge,
    /// Sends a parcel for each line.
    Ship,
    /// Waits for all parcels.
    Join,
    /// Takes the parcels and the charge back. A cancel leads here too.
    Refund,
    /// Puts what was reserved back into the stock.
    Release,
}

#[durable_fsm]
impl Order {
    async fn reserve(mut cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        for line in &cx.state.new.lines {
            let take = "update public.stock set available = available - $2
                        where sku = $1 and available >= $2";
            let taken = sqlx::query(take).bind(&line.sku).bind(line.count).execute(&mut *tx);
            if taken.await?.rows_affected() == 0 {
                // The error rolls back what other lines have taken, and `handle` calls it off.
                return Err(SoldOut(line.sku.clone()).into());
            }
        }
        cx.state.reserved = true;
        Ok(cx.next(Order::AwaitPay))
    }

    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        if let Some(paid) = cx.take_signal::<Paid>()? {
            cx.state.card = Some(paid.card);
            return Ok(cx.next(Order::Charge));
        }
        if cx.timed_out() {
            cx.state.reason = Some("it was not paid in time".to_owned());
            return Ok(cx.next(Order::Release));
        }
        Ok(cx.await_signal_for::<Paid>(PAY_WITHIN))
    }

    async fn charge(cx: Context<Self>, bank: &Bank) -> StepResult<Self> {
        let card = cx.state.card.as_deref().unwrap_or_default();
        bank.charge(cx.id(), card, cx.state.new.cents)?;
        Ok(cx.next(Order::Ship))
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        let parcels = Parcel::insert_many(cx.state.new.lines.clone());
        cx.next(Order::Join).spawn(parcels)
    }

    async fn join(mut cx: Context<Self>) -> StepResult<Self> {
        let parcels = cx.state.new.lines.len();
        let Some(ended) = cx.gather::<Ended<Parcel>>(parcels)? else {
            return Ok(cx.await_count::<Ended<Parcel>>(parcels));
        };
        let sent = ended.iter().filter(|parcel| parcel.result().is_ok());
        cx.state.sent = sent.map(Ended::id).collect();
        let lost = parcels - cx.state.sent.len();
        if lost > 0 {
            cx.state.reason = Some(format!("{lost} of {parcels} parcels could not be sent"));
            return Ok(cx.next(Order::Refund));
        }
        let mail = Mail::insert(format!("order {} is on its way", cx.state.number));
        Ok(cx.done(Receipt::Shipped { parcels }).insert(mail))
    }

    async fn refund(cx: Context<Self>, bank: &Bank, carrier: &Carrier) -> StepResult<Self> {
        for parcel in &cx.state.sent {
            carrier.take_back(*parcel);
        }
        bank.refund(cx.id())?;
        Ok(cx.next(Order::Release))
    }

    async fn release(mut cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        // A cancel may come before anything was reserved.
        for line in cx.state.new.lines.iter().filter(|_| cx.state.reserved) {
            let give = "update public.stock set available = available + $2 where sku = $1";
            sqlx::query(give).bind(&line.sku).bind(line.count).execute(&mut *tx).await?;
        }
        let reason = cx.state.reason.take().unwrap_or_else(|| "it was cancelled".to_owned());
        let mail = Mail::insert(format!("order {} is off: {reason}", cx.state.number));
        Ok(cx.done(Receipt::CalledOff { reason }).insert(mail))
    }

    async fn handle(mut cx: Context<Self>, error: StepError) -> Outcome<Self> {
        if let Some(sold_out) = error.downcast_ref::<SoldOut>() {
            let reason = sold_out.to_string();
            return cx.done(Receipt::CalledOff { reason });
        }
        let declined = error.downcast_ref::<BankError>() == Some(&BankError::Declined);
        if !declined && cx.failures() + 1 < TRIES {
            let pause = Duration::from_secs(1 << cx.failures());
            return cx.replay(pause);
        }
        if matches!(cx.step(), Order::Refund | Order::Release) {
            // Nothing makes up for these. A person looks, and retries.
            return cx.stop(error);
        }
        cx.state.reason = Some(error.to_string());
        // A charge that failed may have been made all the same.
        cx.next(Order::Refund)
    }
}

/// There is not enough of a thing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{0}` is sold out")]
pub struct SoldOut(pub String);

/// A parcel with one line of an order.
#[derive(Debug)]
#[durable_fsm(queue = "orders", state = Line, output = ())]
pub enum Parcel {
    /// Hands it to the carrier.
    Send,
}

#[durable_fsm]
impl Parcel {
    async fn send(cx: Context<Self>, carrier: &Carrier) -> StepResult<Self> {
        carrier.carry(cx.id(), &cx.state.sku, cx.state.count)?;
        Ok(cx.done(()))
    }
}

/// Sends a mail.
#[durable_job(queue = "mail")]
pub async fn mail(cx: JobContext<String>, mailer: &Mailer) {
    mailer.send(&cx.state);
}
