//! Raw identifiers, names in other scripts, and names given by hand.

#![allow(unused_must_use, reason = "no step goes to another one here")]

use gen_durable::prelude::*;

#[derive(Clone, DurableState)]
struct r#Order {
    r#type: String,
    größe: u32,
}

#[derive(DurableSignal)]
struct r#Yield {
    r#in: i64,
}

#[derive(DurableSignal)]
#[durable(name = "bezahlt: bar")]
struct Bezahlt;

#[durable_fsm(state = r#Order, signals(r#Yield, Bezahlt), name = "päckchen", queue = "à la carte")]
enum r#Päckchen {
    Match,
    Übergeben,
    HTTPCall,
    V2,
}

#[durable_fsm]
impl Päckchen {
    async fn r#match(mut cx: Context<Self>) -> StepResult<Self> {
        if let Some(r#yield) = cx.take_signal::<Yield>()? {
            cx.state.größe += u32::try_from(r#yield.r#in)?;
            cx.state.r#type.push('x');
        }
        Ok(cx.next(Päckchen::Übergeben))
    }

    async fn übergeben(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Bezahlt>()
    }

    async fn http_call(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Päckchen::V2)
    }

    async fn v2(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Päckchen::HTTPCall)
    }
}

fn send(id: InstanceId<Päckchen>) -> [Signal<Päckchen>; 2] {
    [Päckchen::signal_yield(id, Yield { r#in: 1 }), Päckchen::signal_bezahlt(id, Bezahlt)]
}

fn main() {
    let _ = send;
    assert_eq!(Päckchen::NAME, "päckchen");
    assert_eq!(Päckchen::QUEUE, "à la carte");
    assert_eq!(Päckchen::STEPS, ["match", "übergeben", "http_call", "v2"]);
    assert_eq!(Päckchen::SIGNALS, ["yield", "bezahlt: bar"]);
}
