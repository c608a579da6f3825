//! The looks that viewers share.
//!
//! ```text
//!   first viewer ──► task: look ──► send ──► rest 60 times as long ──► look …
//!   last viewer leaves ──► the task ends
//! ```
//!
//! Invariant: a view has at most one shared look under way. Its task ends soon after its last
//! viewer has left. The rest after a look is at least sixty times as long as the look, so an open
//! page takes less than 2 % of one connection's time.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::watch;

use crate::{
    console::Inner,
    looks::{Seen, Unseen, look},
    view::View,
};

/// The shortest rest after a look.
const REST_MIN: Duration = Duration::from_secs(1);
/// The rest after a look, in multiples of the time that it took.
const REST_FACTOR: u32 = 60;
/// The most views that are watched at a time. All of them take about one connection's time.
const VIEWS_MAX: usize = 64;

/// The newest look at a view. None while there is none, or if the last one failed.
pub(crate) type Newest = Option<Arc<Seen>>;

#[derive(Debug, Default)]
pub(crate) struct Hub {
    views: Mutex<HashMap<View, watch::Sender<Newest>>>,
}

/// There are too many views under watch.
#[derive(Debug)]
pub(crate) struct Full;

impl Hub {
    /// Watches a view. The first viewer starts its task.
    pub(crate) fn watch(
        &self,
        inner: &Arc<Inner>,
        view: &View,
    ) -> Result<watch::Receiver<Newest>, Full> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = views.get(view) {
            return Ok(sender.subscribe());
        }
        if views.len() >= VIEWS_MAX {
            return Err(Full);
        }
        let (sender, receiver) = watch::channel(None);
        views.insert(view.clone(), sender.clone());
        tokio::spawn(keep_looking(Arc::downgrade(inner), view.clone(), sender));
        Ok(receiver)
    }

    /// Removes a view that nobody watches. Returns whether it did. A new viewer subscribes under
    /// the same lock, so it cannot join a view just before its task ends.
    fn forget(&self, view: &View, sender: &watch::Sender<Newest>) -> bool {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let nobody = sender.receiver_count() == 0;
        if nobody {
            views.remove(view);
        }
        nobody
    }

    /// Returns the number of views under watch.
    pub(crate) fn watched(&self) -> usize {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Returns what a look has seen. A look that panics has failed: its viewers see the next one.
async fn seen_unless_failed(look: impl Future<Output = Result<Seen, Unseen>>) -> Newest {
    AssertUnwindSafe(look).catch_unwind().await.ok()?.ok().map(Arc::new)
}

async fn keep_looking(console: Weak<Inner>, view: View, sender: watch::Sender<Newest>) {
    loop {
        // A console that is gone has no viewers: their streams hold it.
        let Some(inner) = console.upgrade() else { return };
        let began = Instant::now();
        let seen = seen_unless_failed(look(&inner.looks, &inner.bulk, &view)).await;
        inner.count_look();
        let rest = rest_after(began.elapsed());
        sender.send_replace(seen);
        drop(inner);
        let over = Instant::now() + rest;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(over.into()) => break,
                () = sender.closed() => {
                    let Some(inner) = console.upgrade() else { return };
                    if inner.hub.forget(&view, &sender) {
                        return;
                    }
                }
            }
        }
    }
}

/// Returns the rest after a look that took this long.
fn rest_after(took: Duration) -> Duration {
    (took * REST_FACTOR).max(REST_MIN)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::looks::Model;

    #[gen_durable::test]
    async fn viewers_share_looks_and_nobody_gets_none(
        pool: gen_durable::testing::PgPool,
    ) -> Result<(), Full> {
        let inner = crate::Console::new(pool).inner();
        let views = [View::Workers, View::Queues];
        let mut viewers = Vec::new();
        for view in views.iter().cycle().take(20) {
            viewers.push(inner.hub.watch(&inner, view)?);
        }
        assert_eq!(inner.hub.watched(), 2);
        for viewer in &mut viewers {
            assert!(viewer.changed().await.is_ok() && viewer.borrow().is_some());
        }
        // The first looks are all: the next ones are due a second later.
        assert_eq!(inner.looked(), 2);
        drop(viewers);
        let late = Instant::now() + Duration::from_secs(20);
        while inner.hub.watched() > 0 {
            assert!(Instant::now() < late, "the last viewers have left");
            tokio::task::yield_now().await;
        }
        assert!(inner.looked() <= 4);
        Ok(())
    }

    #[tokio::test]
    async fn a_look_that_panics_has_failed() {
        let seen =
            || Ok(Seen { model: Model::Workers(Vec::new()), took: REST_MIN, at: UNIX_EPOCH });
        assert!(seen_unless_failed(async { seen() }).await.is_some());
        assert!(seen_unless_failed(async { Err(Unseen::Bad(String::new())) }).await.is_none());
        assert!(seen_unless_failed(async { panic!("a look may") }).await.is_none());
    }

    #[test]
    fn a_look_takes_less_than_two_hundredths_of_the_time() {
        for millis in [0, 1, 7, 20, 80, 900, 2_000] {
            let took = Duration::from_millis(millis);
            let rest = rest_after(took);
            assert!(took.as_secs_f64() <= 0.02 * (took + rest).as_secs_f64(), "{took:?} {rest:?}");
        }
    }
}
