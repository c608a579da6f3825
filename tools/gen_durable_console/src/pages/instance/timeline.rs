//! The timeline of an instance: from where it stands back to its insert.

use gen_durable::operate::HistoryEntry;
use maud::{Markup, html};

use super::pieces;
use crate::{
    deed::{Deed, Subject},
    guard::Viewer,
    looks::{HISTORY, Instance},
};

pub(super) fn timeline(viewer: &Viewer, seen: &Instance) -> Markup {
    let hidden = seen.history.len().saturating_sub(HISTORY);
    html! {
        h2 { "Timeline" }
        ol.timeline {
            @if let Some(details) = seen.details.as_ref().filter(|details| !details.status.is_terminal()) {
                li.now class=(details.status.as_str()) {
                    div.what {
                        b.step { (details.step) } " " (pieces::status(details.status))
                    }
                    div.when { @if let Some(at) = details.updated_at { "since " (pieces::moment(at)) } }
                }
            }
            @for entry in seen.history.iter().rev().take(HISTORY) { (run(viewer, seen, entry)) }
            @if hidden > 0 { li.gap { (hidden) " earlier runs are not shown" } }
            @if let Some(at) = seen.details.as_ref().and_then(|details| details.inserted_at) {
                li.inserted { div.what { "Inserted" } div.when { (pieces::moment(at)) } }
            }
        }
        @if seen.history.is_empty() {
            p.note {
                "No run is recorded. A machine records its failures by default, and "
                code { "history = \"steps\"" } " records every run."
            }
        }
    }
}

fn run(viewer: &Viewer, seen: &Instance, entry: &HistoryEntry) -> Markup {
    let subject = Subject::Entry { instance: seen.id, entry: entry.id };
    let can_fork = entry.state_json().is_some() && entry.next_step.is_some();
    html! {
        li class=(kind(&entry.outcome)) {
            div.what {
                b.step { (entry.step) } " "
                span.outcome { (words(&entry.outcome)) }
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
            }
            @if let Some(error) = &entry.error { pre.error tabindex="0" { (error) } }
            @if let Some(state) = entry.state_json() {
                details {
                    summary { "State after it" }
                    (pieces::value(viewer, state))
                }
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

fn words(outcome: &str) -> &str {
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
