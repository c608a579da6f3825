//! The checks that every request passes, and the headers of every response.
//!
//! ```text
//!   host, NUL, method, origin ──► access ──► page, or for an action: level ──► token
//! ```
//!
//! Invariant: an action needs an [`Operator`], and only [`Viewer::operator`] makes one.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{OriginalUri, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{
    Access,
    console::Inner,
    pages,
    session::{cookies, hex, random, random_bytes},
    url::Params,
};

/// The name of the cookie to which the tokens in forms are bound.
const COOKIE: &str = "gen_durable_console_form";
/// The name of the token in a form.
pub(crate) const TOKEN: &str = "token";

/// Nothing is loaded from elsewhere, no script and no style stands in a page, and no page may frame
/// this one.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types console";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CSP),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // With `no-referrer`, browsers would state no origin in forms.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// The key of the tokens in forms.
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(crate) fn new(given: Option<[u8; 32]>) -> Self {
        Self(given.unwrap_or_else(random_bytes))
    }

    /// Returns the MAC of a cookie and an operator: the token of a form. A token of another
    /// operator does not fit. A neighbouring site can set the cookie, but cannot compute its token.
    fn mac(&self, cookie: &str, operator: &str) -> Hmac<Sha256> {
        // HMAC fills a key up to a block with zeros.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        mac.update(cookie.as_bytes());
        mac.update(&[0]);
        mac.update(operator.as_bytes());
        mac
    }
}

/// The one who looks at a page.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    pub(crate) access: Access,
    /// The beginning of all paths, without a slash at its end.
    prefix: String,
    /// The token of forms, if the viewer may act.
    pub(crate) token: String,
}

/// The one who acts. Whoever has this value has passed all checks. It is not the database role
/// `gen_durable_operator`, which may only look.
#[derive(Debug)]
pub(crate) struct Operator<'a> {
    pub(crate) name: &'a str,
}

impl Viewer {
    /// Returns the URL of a path within the console.
    pub(crate) fn url(&self, path: &str) -> String {
        let path = if path == "/" { "" } else { path };
        match (&*self.prefix, path) {
            ("", "") => "/".to_owned(),
            ("", path) if path.starts_with('?') => format!("/{path}"),
            (prefix, path) => format!("{prefix}{path}"),
        }
    }

    pub(crate) fn may_act(&self) -> bool {
        self.access.operator().is_some()
    }

    /// Checks that the form may act. The origin of the request was checked before.
    pub(crate) fn operator<'a>(
        &'a self,
        inner: &Inner,
        headers: &HeaderMap,
        form: &Params,
    ) -> Result<Operator<'a>, Refused> {
        let name = self.access.operator().ok_or(Refused::ReadOnly)?;
        let token = unhex(form.get(TOKEN).unwrap_or_default());
        let is_valid = cookies(headers, COOKIE)
            .any(|cookie| inner.secret.mac(cookie, name).verify_slice(&token).is_ok());
        if is_valid { Ok(Operator { name }) } else { Err(Refused::Token) }
    }
}

/// Reads hexadecimal digits. Any other text gives an empty value, which is no valid token.
fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect::<Option<_>>().unwrap_or_default()
}

/// The reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this console does not answer to that host name")]
    Host,
    #[error("the request comes from a page of another site, or does not say from where it comes")]
    Origin,
    #[error("you may not see this console")]
    Access,
    #[error("you may look, but not act")]
    ReadOnly,
    #[error(
        "this form is too old, or is not of this console: go back, reload the page and try again"
    )]
    Token,
    #[error("this method is not allowed here")]
    Method,
    #[error("the address has a NUL character, which no name has")]
    Nul,
}

impl Refused {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Nul => StatusCode::BAD_REQUEST,
            Self::Origin | Self::Access | Self::ReadOnly | Self::Token => StatusCode::FORBIDDEN,
        }
    }
}

/// Checks a request, passes it on with its [`Viewer`], and completes the response.
pub(crate) async fn guard(
    State(inner): State<Arc<Inner>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let prefix = prefix(&inner, parts.extensions.get::<OriginalUri>(), &parts.uri);
    let mut viewer = Viewer { access: Access::none(), prefix, token: String::new() };
    let mut cookie = None;
    let is_secure = is_secure(&parts.headers);
    let checked = check(&inner, &parts.method, &parts.headers, &parts.uri);
    if checked.is_ok() {
        viewer.access = (inner.access)(&parts);
    }
    if let Some(operator) = viewer.access.operator() {
        let found = cookies(&parts.headers, COOKIE).next().filter(|text| text.len() == 64);
        let value = found.map_or_else(random, str::to_owned);
        let mac = inner.secret.mac(&value, operator).finalize();
        viewer.token = hex(&mac.into_bytes());
        cookie = found.is_none().then_some(value);
    }
    // The style is no secret, and a refusal has it too.
    let is_open = is_open(parts.uri.path()) || viewer.access.may_read();
    let refused = checked.err().or((!is_open).then_some(Refused::Access));
    let response = if let Some(refused) = refused {
        pages::refused(&viewer, refused).into_response()
    } else {
        parts.extensions.insert(viewer.clone());
        next.run(Request::from_parts(parts, body)).await
    };
    complete(response, &viewer, cookie.map(|value| (value, is_secure)))
}

/// True if the browser speaks HTTPS to a proxy, which says so: the console itself speaks plain
/// HTTP. A request that lies about that harms itself alone.
fn is_secure(headers: &HeaderMap) -> bool {
    let forwarded = headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
    // Each proxy adds its own. The first one has met the browser.
    let first = forwarded.and_then(|schemes| schemes.split(',').next());
    first.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"))
}

/// True for what needs no access.
fn is_open(path: &str) -> bool {
    path.starts_with("/assets/") || path == "/session"
}

/// Returns the prefix of all links: the part that a proxy has cut off, and then that of `nest`.
fn prefix(inner: &Inner, original: Option<&OriginalUri>, uri: &Uri) -> String {
    let nested = original.and_then(|original| {
        let (original, inner) = (original.0.path(), uri.path());
        // The nested router sees `/` for its own root, with and without a slash at its end.
        original.strip_suffix(inner).or_else(|| (inner == "/").then_some(original))
    });
    format!("{}{}", inner.prefix, nested.unwrap_or_default().trim_end_matches('/'))
}

/// Checks what needs no access: the host name, the address, the method and the origin.
fn check(inner: &Inner, method: &Method, headers: &HeaderMap, uri: &Uri) -> Result<(), Refused> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let authority = text(header::HOST).or_else(|| uri.authority().map(Authority::as_str));
    let authority = authority.unwrap_or_default().to_lowercase();
    if let Some(hosts) = &inner.hosts
        && !hosts.iter().any(|host| *host == without_port(&authority))
    {
        return Err(Refused::Host);
    }
    // Postgres stores a NUL character in no text.
    if uri.to_string().contains("%00") {
        return Err(Refused::Nul);
    }
    let site = text(HeaderName::from_static("sec-fetch-site"));
    let mode = text(HeaderName::from_static("sec-fetch-mode"));
    if method == Method::GET || method == Method::HEAD {
        // A link on another site may lead here. Nothing else of another site may ask.
        let is_foreign = matches!(site, Some("cross-site" | "same-site"));
        return if is_foreign && mode != Some("navigate") { Err(Refused::Origin) } else { Ok(()) };
    }
    if method != Method::POST {
        return Err(Refused::Method);
    }
    // A browser states at least one of the two. A request with neither is no form of ours.
    let origin = text(header::ORIGIN).map(str::to_lowercase);
    let is_ours = |origin: &str| {
        let same = origin.split_once("://").is_some_and(|(_, host)| host == authority);
        same || inner.origins.iter().any(|allowed| allowed == origin)
    };
    let is_fine = match (site, origin.as_deref()) {
        (None, None) => false,
        // The host's own referrer policy may keep the origin back.
        (Some(site), None | Some("null")) => site == "same-origin",
        (site, Some(origin)) => site.is_none_or(|site| site == "same-origin") && is_ours(origin),
    };
    if is_fine { Ok(()) } else { Err(Refused::Origin) }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn complete(
    mut response: Response<Body>,
    viewer: &Viewer,
    cookie: Option<(String, bool)>,
) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Some((cookie, is_secure)) = cookie {
        // A path with a semicolon would end the attribute.
        let path = Some(viewer.url("")).filter(|path| !path.contains(';'));
        let path = path.unwrap_or_else(|| "/".to_owned());
        let secure = if is_secure { "; Secure" } else { "" };
        let set = format!("{COOKIE}={cookie}; HttpOnly; SameSite=Lax; Path={path}{secure}");
        if let Ok(set) = HeaderValue::from_str(&set) {
            headers.append(header::SET_COOKIE, set);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_cut_off() {
        let hosts = ["localhost", "localhost:80", "[::1]:80", "[::1]", "a:b", "127.0.0.1:1"];
        let without = ["localhost", "localhost", "[::1]", "[::1]", "a:b", "127.0.0.1"];
        assert_eq!(hosts.map(without_port), without);
    }

    #[test]
    fn links_begin_with_the_prefix() {
        let viewer = |prefix: &str| Viewer {
            access: Access::read(),
            prefix: prefix.to_owned(),
            token: String::new(),
        };
        let urls = ["", "/", "?x", "/queues"];
        assert_eq!(urls.map(|url| viewer("").url(url)), ["/", "/", "/?x", "/queues"]);
        assert_eq!(urls.map(|url| viewer("/a").url(url)), ["/a", "/a", "/a?x", "/a/queues"]);
    }

    #[test]
    fn a_token_is_bound_to_the_cookie_and_the_operator() {
        let secret = Secret::new(Some([7; 32]));
        let token = secret.mac("cookie", "ada").finalize().into_bytes();
        assert!(secret.mac("cookie", "ada").verify_slice(&token).is_ok());
        for (cookie, operator) in [("cookie", "bob"), ("other", "ada"), ("cookie\0a", "da")] {
            assert!(secret.mac(cookie, operator).verify_slice(&token).is_err());
        }
        assert_eq!(unhex("00ff"), [0, 255]);
        assert!(unhex("0g").is_empty() && unhex("é").is_empty());
    }
}
