//! Decides if the history takes a run.
//!
//! Invariant: whatever decides, what is recorded of a run is what its outcome commits.

use super::{Work, storable};
use crate::{
    history::History,
    storage::{Change, Commit, Record},
};

impl Work {
    /// Attaches to an outcome what the history of its machine takes of the run. `failed` is the
    /// run's error, if it failed.
    pub(super) fn record(&self, commit: &mut Commit, failed: Option<&str>) {
        let level = self.runner.history();
        let has_failed = failed.is_some() || matches!(commit.change, Change::Failed);
        let takes = match level {
            History::Off => false,
            History::Failures => has_failed,
            History::Steps | History::States => has_failed || !commit.only_loads(),
        };
        if !takes || !commit.change.ran() || commit.record.is_some() {
            return;
        }
        let instance = &self.instance;
        let upgraded = commit.upgraded;
        commit.record = Some(Box::new(Record {
            step: upgraded.map_or_else(|| instance.step.clone(), |upgraded| upgraded.step.into()),
            fsm_version: upgraded.map_or(self.fsm_version, |upgraded| upgraded.fsm_version),
            attempt: i32::try_from(instance.attempt).unwrap_or(i32::MAX),
            began: self.began,
            error: failed.map(|error| storable(error.to_owned())),
            has_state: level == History::States,
        }));
    }
}
