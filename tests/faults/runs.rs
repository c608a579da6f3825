//! The account that the code of steps gives of itself. Each run of a chained or keyed step writes
//! down that it has begun, on a connection of its own. Its outcome carries the times at which it
//! began and ended.
//!
//! Times are ticks of the sequence that numbers the oracle's log: clocks jump, and the sequence
//! does not.
//!
//! Invariant: a fault that meets the writing makes the account shorter, and never wrong. If it is
//! not known that the beginning of a run was written down, its step goes on and the run is left
//! out. A run is also left out if its outcome is committed after Postgres was started again.

use std::{sync::OnceLock, time::Duration};

use gen_durable::prelude::*;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};

/// The number of connections that the steps of a worker share for writing.
pub const CONNECTIONS: u32 = 3;

/// The longest time that a step waits for an answer about its run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

static POOL: OnceLock<PgPool> = OnceLock::new();

/// A run that has ended, as its outcome carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The tick at which its code began. No other run has this number.
    pub began: i64,
    /// The start of Postgres in which it began, as `chaos.server()` gives it.
    pub server: i64,
    /// The tick at which its code ended; none if the database did not answer.
    pub ended: Option<i64>,
}

/// A run that is under way; none if it is not recorded.
#[derive(Debug)]
pub(crate) struct Running(Option<(i64, i64)>);

/// Lets this process record its runs in the oracle's tables.
///
/// # Errors
///
/// [`sqlx::Error`] if the URL is invalid.
pub(crate) fn record(url: &str) -> Result<(), sqlx::Error> {
    let options: sqlx::postgres::PgConnectOptions = url.parse()?;
    // Each record is flushed to disk before its step goes on: an account that can be lost must not
    // accuse anyone.
    let options = options
        .application_name("runs")
        .options([("default_transaction_isolation", "read committed")]);
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ANSWER_TIMEOUT)
        .test_before_acquire(false)
        .connect_lazy_with(options);
    let _ = POOL.set(pool);
    Ok(())
}

/// Records that a run begins; a step calls it first. The run is recorded with the last entry of its
/// instance in the log that was committed by then.
pub(crate) async fn begin<M: Machine>(cx: &Context<M>, n: u32) -> Running {
    let Some(pool) = POOL.get() else { return Running(None) };
    let written = sqlx::query_as(
        "insert into chaos.runs (id, step, n, attempt, pid, saw)
         values ($1, $2, $3, $4, $5, (select max(l.seq) from chaos.log l where l.id = $1))
         returning began, chaos.server()",
    )
    .bind(cx.id().get())
    .bind(cx.step_name())
    .bind(i64::from(n))
    .bind(i64::from(cx.attempt()))
    .bind(i64::from(std::process::id()))
    .fetch_one(pool);
    Running(within(written).await)
}

impl Running {
    /// Returns the run with its end; a step calls it last.
    pub(crate) async fn end(self) -> Option<Run> {
        let ((began, server), pool) = (self.0?, POOL.get()?);
        let tick = sqlx::query_scalar("select nextval('chaos.ticks')").fetch_one(pool);
        Some(Run { began, server, ended: within(tick).await })
    }
}

impl Run {
    /// Makes a text for an error or a panic, which carries the run to `handle`.
    pub(crate) fn tell(run: Option<Self>, what: &str) -> String {
        match run {
            Some(Self { began, server, ended: Some(ended) }) => {
                format!("run {began} {server} {ended}: {what}")
            }
            Some(Self { began, server, ended: None }) => format!("run {began} {server}: {what}"),
            None => what.to_owned(),
        }
    }

    /// Returns the run that the text of an error carries.
    pub(crate) fn told(text: &str) -> Option<Self> {
        let (ticks, _) = text.split_once("run ")?.1.split_once(':')?;
        let mut ticks = ticks.split(' ').map(str::parse);
        Some(Self {
            began: ticks.next()?.ok()?,
            server: ticks.next()?.ok()?,
            ended: ticks.next().and_then(Result::ok),
        })
    }
}

async fn within<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Option<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, statement).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::Run;

    #[test]
    fn a_run_is_told_and_heard() {
        for run in [
            None,
            Some(Run { began: 12, server: 7, ended: None }),
            Some(Run { began: 12, server: 7, ended: Some(345) }),
        ] {
            let text = format!("panicked: {}", Run::tell(run, "a panic on purpose"));
            assert_eq!(Run::told(&text), run, "{text}");
        }
    }
}
