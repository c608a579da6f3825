//! The metrics that an engine reports: names, kinds, units, labels and what each counts.
//!
//! Invariant: each metric of the crate is in [`ALL`]. Labels are bounded by what programs declare:
//! no id, no key and no text of an error is one. This file names nothing of the crate, so that the
//! tests include it too.

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The unit of a metric's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Count,
    Seconds,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

const fn metric(
    (kind, unit): (Kind, Unit),
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help }
}

const COUNTER: (Kind, Unit) = (Kind::Counter, Unit::Count);
const GAUGE: (Kind, Unit) = (Kind::Gauge, Unit::Count);
const TIME: (Kind, Unit) = (Kind::Gauge, Unit::Seconds);
const DURATIONS: (Kind, Unit) = (Kind::Histogram, Unit::Seconds);

pub(crate) const STEPS: Metric = metric(
    COUNTER,
    "gen_durable_steps_total",
    &["machine", "step", "outcome"],
    "Runs of steps, by what they came to.",
);
pub(crate) const STEP_ERRORS: Metric = metric(
    COUNTER,
    "gen_durable_step_errors_total",
    &["machine", "step", "kind"],
    "Runs of steps that failed, by the kind of the error, whatever `handle` made of it.",
);
pub(crate) const STEP_SECONDS: Metric = metric(
    DURATIONS,
    "gen_durable_step_duration_seconds",
    &["machine", "step"],
    "The time that a run takes in its slot, with `handle` and its own transaction.",
);
pub(crate) const WAITING_SECONDS: Metric = metric(
    DURATIONS,
    "gen_durable_waiting_seconds",
    &["queue"],
    "The time from when an instance may run to the first run after its claim.",
);
pub(crate) const SLOTS: Metric =
    metric(GAUGE, "gen_durable_slots", &["queue"], "The slots of the queue in this process.");
pub(crate) const SLOTS_IN_USE: Metric = metric(
    GAUGE,
    "gen_durable_slots_in_use",
    &["queue"],
    "The slots of the queue that are taken in this process.",
);
pub(crate) const CLAIMS: Metric =
    metric(COUNTER, "gen_durable_claims_total", &[], "Claims that the database answered.");
pub(crate) const CLAIM_SECONDS: Metric = metric(
    DURATIONS,
    "gen_durable_claim_duration_seconds",
    &[],
    "The time from a claim to its answer.",
);
pub(crate) const CLAIMED: Metric = metric(
    COUNTER,
    "gen_durable_claimed_total",
    &["queue", "by"],
    "Instances that were claimed, by a claim or by a birth in the commit of an insert or signal.",
);
pub(crate) const COMMITS: Metric = metric(
    COUNTER,
    "gen_durable_commits_total",
    &["by", "result"],
    "Commits of outcomes: of a batch, or of a step's own transaction.",
);
pub(crate) const COMMITTED: Metric = metric(
    COUNTER,
    "gen_durable_committed_outcomes_total",
    &["by"],
    "Outcomes in commits of batches and of steps' own transactions, with instances that were given back.",
);
pub(crate) const COMMIT_SECONDS: Metric = metric(
    DURATIONS,
    "gen_durable_commit_duration_seconds",
    &[],
    "The time from a batch to the answer of its commit.",
);
pub(crate) const RETRIES: Metric = metric(
    COUNTER,
    "gen_durable_retries_total",
    &["activity"],
    "Failures of the database that an activity of the engine waits out and tries again.",
);
pub(crate) const INSERTS: Metric = metric(
    COUNTER,
    "gen_durable_inserts_total",
    &["by", "result"],
    "Instances that a call or an outcome inserted, or whose unique key was taken.",
);
pub(crate) const SIGNALS: Metric = metric(
    COUNTER,
    "gen_durable_signals_total",
    &["by", "result"],
    "Signals that a call or an outcome sent.",
);
pub(crate) const REAPED: Metric = metric(
    COUNTER,
    "gen_durable_reaped_total",
    &["result"],
    "Instances that this engine took from lost workers.",
);
pub(crate) const PRUNED: Metric = metric(
    COUNTER,
    "gen_durable_pruned_total",
    &[],
    "Ended instances that this engine deleted as their retention was over.",
);
pub(crate) const TURNS: Metric = metric(
    COUNTER,
    "gen_durable_limit_turns_total",
    &["limit", "result"],
    "Answers to limited runs that asked for their turns.",
);
pub(crate) const TICKS: Metric = metric(
    COUNTER,
    "gen_durable_schedule_ticks_total",
    &["schedule", "result"],
    "Ticks that this engine dealt with.",
);
pub(crate) const RENEWALS: Metric = metric(
    COUNTER,
    "gen_durable_lease_renewals_total",
    &["result"],
    "Renewals of the worker's lease.",
);
pub(crate) const LEASE_LEFT_SECONDS: Metric = metric(
    DURATIONS,
    "gen_durable_lease_left_seconds",
    &[],
    "The rest of the lease at each renewal, or failure to renew it.",
);
pub(crate) const SAMPLES: Metric = metric(
    COUNTER,
    "gen_durable_samples_total",
    &["result"],
    "Looks at the whole database that this engine took as the observer.",
);
pub(crate) const OBSERVES: Metric = metric(
    GAUGE,
    "gen_durable_observes",
    &[],
    "1 in the process that shows the database's view, 0 in the others.",
);
pub(crate) const DEPTH: Metric = metric(
    GAUGE,
    "gen_durable_depth",
    &["queue", "waits"],
    "Instances of the queue, by what they wait for, up to a bound.",
);
pub(crate) const OLDEST_SECONDS: Metric = metric(
    TIME,
    "gen_durable_oldest_age_seconds",
    &["queue", "waits"],
    "The age of the oldest instance of the queue that waits for this.",
);
pub(crate) const LIMIT_IN_USE: Metric = metric(
    GAUGE,
    "gen_durable_limit_in_use",
    &["limit"],
    "The weight of the runs that the limit has admitted and that have not ended.",
);
pub(crate) const LIMIT_WAITING: Metric = metric(
    GAUGE,
    "gen_durable_limit_waiting",
    &["limit"],
    "Instances that the limit holds back, up to a bound.",
);
pub(crate) const LIMIT_AT_ONCE: Metric = metric(
    GAUGE,
    "gen_durable_limit_at_once",
    &["limit"],
    "The bound in force of the runs at once, for each key. None if there is no such bound.",
);
pub(crate) const LIMIT_RATE: Metric = metric(
    GAUGE,
    "gen_durable_limit_starts_per_second",
    &["limit"],
    "The bound in force of the starts per second, for each key. None if there is no such bound.",
);
pub(crate) const SCHEDULE_NEXT: Metric = metric(
    TIME,
    "gen_durable_schedule_next_timestamp_seconds",
    &["schedule"],
    "The next tick, in seconds since 1970.",
);
pub(crate) const SCHEDULE_LAST: Metric = metric(
    TIME,
    "gen_durable_schedule_last_timestamp_seconds",
    &["schedule"],
    "The last tick that fired, in seconds since 1970.",
);
pub(crate) const SCHEDULE_FAILING: Metric = metric(
    GAUGE,
    "gen_durable_schedule_failing",
    &["schedule"],
    "1 if the last tick of the schedule could insert no instance, otherwise 0.",
);
pub(crate) const SCHEDULE_PAUSED: Metric = metric(
    GAUGE,
    "gen_durable_schedule_paused",
    &["schedule"],
    "1 if an operator has paused the schedule, otherwise 0.",
);
pub(crate) const WORKERS: Metric = metric(
    GAUGE,
    "gen_durable_workers",
    &["lease"],
    "Workers whose lease runs, and whose lease has run out.",
);

/// All metrics, in the order of the guide.
pub(crate) const ALL: [Metric; 34] = [
    STEPS,
    STEP_ERRORS,
    STEP_SECONDS,
    WAITING_SECONDS,
    SLOTS,
    SLOTS_IN_USE,
    CLAIMS,
    CLAIM_SECONDS,
    CLAIMED,
    COMMITS,
    COMMITTED,
    COMMIT_SECONDS,
    INSERTS,
    SIGNALS,
    RETRIES,
    RENEWALS,
    LEASE_LEFT_SECONDS,
    REAPED,
    PRUNED,
    TURNS,
    TICKS,
    SAMPLES,
    OBSERVES,
    DEPTH,
    OLDEST_SECONDS,
    LIMIT_IN_USE,
    LIMIT_WAITING,
    LIMIT_AT_ONCE,
    LIMIT_RATE,
    SCHEDULE_NEXT,
    SCHEDULE_LAST,
    SCHEDULE_FAILING,
    SCHEDULE_PAUSED,
    WORKERS,
];
