//! The inbox of an instance: the signals that no step has consumed.
//!
//! Invariant: a payload is written only for those who may see states.

use gen_durable::operate::{Inbox, InboxEntry};
use maud::{Markup, html};

use super::pieces;
use crate::{guard::Viewer, looks::Instance};

pub(super) fn inbox(viewer: &Viewer, seen: &Instance) -> Markup {
    let Some(inbox) = &seen.inbox else { return html! {} };
    html! {
        h2 { "Inbox" }
        @if inbox.entries.is_empty() {
            (pieces::empty("No signal waits for a step."))
        } @else {
            (table(viewer, inbox))
            @if inbox.capped { p.note { "There are more: only the oldest are shown." } }
        }
    }
}

fn table(viewer: &Viewer, inbox: &Inbox) -> Markup {
    html! {
        div.scroll {
            table.cards {
                thead {
                    tr {
                        th scope="col" { "Arrived" }
                        th scope="col" { "Signal" }
                        th scope="col" { "Deduplication key" }
                        th.number scope="col" { "Bytes" }
                        th scope="col" { "Payload" }
                    }
                }
                tbody { @for entry in &inbox.entries { (row(viewer, entry)) } }
            }
        }
    }
}

fn row(viewer: &Viewer, entry: &InboxEntry) -> Markup {
    html! {
        tr data-key=(entry.id) {
            th scope="row" { (pieces::moment(entry.arrived_at)) }
            td data-label="Signal" { span.mono { (entry.name) } }
            td data-label="Deduplication key" {
                @match &entry.dedup_key {
                    Some(key) => span.mono { (key) },
                    None => span.none { "–" },
                }
            }
            td.number data-label="Bytes" { (pieces::number(entry.size, false)) }
            td data-label="Payload" { (payload(viewer, entry)) }
        }
    }
}

fn payload(viewer: &Viewer, entry: &InboxEntry) -> Markup {
    html! {
        @if !viewer.access.shows_states() {
            span.muted { "hidden" }
        } @else if let Some(payload) = entry.payload_json() {
            details {
                summary { "Show" }
                (pieces::value(viewer, payload))
            }
        } @else {
            span.muted { "too long for a page" }
        }
    }
}
