//! Announcing runnable rows: at once in this process, by NOTIFY to the others.
//!
//! Invariant: an announcement is a hint. It may be lost or come too often: the engines also find
//! rows by their poll.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::local::LocalEngine;
use crate::{
    connections::Connections,
    error::Cause,
    group::{Group, Item},
    storage::{self, NewInstance},
};

/// Announces to the engines that serve a queue that there is work in it.
pub(crate) struct Notifier {
    local: OnceLock<Box<dyn LocalEngine>>,
    remote: Option<Arc<Group<Announcement>>>,
    /// After this time an engine has looked by itself, even if no announcement reached it.
    next_look: Duration,
}

/// The default poll interval of engines. A caller does not know the intervals of the engines, and
/// assumes this one.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Returns the longest time until an engine with this poll interval looks. Its pauses are at most a
/// quarter longer than the interval.
pub(crate) fn latest_poll(poll_interval: Duration) -> Duration {
    poll_interval * 5 / 4
}

/// The pause after a NOTIFY: each one wakes every listening engine, and its connection.
const PAUSE: Duration = Duration::from_millis(1);

/// A queue with work in it.
struct Announcement(String);

impl Item for Announcement {
    fn weight(&self) -> usize {
        self.0.len()
    }
}

impl Notifier {
    /// Makes a notifier that announces to other processes.
    ///
    /// One NOTIFY is under way at a time, and carries each queue once. Postgres lets only one
    /// transaction with a notification commit at a time, so an insert never carries its own.
    /// Announcements within [`PAUSE`] after a NOTIFY go out with the next one.
    ///
    /// A row that is due only after every engine has polled is not announced. The interval of this
    /// process's own engine counts if it is longer than the default. Those of other engines are not
    /// known here.
    pub(crate) fn remote(connections: Connections, poll_interval: Duration) -> Arc<Self> {
        let run = move |queues: Vec<Announcement>| {
            let connections = connections.clone();
            Box::pin(async move {
                let queues: BTreeSet<String> = queues.into_iter().map(|queue| queue.0).collect();
                let queues: Vec<String> = queues.into_iter().collect();
                let result = async {
                    let mut connection = connections.get().await?;
                    let announce = storage::announce(&mut connection, &queues);
                    let result = connections.within(announce).await;
                    connection.done(result)
                };
                if let Err(error) = result.await {
                    let error = Cause(&error);
                    tracing::debug!(%error, "could not announce work; the engines' poll will find it");
                }
                tokio::time::sleep(PAUSE).await;
            }) as _
        };
        let remote = Group::new(usize::MAX, 1, Box::new(run));
        Self::with(Some(remote), poll_interval)
    }

    /// Makes a notifier that announces in this process alone.
    pub(crate) fn within(poll_interval: Duration) -> Arc<Self> {
        Self::with(None, poll_interval)
    }

    fn with(remote: Option<Arc<Group<Announcement>>>, poll_interval: Duration) -> Arc<Self> {
        let next_look = latest_poll(poll_interval.max(POLL_INTERVAL));
        Arc::new(Self { local: OnceLock::new(), remote, next_look })
    }

    /// Returns the queues of the new rows that are to be announced.
    pub(crate) fn to_announce<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a NewInstance>,
    ) -> impl Iterator<Item = &'a str> {
        let next_look = self.next_look;
        rows.into_iter()
            .filter(move |row| row.is_announced(next_look))
            .map(|row| row.queue.as_str())
    }

    /// Sets the engine of this process.
    pub(crate) fn set_local(&self, local: Box<dyn LocalEngine>) {
        let _ = self.local.set(local);
    }

    /// Returns the engine of this process.
    pub(crate) fn local(&self) -> Option<&dyn LocalEngine> {
        self.local.get().map(|local| &**local)
    }

    /// Announces to other processes alone.
    pub(crate) fn announce_elsewhere<'a>(&self, queues: impl IntoIterator<Item = &'a str>) {
        for queue in queues {
            if let Some(remote) = &self.remote {
                remote.submit(Announcement(queue.to_owned()));
            }
        }
    }

    pub(crate) fn announce<'a>(&self, queues: impl IntoIterator<Item = &'a str>) {
        let queues: BTreeSet<&str> = queues.into_iter().collect();
        for queue in queues {
            let taken = self.local().is_some_and(|local| local.hear(queue));
            if let (false, Some(remote)) = (taken, &self.remote) {
                remote.submit(Announcement(queue.to_owned()));
            }
        }
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{storage::Eligible, value::Json};

    fn row(eligible: Eligible) -> NewInstance {
        NewInstance {
            fsm: "m",
            fsm_version: 1,
            step: "s",
            state: Json("null".to_owned()),
            queue: "q".to_owned(),
            priority: 0,
            eligible,
            partition_key: None,
            unique_key: None,
            unique_scope: Vec::new(),
            silent: false,
            report_to: None,
            refuses_taken: false,
            trace_context: None,
        }
    }

    #[test]
    fn p69_what_every_poll_sees_in_time_is_no_news() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
        let default = latest_poll(POLL_INTERVAL);
        for poll_interval in [Duration::from_millis(1), POLL_INTERVAL, hour] {
            let notifier = Notifier::within(poll_interval);
            let is_announced = |row: NewInstance| notifier.to_announce([&row]).count() == 1;
            let next_look = default.max(latest_poll(poll_interval));
            let now = SystemTime::now();
            for (eligible, announced) in [
                (Eligible::Now, true),
                (Eligible::In(next_look), true),
                (Eligible::In(next_look + second), false),
                (Eligible::In(Duration::MAX), false),
                (Eligible::At(now - hour), true),
                (Eligible::At(now + next_look), true),
                (Eligible::At(now + next_look + hour), false),
            ] {
                assert_eq!(
                    is_announced(row(eligible)),
                    announced,
                    "{poll_interval:?}: {eligible:?}"
                );
                assert!(!is_announced(NewInstance { silent: true, ..row(eligible) }));
            }
        }
    }
}
