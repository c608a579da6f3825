//! The machines, each version by itself.

use gen_durable::operate::{MachineEntry, PauseEntry, PauseScope};
use maud::{Markup, html};

use super::{Part, pieces};
use crate::{deed::Subject, guard::Viewer, looks::Machines};

pub(super) fn parts(viewer: &Viewer, machines: &Machines) -> Vec<Part> {
    vec![
        Part::fixed("head", html! { h1 { "Machines" } }),
        Part::live("machines", table(viewer, &machines.machines, &machines.pauses)),
    ]
}

/// Returns what is paused, as an action names it.
pub(super) fn subject(scope: &PauseScope) -> Option<Subject> {
    Some(match scope {
        PauseScope::Queue(queue) => Subject::Queue(queue.clone()),
        PauseScope::AllSteps(machine) => Subject::Machine(machine.clone()),
        PauseScope::Step { machine, step } => {
            Subject::Step { machine: machine.clone(), step: step.clone() }
        }
        PauseScope::Instance(id) => Subject::Instance(*id),
        _ => return None,
    })
}

/// Returns the pause of a machine as a whole.
pub(super) fn pause_of<'a>(all: &'a [PauseEntry], machine: &str) -> Option<&'a PauseEntry> {
    all.iter().find(|entry| matches!(&entry.scope, PauseScope::AllSteps(name) if name == machine))
}

/// Returns the pause of a step.
pub(super) fn pause_of_step<'a>(
    all: &'a [PauseEntry],
    of: &str,
    at: &str,
) -> Option<&'a PauseEntry> {
    all.iter().find(|entry| {
        matches!(&entry.scope, PauseScope::Step { machine, step } if machine == of && step == at)
    })
}

pub(super) fn table(viewer: &Viewer, all: &[MachineEntry], pauses: &[PauseEntry]) -> Markup {
    if all.is_empty() {
        return pieces::empty("No engine has registered a machine yet.");
    }
    html! {
        div.scroll {
            table.cards {
                thead {
                    tr {
                        th scope="col" { "Machine" }
                        th scope="col" { "Version" }
                        th scope="col" { "Engines" }
                        th scope="col" { "Queue" }
                        th scope="col" { "Steps" }
                        th scope="col" { "History" }
                        th scope="col" { "Registered" }
                    }
                }
                tbody { @for machine in all { (row(viewer, machine, pauses)) } }
            }
        }
    }
}

fn row(viewer: &Viewer, machine: &MachineEntry, pauses: &[PauseEntry]) -> Markup {
    html! {
        tr data-key=(format!("{} v{}", machine.name, machine.version)) {
            th scope="row" {
                (pieces::machine_link(viewer, &machine.name, Some(machine.version)))
                @if pause_of(pauses, &machine.name).is_some() { " " (pieces::chip("paused", "paused")) }
            }
            td data-label="Version" { (machine.version) }
            td data-label="Engines" {
                @if machine.workers == 0 { (pieces::chip("failed", "none runs it")) }
                @else { (machine.workers) }
            }
            td data-label="Queue" { (machine.queue) }
            td data-label="Steps" {
                (machine.steps.len())
                @let held = machine.steps.iter()
                    .filter(|step| pause_of_step(pauses, &machine.name, step).is_some()).count();
                @if held > 0 { " " (pieces::chip("paused", &format!("{held} paused"))) }
            }
            td data-label="History" { (machine.history.as_str()) }
            td data-label="Registered" { (pieces::moment(machine.registered_at)) }
        }
    }
}
