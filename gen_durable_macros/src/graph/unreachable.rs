//! Finds groups of steps that nothing leads to from outside of the group.
//!
//! Invariant: only the enum knows the initial step. The steps of a group are unreachable unless the
//! initial step is one of them, which the enum's expansion checks.

use super::MachineImpl;

/// Returns groups of steps that lead to each other and that nothing else leads to, by name. Returns
/// none if some step is opaque, as it may lead to any other.
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
        // Each step of a group finds it, and the first one adds it.
        if is_unreachable && origins[0] == step {
            unreachable.push(origins.iter().map(|&from| &*machine.steps[from].name).collect());
        }
    }
    unreachable
}

/// For each step, the indices of the steps that it goes to. Two functions may have one name, in two
/// configurations: a way to one of them is then also a way to the other.
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

/// For each step, true if `from` leads to it, directly or by other steps; also true for `from`.
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

/// For each step, true if instances enter it from elsewhere than a step: by an insert, or after an
/// error.
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
