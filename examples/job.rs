//! Jobs: machines of one step, written as a function.
//!
//! ```text
//! cargo run --example job
//! ```
//!
//! A job is inserted, retried, scheduled and waited for like any machine. It has no other step to
//! go to, and it receives no signals.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gen_durable::{WaitError, prelude::*};
use gen_durable_examples::{Error, Session};

/// The arguments, stored as a JSON object.
#[derive(Clone, DurableState)]
struct Mail {
    to: String,
    subject: String,
}

/// Sends a mail. After an error the job runs again; the error of the third run fails it.
#[durable_job(
    queue = "mail",
    timeout = "10s",
    retry(max_attempts = 3, backoff = "exponential", initial = "100ms")
)]
async fn send_mail(cx: JobContext<Mail>, mailer: &Mailer) -> Result<u32, MailError> {
    println!("  send_mail: {}, attempt {}", cx.state.to, cx.attempt());
    mailer.send(cx.id().get(), &cx.state, cx.attempt()).await?;
    Ok(cx.attempt() + 1)
}

/// A service outside of Postgres. A job may run twice, so it tells the mailer its id, which is the
/// same in each run. The mailer sends no second mail for an id.
#[derive(Clone, Default)]
struct Mailer {
    sent: Arc<Mutex<Vec<(i64, String)>>>,
}

#[derive(Debug, thiserror::Error)]
enum MailError {
    #[error("the line was busy")]
    Busy,
    #[error("`{0}` is no address")]
    NoAddress(String),
}

impl Mailer {
    async fn send(&self, key: i64, mail: &Mail, attempt: u32) -> Result<(), MailError> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if !mail.to.contains('@') {
            return Err(MailError::NoAddress(mail.to.clone()));
        }
        if attempt == 0 {
            return Err(MailError::Busy); // gives the job a reason to run again
        }
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.iter().all(|(other, _)| *other != key) {
            sent.push((key, mail.subject.clone()));
        }
        Ok(())
    }
}

fn mail(to: &str) -> Mail {
    Mail { to: to.to_owned(), subject: "welcome".to_owned() }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;
    let mailer = Mailer::default();
    let engine = Engine::builder(session.pool.clone())
        .machine::<SendMail>()
        .queue("mail", 10)
        .resource(mailer.clone())
        .start()
        .await?;

    let id = SendMail::insert(mail("ada@example.com"))
        .unique_key("welcome ada") // while this job is live, a second one would be refused
        .execute(&engine)
        .await?;
    let runs = engine.wait(id, Duration::from_secs(10)).await?;
    println!("job {id}: sent, in run {runs}");
    assert_eq!(runs, 2);

    let nowhere = SendMail::insert(mail("nowhere")).execute(&engine).await?;
    let end = engine.wait(nowhere, Duration::from_secs(10)).await;
    let Err(WaitError::Failed { reason, .. }) = end else {
        return Err("a mail to nowhere was sent".into());
    };
    println!("job {nowhere}: failed after three runs: {reason}");
    assert_eq!(reason, "`nowhere` is no address");

    engine.shutdown().await?;
    let sent = mailer.sent.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(sent, [(id.get(), "welcome".to_owned())]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use gen_durable::testing::{Lab, PgPool, StepTest};

    use super::*;

    #[tokio::test]
    async fn a_busy_line_is_tried_again_twice() {
        let run = |failures| {
            let send = StepTest::at(SendMail::Run).state(mail("ada@example.com"));
            send.failures(failures).failed_with(MailError::Busy).run()
        };
        assert_eq!(run(0).await.assert_repeats(), Duration::from_millis(100));
        assert_eq!(run(1).await.assert_repeats(), Duration::from_millis(200));
        assert_eq!(run(2).await.assert_failed(), "the line was busy");
    }

    #[gen_durable::test]
    async fn a_mail_is_sent_once_whatever_crashes(pool: PgPool) -> Result<(), Error> {
        let mailer = Mailer::default();
        let lab = Lab::new(&pool).machine::<SendMail>().resource(mailer.clone());
        let mut lab = lab.start().await?;
        let id = SendMail::insert(mail("ada@example.com")).execute(&lab).await?;
        lab.run_until_idle().await?;
        lab.lose_lease();
        lab.advance(Duration::from_secs(1)).await?;
        // The first run found the line busy, and the outcome of the second was lost.
        lab.assert_done(id, &3).await?;
        assert_eq!(mailer.sent.lock().expect("nobody panics").len(), 1);
        Ok(())
    }

    #[test]
    fn the_graph_is_that_of_one_step() {
        assert_eq!(
            SendMail::graph().to_mermaid(),
            "stateDiagram-v2
    state \"an error in any step\" as handle
    [*] --> run
    run --> [*]: done
    handle --> handle: replay
    handle --> [*]: stop
"
        );
    }
}
