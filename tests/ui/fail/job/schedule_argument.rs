//! The arguments of a scheduled job are made of a tick.

use gen_durable::prelude::*;

#[derive(DurableState)]
pub struct Mail {
    to: String,
}

#[durable_job(cron = "0 3 * * *")]
async fn send_mail(cx: JobContext<Mail>) {
    println!("{}", cx.state.to);
}

#[durable_job(every = "15m")]
async fn count(cx: JobContext<Vec<u64>>) -> usize {
    cx.state.len()
}

fn main() {}
