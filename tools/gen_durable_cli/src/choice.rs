//! The instances that a command is about: by id, by unique key, by filter, or from standard input.
//!
//! Invariant: a command without a choice is refused. It never means all instances.

use std::{
    fmt,
    io::{self, BufRead},
    time::SystemTime,
};

use gen_durable::{Client, Status, operate::Instances};

use crate::{failure::Failure, when};

/// The options that choose instances by what they have in common.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Filter")]
pub(crate) struct Filter {
    /// Those of this machine.
    #[arg(long, value_name = "NAME")]
    pub(crate) machine: Option<String>,
    /// Those that stand at this step.
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Those of this status: runnable, executing, awaiting_signal, done, failed or cancelled.
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Option<Status>,
    /// Those of this queue.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Those of this version of their machine.
    #[arg(long, value_name = "NUMBER")]
    machine_version: Option<u32>,
    /// Those that have this partition key.
    #[arg(long, value_name = "KEY")]
    partition_key: Option<String>,
    /// Those that were inserted with this unique key, whether they hold it or not.
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// Those that were changed last at this time or after: RFC 3339, or 2h for two hours ago.
    #[arg(long, value_name = "TIME", value_parser = when::past)]
    changed_since: Option<SystemTime>,
    /// Those that were changed last before this time: RFC 3339, or 2h for two hours ago.
    #[arg(long, value_name = "TIME", value_parser = when::past)]
    changed_before: Option<SystemTime>,
}

fn status(text: &str) -> Result<Status, String> {
    text.parse().map_err(|error: gen_durable::UnknownStatus| error.to_string())
}

impl Filter {
    /// True if no option is given.
    fn is_empty(&self) -> bool {
        let Self {
            machine,
            step,
            status,
            queue,
            machine_version,
            partition_key,
            unique_key,
            changed_since,
            changed_before,
        } = self;
        [machine, step, queue, partition_key, unique_key].iter().all(|text| text.is_none())
            && status.is_none()
            && machine_version.is_none()
            && changed_since.is_none()
            && changed_before.is_none()
    }

    /// Returns the choice of instances.
    pub(crate) fn instances(&self, client: &Client) -> Instances<i64> {
        let mut chosen = client.all_instances();
        if let Some(machine) = &self.machine {
            chosen = chosen.machine(machine);
        }
        if let Some(step) = &self.step {
            chosen = chosen.step(step);
        }
        if let Some(status) = self.status {
            chosen = chosen.status(status);
        }
        if let Some(queue) = &self.queue {
            chosen = chosen.queue(queue);
        }
        if let Some(version) = self.machine_version {
            chosen = chosen.version(version);
        }
        if let Some(key) = &self.partition_key {
            chosen = chosen.partition_key(key);
        }
        if let Some(key) = &self.unique_key {
            chosen = chosen.unique_key(key);
        }
        if let Some(time) = self.changed_since {
            chosen = chosen.changed_since(time);
        }
        if let Some(time) = self.changed_before {
            chosen = chosen.changed_before(time);
        }
        chosen
    }
}

/// The instances of an action.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// The instances: an id; MACHINE/KEY for the one that holds a unique key; or - to read them
    /// from standard input, one a line.
    #[arg(value_name = "INSTANCE")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Act on all that the filter chooses, without asking.
    #[arg(long, short, help_heading = "Filter")]
    pub(crate) yes: bool,
    /// Show what the filter chooses, and do nothing.
    #[arg(long, help_heading = "Filter", conflicts_with = "yes")]
    pub(crate) dry_run: bool,
}

/// The instances of an action, by the way in which they were named.
#[derive(Debug)]
pub(crate) enum Chosen {
    Named(Vec<Address>),
    Fitting,
}

impl Choice {
    /// Returns the instances that are named, or that the filter is to choose them.
    pub(crate) fn chosen(&self) -> Result<Chosen, Failure> {
        match (self.targets.is_empty(), self.filter.is_empty()) {
            (true, true) => Err(Failure::usage(
                "no instance is named; give ids, MACHINE/KEY, - for standard input, or a filter such as --status failed",
            )),
            (false, false) => Err(Failure::usage(
                "instances are named and a filter is given; give one of the two",
            )),
            (true, false) => Ok(Chosen::Fitting),
            (false, true) if self.dry_run => {
                Err(Failure::usage("--dry-run is for a filter, and instances are named"))
            }
            (false, true) => Ok(Chosen::Named(addresses(&self.targets)?)),
        }
    }
}

/// Reads addresses, also from standard input.
pub(crate) fn addresses(targets: &[String]) -> Result<Vec<Address>, Failure> {
    let mut addresses = Vec::new();
    for target in targets {
        if target != "-" {
            addresses.push(Address::read(target)?);
            continue;
        }
        for line in io::stdin().lock().lines() {
            let line = line.map_err(|error| {
                Failure::usage(format!("could not read instances from standard input: {error}"))
            })?;
            if !line.trim().is_empty() {
                addresses.push(Address::read(line.trim())?);
            }
        }
    }
    Ok(addresses)
}

/// An instance, by its id or by the unique key that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Id(i64),
    Key { machine: String, key: String },
}

impl Address {
    pub(crate) fn read(text: &str) -> Result<Self, Failure> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        match text.split_once('/') {
            Some((machine, key)) if !machine.is_empty() && !key.is_empty() => {
                Ok(Self::Key { machine: machine.to_owned(), key: key.to_owned() })
            }
            _ => Err(Failure::usage(format!(
                "`{text}` names no instance; give an id, or MACHINE/KEY for the one that holds a unique key"
            ))),
        }
    }

    /// Returns the id.
    pub(crate) async fn id(&self, client: &Client) -> Result<i64, Failure> {
        let (machine, key) = match self {
            Self::Id(id) => return Ok(*id),
            Self::Key { machine, key } => (machine, key),
        };
        client.holder_by_name(machine, key).await?.ok_or_else(|| {
            Failure::not_found(format!(
                "no instance of machine `{machine}` holds the unique key `{key}`; `gen-durable ls \
                 --machine … --unique-key …` finds those that have given it back"
            ))
        })
    }
}

/// Prints the address as it is read.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Key { machine, key } => write!(f, "{machine}/{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn an_address_is_read() {
        assert_eq!(Address::read("42"), Ok(Address::Id(42)));
        let address = Address::read("order/a/b 7").expect("a key");
        assert_eq!(address, Address::Key { machine: "order".to_owned(), key: "a/b 7".to_owned() });
        assert_eq!(address.to_string(), "order/a/b 7");
        for text in ["", "order", "/key", "order/", "4x"] {
            assert!(Address::read(text).is_err(), "{text}");
        }
    }
}
