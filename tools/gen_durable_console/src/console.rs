//! The console as it is built, and what its parts share.
//!
//! Invariant: looks and actions have connections of their own. Those of looks may not write, and
//! Postgres ends each statement on them after a while.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::request::Parts};
use gen_durable::Client;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::{Semaphore, watch};

use crate::{
    Access, bulk::BulkActions, guard::Secret, hub::Hub, routes, session::Sessions, used::Used,
};

/// The most connections for looks. A page takes one at a time.
const CONNECTIONS_MAX: u32 = 4;
/// The longest wait for one of them.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// The time after which a connection that nobody uses is closed.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// The time after which Postgres ends a statement of a look.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);
/// The most live pages at a time.
const STREAMS_MAX: usize = 512;

type Map = Arc<dyn Fn(&Parts) -> Access + Send + Sync>;
type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A console on a database, to mount in an axum server. [`Server`](crate::Server) serves one by
/// itself.
///
/// The host decides by [`access`](Self::access) what each request may do. Without it, requests may
/// only look, and only those whose `Host` is a name of the own machine: the default of a console
/// that nobody has thought about is safe.
///
/// ```
/// use axum::Router;
/// use gen_durable_console::{Access, Console};
///
/// /// Somebody who has logged in: a middleware of yours has checked that.
/// #[derive(Clone)]
/// struct User {
///     name: String,
///     is_operator: bool,
/// }
///
/// fn app(pool: sqlx::PgPool, shutdown: impl Future<Output = ()> + Send + 'static) -> Router {
///     let console = Console::new(pool)
///         .access(|request| match request.extensions.get::<User>() {
///             Some(user) if user.is_operator => Access::write(&user.name).with_states(),
///             Some(_) => Access::read(),
///             None => Access::none(),
///         })
///         .until(shutdown);
///     // All links of the console begin with this prefix.
///     Router::new().nest("/ops/console", console.router())
/// }
/// ```
#[must_use = "a console is mounted by `.router()`"]
pub struct Console {
    pool: PgPool,
    access: Option<Map>,
    prefix: String,
    hosts: Option<Vec<String>>,
    origins: Vec<String>,
    secret: Option<[u8; 32]>,
    statement_timeout: Duration,
    shutdown: Option<Shutdown>,
    sessions: Option<Arc<Sessions>>,
}

impl Console {
    /// Makes a console on a database. Actions borrow connections of this pool. Looks have up to
    /// four of their own, with the same options: they are opened when somebody looks, and closed
    /// after a minute without use.
    ///
    /// A connection for looks sends its settings as startup parameters. A transaction pooler such
    /// as `PgBouncer` must not stand in between. The login needs `gen_durable_operator` to look,
    /// and `gen_durable_supervisor` to act.
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            access: None,
            prefix: String::new(),
            hosts: None,
            origins: Vec::new(),
            secret: None,
            statement_timeout: STATEMENT_TIMEOUT,
            shutdown: None,
            sessions: None,
        }
    }

    /// Sets the function that decides what a request may do. The console calls it for each request,
    /// with the extensions that the server's middleware has set. It must not block.
    pub fn access(mut self, map: impl Fn(&Parts) -> Access + Send + Sync + 'static) -> Self {
        self.access = Some(Arc::new(map));
        self
    }

    /// Sets a prefix that a proxy removes from the path of each request. Links begin with it. The
    /// console finds a prefix of axum's [`nest`](Router::nest) by itself.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        prefix.into().trim_end_matches('/').clone_into(&mut self.prefix);
        self
    }

    /// Refuses requests with any other `Host`. The hosts are names or addresses, without a port.
    /// This stops DNS rebinding: a foreign site points its own name at this server. By default the
    /// console allows the names of this machine. With [`access`](Self::access) it allows all names.
    pub fn hosts(mut self, hosts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.hosts = Some(hosts.into_iter().map(|host| host.into().to_lowercase()).collect());
        self
    }

    /// Allows actions from pages of this origin too: `https://ops.example.com`. It is needed if a
    /// proxy changes the `Host` of the requests. Otherwise a page's origin must be that of `Host`.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.push(origin.into().to_lowercase());
        self
    }

    /// Sets the key of the tokens in forms: 32 secret random bytes. By default each process makes
    /// its own. Behind a balancer, one process would then refuse the forms of another.
    pub fn secret(mut self, secret: [u8; 32]) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Sets the time after which Postgres ends a statement of a look: 2 s by default, and at least
    /// a millisecond.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Closes live pages when this future completes, and stops actions on many instances after
    /// their present batch. A server that shuts down gracefully waits for open responses, and
    /// without this a live page holds it up for up to ten minutes.
    pub fn until(mut self, shutdown: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Some(Box::pin(shutdown));
        self
    }

    pub(crate) fn sessions(mut self, sessions: Arc<Sessions>) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Makes the router, to be served or nested.
    ///
    /// # Panics
    ///
    /// Panics if it is called outside of a tokio runtime, or if the system has no random bytes.
    pub fn router(self) -> Router {
        routes::router(self.inner())
    }

    pub(crate) fn inner(self) -> Arc<Inner> {
        // These are the settings of an engine's own connections: plans use indexes, and JIT is off.
        // JIT would take a hundred times as long as the look itself.
        let options = (*self.pool.connect_options()).clone().options([
            ("jit", "off".to_owned()),
            ("enable_seqscan", "off".to_owned()),
            ("enable_bitmapscan", "off".to_owned()),
            ("plan_cache_mode", "force_generic_plan".to_owned()),
            ("lock_timeout", "800ms".to_owned()),
            ("statement_timeout", format!("{}ms", self.statement_timeout.as_millis())),
            ("default_transaction_read_only", "on".to_owned()),
        ]);
        let looks = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .connect_lazy_with(options.application_name("gen_durable console"));
        let hosts = match (&self.access, self.hosts) {
            (_, Some(hosts)) => Some(hosts),
            (None, None) => Some(LOOPBACK.map(str::to_owned).to_vec()),
            (Some(_), None) => None,
        };
        let inner = Arc::new(Inner {
            looks: Client::new(looks),
            acts: Client::new(self.pool),
            access: self.access.unwrap_or_else(|| Arc::new(|_| Access::read())),
            prefix: self.prefix,
            hosts,
            origins: self.origins,
            secret: Secret::new(self.secret),
            hub: Hub::default(),
            bulk: BulkActions::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            closed: watch::Sender::new(false),
            sessions: self.sessions,
            used: Used::default(),
            looked: AtomicU64::new(0),
        });
        if let Some(shutdown) = self.shutdown {
            let told = Arc::downgrade(&inner);
            tokio::spawn(async move {
                shutdown.await;
                if let Some(inner) = told.upgrade() {
                    inner.closed.send_replace(true);
                    inner.bulk.stop_all();
                }
            });
        }
        inner
    }
}

/// The names of the own machine.
pub(crate) const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("prefix", &self.prefix)
            .field("hosts", &self.hosts)
            .field("origins", &self.origins)
            .finish_non_exhaustive()
    }
}

/// The parts of a console share this.
pub(crate) struct Inner {
    /// The client of looks, which may not write.
    pub(crate) looks: Client,
    /// The client of actions.
    pub(crate) acts: Client,
    pub(crate) access: Map,
    pub(crate) prefix: String,
    /// The names that `Host` may have. None allows all.
    pub(crate) hosts: Option<Vec<String>>,
    pub(crate) origins: Vec<String>,
    pub(crate) secret: Secret,
    pub(crate) hub: Hub,
    pub(crate) bulk: BulkActions,
    pub(crate) streams: Arc<Semaphore>,
    /// True once live pages are to end.
    pub(crate) closed: watch::Sender<bool>,
    /// The sessions of a console that is served by itself.
    pub(crate) sessions: Option<Arc<Sessions>>,
    /// The forms that were sent.
    pub(crate) used: Used,
    /// The looks of live pages so far.
    looked: AtomicU64,
}

impl Inner {
    pub(crate) fn count_look(&self) {
        self.looked.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn looked(&self) -> u64 {
        self.looked.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("hub", &self.hub)
            .field("looked", &self.looked)
            .finish_non_exhaustive()
    }
}
