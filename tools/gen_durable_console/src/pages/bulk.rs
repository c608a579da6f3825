//! An action on many instances, and how far it has come.

use maud::html;

use super::{Part, pieces, shell::sentence};
use crate::{
    bulk::Standing,
    deed::{Deed, Subject},
    guard::Viewer,
};

pub(super) fn parts(viewer: &Viewer, standing: &Standing) -> Vec<Part> {
    let counts = &standing.counts;
    let html = html! {
        div.row {
            h1 {
                (standing.deed.label()) " "
                @match &standing.ended {
                    None => (pieces::chip("executing", "under way")),
                    Some((_, Some(_))) => (pieces::chip("failed", "broke off")),
                    Some((_, None)) if counts.stopped => (pieces::chip("cancelled", "stopped")),
                    Some((_, None)) => (pieces::chip("done", "finished")),
                }
            }
            div.actions {
                @if standing.ended.is_none() {
                    (pieces::button(viewer, Deed::Stop, &Subject::Bulk(standing.id)))
                }
                a.button href=(viewer.url(&standing.back)) { "The instances" }
            }
        }
        p.lead { (standing.words) }
        @if let Some((_, Some(error))) = &standing.ended { p.banner.failed { (sentence(error)) } }
        ul.tiles {
            li { div.tile.done { span.label { "Done" } span.value { (pieces::number(counts.done, false)) } } }
            li { div.tile.scheduled {
                span.label { "Left alone" } span.value { (pieces::number(counts.left_alone, false)) }
            } }
            li { div.tile.blocked {
                span.label { "Locked by others" } span.value { (pieces::number(counts.locked, false)) }
            } }
        }
        p.note {
            "Begun by " b { (standing.by) } " " (pieces::moment(standing.began))
            @if let Some((at, _)) = &standing.ended { ", ended " (pieces::moment(*at)) }
            ". It goes on when this page is closed. The console remembers the last 100 actions until "
            "it ends. The action leaves an instance alone that has ended or changed meanwhile, or "
            "whose unique key another one holds."
        }
    };
    vec![Part::live("bulk", html)]
}
