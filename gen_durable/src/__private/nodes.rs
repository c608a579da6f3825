//! A machine's graph as its expansion states it: a line of words for each step.
//!
//! Invariant: `expand/diagram.rs` of the macros writes these lines, and only this file reads them.
//! Code that builds the same structs would take the compiler longer than the steps do.
//!
//! A line begins with the step's name. The words after it are `next STEP`, `next_in STEP`,
//! `replay`, `snooze`, `await SIGNAL`, `await_or_timeout SIGNAL`, `done`, `stop`, `insert MACHINE`,
//! `spawn MACHINE`, `signal MACHINE SIGNAL`, `opaque`, `entry` and `transactional`. A `?` stands
//! for a machine or a signal that is not known.

use crate::machine::{
    Steps,
    graph::{Edge, Graph, Names, StepNode},
    limit::StepLimit,
};

/// Makes a graph, like [`Graph::new`]. The bound is [`Steps`] and not `Machine`. If the type is no
/// machine, the compiler says so at the implementation of [`Steps`], and not here again.
pub fn graph<M: Steps>(steps: &[&'static str]) -> Graph {
    graph_of(&Names::of::<M>(), steps)
}

/// Makes a graph. This is not generic, so it is compiled here and not with each machine.
fn graph_of(names: &Names, steps: &[&'static str]) -> Graph {
    Graph::of(names, steps.iter().map(|step| node(step)).collect())
}

/// Gives each step of a graph its limit. The lines do not state it, as a limit's name may be a
/// constant.
pub fn with_limits<M: Steps>(graph: Graph) -> Graph {
    limits_of(graph, |step| M::from_name(step)?.limit())
}

fn limits_of(mut graph: Graph, limit: fn(&str) -> Option<StepLimit>) -> Graph {
    for step in &mut graph.steps {
        step.limit = limit(step.name);
    }
    graph
}

/// Makes a step.
///
/// # Panics
///
/// The macros did not write the text.
pub fn node(text: &'static str) -> StepNode {
    let mut words = text.split(' ');
    let mut word = || words.next().filter(|word| !word.is_empty());
    let mut node = StepNode::new(word().unwrap_or_default(), []);
    while let Some(verb) = word() {
        let mut known = || word().filter(|word| *word != "?");
        let mut name = || known().unwrap_or_default();
        let edge = match verb {
            "next" => Edge::next(name()),
            "next_in" => Edge::Next { step: name(), delayed: true },
            "replay" => Edge::Replay,
            "snooze" => Edge::Snooze,
            "await" => Edge::wait(name()),
            "await_or_timeout" => Edge::Await { signal: name(), timeout: true },
            "done" => Edge::Done,
            "stop" => Edge::Stop,
            "insert" => Edge::Inserts { machine: known() },
            "spawn" => Edge::Spawns { machine: known() },
            "signal" => Edge::Sends { machine: known(), signal: known() },
            "opaque" => {
                node.opaque = true;
                continue;
            }
            "entry" => {
                node.entry = true;
                continue;
            }
            "transactional" => {
                node.transactional = true;
                continue;
            }
            other => unreachable!("`{other}` in the graph of a step: {text}"),
        };
        node.edges.push(edge);
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let text = "go next a next_in b replay snooze await c await_or_timeout d done stop insert E insert ? spawn F signal F g signal ? ? opaque entry transactional";
        let expected = [
            Edge::next("a"),
            Edge::Next { step: "b", delayed: true },
            Edge::Replay,
            Edge::Snooze,
            Edge::wait("c"),
            Edge::Await { signal: "d", timeout: true },
            Edge::Done,
            Edge::Stop,
            Edge::Inserts { machine: Some("E") },
            Edge::Inserts { machine: None },
            Edge::Spawns { machine: Some("F") },
            Edge::Sends { machine: Some("F"), signal: Some("g") },
            Edge::Sends { machine: None, signal: None },
        ];
        assert_eq!(node(text), StepNode::new("go", expected).opaque().entry().transactional());
        assert_eq!(node("go"), StepNode::new("go", []));
    }
}
