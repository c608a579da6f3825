//! The instances: a filter, a page of them, and actions on all that it chooses.

use std::time::Duration;

use gen_durable::operate::{Count, Entry, List};
use maud::{Markup, html};

use super::{Part, pieces};
use crate::{
    deed::{Deed, Subject},
    filter::{Filter, STATUSES},
    guard::Viewer,
    time,
    view::View,
};

/// The ages that the form offers.
const AGES: [Duration; 5] = [
    Duration::from_mins(5),
    Duration::from_hours(1),
    Duration::from_hours(24),
    Duration::from_hours(7 * 24),
    Duration::from_hours(30 * 24),
];

pub(super) fn parts(
    viewer: &Viewer,
    filter: &Filter,
    before: Option<i64>,
    list: &List,
    count: Count,
) -> Vec<Part> {
    vec![
        Part::fixed("head", html! { h1 { "Instances" } }),
        Part::fixed("filter", form(viewer, filter)),
        Part::live("list", found(viewer, filter, before, list, count)),
    ]
}

fn form(viewer: &Viewer, filter: &Filter) -> Markup {
    let url = viewer.url("/instances");
    let more = filter.partition_key.is_some()
        || filter.unique_key.is_some()
        || filter.version.is_some()
        || filter.within.is_some()
        || filter.idle.is_some();
    html! {
        search {
            form.filter method="get" action=(url) {
                (field("Machine", "machine", filter.machine.as_deref()))
                (field("Step", "step", filter.step.as_deref()))
                label {
                    span { "Status" }
                    select name="status" {
                        option value="" { "any" }
                        @for status in STATUSES {
                            option value=(status.as_str()) selected[filter.status == Some(status)] {
                                (pieces::status_words(status))
                            }
                        }
                    }
                }
                (field("Queue", "queue", filter.queue.as_deref()))
                details open[more] {
                    summary { "More" }
                    div.filter {
                        (field("Unique key", "unique_key", filter.unique_key.as_deref()))
                        (field("Partition key", "partition_key", filter.partition_key.as_deref()))
                        (field("Version", "version", filter.version.map(|v| v.to_string()).as_deref()))
                        (ages("Changed within", "within", filter.within))
                        (ages("Not changed for", "idle", filter.idle))
                    }
                }
                div.actions {
                    button.primary type="submit" { "Filter" }
                    @if !filter.is_empty() { a.button href=(url) { "Clear" } }
                }
            }
        }
    }
}

fn field(label: &str, name: &str, value: Option<&str>) -> Markup {
    html! {
        label {
            span { (label) }
            input type="text" name=(name) value=[value] autocomplete="off" spellcheck="false";
        }
    }
}

fn ages(label: &str, name: &str, chosen: Option<Duration>) -> Markup {
    let other = chosen.filter(|age| !AGES.contains(age));
    html! {
        label {
            span { (label) }
            select name=(name) {
                option value="" { "any time" }
                @for age in AGES.into_iter().chain(other) {
                    option value=(time::span(age)) selected[chosen == Some(age)] { (time::short(age)) }
                }
            }
        }
    }
}

fn found(
    viewer: &Viewer,
    filter: &Filter,
    before: Option<i64>,
    list: &List,
    count: Count,
) -> Markup {
    let of = |before| View::Instances { filter: filter.clone(), before };
    let (first, next) = (before.map(|_| of(None)), list.next.map(|next| of(Some(next.get()))));
    html! {
        div.row {
            p.total role="status" { b { (pieces::count(count)) } " " (filter.words()) }
            @if !filter.is_empty() && count != Count::Exact(0) { (bulk(viewer, filter)) }
        }
        @if list.entries.is_empty() {
            @if next.is_some() {
                (pieces::empty("None among those that were examined. Older ones may fit: go on."))
            } @else if before.is_some() {
                (pieces::empty("There are no older ones."))
            } @else {
                (pieces::empty("No instance fits. Try fewer conditions."))
            }
        } @else {
            (table(viewer, &list.entries))
        }
        (pieces::pager(viewer, pieces::BY_AGE, first.as_ref(), next.as_ref()))
    }
}

fn bulk(viewer: &Viewer, filter: &Filter) -> Markup {
    let subject = Subject::Instances(filter.clone());
    let fits = |deed: &Deed| match (filter.status, deed) {
        (None, _) => true,
        (Some(status), Deed::Retry) => {
            matches!(status.as_str(), "failed" | "cancelled")
        }
        (Some(status), Deed::Delete) => status.is_terminal(),
        (Some(status), Deed::RunNow) => status.as_str() == "runnable",
        (Some(status), _) => !status.is_terminal(),
    };
    html! {
        @if viewer.may_act() {
            div.actions role="group" aria-label="actions on all of them" {
                span.muted { "All of them:" }
                @for deed in subject.deeds().iter().filter(|deed| fits(deed)) {
                    (pieces::button(viewer, *deed, &subject))
                }
            }
        }
    }
}

pub(super) fn table(viewer: &Viewer, entries: &[Entry]) -> Markup {
    html! {
        div.scroll {
            table.cards.instances {
                thead {
                    tr {
                        th scope="col" { "Instance" }
                        th scope="col" { "Status" }
                        th scope="col" { "Machine and step" }
                        th.number scope="col" { "Attempt" }
                        th scope="col" { "Queue" }
                        th scope="col" { "Due" }
                        th scope="col" { "Changed" }
                    }
                }
                tbody { @for entry in entries { (row(viewer, entry)) } }
            }
        }
    }
}

fn row(viewer: &Viewer, entry: &Entry) -> Markup {
    let is_failed = entry.status.is_terminal() && entry.last_error.is_some();
    html! {
        tr data-key=(entry.id) {
            th scope="row" {
                (pieces::instance_link(viewer, entry.id))
                @if let Some(key) = &entry.unique_key { span.key-of title="unique key" { (key) } }
            }
            td data-label="Status" { (pieces::status(entry.status)) }
            td.where data-label="Machine and step" {
                (pieces::machine_link(viewer, &entry.machine, Some(entry.version)))
                span.at { "@" (entry.step) }
                @if let Some(error) = &entry.last_error {
                    p.error.past[!is_failed] title=(error) { (error) }
                }
            }
            td.number.zero[entry.attempt == 0] data-label="Attempt" { (entry.attempt) }
            td data-label="Queue" {
                (entry.queue)
                @if let Some(key) = &entry.partition_key { span.key-of title="partition key" { (key) } }
            }
            td data-label="Due" {
                @if entry.status.is_terminal() { span.none { "–" } }
                @else { (pieces::maybe_moment(entry.due_at)) }
            }
            td data-label="Changed" { (pieces::moment(entry.updated_at)) }
        }
    }
}
