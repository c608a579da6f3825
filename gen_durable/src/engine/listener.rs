//! Hearing of work that other processes announce.
//!
//! Invariant: a lost connection costs latency alone: the claimer looks once after each LISTEN, and
//! polls meanwhile. One that has been silent for a while is asked whether it is still there.

use std::time::Instant;

use super::{life::Life, outage::Outage, wake::Wake};
use crate::connections::Connections;

/// The channel of `sql/notify.sql`; the payload is the queue's name.
const CHANNEL: &str = "gen_durable";

/// Listens until the engine begins to stop.
pub(crate) async fn listen(connections: &Connections, queues: &[String], wake: &Wake, life: &Life) {
    let mut outage = Outage::new("listen for announcements");
    loop {
        let error = tokio::select! {
            result = hear(connections, queues, wake, &mut outage) => match result {
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

async fn hear(
    connections: &Connections,
    queues: &[String],
    wake: &Wake,
    outage: &mut Outage,
) -> Result<std::convert::Infallible, sqlx::Error> {
    loop {
        let (mut listener, end) = connections.within(connections.listener()).await?;
        // It says at once that the connection is lost, and does not connect by itself: in the middle of
        // that the pause below could cut it off, and it would never say.
        listener.eager_reconnect(false);
        connections.within(listener.listen(CHANNEL)).await?;
        outage.over();
        // What was announced before the LISTEN, or while the connection was lost, was not heard.
        wake.claimer();
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
                follow(wake);
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
            if held.is_none() && queues.iter().any(|queue| queue == notification.payload()) {
                held = wake.backoff.not_before(Instant::now());
                if held.is_none() {
                    follow(wake);
                }
            }
        }
    }
}

/// Has the claimer look for what was announced.
fn follow(wake: &Wake) {
    wake.backoff.raise();
    wake.claimer();
}
