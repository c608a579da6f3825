//! Connections for short statements: kept open by an engine, borrowed from the pool by a client.
//!
//! Invariant: a connection on which a statement failed is never kept; the pool tests it first. One
//! that broke, or that gave no answer, is closed, and so are those that are kept beside it. None is
//! left of a runtime that has ended. One that was used on another runtime, or was idle for long, is
//! tested before it is used.

mod held;
mod homes;
mod life;
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

use self::{held::Held, life::Life, probe::Probe, source::Source};
use crate::{error::DatabaseError, fault, throttle::Throttle};

/// How long a client's short statement may go without an answer.
const CLIENT_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long connections that are closed wait for calls that are under way.
const CALLS_END_TIMEOUT: Duration = Duration::from_millis(800);
/// The time that a connection has to answer a test.
const TEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How late a timer is at least if the runtime stood still. Less than the shortest answer timeout.
const LATE: Duration = Duration::from_millis(250);
/// What an engine's may have at least, however short its lease.
const ANSWER_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// A function that sets a session up for the statements of an engine.
pub(crate) type SetUp = for<'c> fn(&'c mut PgConnection) -> SettingUp<'c>;

/// The work of a [`SetUp`].
pub(crate) type SettingUp<'c> = Pin<Box<dyn Future<Output = Result<(), sqlx::Error>> + Send + 'c>>;

/// Where connections come from.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    /// The caller's pool, if `pool` is the engine's own.
    source: Option<Source>,
    life: Life,
    idle: Mutex<Idle>,
    kept_max: usize,
    /// Sets a session up for the statements of an engine. None if a pooler may lend it to others.
    session: Option<SetUp>,
    answer_timeout: Duration,
    probe: Probe,
    /// Calls that are under way and may have no connection just now.
    under_way: watch::Sender<usize>,
    /// Failures that meet every call, as they were logged.
    lasting: Throttle,
    /// Dropped with the last of these connections; none if no runtime is watched for them.
    over: Option<watch::Sender<()>>,
}

#[derive(Debug, Default)]
struct Idle {
    kept: Vec<Kept>,
    /// Calls that found none kept and wait for the pool.
    waiting: usize,
    /// The runtimes on which connections are used.
    homes: Vec<Id>,
    /// The number of them that have ended.
    ended: u64,
}

/// A connection that is kept for the next use.
#[derive(Debug)]
struct Kept {
    held: Held,
    /// When it was used last.
    used: Instant,
}

impl Inner {
    /// The pool, which makes connections with the caller's present options.
    fn pool(&self) -> &PgPool {
        if let Some(source) = &self.source {
            source.pass_on(&self.pool);
        }
        &self.pool
    }

    fn hold(&self, connection: PoolConnection<Postgres>, runtime: &Handle) -> Held {
        Held::new(connection, runtime.clone(), self.life.end(Instant::now()))
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what is idle: this runtime has ended, and it may have been opened there.
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

/// A call that is under way.
#[derive(Debug)]
pub(crate) struct UnderWay(Connections);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.inner.under_way.send_modify(|calls| *calls -= 1);
    }
}

/// Counts a call out that waited for the pool, also one that was dropped meanwhile.
struct Waiting<'a>(&'a Connections);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.idle().waiting -= 1;
    }
}

impl Connections {
    /// Connections of the caller's pool, given back after each use, for many calls.
    pub(crate) fn borrowed(pool: PgPool) -> Self {
        Self::lent(pool, Some(watch::Sender::new(())))
    }

    /// Connections of the caller's pool, for one call.
    pub(crate) fn once(pool: PgPool) -> Self {
        Self::lent(pool, None)
    }

    fn lent(pool: PgPool, over: Option<watch::Sender<()>>) -> Self {
        let life = Life::of(pool.options());
        Self::with(pool, None, life, 0, None, CLIENT_ANSWER_TIMEOUT, over)
    }

    fn with(
        pool: PgPool,
        source: Option<Source>,
        life: Life,
        kept_max: usize,
        session: Option<SetUp>,
        answer_timeout: Duration,
        over: Option<watch::Sender<()>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                pool,
                source,
                life,
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

    /// An engine's own connections, with the options and hooks of the caller's pool.
    ///
    /// The caller's steps may hold every connection of the caller's pool; a lease must be renewed
    /// all the same. And a pool tests a connection with a round trip each time that it changes
    /// hands, which a commit of a third of a millisecond cannot afford.
    ///
    /// After a lease without an answer a connection counts as lost, as a worker does without a sign
    /// of life. An engine waits for one as long as the caller's pool would, but for no more than a
    /// third of the lease: a renewal must have its second chance. `session` sets a session up, if no
    /// pooler lends a connection's session to others.
    pub(crate) fn own(
        pool: &PgPool,
        connections_max: u32,
        lease_ttl: Duration,
        session: Option<SetUp>,
    ) -> Self {
        let source = Source::new(pool.clone());
        let options = pool.options();
        let life = Life::of(options);
        let acquire_timeout =
            options.get_acquire_timeout().min((lease_ttl / 3).max(ANSWER_TIMEOUT_MIN));
        let pool = options
            .clone()
            .max_connections(connections_max)
            .min_connections(0)
            .acquire_timeout(acquire_timeout)
            .max_lifetime(life.half)
            .connect_lazy_with(source.options());
        let (kept_max, answer_timeout) =
            (connections_max as usize, lease_ttl.max(ANSWER_TIMEOUT_MIN));
        let over = Some(watch::Sender::new(()));
        Self::with(pool, Some(source), life, kept_max, session, answer_timeout, over)
    }

    /// How long a short statement may go without an answer.
    pub(crate) fn answer_timeout(&self) -> Duration {
        self.inner.answer_timeout
    }

    /// Gives a statement up that has no answer for that long: its connection may be half open, and
    /// then nothing would ever say so. Whether it took effect is unknown.
    pub(crate) async fn within<T>(
        &self,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        within(self.inner.answer_timeout, statement).await
    }

    pub(crate) async fn get(&self) -> Result<Connection, sqlx::Error> {
        let here = Handle::current();
        let ended = self.enter(&here);
        let connection = |held| Connection { held, home: self.clone(), ended };
        while let Some(Kept { mut held, used }) = self.take_kept(&here) {
            if held.is_of(&here) && !self.inner.life.needs_test(used, Instant::now()) {
                return Ok(connection(held));
            }
            // The network may have forgotten it, or the runtime that drives it may stand still.
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
            // A hook of the pool would take the place of the caller's.
            if let Err(error) = self.within(session(&mut connection)).await {
                return connection.done(Err(error));
            }
        }
        Ok(connection)
    }

    /// A connection that an engine's own pool has, if it answers. The pool would test it as well,
    /// but wait for one that is half open until the call's time is up.
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

    /// Closes what the pool has idle: what broke one connection is likely to have broken the others.
    fn discard_idle(&self) {
        while let Some(idle) = self.inner.pool.try_acquire() {
            drop(idle.detach());
        }
    }

    /// Notes that connections are used on this runtime; how many such runtimes have ended.
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

    /// A connection that was kept, of this runtime if there is one; without any, the call counts as
    /// one that waits.
    fn take_kept(&self, here: &Handle) -> Option<Kept> {
        let now = Instant::now();
        let mut idle = self.idle();
        // Also those at the bottom, which nobody takes while there is little to do.
        let old: Vec<Kept> = idle.kept.extract_if(.., |kept| kept.held.is_over(now)).collect();
        let own = idle.kept.iter().rposition(|kept| kept.held.is_of(here));
        let kept = own.map(|index| idle.kept.swap_remove(index)).or_else(|| idle.kept.pop());
        // Under the lock under which a connection would be kept: whoever has one from here on
        // gives it to the pool, which knows who waits.
        idle.waiting += usize::from(kept.is_none());
        drop(idle);
        for kept in old {
            kept.held.retire();
        }
        kept
    }

    /// Why the pool has no connection to give.
    pub(crate) async fn why(&self) -> sqlx::Error {
        self.inner.probe.why(self.inner.pool()).await
    }

    /// Logs a failure that will not pass by itself, and that meets every call: now and then.
    pub(crate) fn tell(&self, error: &DatabaseError) {
        let subject = error.sqlstate().unwrap_or("no connection");
        if error.is_lasting() && self.inner.lasting.allows(subject).is_some() {
            tracing::warn!("{error}");
        }
    }

    /// A connection that listens, and until when it may be used.
    pub(crate) async fn listener(&self) -> Result<(PgListener, Instant), sqlx::Error> {
        // From a pool of its own: a listener that finds its connection dead keeps its place in the
        // pool for as long as it tries to say goodbye, which may be for ever.
        let own = self.inner.pool();
        let options = own.options().clone().max_connections(1);
        let pool = options.connect_lazy_with((*own.connect_options()).clone());
        let listener = PgListener::connect_with(&pool).await?;
        Ok((listener, self.inner.life.end(Instant::now())))
    }

    /// Says that a call is under way, for as long as the answer lives.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.inner.under_way.send_modify(|calls| *calls += 1);
        UnderWay(self.clone())
    }

    pub(crate) async fn close(&self) {
        let mut calls = self.inner.under_way.subscribe();
        let _ = tokio::time::timeout(CALLS_END_TIMEOUT, calls.wait_for(|calls| *calls == 0)).await;
        let kept = std::mem::take(&mut self.idle().kept);
        drop(kept);
        self.inner.pool.close().await;
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.inner.idle()
    }
}

/// Gives a statement up that has no answer for `answer_timeout`.
///
/// A timer that is late says that the runtime stood still: a step blocked its thread, or the
/// process was stopped. The answer may have been there all the time, so the connection is not
/// blamed, and the statement has its time anew.
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
    /// The number of runtimes that had ended when it was taken.
    ended: u64,
}

impl Connection {
    /// Keeps the connection for the next use if the result is good.
    pub(crate) fn done<T>(self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        match &result {
            Ok(_) | Err(sqlx::Error::Database(_)) => {
                let mut idle = self.home.idle();
                if idle.ended != self.ended {
                    // The runtime that drives it may have ended meanwhile.
                    drop(idle);
                    self.held.discard();
                } else if result.is_ok()
                    && idle.waiting == 0
                    && idle.kept.len() < self.home.inner.kept_max
                    && !self.home.inner.pool.is_closed()
                {
                    idle.kept.push(Kept { held: self.held, used: Instant::now() });
                }
                // Otherwise it goes back to the pool: it is well, or the pool will find out.
            }
            // Not back to the pool, whose test of it could wait for ever. What broke one connection
            // is likely to have broken the others.
            Err(_) => {
                let kept = std::mem::take(&mut self.home.idle().kept);
                for kept in kept {
                    kept.held.discard();
                }
                self.held.discard();
                // Nor those that the pool would test before it gives one away, each in vain.
                self.home.discard_idle();
            }
        }
        result
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
