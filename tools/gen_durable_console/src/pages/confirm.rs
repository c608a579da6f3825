//! The question whether an action is meant, with what it would do.

use gen_durable::operate::{Count, List};
use maud::{Markup, html};

use super::{
    instances, pieces,
    shell::{Html, still},
};
use crate::{
    deed::{Act, Deed, Subject},
    guard::{TOKEN, Viewer},
    looks::{Model, Seen},
    session::random,
    used::ONCE,
};

/// An action that was asked for, and what it would meet.
pub(crate) struct Asked {
    pub(crate) act: Act,
    /// The first instances, and the number of all, of an action on many.
    pub(crate) preview: Option<(List, Count)>,
    /// The look at an instance or a limit. None for all other subjects.
    pub(crate) seen: Option<Seen>,
}

impl Asked {
    pub(crate) const fn new(act: Act) -> Self {
        Self { act, preview: None, seen: None }
    }
}

/// The ends of a pause that the form offers.
const ENDS: [(&str, &str); 6] = [
    ("", "somebody resumes it"),
    ("15m", "15 min from now"),
    ("1h", "1 h from now"),
    ("4h", "4 h from now"),
    ("1d", "1 d from now"),
    ("7d", "7 d from now"),
];

pub(crate) fn confirm(viewer: &Viewer, asked: &Asked) -> Html {
    let Act { deed, subject } = &asked.act;
    let back = viewer.url(&subject.view().path());
    let title = format!("{} {}", deed.label(), subject.words());
    let body = html! {
        h1 { (deed.label()) " " span.muted { (subject.words()) } }
        p.lead { (effect(*deed, subject)) }
        @if let Some((list, count)) = &asked.preview { (preview(viewer, list, *count)) }
        form.confirm method="post" action=(viewer.url("/act")) {
            input type="hidden" name=(TOKEN) value=(viewer.token);
            input type="hidden" name=(ONCE) value=(random());
            @for (name, value) in asked.act.fields().pairs() {
                input type="hidden" name=(name) value=(value);
            }
            (options(asked))
            @if *deed != Deed::Stop {
                label {
                    span { "Reason, for the audit" }
                    input type="text" name="reason" maxlength="1000" autocomplete="off" autofocus;
                }
            }
            @if needs_tick(*deed, subject) {
                label.tick {
                    input type="checkbox" name="sure" value="yes" required;
                    span { "I know that this ends or deletes instances" }
                }
            }
            div.actions {
                button class=(if deed.is_final() { "danger" } else { "primary" }) type="submit" {
                    (deed.label())
                    @if let Some((_, count)) = &asked.preview { " " (pieces::count(*count)) }
                }
                a.button href=(back) { "Back" }
            }
        }
    };
    still(viewer, &title, &body)
}

/// True if the form shows a tick. `perform` demands the same ticks, so the two must agree.
fn needs_tick(deed: Deed, subject: &Subject) -> bool {
    match subject {
        Subject::Instances(_) => deed.is_final(),
        Subject::Instance(_) => matches!(deed, Deed::Kill | Deed::Delete),
        _ => false,
    }
}

/// Says what an action does.
fn effect(deed: Deed, subject: &Subject) -> &'static str {
    match (deed, subject) {
        (Deed::Cancel, _) => {
            "The machine may answer by its step for cancels. Otherwise the instance ends as cancelled."
        }
        (Deed::Kill, _) => {
            "It ends at once as cancelled, and its machine is not asked. A run under way is not waited for."
        }
        (Deed::Retry, _) => {
            "It goes back to the step where it stands, at attempt 0, with its state and its inbox."
        }
        (Deed::RunNow, Subject::Schedule(_)) => {
            "An engine inserts an instance now. The ticks stay as they are."
        }
        (Deed::RunNow, _) => {
            "Its delay is over. A pause, a limit or its partition key still holds it back."
        }
        (Deed::Pause, Subject::Schedule(_)) => {
            "No tick fires until it is resumed. Those count as missed."
        }
        (Deed::Pause, _) => "No step begins in any process. Steps under way finish.",
        (Deed::Resume, _) => "Engines go on within a second.",
        (Deed::Delete, _) => "It is gone with its inbox and its history. Its audit stays.",
        (Deed::Fork, _) => "A new instance goes on from the step and the state that this run left.",
        (Deed::Set, _) => {
            "These bounds replace the declared ones in all processes, also after a deployment. An empty field bounds nothing."
        }
        (Deed::Reset, _) => "The declared bounds are in force again.",
        (Deed::Stop, _) => "It ends after its present batch. What was done stays done.",
    }
}

fn preview(viewer: &Viewer, list: &List, count: Count) -> Markup {
    html! {
        p.banner {
            b { (pieces::count(count)) }
            " fit the filter now. The action goes through all that fit when it comes to them, "
            "from the newest to the oldest, and leaves alone what it would not change."
        }
        @if list.entries.is_empty() && list.next.is_some() {
            (pieces::empty("None of the newest instances fits. Older ones may: the look ended before them, and the action goes through all."))
        } @else if list.entries.is_empty() { (pieces::empty("No instance fits.")) }
        @else {
            h2 { "The first of them" }
            (instances::table(viewer, &list.entries))
        }
    }
}

/// Returns the fields that an action takes.
fn options(asked: &Asked) -> Markup {
    let model = asked.seen.as_ref().map(|seen| &seen.model);
    html! {
        @match (asked.act.deed, &asked.act.subject) {
            (Deed::Pause, _) => label {
                span { "Until" }
                select name="until" {
                    @for (value, text) in ENDS { option value=(value) { (text) } }
                }
            }
            (Deed::Retry, subject) => {
                @if let (Subject::Instance(_), Some(Model::Instance(instance))) = (subject, model) {
                    @if let Some(machine) = &instance.machine {
                        label {
                            span { "At step" }
                            select name="at" {
                                option value="" { "where it stands" }
                                @for step in &machine.steps { option value=(step) { (step) } }
                            }
                        }
                    }
                }
                label.tick {
                    input type="checkbox" name="forget" value="yes";
                    span { "Forget the deduplication keys of signals" }
                }
            }
            (Deed::Set, _) => (bounds(model)),
            _ => {}
        }
    }
}

fn bounds(model: Option<&Model>) -> Markup {
    let in_force = match model {
        Some(Model::Limit { limit, .. }) => limit.in_force,
        _ => gen_durable::operate::Bounds::default(),
    };
    let period = in_force.per.map(|(_, period)| crate::time::span(period));
    let field = |label: &str, name: &str, value: Option<u32>| {
        html! {
            label {
                span { (label) }
                input type="number" name=(name) min="1" max="2147483647" value=[value];
            }
        }
    };
    html! {
        div.filter {
            (field("Runs at once", "at_once", in_force.at_once))
            (field("Starts", "starts", in_force.per.map(|(starts, _)| starts)))
            label {
                span { "In a period of" }
                input type="text" name="period" pattern="[0-9]+(ms|[smhd])" value=(period.as_deref().unwrap_or("1s"))
                    title="a number and a unit: 500ms, 1s, 15m, 2h, 1d";
            }
            (field("Burst", "burst", in_force.burst))
        }
    }
}
