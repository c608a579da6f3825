//! The outcome of a run in words: for traces, and to compare two runs of a step.
//!
//! A lab prints states and results. It runs in tests, where nothing is confidential.

use std::{fmt, fmt::Write as _, time::Duration};

use serde_json::Value;

use crate::{
    storage::{Change, Commit, Eligible, NewInstance, NewSignal, Receiver},
    value::Json,
};

/// The effects of a run's outcome.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Effects {
    /// The move of the instance, with the error that the outcome records.
    change: String,
    /// The result, if the instance is done.
    result: Option<Value>,
    /// The delay of a repetition. `handle` may choose it at random.
    delay: Option<Duration>,
    /// The state, if the outcome changes it.
    state: Option<Value>,
    /// The inserts and signals that the outcome carries, each with its state or payload.
    messages: Vec<(String, Value)>,
    /// The signals that the outcome takes out of the inbox.
    consumed: Vec<i64>,
}

impl Effects {
    /// `before` is the state that the run began with, as stored.
    pub(crate) fn of(commit: &Commit, before: &str) -> Self {
        let (mut delay, mut result) = (None, None);
        let mut change = match &commit.change {
            Change::Next { step } => format!("goes to `{step}`"),
            Change::Later { step, delay } => format!("goes to `{step}` in {delay:?}"),
            Change::Repeat { delay: repeat, .. } => {
                delay = Some(*repeat);
                "runs again".to_owned()
            }
            Change::Await { names, count, timeout, .. } => {
                let count = count.map(|count| format!("{count} × ")).unwrap_or_default();
                let names = names.join("` or `");
                let timeout = timeout.map(|timeout| format!(" for {timeout:?}"));
                format!("awaits {count}`{names}`{}", timeout.unwrap_or_default())
            }
            Change::Done { result: done } => {
                result = Some(json(done));
                "is done".to_owned()
            }
            Change::Failed => "fails".to_owned(),
            Change::Release => "is given back".to_owned(),
            Change::Defer { delay } => format!("is given back for {delay:?}"),
        };
        if let Some(error) = &commit.error {
            let _ = write!(change, " ({error})");
        }
        let before = serde_json::from_str(before).ok();
        let state = commit.state.as_ref().map(json).filter(|now| Some(now) != before.as_ref());
        let inserts = commit.inserts.iter().map(|new| (insert(new), json(&new.state)));
        let signals = commit.signals.iter().map(|new| (signal(new), json(&new.payload)));
        let messages = inserts.chain(signals).collect();
        let consumed = commit.consumed.clone();
        Self { change, result, delay, state, messages, consumed }
    }

    /// True if two runs of a step had the same effects. The delay of a repetition does not count: a
    /// retry policy may have a jitter.
    pub(crate) fn are_those_of(&self, other: &Self) -> bool {
        let timeless = |effects: &Self| Self { delay: None, ..effects.clone() };
        timeless(self) == timeless(other)
    }
}

impl fmt::Display for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.change)?;
        if let Some(result) = &self.result {
            write!(f, ": {result}")?;
        }
        if let Some(delay) = self.delay {
            write!(f, " in {delay:?}")?;
        }
        if let Some(state) = &self.state {
            write!(f, ", state {state}")?;
        }
        for (message, value) in &self.messages {
            write!(f, ", {message}: {value}")?;
        }
        Ok(())
    }
}

/// A text that was encoded for Postgres is JSON.
fn json(text: &Json) -> Value {
    serde_json::from_str(&text.0).unwrap_or(Value::Null)
}

fn insert(new: &NewInstance) -> String {
    let mut text = format!("inserts `{}` at `{}` in queue `{}`", new.fsm, new.step, new.queue);
    let mut add = |name: &str, value: &dyn fmt::Display| {
        let _ = write!(text, ", {name} `{value}`");
    };
    if let Some(key) = &new.unique_key {
        add("unique key", key);
    }
    if let Some(key) = &new.partition_key {
        add("partition key", key);
    }
    if new.priority != 0 {
        add("priority", &new.priority);
    }
    match new.eligible {
        Eligible::Now => {}
        Eligible::In(delay) => add("after", &format!("{delay:?}")),
        Eligible::At(time) => add("at", &format!("{time:?}")),
    }
    match &new.report_to {
        None => {}
        Some(Receiver::Instance(id)) => add("reporting to", id),
        Some(Receiver::Key { fsm, key }) => add("reporting to", &format!("{fsm} {key}")),
        Some(Receiver::Sender) => add("reporting to", &"this instance"),
    }
    text
}

fn signal(new: &NewSignal) -> String {
    let machine = new.fsm.as_deref().unwrap_or("any machine");
    let mut text = format!("signals `{}` to {} of `{machine}`", new.name, new.target);
    if let Some(key) = &new.dedup_key {
        let _ = write!(text, ", deduplication key `{key}`");
    }
    text
}
