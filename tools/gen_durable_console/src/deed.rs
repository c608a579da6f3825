//! The actions of operators, and their subjects.
//!
//! Invariant: `Act::read` accepts only the pairs of action and subject in `Subject::deeds`. It
//! refuses all others before any statement is sent.

use crate::{
    filter::Filter,
    url::{BadParam, Params, Query},
    view::{AuditFilter, View},
};

/// The kind of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Deed {
    Cancel,
    Kill,
    Retry,
    RunNow,
    Pause,
    Resume,
    Delete,
    Fork,
    Set,
    Reset,
    Stop,
}

impl Deed {
    const ALL: [Self; 11] = [
        Self::Cancel,
        Self::Kill,
        Self::Retry,
        Self::RunNow,
        Self::Pause,
        Self::Resume,
        Self::Delete,
        Self::Fork,
        Self::Set,
        Self::Reset,
        Self::Stop,
    ];

    /// Returns its name in a URL.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Kill => "kill",
            Self::Retry => "retry",
            Self::RunNow => "run-now",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Delete => "delete",
            Self::Fork => "fork",
            Self::Set => "set",
            Self::Reset => "reset",
            Self::Stop => "stop",
        }
    }

    /// Returns its name on a button.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Cancel => "Cancel",
            Self::Kill => "Kill",
            Self::Retry => "Retry",
            Self::RunNow => "Run now",
            Self::Pause => "Pause",
            Self::Resume => "Resume",
            Self::Delete => "Delete",
            Self::Fork => "Fork",
            Self::Set => "Set bounds",
            Self::Reset => "Reset bounds",
            Self::Stop => "Stop",
        }
    }

    /// Returns the word for it, once it is done.
    pub(crate) const fn done(self) -> &'static str {
        match self {
            Self::Cancel => "Cancelled",
            Self::Kill => "Killed",
            Self::Retry => "Retried",
            Self::RunNow => "Due now",
            Self::Pause => "Paused",
            Self::Resume => "Resumed",
            Self::Delete => "Deleted",
            Self::Fork => "Forked",
            Self::Set => "Bounds set",
            Self::Reset => "Bounds reset",
            Self::Stop => "Stopping",
        }
    }

    /// True if it ends or deletes instances. A retry can revive a cancelled instance, but not a
    /// deleted one.
    pub(crate) const fn is_final(self) -> bool {
        matches!(self, Self::Cancel | Self::Kill | Self::Delete)
    }

    pub(crate) fn read(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|deed| deed.as_str() == name)
    }
}

/// The thing that an action changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Instance(i64),
    /// A run of an instance, by the number of its entry in the history.
    Entry {
        instance: i64,
        entry: i64,
    },
    Instances(Filter),
    Queue(String),
    Machine(String),
    Step {
        machine: String,
        step: String,
    },
    Schedule(String),
    Limit(String),
    /// An action on many instances.
    Bulk(u64),
}

/// An action that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Act {
    pub(crate) deed: Deed,
    pub(crate) subject: Subject,
}

impl Act {
    pub(crate) const fn new(deed: Deed, subject: Subject) -> Self {
        Self { deed, subject }
    }

    /// Reads the names and values of a URL or a form.
    pub(crate) fn read(params: &Params) -> Result<Self, BadParam> {
        let deed = params.get("deed").and_then(Deed::read).ok_or(BadParam("deed"))?;
        let id = |name| params.read(name)?.ok_or(BadParam(name));
        let subject = match params.get("on") {
            Some("instance") => Subject::Instance(id("id")?),
            Some("entry") => Subject::Entry { instance: id("id")?, entry: id("entry")? },
            Some("instances") => Subject::Instances(Filter::read(params)?),
            Some("queue") => Subject::Queue(params.need("name")?),
            Some("machine") => Subject::Machine(params.need("name")?),
            Some("step") => {
                Subject::Step { machine: params.need("name")?, step: params.need("step")? }
            }
            Some("schedule") => Subject::Schedule(params.need("name")?),
            Some("limit") => Subject::Limit(params.need("name")?),
            Some("bulk") => Subject::Bulk(params.read("id")?.ok_or(BadParam("id"))?),
            _ => return Err(BadParam("on")),
        };
        if subject.allows(deed) { Ok(Self { deed, subject }) } else { Err(BadParam("deed")) }
    }

    /// Returns what a URL or a form says of it.
    pub(crate) fn fields(&self) -> Query {
        let query = Query::new().with("deed", self.deed.as_str());
        match &self.subject {
            Subject::Instance(id) => query.with("on", "instance").with("id", id),
            Subject::Entry { instance, entry } => {
                query.with("on", "entry").with("id", instance).with("entry", entry)
            }
            Subject::Instances(filter) => {
                let query = query.with("on", "instances");
                filter
                    .fields()
                    .pairs()
                    .iter()
                    .fold(query, |query, (name, value)| query.with(name, value))
            }
            Subject::Queue(name) => query.with("on", "queue").with("name", name),
            Subject::Machine(name) => query.with("on", "machine").with("name", name),
            Subject::Step { machine, step } => {
                query.with("on", "step").with("name", machine).with("step", step)
            }
            Subject::Schedule(name) => query.with("on", "schedule").with("name", name),
            Subject::Limit(name) => query.with("on", "limit").with("name", name),
            Subject::Bulk(id) => query.with("on", "bulk").with("id", id),
        }
    }
}

impl Subject {
    /// Returns what can be done to it.
    pub(crate) fn deeds(&self) -> &'static [Deed] {
        match self {
            Self::Instance(_) | Self::Instances(_) => &[
                Deed::Retry,
                Deed::RunNow,
                Deed::Pause,
                Deed::Resume,
                Deed::Cancel,
                Deed::Kill,
                Deed::Delete,
            ],
            Self::Entry { .. } => &[Deed::Fork],
            Self::Queue(_) | Self::Machine(_) | Self::Step { .. } => &[Deed::Pause, Deed::Resume],
            Self::Schedule(_) => &[Deed::RunNow, Deed::Pause, Deed::Resume],
            Self::Limit(_) => &[Deed::Set, Deed::Reset],
            Self::Bulk(_) => &[Deed::Stop],
        }
    }

    fn allows(&self, deed: Deed) -> bool {
        self.deeds().contains(&deed)
    }

    /// Returns the page that shows it.
    pub(crate) fn view(&self) -> View {
        match self {
            Self::Instance(id) => View::Instance { id: *id, before: None },
            Self::Entry { instance, entry } => View::Entry { instance: *instance, entry: *entry },
            Self::Instances(filter) => View::Instances { filter: filter.clone(), before: None },
            Self::Queue(_) => View::Queues,
            Self::Machine(name) | Self::Step { machine: name, .. } => {
                View::Machine { name: name.clone(), version: None }
            }
            Self::Schedule(_) => View::Schedules { after: None },
            Self::Limit(name) => View::Limit { name: name.clone(), after: None },
            Self::Bulk(id) => View::Bulk { id: *id },
        }
    }

    /// Returns the page to show after an action: for a deleted instance, its audit.
    pub(crate) fn view_after(&self, deed: Deed) -> View {
        match self {
            Self::Instance(id) if deed == Deed::Delete => {
                let filter = AuditFilter { instance: Some(*id), ..AuditFilter::default() };
                View::Audit { filter, before: None }
            }
            _ => self.view(),
        }
    }

    /// Names it in words.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Instance(id) => format!("instance {id}"),
            Self::Entry { instance, entry } => format!("instance {instance} from entry {entry}"),
            Self::Instances(filter) => filter.words(),
            Self::Queue(name) => format!("queue {name}"),
            Self::Machine(name) => format!("machine {name}"),
            Self::Step { machine, step } => format!("step {machine}@{step}"),
            Self::Schedule(name) => format!("schedule {name}"),
            Self::Limit(name) => format!("limit {name}"),
            Self::Bulk(id) => format!("action {id} on many instances"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &Query) -> Result<Act, BadParam> {
        let pairs = query.pairs().iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Act::read(&Params(pairs.collect()))
    }

    #[test]
    fn each_pair_is_read_back_and_no_other_is() {
        let name = "a/b \"<script>".to_owned();
        let subjects = [
            Subject::Instance(i64::MAX),
            Subject::Entry { instance: 1, entry: 2 },
            Subject::Instances(Filter::of_step(&name, &name)),
            Subject::Queue(name.clone()),
            Subject::Machine(name.clone()),
            Subject::Step { machine: name.clone(), step: name.clone() },
            Subject::Schedule(name.clone()),
            Subject::Limit(name.clone()),
            Subject::Bulk(3),
        ];
        for subject in subjects {
            for deed in Deed::ALL {
                let act = Act::new(deed, subject.clone());
                let allowed = subject.allows(deed);
                let expected = if allowed { Ok(act.clone()) } else { Err(BadParam("deed")) };
                assert_eq!(read(&act.fields()), expected, "{act:?}");
            }
        }
    }
}
