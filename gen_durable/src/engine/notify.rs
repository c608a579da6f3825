//! Hearing of work that other processes announce.
//!
//! Invariant: a lost connection costs latency alone: the claimer looks once after each reconnect, and
//! polls meanwhile.

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
    let mut listener = shared.connections.listener().await?;
    listener.listen(CHANNEL).await?;
    outage.over();
    loop {
        // What was announced before the LISTEN, or while the connection was lost, was not heard.
        shared.wake_claimer();
        while let Some(notification) = listener.try_recv().await? {
            if shared.queues.contains_key(notification.payload()) {
                shared.wake_claimer();
            }
        }
    }
}
