//! A proxy between a worker and Postgres, on Unix sockets, that causes the faults of a network.
//!
//! ```text
//!   worker ──► socket in a directory of ours ──► two pumps per connection ──► the server's socket
//! ```
//!
//! Its faults: connections are cut; traffic is delayed; a connection is frozen. A frozen connection
//! is half open: it stays up and carries nothing any more, in either direction, for good. A trap
//! causes a fault at the moment when a text passes, so that a test can choose the statement that
//! the fault meets. The proxy can move to another server, as an address does after a failover.
//!
//! Invariant: bytes are never changed and never reordered. A connection that no fault met is as
//! good as a direct one.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{oneshot, watch},
    task::JoinHandle,
};

/// The fault of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Frozen,
    Cut,
}

/// The direction in which a trap looks for its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the worker to Postgres.
    Request,
    /// From Postgres to the worker.
    Answer,
}

/// The effect of a trap on the connection on which its text passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The connection is cut, and the text does not arrive.
    CutBefore,
    /// The connection is frozen, and the text does not arrive.
    FreezeBefore,
    /// The text arrives. When the answer to it comes, the connection is cut, so the answer is lost.
    LoseAnswer,
    /// The text arrives. Then the connection is frozen, so nothing arrives after it.
    FreezeAfter,
}

/// The cause that springs a trap.
#[derive(Debug)]
enum Spring {
    /// A text that passes in this direction.
    Text(Direction, Vec<u8>),
    /// The COMMIT of a transaction that applies an outcome.
    Outcome,
}

/// A trap: what springs it, once, and its effect.
#[derive(Debug)]
struct Trap {
    spring: Spring,
    effect: Effect,
    sprung: oneshot::Sender<()>,
}

/// The proxy. When it is dropped, its connections are cut and its socket is removed.
#[derive(Debug)]
pub struct Proxy {
    dir: PathBuf,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<PathBuf>,
    connections: Mutex<Vec<watch::Sender<Fault>>>,
    traps: Mutex<Vec<Trap>>,
    delay_micros: AtomicU64,
    open: AtomicUsize,
}

impl Proxy {
    /// Starts a proxy in front of the server whose socket is in `server_dir`.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the socket cannot be made.
    pub fn start(server_dir: &Path) -> io::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // A socket's path may have only about a hundred bytes.
        let dir = PathBuf::from(format!("/tmp/gen_durable-proxy-{}-{count}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir)?;
        let listener = UnixListener::bind(dir.join(SOCKET))?;
        // If root runs the tests, a standby that streams through the proxy belongs to another user.
        std::fs::set_permissions(dir.join(SOCKET), Permissions::from_mode(0o777))?;
        let shared = Arc::new(Shared {
            upstream: Mutex::new(server_dir.join(SOCKET)),
            connections: Mutex::default(),
            traps: Mutex::default(),
            delay_micros: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (fault, suffered) = watch::channel(Fault::None);
                lock(&accepting.connections).push(fault.clone());
                let shared = Arc::clone(&accepting);
                tokio::spawn(async move { shared.carry(client, fault, suffered).await });
            }
        });
        Ok(Self { dir, shared, listener })
    }

    /// Returns the URL of a database through the proxy.
    pub fn url(&self, database: &str) -> String {
        let host = self.dir.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{host}/{database}")
    }

    /// Returns the directory of its socket.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lets new connections go to this server. Open connections stay with theirs.
    pub fn move_to(&self, server_dir: &Path) {
        *lock(&self.shared.upstream) = server_dir.join(SOCKET);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.afflict(Fault::Cut);
    }

    /// Freezes every open connection for good. New connections are not affected.
    pub fn freeze(&self) {
        self.afflict(Fault::Frozen);
    }

    /// Delays all traffic by this time, in each direction.
    pub fn delay(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.shared.delay_micros.store(micros, Ordering::Relaxed);
    }

    /// Sets a trap. The receiver gets a message when the trap has sprung.
    pub fn trap(&self, direction: Direction, text: &str, effect: Effect) -> oneshot::Receiver<()> {
        self.set(Spring::Text(direction, text.as_bytes().to_vec()), effect)
    }

    /// Sets a trap for the COMMIT of the next transaction that applies an outcome. An engine has
    /// other transactions at any time, which do not spring it.
    pub fn trap_commit(&self, effect: Effect) -> oneshot::Receiver<()> {
        self.set(Spring::Outcome, effect)
    }

    /// Takes away the traps that have not sprung.
    pub fn forget_traps(&self) {
        lock(&self.shared.traps).clear();
    }

    fn set(&self, by: Spring, effect: Effect) -> oneshot::Receiver<()> {
        let (sprung, told) = oneshot::channel();
        lock(&self.shared.traps).push(Trap { spring: by, effect, sprung });
        told
    }

    /// Returns how many connections are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    fn afflict(&self, fault: Fault) {
        let mut connections = lock(&self.shared.connections);
        connections.retain(|connection| connection.receiver_count() > 0);
        for connection in connections.iter() {
            // A frozen connection stays frozen until it is cut.
            connection.send_if_modified(|now| {
                let change = *now == Fault::None || fault == Fault::Cut;
                if change {
                    *now = fault;
                }
                change
            });
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

const SOCKET: &str = ".s.PGSQL.5432";

impl Shared {
    /// Carries one connection until one side ends it or a fault does.
    async fn carry(
        self: Arc<Self>,
        client: UnixStream,
        fault: watch::Sender<Fault>,
        suffered: watch::Receiver<Fault>,
    ) {
        let upstream = lock(&self.upstream).clone();
        let Ok(server) = UnixStream::connect(upstream).await else { return };
        self.open.fetch_add(1, Ordering::Relaxed);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let lose_answer = Arc::new(Mutex::new(false));
        let pump = |direction, from, to| Pump {
            shared: Arc::clone(&self),
            direction,
            from,
            to,
            fault: fault.clone(),
            suffered: suffered.clone(),
            lose_answer: Arc::clone(&lose_answer),
            outcomes: Outcomes::default(),
        };
        let requests = pump(Direction::Request, from_client, to_server).run();
        let answers = pump(Direction::Answer, from_server, to_client).run();
        // The end of one side ends both, and drops both sockets.
        tokio::select! {
            () = requests => {}
            () = answers => {}
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Removes and returns the trap that these bytes spring. `commits` tells that they commit an
    /// outcome.
    fn sprung(&self, direction: Direction, bytes: &[u8], commits: bool) -> Option<Trap> {
        let mut traps = lock(&self.traps);
        let index = traps.iter().position(|trap| match &trap.spring {
            Spring::Text(passes, text) => *passes == direction && find(bytes, text).is_some(),
            Spring::Outcome => commits,
        })?;
        Some(traps.swap_remove(index))
    }
}

/// Follows the requests of a connection, to know its transactions that apply outcomes. It knows the
/// statement by the text that prepares it, and later by its name.
#[derive(Debug, Default)]
struct Outcomes {
    statement: Option<Vec<u8>>,
    applied: bool,
}

impl Outcomes {
    /// True if this request commits an outcome.
    fn commit(&mut self, request: &[u8]) -> bool {
        if find(request, BEGINS).is_some() {
            self.applied = false;
        }
        // The message Parse has the statement's name, a zero byte, and the text.
        if let Some(end) = find(request, APPLIES) {
            // Before the name comes the length of the message, whose bytes may look like letters.
            let name = request[..end].windows(NAME.len()).rposition(|bytes| bytes == NAME);
            self.statement = name.map(|name| request[name..=end].to_vec());
            self.applied = true;
        // The message Bind has the name and a zero byte.
        } else if self.statement.as_ref().is_some_and(|name| find(request, name).is_some()) {
            self.applied = true;
        }
        find(request, b"COMMIT").is_some() && std::mem::take(&mut self.applied)
    }
}

/// The zero byte after the name of a statement, and how `commit.sql` and `commit_step.sql` begin.
const APPLIES: &[u8] = b"\0-- Applies the outcome";

/// The beginning of the names that sqlx gives statements.
const NAME: &[u8] = b"sqlx_s_";

/// The beginning of `begin.sql`. An outcome before it was applied by a transaction of one
/// statement.
const BEGINS: &[u8] = b"-- Begins a transaction";

/// Returns where the text begins.
fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// One direction of a connection.
struct Pump {
    shared: Arc<Shared>,
    direction: Direction,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    fault: watch::Sender<Fault>,
    suffered: watch::Receiver<Fault>,
    /// The other direction sets this. Then the next bytes are lost, and the connection is cut.
    lose_answer: Arc<Mutex<bool>>,
    outcomes: Outcomes,
}

impl Pump {
    async fn run(mut self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = tokio::select! {
                biased;
                () = afflicted(&mut self.suffered) => return self.suffer().await,
                read = self.from.read(&mut buffer) => read,
            };
            let Ok(read @ 1..) = read else { return };
            let delay = self.shared.delay_micros.load(Ordering::Relaxed);
            if delay > 0 {
                tokio::time::sleep(Duration::from_micros(delay)).await;
            }
            let bytes = &buffer[..read];
            if self.direction == Direction::Answer && *lock(&self.lose_answer) {
                return;
            }
            let commits = self.direction == Direction::Request && self.outcomes.commit(bytes);
            let trap = self.shared.sprung(self.direction, bytes, commits);
            let effect = trap.as_ref().map(|trap| trap.effect);
            match effect {
                Some(Effect::CutBefore) => drop(self.fault.send_replace(Fault::Cut)),
                Some(Effect::FreezeBefore) => drop(self.fault.send_replace(Fault::Frozen)),
                Some(Effect::LoseAnswer) => *lock(&self.lose_answer) = true,
                Some(Effect::FreezeAfter) | None => {}
            }
            let written = tokio::select! {
                biased;
                () = afflicted(&mut self.suffered) => None,
                written = self.to.write_all(bytes) => Some(written),
            };
            if effect == Some(Effect::FreezeAfter) {
                self.fault.send_replace(Fault::Frozen);
            }
            if let Some(trap) = trap {
                let _ = trap.sprung.send(());
            }
            match written {
                None => return self.suffer().await,
                Some(Err(_)) => return,
                Some(Ok(())) => {}
            }
        }
    }

    /// Returns at once if the connection is cut. A frozen connection stays until it is cut:
    /// Postgres does not even learn that the worker has closed its side.
    async fn suffer(&mut self) {
        let _ = self.suffered.wait_for(|fault| *fault == Fault::Cut).await;
    }
}

/// Returns when the connection has a fault.
async fn afflicted(suffered: &mut watch::Receiver<Fault>) {
    let _ = suffered.wait_for(|fault| *fault != Fault::None).await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
