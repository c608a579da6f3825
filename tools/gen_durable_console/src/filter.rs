//! The choice of instances, as a URL and a form have it.
//!
//! Invariant: the URL holds the whole choice, so a page can be kept, shared and reloaded.

use std::time::{Duration, SystemTime};

use gen_durable::{Client, Status, operate::Instances};

use crate::{
    time,
    url::{BadParam, Params, Query},
};

/// A choice of instances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Filter {
    pub(crate) machine: Option<String>,
    pub(crate) version: Option<u32>,
    pub(crate) step: Option<String>,
    pub(crate) status: Option<Status>,
    pub(crate) queue: Option<String>,
    pub(crate) partition_key: Option<String>,
    pub(crate) unique_key: Option<String>,
    /// At most this long since the last change.
    pub(crate) within: Option<Duration>,
    /// At least this long since the last change.
    pub(crate) idle: Option<Duration>,
}

/// The statuses, in the order of a life.
pub(crate) const STATUSES: [Status; 6] = [
    Status::Runnable,
    Status::Executing,
    Status::AwaitingSignal,
    Status::Done,
    Status::Failed,
    Status::Cancelled,
];

impl Filter {
    pub(crate) fn read(params: &Params) -> Result<Self, BadParam> {
        let age = |name: &'static str| {
            let read = |text: &str| time::parse_span(text).ok_or(BadParam(name));
            params.get(name).map(read).transpose()
        };
        Ok(Self {
            machine: params.owned("machine"),
            version: params.read("version")?,
            step: params.owned("step"),
            status: params.read("status")?,
            queue: params.owned("queue"),
            partition_key: params.owned("partition_key"),
            unique_key: params.owned("unique_key"),
            within: age("within")?,
            idle: age("idle")?,
        })
    }

    pub(crate) fn fields(&self) -> Query {
        Query::new()
            .maybe("machine", self.machine.as_ref())
            .maybe("version", self.version)
            .maybe("step", self.step.as_ref())
            .maybe("status", self.status)
            .maybe("queue", self.queue.as_ref())
            .maybe("partition_key", self.partition_key.as_ref())
            .maybe("unique_key", self.unique_key.as_ref())
            .maybe("within", self.within.map(time::span))
            .maybe("idle", self.idle.map(time::span))
    }

    pub(crate) fn of_machine(machine: &str) -> Self {
        Self { machine: Some(machine.to_owned()), ..Self::default() }
    }

    pub(crate) fn of_step(machine: &str, step: &str) -> Self {
        Self { step: Some(step.to_owned()), ..Self::of_machine(machine) }
    }

    pub(crate) fn of_queue(queue: &str) -> Self {
        Self { queue: Some(queue.to_owned()), ..Self::default() }
    }

    pub(crate) fn status(self, status: Status) -> Self {
        Self { status: Some(status), ..self }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the choice as the library takes it.
    pub(crate) fn on(&self, client: &Client) -> Instances<i64> {
        let mut chosen = client.all_instances();
        if let Some(machine) = &self.machine {
            chosen = chosen.machine(machine);
        }
        if let Some(version) = self.version {
            chosen = chosen.version(version);
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
        if let Some(key) = &self.partition_key {
            chosen = chosen.partition_key(key);
        }
        if let Some(key) = &self.unique_key {
            chosen = chosen.unique_key(key);
        }
        let now = SystemTime::now();
        if let Some(time) = self.within.and_then(|age| now.checked_sub(age)) {
            chosen = chosen.changed_since(time);
        }
        if let Some(time) = self.idle.and_then(|age| now.checked_sub(age)) {
            chosen = chosen.changed_before(time);
        }
        chosen
    }

    /// Says in words which instances are chosen.
    pub(crate) fn words(&self) -> String {
        let mut parts = Vec::new();
        let mut part = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                parts.push(format!("{name} {value}"));
            }
        };
        part("machine", self.machine.as_deref());
        part("version", self.version.map(|version| version.to_string()).as_deref());
        part("step", self.step.as_deref());
        part("status", self.status.map(Status::as_str));
        part("queue", self.queue.as_deref());
        part("partition key", self.partition_key.as_deref());
        part("unique key", self.unique_key.as_deref());
        part("changed within", self.within.map(time::span).as_deref());
        part("not changed for", self.idle.map(time::span).as_deref());
        if parts.is_empty() { "all instances".to_owned() } else { parts.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_holds_the_whole_choice() {
        let filter = Filter {
            machine: Some("a \"b\" <c>".into()),
            version: Some(2),
            step: Some("x/y".into()),
            status: Some(Status::AwaitingSignal),
            queue: Some("mail & more".into()),
            partition_key: Some("k".into()),
            unique_key: Some("u".into()),
            within: Some(Duration::from_hours(1)),
            idle: Some(Duration::from_secs(90)),
        };
        let pairs = filter.fields().pairs().to_vec();
        let params = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(Filter::read(&Params(params)), Ok(filter));
        let wrong = Params(vec![("status".into(), "open".into())]);
        assert_eq!(Filter::read(&wrong), Err(BadParam("status")));
    }
}
