//! The queues, and what waits in each.

use gen_durable::operate::{QueueEntry, Waits};
use maud::{Markup, html};

use super::{Part, pieces};
use crate::{deed::Subject, filter::Filter, guard::Viewer};

/// The kinds that have a column.
const COLUMNS: [Waits; 5] =
    [Waits::Due, Waits::Executing, Waits::Scheduled, Waits::Awaiting, Waits::Failed];
/// Those that share one.
const HELD: [Waits; 3] = [Waits::Paused, Waits::Limited, Waits::Blocked];

pub(super) fn parts(viewer: &Viewer, queues: &[QueueEntry]) -> Vec<Part> {
    let intro = html! {
        h1 { "Queues" }
        p.lead { "A count with a plus is one of a part: there are more." }
    };
    vec![Part::fixed("head", intro), Part::live("queues", table(viewer, queues, true))]
}

pub(super) fn table(viewer: &Viewer, queues: &[QueueEntry], with_actions: bool) -> Markup {
    if queues.is_empty() {
        return pieces::empty("No engine has registered a queue yet.");
    }
    let acts = with_actions && viewer.may_act();
    html! {
        div.scroll {
            table.cards {
                thead {
                    tr {
                        th scope="col" { "Queue" }
                        th scope="col" { "Engines" }
                        @for waits in COLUMNS {
                            th.number scope="col" { (pieces::waits_words(waits)) }
                        }
                        th.number scope="col" { "Held" }
                        th scope="col" { "Oldest due" }
                        @if acts { th scope="col" { span.unseen { "Actions" } } }
                    }
                }
                tbody { @for queue in queues { (row(viewer, queue, acts)) } }
            }
        }
    }
}

fn row(viewer: &Viewer, queue: &QueueEntry, acts: bool) -> Markup {
    let count = |waits: Waits| {
        let depth = queue.depths.iter().find(|depth| depth.waits == waits);
        depth.map_or((0, false), |depth| (depth.count, depth.capped))
    };
    let held = HELD
        .map(count)
        .into_iter()
        .fold((0, false), |sum, (count, capped)| (sum.0 + count, sum.1 || capped));
    let due = queue.depths.iter().find(|depth| depth.waits == Waits::Due);
    let parts: Vec<(Waits, u64)> =
        Waits::ALL.into_iter().map(|waits| (waits, count(waits).0)).collect();
    let list = pieces::instances(Filter::of_queue(&queue.name));
    html! {
        tr data-key=(queue.name) {
            th scope="row" {
                a href=(viewer.url(&list.path())) { (queue.name) }
                (pieces::bar(&parts))
                @if let Some(pause) = &queue.paused {
                    p.sub.paused { (pieces::chip("paused", "paused")) " " (pieces::pause(pause)) }
                }
            }
            td data-label="Engines" {
                @if queue.workers == 0 {
                    (pieces::chip("failed", "none serves it"))
                } @else {
                    (queue.workers) span.muted { " × " (queue.slots / queue.workers) " slots" }
                }
            }
            @for waits in COLUMNS {
                (cell(pieces::waits_words(waits), count(waits)))
            }
            (cell("Held", held))
            td data-label="Oldest due" { (pieces::maybe_moment(due.and_then(|due| due.oldest))) }
            @if acts {
                td.actions {
                    (pieces::pause_or_resume(
                        viewer,
                        queue.paused.is_some(),
                        &Subject::Queue(queue.name.clone()),
                    ))
                }
            }
        }
    }
}

fn cell(label: &str, (count, capped): (u64, bool)) -> Markup {
    html! {
        td.number.zero[count == 0] data-label=(label) { (pieces::number(count, capped)) }
    }
}
