//! One try of a batch: its commit, with the claims of the instances that its outcomes insert.
//!
//! Invariant: each outcome of the batch is answered, or returned with the error of the try.

use std::{sync::Arc, time::Duration};

use super::{Answer, Failed, Flusher, PendingCommit, Reply, finish, no_connection, within};
use crate::{
    client::local::{LocalEngine, Reservation},
    fault::{self, Fault},
    meters::Timer,
    storage::{self, Commit, Committed, Locked, NewInstance},
};

/// The error of a try.
struct Error {
    error: sqlx::Error,
    /// The try may have taken effect all the same.
    unclear: bool,
}

/// Commits a batch and answers its outcomes, or returns them with the error.
pub(super) async fn try_batch(
    flusher: &Arc<Flusher>,
    commits: Vec<PendingCommit>,
    waits: bool,
    answer_timeout: Duration,
) -> Result<(), Failed> {
    // For the outcomes that the commit leaves out as locked, which go to `retry_locked` in
    // `finish`. Subscribed before the try, as in `commit_batch`.
    let sent = flusher.sent.subscribe();
    let mut uncertain = commits.iter().any(|pending| pending.uncertain);
    let (mut commits, mut replies): (Vec<Box<Commit>>, Vec<Reply>) =
        commits.into_iter().map(|pending| (pending.commit, pending.reply)).unzip();
    let mut locked = if waits { Locked::WaitASecond } else { flusher.locked.treatment() };
    let mut local = flusher.notifier.local();
    let mut without_births = None;
    loop {
        // Slots are reserved for as long as the commit takes.
        let mut reservation = None;
        let committed =
            commit(flusher, &commits, uncertain, locked, answer_timeout, local, &mut reservation);
        let Error { error, unclear } = match committed.await {
            Ok(mut done) => {
                if let Some(reservation) = reservation {
                    let new = done.new.as_mut();
                    let (ids, born) = new
                        .map(|new| (&new.ids[..], std::mem::take(&mut new.born)))
                        .unwrap_or_default();
                    reservation.run(ids, born);
                }
                without_births.inspect(|local: &&dyn LocalEngine| local.refused());
                finish(flusher, commits, replies, done, uncertain, &sent);
                return Ok(());
            }
            Err(error) => error,
        };
        uncertain |= unclear;
        let claims = reservation.is_some();
        // If the commit may have taken effect, so may its claims: they count as lost.
        if let Some(reservation) = reservation.filter(|_| !unclear) {
            reservation.undo();
        }
        // A row was still locked after 20 ms, or a unique key still being inserted. The batch is
        // tried again at once, and leaves locked rows out.
        if locked == Locked::WaitAMoment && fault::is_lock_timeout(&error) {
            flusher.locked.found();
            locked = Locked::Skip;
            continue;
        }
        // The engine refuses some outcomes. The others are tried again at once.
        let error = match fault::refusals(error) {
            Err(error) => error,
            Ok(refusals) => {
                for refusal in refusals {
                    let Some(place) =
                        commits.iter().position(|commit| commit.id == refusal.instance)
                    else {
                        // Another insert of the outcome was refused too.
                        continue;
                    };
                    commits.remove(place);
                    let refused = fault::refused(vec![refusal]);
                    let _ = replies.remove(place).to.send(Answer::Refused(refused));
                }
                if commits.is_empty() {
                    return Ok(());
                }
                continue;
            }
        };
        // The statement that claims may be at fault: the worker may lack a right, say. The batch is
        // tried again at once without it.
        let own = !matches!(Fault::of(&error), Fault::Connection | Fault::Locked);
        if claims && own && !unclear {
            without_births = local.take();
            continue;
        }
        let commits = commits.into_iter().zip(replies);
        let commits = commits.map(|(commit, reply)| PendingCommit { commit, reply, uncertain });
        return Err(Failed { commits: commits.collect(), error });
    }
}

/// Commits the outcomes. `local` claims those of the instances that they insert for which it has
/// free slots, or places ahead of these.
async fn commit(
    flusher: &Flusher,
    commits: &[Box<Commit>],
    uncertain: bool,
    locked: Locked,
    answer_timeout: Duration,
    local: Option<&dyn LocalEngine>,
    reservation: &mut Option<Box<dyn Reservation>>,
) -> Result<Committed, Error> {
    let connection = flusher.connections.get().await;
    let mut connection =
        connection.map_err(|error| Error { error: no_connection(error), unclear: false })?;
    let inserts: Vec<&NewInstance> = commits.iter().flat_map(|commit| &commit.inserts).collect();
    let local = local.filter(|_| !inserts.is_empty());
    let timer = Timer::start();
    *reservation = local.and_then(|local| local.reserve_ahead(&inserts));
    let birth = reservation.as_deref().map(Reservation::birth);
    let mut committing = false;
    let commit =
        storage::commit(&mut connection, commits, uncertain, locked, birth, &mut committing);
    let result = within(answer_timeout, commit).await;
    flusher.meters.batch(timer, commits.len(), result.is_ok());
    // The commit may have taken effect, if its last statement was sent (`committing` is set just
    // before that) and no answer says that Postgres rolled back.
    let unclear = committing && matches!(&result, Err(error) if fault::is_uncertain(error));
    connection.done(result).map_err(|error| Error { error, unclear })
}
