//! `signal`: sends a signal to instances.
//!
//! Invariant: the payload reaches the database alone. No output repeats it.

use std::collections::BTreeSet;

use gen_durable::{Client, Delivery};
use serde_json::value::RawValue;

use super::{act::each, fork::fitting, insert::value};
use crate::{
    choice::{Address, Choice, Chosen},
    confirm::confirm,
    connect::Database,
    failure::Failure,
    print::{Object, Out},
};

/// Send a signal to instances.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gen-durable signal paid 42 --payload '{\"cents\": 1999}' --dedup-key evt-7
  gen-durable signal approved 'order/order 42'")]
pub(crate) struct Signal {
    /// The name of the signal.
    name: String,
    /// The payload as JSON, or - to read it from standard input. Other users of this host may see
    /// arguments.
    #[arg(long, value_name = "JSON", default_value = "null")]
    payload: String,
    /// An instance accepts one signal with this key.
    #[arg(long, value_name = "KEY")]
    dedup_key: Option<String>,
    /// Send it even if no version of the machine declares a signal of this name.
    #[arg(long)]
    undeclared: bool,
    #[command(flatten)]
    choice: Choice,
}

impl Signal {
    pub(crate) async fn run(self, database: &Database, out: &mut Out) -> Result<(), Failure> {
        if self.payload == "-" && self.choice.targets.iter().any(|target| target == "-") {
            return Err(Failure::usage("standard input cannot have the payload and the instances"));
        }
        let chosen = self.choice.chosen()?;
        let payload = value(&self.payload)?;
        let client = database.client().await?;
        let addresses = match chosen {
            Chosen::Named(addresses) => addresses,
            Chosen::Fitting if confirm("signal", &self.choice, &client, out).await? => {
                fitting(&self.choice, &client).await?
            }
            Chosen::Fitting => return Ok(()),
        };
        each(&addresses, async |address: &Address| {
            let id = address.id(&client).await?;
            let answer = self.send(id, &payload, &client).await?;
            let object = || Object::new().with("id", id).with("answer", answer);
            out.answer(&format!("instance {id}: {answer}"), object, Some(id))
        })
        .await
    }

    async fn send(
        &self,
        id: i64,
        payload: &RawValue,
        client: &Client,
    ) -> Result<&'static str, Failure> {
        let key = self.dedup_key.as_deref();
        if !self.undeclared {
            self.check_declared(id, client).await?;
        }
        Ok(match client.signal_by_name(id, &self.name, payload, key).await? {
            Delivery::Duplicate => "duplicate",
            _ => "delivered",
        })
    }

    /// Refuses a signal that no version of the instance's machine declares: no step would ever take
    /// it.
    async fn check_declared(&self, id: i64, client: &Client) -> Result<(), Failure> {
        // An instance that does not exist is refused by the signal itself.
        let Some(found) = client.find(id).await? else { return Ok(()) };
        // A login that may not read what is registered sends it unchecked, as an application does.
        let Ok(machines) = client.machines().await else { return Ok(()) };
        let mut ours = machines.iter().filter(|machine| machine.name == found.machine).peekable();
        if ours.peek().is_none() {
            return Ok(());
        }
        let signals: BTreeSet<&str> =
            ours.flat_map(|machine| &machine.signals).map(String::as_str).collect();
        if signals.contains(&*self.name) {
            return Ok(());
        }
        let known: Vec<&str> = signals.into_iter().collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Failure::not_found(format!(
            "machine `{}` has no signal `{}` (it has {}); --undeclared sends it all the same",
            found.machine, self.name, known
        )))
    }
}
