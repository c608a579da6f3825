//! `insert`: inserts an instance of a machine that an engine has registered.
//!
//! Invariant: the state reaches the database alone. No output repeats it.

use std::{
    io::Read,
    time::{Duration, SystemTime},
};

use serde_json::value::RawValue;

use crate::{
    choice::Address,
    connect::Database,
    failure::Failure,
    print::{Object, Out},
    when,
};

/// Insert an instance of a machine that an engine has registered.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gen-durable insert order '{\"id\": 42, \"cents\": 1999}' --unique-key 'order 42'
  gen-durable insert report - --delay 15m < state.json")]
pub(crate) struct Insert {
    /// The machine.
    machine: String,
    /// The state as JSON, or - to read it from standard input. Other users of this host may see
    /// arguments.
    #[arg(value_name = "STATE", default_value = "null")]
    state: String,
    /// The version of the machine; by default the newest that an engine has registered.
    #[arg(long, value_name = "NUMBER")]
    machine_version: Option<u32>,
    /// The step at which it begins; by default the initial step.
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// The queue; by default that of the machine.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// The priority: lower runs first.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    priority: i16,
    /// Run it no earlier than this time from now.
    #[arg(long, value_name = "DURATION", value_parser = when::duration, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Run it no earlier than this: RFC 3339, or 2h for two hours from now.
    #[arg(long, value_name = "TIME", value_parser = when::future)]
    at: Option<SystemTime>,
    /// Never run it at the same time as another instance of this key.
    #[arg(long, value_name = "KEY")]
    partition_key: Option<String>,
    /// Insert it only if no live instance of the machine holds this key.
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// The instance that hears of its end: an id, or MACHINE/KEY.
    #[arg(long, value_name = "INSTANCE")]
    report_to: Option<String>,
}

/// Reads JSON from an argument, or from standard input. Its numbers stay as they are written.
pub(super) fn value(text: &str) -> Result<Box<RawValue>, Failure> {
    let mut read = String::new();
    let text = if text == "-" {
        std::io::stdin().read_to_string(&mut read)?;
        read.trim()
    } else {
        text
    };
    serde_json::from_str(text).map_err(|error| {
        Failure::usage(format!("this is no JSON: {error}; a text needs quotes: '\"text\"'"))
    })
}

impl Insert {
    pub(crate) async fn run(self, database: &Database, out: &mut Out) -> Result<(), Failure> {
        let state = value(&self.state)?;
        let client = database.client().await?;
        let mut insert = client.insert_by_name(&self.machine, state).priority(self.priority);
        if let Some(version) = self.machine_version {
            insert = insert.version(version);
        }
        if let Some(step) = self.step {
            insert = insert.step(step);
        }
        if let Some(queue) = self.queue {
            insert = insert.queue(queue);
        }
        if let Some(delay) = self.delay {
            insert = insert.schedule_in(delay);
        }
        if let Some(time) = self.at {
            insert = insert.schedule_at(time);
        }
        if let Some(key) = self.partition_key {
            insert = insert.partition_key(key);
        }
        if let Some(key) = self.unique_key {
            insert = insert.unique_key(key);
        }
        if let Some(receiver) = &self.report_to {
            insert = insert.report_to(Address::read(receiver)?.id(&client).await?);
        }
        let id = insert.execute(&client).await?;
        let object = || Object::new().with("id", id).with("machine", &*self.machine);
        out.answer(&format!("instance {id} inserted"), object, Some(id))
    }
}
