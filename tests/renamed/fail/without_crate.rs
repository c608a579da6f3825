use durable::prelude::*;

#[derive(Clone, DurableState)]
pub struct Order {
    id: i64,
}

#[derive(DurableSignal)]
pub struct Paid {
    amount: i64,
}

#[durable_fsm(state = Order, output = i64, signals(Paid))]
pub enum Checkout {
    AwaitPay,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(paid) = cx.take_signal::<Paid>()? else {
            return Ok(cx.await_signal::<Paid>());
        };
        cx.state.id += paid.amount;
        Ok(cx.next(Checkout::Ship))
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        let id = cx.state.id;
        cx.done(id)
    }
}

#[durable_job]
pub async fn send_mail(cx: JobContext<Order>) -> i64 {
    cx.state.id
}

async fn start(client: &Client, order: Order) -> Result<(), InsertError> {
    SendMail::insert(order.clone()).execute(client).await.map_err(InsertError::from)?;
    Checkout::insert(order).unique_key("a").execute(client).await.map_err(InsertError::from)?;
    Ok(())
}

fn main() {}
