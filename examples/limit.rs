//! A limit: mails to each host at a bounded rate, sent by two engines. A look shows which wait and
//! until when, and an operator raises the bound.
//!
//! ```text
//! cargo run --example limit
//! ```
//!
//! The bounds hold for both engines together, and for each host by itself.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use gen_durable::{Limit, prelude::*};
use gen_durable_examples::{Error, Session};

/// A mail, and the host that takes it.
#[derive(Clone, DurableState)]
struct Mail {
    host: String,
    subject: String,
}

/// Sends a mail. Each host has bounds of its own.
#[durable_job(limit("mail", key = state.host))]
async fn send_mail(cx: JobContext<Mail>, outbox: &Outbox) {
    println!("  {} to {}", cx.state.subject, cx.state.host);
    outbox.put(&cx.state.host);
}

/// Remembers what was sent, in this process.
#[derive(Clone, Default)]
struct Outbox(Arc<Mutex<Vec<String>>>);

impl Outbox {
    fn put(&self, host: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(host.to_owned());
    }

    fn count(&self, host: &str) -> usize {
        let sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.iter().filter(|to| *to == host).count()
    }
}

/// Four at once, and a mail every ten seconds; two may go together after a quiet time.
fn bounds() -> Limit {
    Limit::new().at_once(4).per(1, Duration::from_secs(10)).burst(2)
}

async fn start(session: &Session, outbox: &Outbox) -> Result<Engine, gen_durable::Error> {
    Engine::builder(session.pool.clone())
        .machine::<SendMail>()
        .limit("mail", bounds())
        .resource(outbox.clone())
        .start()
        .await
}

fn mail(host: &str, number: u32) -> gen_durable::Insert<SendMail> {
    SendMail::insert(Mail { host: host.to_owned(), subject: format!("mail {number}") })
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;
    let outbox = Outbox::default();
    let engines = [start(&session, &outbox).await?, start(&session, &outbox).await?];
    let client = engines[0].client();
    let limit = client.limit("mail");

    println!("six mails to example.org, and one to example.com");
    for number in 1..=6 {
        mail("example.org", number).execute(client).await?;
    }
    mail("example.com", 7).execute(client).await?;
    while limit.waiting(Some("example.org")).await?.len() < 4 || outbox.count("example.com") < 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(outbox.count("example.org"), 2, "the burst");

    for bucket in limit.buckets(None).await? {
        let host = bucket.key.unwrap_or_default();
        println!("{host}: {} run, {:?} wait", bucket.running, bucket.waiting);
    }
    for waiting in limit.waiting(Some("example.org")).await? {
        let left = waiting.until.and_then(|until| until.duration_since(SystemTime::now()).ok());
        println!("instance {} waits for {:.1?} at least", waiting.id, left.unwrap_or_default());
    }

    println!("an operator raises the bound");
    let more = Limit::new().at_once(4).per(10, Duration::from_secs(1));
    limit.set(more).by("ada").reason("they allow more").execute(client).await?;
    while outbox.count("example.org") < 6 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if let Some(seen) = limit.get().await? {
        println!("declared: {}; in force: {}", seen.declared, seen.in_force);
    }
    limit.reset().by("ada").execute(client).await?;

    for engine in engines {
        engine.shutdown().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gen_durable::testing::{Lab, PgPool};

    use super::*;

    #[gen_durable::test]
    async fn a_host_gets_a_mail_every_ten_seconds_until_somebody_raises_the_bound(
        pool: PgPool,
    ) -> Result<(), Error> {
        let outbox = Outbox::default();
        let lab = Lab::new(&pool).machine::<SendMail>().limit("mail", bounds());
        let mut lab = lab.resource(outbox.clone()).start().await?;
        for number in 1..=6 {
            mail("example.org", number).execute(&lab).await?;
        }
        mail("example.com", 7).execute(&lab).await?;
        lab.run_until_idle().await?;
        assert_eq!((outbox.count("example.org"), outbox.count("example.com")), (2, 1));
        lab.advance(Duration::from_secs(10)).await?;
        assert_eq!(outbox.count("example.org"), 3);

        // The old rate is used up, so the new one begins with nothing.
        let more = Limit::new().per(10, Duration::from_secs(1));
        lab.client().limit("mail").set(more).by("ada").execute(&lab).await?;
        lab.advance(Duration::from_millis(200)).await?;
        assert_eq!(outbox.count("example.org"), 5);
        lab.advance(Duration::from_millis(100)).await?;
        assert_eq!(outbox.count("example.org"), 6);
        Ok(())
    }
}
