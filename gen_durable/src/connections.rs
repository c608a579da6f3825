//! Connections for short statements. An engine keeps its own open; a client borrows them from the
//! pool.
//!
//! Invariant: a connection on which a statement failed is not kept: it goes back to the pool, which
//! tests it. A connection that broke, or gave no answer, is closed, and so are those that are kept
//! beside it. When a runtime has ended, none of its connections is left. A connection that was used
//! on another runtime, or was idle for long, is tested before it is used.

mod age;
mod held;
mod homes;
mod probe;
mod source;

use std::{
    future::Future,
    io,
    ops::{Deref, DerefMut},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgListener,
};
use tokio::{
    runtime::{Handle, Id},
    sync::watch,
};

pub(crate) use self::held::Backend;
use self::{age::Age, held::Held, probe::Probe, source::Source};
use crate::{error::DatabaseError, fault, throttle::Throttle};

/// The answer timeout of a client's short statements.
const CLIENT_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The time for which `close` waits for calls that are under way.
const CALLS_END_TIMEOUT: Duration = Duration::from_millis(800);
/// The time that a connection has to answer a test.
const TEST_TIMEOUT: Duration = Duration::from_secs(1);
/// A timer that is at least this late says that the runtime stood still. It is shorter than the
/// shortest answer timeout.
const LATE: Duration = Duration::from_millis(250);
/// The shortest answer timeout of an engine, however short its lease is.
const ANSWER_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// A function that sets a session up for the statements of an engine.
pub(crate) type SetUp = for<'c> fn(&'c mut PgConnection) -> SettingUp<'c>;

/// The settings that a new connection has for its session: their names and values.
pub(crate) type SessionSettings = (Option<Vec<String>>, Option<Vec<String>>);

/// The future that a [`SetUp`] returns.
pub(crate) type SettingUp<'c> = Pin<Box<dyn Future<Output = Result<(), sqlx::Error>> + Send + 'c>>;

/// A handle that an engine or a client gets its connections from.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    /// The caller's pool, if `pool` is the engine's own.
    source: Option<Source>,
    age: Age,
    idle: Mutex<Idle>,
    kept_max: usize,
    /// Sets a session up for the statements of an engine. None for a client, and if a pooler may
    /// lend the session to others.
    session: Option<SetUp>,
    answer_timeout: Duration,
    probe: Probe,
    /// The number of calls under way. Such a call may have no connection at the moment.
    under_way: watch::Sender<usize>,
    /// Bounds the log lines about failures that last and meet every call.
    lasting: Throttle,
    /// Dropped with the last handle, which ends the tasks that watch runtimes. None if no runtime
    /// is watched.
    over: Option<watch::Sender<()>>,
}

#[derive(Debug, Default)]
struct Idle {
    kept: Vec<Kept>,
    /// The number of calls that found no kept connection and wait for the pool.
    waiting: usize,
    /// The runtimes on which connections are used.
    homes: Vec<Id>,
    /// The number of such runtimes that have ended.
    ended: u64,
}

/// A connection that is kept for the next use.
#[derive(Debug)]
struct Kept {
    held: Held,
    /// The time of its last use.
    used: Instant,
}

impl Inner {
    /// Returns the pool, which makes connections with the caller's present options.
    fn pool(&self) -> &PgPool {
        if let Some(source) = &self.source {
            source.pass_on(&self.pool);
        }
        &self.pool
    }

    fn hold(&self, connection: PoolConnection<Postgres>, runtime: &Handle) -> Held {
        Held::new(connection, runtime.clone(), self.age.end(Instant::now()))
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the idle connections, because this runtime has ended and may have opened them.
    fn leave(&self, runtime: &Handle) {
        let kept = {
            let mut idle = self.idle();
            idle.homes.retain(|home| *home != runtime.id());
            idle.ended += 1;
            std::mem::take(&mut idle.kept)
        };
        for kept in kept {
            kept.held.discard();
        }
        while let Some(idle) = self.pool.try_acquire() {
            self.hold(idle, runtime).discard();
        }
    }
}

/// A guard that counts a call as under way.
#[derive(Debug)]
pub(crate) struct UnderWay(Connections);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.inner.under_way.send_modify(|calls| *calls -= 1);
    }
}

/// A guard of a call that waits for the pool. Its drop ends the count, also if the call is dropped.
struct Waiting<'a>(&'a Connections);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.idle().waiting -= 1;
    }
}

impl Connections {
    /// Creates a handle on the caller's pool, for many calls. Each connection is given back after
    /// use.
    pub(crate) fn borrowed(pool: PgPool) -> Self {
        Self::lent(pool, Some(watch::Sender::new(())))
    }

    /// Creates a handle on the caller's pool, for one call.
    pub(crate) fn once(pool: PgPool) -> Self {
        Self::lent(pool, None)
    }

    fn lent(pool: PgPool, over: Option<watch::Sender<()>>) -> Self {
        let age = Age::of(pool.options());
        Self::with(pool, None, age, 0, None, CLIENT_ANSWER_TIMEOUT, over)
    }

    fn with(
        pool: PgPool,
        source: Option<Source>,
        age: Age,
        kept_max: usize,
        session: Option<SetUp>,
        answer_timeout: Duration,
        over: Option<watch::Sender<()>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                pool,
                source,
                age,
                idle: Mutex::default(),
                kept_max,
                session,
                answer_timeout,
                probe: Probe::default(),
                under_way: watch::Sender::new(0),
                lasting: Throttle::default(),
                over,
            }),
        }
    }

    /// Creates a handle for an engine's own connections, with the options and hooks of the caller's
    /// pool.
    ///
    /// The caller's steps may hold every connection of the caller's pool, and a lease must be
    /// renewed all the same. Besides, a pool tests a connection with a round trip each time that it
    /// changes hands. A commit that takes a third of a millisecond cannot afford that.
    ///
    /// A connection counts as lost if it gives no answer for the time of a lease, like a worker
    /// that gives no sign of life. An engine waits for a connection as long as the caller's pool
    /// would, but at most for a third of the lease. Thus a renewal has a second chance. `session`
    /// sets a session up. It is none if a pooler lends a connection's session to others.
    pub(crate) fn own(
        pool: &PgPool,
        connections_max: u32,
        lease_ttl: Duration,
        session: Option<SetUp>,
    ) -> Self {
        let source = Source::new(pool.clone());
        let options = pool.options();
        let age = Age::of(options);
        let acquire_timeout =
            options.get_acquire_timeout().min((lease_ttl / 3).max(ANSWER_TIMEOUT_MIN));
        let pool = options
            .clone()
            .max_connections(connections_max)
            .min_connections(0)
            .acquire_timeout(acquire_timeout)
            .max_lifetime(age.half)
            .connect_lazy_with(source.options());
        let (kept_max, answer_timeout) =
            (connections_max as usize, lease_ttl.max(ANSWER_TIMEOUT_MIN));
        let over = Some(watch::Sender::new(()));
        Self::with(pool, Some(source), age, kept_max, session, answer_timeout, over)
    }

    /// Returns how long a short statement may go without an answer.
    pub(crate) fn answer_timeout(&self) -> Duration {
        self.inner.answer_timeout
    }

    /// Gives up a statement that has no answer within the answer timeout. Its connection may be
    /// half open, and then no error would ever come. It is unknown if the statement took effect.
    pub(crate) async fn within<T>(
        &self,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        within(self.inner.answer_timeout, statement).await
    }

    /// Returns a connection: a kept one if there is one, or one of the pool.
    pub(crate) async fn get(&self) -> Result<Connection, sqlx::Error> {
        let here = Handle::current();
        let ended = self.enter(&here);
        let connection = |held| Connection { held, home: self.clone(), ended };
        while let Some(Kept { mut held, used }) = self.take_kept(&here) {
            if held.is_of(&here) && !self.inner.age.needs_test(used, Instant::now()) {
                return Ok(connection(held));
            }
            // The network may have forgotten the connection, or the runtime that drives it may
            // stand still.
            let tested = within(TEST_TIMEOUT, held.ping()).await;
            let connection = connection(held.moved_to(&here));
            match tested {
                Ok(()) => return Ok(connection),
                Err(error) => drop(connection.done::<()>(Err(error))),
            }
        }
        let acquired = {
            let _waiting = Waiting(self);
            match self.take_idle(&here).await {
                Some(idle) => Ok(idle),
                None => self.inner.pool().acquire().await.map(|new| self.inner.hold(new, &here)),
            }
        };
        let held = match acquired {
            Err(sqlx::Error::PoolTimedOut) => return Err(self.why().await),
            acquired => acquired?,
        };
        let mut connection = connection(held);
        if let Some(session) = self.inner.session {
            // A hook of the pool could do this, but it would replace the caller's hook.
            if let Err(error) = self.within(session(&mut connection)).await {
                return connection.done(Err(error));
            }
        }
        Ok(connection)
    }

    /// Returns an idle connection of an engine's own pool, if one answers a test. The pool would
    /// test it as well. If it is half open, the pool would wait until the call's time is up.
    async fn take_idle(&self, here: &Handle) -> Option<Held> {
        if self.inner.kept_max == 0 {
            return None;
        }
        loop {
            let mut held = self.inner.hold(self.inner.pool.try_acquire()?, here);
            if within(TEST_TIMEOUT, held.ping()).await.is_ok() {
                return Some(held);
            }
            held.discard();
            self.discard_idle();
        }
    }

    /// Closes the idle connections of the pool. The failure that broke one connection is likely to
    /// have broken them too.
    fn discard_idle(&self) {
        while let Some(idle) = self.inner.pool.try_acquire() {
            drop(idle.detach());
        }
    }

    /// Notes that connections are used on this runtime. Returns how many such runtimes have ended.
    fn enter(&self, here: &Handle) -> u64 {
        let mut idle = self.inner.idle();
        let ended = idle.ended;
        if let Some(over) = &self.inner.over
            && !idle.homes.contains(&here.id())
        {
            idle.homes.push(here.id());
            drop(idle);
            homes::watch(Arc::downgrade(&self.inner), over.subscribe(), here);
        }
        ended
    }

    /// Takes a kept connection, of this runtime if there is one. If none is kept, the call counts
    /// as waiting from here on.
    fn take_kept(&self, here: &Handle) -> Option<Kept> {
        let now = Instant::now();
        let mut idle = self.idle();
        // Old connections are taken out even at the bottom, which no call reaches while there is
        // little to do.
        let old: Vec<Kept> = idle.kept.extract_if(.., |kept| kept.held.is_over(now)).collect();
        let own = idle.kept.iter().rposition(|kept| kept.held.is_of(here));
        let kept = own.map(|index| idle.kept.swap_remove(index)).or_else(|| idle.kept.pop());
        // The call is counted under the lock under which connections are kept. A call that is done
        // from here on therefore gives its connection to the pool, which knows the waiting calls.
        // Otherwise it could keep the connection while this call waits.
        idle.waiting += usize::from(kept.is_none());
        drop(idle);
        for kept in old {
            kept.held.retire();
        }
        kept
    }

    /// Finds out why the pool has no connection to give.
    pub(crate) async fn why(&self) -> sqlx::Error {
        self.inner.probe.why(self.inner.pool()).await
    }

    /// Logs a failure that does not pass by itself and meets every call, at a bounded rate.
    pub(crate) fn tell(&self, error: &DatabaseError) {
        let subject = error.sqlstate().unwrap_or("no connection");
        if error.is_lasting() && self.inner.lasting.allows(subject).is_some() {
            tracing::warn!("{error}");
        }
    }

    /// Returns a connection that listens, and the time until which it may be used.
    pub(crate) async fn listener(&self) -> Result<(PgListener, Instant), sqlx::Error> {
        // The listener has a pool of its own. If it finds its connection dead, it tries to close it
        // cleanly, perhaps for ever, and keeps its place in the pool meanwhile.
        let own = self.inner.pool();
        let options = own.options().clone().max_connections(1);
        let pool = options.connect_lazy_with((*own.connect_options()).clone());
        let listener = PgListener::connect_with(&pool).await?;
        Ok((listener, self.inner.age.end(Instant::now())))
    }

    /// Counts a call as under way, for as long as the returned guard lives.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.inner.under_way.send_modify(|calls| *calls += 1);
        UnderWay(self.clone())
    }

    /// Closes all connections, after the calls under way have ended or [`CALLS_END_TIMEOUT`] is
    /// over.
    pub(crate) async fn close(&self) {
        let mut calls = self.inner.under_way.subscribe();
        let _ = tokio::time::timeout(CALLS_END_TIMEOUT, calls.wait_for(|calls| *calls == 0)).await;
        // The pool counts as closed from here on, so a call that is done later keeps nothing. The
        // kept connections are closed cleanly: the server logs nothing.
        let closing = self.inner.pool.close();
        for kept in std::mem::take(&mut self.idle().kept) {
            kept.held.give_back();
        }
        closing.await;
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.inner.idle()
    }
}

/// Gives up a statement that has no answer for `answer_timeout`.
///
/// A timer that is late says that the runtime stood still: a step blocked its thread, or the
/// process was stopped. The answer may have been there all the time. Therefore the connection is
/// not blamed, and the statement has its time anew.
pub(crate) async fn within<T>(
    answer_timeout: Duration,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let mut statement = pin!(statement);
    loop {
        let began = Instant::now();
        if let Ok(result) = tokio::time::timeout(answer_timeout, &mut statement).await {
            return result;
        }
        if began.elapsed() < answer_timeout + LATE {
            let error = fault::NoAnswer(answer_timeout);
            return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, error)));
        }
    }
}

/// A connection for a statement or two.
#[derive(Debug)]
pub(crate) struct Connection {
    held: Held,
    home: Connections,
    /// The number of runtimes that had ended when the connection was taken.
    ended: u64,
}

impl Connection {
    /// Keeps the connection for the next use if the result is good. Otherwise the connection is
    /// given back to the pool, or closed if it broke.
    pub(crate) fn done<T>(self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        let works = match &result {
            Ok(_) | Err(sqlx::Error::Database(_)) => true,
            Err(error) => fault::is_refused(error),
        };
        if works {
            let mut idle = self.home.idle();
            if idle.ended != self.ended {
                // The runtime that drives the connection may have ended meanwhile.
                drop(idle);
                self.held.discard();
            } else if result.is_ok()
                && idle.waiting == 0
                && idle.kept.len() < self.home.inner.kept_max
                && !self.home.inner.pool.is_closed()
            {
                idle.kept.push(Kept { held: self.held, used: Instant::now() });
            } else {
                // It works, or the pool's test finds out.
                drop(idle);
                self.held.give_back();
            }
        } else {
            // The connection does not go back to the pool, whose test of it could wait for ever.
            // The failure that broke it is likely to have broken the other connections too.
            let kept = std::mem::take(&mut self.home.idle().kept);
            for kept in kept {
                kept.held.discard();
            }
            self.held.discard();
            // The pool's idle connections are closed too. The pool would test each of them in vain
            // before it gives one away.
            self.home.discard_idle();
        }
        result
    }

    /// Closes the connection: a statement may be under way on it.
    pub(crate) fn discard(self) {
        self.held.discard();
    }

    /// Returns what is known of the connection's session.
    pub(crate) fn backend(&self) -> Option<&Backend> {
        self.held.backend.as_ref()
    }

    /// Notes what is known of the connection's session, for as long as it lives.
    pub(crate) fn set_backend(&mut self, backend: Backend) {
        self.held.backend = Some(backend);
    }

    /// True if the connection is too old to be used again.
    pub(crate) fn is_old(&self) -> bool {
        self.held.is_over(Instant::now())
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.held
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.held
    }
}
