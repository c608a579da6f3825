//! A console that is mounted in a server of the test's.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use gen_durable_console::{Access, Console};
use sqlx::PgPool;
use tokio::{net::TcpListener, sync::watch};

use super::{
    Error,
    http::{Answer, ask},
};

pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    /// The path of the console.
    pub(crate) prefix: &'static str,
    close: watch::Sender<bool>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// The right of a request, by its cookie `who`.
fn access(parts: &axum::http::request::Parts) -> Access {
    let cookies = parts.headers.get("cookie").and_then(|value| value.to_str().ok());
    let who = cookies.unwrap_or_default().split("; ").find_map(|pair| pair.strip_prefix("who="));
    match who {
        Some("ada") => Access::write("ada").with_states(),
        Some("bob") => Access::write("bob"),
        Some("eve") => Access::read(),
        _ => Access::none(),
    }
}

/// A console for Ada, who may act and see states, for Bob, who may act, and for Eve, who may look.
pub(crate) fn console(pool: &PgPool) -> Console {
    Console::new(pool.clone()).access(access)
}

impl Site {
    pub(crate) async fn of(pool: &PgPool) -> Result<Self, Error> {
        Self::serve(console(pool), "").await
    }

    /// Serves a console under a prefix, until the value is dropped or closed.
    pub(crate) async fn serve(console: Console, prefix: &'static str) -> Result<Self, Error> {
        let (close, closed) = watch::channel(false);
        let shutdown = || {
            let mut closed = closed.clone();
            async move {
                let _ = closed.wait_for(|closed| *closed).await;
            }
        };
        let console = console.until(shutdown()).router();
        let router = if prefix.is_empty() { console } else { Router::new().nest(prefix, console) };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown());
        let served = tokio::spawn(async move { served.await });
        Ok(Self { address, prefix, close, served })
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) async fn close(self) -> Result<(), Error> {
        self.close.send_replace(true);
        Ok(tokio::time::timeout(Duration::from_secs(20), self.served).await???)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{}{path}", self.address, self.prefix)
    }

    pub(crate) async fn get(&self, who: &str, path: &str) -> Result<Answer, Error> {
        let (host, cookie) = (self.address.to_string(), format!("who={who}"));
        let headers = [("Host", &*host), ("Cookie", &*cookie)];
        let path = format!("{}{path}", self.prefix);
        let path = if path.is_empty() { "/" } else { &path };
        ask(self.address, "GET", path, &headers, "").await
    }

    /// Confirms an action as the browser would: fetches the form, and sends it with more fields.
    pub(crate) async fn act(&self, who: &str, act: &str, more: &str) -> Result<Answer, Error> {
        let form = self.get(who, &format!("/act?{act}")).await?;
        if form.status != 200 {
            return Ok(form);
        }
        let token = form.field("token").ok_or("a form has a token")?;
        let body = format!("token={token}&{act}&{more}");
        let cookie = format!("who={who}; {}", form.cookies());
        self.post(&[("Cookie", &cookie), ("Sec-Fetch-Site", "same-origin")], &body).await
    }

    pub(crate) async fn post(&self, headers: &[(&str, &str)], body: &str) -> Result<Answer, Error> {
        let host = self.address.to_string();
        let mut all = vec![("Content-Type", "application/x-www-form-urlencoded")];
        if !headers.iter().any(|(name, _)| *name == "Host") {
            all.push(("Host", &host));
        }
        all.extend(headers);
        ask(self.address, "POST", &format!("{}/act", self.prefix), &all, body).await
    }
}
