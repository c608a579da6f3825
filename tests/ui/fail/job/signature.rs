use gen_durable::prelude::*;

pub struct Mailer;

#[derive(DurableState)]
pub struct Mail;

#[durable_job]
fn not_async(cx: JobContext<Mail>) {
    let _ = cx;
}

#[durable_job]
async fn borrowed(cx: &JobContext<Mail>) {
    let _ = cx;
}

#[durable_job]
async fn of_a_machine(cx: Context<Self>) {
    let _ = cx;
}

#[durable_job]
async fn without_context(mail: Mail) {
    let _ = mail;
}

#[durable_job]
async fn without_anything() {}

#[durable_job]
async fn generic<T>(cx: JobContext<Mail>) {
    let _ = cx;
}

#[durable_job]
async fn by_value(cx: JobContext<Mail>, mailer: Mailer) {
    let _ = (cx, mailer);
}

#[durable_job]
async fn unknown_result(cx: JobContext<Mail>) -> std::fmt::Result {
    let _ = cx;
    Ok(())
}

#[durable_job]
async fn self_(cx: JobContext<Mail>) {
    let _ = cx;
}

#[durable_job]
struct Job;

#[durable_fsm]
async fn machine(cx: JobContext<Mail>) {
    let _ = cx;
}

fn main() {}
