//! Commits outcomes: a batch in one transaction with a fixed number of statements.
//!
//! Invariant: an outcome takes effect, with all that it carries, only while its worker owns the
//! row. A batch commits for all rows that their workers own, or for none.

use std::collections::{HashMap, HashSet};

use sqlx::{PgConnection, Row};

use super::{
    Locked, begin,
    deliver::resolve,
    history::record_history,
    inbox::parse_inbox,
    insert::{Birth, Born, unique_holders},
    micros,
    parks::{count_parked, wake_parked},
    row::{Change, Commit, Inbox, NewSignal, Receiver},
    send::{report_ends, send},
    unblock::free_partitions,
};

const COMMIT: &str = include_str!("sql/commit.sql");
const EMPTY_INBOXES: &str = include_str!("sql/empty_inboxes.sql");
const INSPECT: &str = include_str!("sql/inspect.sql");
const LOCK_INSTANCES: &str = include_str!("sql/lock_instances.sql");

/// The fate of an outcome.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The outcome is durable. If the instance goes on to its next step, `inbox` has its new
    /// signals.
    Durable { inbox: Inbox },
    /// An earlier try, whose answer was lost, had made the outcome durable.
    DurableBefore,
    /// Another transaction has locked the row, or a row to which the outcome sends a signal.
    Locked,
    /// The instance was cancelled, and this worker has to answer that. Nothing took effect, or an
    /// earlier try took effect before the cancel.
    Cancelled,
    /// The worker does not own the row any more. Nothing took effect.
    Lost,
}

/// The result of a batch.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// One for each outcome, in their order.
    pub(crate) verdicts: Vec<Verdict>,
    /// Queues to announce, because rows in them became runnable. Inserted rows do not count here.
    pub(crate) queues: Vec<String>,
    /// Freed partition keys of which another transaction has locked the row that goes next. They
    /// must be unblocked again.
    pub(crate) locked_partitions: Vec<String>,
    /// Signals that were dropped, because their target has ended, does not exist or is of another
    /// machine: target and name.
    pub(crate) dropped_signals: Vec<(String, String)>,
    /// Inserts that were dropped, because their unique key was taken: machine and key.
    pub(crate) dropped_inserts: Vec<(&'static str, String)>,
    /// Reports that were dropped, because their receiver has ended or does not exist: the ended
    /// instance and the receiver.
    pub(crate) dropped_reports: Vec<(i64, i64)>,
    /// The instances that the outcomes have inserted, if they carry inserts.
    pub(crate) new: Option<Box<NewRows>>,
}

impl Committed {
    /// Returns those of the outcomes that were applied. They have the verdicts.
    pub(super) fn applied<'a>(&self, ready: &[&'a Commit]) -> impl Iterator<Item = &'a Commit> {
        let verdicts = ready.iter().zip(&self.verdicts);
        let applied = verdicts.filter(|(_, verdict)| matches!(verdict, Verdict::Durable { .. }));
        applied.map(|(outcome, _)| *outcome)
    }
}

/// The instances that the outcomes of a batch have inserted.
#[derive(Debug)]
pub(crate) struct NewRows {
    /// Their ids, one for each insert of the batch, in their order. None for an insert that was
    /// dropped, or whose outcome was not applied.
    pub(crate) ids: Vec<Option<i64>>,
    /// Those of them that were born claimed: their ids, and their rows.
    pub(crate) claimed: HashSet<i64>,
    pub(crate) born: Born,
}

/// Commits a batch with at most one outcome of each instance.
///
/// `birth` claims some of the instances that the outcomes insert, and counts them in the order of
/// the outcomes.
///
/// `uncertain` says that an earlier try may have been applied. `committing` becomes true before the
/// statement is sent by which this try may be applied.
///
/// `locked` says what to do about locked rows. It is about the targets of signals and reports, and
/// for [`WaitASecond`](Locked::WaitASecond) also about the rows of the outcomes. If the commit
/// waits for these rows, none of them makes a verdict [`Locked`](Verdict::Locked). Instead the
/// whole commit fails with [a lock timeout](crate::fault::is_lock_timeout).
pub(crate) async fn commit(
    connection: &mut PgConnection,
    batch: &[Box<Commit>],
    uncertain: bool,
    locked: Locked,
    birth: Option<&Birth>,
    committing: &mut bool,
) -> Result<Committed, sqlx::Error> {
    let all: Vec<&Commit> = batch.iter().map(|outcome| &**outcome).collect();
    let parks = batch.iter().any(|outcome| matches!(outcome.change, Change::Await { .. }));
    let counts = batch.iter().any(|outcome| outcome.awaits_count().is_some());
    let frees = batch.iter().any(|outcome| frees_partition(outcome));
    let sends = batch.iter().any(|outcome| outcome.sends());
    let ends = batch.iter().any(|outcome| empties_inbox(outcome));
    let records = batch.iter().any(|outcome| outcome.record.is_some());
    let waits = locked == Locked::WaitASecond;
    let (mut held, mut targets) = (HashSet::new(), HashMap::new());
    let mut done = if parks || frees || sends || ends || records || waits {
        let mut transaction = begin(connection).await?;
        if sends || waits {
            targets = targets_of(&mut transaction, &all, true).await?;
            held = lock_instances(&mut transaction, &all, &targets, locked).await?;
        }
        let ready: Vec<&Commit> =
            all.iter().filter(|outcome| !needs(outcome, &targets, &held)).copied().collect();
        let mut done = apply(&mut transaction, &ready).await?;
        if records {
            record_history(&mut transaction, done.applied(&ready)).await?;
        }
        if counts {
            count_parked(&mut transaction, &ready, &mut done).await?;
        }
        if ends {
            empty_inboxes(&mut transaction, &ready, &done).await?;
        }
        if sends {
            send(&mut transaction, &all, &ready, birth, &mut done).await?;
            report_ends(&mut transaction, &ready, &mut done).await?;
        }
        if parks {
            wake_parked(&mut transaction, &ready, &mut done).await?;
        }
        if frees {
            let keys = freed_partitions(&ready, &done);
            let after = free_partitions(&mut transaction, &keys).await?;
            done.queues.extend(after.queues);
            done.locked_partitions = after.locked;
        }
        *committing = true;
        transaction.commit().await?;
        let mut verdicts = done.verdicts.into_iter();
        done.verdicts = all
            .iter()
            .map(|outcome| {
                if needs(outcome, &targets, &held) {
                    Verdict::Locked
                } else {
                    verdicts.next().unwrap_or(Verdict::Lost)
                }
            })
            .collect();
        done
    } else {
        // A single statement is a transaction of its own. It saves two round trips.
        *committing = true;
        apply(connection, &all).await?
    };
    if done.verdicts.iter().any(|verdict| matches!(verdict, Verdict::Lost)) {
        // The batch is committed by now, even if this statement fails. Its error must not look like
        // one of the database's: the caller would take the batch for rolled back.
        inspect(connection, &all, uncertain, &mut done.verdicts)
            .await
            .map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
    }
    Ok(done)
}

/// The targets of the signals and reports of outcomes, by the ids of the outcomes. Those that hold
/// a unique key are as they were when the key was looked up.
pub(super) type Targets = HashMap<i64, Vec<i64>>;

/// Finds the rows that the outcomes need besides their own. `report` is false if their ends are
/// reported after the commit.
pub(super) async fn targets_of(
    connection: &mut PgConnection,
    batch: &[&Commit],
    report: bool,
) -> Result<Targets, sqlx::Error> {
    let signals: Vec<&NewSignal> = batch.iter().flat_map(|outcome| &outcome.signals).collect();
    let mut found = resolve(connection, &signals).await?.into_iter();
    // A child whose unique key is taken is reported at once.
    let receivers = |outcome: &Commit| -> Vec<Receiver> {
        let keyed = outcome.inserts.iter().filter(|insert| insert.unique_key.is_some());
        keyed.filter_map(|insert| insert.report_to.clone()).collect()
    };
    let receivers: Vec<Vec<Receiver>> = batch.iter().map(|outcome| receivers(outcome)).collect();
    let keys = receivers.iter().flatten().filter_map(|receiver| match receiver {
        Receiver::Key { fsm, key } => Some((*fsm, key.as_str())),
        _ => None,
    });
    let keys: Vec<(&str, &str)> = keys.collect();
    let holders =
        if keys.is_empty() { Vec::new() } else { unique_holders(connection, keys).await? };
    let mut holders = holders.into_iter();
    let mut targets = Targets::new();
    for (outcome, receivers) in batch.iter().zip(&receivers).filter(|(outcome, _)| outcome.sends())
    {
        let mut of: Vec<i64> = found.by_ref().take(outcome.signals.len()).flatten().collect();
        of.extend(outcome.reports_to().filter(|_| report));
        of.extend(receivers.iter().filter_map(|receiver| match receiver {
            Receiver::Instance(id) => Some(*id),
            Receiver::Key { .. } => holders.next().flatten(),
            Receiver::Sender => None,
        }));
        targets.insert(outcome.id, of);
    }
    Ok(targets)
}

/// True if an outcome needs one of these rows: its own, or the target of a signal or a report.
fn needs(outcome: &Commit, targets: &Targets, held: &HashSet<i64>) -> bool {
    let of = targets.get(&outcome.id);
    !held.is_empty()
        && (held.contains(&outcome.id)
            || of.is_some_and(|targets| targets.iter().any(|target| held.contains(target))))
}

pub(super) fn frees_partition(outcome: &Commit) -> bool {
    outcome.partition_key.is_some() && !outcome.keeps_claim()
}

pub(super) fn empties_inbox(outcome: &Commit) -> bool {
    outcome.listens && matches!(outcome.change, Change::Done { .. })
}

pub(super) async fn empty_inboxes(
    connection: &mut PgConnection,
    batch: &[&Commit],
    done: &Committed,
) -> Result<(), sqlx::Error> {
    let ended = done.applied(batch).filter(|outcome| empties_inbox(outcome));
    let ended: Vec<i64> = ended.map(|outcome| outcome.id).collect();
    sqlx::query(EMPTY_INBOXES).bind(ended).execute(connection).await?;
    Ok(())
}

/// Runs the statement `commit`. An outcome that the statement does not return is `Lost` for now.
async fn apply(connection: &mut PgConnection, batch: &[&Commit]) -> Result<Committed, sqlx::Error> {
    let columns = Columns::of(batch);
    let row = sqlx::query(COMMIT)
        .bind(columns.ids)
        .bind(columns.workers)
        .bind(columns.revisions)
        .bind(columns.statuses)
        .bind(columns.steps)
        .bind(columns.states)
        .bind(columns.results)
        .bind(columns.errors)
        .bind(columns.attempts)
        .bind(columns.delays)
        .bind(columns.awaits)
        .bind(columns.wakes)
        .bind(columns.listens)
        .bind(columns.consumed)
        .bind(columns.versions)
        .bind(columns.failures)
        .bind(columns.consumed_of)
        .bind(columns.known)
        .fetch_one(connection)
        .await?;
    let ids: Option<Vec<i64>> = row.try_get(0)?;
    let applied: HashSet<i64> = ids.unwrap_or_default().into_iter().collect();
    let inbox_ids: Option<Vec<i64>> = row.try_get(1)?;
    let texts: Option<Vec<String>> = row.try_get(2)?;
    let mut inboxes = HashMap::new();
    for (id, text) in inbox_ids.unwrap_or_default().into_iter().zip(texts.unwrap_or_default()) {
        inboxes.insert(id, parse_inbox(Some(&text))?);
    }
    let verdicts = batch
        .iter()
        .map(|outcome| {
            if applied.contains(&outcome.id) {
                Verdict::Durable { inbox: inboxes.remove(&outcome.id).unwrap_or_default() }
            } else {
                Verdict::Lost
            }
        })
        .collect();
    let queues = Vec::new();
    Ok(Committed { verdicts, queues, ..Committed::default() })
}

/// A batch as the columns of the statement `commit`.
#[derive(Default)]
pub(super) struct Columns<'a> {
    ids: Vec<i64>,
    workers: Vec<i64>,
    revisions: Vec<i64>,
    pub(super) statuses: Vec<&'static str>,
    pub(super) steps: Vec<Option<&'static str>>,
    pub(super) states: Vec<Option<&'a str>>,
    pub(super) results: Vec<Option<&'a str>>,
    pub(super) errors: Vec<Option<&'a str>>,
    pub(super) attempts: Vec<Option<i32>>,
    pub(super) failures: Vec<Option<i32>>,
    pub(super) delays: Vec<Option<i64>>,
    pub(super) awaits: Vec<Option<String>>,
    pub(super) wakes: Vec<Option<i64>>,
    listens: Vec<bool>,
    pub(super) consumed: Vec<i64>,
    consumed_of: Vec<i64>,
    known: Vec<i64>,
    pub(super) versions: Vec<Option<i32>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(batch: &[&'a Commit]) -> Self {
        let mut columns = Self::default();
        for outcome in batch {
            columns.push(outcome);
        }
        columns
    }

    fn push(&mut self, outcome: &'a Commit) {
        let (mut step, mut result, mut delay, mut awaits, mut wake) =
            (None, None, None, None, None);
        let status = match &outcome.change {
            Change::Next { step: next } => {
                step = Some(*next);
                "executing"
            }
            Change::Later { step: next, delay: after } => {
                step = Some(*next);
                delay = Some(micros(*after));
                "runnable"
            }
            Change::Repeat { delay: after, timed_out } => {
                delay = Some(micros(*after));
                // An empty list of awaited names tells the next run too that the park timed out.
                awaits = timed_out.then(String::new);
                "runnable"
            }
            Change::Defer { delay: after } => {
                delay = Some(micros(*after));
                "runnable"
            }
            Change::Await { names, timeout, .. } => {
                // Names hold no control character, so the statement can split the list at this one.
                awaits = Some(names.join("\u{1f}"));
                wake = timeout.map(micros);
                "awaiting_signal"
            }
            Change::Done { result: value } => {
                result = Some(value.0.as_str());
                "done"
            }
            Change::Failed => "failed",
            Change::Release => "runnable",
        };
        if let Some(upgraded) = outcome.upgraded {
            step = step.or(Some(upgraded.step));
        }
        self.versions.push(outcome.upgraded.map(|upgraded| upgraded.fsm_version));
        self.ids.push(outcome.id);
        self.workers.push(outcome.worker);
        self.revisions.push(outcome.revision);
        self.statuses.push(status);
        self.steps.push(step);
        self.states.push(outcome.state.as_ref().map(|state| state.0.as_str()));
        self.results.push(result);
        self.errors.push(outcome.error.as_deref());
        let ran = outcome.change.ran() && !outcome.only_loads();
        self.attempts.push(ran.then_some(outcome.attempt));
        self.failures.push(ran.then_some(outcome.failures));
        self.delays.push(delay);
        self.awaits.push(awaits);
        self.wakes.push(wake);
        self.listens.push(outcome.listens);
        // A done instance has no inbox left in any case.
        if !matches!(outcome.change, Change::Done { .. }) {
            self.consumed.extend(&outcome.consumed);
            self.consumed_of.extend(outcome.consumed.iter().map(|_| outcome.id));
        }
        self.known.push(outcome.known);
    }
}

/// Locks the targets of the outcomes' signals and reports, all in one order. With `Wait` and
/// `WaitASecond` it locks the outcomes' own rows as well: these are to be waited for. Otherwise
/// commit.sql leaves them out if others have them locked. With `Skip` this leaves out the targets
/// that other transactions have locked. Returns the rows that it left out.
pub(super) async fn lock_instances(
    connection: &mut PgConnection,
    batch: &[&Commit],
    targets: &Targets,
    locked: Locked,
) -> Result<HashSet<i64>, sqlx::Error> {
    let own = matches!(locked, Locked::Wait | Locked::WaitASecond);
    let mut ids: Vec<i64> = batch.iter().filter(|_| own).map(|outcome| outcome.id).collect();
    ids.extend(targets.values().flatten());
    lock_ids(connection, ids, locked).await
}

/// Locks rows in the order of their ids. With `Skip` it leaves out those that other transactions
/// have locked. Returns the rows that it left out.
pub(super) async fn lock_ids(
    connection: &mut PgConnection,
    ids: Vec<i64>,
    locked: Locked,
) -> Result<HashSet<i64>, sqlx::Error> {
    let held: Vec<i64> = sqlx::query_scalar(LOCK_INSTANCES)
        .bind(ids)
        .bind(locked == Locked::Skip)
        .bind(locked.timeout())
        .fetch_all(connection)
        .await?;
    Ok(held.into_iter().collect())
}

fn freed_partitions(batch: &[&Commit], done: &Committed) -> Vec<String> {
    let freed = done.applied(batch).filter(|outcome| frees_partition(outcome));
    let keys: HashSet<&String> =
        freed.filter_map(|outcome| outcome.partition_key.as_ref()).collect();
    keys.into_iter().cloned().collect()
}

/// Finds out why outcomes were not applied, and corrects their verdict `Lost` where another one is
/// right.
pub(super) async fn inspect(
    connection: &mut PgConnection,
    batch: &[&Commit],
    uncertain: bool,
    verdicts: &mut [Verdict],
) -> Result<(), sqlx::Error> {
    let ids: Vec<i64> = batch
        .iter()
        .zip(&*verdicts)
        .filter(|(_, verdict)| matches!(verdict, Verdict::Lost))
        .map(|(outcome, _)| outcome.id)
        .collect();
    let mut found = HashMap::new();
    for row in sqlx::query(INSPECT).bind(ids).fetch_all(connection).await? {
        let status: String = row.try_get(1)?;
        let locked_by: Option<i64> = row.try_get(2)?;
        let (revision, asked): (i64, bool) = (row.try_get(3)?, row.try_get(4)?);
        found.insert(row.try_get::<i64, _>(0)?, (status, locked_by, revision, asked));
    }
    for (outcome, verdict) in batch.iter().zip(verdicts) {
        if !matches!(verdict, Verdict::Lost) {
            continue;
        }
        if let Some((status, locked_by, revision, asked)) = found.get(&outcome.id) {
            let mine = status == "executing" && *locked_by == Some(outcome.worker);
            // A reap that fails the row for good also adds one to the revision. Therefore a row
            // that has ended proves the outcome only if the outcome ends it the same way.
            let ended = match outcome.change {
                Change::Done { .. } => status == "done",
                Change::Failed => matches!(&**status, "failed" | "cancelled"),
                _ => false,
            };
            if mine && *asked {
                *verdict = Verdict::Cancelled;
            } else if mine && *revision == outcome.revision {
                *verdict = Verdict::Locked;
            } else if uncertain && *revision == outcome.revision + 1 {
                // A claim, a commit and a reap each add one to the revision. A reap leaves the row
                // runnable. If this outcome would leave it runnable too, the worker has nothing
                // left to do in either case.
                if (mine && outcome.keeps_claim()) || ended {
                    *verdict = Verdict::DurableBefore;
                }
            }
        }
    }
    Ok(())
}
