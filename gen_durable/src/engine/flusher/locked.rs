//! Outcomes whose rows other transactions have locked.
//!
//! Invariant: such an outcome holds up no other one, and is tried until its lease ends.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Flusher, PendingCommit, commit_batch};

/// Tries an outcome again whose row another transaction has locked: a little later, or as soon as a
/// batch of this engine's own signals has ended. If many signals go to one instance, such batches
/// have it locked most of the time.
///
/// If transactions have the row locked one after another, each try may find it locked. Therefore
/// after some tries the outcome waits in Postgres's own queue for the row, behind those that came
/// before. It waits by itself and not in its batch, and holds no lock meanwhile. It therefore holds
/// up no other outcome, and is in no deadlock.
///
/// One outcome waits at a time, for a second at most. The others are tried as before, so they miss
/// no moment at which their row is free. Each asks at every further try if it may wait now. No
/// outcome starves:
///
/// - An outcome that waited in vain asks again only after twice as many tries. In time, outcomes
///   whose rows are locked for long leave the place free most of the time, even if there are some
///   dozens of them.
/// - An outcome whose row is locked by quick transactions, one after another, then finds the place
///   free at one of its next tries.
/// - If so many outcomes ask that the place never stays free, all have the same chance each time
///   that it changes hands.
/// - Each outcome asks again, however often it waited in vain.
pub(super) fn retry_locked(
    flusher: &Arc<Flusher>,
    mut pending: PendingCommit,
    sent: watch::Receiver<()>,
) {
    // A slow outcome would have too little time there.
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

/// Commits an outcome that waits for its row, and holds the place to wait meanwhile.
async fn wait_for_row(flusher: Arc<Flusher>, pending: PendingCommit, place: OwnedSemaphorePermit) {
    commit_batch(&flusher, vec![pending], true).await;
    drop(place);
}

/// Waits until a batch that was sent has ended since `sent` was made, or the pause is over.
async fn perhaps_unlocked(mut sent: watch::Receiver<()>, pause: Duration) {
    let _ = tokio::time::timeout(pause, sent.changed()).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    /// The pause is longer than the test waits, so only a batch that was sent can end it.
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
            () = nothing_since => panic!("a batch that ended before the try must not end the pause"),
            () = std::future::ready(()) => {}
        }
    }
}
