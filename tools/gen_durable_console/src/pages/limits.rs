//! The limits, and one of them with its buckets.

use gen_durable::operate::{Bucket, LimitEntry, Waiting};
use maud::{Markup, html};

use super::{Part, pieces};
use crate::{
    deed::{Deed, Subject},
    guard::Viewer,
    looks::PAGE,
    view::View,
};

pub(super) fn parts(viewer: &Viewer, limits: &[LimitEntry]) -> Vec<Part> {
    vec![
        Part::fixed("head", html! { h1 { "Limits" } }),
        Part::live("limits", table(viewer, limits)),
    ]
}

fn view(name: &str, after: Option<String>) -> View {
    View::Limit { name: name.to_owned(), after }
}

fn table(viewer: &Viewer, limits: &[LimitEntry]) -> Markup {
    if limits.is_empty() {
        return pieces::empty("No program declares a limit.");
    }
    html! {
        div.scroll {
            table.cards {
                thead {
                    tr {
                        th scope="col" { "Limit" }
                        th scope="col" { "In force" }
                        th scope="col" { "Declared" }
                        th scope="col" { "Set by" }
                        th.number scope="col" { "Engines" }
                    }
                }
                tbody {
                    @for limit in limits {
                        tr data-key=(limit.name) {
                            th scope="row" { (pieces::link(viewer, &view(&limit.name, None), &limit.name)) }
                            td data-label="In force" { (limit.in_force) }
                            td data-label="Declared" { (limit.declared) }
                            td data-label="Set by" {
                                @match &limit.set {
                                    Some(set) => { b { (set.by) } " " (pieces::moment(set.set_at)) }
                                    None => span.none { "–" }
                                }
                            }
                            td.number data-label="Engines" { (declared_by(limit)) }
                        }
                    }
                }
            }
        }
    }
}

fn declared_by(limit: &LimitEntry) -> Markup {
    html! {
        @if limit.declared_by.is_empty() { (pieces::chip("failed", "none declares it")) }
        @else { (limit.declared_by.len()) }
    }
}

pub(super) fn one(
    viewer: &Viewer,
    limit: &LimitEntry,
    buckets: &[Bucket],
    waiting: &[Waiting],
) -> Vec<Part> {
    let subject = Subject::Limit(limit.name.clone());
    let head = html! {
        div.row {
            h1 { (limit.name) }
            div.actions {
                (pieces::button(viewer, Deed::Set, &subject))
                @if limit.set.is_some() { (pieces::button(viewer, Deed::Reset, &subject)) }
            }
        }
        dl.facts {
            div { dt { "In force" } dd { (limit.in_force) } }
            div { dt { "Declared" } dd { (limit.declared) } }
            div { dt { "Engines" } dd { (declared_by(limit)) } }
            @if let Some(set) = &limit.set {
                div { dt { "Set by" } dd {
                    b { (set.by) } " " (pieces::moment(set.set_at))
                    @if let Some(reason) = &set.reason { ": " q { (reason) } }
                } }
            }
        }
    };
    vec![
        Part::live("head", head),
        Part::live("buckets", bucket_table(viewer, limit, buckets)),
        Part::live("waiting", waiting_table(viewer, waiting)),
    ]
}

fn bucket_table(viewer: &Viewer, limit: &LimitEntry, buckets: &[Bucket]) -> Markup {
    let last = buckets.last().filter(|_| buckets.len() >= PAGE);
    let next = last.and_then(|last| last.key.clone()).map(|key| view(&limit.name, Some(key)));
    html! {
        h2 { "Buckets" }
        @if buckets.is_empty() {
            (pieces::empty("Nothing has come to this limit lately."))
        } @else {
            div.scroll {
                table.cards {
                    thead {
                        tr {
                            th scope="col" { "Key" }
                            th.number scope="col" { "Running" }
                            th.number scope="col" { "Waiting" }
                            th scope="col" { "Rate lets in" }
                        }
                    }
                    tbody {
                        @for bucket in buckets {
                            tr data-key=[&bucket.key] {
                                th scope="row" {
                                    @match &bucket.key {
                                        Some(key) => span.mono { (key) }
                                        None => span.muted { "without a key" }
                                    }
                                }
                                td.number.zero[bucket.running == 0] data-label="Running" {
                                    (pieces::number(bucket.running, false))
                                }
                                td.number data-label="Waiting" { (pieces::count(bucket.waiting)) }
                                td data-label="Rate lets in" { (pieces::maybe_moment(bucket.until)) }
                            }
                        }
                    }
                }
            }
            (pieces::pager(viewer, pieces::BY_NAME, None, next.as_ref()))
        }
    }
}

fn waiting_table(viewer: &Viewer, waiting: &[Waiting]) -> Markup {
    html! {
        @if !waiting.is_empty() {
            h2 { "Next in line" }
            div.scroll {
                table.cards {
                    thead {
                        tr {
                            th scope="col" { "Instance" }
                            th scope="col" { "Machine and step" }
                            th scope="col" { "Waits since" }
                            th scope="col" { "At least until" }
                        }
                    }
                    tbody {
                        @for row in waiting {
                            tr data-key=(row.id) {
                                th scope="row" { (pieces::instance_link(viewer, row.id)) }
                                td.where data-label="Machine and step" {
                                    (pieces::machine_link(viewer, &row.machine, None))
                                    span.at { "@" (row.step) }
                                    @if row.blocked { " " (pieces::chip("blocked", "blocked too")) }
                                }
                                td data-label="Waits since" { (pieces::maybe_moment(row.due_at)) }
                                td data-label="At least until" { (pieces::maybe_moment(row.until)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
