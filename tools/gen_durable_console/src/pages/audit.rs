//! The audit: all that operators did.

use gen_durable::operate::{AuditEntry, AuditPage};
use maud::{Markup, html};

use super::{Part, pieces};
use crate::{
    guard::Viewer,
    view::{AuditFilter, View},
};

pub(super) fn parts(
    viewer: &Viewer,
    filter: &AuditFilter,
    before: Option<i64>,
    page: &AuditPage,
) -> Vec<Part> {
    let of = |before| View::Audit { filter: filter.clone(), before };
    let (first, next) = (before.map(|_| of(None)), page.next.map(|next| of(Some(next.get()))));
    let list = html! {
        @if page.entries.is_empty() {
            @if next.is_some() {
                (pieces::empty("None among those that were examined. Older ones may fit: go on."))
            } @else { (pieces::empty("No operator has done such a thing.")) }
        } @else { (table(viewer, &page.entries)) }
        (pieces::pager(viewer, pieces::BY_AGE, first.as_ref(), next.as_ref()))
    };
    vec![
        Part::fixed("head", html! { h1 { "Audit" } }),
        Part::fixed("filter", form(viewer, filter)),
        Part::live("list", list),
    ]
}

fn form(viewer: &Viewer, filter: &AuditFilter) -> Markup {
    let url = viewer.url("/audit");
    let field = |label: &str, name: &str, value: Option<&str>| {
        html! {
            label {
                span { (label) }
                input type="text" name=(name) value=[value] autocomplete="off" spellcheck="false";
            }
        }
    };
    let instance = filter.instance.map(|id| id.to_string());
    html! {
        search {
            form.filter method="get" action=(url) {
                (field("Operator", "actor", filter.actor.as_deref()))
                (field("Action", "action", filter.action.as_deref()))
                (field("Machine", "machine", filter.machine.as_deref()))
                (field("Instance", "instance", instance.as_deref()))
                div.actions {
                    button.primary type="submit" { "Filter" }
                    @if *filter != AuditFilter::default() { a.button href=(url) { "Clear" } }
                }
            }
        }
    }
}

pub(super) fn table(viewer: &Viewer, entries: &[AuditEntry]) -> Markup {
    html! {
        div.scroll {
            table.cards {
                thead {
                    tr {
                        th scope="col" { "Time" }
                        th scope="col" { "Operator" }
                        th scope="col" { "Action" }
                        th scope="col" { "On" }
                        th scope="col" { "Reason" }
                    }
                }
                tbody { @for entry in entries { (row(viewer, entry)) } }
            }
        }
    }
}

fn row(viewer: &Viewer, entry: &AuditEntry) -> Markup {
    html! {
        tr data-key=(entry.id) {
            th scope="row" { (pieces::moment(entry.at)) }
            td data-label="Operator" { (entry.actor) }
            td data-label="Action" { span.mono { (entry.action) } }
            td data-label="On" { (on(viewer, entry)) }
            td data-label="Reason" {
                @match &entry.reason {
                    Some(reason) => (reason),
                    None => span.none { "–" },
                }
            }
        }
    }
}

fn on(viewer: &Viewer, entry: &AuditEntry) -> Markup {
    html! {
        @if let Some(id) = entry.instance { (pieces::instance_link(viewer, id)) " " }
        @if let Some(machine) = &entry.machine {
            span.where {
                (pieces::machine_link(viewer, machine, None))
                @if let Some(step) = &entry.step { span.at { "@" (step) } }
            }
        }
        @if let Some(queue) = &entry.queue { "queue " (queue) }
        @if let Some(schedule) = &entry.schedule { "schedule " (schedule) }
        @if let Some(limit) = &entry.limit { "limit " (limit) }
    }
}
