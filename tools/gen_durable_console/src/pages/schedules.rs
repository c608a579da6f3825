//! The schedules: when each fires next, and what it did last.

use gen_durable::operate::ScheduleEntry;
use maud::{Markup, html};

use super::{Part, pieces};
use crate::{
    deed::{Deed, Subject},
    guard::Viewer,
    view::View,
};

/// The schedules of a page, as the library lists them.
const PAGE: usize = 1_000;

pub(super) fn parts(viewer: &Viewer, all: &[ScheduleEntry], after: Option<&str>) -> Vec<Part> {
    let first = after.map(|_| View::Schedules { after: None });
    let full = all.last().filter(|_| all.len() >= PAGE);
    let next = full.map(|last| View::Schedules { after: Some(last.name.clone()) });
    let list = html! {
        @if all.is_empty() { (pieces::empty("No program declares a schedule.")) }
        @else { ul.schedules { @for schedule in all { (card(viewer, schedule)) } } }
        (pieces::pager(viewer, pieces::BY_NAME, first.as_ref(), next.as_ref()))
    };
    vec![Part::fixed("head", html! { h1 { "Schedules" } }), Part::live("schedules", list)]
}

fn card(viewer: &Viewer, schedule: &ScheduleEntry) -> Markup {
    let subject = Subject::Schedule(schedule.name.clone());
    html! {
        li.card data-key=(schedule.name) {
            div.row {
                h2 {
                    (schedule.name)
                    @if schedule.paused.is_some() { " " (pieces::chip("paused", "paused")) }
                    @if schedule.declared_by.is_empty() {
                        " " (pieces::chip("failed", "no program declares it"))
                    }
                    @if schedule.asked.is_some() { " " (pieces::chip("due", "run asked for")) }
                }
                div.actions {
                    (pieces::button(viewer, Deed::RunNow, &subject))
                    (pieces::pause_or_resume(viewer, schedule.paused.is_some(), &subject))
                }
            }
            p.mono.muted { (schedule.declaration) }
            dl.facts {
                div { dt { "Next" } dd { (pieces::maybe_moment(schedule.next)) } }
                div { dt { "Last" } dd {
                    (pieces::maybe_moment(schedule.last))
                    @if let Some(id) = schedule.last_instance { " " (pieces::instance_link(viewer, id)) }
                } }
                div { dt { "Machine" } dd { (pieces::machine_link(viewer, &schedule.machine, None)) } }
                @if let Some(at) = schedule.waiting { div { dt { "Waiting tick" } dd { (pieces::moment(at)) } } }
                @if let Some(pause) = &schedule.paused {
                    div { dt { "Paused by" } dd {
                        b { (pause.by) } " " (pieces::moment(pause.paused_at))
                        @if let Some(until) = pause.until { ", until " (pieces::moment(until)) }
                        @if let Some(reason) = &pause.reason { ": " q { (reason) } }
                    } }
                }
            }
            @if let Some(error) = &schedule.last_error {
                p.error { (pieces::maybe_moment(schedule.failed_at)) ": " (error) }
            }
        }
    }
}
