use gen_durable::prelude::*;

#[durable_job]
async fn send_mail(cx: JobContext<i64, SendMail>) {
    let _ = cx;
}

#[durable_job]
async fn send_letter(cx: JobContext<i64, SendMail>) {
    let _ = cx;
}

fn main() {}
