//! The sessions of a console that is served by itself: a link that is used once becomes a cookie.
//!
//! Invariant: only digests are held. A link opens one session, and only for a while.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// The beginning of the cookie's name; the port follows. A browser sends a cookie to every port of
/// a host, and two consoles of one machine must not take each other's. Another server on this
/// machine that the browser visits receives the cookie, and could act with it.
const COOKIE: &str = "gen_durable_console_session_";
/// The time for which the link can be used.
const LINK_TTL: Duration = Duration::from_mins(10);
/// The time for which a session lasts.
const SESSION_TTL: Duration = Duration::from_hours(12);

#[derive(Debug)]
pub(crate) struct Sessions {
    cookie: String,
    /// The digest of the link's token, and the end of its time.
    link: Mutex<Option<([u8; 32], Instant)>>,
    /// The digest of the session, and its end.
    session: Mutex<Option<([u8; 32], Instant)>>,
}

impl Sessions {
    /// Makes the sessions of the console at this port, and the token of the link.
    pub(crate) fn new(port: u16) -> (Self, String) {
        let token = random();
        let link = Mutex::new(Some((digest(&token), Instant::now() + LINK_TTL)));
        (Self { cookie: format!("{COOKIE}{port}"), link, session: Mutex::new(None) }, token)
    }

    /// Exchanges the link's token for a cookie. None if it is wrong, was used or is too old.
    pub(crate) fn exchange(&self, token: &str) -> Option<String> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        // Digests are compared, so the time that it takes tells nothing of the token.
        link.take_if(|(expected, _)| *expected == digest(token))
            .filter(|(_, end)| Instant::now() < *end)?;
        let session = random();
        let end = Instant::now() + SESSION_TTL;
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((digest(&session), end));
        let age = SESSION_TTL.as_secs();
        let cookie = &self.cookie;
        Some(format!("{cookie}={session}; HttpOnly; SameSite=Strict; Path=/; Max-Age={age}"))
    }

    /// True if the request has the cookie of the session.
    pub(crate) fn knows(&self, headers: &HeaderMap) -> bool {
        let session = *self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((expected, end)) = session else { return false };
        Instant::now() < end
            && cookies(headers, &self.cookie).any(|session| digest(session) == expected)
    }
}

/// Yields the values of all cookies of this name.
pub(crate) fn cookies<'a>(
    headers: &'a HeaderMap,
    name: &'a str,
) -> impl Iterator<Item = &'a str> + 'a {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(move |(found, value)| (found == name).then_some(value))
}

/// Returns 32 random bytes.
///
/// # Panics
///
/// Panics if the system has none. A console with guessable tokens must not run.
pub(crate) fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

/// Returns 32 random bytes as text.
pub(crate) fn random() -> String {
    hex(&random_bytes())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_cookie(cookie: &str) -> HeaderMap {
        let pair = cookie.split(';').next().expect("a pair");
        HeaderMap::from_iter([(header::COOKIE, pair.parse().expect("a header"))])
    }

    #[test]
    fn a_link_opens_one_session() {
        let (sessions, token) = Sessions::new(1);
        assert!(sessions.exchange("wrong").is_none());
        assert!(!sessions.knows(&with_cookie(&format!("{COOKIE}1={token}"))));
        let cookie = sessions.exchange(&token).expect("a cookie");
        assert!(sessions.exchange(&token).is_none(), "it was used before");
        assert!(sessions.knows(&with_cookie(&cookie)));
        assert!(!sessions.knows(&HeaderMap::new()));
        assert!(!sessions.knows(&with_cookie(&format!("{COOKIE}1=x"))));
        for part in ["HttpOnly", "SameSite=Strict"] {
            assert!(cookie.contains(part), "{cookie}");
        }
    }

    #[test]
    fn a_link_that_is_too_old_opens_none() {
        let (sessions, token) = Sessions::new(1);
        let mut link = sessions.link.lock().expect("no panic");
        *link = link.map(|(digest, _)| (digest, Instant::now()));
        drop(link);
        assert!(sessions.exchange(&token).is_none());
    }
}
