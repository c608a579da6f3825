use gen_durable::prelude::*;

mod mails {
    use gen_durable::prelude::*;

    #[durable_job]
    async fn send_mail(cx: JobContext<i64>) {
        let _ = cx;
    }
}

fn main() {
    let _ = mails::SendMail::insert(1);
}
