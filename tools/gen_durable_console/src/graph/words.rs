//! The facts of a step beside its arrows, in words.

use gen_durable::graph::{Edge, StepNode};

/// Returns the facts of a step.
pub(super) fn facts(step: &StepNode<String>) -> Vec<String> {
    let mut facts = Vec::new();
    if step.transactional {
        facts.push("in a transaction".to_owned());
    }
    if let Some(limit) = &step.limit {
        facts.push(format!("limit {}", limit.name));
    }
    let some = |name: &Option<String>| name.clone().unwrap_or_else(|| "another machine".to_owned());
    for edge in &step.edges {
        match edge {
            Edge::Inserts { machine } => facts.push(format!("inserts {}", some(machine))),
            Edge::Spawns { machine } => facts.push(format!("spawns {}", some(machine))),
            Edge::Sends { machine, signal: Some(signal) } => {
                facts.push(format!("sends {signal} to {}", some(machine)));
            }
            Edge::Sends { machine, signal: None } => {
                facts.push(format!("signals {}", some(machine)));
            }
            Edge::Stop => facts.push("may stop".to_owned()),
            _ => {}
        }
    }
    if step.opaque {
        facts.push("its code does not tell all".to_owned());
    }
    facts.dedup();
    facts
}

/// Returns the ways back to the step itself.
pub(super) fn loops(step: &StepNode<String>) -> Vec<String> {
    let mut loops = Vec::new();
    for edge in &step.edges {
        match edge {
            Edge::Await { signal, timeout: false } => loops.push(format!("awaits {signal}")),
            Edge::Await { signal, timeout: true } => {
                loops.push(format!("awaits {signal} or a timeout"));
            }
            Edge::Replay => loops.push("replay".to_owned()),
            Edge::Snooze => loops.push("snooze".to_owned()),
            Edge::Next { step: to, delayed } if *to == step.name => {
                loops.push(if *delayed { "again, later" } else { "again" }.to_owned());
            }
            _ => {}
        }
    }
    loops
}
