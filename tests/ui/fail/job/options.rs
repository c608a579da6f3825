use gen_durable::prelude::*;

#[durable_job(state = i64, output = (), signals(Paid), retries = 5, retry(tries = 5), queue = mail)]
async fn send_mail(cx: JobContext<i64>) {
    let _ = cx;
}

fn main() {
    let _ = SendMail::insert(1);
}
