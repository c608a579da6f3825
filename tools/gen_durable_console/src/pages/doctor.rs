//! The doctor's findings: things that wait for ever, why, and what helps.

use gen_durable::operate::{Finding, Severity};
use maud::{Markup, html};

use super::{Part, pieces};
use crate::guard::Viewer;

/// The instances of a finding that are named.
const EXAMPLES: usize = 5;

pub(super) fn parts(viewer: &Viewer, findings: &[Finding]) -> Vec<Part> {
    let intro = html! {
        h1 { "Doctor" }
        p.lead { "What waits for ever or endangers the rest, why, and what helps." }
    };
    let list = html! {
        @if findings.is_empty() { (pieces::empty("Nothing is wrong.")) }
        @else { ul.schedules { @for finding in findings { (card(viewer, finding)) } } }
    };
    vec![Part::fixed("head", intro), Part::live("findings", list)]
}

/// Returns the colour of a severity.
const fn tone(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "failed",
        Severity::Warning => "paused",
        _ => "scheduled",
    }
}

fn card(viewer: &Viewer, finding: &Finding) -> Markup {
    html! {
        li.card data-key=(format!("{:?} {}", finding.illness, finding.subject)) {
            h2 {
                (pieces::chip(tone(finding.severity), &finding.severity.to_string())) " "
                (finding.subject)
                @if let Some(count) = finding.count {
                    span.muted { " × " (pieces::count(count)) }
                }
            }
            p { (finding.explanation) }
            p.cure { b { "Cure: " } code { (finding.cure) } }
            @if !finding.instances.is_empty() {
                p.sub {
                    "For example "
                    @for id in finding.instances.iter().take(EXAMPLES) {
                        (pieces::instance_link(viewer, *id)) " "
                    }
                }
            }
        }
    }
}
