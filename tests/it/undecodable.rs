//! Signals that do not decode: a step can survive them and can discard them.

use std::time::Duration;

use gen_durable::{StepErrorKind, prelude::*};
use serde_json::json;

use crate::support::{WAIT_MAX, database, engine, row, until};

#[derive(Clone, Debug, DurableSignal)]
pub struct Paid {
    amount: i64,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Note {
    #[allow(dead_code, reason = "it is only decoded")]
    text: String,
}

/// Ends with the first payment that decodes. Its state says what it does with a bad one.
#[durable_fsm(state = String, output = i64, signals(Paid, Note))]
pub enum Order {
    Await,
}

#[durable_fsm]
impl Order {
    async fn r#await(mut cx: Context<Self>) -> StepResult<Self> {
        let plan = cx.state.clone();
        let paid = match (plan.as_str(), cx.take_signal::<Paid>()) {
            (_, Ok(paid)) => paid,
            ("discards", Err(_)) => {
                assert!(cx.discard_signal::<Paid>());
                assert!(!cx.discard_signal::<Paid>(), "the others decode");
                cx.take_signal::<Paid>()?
            }
            ("goes on", Err(_)) => return Ok(cx.done(-1)),
            ("awaits", Err(_)) => return Ok(cx.await_signal::<Note>()),
            ("stops", Err(error)) => {
                cx.discard_signal::<Note>();
                return Ok(cx.stop(error));
            }
            ("through anyhow", Err(error)) => {
                return Err(anyhow::Error::new(error).into());
            }
            (_, Err(error)) => return Err(error.into()),
        };
        match paid {
            Some(paid) => Ok(cx.done(paid.amount)),
            None => Ok(cx.await_signal::<Paid>()),
        }
    }

    async fn handle(mut cx: Context<Self>, error: StepError) -> Outcome<Self> {
        assert_eq!(error.kind(), StepErrorKind::Undecodable);
        if cx.state == "handle discards" && cx.discard_signal::<Paid>() {
            return cx.replay(Duration::ZERO);
        }
        if cx.state == "handle snoozes" && cx.discard_signal::<Paid>() {
            return cx.snooze(Duration::ZERO);
        }
        cx.stop(error)
    }
}

/// Runs an order whose inbox has a bad payment, a bad note and two good payments, in this order.
async fn order(plan: &str) -> (Result<i64, String>, crate::support::Row) {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let id = Order::insert(plan.to_owned()).execute(&client).await.unwrap();
    client.signal_by_name(id.get(), "paid", &json!({ "amount": "five" }), None).await.unwrap();
    client.signal_by_name(id.get(), "note", &json!(17), None).await.unwrap();
    for amount in [5, 6] {
        Order::signal_paid(id, Paid { amount }).execute(&client).await.unwrap();
    }
    let engine = engine(&db).machine::<Order>().start().await.unwrap();
    let result = if plan == "awaits" {
        until(db.pool(), id, "awaiting_signal").await;
        Ok(0)
    } else {
        engine.wait(id, WAIT_MAX).await.map_err(|error| error.to_string())
    };
    let row = row(db.pool(), id).await;
    engine.shutdown().await.unwrap();
    (result, row)
}

#[tokio::test(flavor = "multi_thread")]
async fn p49_a_step_that_handles_a_bad_payload_continues() {
    for (plan, amount) in
        [("discards", 5), ("handle discards", 5), ("handle snoozes", 5), ("goes on", -1)]
    {
        let (result, row) = order(plan).await;
        assert_eq!(result, Ok(amount), "{plan}");
        assert_eq!(row.inbox, 0, "{plan}: an instance that is done has no inbox");
    }
    let (_, row) = order("awaits").await;
    assert_eq!((row.inbox, row.status.as_str()), (4, "awaiting_signal"), "nothing was deleted");
}

/// The error reaches `handle` in one way or another, and nothing asks for a deletion. All signals
/// must stay in the inbox. A stop must delete only the signal that the step has discarded.
#[tokio::test(flavor = "multi_thread")]
async fn p49_nothing_is_deleted_unasked() {
    for plan in ["through anyhow", "fails"] {
        let (result, row) = order(plan).await;
        assert!(result.unwrap_err().contains("payload of signal `paid`"), "{plan}");
        assert_eq!((row.inbox, row.status.as_str()), (4, "failed"), "{plan}");
    }
    let (result, row) = order("stops").await;
    assert!(result.unwrap_err().contains("payload of signal `paid`"));
    assert_eq!(row.inbox, 3, "what was discarded is gone with the stop, and nothing else");
}

/// Panics when it is decoded.
#[derive(Debug)]
pub struct Loud;

impl serde::Serialize for Loud {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> serde::Deserialize<'de> for Loud {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("it does not want to be read")
    }
}

impl DurableSignal for Loud {
    const NAME: &'static str = "loud";
}

#[durable_fsm(output = String, signals(Loud))]
pub enum Listener {
    Hear,
}

#[durable_fsm]
impl Listener {
    async fn hear(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.count_signals::<Loud>() == 0 && cx.attempt() > 0 {
            return Ok(cx.done("quiet".to_owned()));
        }
        match cx.take_signal::<Loud>()? {
            Some(_) => Ok(cx.stop("it decodes")),
            None => Ok(cx.await_signal::<Loud>()),
        }
    }

    async fn handle(mut cx: Context<Self>, error: StepError) -> Outcome<Self> {
        assert_eq!(error.kind(), StepErrorKind::Panicked);
        assert!(cx.discard_signal::<Loud>());
        cx.replay(Duration::ZERO)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p49_a_payload_whose_reader_panics_is_discarded_as_well() {
    let db = database().await;
    let engine = engine(&db).machine::<Listener>().start().await.unwrap();
    let id = Listener::insert(()).execute(&engine).await.unwrap();
    engine.client().signal_by_name(id.get(), "loud", &json!(null), None).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), "quiet");
    engine.shutdown().await.unwrap();
}
