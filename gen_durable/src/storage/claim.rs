//! Claims runnable rows, with and without a partition key.
//!
//! Invariant: a claimed row is `executing` and `locked_by` a worker whose lease was running. At
//! most one row of a partition key is claimed at a time.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use sqlx::{PgConnection, Row, postgres::PgRow, postgres::types::PgInterval};

use super::{
    begin, claim_known, duration,
    inbox::parse_inbox,
    micros,
    row::{ClaimRequest, Claimed, Due, First, Kind, Kinds, Places},
    time,
};

const CLAIM: &str = include_str!("sql/claim.sql");
const LOCK_FREE_PARTITIONS: &str = include_str!("sql/lock_free_partitions.sql");
const CLAIM_PARTITIONS: &str = include_str!("sql/claim_partitions.sql");
const BLOCK_AHEAD: &str = include_str!("sql/block_ahead.sql");
const NEXT_DUE: &str = include_str!("sql/next_due.sql");

/// If most of at least this many candidates wait for busy keys, more rows of the same keys are
/// likely to follow in the index. The claim then takes those out too (`block_ahead`).
const CROWD_MIN: usize = 32;
/// It does so for each key that at least this many of the candidates have.
const CROWD_OF_A_KEY_MIN: usize = 8;

/// The result of a claim.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are facts that do not depend on each other")]
pub(crate) struct Claim {
    pub(crate) rows: Vec<Claimed>,
    /// True if rows were left because the states of more urgent rows weigh as much as one claim
    /// takes.
    pub(crate) cut: bool,
    /// True if rows that wait for a busy key were taken out of the claim's index. They may have
    /// hidden other rows.
    pub(crate) cleared: bool,
    /// True if rows were left because another transaction has them locked, or because another claim
    /// has the locks of their keys.
    pub(crate) contended: bool,
    /// For each queue of the request, the partition keys of which rows were found and none was
    /// claimed. They are counted only if `cleared` is true.
    pub(crate) busy_keys: Vec<usize>,
    /// For each queue of the request, the rows that were found and could neither be claimed nor be
    /// taken out of the claim's index.
    pub(crate) stuck: Vec<usize>,
    /// The error of a later statement of the claim. The `rows` are claimed all the same, and must
    /// run.
    pub(crate) failed: Option<sqlx::Error>,
    /// Queues of the request whose claim lock another claim has.
    pub(crate) refused: Vec<String>,
    /// The watermarks for the next claim.
    pub(crate) first: Vec<First>,
    /// True if rows were met that the statement for known groups does not claim.
    pub(crate) unsettled: bool,
}

impl Claim {
    /// Adds the result of a claim of other queues.
    pub(crate) fn add(&mut self, mut other: Self) {
        self.rows.append(&mut other.rows);
        self.cut |= other.cut;
        self.cleared |= other.cleared;
        self.contended |= other.contended;
        self.busy_keys.append(&mut other.busy_keys);
        self.stuck.append(&mut other.stuck);
        self.failed = self.failed.take().or(other.failed);
        self.refused.append(&mut other.refused);
        self.first.append(&mut other.first);
        self.unsettled |= other.unsettled;
    }
}

/// Claims rows in the order in which they should run.
///
/// If each queue has one known group, a small statement claims its rows, unless it meets others.
/// Otherwise one statement claims the rows without a partition key, and the rows that are plainly
/// the heads of their keys. It returns other rows with a key as candidates. A transaction that
/// holds their keys' locks then claims them, or takes them out of the claim's index.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    request: &ClaimRequest,
) -> Result<Claim, sqlx::Error> {
    let places = request.kinds.in_queues(request.queues.iter().map(String::as_str));
    let groups = claim_known::groups(request);
    if let Some(groups) = &groups {
        let answer = claim_known::claim(connection, request, &places, groups).await?;
        if !answer.try_get::<bool, _>("unsure")? {
            return Ok(read_claim(&answer, request, &places)?.0);
        }
    }
    let answer = match claim_arrays(connection, request, &places, true).await {
        Err(error) if overtaken(&error) => {
            claim_arrays(connection, request, &places, false).await?
        }
        answer => answer?,
    };
    let (mut claim, candidates) = read_claim(&answer, request, &places)?;
    claim.unsettled = groups.is_some();
    if !candidates.is_empty() {
        let alone = claim.rows.is_empty();
        let (heads, blocked) = match claim_partitions(connection, request, &candidates, alone).await
        {
            // The first statement has claimed rows, which must run.
            Err(error) if !alone && error.as_database_error().is_some() => {
                claim.failed = Some(error);
                return Ok(claim);
            }
            partitions => partitions?,
        };
        claim.cleared = blocked > 0;
        let stuck = candidates.len().saturating_sub(heads.len() + blocked);
        claim.contended |= stuck > 0;
        for candidate in candidates.iter().take(stuck) {
            if let Some(count) = claim.stuck.get_mut(candidate.queue) {
                *count += 1;
            }
        }
        claim.rows.extend(heads);
        if claim.cleared {
            count_busy_keys(&mut claim, &candidates);
        }
    }
    Ok(claim)
}

/// Reads the answer of a statement that claims: the claim, and the candidates.
fn read_claim(
    answer: &PgRow,
    request: &ClaimRequest,
    places: &Places<'_>,
) -> Result<(Claim, Vec<Candidate>), sqlx::Error> {
    let now = time(answer.try_get("claimed_at")?);
    let (rows, candidates) = Arrays::read(answer)?.split(request, places, now)?;
    let claim = Claim {
        rows,
        cut: answer.try_get::<Option<_>, _>("cut")?.unwrap_or(false),
        contended: answer.try_get::<Option<_>, _>("left_out")?.unwrap_or(false),
        busy_keys: vec![0; request.queues.len()],
        stuck: vec![0; request.queues.len()],
        refused: answer.try_get("refused")?,
        first: read_first(answer, request)?,
        ..Claim::default()
    };
    Ok((claim, candidates))
}

/// Counts for each queue the keys of which candidates were found and no row was claimed.
fn count_busy_keys(claim: &mut Claim, candidates: &[Candidate]) {
    let mut known: HashSet<&str> =
        claim.rows.iter().filter_map(|row| row.partition_key.as_deref()).collect();
    for candidate in candidates {
        if known.insert(&candidate.partition_key)
            && let Some(count) = claim.busy_keys.get_mut(candidate.queue)
        {
            *count += 1;
        }
    }
}

/// A row with a partition key that the first statement found and did not claim.
struct Candidate {
    id: i64,
    partition_key: String,
    /// The index of its queue in the request.
    queue: usize,
}

/// Runs the statement `claim`. It claims heads of partition keys only if `keyed` is true.
async fn claim_arrays(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    places: &Places<'_>,
    keyed: bool,
) -> Result<PgRow, sqlx::Error> {
    let kinds = request.kinds.fsms.len();
    let wanted: Vec<i64> =
        request.wanted.iter().flat_map(|rows| std::iter::repeat_n(*rows, kinds)).collect();
    let mut known = (Vec::new(), Vec::new(), Vec::new());
    for first in &request.known {
        if let Some(queue) = request.queues.iter().position(|queue| *queue == first.queue) {
            known.0.push(i64::try_from(queue * kinds + first.kind + 1).unwrap_or(i64::MAX));
            known.1.push(first.priority);
            known.2.push(first.since);
        }
    }
    sqlx::query(CLAIM)
        .bind(request.worker)
        .bind(&places.queues)
        .bind(wanted)
        .bind(&places.fsms)
        .bind(&places.versions)
        .bind(&request.kinds.listening)
        .bind(&request.without_lock)
        .bind(keyed)
        .bind(known.0)
        .bind(known.1)
        .bind(known.2)
        .bind(request.bytes_max)
        .bind(request.light.is_some())
        .fetch_one(connection)
        .await
}

/// Reads the watermarks for the next claim.
fn read_first(answer: &PgRow, request: &ClaimRequest) -> Result<Vec<First>, sqlx::Error> {
    let kinds = request.kinds.fsms.len().max(1);
    let places: Vec<i64> = answer.try_get("first_kinds")?;
    let priorities: Vec<i16> = answer.try_get("first_priorities")?;
    let since: Vec<Option<i64>> = answer.try_get("first_since")?;
    let mut first = Vec::with_capacity(places.len());
    for ((place, priority), since) in places.into_iter().zip(priorities).zip(since) {
        let place = usize::try_from(place - 1).unwrap_or(usize::MAX);
        let Some(queue) = request.queues.get(place / kinds).cloned() else { continue };
        first.push(First { queue, kind: place % kinds, priority, since });
    }
    Ok(first)
}

/// True if a claim took a key for free that another transaction took after the claim's snapshot.
/// The index `instances_partition_holder` refused the claim. Or the claim waited in that index for
/// a transaction that has not ended yet, and gave up.
fn overtaken(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.constraint() == Some("instances_partition_holder")
        || matches!(error.code().as_deref(), Some("40P01" | "55P03"))
}

/// The answer of the statement `claim`: arrays with one entry for each row.
#[derive(Default)]
struct Arrays {
    ids: Vec<i64>,
    kinds: Vec<i64>,
    partition_keys: Vec<Option<String>>,
    steps: Vec<Option<String>>,
    states: Vec<Option<String>>,
    attempts: Vec<Option<i32>>,
    failures: Vec<Option<i32>>,
    revisions: Vec<Option<i64>>,
    timed_out: Vec<Option<bool>>,
    inboxes: Vec<Option<String>>,
    receivers: Vec<Option<i64>>,
    trace_contexts: Vec<Option<String>>,
    waited: Vec<Option<PgInterval>>,
}

impl Arrays {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        // An aggregate of no rows is null.
        let Some(ids) = row.try_get("ids")? else { return Ok(Self::default()) };
        Ok(Self {
            ids,
            kinds: row.try_get("kinds")?,
            partition_keys: row.try_get("partition_keys")?,
            steps: row.try_get("steps")?,
            states: row.try_get("states")?,
            attempts: row.try_get("attempts")?,
            revisions: row.try_get("revisions")?,
            timed_out: row.try_get("timed_out")?,
            inboxes: row.try_get("inboxes")?,
            failures: row.try_get("failures")?,
            receivers: row.try_get("receivers")?,
            trace_contexts: row.try_get("trace_contexts")?,
            waited: row.try_get("waited")?,
        })
    }

    /// Divides the rows into those that were claimed, and the candidates: those with a partition
    /// key that were not.
    fn split(
        self,
        request: &ClaimRequest,
        places: &Places<'_>,
        now: SystemTime,
    ) -> Result<(Vec<Claimed>, Vec<Candidate>), sqlx::Error> {
        let kinds_of_a_queue = request.kinds.fsms.len().max(1);
        let mut claimed = Vec::with_capacity(self.ids.len());
        let mut candidates = Vec::new();
        let rows = self.ids.into_iter().zip(self.kinds).zip(self.partition_keys);
        let steps = self.steps.into_iter().zip(self.states).zip(self.inboxes);
        let counts = self.attempts.into_iter().zip(self.failures);
        let links = self.receivers.into_iter().zip(self.trace_contexts).zip(self.waited);
        let counts = counts.zip(self.revisions).zip(self.timed_out).zip(links);
        for (
            (((id, kind), partition_key), ((step, state), inbox)),
            ((((attempt, failures), revision), timed_out), ((report_to, trace_context), waited)),
        ) in rows.zip(steps).zip(counts)
        {
            let place = usize::try_from(kind - 1).unwrap_or(usize::MAX);
            // A row that was not claimed has no step in the answer.
            let Some(step) = step else {
                if let Some(partition_key) = partition_key {
                    let queue = place / kinds_of_a_queue;
                    candidates.push(Candidate { id, partition_key, queue });
                }
                continue;
            };
            let (Some(queue), Some(fsm), Some(fsm_version)) =
                (places.queues.get(place), places.fsms.get(place), places.versions.get(place))
            else {
                continue;
            };
            claimed.push(Claimed {
                id,
                worker: request.worker,
                revision: revision.unwrap_or(0),
                kind: Kind { fsm: (*fsm).to_owned(), fsm_version: *fsm_version },
                step,
                state,
                queue: (*queue).to_owned(),
                partition_key,
                attempt: attempt.unwrap_or(0),
                failures: failures.unwrap_or(0),
                timed_out: timed_out.unwrap_or(false),
                report_to,
                trace_context,
                now,
                waited: duration(waited.as_ref()),
                inbox: parse_inbox(inbox.as_deref())?,
            });
        }
        Ok((claimed, candidates))
    }
}

/// Claims the heads of the candidates' partition keys. Returns them, and the number of candidates
/// that were taken out of the claim's index. `alone` says that the first statement claimed no row.
async fn claim_partitions(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    candidates: &[Candidate],
    alone: bool,
) -> Result<(Vec<Claimed>, usize), sqlx::Error> {
    let mut transaction = begin(connection).await?;
    // The transaction is ended here and not by a drop. After a drop, the connection would be kept
    // with the open transaction.
    match claim_heads(&mut transaction, request, candidates, alone).await {
        Ok(Some(claimed)) => {
            transaction.commit().await?;
            Ok(claimed)
        }
        Err(error) if !overtaken(&error) => {
            transaction.rollback().await?;
            Err(error)
        }
        // No key's lock was free. Or another transaction made a row of a key executing without the
        // key's lock, which no transaction of the engine does.
        _ => {
            transaction.rollback().await?;
            Ok((Vec::new(), 0))
        }
    }
}

/// Takes the free locks of the candidates' keys, and claims these keys' heads, in a transaction
/// that does nothing else. None if other transactions have all of the locks.
async fn claim_heads(
    transaction: &mut PgConnection,
    request: &ClaimRequest,
    candidates: &[Candidate],
    alone: bool,
) -> Result<Option<(Vec<Claimed>, usize)>, sqlx::Error> {
    let ids: Vec<i64> = candidates.iter().map(|candidate| candidate.id).collect();
    let keys: Vec<String> =
        sqlx::query_scalar(LOCK_FREE_PARTITIONS).bind(&ids).fetch_all(&mut *transaction).await?;
    if keys.is_empty() {
        return Ok(None);
    }
    let rows = sqlx::query(CLAIM_PARTITIONS)
        .bind(request.worker)
        .bind(&ids)
        .bind(&keys)
        .bind(&request.kinds.fsms)
        .bind(&request.kinds.versions)
        .bind(&request.kinds.listening)
        .bind(&request.queues)
        .bind(request.bytes_max)
        .bind(request.light.is_some())
        .fetch_all(&mut *transaction)
        .await?;
    let mut blocked = 0;
    let mut claimed = Vec::with_capacity(rows.len());
    for row in &rows {
        blocked = usize::try_from(row.try_get::<i64, _>("blocked")?).unwrap_or(0);
        if row.try_get::<Option<i64>, _>("id")?.is_some() {
            claimed.push(read(row, request.worker)?);
        }
    }
    if blocked > candidates.len() / 2 && candidates.len() >= CROWD_MIN {
        // If the claim has found nothing else at all, many small crowds may hide other rows.
        let crowd_min = if alone && claimed.is_empty() { 1 } else { CROWD_OF_A_KEY_MIN };
        let crowded = crowded_keys(candidates, keys, crowd_min);
        if !crowded.is_empty() {
            sqlx::query(BLOCK_AHEAD)
                .bind(ids.last())
                .bind(&crowded)
                .execute(&mut *transaction)
                .await?;
        }
    }
    Ok(Some((claimed, blocked)))
}

/// Returns those of the keys that at least `crowd_min` candidates have.
fn crowded_keys(candidates: &[Candidate], keys: Vec<String>, crowd_min: usize) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for candidate in candidates {
        *counts.entry(&candidate.partition_key).or_default() += 1;
    }
    let crowded = |key: &String| counts.get(key.as_str()).is_some_and(|count| *count >= crowd_min);
    keys.into_iter().filter(crowded).collect()
}

fn read(row: &PgRow, worker: i64) -> Result<Claimed, sqlx::Error> {
    Ok(Claimed {
        id: row.try_get("id")?,
        worker,
        partition_key: row.try_get("partition_key")?,
        kind: Kind { fsm: row.try_get("fsm")?, fsm_version: row.try_get("fsm_version")? },
        step: row.try_get("step")?,
        state: row.try_get("state")?,
        queue: row.try_get("queue")?,
        attempt: row.try_get("attempt")?,
        failures: row.try_get::<Option<i32>, _>("failures")?.unwrap_or(0),
        revision: row.try_get("revision")?,
        timed_out: row.try_get::<Option<bool>, _>("timed_out")?.unwrap_or(false),
        report_to: row.try_get("report_to")?,
        trace_context: row.try_get("trace_context")?,
        now: time(row.try_get("claimed_at")?),
        waited: duration(row.try_get::<Option<PgInterval>, _>("waited")?.as_ref()),
        inbox: parse_inbox(row.try_get("inbox")?)?,
    })
}

/// Returns when the next row and the next timeout of a park are due. A row that has been due for
/// longer than `since` does not count.
pub(crate) async fn next_due(
    connection: &mut PgConnection,
    queues: &[String],
    kinds: &Kinds,
    since: Duration,
) -> Result<Due, sqlx::Error> {
    let places = kinds.in_queues(queues.iter().map(String::as_str));
    let row = sqlx::query(NEXT_DUE)
        .bind(places.queues)
        .bind(places.fsms)
        .bind(places.versions)
        .bind(micros(since))
        .fetch_one(connection)
        .await?;
    let from_now = |micros: Option<i64>| {
        micros.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
    };
    let eligible: Option<i64> = row.try_get("eligible")?;
    Ok(Due { eligible: from_now(eligible), wake: from_now(row.try_get("wake")?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: i64, partition_key: &str, queue: usize) -> Candidate {
        Candidate { id, partition_key: partition_key.to_owned(), queue }
    }

    #[test]
    fn a_busy_key_counts_once_and_for_its_queue() {
        let mut claim = Claim { busy_keys: vec![0; 2], ..Claim::default() };
        let candidates = [
            candidate(1, "a", 0),
            candidate(2, "a", 0),
            candidate(3, "b", 1),
            candidate(4, "c", 1),
        ];
        count_busy_keys(&mut claim, &candidates);
        assert_eq!(claim.busy_keys, [1, 2]);
    }

    #[test]
    fn a_crowd_is_moved_also_if_others_wait_beside_it() {
        let mut candidates: Vec<Candidate> = (0..8).map(|id| candidate(id, "a", 0)).collect();
        candidates.extend((8..40).map(|id| candidate(id, &format!("key {id}"), 0)));
        let keys: Vec<String> = ["a", "key 8", "key 9"].map(str::to_owned).into();
        assert_eq!(crowded_keys(&candidates, keys.clone(), CROWD_OF_A_KEY_MIN), ["a"]);
        assert_eq!(crowded_keys(&candidates, keys.clone(), 1), keys);
    }
}
