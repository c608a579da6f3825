//! The routes: pages, live pages, actions, the script and the style.
//!
//! Invariant: every request passes [`guard`](crate::guard::guard) before any of these.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Form, Path, Query, State, rejection::FormRejection},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};

use crate::{
    Access, assets,
    console::Inner,
    deed::{Act, Deed, Subject},
    guard::{Refused, Viewer, guard},
    live,
    looks::{Unseen, look, preview},
    pages::{self, Notice},
    perform::{self, Failure},
    url::{BadParam, Params},
    used::ONCE,
    view::{NoView, View},
};

/// The most bytes of a form.
const FORM_MAX: usize = 64 * 1024;

type Pairs = Vec<(String, String)>;

pub(crate) fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/assets/{name}", get(asset))
        .route("/session", get(session))
        .route("/act", get(confirm).post(act))
        .route("/live", get(live_overview))
        .route("/live/{*path}", get(live_page))
        .fallback(page)
        .layer(DefaultBodyLimit::max(FORM_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&inner), guard))
        .with_state(inner)
}

/// The reason why a page cannot be shown.
pub(crate) enum Failed {
    Refused(Refused),
    Unseen(Unseen),
    NoView(NoView),
    Failure(Failure),
    /// Too many live pages.
    Full,
}

impl Failed {
    /// Makes the page that says so.
    pub(crate) fn page(self, viewer: &Viewer) -> Response {
        let (status, text) = match self {
            Self::Refused(refused) => return pages::refused(viewer, refused).into_response(),
            Self::Unseen(unseen) => {
                let status = match &unseen {
                    Unseen::Unknown(_) => StatusCode::NOT_FOUND,
                    Unseen::Bad(_) => StatusCode::BAD_REQUEST,
                    Unseen::NoSchema | Unseen::NoRight | Unseen::Database(_) => {
                        StatusCode::SERVICE_UNAVAILABLE
                    }
                };
                (status, unseen.to_string())
            }
            Self::NoView(NoView::Unknown) => {
                (StatusCode::NOT_FOUND, "there is no such page".to_owned())
            }
            Self::NoView(NoView::Bad(bad)) => (StatusCode::BAD_REQUEST, bad.to_string()),
            Self::Failure(failure) => (failure.status(), failure.to_string()),
            Self::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many pages are open, so this one is not live".to_owned(),
            ),
        };
        pages::failed(viewer, status, &text).into_response()
    }
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Unseen> for Failed {
    fn from(unseen: Unseen) -> Self {
        Self::Unseen(unseen)
    }
}

impl From<BadParam> for Failed {
    fn from(bad: BadParam) -> Self {
        Self::NoView(NoView::Bad(bad))
    }
}

async fn page(
    State(inner): State<Arc<Inner>>,
    Extension(viewer): Extension<Viewer>,
    method: Method,
    uri: Uri,
    Query(pairs): Query<Pairs>,
) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return Failed::Refused(Refused::Method).page(&viewer);
    }
    let params = Params(pairs);
    let view = match View::read(uri.path().trim_matches('/'), &params) {
        Ok(view) => view,
        Err(no_view) => return Failed::NoView(no_view).page(&viewer),
    };
    match look(&inner.looks, &inner.bulk, &view).await {
        Ok(seen) => {
            let notice = params.get("done").and_then(Deed::read).map(Notice);
            pages::page(&viewer, &view, &seen, notice.as_ref()).into_response()
        }
        Err(unseen) => Failed::Unseen(unseen).page(&viewer),
    }
}

async fn live_overview(
    State(inner): State<Arc<Inner>>,
    Extension(viewer): Extension<Viewer>,
) -> Response {
    live::stream(&inner, viewer.clone(), View::Overview).unwrap_or_else(|full| full.page(&viewer))
}

async fn live_page(
    State(inner): State<Arc<Inner>>,
    Extension(viewer): Extension<Viewer>,
    Path(path): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Response {
    let stream = View::read(&path, &Params(pairs))
        .and_then(|view| if view.is_live() { Ok(view) } else { Err(NoView::Unknown) })
        .map_err(Failed::NoView)
        .and_then(|view| live::stream(&inner, viewer.clone(), view));
    stream.unwrap_or_else(|failed| failed.page(&viewer))
}

/// Shows what an action would do, and asks for its confirmation.
async fn confirm(
    State(inner): State<Arc<Inner>>,
    Extension(viewer): Extension<Viewer>,
    Query(pairs): Query<Pairs>,
) -> Response {
    let params = Params(pairs);
    let ask = async {
        if !viewer.may_act() {
            return Err(Failed::Refused(Refused::ReadOnly));
        }
        let act = Act::read(&params)?;
        let mut asked = pages::Asked::new(act);
        match &asked.act.subject {
            Subject::Instances(filter) if filter.is_empty() => {
                return Err(Failed::Failure(Failure::NoFilter));
            }
            Subject::Instances(filter) => {
                asked.preview = Some(preview(&inner.looks, filter).await?);
            }
            Subject::Instance(_) | Subject::Limit(_) => {
                let view = asked.act.subject.view();
                asked.seen = Some(look(&inner.looks, &inner.bulk, &view).await?);
            }
            _ => {}
        }
        Ok(asked)
    };
    match ask.await {
        Ok(asked) => pages::confirm(&viewer, &asked).into_response(),
        Err(failed) => failed.page(&viewer),
    }
}

/// Does what was confirmed.
async fn act(
    State(inner): State<Arc<Inner>>,
    Extension(viewer): Extension<Viewer>,
    headers: HeaderMap,
    form: Result<Form<Pairs>, FormRejection>,
) -> Response {
    let Ok(Form(pairs)) = form else {
        return Failed::Refused(Refused::Token).page(&viewer);
    };
    let form = Params(pairs);
    let act = async {
        let operator = viewer.operator(&inner, &headers, &form)?;
        let act = Act::read(&form)?;
        let once = form.get(ONCE).unwrap_or_default();
        if !inner.used.take(once) {
            return Err(Failed::Failure(Failure::Repeated));
        }
        let done = perform::perform(&inner, &operator, &act, &form).await;
        // Without an answer of the database it may have been done all the same.
        if done.as_ref().is_err_and(|failure| !matches!(failure, Failure::Database)) {
            inner.used.give_back(once);
        }
        done.map_err(Failed::Failure)
    };
    match act.await {
        Ok((view, deed)) => {
            let path = view.path();
            let mark = if path.contains('?') { '&' } else { '?' };
            let url = viewer.url(&format!("{path}{mark}done={}", deed.as_str()));
            Redirect::to(&url).into_response()
        }
        Err(failed) => failed.page(&viewer),
    }
}

/// Exchanges the token of the link for a cookie.
///
/// The answer is a page and no redirect. A browser sends a strict cookie only along with a request
/// of this site, and a redirect from a link elsewhere is none.
async fn session(
    State(inner): State<Arc<Inner>>,
    Extension(mut viewer): Extension<Viewer>,
    method: Method,
    Query(pairs): Query<Pairs>,
) -> Response {
    // A program that only looks where the link leads must not use it up.
    if method == Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let params = Params(pairs);
    let Some(sessions) = &inner.sessions else {
        return Failed::NoView(NoView::Unknown).page(&viewer);
    };
    let cookie = params.get("token").and_then(|token| sessions.exchange(token));
    let Some(cookie) = cookie else {
        let text = "this link was used before, or is too old: start the console again";
        return pages::failed(&viewer, StatusCode::FORBIDDEN, text).into_response();
    };
    // This request has not shown the cookie yet, so its own access says nothing.
    viewer.access = Access::none();
    ([(header::SET_COOKIE, cookie)], pages::welcome(&viewer)).into_response()
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    assets::serve(&name, &headers)
}
