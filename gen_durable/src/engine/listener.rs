//! The listener: hears announcements of other processes.
//!
//! Invariant: a lost connection costs only latency. The claimer looks once after each LISTEN, and
//! polls meanwhile. A connection that has been silent for a while is asked for an answer.

use std::{collections::BTreeSet, time::Instant};

use super::{life::Life, outage::Outage, pauses::Pauses, tasks::Tasks, wake::Wake};
use crate::{connections::Connections, storage::PAUSED};

/// The channel of `sql/announce.sql` and `sql/notify.sql`. The payload is the queue's name.
const CHANNEL: &str = "gen_durable";
/// The channel of `sql/notify_owed.sql`. The payload is the id of an instance that was killed,
/// [`PAUSED`], or empty.
const OWED: &str = "gen_durable_owed";

/// Listens until the engine begins to stop.
pub(crate) async fn listen(
    connections: &Connections,
    queues: &BTreeSet<String>,
    wake: &Wake,
    (tasks, pauses): (&Tasks, &Pauses),
    life: &Life,
) {
    let mut outage = Outage::new("listen for announcements");
    loop {
        let error = tokio::select! {
            result = hear(connections, queues, wake, (tasks, pauses), &mut outage) => match result {
                Ok(never) => match never {},
                Err(error) => error,
            },
            () = life.stopping.wait() => return,
        };
        let pause = outage.failed(&error);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = life.stopping.wait() => return,
        }
    }
}

/// Listens until a connection fails. A connection that is too old is replaced.
async fn hear(
    connections: &Connections,
    queues: &BTreeSet<String>,
    wake: &Wake,
    (tasks, pauses): (&Tasks, &Pauses),
    outage: &mut Outage,
) -> Result<std::convert::Infallible, sqlx::Error> {
    loop {
        let (mut listener, end) = connections.within(connections.listener()).await?;
        // The listener says at once that the connection is lost, and does not connect by itself.
        // The timeout below could cut it off in the middle of connecting, and it would never say
        // so.
        listener.eager_reconnect(false);
        connections.within(listener.listen_all([CHANNEL, OWED])).await?;
        outage.over();
        // Announcements before the LISTEN, or while the connection was lost, were not heard.
        wake.claimer();
        pauses.tell();
        wake.debts.notify_one();
        // The time at which an announcement is followed that was held back.
        let mut held: Option<Instant> = None;
        loop {
            // This connection is too old. The next one listens before the claimer looks, so no
            // announcement is missed.
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // The announcement that was held back is followed in time, also if others are heard all
            // the time.
            if held.take_if(|at| *at <= Instant::now()).is_some() {
                follow(wake);
            }
            let silence = held.map_or_else(
                || connections.answer_timeout(),
                |at| at.saturating_duration_since(Instant::now()),
            );
            let heard = tokio::time::timeout(silence.min(left), listener.try_recv()).await;
            let Ok(heard) = heard else {
                if held.is_none() {
                    // A second LISTEN changes nothing, but Postgres must answer it.
                    connections.within(listener.listen(CHANNEL)).await?;
                }
                continue;
            };
            let Some(notification) = heard? else { break };
            if notification.channel() == OWED {
                if let Ok(killed) = notification.payload().parse() {
                    tasks.drop_run(killed, Instant::now());
                } else if notification.payload() == PAUSED {
                    pauses.tell();
                    wake.limits.notify_one();
                    #[cfg(feature = "schedules")]
                    wake.schedules.notify_one();
                }
                wake.debts.notify_one();
                continue;
            }
            if held.is_none() && queues.contains(notification.payload()) {
                held = wake.backoff.not_before(Instant::now());
                if held.is_none() {
                    follow(wake);
                }
            }
        }
    }
}

/// Makes the claimer look for rows that were announced.
fn follow(wake: &Wake) {
    wake.backoff.raise();
    wake.claimer();
}
