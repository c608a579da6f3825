//! The timeline of an instance: from where it stands back to its insert, page by page.
//!
//! Invariant: the timeline shows no state. The page of a run does.

use gen_durable::{History, operate::RunEntry};
use maud::{Markup, html};

use super::pieces;
use crate::{
    deed::{Deed, Subject},
    guard::Viewer,
    looks::Instance,
    view::View,
};

pub(super) fn timeline(viewer: &Viewer, before: Option<i64>, seen: &Instance) -> Markup {
    let of = |before| View::Instance { id: seen.id, before };
    let first = before.map(|_| of(None));
    let next = seen.runs.next.map(|next| of(Some(next.get())));
    let details = seen.details.as_ref();
    html! {
        h2 { "Timeline" }
        ol.timeline {
            @if before.is_none() && let Some(details) = details.filter(|details| !details.status.is_terminal()) {
                li.now class=(details.status.as_str()) data-key="now" {
                    div.what {
                        b.step { (details.step) } " " (pieces::status(details.status))
                    }
                    div.when { @if let Some(at) = details.updated_at { "since " (pieces::moment(at)) } }
                }
            }
            @for entry in &seen.runs.entries { (run(viewer, seen, entry)) }
            @if next.is_none() && let Some(at) = details.and_then(|details| details.inserted_at) {
                li.inserted data-key="inserted" { div.what { "Inserted" } div.when { (pieces::moment(at)) } }
            }
        }
        @if seen.runs.entries.is_empty() && before.is_none() {
            @let history = seen.machine.as_ref().map(|machine| machine.history);
            @if matches!(history, Some(History::Steps | History::States)) {
                p.note { "It has not run yet." }
            } @else {
                p.note {
                    "No run is recorded. A machine records its failures by default, and "
                    code { "history = \"steps\"" } " records every run."
                }
            }
        }
        (pieces::pager(viewer, pieces::BY_AGE, first.as_ref(), next.as_ref()))
    }
}

fn run(viewer: &Viewer, seen: &Instance, entry: &RunEntry) -> Markup {
    let subject = Subject::Entry { instance: seen.id, entry: entry.id };
    let can_fork = entry.state_size.is_some() && entry.next_step.is_some();
    let page = subject.view();
    html! {
        li class=(kind(&entry.outcome)) data-key=(entry.id) {
            div.what {
                b.step { (pieces::link(viewer, &page, &entry.step)) } " "
                span.outcome { (outcome_words(&entry.outcome)) }
                @if let Some(next) = entry.next_step.as_ref().filter(|next| **next != entry.step) {
                    " → " span.step { (next) }
                }
                @if entry.attempt > 0 { span.muted { " attempt " (entry.attempt) } }
                @if can_fork { " " (pieces::button(viewer, Deed::Fork, &subject)) }
            }
            div.when {
                (pieces::moment(entry.ended_at))
                span.muted { " · took " (pieces::span(entry.started_at, entry.ended_at)) }
                @if let Some(worker) = entry.worker { span.muted { " · worker " (worker) } }
                @if let Some(size) = entry.state_size {
                    span.muted { " · state of " (pieces::number(size.into(), false)) " bytes" }
                }
            }
            @if let Some(error) = &entry.error {
                pre.error tabindex="0" { (error) @if entry.error_cut { "…" } }
            }
        }
    }
}

/// Returns the class of an outcome.
fn kind(outcome: &str) -> &'static str {
    match outcome {
        "done" => "done",
        "failed" | "lost" => "failed",
        "cancelled" => "cancelled",
        "replay" => "again",
        "await" => "awaiting_signal",
        _ => "went-on",
    }
}

/// Says what came of a run.
pub(in super::super) fn outcome_words(outcome: &str) -> &str {
    match outcome {
        "next" => "went on",
        "later" => "goes on later",
        "replay" => "is tried again",
        "snooze" => "looks again later",
        "await" => "parked",
        "lost" => "was lost with its worker",
        outcome => outcome,
    }
}
