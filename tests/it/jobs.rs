//! Jobs: machines of one step that are written as a function.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gen_durable::{Status, graph::Edge, prelude::*};
use serde_json::json;

use crate::support::{WAIT_MAX, database, engine, row, until};

#[derive(Clone, Debug, DurableState)]
pub struct Mail {
    to: String,
    fails: u32,
}

/// Counts the mails that are sent.
#[derive(Clone, Debug, Default)]
pub struct Mailer(Arc<AtomicU32>);

/// Sends a mail.
#[durable_job(
    queue = "mail",
    timeout = "1h",
    retry(max_attempts = 3, backoff = "constant", initial = "1ms")
)]
pub async fn send_mail(
    mut cx: JobContext<Mail>,
    mailer: &Mailer,
) -> Result<String, std::io::Error> {
    assert_ne!(cx.state.to, "panic", "a panic");
    if cx.attempt() < cx.state.fails {
        return Err(std::io::Error::other("busy"));
    }
    mailer.0.fetch_add(1, Ordering::Relaxed);
    cx.state.to.push_str(" and more");
    Ok(format!("{} to {}: {:?}", cx.queue(), cx.state.to, cx.partition_key()))
}

/// A job without arguments, without a `Result`, and with nothing to await.
#[durable_job]
async fn nothing(_cx: JobContext) {}

/// A job with its own version and name. It may return any error type that a step may return.
#[durable_job(version = 3, name = "other")]
async fn third(cx: JobContext<u32>) -> anyhow::Result<Vec<i64>> {
    anyhow::ensure!(cx.state > 0, "nothing to do");
    Ok(vec![cx.id().get()])
}

#[test]
fn a_job_is_a_machine_called_like_its_function() {
    assert_eq!((SendMail::NAME, SendMail::QUEUE, SendMail::VERSION), ("send_mail", "mail", 1));
    assert_eq!(SendMail::STEPS, ["run"]);
    assert_eq!(SendMail::SIGNALS, [""; 0]);
    assert_eq!((Third::NAME, Third::QUEUE, Third::VERSION), ("other", "default", 3));
    let takes: Vec<_> = SendMail::requirements().iter().map(|takes| takes.type_name).collect();
    assert_eq!(takes, [std::any::type_name::<Mailer>()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_and_is_tried_again() {
    let db = database().await;
    let mailer = Mailer::default();
    let engine = engine(&db)
        .machine::<SendMail>()
        .machine::<Nothing>()
        .machine::<Third>()
        .queue("mail", 2)
        .resource(mailer.clone())
        .start()
        .await
        .unwrap();
    let mail = |to: &str, fails| Mail { to: to.to_owned(), fails };
    let id = SendMail::insert(mail("ada", 2)).partition_key("ada").execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), "mail to ada and more: Some(\"ada\")");
    let ended = row(db.pool(), id).await;
    assert_eq!(ended.state, json!({"to": "ada", "fails": 2}), "the arguments stay as they were");
    assert_eq!(ended.attempt, 2);
    for (to, error) in
        [("bob", "busy"), ("panic", "panicked: assertion `left != right` failed: a panic")]
    {
        let id = SendMail::insert(mail(to, 3)).execute(&engine).await.unwrap();
        let row = until(db.pool(), id, "failed").await;
        assert!(row.last_error.as_deref().unwrap().starts_with(error), "{row:?}");
        assert_eq!((row.attempt, &row.state["to"]), (2, &json!(to)));
    }
    let inserted =
        SendMail::insert_many([mail("c", 0), mail("d", 0)]).execute(&engine).await.unwrap();
    for id in inserted {
        engine.wait(id.unwrap(), WAIT_MAX).await.unwrap();
    }
    assert_eq!(mailer.0.load(Ordering::Relaxed), 3);

    let id = Nothing::insert(()).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    let id = Third::insert(1).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), [id.get()]);
    let id = Third::insert(0).execute(&engine).await.unwrap();
    let error = engine.wait(id, WAIT_MAX).await.unwrap_err();
    assert_eq!(error.to_string(), format!("instance {id} failed: nothing to do"));
    engine.shutdown().await.unwrap();
}

/// Arguments that already have the name that the job's machine would get.
#[derive(Clone, Debug, DurableState)]
pub struct Settle {
    snoozes: u32,
}

const SLOW: &str = "slow";

/// Snoozes as often as its arguments say, replays once, and fails in every second run.
#[durable_job(
    machine = SettleJob,
    queue = SLOW,
    retry(max_attempts = 2, backoff = "constant", initial = "1ms")
)]
pub async fn settle(
    cx: JobContext<Settle>,
    runs: &AtomicU32,
) -> Result<JobOutcome<(u32, u32)>, std::io::Error> {
    let run = runs.fetch_add(1, Ordering::SeqCst);
    if run % 2 == 1 {
        return Err(std::io::Error::other("busy"));
    }
    if run < cx.state.snoozes {
        return Ok(cx.snooze(Duration::from_millis(1)));
    }
    if run == cx.state.snoozes {
        return Ok(cx.replay(Duration::from_millis(1)));
    }
    let counts = (cx.attempt(), cx.failures());
    Ok(cx.done(counts))
}

#[tokio::test(flavor = "multi_thread")]
async fn p60_a_job_snoozes_and_replays_and_its_failures_are_counted_in_a_row() {
    assert_eq!((SettleJob::NAME, SettleJob::QUEUE), ("settle", "slow"));
    let edges = &SettleJob::graph().steps[0].edges;
    assert!(edges.contains(&Edge::Snooze) && edges.contains(&Edge::Replay), "{edges:?}");
    let db = database().await;
    let engine = engine(&db).machine::<SettleJob>().queue("slow", 1).resource(AtomicU32::new(0));
    let engine = engine.start().await.unwrap();
    let id = SettleJob::insert(Settle { snoozes: 10 }).execute(&engine).await.unwrap();
    // There were six failures, five snoozes and a replay. Each failure adds an attempt, and so does
    // the replay.
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), (7, 1));
    let row = row(db.pool(), id).await;
    assert_eq!(row.state, json!({ "snoozes": 10 }), "the arguments stay as they were");
    engine.shutdown().await.unwrap();
}

/// An outcome of a machine may carry a job.
#[durable_fsm(output = i64)]
pub enum Orders {
    Take,
}

#[durable_fsm]
impl Orders {
    async fn take(cx: Context<Self>) -> Outcome<Self> {
        let id = cx.id().get();
        cx.done(id).insert(Third::insert(7).unique_key("seventh"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_carries_a_job() {
    let db = database().await;
    let engine = engine(&db).machine::<Orders>().machine::<Third>().start().await.unwrap();
    let id = Orders::insert(()).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    let job: i64 = sqlx::query_scalar("select id from gen_durable.instances where fsm = 'other'")
        .fetch_one(db.pool())
        .await
        .unwrap();
    let row = until(db.pool(), job, Status::Done.as_str()).await;
    assert_eq!(row.result, Some(json!([job])));
    engine.shutdown().await.unwrap();
}
