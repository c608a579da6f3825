//! The workers: the engines that run, or were lost a moment ago.

use gen_durable::operate::WorkerEntry;
use maud::{Markup, html};

use super::{Part, pieces};
use crate::guard::Viewer;

pub(super) fn parts(viewer: &Viewer, workers: &[WorkerEntry]) -> Vec<Part> {
    vec![
        Part::fixed("head", html! { h1 { "Workers" } }),
        Part::live("workers", table(viewer, workers)),
    ]
}

fn table(viewer: &Viewer, workers: &[WorkerEntry]) -> Markup {
    if workers.is_empty() {
        return pieces::empty("No engine runs. Instances wait until one is started.");
    }
    html! {
        div.scroll {
            table.cards {
                thead {
                    tr {
                        th scope="col" { "Worker" }
                        th scope="col" { "State" }
                        th scope="col" { "Process" }
                        th scope="col" { "Queues" }
                        th scope="col" { "Machines" }
                        th.number scope="col" { "Claimed" }
                        th scope="col" { "Lease" }
                        th scope="col" { "Started" }
                    }
                }
                tbody { @for worker in workers { (row(viewer, worker)) } }
            }
        }
    }
}

fn row(viewer: &Viewer, worker: &WorkerEntry) -> Markup {
    html! {
        tr data-key=(worker.id) {
            th scope="row" { span.mono { (worker.id) } " " (worker.name) }
            td data-label="State" {
                @if worker.is_alive { (pieces::chip("done", "alive")) }
                @else { (pieces::chip("failed", "lost")) }
            }
            td data-label="Process" {
                (worker.host.as_deref().unwrap_or("unknown host"))
                @if let Some(pid) = worker.pid { span.muted { " pid " (pid) } }
                @if let Some(library) = &worker.library { span.key-of { (library) } }
            }
            td data-label="Queues" {
                @for (index, (queue, slots)) in worker.queues.iter().enumerate() {
                    @if index > 0 { ", " }
                    (queue) span.muted { " × " (slots) }
                }
            }
            td data-label="Machines" {
                @for (index, (machine, version)) in worker.machines.iter().enumerate() {
                    @if index > 0 { ", " }
                    (pieces::machine_link(viewer, machine, Some(*version)))
                    span.muted { " v" (version) }
                }
            }
            td.number.zero[worker.executing == 0] data-label="Claimed" {
                (pieces::number(worker.executing, worker.executing_capped))
            }
            td data-label="Lease" { (pieces::moment(worker.lease_ends_at)) }
            td data-label="Started" { (pieces::moment(worker.started_at)) }
        }
    }
}
