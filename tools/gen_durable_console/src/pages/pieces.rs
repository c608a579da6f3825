//! The pieces of which pages are made.

use std::time::{Duration, SystemTime};

use gen_durable::{
    Status,
    operate::{Count, PauseEntry, Waits},
};
use maud::{Markup, html};

use crate::{
    deed::{Act, Deed, Subject},
    filter::Filter,
    guard::Viewer,
    json, time,
    view::View,
};

/// Shows a moment. The script shows how long ago it was.
pub(super) fn moment(at: SystemTime) -> Markup {
    html! {
        time datetime=(time::rfc3339(at)) title=(format!("{} UTC", time::plain(at))) {
            (time::plain(at))
        }
    }
}

pub(super) fn maybe_moment(at: Option<SystemTime>) -> Markup {
    html! { @if let Some(at) = at { (moment(at)) } @else { span.none { "–" } } }
}

pub(super) fn span(from: SystemTime, to: SystemTime) -> String {
    time::short(to.duration_since(from).unwrap_or(Duration::ZERO))
}

pub(super) fn status(status: Status) -> Markup {
    html! { span class=(format!("chip {}", status.as_str())) { (status_words(status)) } }
}

pub(super) const fn status_words(status: Status) -> &'static str {
    match status {
        Status::AwaitingSignal => "awaiting",
        status => status.as_str(),
    }
}

/// Shows a word as a chip of this colour.
pub(super) fn chip(class: &str, word: &str) -> Markup {
    html! { span class=(format!("chip {class}")) { (word) } }
}

pub(super) fn number(count: u64, capped: bool) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    if capped {
        text.push('+');
    }
    text
}

pub(super) fn count(count: Count) -> String {
    match count {
        Count::Exact(count) => number(count, false),
        Count::AtLeast(count) => number(count, true),
    }
}

pub(super) fn link(viewer: &Viewer, view: &View, text: &str) -> Markup {
    html! { a href=(viewer.url(&view.path())) { (text) } }
}

pub(super) fn instance_link(viewer: &Viewer, id: i64) -> Markup {
    html! { a.id href=(viewer.url(&View::Instance { id, before: None }.path())) { (id) } }
}

pub(super) fn machine_link(viewer: &Viewer, name: &str, version: Option<u32>) -> Markup {
    link(viewer, &View::Machine { name: name.to_owned(), version }, name)
}

pub(super) fn instances(filter: Filter) -> View {
    View::Instances { filter, before: None }
}

/// Returns a link that looks like a button, for those who may act. It leads to the question whether
/// that is meant.
pub(super) fn button(viewer: &Viewer, deed: Deed, subject: &Subject) -> Markup {
    let act = Act::new(deed, subject.clone());
    let class = if deed.is_final() { "button danger" } else { "button" };
    html! {
        @if viewer.may_act() {
            a class=(class) data-key=(deed.as_str()) href=(viewer.url(&act.fields().on("/act")))
                aria-label=(format!("{} {}", deed.label(), subject.words())) {
                (deed.label())
            }
        }
    }
}

pub(super) fn pause_or_resume(viewer: &Viewer, is_paused: bool, subject: &Subject) -> Markup {
    button(viewer, if is_paused { Deed::Resume } else { Deed::Pause }, subject)
}

/// Says who has paused something, why and until when.
pub(super) fn pause(pause: &PauseEntry) -> Markup {
    html! {
        "paused by " b { (pause.by) } " " (moment(pause.paused_at))
        @if let Some(until) = pause.until { ", until " (moment(until)) }
        @if let Some(reason) = &pause.reason { ": " q { (reason) } }
    }
}

/// Shows an error.
pub(super) fn error(text: &str) -> Markup {
    let shown = text.floor_char_boundary(json::SHOWN_MAX);
    html! {
        pre.error tabindex="0" { (text[..shown]) }
        @if shown < text.len() { p.note { "The rest is not shown: the error is too long for a page." } }
    }
}

/// Says that there is nothing, and what would be here.
pub(super) fn empty(text: &str) -> Markup {
    html! { p.empty { (text) } }
}

/// Shows JSON, if the viewer may see states.
pub(super) fn value(viewer: &Viewer, text: &str) -> Markup {
    if !viewer.access.shows_states() {
        return hidden();
    }
    let (text, cut) = json::lay_out(text);
    html! {
        pre.json tabindex="0" { (text) }
        @if cut { p.note { "The rest is not shown: the value is too long for a page." } }
    }
}

pub(super) fn hidden() -> Markup {
    html! { p.hidden { "Hidden: your access does not show states, results and payloads." } }
}

/// Returns the label of a kind of waiting.
pub(super) const fn waits_words(waits: Waits) -> &'static str {
    match waits {
        Waits::Due => "Due",
        Waits::Scheduled => "Scheduled",
        Waits::Executing => "Executing",
        Waits::Awaiting => "Awaiting",
        Waits::Failed => "Failed",
        Waits::Paused => "Paused",
        Waits::Limited => "Limited",
        Waits::Blocked => "Blocked",
        _ => "Other",
    }
}

/// Returns a bar whose parts are as long as their counts.
pub(super) fn bar(parts: &[(Waits, u64)]) -> Markup {
    let all: u64 = parts.iter().map(|(_, count)| count).sum();
    let mut x = 0.0;
    html! {
        svg.bar viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" {
            rect.rest x="0" y="0" width="100" height="6" {}
            @for (waits, count) in parts {
                @let width = share(*count, all);
                rect class=(waits.as_str()) x=(format!("{x:.2}")) y="0" width=(format!("{width:.2}")) height="6" {}
                ({ x += width; "" })
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share of a bar needs two digits")]
fn share(count: u64, all: u64) -> f64 {
    100.0 * count as f64 / all.max(1) as f64
}

/// The labels of the links between the pages of a list that begins with the newest.
pub(super) const BY_AGE: [&str; 2] = ["Newest", "Older"];
/// The labels of those of a list that is sorted by names or keys.
pub(super) const BY_NAME: [&str; 2] = ["First", "Next"];

/// Returns the links to the first page and to the next one.
pub(super) fn pager(
    viewer: &Viewer,
    labels: [&str; 2],
    first: Option<&View>,
    next: Option<&View>,
) -> Markup {
    let [to_first, to_next] = labels;
    html! {
        @if first.is_some() || next.is_some() {
            nav.pager aria-label="pages" {
                @if let Some(first) = first {
                    a.button href=(viewer.url(&first.path())) { (to_first) }
                }
                @if let Some(next) = next {
                    a.button rel="next" href=(viewer.url(&next.path())) { (to_next) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        let shown = [0, 999, 1_000, 1_234_567].map(|count| number(count, false));
        assert_eq!(shown, ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!(number(10_000, true), "10\u{202f}000+");
    }
}
