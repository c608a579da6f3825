use gen_durable::prelude::*;

const EMPTY: &str = "";

mod names {
    pub const LINES: &str = "a\nb";
    pub const NUMBER: u32 = 3;
}

#[durable_fsm(queue = EMPTY, name = names::LINES)]
enum Checkout {
    Go,
}

#[durable_fsm]
impl Checkout {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Go)
    }
}

#[durable_job(queue = names::NUMBER, name = MISSING)]
async fn send_mail(cx: JobContext<i64>) {
    let _ = cx;
}

#[derive(DurableSignal)]
#[durable(name = EMPTY)]
struct Paid;

fn main() {}
