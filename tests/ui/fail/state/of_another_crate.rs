use std::net::IpAddr;

use gen_durable::prelude::*;

#[durable_fsm(state = IpAddr, output = Vec<std::time::Instant>, signals(IpAddr))]
enum Ping {
    Send,
}

#[durable_fsm]
impl Ping {
    async fn send(cx: Context<Self>) -> Outcome<Self> {
        cx.done(Vec::new())
    }
}

fn main() {}
