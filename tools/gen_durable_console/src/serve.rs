//! A console that is served by itself: `gen-durable console`.
//!
//! Invariant: it listens on a loopback address alone, and answers to the names of that alone.
//! Requests may look. Only the browser that has used the link may act.

use std::{
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use sqlx::PgPool;
use tokio::{net::TcpListener, sync::watch};

use crate::{Access, Console, console::LOOPBACK, session::Sessions};

/// The port that is listened on if none is given.
const PORT: u16 = 7_311;
/// The time for which open requests may go on after the shutdown.
const GRACE: Duration = Duration::from_secs(5);

/// The options of a console that is served by itself.
#[derive(Clone, Debug)]
#[must_use = "options are passed to `Server::bind`"]
pub struct Options {
    address: SocketAddr,
    operator: Option<String>,
    states: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
            operator: None,
            states: false,
        }
    }
}

impl Options {
    /// Makes options: port 7311 on 127.0.0.1, only to look, without states.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the address to listen on, which must be a loopback address. Port 0 takes a free one.
    pub const fn address(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Lets one browser act, in this operator's name: the one that opens [`Server::link`].
    pub fn write(mut self, operator: impl Into<String>) -> Self {
        self.operator = Some(operator.into());
        self
    }

    /// Shows states, results and payloads, which may be confidential. Everybody who can reach the
    /// port of this machine sees them then, unless [`write`](Self::write) is set too: then only the
    /// browser that has used the link.
    pub const fn with_states(mut self) -> Self {
        self.states = true;
        self
    }
}

/// A console that listens on a loopback address.
///
/// ```no_run
/// use gen_durable_console::{Options, Server};
///
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::bind(pool, Options::new().write("ada")).await?;
/// println!("the console is at {}", server.url());
/// if let Some(link) = server.link() {
///     println!("open this once to act: {link}");
/// }
/// server.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
/// # Ok(())
/// # }
/// ```
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    token: Option<String>,
    close: watch::Sender<bool>,
}

impl Server {
    /// Begins to listen. Nothing is answered before [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// [`ServeError`]: the address is no loopback address, or cannot be listened on.
    pub async fn bind(pool: PgPool, options: Options) -> Result<Self, ServeError> {
        let Options { address, operator, states } = options;
        if !address.ip().is_loopback() {
            return Err(ServeError::NotLoopback { address });
        }
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ServeError::Listen { address, source })?;
        let bound = listener.local_addr();
        let address = bound.map_err(|source| ServeError::Listen { address, source })?;
        let (close, mut closed) = watch::channel(false);
        let mut console = Console::new(pool).hosts(names(address)).until(async move {
            // An error says that the server is gone.
            let _ = closed.wait_for(|closed| *closed).await;
        });
        let mut token = None;
        if let Some(operator) = operator {
            let (sessions, link) = Sessions::new(address.port());
            let sessions = Arc::new(sessions);
            token = Some(link);
            console = console.sessions(Arc::clone(&sessions)).access(move |request| {
                if !sessions.knows(&request.headers) {
                    return Access::read();
                }
                let access = Access::write(&operator);
                if states { access.with_states() } else { access }
            });
        } else if states {
            console = console.access(|_| Access::read().with_states());
        }
        Ok(Self { listener, address, router: console.router(), token, close })
    }

    /// Returns the address of the console.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Returns the link by which a browser gets the right to act. It can be used once, within ten
    /// minutes. None if nobody may act.
    pub fn link(&self) -> Option<String> {
        let token = self.token.as_ref()?;
        Some(format!("http://{}/session?token={token}", self.address))
    }

    /// Serves until `shutdown` completes. Live pages are closed then.
    ///
    /// # Errors
    ///
    /// [`ServeError`]: the listener failed.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let Self { listener, address, router, close, .. } = self;
        let mut closed = close.subscribe();
        let shutdown = async move {
            shutdown.await;
            close.send_replace(true);
        };
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown);
        // A client that never completes its request would delay the end for ever.
        let given_up = async {
            let _ = closed.wait_for(|closed| *closed).await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = served => served.map_err(|source| ServeError::Listen { address, source }),
            () = given_up => Ok(()),
        }
    }
}

/// Returns the names of a server at this address.
fn names(address: SocketAddr) -> Vec<String> {
    let own = match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    LOOPBACK.into_iter().map(str::to_owned).chain([own]).collect()
}

/// Prints no token.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Returned when a console cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address can be reached from other machines.
    #[error(
        "{address} is no loopback address: a console that other machines reach needs a login, so mount it in a server that has one (`Console::access`)"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; another program may use the port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
}
