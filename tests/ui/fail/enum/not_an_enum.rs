use gen_durable::prelude::*;

#[durable_fsm]
struct Checkout {
    order: i64,
}

#[durable_fsm]
async fn ship(cx: Context<Machine>) -> Outcome<Machine> {
    cx.next(Machine::Pack)
}

#[durable_fsm]
mod machine {}

#[durable_fsm]
enum Machine {
    Pack,
}

#[durable_fsm]
impl Machine {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Machine::Pack)
    }
}

fn main() {}
