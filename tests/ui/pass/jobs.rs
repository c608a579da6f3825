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

/// A constant's name as its queue's and its own.
pub mod names {
    /// A queue.
    pub const SLOW: &str = "slow";
}

/// Called like its machine would be.
#[derive(Clone, Debug, DurableState)]
pub struct Settle {
    /// A field.
    pub after: u32,
}

/// A job that polls, under another name, and knows its machine.
#[durable_job(machine = SettleJob, queue = names::SLOW, name = names::SLOW)]
pub async fn settle(cx: JobContext<Settle, SettleJob>) -> Result<JobOutcome<i64>, String> {
    let id: InstanceId<SettleJob> = cx.id();
    if cx.failures() > 2 {
        return Err("too often".to_owned());
    }
    Ok(if cx.attempt() < cx.state.after {
        let delay = std::time::Duration::from_secs(u64::from(cx.attempt()));
        cx.replay(delay)
    } else {
        cx.done(id.get())
    })
}

#[durable_job]
async fn poll(cx: JobContext) -> JobOutcome<()> {
    cx.snooze(std::time::Duration::from_secs(1))
}

#[durable_job]
async fn helped(cx: JobContext<bool>) -> JobOutcome<()> {
    help(cx)
}

fn help(cx: JobContext<bool>) -> JobOutcome<()> {
    cx.done(())
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
    assert_eq!((SettleJob::NAME, SettleJob::QUEUE), ("slow", "slow"));
    assert_eq!(graph(&SettleJob::graph()), "run replay done");
    assert_eq!(graph(&Poll::graph()), "run snooze");
    assert!(!Helped::graph().is_complete());
    assert!(Nothing::graph().is_complete());
}

/// The steps of a graph with the ways out of them.
fn graph(graph: &gen_durable::Graph) -> String {
    let words = graph.steps.iter().map(|step| {
        let edges = step.edges.iter().map(|edge| format!(" {edge:?}").to_lowercase());
        step.name.to_owned() + &edges.collect::<String>()
    });
    words.collect()
}
