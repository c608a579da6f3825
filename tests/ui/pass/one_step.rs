//! The smallest machine.

use gen_durable::prelude::*;

#[durable_fsm]
enum Hello {
    Greet,
}

#[durable_fsm]
impl Hello {
    async fn greet(cx: Context<Self>) -> Outcome<Self> {
        cx.done("hello".into())
    }
}

fn main() {
    assert_eq!(Hello::NAME, "hello");
    assert_eq!(Hello::STEPS, ["greet"]);
}
