//! An instance: where it stands, what it did, and what can be done to it.

mod inbox;
mod timeline;

use std::collections::BTreeSet;

use gen_durable::operate::{Details, TreeNode};
use maud::{Markup, html};

pub(super) use self::timeline::outcome_words;
use super::{Part, audit, machine, pieces};
use crate::{
    deed::{Deed, Subject},
    filter::Filter,
    graph::{Picture, svg},
    guard::Viewer,
    looks::Instance,
};

pub(super) fn parts(viewer: &Viewer, before: Option<i64>, seen: &Instance) -> Vec<Part> {
    vec![
        Part::live("head", head(viewer, seen)),
        Part::live("now", now(viewer, seen)),
        Part::live("graph", graph(viewer, before.is_none(), seen)),
        Part::live("timeline", timeline::timeline(viewer, before, seen)),
        Part::live("state", state(viewer, seen)),
        Part::live("inbox", inbox::inbox(viewer, seen)),
        Part::live("tree", tree(viewer, seen)),
        Part::live("audit", acts(viewer, seen)),
    ]
}

fn head(viewer: &Viewer, seen: &Instance) -> Markup {
    html! {
        div.row {
            h1 {
                span.id { (seen.id) }
                @if let Some(details) = &seen.details { " " (pieces::status(details.status)) }
            }
            @if let Some(details) = &seen.details { (actions(viewer, seen, details)) }
        }
        @match &seen.details {
            Some(details) => p.lead {
                (pieces::machine_link(viewer, &details.machine, Some(details.version)))
                span.muted { " v" (details.version) " at " }
                a.step href=(machine::step_url(viewer, &details.machine, &details.step)) {
                    (details.step)
                }
            }
            None => p.banner { "This instance was deleted. What is left of it is shown." }
        }
        @let ended = seen.details.as_ref().is_some_and(|details| details.status.is_terminal());
        @for pause in seen.pauses.iter().filter(|_| !ended) {
            p.banner.paused { b { (pause.scope) } " is " (pieces::pause(pause)) "." }
        }
    }
}

fn actions(viewer: &Viewer, seen: &Instance, details: &Details) -> Markup {
    let subject = Subject::Instance(seen.id);
    let own_pause = seen
        .pauses
        .iter()
        .any(|pause| matches!(pause.scope, gen_durable::operate::PauseScope::Instance(_)));
    let status = details.status.as_str();
    let fits = |deed: &Deed| match deed {
        Deed::Retry => matches!(status, "failed" | "cancelled"),
        Deed::RunNow => status == "runnable",
        Deed::Delete => details.status.is_terminal(),
        Deed::Pause => !details.status.is_terminal() && !own_pause,
        Deed::Resume => own_pause,
        Deed::Cancel => !details.status.is_terminal() && details.cancelled_at.is_none(),
        _ => !details.status.is_terminal(),
    };
    html! {
        div.actions role="group" aria-label="actions" {
            @for deed in subject.deeds().iter().filter(|deed| fits(deed)) {
                (pieces::button(viewer, *deed, &subject))
            }
        }
    }
}

/// Shows the last error and the facts: what the instance waits for, its attempt, queue and keys.
fn now(viewer: &Viewer, seen: &Instance) -> Markup {
    let Some(details) = &seen.details else { return html! {} };
    html! {
        @if let Some(error) = &details.last_error {
            div.error-block.past[!details.status.is_terminal()] {
                h2 { @if details.status.is_terminal() { "Error" } @else { "Last error" } }
                (pieces::error(error))
            }
        }
        h2.unseen { "Facts" }
        dl.facts { (standing(viewer, details)) (marks(viewer, details)) }
    }
}

fn standing(viewer: &Viewer, details: &Details) -> Markup {
    html! {
        @if !details.awaits.is_empty() {
            div { dt { "Waits for" } dd {
                @for (index, signal) in details.awaits.iter().enumerate() {
                    @if index > 0 { " or " }
                    span.mono { (signal) }
                }
                @if let Some(more) = details.awaits_more { ", " (more) " more" }
            } }
        }
        @if let Some(limited) = &details.limited {
            div { dt { "Held back by" } dd {
                (pieces::link(viewer, &crate::view::View::Limit {
                    name: limited.limit.clone(),
                    after: None,
                }, &limited.limit))
                @if let Some(key) = &limited.key { " for " span.mono { (key) } }
                @if let Some(until) = limited.until { ", until " (pieces::moment(until)) }
            } }
        }
        @if let Some((worker, name)) = &details.worker {
            div { dt { "Worker" } dd { (worker) @if let Some(name) = name { " " (name) } } }
        }
        @if let Some(at) = details.wakes_at { div { dt { "Wakes" } dd { (pieces::moment(at)) } } }
        @if !details.status.is_terminal() && details.wakes_at.is_none() && details.awaits.is_empty() {
            div { dt { "Due" } dd { (pieces::maybe_moment(details.due_at)) } }
        }
        div { dt { "Attempt" } dd {
            (details.attempt)
            @if details.failures > 0 { span.muted { ", " (details.failures) " failed in a row" } }
            @if details.crashes > 0 { span.muted { ", " (details.crashes) " workers lost" } }
        } }
    }
}

fn marks(viewer: &Viewer, details: &Details) -> Markup {
    html! {
        div { dt { "Queue" } dd {
            (pieces::link(viewer, &pieces::instances(Filter::of_queue(&details.queue)), &details.queue))
            @if details.priority != 0 { span.muted { ", priority " (details.priority) } }
        } }
        @if let Some(key) = &details.unique_key {
            div { dt { "Unique key" } dd {
                span.mono { (key) }
                @if !details.holds_unique_key { span.muted { ", given back" } }
            } }
        }
        @if let Some(key) = &details.partition_key {
            div { dt { "Partition key" } dd {
                @let filter = Filter { partition_key: Some(key.clone()), ..Filter::default() };
                span.mono { (pieces::link(viewer, &pieces::instances(filter), key)) }
            } }
        }
        @if let Some(receiver) = details.reports_to {
            div { dt { "Reports to" } dd { (pieces::instance_link(viewer, receiver)) } }
        }
        @if let Some(at) = details.cancelled_at {
            div { dt { "Cancelled" } dd { (pieces::moment(at)) } }
        }
        div { dt { "Inserted" } dd { (pieces::maybe_moment(details.inserted_at)) } }
        @if let Some(at) = details.finished_at { div { dt { "Ended" } dd { (pieces::moment(at)) } } }
        @else { div { dt { "Changed" } dd { (pieces::maybe_moment(details.updated_at)) } } }
    }
}

/// Draws the graph with the position, and the steps of the newest runs.
fn graph(viewer: &Viewer, is_newest: bool, seen: &Instance) -> Markup {
    let (Some(details), Some(machine)) = (&seen.details, &seen.machine) else { return html! {} };
    let Some(graph) = machine.graph() else { return html! {} };
    let visited: BTreeSet<&str> = seen
        .runs
        .entries
        .iter()
        .filter(|_| is_newest)
        .flat_map(|run| [Some(run.step.as_str()), run.next_step.as_deref()])
        .flatten()
        .collect();
    let picture = Picture::of(&graph).with_position(Some(&details.step), &visited);
    let link = |step: &str| machine::step_url(viewer, &details.machine, step);
    html! {
        h2 { "Position" }
        @if let Some(svg) = svg(&picture, link) {
            div.canvas tabindex="0" role="region" aria-label="graph" { (svg) }
        } @else {
            (pieces::empty("The graph is too large to be drawn."))
        }
    }
}

fn state(viewer: &Viewer, seen: &Instance) -> Markup {
    let Some(details) = &seen.details else { return html! {} };
    html! {
        h2 { "State" }
        (pieces::value(viewer, &details.state_json))
        @if let Some(result) = &details.result_json {
            h2 { "Result" }
            (pieces::value(viewer, result))
        }
    }
}

fn tree(viewer: &Viewer, seen: &Instance) -> Markup {
    let Some(tree) = &seen.tree else { return html! {} };
    if tree.ancestors.is_empty() && tree.descendants.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Family" }
        ul.tree {
            @for node in tree.ancestors.iter().rev() { (relative(viewer, node, "parent")) }
            li data-key=(seen.id) { span.id { (seen.id) } " " span.muted { "this instance" } }
            @for node in tree.descendants.iter().take(100) { (relative(viewer, node, "child")) }
        }
        @if tree.descendants.len() > 100 || tree.looked_to.is_some() {
            p.note { "There may be more: only some descendants were looked for." }
        }
    }
}

fn relative(viewer: &Viewer, node: &TreeNode, kind: &str) -> Markup {
    let entry = &node.entry;
    html! {
        li class=(format!("{kind} depth-{}", node.depth.min(4))) data-key=(entry.id) {
            (pieces::instance_link(viewer, entry.id)) " " (pieces::status(entry.status)) " "
            span.where {
                (pieces::machine_link(viewer, &entry.machine, Some(entry.version)))
                span.at { "@" (entry.step) }
            }
        }
    }
}

fn acts(viewer: &Viewer, seen: &Instance) -> Markup {
    html! {
        h2 { "What operators did" }
        @if seen.audit.entries.is_empty() {
            (pieces::empty("No operator has acted on this instance."))
        } @else {
            (audit::table(viewer, &seen.audit.entries))
        }
    }
}
