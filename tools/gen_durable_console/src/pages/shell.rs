//! The frame of all pages: the head, the navigation, and the pages that say that something failed.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::{Part, parts};
use crate::{
    assets::{ICON, SCRIPT, STYLE},
    deed::Deed,
    guard::{Refused, Viewer},
    looks::{Model, Seen},
    time,
    view::{AuditFilter, View},
};

/// The notice that something was done.
pub(crate) struct Notice(pub(crate) Deed);

/// A page with its status.
pub(crate) struct Html(StatusCode, Markup);

impl IntoResponse for Html {
    fn into_response(self) -> Response {
        let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
        (self.0, kind, self.1.into_string()).into_response()
    }
}

/// Makes the page of a view.
pub(crate) fn page(viewer: &Viewer, view: &View, seen: &Seen, notice: Option<&Notice>) -> Html {
    let parts = parts(viewer, view, seen);
    let body = html! {
        @if let Some(Notice(deed)) = notice {
            p.notice role="status" { (deed.done()) "." }
        }
        @for Part { id, html, .. } in &parts { section id=(id) { (html) } }
        footer.took { "As of " time datetime=(time::rfc3339(seen.at)) { (time::plain(seen.at)) " UTC" } }
    };
    let frame = Frame { section: Some(view.section()), live: view.is_live().then(|| view.path()) };
    Html(StatusCode::OK, shell(viewer, &title(view, seen), &frame, &body))
}

fn title(view: &View, seen: &Seen) -> String {
    match (view, &seen.model) {
        (View::Instance { id, .. }, Model::Instance(instance)) => match &instance.details {
            Some(details) => format!("{id} {}@{}", details.machine, details.step),
            None => id.to_string(),
        },
        (View::Entry { instance, .. }, Model::Entry(entry)) => {
            format!("{instance} {}@{}", entry.machine, entry.step)
        }
        (View::Machine { name, .. } | View::Limit { name, .. }, _) => name.clone(),
        (View::Bulk { id }, _) => format!("Action {id}"),
        (View::Overview, _) => "Overview".to_owned(),
        (view, _) => {
            let section = view.section();
            format!("{}{}", section[..1].to_uppercase(), &section[1..])
        }
    }
}

/// The pages of the navigation.
fn pages() -> [(&'static str, View); 9] {
    [
        ("Overview", View::Overview),
        ("Instances", View::Instances { filter: crate::filter::Filter::default(), before: None }),
        ("Machines", View::Machines),
        ("Queues", View::Queues),
        ("Limits", View::Limits),
        ("Schedules", View::Schedules { after: None }),
        ("Workers", View::Workers),
        ("Doctor", View::Doctor),
        ("Audit", View::Audit { filter: AuditFilter::default(), before: None }),
    ]
}

/// The things around a page that depend on its view.
#[derive(Default)]
struct Frame {
    /// The page of the navigation to which it belongs.
    section: Option<&'static str>,
    /// The path of the view, if there is a stream of what changes in it.
    live: Option<String>,
}

fn shell(viewer: &Viewer, title: &str, frame: &Frame, body: &Markup) -> Markup {
    let live = frame.live.as_ref().map(|path| viewer.url(&format!("/live{path}")));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · gen_durable" }
                link rel="icon" href=(viewer.url(&ICON.path())) type="image/svg+xml";
                link rel="stylesheet" href=(viewer.url(&STYLE.path()));
                script src=(viewer.url(&SCRIPT.path())) defer {}
            }
            body data-live=[live] {
                a.skip href="#main" { "Skip to the content" }
                header.side {
                    a.brand href=(viewer.url("")) {
                        img src=(viewer.url(&ICON.path())) alt="" width="22" height="22";
                        span { "gen_durable" }
                    }
                    @if viewer.access.may_read() { (navigation(viewer, frame)) }
                }
                main id="main" tabindex="-1" { (body) }
            }
        }
    }
}

fn navigation(viewer: &Viewer, frame: &Frame) -> Markup {
    html! {
        nav aria-label="Console" {
            ul {
                @for (name, page) in pages() {
                    @let here = frame.section == Some(page.section());
                    li {
                        a href=(viewer.url(&page.path())) aria-current=[here.then_some("page")] {
                            (name)
                        }
                    }
                }
            }
        }
        div.who {
            @match viewer.access.operator() {
                Some(operator) => p { "Acting as " b { (operator) } },
                None => p { "Read only" },
            }
            @if !viewer.access.shows_states() { p.muted { "States are hidden" } }
            @if frame.live.is_some() { p id="live" { "Reload to see changes" } }
        }
    }
}

/// Makes the page of a request that failed.
pub(crate) fn failed(viewer: &Viewer, status: StatusCode, text: &str) -> Html {
    let reason = status.canonical_reason().unwrap_or("Failed");
    let body = html! {
        div.failure role="alert" {
            h1 { (reason) }
            p { (sentence(text)) }
            @if viewer.access.may_read() {
                p { a.button href=(viewer.url("")) { "Overview" } }
            }
        }
    };
    Html(status, shell(viewer, reason, &Frame::default(), &body))
}

/// Makes a message a sentence. A name at its beginning stays as it is.
pub(super) fn sentence(text: &str) -> String {
    let is_name = text.split(' ').next().is_some_and(|word| word.contains(['_', '`']));
    if is_name {
        return format!("{text}.");
    }
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

pub(crate) fn refused(viewer: &Viewer, refused: Refused) -> Html {
    failed(viewer, refused.status(), &refused.to_string())
}

/// Makes the page that answers the link. The response sets the cookie of the session.
pub(crate) fn welcome(viewer: &Viewer) -> Html {
    let body = html! {
        div.failure {
            h1 { "You may act now" }
            p { "This browser may act for twelve hours, or until the console ends. The link is used up." }
            p { a.button.primary href=(viewer.url("")) autofocus { "Open the console" } }
        }
    };
    Html(StatusCode::OK, shell(viewer, "Welcome", &Frame::default(), &body))
}

/// Makes a page without a stream.
pub(super) fn still(viewer: &Viewer, title: &str, body: &Markup) -> Html {
    Html(StatusCode::OK, shell(viewer, title, &Frame::default(), body))
}
