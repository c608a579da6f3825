//! A machine: its graph with the instances at each step, and what is paused.

use gen_durable::operate::{StepCount, Waits};
use maud::{Markup, html};

use super::{Part, machines, pieces};
use crate::{
    deed::Subject,
    filter::Filter,
    graph::{Picture, svg},
    guard::Viewer,
    looks::Machine,
};

pub(super) fn parts(viewer: &Viewer, machine: &Machine) -> Vec<Part> {
    vec![
        Part::live("head", head(viewer, machine)),
        Part::live("graph", graph(viewer, machine)),
        Part::live("steps", steps(viewer, machine)),
        Part::live("facts", facts(viewer, machine)),
    ]
}

fn head(viewer: &Viewer, seen: &Machine) -> Markup {
    let machine = &seen.entry;
    let pause = machines::pause_of(&seen.pauses, &machine.name);
    html! {
        div.row {
            h1 { (machine.name) " " span.version { "v" (machine.version) } }
            div.actions {
                a.button href=(viewer.url(&pieces::instances(Filter::of_machine(&machine.name)).path())) {
                    "Instances"
                }
                (pieces::pause_or_resume(
                    viewer,
                    pause.is_some(),
                    &Subject::Machine(machine.name.clone()),
                ))
            }
        }
        @if let Some(pause) = pause { p.banner.paused { "All steps: " (pieces::pause(pause)) "." } }
        @if machine.workers == 0 {
            p.banner.failed { "No living engine runs this version: its instances wait." }
        }
        @if seen.versions.len() > 1 {
            p.versions {
                "Versions: "
                @for version in &seen.versions {
                    @if *version == machine.version { b { (version) } }
                    @else { (version_link(viewer, &machine.name, *version)) }
                    " "
                }
            }
        }
    }
}

fn version_link(viewer: &Viewer, name: &str, version: u32) -> Markup {
    let view = crate::view::View::Machine { name: name.to_owned(), version: Some(version) };
    pieces::link(viewer, &view, &version.to_string())
}

fn graph(viewer: &Viewer, seen: &Machine) -> Markup {
    let machine = &seen.entry;
    let Some(graph) = machine.graph() else {
        return pieces::empty("No engine has registered a graph for this version.");
    };
    let all = machines::pause_of(&seen.pauses, &machine.name).is_some();
    let is_paused =
        |step: &str| all || machines::pause_of_step(&seen.pauses, &machine.name, step).is_some();
    let picture = Picture::of(&graph).with_counts(&seen.counts).with_paused(is_paused);
    let link = |step: &str| step_url(viewer, machine.name.as_str(), step);
    html! {
        h2.unseen { "Graph" }
        @match svg(&picture, link) {
            Some(svg) => div.canvas tabindex="0" role="region" aria-label="graph" { (svg) }
            None => (pieces::empty("The graph is too large to be drawn. The steps are listed below.")),
        }
        p.legend {
            span.key.line { "at once" }
            span.key.late { "after a delay" }
            span.key.back { "back" }
            @for waits in Waits::ALL {
                @if seen.counts.iter().any(|count| count.waits == waits) {
                    span class=(format!("key dot {}", waits.as_str())) { (pieces::waits_words(waits)) }
                }
            }
        }
    }
}

pub(super) fn step_url(viewer: &Viewer, machine: &str, step: &str) -> String {
    viewer.url(&pieces::instances(Filter::of_step(machine, step)).path())
}

fn steps(viewer: &Viewer, seen: &Machine) -> Markup {
    let machine = &seen.entry;
    html! {
        h2 { "Steps" }
        div.scroll {
            table.cards {
                thead {
                    tr {
                        th scope="col" { "Step" }
                        th scope="col" { "Instances" }
                        th scope="col" { "Pause" }
                        @if viewer.may_act() { th scope="col" { span.unseen { "Actions" } } }
                    }
                }
                tbody {
                    @for step in &machine.steps {
                        @let pause = machines::pause_of_step(&seen.pauses, &machine.name, step);
                        tr data-key=(step) {
                            th scope="row" {
                                a.step href=(step_url(viewer, &machine.name, step)) { (step) }
                                @if *step == machine.first_step { span.muted { " first" } }
                                @if machine.on_cancel.as_ref() == Some(step) {
                                    span.muted { " answers a cancel" }
                                }
                            }
                            td data-label="Instances" { (counts(&seen.counts, step)) }
                            td data-label="Pause" {
                                @if let Some(pause) = pause { (pieces::pause(pause)) }
                                @else { span.none { "–" } }
                            }
                            @if viewer.may_act() {
                                td.actions {
                                    (pieces::pause_or_resume(viewer, pause.is_some(), &Subject::Step {
                                        machine: machine.name.clone(),
                                        step: step.clone(),
                                    }))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn counts(counts: &[StepCount], step: &str) -> Markup {
    let here = || counts.iter().filter(|count| count.step == step);
    html! {
        @if here().next().is_none() { span.none { "none" } }
        @for count in here() {
            span class=(format!("key dot {}", count.waits.as_str())) {
                (pieces::number(count.count, count.capped)) " " (count.waits)
            }
        }
    }
}

fn facts(viewer: &Viewer, seen: &Machine) -> Markup {
    let machine = &seen.entry;
    html! {
        h2 { "Facts" }
        dl.facts {
            div { dt { "Queue" } dd {
                (pieces::link(viewer, &pieces::instances(Filter::of_queue(&machine.queue)), &machine.queue))
            } }
            div { dt { "Engines" } dd { (machine.workers) } }
            div { dt { "First step" } dd.mono { (machine.first_step) } }
            div { dt { "On a cancel" } dd {
                @match &machine.on_cancel {
                    Some(step) => span.mono { (step) },
                    None => "ends as cancelled",
                }
            } }
            div { dt { "Signals" } dd {
                @if machine.signals.is_empty() { span.none { "none" } }
                @for (index, signal) in machine.signals.iter().enumerate() {
                    @if index > 0 { ", " }
                    span.mono { (signal) }
                }
            } }
            div { dt { "History" } dd { (machine.history.as_str()) } }
            div { dt { "Registered" } dd { (pieces::moment(machine.registered_at)) } }
        }
    }
}
