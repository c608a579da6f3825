use std::time::Duration;

use gen_durable::prelude::*;

#[derive(DurableState)]
struct SendMail {
    to: String,
}

#[durable_job]
async fn send_mail(cx: JobContext<SendMail>) {
    println!("{}", cx.state.to);
}

#[derive(DurableState)]
struct Receipts(Vec<i64>);

#[durable_job(machine = Receipts)]
async fn collect(cx: JobContext<i64>) -> Result<Option<Receipts>, std::io::Error> {
    Ok(Some(Receipts(vec![cx.state])))
}

#[durable_job(machine = "Mailing")]
async fn mailing(cx: JobContext<i64>) {
    let _ = cx;
}

// None is reported: a path leads elsewhere, and an id or a user's generic type names the machine.
mod arguments {
    #[derive(gen_durable::DurableState)]
    pub struct Remind(pub i64);
}

#[durable_job]
async fn remind(cx: JobContext<arguments::Remind>) -> Option<InstanceId<Remind>> {
    let _ = cx;
    None
}

pub struct Registry<M>(std::marker::PhantomData<M>);

#[durable_job]
async fn register(cx: JobContext<i64>, registry: &Registry<Register>) {
    let _ = (cx, &registry.0);
}

async fn send(engine: &Engine) -> Result<(), Box<dyn std::error::Error>> {
    let mail = SendMail { to: "ada".to_owned() };
    let id = SendMail::insert(mail).unique_key("ada").execute(engine).await?;
    engine.wait(id, Duration::from_secs(1)).await?;
    Ok(())
}

fn main() {}
