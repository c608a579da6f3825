//! The row that registers a machine, as far as the machine's constants say it.
//!
//! Invariant: no step is needed for it, so a retired version has one too.

use super::Machine;
use crate::storage::NewMachine;

/// Returns the registered row of a machine, without a graph.
pub(crate) fn registered<M: Machine>() -> NewMachine {
    NewMachine {
        fsm: M::NAME,
        fsm_version: M::VERSION,
        queue: M::QUEUE,
        initial: M::INITIAL.name(),
        on_cancel: M::ON_CANCEL.map(|step| step.name()),
        steps: M::STEPS,
        signals: M::SIGNALS,
        graph: None,
        history: M::HISTORY.as_str(),
    }
}
