//! Hearing of work that other processes announce.
//!
//! Invariant: a lost connection costs latency alone: the claimer looks once after each LISTEN, and
//! polls meanwhile. One that has been silent for a while is asked whether it is still there.

use std::time::Instant;

use super::{Shared, outage::Outage};

/// The channel of `sql/notify.sql`; the payload is the queue's name.
const CHANNEL: &str = "gen_durable";

/// Listens until the engine begins to stop.
pub(crate) async fn listen(shared: &Shared) {
    let mut outage = Outage::new("listen for announcements");
    loop {
        let error = tokio::select! {
            result = hear(shared, &mut outage) => match result {
                Ok(never) => match never {},
                Err(error) => error,
            },
            () = shared.stopping.wait() => return,
        };
        let pause = outage.failed(&error);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.stopping.wait() => return,
        }
    }
}

async fn hear(
    shared: &Shared,
    outage: &mut Outage,
) -> Result<std::convert::Infallible, sqlx::Error> {
    let connections = &shared.connections;
    loop {
        let (mut listener, end) = connections.within(connections.listener()).await?;
        // It says at once that the connection is lost, and does not connect by itself: in the middle of
        // that the pause below could cut it off, and it would never say.
        listener.eager_reconnect(false);
        connections.within(listener.listen(CHANNEL)).await?;
        outage.over();
        // What was announced before the LISTEN, or while the connection was lost, was not heard.
        shared.wake_claimer();
        // An announcement that is followed later.
        let mut held: Option<Instant> = None;
        loop {
            // This connection is old. The next one listens before the claimer looks, so nothing is
            // missed.
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Also while others are heard all the time.
            if held.take_if(|at| *at <= Instant::now()).is_some() {
                follow(shared);
            }
            let silence = held.map_or_else(
                || connections.answer_timeout(),
                |at| at.saturating_duration_since(Instant::now()),
            );
            let heard = tokio::time::timeout(silence.min(left), listener.try_recv()).await;
            let Ok(heard) = heard else {
                if held.is_none() {
                    // To listen twice is to listen once, and to get an answer.
                    connections.within(listener.listen(CHANNEL)).await?;
                }
                continue;
            };
            let Some(notification) = heard? else { break };
            if held.is_none() && shared.queues.contains_key(notification.payload()) {
                held = shared.wake_backoff.not_before(Instant::now());
                if held.is_none() {
                    follow(shared);
                }
            }
        }
    }
}

/// Has the claimer look for what was announced.
fn follow(shared: &Shared) {
    shared.wake_backoff.raise();
    shared.wake_claimer();
}
