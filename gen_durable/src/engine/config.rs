//! The options of an engine and their defaults.
//!
//! Invariant: each option has a default that needs no tuning. All options are checked at start.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    client::notifier::POLL_INTERVAL,
    error::Error,
    keys::{check_key, check_name},
    storage::Retention,
    value,
};

/// The longest lease, and the longest pause between two polls.
const WEEK: Duration = Duration::from_hours(7 * 24);
/// The most connections of an engine: no server has more for one. Each takes its place in memory at
/// once.
const CONNECTIONS_MAX: u32 = 1_000;
/// The smallest and the largest `value_max`, in bytes. Postgres holds 1 GiB at most, and sends no
/// more at once.
const VALUE_MAX_MIN: usize = 64;
const VALUE_MAX_MAX: usize = 256 * 1024 * 1024;

/// The shortest and the longest time between two samples. A dead observer is replaced after four.
#[cfg(feature = "metrics")]
const SAMPLE_INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_hours(1);

/// The options that an engine runs by.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    /// The number of steps that each queue may run at once.
    pub(crate) queues: BTreeMap<String, usize>,
    pub(crate) lease_ttl: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) poll_only: bool,
    pub(crate) drain_timeout: Duration,
    pub(crate) retention: Option<Duration>,
    /// The retentions of single machines, by the machine's name.
    pub(crate) retentions: BTreeMap<&'static str, Retention>,
    pub(crate) history_retention: Option<Duration>,
    pub(crate) value_max: usize,
    pub(crate) crashes_max: u32,
    pub(crate) run_ahead_steps_max: usize,
    pub(crate) run_ahead_time_max: Duration,
    pub(crate) connections_max: u32,
    /// The steps that run in a transaction at once.
    pub(crate) max_transactions: u32,
    pub(crate) maintenance: bool,
    /// The time between two samples of the database for the metrics.
    #[cfg(feature = "metrics")]
    pub(crate) sample_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: format!("process {}", std::process::id()),
            queues: BTreeMap::new(),
            lease_ttl: Duration::from_secs(30),
            poll_interval: POLL_INTERVAL,
            poll_only: false,
            drain_timeout: Self::DRAIN_TIMEOUT,
            retention: Some(Duration::from_hours(168)),
            retentions: BTreeMap::new(),
            history_retention: Some(Duration::from_hours(168)),
            value_max: value::VALUE_MAX,
            crashes_max: 20,
            run_ahead_steps_max: 100,
            run_ahead_time_max: Duration::from_secs(1),
            connections_max: 10,
            max_transactions: 10,
            maintenance: true,
            #[cfg(feature = "metrics")]
            sample_interval: Duration::from_secs(15),
        }
    }
}

/// The queue that an engine serves, and its slots, if it is given no queue.
const DEFAULT_QUEUE: (&str, usize) = ("default", 10);

impl Config {
    /// The default drain timeout. Kubernetes kills a process 30 s after it asked it to end. The
    /// engine needs 10 s of them for the parts that follow the drain.
    pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(18);

    /// Returns the names of the queues that the engine serves.
    pub(crate) fn queue_names(&self) -> Vec<String> {
        self.queues.keys().cloned().collect()
    }

    /// Checks all options. Adds the default queue if there is none.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        if self.queues.is_empty() {
            self.queues.insert(DEFAULT_QUEUE.0.to_owned(), DEFAULT_QUEUE.1);
        }
        for (queue, slots) in &self.queues {
            check_name("its name", queue)
                .map_err(|error| invalid(&format!("queue `{queue}`"), &error.to_string()))?;
            if *slots == 0 {
                return Err(invalid(
                    &format!("queue `{queue}`"),
                    "it may run 0 steps at once; give it at least 1, or leave it out",
                ));
            }
        }
        check_key("name", Some(&self.name)).map_err(|error| invalid("name", &error.to_string()))?;
        if self.lease_ttl < Duration::from_millis(100) {
            return Err(invalid(
                "lease_ttl",
                "shorter than 100 ms; a renewal must fit well inside",
            ));
        }
        if self.lease_ttl > WEEK {
            return Err(invalid(
                "lease_ttl",
                "longer than a week: what a lost worker held would wait as long; give it less",
            ));
        }
        if self.poll_interval < Duration::from_millis(1) {
            return Err(invalid("poll_interval", "shorter than 1 ms; give it at least that"));
        }
        // A longer interval makes no difference, so it is no error.
        self.poll_interval = self.poll_interval.min(WEEK);
        if self.connections_max < 5 {
            return Err(invalid("connections_max", "an engine needs at least 5 connections"));
        }
        if self.connections_max > CONNECTIONS_MAX {
            return Err(invalid(
                "connections_max",
                "over 1,000, which no server has for one engine; ten are plenty",
            ));
        }
        if self.max_transactions == 0 {
            return Err(invalid(
                "max_transactions",
                "it must be at least 1; a step that takes a transaction would wait for ever",
            ));
        }
        if self.max_transactions > CONNECTIONS_MAX {
            return Err(invalid(
                "max_transactions",
                "over 1,000, which no server has for one engine",
            ));
        }
        if self.run_ahead_steps_max == 0 {
            return Err(invalid(
                "run_ahead_steps_max",
                "it must be at least 1, which turns run-ahead off",
            ));
        }
        if self.crashes_max == 0 {
            return Err(invalid("crashes_max", "it must be at least 1"));
        }
        #[cfg(feature = "metrics")]
        if !SAMPLE_INTERVALS.contains(&self.sample_interval) {
            return Err(invalid(
                "sample_interval",
                "it must be 100 ms to an hour; Prometheus asks about every 15 s",
            ));
        }
        if self.value_max < VALUE_MAX_MIN {
            return Err(invalid("value_max", "less than 64 bytes, which holds hardly any state"));
        }
        if self.value_max > VALUE_MAX_MAX {
            return Err(invalid(
                "value_max",
                "over 256 MiB, of which Postgres can hardly send two together; \
                 store large data elsewhere and keep a reference",
            ));
        }
        Ok(())
    }
}

fn invalid(option: &str, reason: &str) -> Error {
    Error::InvalidOption { option: option.to_owned(), reason: reason.to_owned() }
}
