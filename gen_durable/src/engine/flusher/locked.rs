//! Outcomes whose rows somebody else has locked.
//!
//! Invariant: such an outcome holds up no other one, and is tried until its lease ends.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Flusher, PendingCommit, commit_batch};

/// Tries a row that somebody else has locked again a little later, or as soon as a batch of this engine's
/// own signals has ended: if many go to one instance, they have it locked most of the time.
///
/// If others have it locked one after another, it may be so at every try. So after some of them the outcome waits
/// in Postgres's own queue for the row, behind whoever came before. It does so by itself and not
/// in its batch, and holds nothing meanwhile: it holds nobody up, and is in no deadlock.
///
/// One outcome waits at a time, for a second at most. The others are tried as before, so that they miss no moment
/// at which their row is free, and each asks at every further try whether it may wait now. Nobody starves. Whoever
/// waited in vain asks only after twice as many tries: in time, those whose rows are locked for long leave the place free
/// most of the time, some dozens of them as well, and one whose row quick transactions have locked in turn finds it
/// so at one of its next tries. If there are so many that it never stays free, all who ask have the same chance
/// each time that it changes hands. And it asks again however often it waited in vain.
pub(super) fn retry_locked(
    flusher: &Arc<Flusher>,
    mut pending: PendingCommit,
    sent: watch::Receiver<()>,
) {
    // One that needs long would have too little time there.
    let slow = pending.reply.alone.as_ref().is_some_and(|known| known.slow);
    if pending.reply.locked.found_locked()
        && !slow
        && let Ok(place) = Arc::clone(&flusher.waiting).try_acquire_owned()
    {
        tokio::spawn(wait_for_row(Arc::clone(flusher), pending, place));
        return;
    }
    let flusher = Arc::clone(flusher);
    let pause = pending.reply.locked.pause();
    tokio::spawn(async move {
        perhaps_unlocked(sent, pause).await;
        Flusher::resubmit(&flusher, pending);
    });
}

/// The third lane.
async fn wait_for_row(flusher: Arc<Flusher>, pending: PendingCommit, place: OwnedSemaphorePermit) {
    commit_batch(&flusher, vec![pending], true).await;
    drop(place);
}

/// Waits until something has been sent since `sent` was made, or the pause is over.
async fn perhaps_unlocked(mut sent: watch::Receiver<()>, pause: Duration) {
    let _ = tokio::time::timeout(pause, sent.changed()).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    /// The pause is longer than anybody's patience, so that only what was sent can end it.
    const PAUSE: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn what_is_sent_ends_the_pause_also_if_it_was_sent_before_it_began() {
        let sent = watch::Sender::new(());
        let (before, during) = (sent.subscribe(), sent.subscribe());
        let waits = tokio::spawn(perhaps_unlocked(during, PAUSE));
        tokio::task::yield_now().await;
        sent.send_replace(());
        let ends = async {
            waits.await.unwrap();
            perhaps_unlocked(before, PAUSE).await;
        };
        tokio::time::timeout(Duration::from_mins(1), ends).await.expect("it does not wait");
        let nothing_since = perhaps_unlocked(sent.subscribe(), PAUSE);
        tokio::select! {
            biased;
            () = nothing_since => panic!("what was sent before the try is none of its concern"),
            () = std::future::ready(()) => {}
        }
    }
}
