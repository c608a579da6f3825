//! `wait`: waits until instances have ended.
//!
//! Invariant: an interrupt ends the wait, and nothing else.

use std::{future::Future, time::Duration};

use gen_durable::{Client, WaitError};

use super::act::each;
use crate::{
    choice::{Address, addresses},
    failure::{Failure, Kind},
    print::{Format, Object, Out, plain},
    when,
};

/// The longest wait without `--timeout`. tokio's clock ends before that of the universe.
const LONG: Duration = Duration::from_hours(24 * 365);

/// Wait until instances have ended, and print their results as JSON.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It ends with 5 if an instance has failed or was cancelled, and with 124 after the timeout.

Example:
  gen-durable wait 42 --timeout 30s
  gen-durable insert report 'null' -o ids | xargs gen-durable wait")]
pub(crate) struct Wait {
    /// The instances: an id; MACHINE/KEY for the one that holds a unique key; or - to read them
    /// from standard input, one a line.
    #[arg(value_name = "INSTANCE", required = true)]
    targets: Vec<String>,
    /// The longest wait for each; by default there is no limit.
    #[arg(long, value_name = "DURATION", value_parser = when::duration)]
    timeout: Option<Duration>,
}

impl Wait {
    pub(crate) async fn run(self, client: &Client, out: &mut Out) -> Result<(), Failure> {
        let addresses = addresses(&self.targets)?;
        let timeout = self.timeout.unwrap_or(LONG);
        let several = addresses.len() > 1;
        unless_interrupted(each(&addresses, async |address: &Address| {
            let id = address.id(client).await?;
            let ended = client.wait_by_id(id, timeout).await;
            tell(id, ended, several, out)
        }))
        .await
    }
}

/// Prints the end of an instance: its result, or why there is none.
fn tell(
    id: i64,
    ended: Result<String, WaitError>,
    several: bool,
    out: &mut Out,
) -> Result<(), Failure> {
    let object = |status: &str| Object::new().with("id", id).with("status", status);
    match (out.format, ended) {
        (Format::Json, Ok(result)) => out.text(&object("done").raw("result", &result).line()),
        (Format::Json, Err(WaitError::Failed { id, reason })) => {
            out.text(&object("failed").with("reason", &*reason).line())?;
            Err(WaitError::Failed { id, reason }.into())
        }
        (Format::Json, Err(WaitError::Cancelled { id, reason })) => {
            out.text(&object("cancelled").with("reason", &*reason).line())?;
            Err(WaitError::Cancelled { id, reason }.into())
        }
        (Format::Ids, Ok(_)) => out.line(&id.to_string()),
        (Format::Table, Ok(result)) if several => out.line(&format!("{id} {}", plain(&result))),
        (Format::Table, Ok(result)) => out.line(&plain(&result)),
        (_, Err(error)) => Err(error.into()),
    }
}

/// Runs something until it is done, or until the user interrupts it.
async fn unless_interrupted(
    running: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        result = running => result,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Err(Failure::new(Kind::Interrupted, "interrupted; the instance goes on"))
        }
    }
}
