use gen_durable::prelude::*;
use std::rc::Rc;

pub struct Mail;

pub struct Error;

pub struct NotSync(std::cell::Cell<u8>);

async fn wait() {}

#[durable_job]
async fn state_not_derived(cx: JobContext<Mail>) {
    let _ = cx;
}

#[durable_job]
async fn output_not_derived(cx: JobContext) -> Mail {
    let _ = cx;
    Mail
}

#[durable_job]
async fn no_error(cx: JobContext) -> Result<(), Error> {
    let _ = cx;
    Err(Error)
}

#[durable_job]
async fn not_send(cx: JobContext) {
    let shared = Rc::new(cx);
    wait().await;
    drop(shared);
}

#[durable_job]
async fn shared(cx: JobContext, resource: &NotSync) {
    let _ = (cx, resource);
}

fn main() {}
