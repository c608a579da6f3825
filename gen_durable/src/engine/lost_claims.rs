//! Lost claims: rows that are claimed in the worker's name and that the worker does not know of.
//!
//! A connection may break after Postgres has committed a claim and before its rows arrive. Or a
//! task drops its row because the lease ran out, and then the lease is renewed after all. No task
//! has such a row, and no reaper takes it while its worker lives. Therefore the claimer looks for
//! lost claims; [`LostClaims::look`] says what becomes of each.
//!
//! Invariant: a row is given back only if no task has it. The claimer looks between its claims and
//! while no birth is under way, so that no claimed row is still on its way. [`give_all_back`] looks
//! when no claimer is left. A release carries the revision that was read, so a row that has changed
//! hands since stays as it is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::Shared;
use crate::storage::{self, Change, Commit, LostClaim};

/// The time for which looks go on after a suspicion. A claim that the engine gave up may still be
/// on its way, through a connection that is half open. Postgres may commit it this much later.
const SUSPICION: Duration = Duration::from_mins(10);
/// The most lost claims that one look finds.
const BATCH_MAX: i64 = 1000;

/// The claimer's suspicion of lost claims.
pub(super) struct LostClaims {
    /// Looks go on until this time. None if there is no suspicion.
    until: Option<Instant>,
    /// The next look is not before this time.
    next: Instant,
}

impl LostClaims {
    pub(super) fn new() -> Self {
        Self { until: None, next: Instant::now() }
    }

    /// Looks for lost claims, if there may be any and the last look is long enough ago.
    ///
    /// - A row goes back to its queue if no run of its present step has begun. The outcomes of the
    ///   steps before are durable, so no step runs again.
    /// - A row goes to the reaper if [`Shared::lose_run`] noted that a run of it ended without an
    ///   outcome. The reaper counts a crash, so that no such step runs again for ever.
    /// - A row also goes back to its queue if the database refused each outcome of its run. The
    ///   executor suspects such a row after a pause, so that the row is left alone meanwhile. No
    ///   crash is counted: the step runs again until the database takes an outcome.
    pub(super) async fn look(&mut self, shared: &Arc<Shared>) -> Result<(), sqlx::Error> {
        let now = Instant::now();
        if shared.wake.suspects_lost_claims() {
            self.until = Some(now + SUSPICION);
            self.next = now;
        }
        if self.until.is_none() || now < self.next {
            return Ok(());
        }
        // The rows of births under way would look like lost claims. The end of the last one wakes
        // the claimer.
        if !shared.births.close() {
            return Ok(());
        }
        let looked = self.find_and_return(shared, now).await;
        shared.births.open();
        looked
    }

    /// Finds lost claims and returns each to where it belongs.
    async fn find_and_return(
        &mut self,
        shared: &Arc<Shared>,
        now: Instant,
    ) -> Result<(), sqlx::Error> {
        // The suspicion is cleared before the look. One that arises during the look leads to
        // another.
        shared.wake.clear_suspicion();
        let worker = shared.lease.worker();
        let lost_claims = find(shared, worker, &shared.tasks.ids()).await?;
        let ids: Vec<i64> = lost_claims.iter().map(|lost_claim| lost_claim.id).collect();
        let lost_runs = shared.tasks.take_lost(&ids);
        let (begun, not_begun): (Vec<LostClaim>, Vec<LostClaim>) =
            lost_claims.into_iter().partition(|lost_claim| lost_runs.contains(&lost_claim.id));
        if !begun.is_empty() {
            let ids: Vec<i64> = begun.iter().map(|lost_claim| lost_claim.id).collect();
            tracing::warn!(
                ?ids,
                "instances whose runs ended without an outcome are left to the reaper"
            );
            abandon(shared, worker, &ids).await?;
        }
        if !not_begun.is_empty() {
            tracing::warn!(rows = not_begun.len(), "giving back rows that were claimed in vain");
        }
        for lost_claim in not_begun {
            if let Some(release) = release(shared, worker, lost_claim) {
                let shared = Arc::clone(shared);
                tokio::spawn(async move {
                    shared.flusher.commit(release).await;
                    shared.wake.claimer();
                });
            }
        }
        self.next = now + shared.config.lease_ttl / 3;
        self.until = self.until.filter(|until| now < *until);
        Ok(())
    }
}

/// Leaves rows to the reaper, because a run of each ended without an outcome. The reaper counts a
/// crash for each, as if its worker had been lost, and fails a row that has too many.
async fn abandon(shared: &Shared, worker: i64, ids: &[i64]) -> Result<(), sqlx::Error> {
    let mut connection = shared.connections.get().await?;
    let result = shared.connections.within(storage::abandon(&mut connection, worker, ids)).await;
    let result = connection.done(result);
    if result.is_err() {
        // The look has forgotten these lost runs. They are noted again for the next look.
        for id in ids {
            shared.tasks.lose(*id);
        }
        shared.wake.suspect_lost_claims();
    }
    result
}

/// Gives back all that the worker has claimed. It leaves rows of which a run ended without an
/// outcome to the reaper, as [`LostClaims::look`] does. The precondition is that no task has any
/// row, as after the end of the engine's runtime, or after the last task of a shutdown.
pub(super) async fn give_all_back(shared: &Arc<Shared>) -> Result<(), sqlx::Error> {
    shared.births.end().await;
    loop {
        let worker = shared.lease.worker();
        let mut releases = JoinSet::new();
        for lost_claim in find(shared, worker, &shared.tasks.lost()).await? {
            if let Some(release) = release(shared, worker, lost_claim) {
                let shared = Arc::clone(shared);
                releases.spawn(async move { shared.flusher.commit(release).await });
            }
        }
        if releases.is_empty() {
            return Ok(());
        }
        while releases.join_next().await.is_some() {}
    }
}

/// Returns the rows in the worker's name, except for those known.
async fn find(shared: &Shared, worker: i64, known: &[i64]) -> Result<Vec<LostClaim>, sqlx::Error> {
    let mut connection = shared.connections.get().await?;
    let look = storage::lost_claims(&mut connection, worker, known, BATCH_MAX);
    let result = shared.connections.within(look).await;
    connection.done(result)
}

fn release(shared: &Shared, worker: i64, lost_claim: LostClaim) -> Option<Box<Commit>> {
    // The worker claims rows of machines that it knows, so the machine of each is found.
    let fsm = shared.registry.get(&lost_claim.kind)?.name();
    Some(Box::new(Commit {
        id: lost_claim.id,
        fsm,
        worker,
        revision: lost_claim.revision,
        attempt: 0,
        failures: 0,
        change: Change::Release,
        state: None,
        upgraded: None,
        error: None,
        record: None,
        consumed: Vec::new(),
        known: 0,
        awaits_loaded: None,
        inserts: Vec::new(),
        signals: Vec::new(),
        partition_key: lost_claim.partition_key,
        report_to: None,
        listens: false,
        trace_context: None,
    }))
}
