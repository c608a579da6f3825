//! Jobs in all their forms, and nothing that they are made of is warned of.

#![deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub)]
#![deny(rust_2018_idioms, unused, nonstandard_style, future_incompatible, let_underscore)]

use gen_durable::prelude::*;

/// The arguments.
#[derive(Clone, Debug, DurableState)]
pub struct Mail {
    /// A field.
    pub to: String,
}

/// A resource.
#[derive(Debug)]
pub struct Mailer;

/// A public job.
#[durable_job(version = 2, queue = "mail", name = "mails", timeout = "1m", retry(jitter), crate = gen_durable)]
pub async fn send_mail(cx: JobContext<Mail>, mailer: &Mailer, log: &String) -> Result<(), std::fmt::Error> {
    if cx.attempt() > 3 {
        return Err(std::fmt::Error);
    }
    let _unused = (mailer, log);
    Ok(())
}

/// A job without anything.
#[durable_job]
async fn nothing(_: JobContext) {}

#[durable_job]
pub(crate) async fn r#match(cx: JobContext<Vec<String>>) -> Option<String> {
    cx.state.into_iter().next()
}

mod inner {
    use gen_durable::prelude::*;

    #[durable_job]
    pub(super) async fn r#in(cx: JobContext<i64>) -> i64 {
        cx.state
    }
}

fn main() {
    assert_eq!((SendMail::NAME, SendMail::VERSION), ("mails", 2));
    assert_eq!((Match::NAME, inner::In::NAME), ("match", "in"));
    let _insert = Nothing::insert(());
    let _many = Match::insert_many([vec!["a".to_owned()]]);
    assert!(SendMail::RETRY.is_some());
    assert!(Nothing::graph().is_complete());
}
