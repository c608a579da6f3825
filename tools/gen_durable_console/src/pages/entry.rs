//! A run of an instance, with its whole error and the state that it left.

use gen_durable::operate::HistoryEntry;
use maud::{Markup, html};

use super::{Part, instance::outcome_words, pieces};
use crate::{
    deed::{Deed, Subject},
    guard::Viewer,
};

pub(super) fn parts(viewer: &Viewer, entry: &HistoryEntry) -> Vec<Part> {
    vec![
        Part::fixed("head", head(viewer, entry)),
        Part::fixed("run", run(entry)),
        Part::fixed("state", state(viewer, entry)),
    ]
}

fn head(viewer: &Viewer, entry: &HistoryEntry) -> Markup {
    let subject = Subject::Entry { instance: entry.instance, entry: entry.id };
    let can_fork = entry.state_json().is_some() && entry.next_step.is_some();
    html! {
        div.row {
            h1 { (entry.step) " " span.muted { (outcome_words(&entry.outcome)) } }
            div.actions {
                @if can_fork { (pieces::button(viewer, Deed::Fork, &subject)) }
            }
        }
        p.lead {
            span.muted { "A run of instance " } (pieces::instance_link(viewer, entry.instance))
            span.muted { " of " }
            (pieces::machine_link(viewer, &entry.machine, Some(entry.version)))
            span.muted { " v" (entry.version) }
        }
    }
}

fn run(entry: &HistoryEntry) -> Markup {
    html! {
        @if let Some(error) = &entry.error {
            div.error-block { h2 { "Error" } (pieces::error(error)) }
        }
        h2.unseen { "Facts" }
        dl.facts {
            div { dt { "Attempt" } dd { (entry.attempt) } }
            @if let Some(next) = &entry.next_step { div { dt { "Next step" } dd { (next) } } }
            div { dt { "Began" } dd { (pieces::moment(entry.started_at)) } }
            div { dt { "Ended" } dd { (pieces::moment(entry.ended_at)) } }
            div { dt { "Took" } dd { (pieces::span(entry.started_at, entry.ended_at)) } }
            @if let Some(worker) = entry.worker { div { dt { "Worker" } dd { (worker) } } }
            div { dt { "Entry" } dd { (entry.id) } }
        }
    }
}

fn state(viewer: &Viewer, entry: &HistoryEntry) -> Markup {
    html! {
        h2 { "State after it" }
        @match entry.state_json() {
            Some(state) => (pieces::value(viewer, state)),
            None => p.note {
                "No state is recorded. A machine with " code { "history = \"states\"" } " records it."
            }
        }
    }
}
