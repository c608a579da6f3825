use gen_durable::prelude::*;

#[durable_fsm(output = i64)]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        let order = cx.state.order;
        cx.done(order)
    }
}

#[durable_job]
async fn send_mail(cx: JobContext) {
    println!("{}", cx.state.to);
}

fn main() {}
