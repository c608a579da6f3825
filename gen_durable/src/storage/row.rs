//! The rows that storage takes and gives.
//!
//! Invariant: they are plain data, without any behaviour of the engine.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::history::Record;
use crate::{meters::RunEnd, value::Json};

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
    /// The row is not announced.
    pub(crate) silent: bool,
    pub(crate) report_to: Option<Receiver>,
    /// The outcome that carries the row is refused if its unique key is taken.
    pub(crate) refuses_taken: bool,
    /// The context of the span that inserts it.
    pub(crate) trace_context: Option<String>,
}

/// The instance that a new one reports its end to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Receiver {
    Instance(i64),
    /// The instance of a machine that holds a unique key when the insert is executed.
    Key {
        fsm: &'static str,
        key: String,
    },
    /// The instance whose outcome carries the insert.
    Sender,
}

impl NewInstance {
    /// True if the row is announced to engines that look by themselves within `next_look`. That
    /// look finds a row that is due later, and its time.
    pub(crate) fn is_announced(&self, next_look: Duration) -> bool {
        let due_in = match self.eligible {
            Eligible::Now => Duration::ZERO,
            Eligible::In(delay) => delay,
            // The clock is this host's. If the database's clock is ahead of it, the poll finds the
            // row.
            Eligible::At(time) => time.duration_since(SystemTime::now()).unwrap_or_default(),
        };
        !self.silent && due_in <= next_look
    }
}

/// The time from which an instance may run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Eligible {
    Now,
    In(Duration),
    At(SystemTime),
}

/// The instance that a signal is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Addressee {
    Id(i64),
    /// The instance of the signal's machine that holds this unique key.
    Key(String),
}

impl NewSignal {
    /// Returns the unique key that the target must hold, if it is addressed by that.
    pub(crate) fn unique_key(&self) -> Option<&str> {
        match &self.target {
            Addressee::Key(key) => Some(key),
            Addressee::Id(_) => None,
        }
    }
}

impl fmt::Display for Addressee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "instance {id}"),
            Self::Key(key) => write!(f, "the instance that holds the unique key `{key}`"),
        }
    }
}

/// A new row of `signals`.
#[derive(Clone, Debug)]
pub(crate) struct NewSignal {
    pub(crate) target: Addressee,
    /// The machine that the target must be of. None for an untyped call.
    pub(crate) fsm: Option<String>,
    pub(crate) name: String,
    pub(crate) payload: Json,
    pub(crate) dedup_key: Option<String>,
    /// The target is not announced if the signal wakes it.
    pub(crate) silent: bool,
    /// The context of the span that sends it.
    pub(crate) trace_context: Option<String>,
}

/// A machine in a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub(crate) fsm: String,
    pub(crate) fsm_version: i32,
}

/// The request of a claim.
#[derive(Debug)]
pub(crate) struct ClaimRequest {
    pub(crate) worker: i64,
    pub(crate) queues: Vec<String>,
    /// The most rows to claim, for each queue.
    pub(crate) wanted: Vec<i64>,
    /// The part of them, for each queue, for which there are no free slots. With it the claim looks
    /// beyond as many stuck rows.
    pub(crate) beyond: Vec<i64>,
    pub(crate) kinds: Arc<Kinds>,
    /// The queues to claim even if another claim has their claim lock.
    pub(crate) without_lock: Vec<String>,
    /// The watermarks from which to look. A group without one is looked at from the beginning.
    pub(crate) known: Vec<First>,
    /// True if the last claims met no row outside the known groups.
    pub(crate) settled: bool,
    /// The bytes that the states of one claim may weigh.
    pub(crate) bytes_max: i64,
    /// The reason for a light claim, which leaves out large states and all signals. None for a
    /// claim of whole rows.
    pub(crate) light: Option<Arc<str>>,
}

impl ClaimRequest {
    /// Divides the request into parts of at most `queues_max` queues.
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
            settled: self.settled,
            bytes_max: self.bytes_max,
            light: self.light.clone(),
        })
    }
}

/// A watermark: the place of the first waiting row that a claim saw in a group, which is a queue,
/// machine, version and priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) queue: String,
    /// The machine's index in the [`Kinds`].
    pub(crate) kind: usize,
    pub(crate) priority: i16,
    /// The time at which the row was due, in microseconds since 1970. None if the next claim must
    /// look from the beginning.
    pub(crate) since: Option<i64>,
}

/// The machines that a process knows, in the form in which the statements take them.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    pub(crate) fsms: Vec<String>,
    pub(crate) versions: Vec<i32>,
    /// The machines among them that declare signals.
    pub(crate) listening: Vec<String>,
}

impl Kinds {
    pub(super) fn in_queues<'a>(&'a self, queues: impl IntoIterator<Item = &'a str>) -> Places<'a> {
        let mut places = Places { queues: Vec::new(), fsms: Vec::new(), versions: Vec::new() };
        for queue in queues {
            for (fsm, version) in self.fsms.iter().zip(&self.versions) {
                places.queues.push(queue);
                places.fsms.push(fsm);
                places.versions.push(*version);
            }
        }
        places
    }

    pub(super) fn contains(&self, kind: &Kind) -> bool {
        self.fsms
            .iter()
            .zip(&self.versions)
            .any(|(fsm, version)| *fsm == kind.fsm && *version == kind.fsm_version)
    }
}

/// Each of several queues with each of several machines and versions, queue by queue.
pub(super) struct Places<'a> {
    pub(super) queues: Vec<&'a str>,
    pub(super) fsms: Vec<&'a str>,
    pub(super) versions: Vec<i32>,
}

/// A row that was claimed.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) id: i64,
    pub(crate) worker: i64,
    pub(crate) revision: i64,
    pub(crate) kind: Kind,
    pub(crate) step: String,
    /// The stored state. None if it was too large to be loaded.
    pub(crate) state: Option<String>,
    pub(crate) queue: String,
    pub(crate) partition_key: Option<String>,
    pub(crate) attempt: i32,
    pub(crate) failures: i32,
    pub(crate) timed_out: bool,
    /// The instance to which this one reports its end.
    pub(crate) report_to: Option<i64>,
    /// The context of the span that made the row due, after a `-` if the run is only linked to it.
    pub(crate) trace_context: Option<String>,
    /// The database's time at the claim.
    pub(crate) now: SystemTime,
    /// The time for which the row had been due at the claim.
    pub(crate) waited: Duration,
    pub(crate) inbox: Inbox,
}

/// The oldest signals of an inbox, or of its new part.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) signals: Vec<InboxRow>,
    /// True if there are more signals after these.
    pub(crate) more: bool,
}

/// A request for signals of an inbox that are not loaded.
#[derive(Debug)]
pub(crate) struct Missing {
    /// The name of the signals to load. None loads all names.
    pub(crate) name: Option<String>,
    /// The id after which signals are loaded.
    pub(crate) after: i64,
    /// The id of the newest signal up to which all are loaded already.
    pub(crate) loaded: i64,
    pub(crate) count_max: i64,
    /// The bytes within which each loaded signal begins.
    pub(crate) bytes_max: i64,
}

/// Signals that were loaded later than their inbox.
#[derive(Debug, Default)]
pub(crate) struct Portion {
    pub(crate) signals: Vec<InboxRow>,
    /// The number of signals, by name, that come after all signals up to which the inbox is loaded.
    pub(crate) beyond: Vec<(String, usize)>,
    /// The id of the newest counted signal.
    pub(crate) last: Option<i64>,
}

/// A signal in an inbox: id, name, payload, and the context of the sender's span.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct InboxRow(
    pub(crate) i64,
    pub(crate) String,
    pub(crate) Box<serde_json::value::RawValue>,
    pub(crate) Option<Box<str>>,
);

/// A claimed row that its worker does not know of.
#[derive(Debug)]
pub(crate) struct LostClaim {
    pub(crate) id: i64,
    pub(crate) kind: Kind,
    pub(crate) revision: i64,
    pub(crate) partition_key: Option<String>,
}

/// The time from now until the next row may run, and until the next park times out.
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
    /// The attempt of the step at which the row stands from here on. It is stored only if [a
    /// run](Change::ran) that counts led to the change.
    pub(crate) attempt: i32,
    /// The failed runs in a row of that step. They are stored under the same condition.
    pub(crate) failures: i32,
    pub(crate) change: Change,
    /// The new state. None leaves the stored state as it is.
    pub(crate) state: Option<Json>,
    /// The version and step that are written with the state of an upgraded instance.
    pub(crate) upgraded: Option<Upgraded>,
    /// The text to record as `last_error`. None keeps the last one.
    pub(crate) error: Option<String>,
    /// The run, if the history takes it.
    pub(crate) record: Option<Box<Record>>,
    /// The signals that the outcome deletes, in the order of their ids.
    pub(crate) consumed: Vec<i64>,
    /// The newest signal that the worker knows of.
    pub(crate) known: i64,
    /// The step awaits these names, and the inbox has signals of them that were not loaded. The row
    /// keeps its claim, and the step runs again with them.
    pub(crate) awaits_loaded: Option<Vec<&'static str>>,
    pub(crate) inserts: Vec<NewInstance>,
    pub(crate) signals: Vec<NewSignal>,
    pub(crate) partition_key: Option<String>,
    /// The instance to which this one reports its end.
    pub(crate) report_to: Option<i64>,
    /// The machine declares signals, so its instances have an inbox to load and to empty.
    pub(crate) listens: bool,
    /// The context of the run's span, if the outcome reports an end.
    pub(crate) trace_context: Option<String>,
}

/// The next stage of a committed row.
#[derive(Debug)]
pub(crate) enum Change {
    /// The row goes on to the next step, on the same claim.
    Next {
        step: &'static str,
    },
    /// The row goes to the next step, through the queue.
    Later {
        step: &'static str,
        delay: Duration,
    },
    /// The row goes to the same step, through the queue. The next run is told `timed_out` as this
    /// run was.
    Repeat {
        delay: Duration,
        timed_out: bool,
    },
    Await {
        names: Vec<&'static str>,
        /// The signals of these names that the step has seen.
        seen: Vec<i64>,
        /// The number of signals, seen or not, with which the row wakes. None wakes it with the
        /// first that the step has not seen.
        count: Option<i64>,
        timeout: Option<Duration>,
    },
    Done {
        result: Json,
    },
    Failed,
    /// The row goes back to the queue, as if it had not been claimed.
    Release,
    /// The row goes back in the same way, but does not run before `delay` has passed.
    Defer {
        delay: Duration,
    },
}

impl Change {
    /// True if a run led to the change. Otherwise the row keeps what it carried into the claim.
    pub(crate) fn ran(&self) -> bool {
        !matches!(self, Self::Release | Self::Defer { .. })
    }
}

/// The newer version to which an instance was upgraded, and its step in that version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upgraded {
    pub(crate) fsm_version: i32,
    pub(crate) step: &'static str,
}

impl Commit {
    /// Returns the outcome's name. `attempt` is that of the run.
    pub(crate) fn outcome(&self, attempt: i32) -> &'static str {
        self.run_end(attempt).map_or("released", RunEnd::as_str)
    }

    /// The same as a value. None if no run led to the outcome.
    pub(crate) fn run_end(&self, attempt: i32) -> Option<RunEnd> {
        Some(match &self.change {
            // It awaits signals that are in the inbox, and wakes at once.
            Change::Next { .. } if self.awaits_loaded.is_some() => RunEnd::Await,
            Change::Next { .. } => RunEnd::Next,
            // A step that lets others go first goes on without a delay.
            Change::Later { delay, .. } if delay.is_zero() => RunEnd::Next,
            Change::Later { .. } => RunEnd::Later,
            Change::Repeat { .. } if self.attempt > attempt => RunEnd::Replay,
            Change::Repeat { .. } => RunEnd::Snooze,
            Change::Await { .. } => RunEnd::Await,
            Change::Done { .. } => RunEnd::Done,
            Change::Failed => RunEnd::Failed,
            Change::Release | Change::Defer { .. } => return None,
        })
    }

    /// True if the outcome only has awaited signals loaded. Its run does not count.
    pub(crate) fn only_loads(&self) -> bool {
        self.awaits_loaded.is_some() && self.consumed.is_empty()
    }

    /// Returns the name of the signals that the outcome awaits several of, and their number.
    pub(crate) fn awaits_count(&self) -> Option<(&'static str, i64)> {
        match &self.change {
            Change::Await { names, count: Some(count), .. } => Some((names.first()?, *count)),
            _ => None,
        }
    }

    /// True if the outcome touches other rows than its own, and may have to wait for their locks.
    pub(crate) fn sends(&self) -> bool {
        !self.inserts.is_empty() || !self.signals.is_empty() || self.reports_to().is_some()
    }

    /// Returns the instance to which the outcome reports its end, if it ends the instance.
    pub(crate) fn reports_to(&self) -> Option<i64> {
        let ends = matches!(self.change, Change::Done { .. } | Change::Failed);
        self.report_to.filter(|_| ends)
    }

    /// True if the outcome may send a signal to its own instance. The inbox that a commit brings
    /// back for the next step is read before the signals are sent. Such a step therefore goes
    /// through the queue. Any unique key may be the instance's own, and any child with a unique key
    /// may be reported as taken.
    pub(crate) fn signals_itself(&self) -> bool {
        let signalled = self.signals.iter().any(|signal| match &signal.target {
            Addressee::Id(id) => *id == self.id,
            Addressee::Key(_) => true,
        });
        let mut inserts = self.inserts.iter().filter(|insert| insert.unique_key.is_some());
        signalled
            || inserts.any(|insert| match &insert.report_to {
                Some(Receiver::Instance(id)) => *id == self.id,
                Some(Receiver::Key { .. }) => true,
                Some(Receiver::Sender) | None => false,
            })
    }

    /// True if the worker keeps its claim.
    pub(crate) fn keeps_claim(&self) -> bool {
        matches!(self.change, Change::Next { .. })
    }
}
