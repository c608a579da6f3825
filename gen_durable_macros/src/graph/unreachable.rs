//! Steps that nothing reaches from outside.
//!
//! Invariant: which step is the initial one is the enum's to know, so an island is one only unless that is on it.

use super::MachineImpl;

/// Groups of steps that lead to each other and that no other step leads to, by name. There are none if anything may be
/// reached by what cannot be read.
pub(crate) fn unreachable(machine: &MachineImpl) -> Vec<Vec<&str>> {
    if machine.steps.iter().chain(&machine.handle).any(|step| step.flow.opaque) {
        return Vec::new();
    }
    let ways = ways(machine);
    let reach: Vec<Vec<bool>> = (0..ways.len()).map(|from| reach(&ways, from)).collect();
    let entered = entered(machine);
    let mut unreachable: Vec<Vec<&str>> = Vec::new();
    for (step, reaches) in reach.iter().enumerate() {
        let origins: Vec<usize> = (0..ways.len()).filter(|&from| reach[from][step]).collect();
        let is_unreachable = origins.iter().all(|&from| reaches[from] && !entered[from]);
        // An island is found from each of its steps.
        if is_unreachable && origins[0] == step {
            unreachable.push(origins.iter().map(|&from| &*machine.steps[from].name).collect());
        }
    }
    unreachable
}

/// Where each step goes, by index. Of two functions of one name (in two configurations) each has the other's ways in.
fn ways(machine: &MachineImpl) -> Vec<Vec<usize>> {
    let steps = machine.steps.iter();
    steps
        .map(|step| {
            step.flow.targets().flat_map(|target| indices(machine, target)).collect::<Vec<_>>()
        })
        .collect()
}

fn indices<'a>(machine: &'a MachineImpl, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let steps = machine.steps.iter().enumerate();
    steps.filter(move |(_, step)| step.name == name).map(|(index, _)| index)
}

/// The steps that are come to from `from`, itself among them.
fn reach(ways: &[Vec<usize>], from: usize) -> Vec<bool> {
    let mut reached = vec![false; ways.len()];
    let mut pending = vec![from];
    while let Some(step) = pending.pop() {
        if !std::mem::replace(&mut reached[step], true) {
            pending.extend(&ways[step]);
        }
    }
    reached
}

/// The steps that instances come to other than from a step: by an insert, or after an error.
fn entered(machine: &MachineImpl) -> Vec<bool> {
    let mut entered: Vec<bool> = machine.steps.iter().map(|step| step.options.entry).collect();
    let functions = machine.steps.iter().chain(&machine.handle);
    let inserted = functions.flat_map(|step| step.flow.inserted_at.iter().map(String::as_str));
    let after_errors = machine.handle.iter().flat_map(|handle| handle.flow.targets());
    for step in inserted.chain(after_errors) {
        for index in indices(machine, step) {
            entered[index] = true;
        }
    }
    entered
}
