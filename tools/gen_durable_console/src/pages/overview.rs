//! The overview: what waits, who works, what has failed.

use gen_durable::{
    Status,
    operate::{Depth, Entry, QueueEntry, Waits},
};
use maud::{Markup, html};

use super::{Part, machines, pieces, queues};
use crate::{
    filter::Filter,
    guard::Viewer,
    looks::{Overview, totals},
    view::View,
};

pub(super) fn parts(viewer: &Viewer, overview: &Overview) -> Vec<Part> {
    vec![
        Part::fixed("head", html! { h1 { "Overview" } }),
        Part::live("totals", tiles(viewer, overview)),
        Part::live("pauses", pauses(viewer, overview)),
        Part::live("failures", failures(viewer, &overview.failed)),
        Part::live("queues", queue_table(viewer, &overview.queues)),
        Part::live("machines", machine_table(viewer, overview)),
    ]
}

fn tiles(viewer: &Viewer, overview: &Overview) -> Markup {
    let totals = totals(&overview.queues);
    let alive = overview.workers.iter().filter(|worker| worker.is_alive).count();
    let lost = overview.workers.len() - alive;
    html! {
        h2.unseen { "Instances by what they wait for" }
        ul.tiles {
            @for waits in Waits::ALL {
                @let total = totals.iter().find(|total| total.waits == waits);
                li { (tile(viewer, waits, total)) }
            }
            li {
                a.tile.workers href=(viewer.url(&View::Workers.path())) {
                    span.label { "Workers" }
                    span.value { (alive) }
                    span.sub { @if lost > 0 { (lost) " lost" } @else { "alive" } }
                }
            }
        }
    }
}

/// Returns the page with the instances that are counted, or as close as a filter comes.
fn target(waits: Waits) -> View {
    let of = |status| pieces::instances(Filter::default().status(status));
    match waits {
        Waits::Executing => of(Status::Executing),
        Waits::Awaiting => of(Status::AwaitingSignal),
        Waits::Failed => of(Status::Failed),
        Waits::Limited => View::Limits,
        Waits::Due | Waits::Scheduled | Waits::Blocked | Waits::Paused => of(Status::Runnable),
        _ => pieces::instances(Filter::default()),
    }
}

fn tile(viewer: &Viewer, waits: Waits, total: Option<&Depth>) -> Markup {
    let count = total.map_or(0, |total| total.count);
    let capped = total.is_some_and(|total| total.capped);
    let class = if count == 0 { "tile zero" } else { "tile" };
    html! {
        a class=(format!("{class} {}", waits.as_str())) href=(viewer.url(&target(waits).path())) {
            span.label { (pieces::waits_words(waits)) }
            span.value { (pieces::number(count, capped)) }
            span.sub {
                @if let Some(oldest) = total.and_then(|total| total.oldest) {
                    @if waits == Waits::Scheduled { "next " } @else { "oldest " }
                    (pieces::moment(oldest))
                } @else { "\u{a0}" }
            }
        }
    }
}

fn pauses(viewer: &Viewer, overview: &Overview) -> Markup {
    html! {
        @if !overview.pauses.is_empty() {
            h2 { "Paused" }
            ul.notes {
                @for pause in &overview.pauses {
                    li.paused data-key=(pause.scope) {
                        span {
                            b { (pause.scope) } " " (pieces::pause(pause))
                        }
                        @if let Some(subject) = machines::subject(&pause.scope) {
                            (pieces::button(viewer, crate::deed::Deed::Resume, &subject))
                        }
                    }
                }
            }
        }
    }
}

fn failures(viewer: &Viewer, failed: &[Entry]) -> Markup {
    let all = pieces::instances(Filter::default().status(Status::Failed));
    html! {
        div.row {
            h2 { "Recent failures" }
            @if !failed.is_empty() { a.more href=(viewer.url(&all.path())) { "All failed" } }
        }
        @if failed.is_empty() {
            (pieces::empty("Nothing has failed lately."))
        } @else {
            ul.failures {
                @for entry in failed {
                    li data-key=(entry.id) {
                        (pieces::instance_link(viewer, entry.id))
                        span.where {
                            (pieces::machine_link(viewer, &entry.machine, Some(entry.version)))
                            span.at { "@" (entry.step) }
                        }
                        span.error title=[entry.last_error.as_deref()] {
                            (entry.last_error.as_deref().unwrap_or("no error was recorded"))
                        }
                        (pieces::maybe_moment(entry.finished_at))
                    }
                }
            }
        }
    }
}

fn queue_table(viewer: &Viewer, all: &[QueueEntry]) -> Markup {
    html! {
        div.row {
            h2 { "Queues" }
            a.more href=(viewer.url(&View::Queues.path())) { "All of them" }
        }
        (queues::table(viewer, all, false))
    }
}

fn machine_table(viewer: &Viewer, overview: &Overview) -> Markup {
    html! {
        div.row {
            h2 { "Machines" }
            a.more href=(viewer.url(&View::Machines.path())) { "All of them" }
        }
        (machines::table(viewer, &overview.machines, &overview.pauses))
    }
}
