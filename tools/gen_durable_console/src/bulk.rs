//! Actions on many instances, which go on after the request that began them.
//!
//! Invariant: an action on many is held by this process alone. If the process ends, what was done
//! stays done, and the same action can be begun again.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use gen_durable::operate::Counts;
use tokio::sync::watch;

use crate::deed::Deed;

/// The most actions on many that are under way at a time.
const UNDER_WAY_MAX: usize = 4;
/// The most actions that are remembered, with those that have ended.
const KEPT_MAX: usize = 100;

#[derive(Debug, Default)]
pub(crate) struct BulkActions {
    inner: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    actions: BTreeMap<u64, Arc<BulkAction>>,
}

/// An action on many instances.
#[derive(Debug)]
pub(crate) struct BulkAction {
    deed: Deed,
    words: String,
    back: String,
    by: String,
    began: SystemTime,
    state: Mutex<State>,
    stopped: watch::Sender<bool>,
}

#[derive(Clone, Debug, Default)]
struct State {
    counts: Counts,
    ended: Option<(SystemTime, Option<String>)>,
}

/// The progress of an action.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) id: u64,
    pub(crate) deed: Deed,
    /// The instances, in words.
    pub(crate) words: String,
    /// The path of their list.
    pub(crate) back: String,
    pub(crate) by: String,
    pub(crate) began: SystemTime,
    pub(crate) counts: Counts,
    /// The end, and the error if there was one.
    pub(crate) ended: Option<(SystemTime, Option<String>)>,
}

impl BulkActions {
    /// Notes an action that begins. None if too many are under way.
    pub(crate) fn begin(
        &self,
        deed: Deed,
        words: String,
        back: String,
        by: String,
    ) -> Option<(u64, Arc<BulkAction>)> {
        let mut kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.actions.values().filter(|action| !action.has_ended()).count() >= UNDER_WAY_MAX {
            return None;
        }
        while kept.actions.len() >= KEPT_MAX {
            let oldest =
                kept.actions.iter().find(|(_, action)| action.has_ended()).map(|(id, _)| *id);
            kept.actions.remove(&oldest?);
        }
        kept.last += 1;
        let action = Arc::new(BulkAction {
            deed,
            words,
            back,
            by,
            began: SystemTime::now(),
            state: Mutex::default(),
            stopped: watch::Sender::new(false),
        });
        let id = kept.last;
        kept.actions.insert(id, Arc::clone(&action));
        Some((id, action))
    }

    fn get(&self, id: u64) -> Option<Arc<BulkAction>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).actions.get(&id).map(Arc::clone)
    }

    pub(crate) fn standing(&self, id: u64) -> Option<Standing> {
        let action = self.get(id)?;
        let state = action.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(Standing {
            id,
            deed: action.deed,
            words: action.words.clone(),
            back: action.back.clone(),
            by: action.by.clone(),
            began: action.began,
            counts: state.counts,
            ended: state.ended,
        })
    }

    /// Stops an action after its present batch. Returns whether it is known.
    pub(crate) fn stop(&self, id: u64) -> bool {
        self.get(id).map(|action| action.stopped.send_replace(true)).is_some()
    }

    /// Stops all of them.
    pub(crate) fn stop_all(&self) {
        let kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for action in kept.actions.values() {
            action.stopped.send_replace(true);
        }
    }
}

impl BulkAction {
    /// Notes the progress, and says whether to go on.
    pub(crate) fn progress(&self, counts: &Counts) -> ControlFlow<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).counts = *counts;
        if *self.stopped.borrow() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub(crate) fn end(&self, result: Result<Counts, String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match result {
            Ok(counts) => {
                state.counts = counts;
                None
            }
            Err(error) => Some(error),
        };
        state.ended = Some((SystemTime::now(), error));
    }

    fn has_ended(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(bulk: &BulkActions) -> Option<(u64, Arc<BulkAction>)> {
        bulk.begin(Deed::Retry, "all".to_owned(), "/instances".to_owned(), "ada".to_owned())
    }

    #[test]
    fn few_are_under_way_and_few_are_remembered() {
        let bulk = BulkActions::default();
        let mut under_way: Vec<_> = (0..UNDER_WAY_MAX).filter_map(|_| begin(&bulk)).collect();
        assert!(begin(&bulk).is_none());
        for _ in 0..2 * KEPT_MAX {
            let (_, action) = under_way.remove(0);
            action.end(Ok(Counts::default()));
            under_way.extend(begin(&bulk));
            assert_eq!(under_way.len(), UNDER_WAY_MAX);
        }
        assert!(bulk.standing(1).is_none());
        assert_eq!(bulk.inner.lock().expect("no panic").actions.len(), KEPT_MAX);
    }

    #[test]
    fn one_that_is_stopped_breaks_off() {
        let bulk = BulkActions::default();
        let (id, action) = begin(&bulk).expect("room");
        assert_eq!(action.progress(&Counts::default()), ControlFlow::Continue(()));
        assert!(bulk.stop(id) && !bulk.stop(id + 1));
        assert_eq!(action.progress(&Counts::default()), ControlFlow::Break(()));
        action.end(Err("no".to_owned()));
        let ended = bulk.standing(id).and_then(|standing| standing.ended);
        assert_eq!(ended.and_then(|(_, error)| error).as_deref(), Some("no"));
    }
}
