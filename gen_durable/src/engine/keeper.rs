//! The thread that keeps the lease, and watches the runtime that runs the steps.
//!
//! ```text
//!   runtime of the caller              thread of the engine's own
//!   ─────────────────────              ─────────────────────────────────────────
//!   heart: a task that beats  ───────► beats?  yes: renew the lease
//!   steps: polls are timed    ───────►         no: say which step blocks, and renew all the same,
//!                                                  for STALL_MAX leases
//!                                              gone: the runtime has ended, and so does the thread
//! ```
//!
//! A step that blocks its thread may block the whole runtime. If the lease were renewed on that
//! runtime, it would then run out, and all that the worker holds would count as lost. A step that
//! blocks again and again would make its neighbours fail. The one thread costs a connection, and a
//! look a second.
//!
//! Invariant: a lease is not renewed for a runtime that has ended, nor for one that has stood still
//! for [`STALL_MAX`] leases.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Shared, lease, outage::Outage};
use crate::{backoff::jittered, connections::Connections};

/// The number of leases for which a runtime may stand still before its worker counts as lost. A
/// step may compute for minutes, but a step that waits for itself waits for ever.
const STALL_MAX: u32 = 10;
/// The longest time that the last connection may take to close in order.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// The longest pause between two looks at the steps.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The time at which the caller's runtime last ran the engine's beat.
#[derive(Debug)]
pub(crate) struct Heart(Mutex<Instant>);

impl Heart {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns the time since the last beat.
    fn silence(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// Beats until the engine has stopped.
pub(crate) async fn beat(shared: &Shared) {
    loop {
        shared.heart.beat();
        tokio::select! {
            () = tokio::time::sleep(shared.config.lease_ttl / 4) => {}
            () = shared.life.stopped.wait() => return,
        }
    }
}

/// Starts the thread, on connections that `connect` makes.
///
/// # Errors
///
/// The operating system has no thread to give.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    connect: impl FnOnce() -> Connections + Send + 'static,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shared = Arc::clone(shared);
    let run = move || {
        runtime.block_on(async move {
            let connections = connect();
            // Hides what it shows of the database when its lease as the observer ends.
            #[cfg(feature = "metrics")]
            let watch = shared.view.watch();
            #[cfg(not(feature = "metrics"))]
            let watch = std::future::pending::<Infallible>();
            tokio::select! {
                never = keep(&shared, &connections) => match never {},
                never = watch => match never {},
                () = shared.life.stopped.wait() => {}
                () = shared.life.deserted.wait() => {}
            }
            #[cfg(feature = "metrics")]
            shared.view.end();
            // The engine's parts, if this is the last task that has them, are dropped inside of a
            // runtime.
            drop(shared);
            let _ = tokio::time::timeout(CLOSE_MAX, connections.close()).await;
        });
    };
    thread::Builder::new().name("gen_durable lease".to_owned()).spawn(run)?;
    Ok(())
}

/// Renews the lease in time, unless the caller's runtime has stood still for too long.
async fn keep(shared: &Shared, connections: &Connections) -> Infallible {
    let ttl = shared.config.lease_ttl;
    let mut outage = Outage::new("renew the worker's lease");
    let mut stalled = false;
    let mut renew_at = Instant::now() + jittered(ttl / 3);
    loop {
        let pause = renew_at.saturating_duration_since(Instant::now()).min(LOOK_EVERY);
        tokio::time::sleep(pause).await;
        shared.surroundings.polls.report();
        let silence = shared.heart.silence();
        if silence > ttl * STALL_MAX {
            if !std::mem::replace(&mut stalled, true) {
                tracing::error!(
                    ?silence,
                    "the runtime that runs the steps stands still: the lease is not renewed, and what \
                     this worker holds runs elsewhere; look for a step that blocks its thread"
                );
            }
            continue;
        }
        stalled = false;
        if Instant::now() < renew_at {
            continue;
        }
        let asked = Instant::now();
        let own = (&*shared.kinds, &shared.declared);
        let before = shared.lease.worker();
        let pause = match lease::renew(&shared.lease, &shared.config, own, connections).await {
            Ok(worker) => {
                outage.over();
                shared.meters.lease.granted(worker != before, shared.lease.left());
                shared.lease.granted(worker, asked);
                shared.wake.claimer();
                jittered(ttl / 3)
            }
            Err(error) => {
                shared.meters.lease.failed(shared.lease.left());
                outage.failed(&error).min(ttl / 6)
            }
        };
        renew_at = Instant::now() + pause;
    }
}
