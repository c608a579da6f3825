//! The options of an engine and their defaults.
//!
//! Invariant: every option has a default that needs no tuning, and is checked at start.

use std::{collections::BTreeMap, time::Duration};

use crate::{error::Error, state};

/// What an engine runs by.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    /// Steps at once, by queue.
    pub(crate) queues: BTreeMap<String, usize>,
    pub(crate) lease_ttl: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) poll_only: bool,
    pub(crate) drain_timeout: Duration,
    pub(crate) retention: Option<Duration>,
    pub(crate) value_max: usize,
    pub(crate) crashes_max: u32,
    pub(crate) run_ahead_steps_max: usize,
    pub(crate) run_ahead_time_max: Duration,
    pub(crate) connections_max: u32,
    pub(crate) maintenance: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: format!("process {}", std::process::id()),
            queues: BTreeMap::new(),
            lease_ttl: Duration::from_secs(30),
            poll_interval: Duration::from_secs(5),
            poll_only: false,
            drain_timeout: Duration::from_secs(30),
            retention: Some(Duration::from_hours(168)),
            value_max: state::VALUE_MAX,
            crashes_max: 20,
            run_ahead_steps_max: 100,
            run_ahead_time_max: Duration::from_secs(1),
            connections_max: 10,
            maintenance: true,
        }
    }
}

/// The queue that an engine serves if it is told of none.
const DEFAULT_QUEUE: (&str, usize) = ("default", 10);

impl Config {
    /// The names of the queues that are served.
    pub(crate) fn queue_names(&self) -> Vec<String> {
        self.queues.keys().cloned().collect()
    }

    pub(crate) fn check(&mut self) -> Result<(), Error> {
        if self.queues.is_empty() {
            self.queues.insert(DEFAULT_QUEUE.0.to_owned(), DEFAULT_QUEUE.1);
        }
        let invalid = |option: &str, reason: &str| {
            Err(Error::InvalidOption { option: option.to_owned(), reason: reason.to_owned() })
        };
        for (queue, slots) in &self.queues {
            if *slots == 0 {
                return invalid(
                    &format!("queue `{queue}`"),
                    "it may run 0 steps at once; give it at least 1, or leave it out",
                );
            }
            if queue.contains('\0') {
                return invalid("queue", "its name holds a NUL character; remove it");
            }
        }
        if self.lease_ttl < Duration::from_millis(100) {
            return invalid("lease_ttl", "shorter than 100 ms; a renewal must fit well inside");
        }
        if self.poll_interval < Duration::from_millis(1) {
            return invalid("poll_interval", "shorter than 1 ms; give it at least that");
        }
        if self.connections_max < 5 {
            return invalid("connections_max", "an engine needs at least 5 connections");
        }
        if self.run_ahead_steps_max == 0 {
            return invalid(
                "run_ahead_steps_max",
                "it must be at least 1, which turns run-ahead off",
            );
        }
        if self.crashes_max == 0 {
            return invalid("crashes_max", "it must be at least 1");
        }
        Ok(())
    }
}
