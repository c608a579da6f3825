//! The rows that storage takes and gives.
//!
//! Invariant: plain data, no behaviour of the engine's.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::value::Json;

/// A new row of `instances`.
#[derive(Clone, Debug)]
pub(crate) struct NewInstance {
    pub(crate) fsm: &'static str,
    pub(crate) fsm_version: u32,
    pub(crate) step: &'static str,
    pub(crate) state: Json,
    pub(crate) queue: String,
    pub(crate) priority: i16,
    pub(crate) eligible: Eligible,
    pub(crate) partition_key: Option<String>,
    pub(crate) unique_key: Option<String>,
    pub(crate) unique_scope: Vec<crate::status::Status>,
    /// Nobody is told of it.
    pub(crate) silent: bool,
}

impl NewInstance {
    /// Tells whether to announce it to engines that look by themselves within this time. Their look
    /// sees every row that is due later, and when.
    pub(crate) fn is_news(&self, next_look: Duration) -> bool {
        let due_in = match self.eligible {
            Eligible::Now => Duration::ZERO,
            Eligible::In(delay) => delay,
            // By this host's clock. If the database's is ahead, the poll finds the row.
            Eligible::At(time) => time.duration_since(SystemTime::now()).unwrap_or_default(),
        };
        !self.silent && due_in <= next_look
    }
}

/// From when on an instance may run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Eligible {
    Now,
    In(Duration),
    At(SystemTime),
}

/// A new row of `signals`.
#[derive(Clone, Debug)]
pub(crate) struct NewSignal {
    pub(crate) target: i64,
    /// The machine that the target must be of; none for an untyped call.
    pub(crate) fsm: Option<String>,
    pub(crate) name: String,
    pub(crate) payload: Json,
    pub(crate) dedup_key: Option<String>,
    /// Nobody is told of the target that it wakes.
    pub(crate) silent: bool,
}

/// A machine in a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub(crate) fsm: String,
    pub(crate) fsm_version: i32,
}

/// What a claim asks for.
#[derive(Debug)]
pub(crate) struct ClaimRequest {
    pub(crate) worker: i64,
    pub(crate) queues: Vec<String>,
    /// Rows wanted, for each queue.
    pub(crate) wanted: Vec<i64>,
    /// How many of them, for each queue, there is no room for: the claim looks beyond as many that are stuck.
    pub(crate) beyond: Vec<i64>,
    pub(crate) kinds: Arc<Kinds>,
    /// The queues to claim also where another claim has the queue's turn.
    pub(crate) without_lock: Vec<String>,
    /// From where on to look; where nothing is said, from the beginning.
    pub(crate) known: Vec<First>,
    /// The bytes that the states of one claim may take.
    pub(crate) bytes_max: i64,
    /// Why large states and all signals are left out, if they are.
    pub(crate) light: Option<Arc<str>>,
}

impl ClaimRequest {
    /// The same for so many queues at a time.
    pub(crate) fn parts(&self, queues_max: usize) -> impl Iterator<Item = Self> {
        let queues = self.queues.chunks(queues_max);
        let rows = self.wanted.chunks(queues_max).zip(self.beyond.chunks(queues_max));
        queues.zip(rows).map(|(queues, (wanted, beyond))| Self {
            worker: self.worker,
            queues: queues.to_vec(),
            wanted: wanted.to_vec(),
            beyond: beyond.to_vec(),
            kinds: Arc::clone(&self.kinds),
            without_lock: self.without_lock.clone(),
            known: self.known.clone(),
            bytes_max: self.bytes_max,
            light: self.light.clone(),
        })
    }
}

/// Where the first row was that a claim saw waiting, of a queue, machine, version and priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) queue: String,
    /// The machine's place among the [`Kinds`].
    pub(crate) kind: usize,
    pub(crate) priority: i16,
    /// When it was due, in microseconds since 1970; none if the next look must begin at the beginning.
    pub(crate) since: Option<i64>,
}

/// The machines that a process knows, as the statements take them.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    pub(crate) fsms: Vec<String>,
    pub(crate) versions: Vec<i32>,
    /// Those of the machines that declare signals.
    pub(crate) listening: Vec<String>,
}

/// A row that was claimed.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) id: i64,
    pub(crate) worker: i64,
    pub(crate) revision: i64,
    pub(crate) kind: Kind,
    pub(crate) step: String,
    /// None if it is too large to be loaded.
    pub(crate) state: Option<String>,
    pub(crate) queue: String,
    pub(crate) partition_key: Option<String>,
    pub(crate) attempt: i32,
    pub(crate) failures: i32,
    pub(crate) timed_out: bool,
    /// The database's time at the claim.
    pub(crate) now: SystemTime,
    pub(crate) inbox: Inbox,
}

/// The oldest signals of an inbox, or of what is new in it.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) signals: Vec<InboxRow>,
    /// Whether there are others after them.
    pub(crate) more: bool,
}

/// Which signals of an inbox to load.
#[derive(Debug)]
pub(crate) struct Missing {
    /// Those of this name alone.
    pub(crate) name: Option<String>,
    /// Those after this one.
    pub(crate) after: i64,
    /// The newest signal up to which all are loaded.
    pub(crate) loaded: i64,
    pub(crate) count_max: i64,
    /// Those that begin within so many bytes.
    pub(crate) bytes_max: i64,
}

/// Signals that were loaded later.
#[derive(Debug, Default)]
pub(crate) struct Portion {
    pub(crate) signals: Vec<InboxRow>,
    /// How many there are after that up to which all are loaded, by name.
    pub(crate) beyond: Vec<(String, usize)>,
    /// The last of those.
    pub(crate) last: Option<i64>,
}

/// A signal in an inbox: id, name, payload.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct InboxRow(
    pub(crate) i64,
    pub(crate) String,
    pub(crate) Box<serde_json::value::RawValue>,
);

/// A claimed row that its worker does not know of.
#[derive(Debug)]
pub(crate) struct LostClaim {
    pub(crate) id: i64,
    pub(crate) kind: Kind,
    pub(crate) revision: i64,
    pub(crate) partition_key: Option<String>,
}

/// When something is due next, from now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Due {
    pub(crate) eligible: Option<Duration>,
    pub(crate) wake: Option<Duration>,
}

/// The outcome of a step, as it is committed.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) id: i64,
    pub(crate) fsm: &'static str,
    pub(crate) worker: i64,
    pub(crate) revision: i64,
    /// Runs of the step that it stands at from here on; of no matter if the change is no [run](Change::ran).
    pub(crate) attempt: i32,
    /// Runs of that step that failed in a row; likewise.
    pub(crate) failures: i32,
    pub(crate) change: Change,
    /// None leaves the stored state as it is.
    pub(crate) state: Option<Json>,
    /// What is written with the state of an instance that was upgraded.
    pub(crate) upgraded: Option<Upgraded>,
    /// Recorded as `last_error`.
    pub(crate) error: Option<String>,
    /// Signals that it deletes, in the order of their ids.
    pub(crate) consumed: Vec<i64>,
    /// The last signal that the worker knows of.
    pub(crate) known: i64,
    /// The step awaits these names, and some are in the inbox and were not loaded: it keeps its claim,
    /// and runs again with them.
    pub(crate) awaits_loaded: Option<Vec<&'static str>>,
    pub(crate) inserts: Vec<NewInstance>,
    pub(crate) signals: Vec<NewSignal>,
    pub(crate) partition_key: Option<String>,
    /// Whether the machine declares signals, and so has an inbox to load and to empty.
    pub(crate) listens: bool,
}

/// Where a committed row goes.
#[derive(Debug)]
pub(crate) enum Change {
    /// On to the next step on the same claim.
    Next {
        step: &'static str,
    },
    /// To the next step, through the queue.
    Later {
        step: &'static str,
        delay: Duration,
    },
    /// To the same step, through the queue; `timed_out` as the run was told.
    Repeat {
        delay: Duration,
        timed_out: bool,
    },
    Await {
        names: Vec<&'static str>,
        /// The signals of these names that the step has seen.
        seen: Vec<i64>,
        timeout: Option<Duration>,
    },
    Done {
        result: Json,
    },
    Failed,
    /// Back to the queue as if it had not been claimed.
    Release,
    /// Likewise, but not before `delay` has passed.
    Defer {
        delay: Duration,
    },
}

impl Change {
    /// Whether a run led to it. Otherwise the row keeps what it carried into the claim.
    pub(crate) fn ran(&self) -> bool {
        !matches!(self, Self::Release | Self::Defer { .. })
    }
}

/// The version that an instance of an older one has become, and the step at which it stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upgraded {
    pub(crate) fsm_version: i32,
    pub(crate) step: &'static str,
}

impl Commit {
    /// Whether it does no more than to have awaited signals loaded: the run counts as none.
    pub(crate) fn only_loads(&self) -> bool {
        self.awaits_loaded.is_some() && self.consumed.is_empty()
    }

    /// Whether it touches other rows than its own, and so may have to wait for others' locks.
    pub(crate) fn sends(&self) -> bool {
        !self.inserts.is_empty() || !self.signals.is_empty()
    }

    /// Whether it sends a signal to its own instance. The inbox that a commit brings back for the next
    /// step is read before the signals are sent, so such a step comes through the queue.
    pub(crate) fn signals_itself(&self) -> bool {
        self.signals.iter().any(|signal| signal.target == self.id)
    }

    /// Whether the worker keeps its claim.
    pub(crate) fn keeps_claim(&self) -> bool {
        matches!(self.change, Change::Next { .. })
    }
}
