//! The transaction of a step: its beginning, the commit of the outcome in it, and its end.
//!
//! Invariant: the step's own rows and its outcome take effect together, or neither does.

use std::{collections::HashSet, time::Duration};

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::{
    Locked, begin,
    commit::{
        Columns, Committed, Targets, Verdict, empties_inbox, empty_inboxes, frees_partition,
        inspect, lock_instances, targets_of,
    },
    history::record_history,
    inbox::parse_inbox,
    parks::{self, Parked},
    row::{Change, Commit, Inbox},
    send::{report_ends, send},
    unblock::free_partitions,
};
use crate::{
    connections::{SessionSettings, SettingUp},
    isolation::Isolation,
};

const BACKEND: &str = include_str!("sql/backend.sql");
const BEGIN_READ_COMMITTED: &str = include_str!("sql/begin_read_committed.sql");
const BEGIN_REPEATABLE_READ: &str = include_str!("sql/begin_repeatable_read.sql");
const BEGIN_SERIALIZABLE: &str = include_str!("sql/begin_serializable.sql");
const COMMIT_STEP: &str = include_str!("sql/commit_step.sql");
const END_BACKEND: &str = include_str!("sql/end_backend.sql");
const IS_AWAITED_THERE: &str = include_str!("sql/is_awaited_there.sql");
const LIMIT_STEP: &str = include_str!("sql/limit_step.sql");
const NEW_SIGNALS: &str = include_str!("sql/new_signals.sql");
const RESET_STEP: &str = include_str!("sql/reset_step.sql");
const RESET_AND_BEGIN: &str = include_str!("sql/reset_and_begin.sql");
const SESSION_SET_AGAIN: &str = include_str!("sql/session_set_again.sql");
const SESSION_SETTINGS: &str = include_str!("sql/session_settings.sql");
const SIGNAL_IDS: &str = include_str!("sql/signal_ids.sql");
const STEP_SESSION: &str = include_str!("sql/step_session.sql");
const STEP_STATE: &str = include_str!("sql/step_state.sql");
const WAKE_STEP: &str = include_str!("sql/wake_step.sql");

const READ_COMMITTED: &str = commands(BEGIN_READ_COMMITTED);
const REPEATABLE_READ: &str = commands(BEGIN_REPEATABLE_READ);
const SERIALIZABLE: &str = commands(BEGIN_SERIALIZABLE);
const RESET: &str = commands(RESET_STEP);
const RESET_AND_READ_COMMITTED: &str = commands(RESET_AND_BEGIN);

/// Returns the commands of a file, without the comment before them. Postgres reads these texts anew
/// each time, as they are not prepared.
const fn commands(file: &'static str) -> &'static str {
    let text = file.as_bytes();
    let mut at = 0;
    while text[at] == b'-' {
        while text[at] != b'\n' {
            at += 1;
        }
        at += 1;
    }
    file.split_at(at).1
}

/// The result of applying an outcome in its step's transaction. Nothing is committed yet.
#[derive(Debug)]
pub(crate) enum Applied {
    /// The outcome is applied, and the transaction may be committed.
    Ready(Committed),
    /// The worker does not own the row any more.
    Lost,
    /// A signal came after the transaction's snapshot, so the step must run again.
    Stale,
    /// The step has ended the transaction that the engine began.
    Ended,
    /// The step has changed the isolation level.
    OtherLevel,
}

/// Begins the transaction of a step. If the session has what another step has `left` in it, it is
/// cleared first.
pub(crate) async fn begin_step(
    connection: &mut PgConnection,
    isolation: Isolation,
    left: bool,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    // Both go in one round trip at the default level.
    if left && isolation != Isolation::ReadCommitted {
        sqlx::raw_sql(RESET).execute(&mut *connection).await?;
    }
    match isolation {
        Isolation::ReadCommitted if left => connection.begin_with(RESET_AND_READ_COMMITTED).await,
        Isolation::ReadCommitted => connection.begin_with(READ_COMMITTED).await,
        Isolation::RepeatableRead => connection.begin_with(REPEATABLE_READ).await,
        Isolation::Serializable => connection.begin_with(SERIALIZABLE).await,
    }
}

/// Bounds the transaction by this time.
pub(crate) async fn limit_step(
    connection: &mut PgConnection,
    limit: Duration,
) -> Result<(), sqlx::Error> {
    // The settings are milliseconds in 32 bits.
    let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    sqlx::query(LIMIT_STEP).bind(i64::from(millis)).execute(connection).await?;
    Ok(())
}

/// Returns the server process that serves this connection.
pub(crate) async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar(BACKEND).fetch_one(connection).await
}

/// Ends a server process.
pub(crate) async fn end_backend(
    connection: &mut PgConnection,
    backend: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query(END_BACKEND).bind(backend).execute(connection).await?;
    Ok(())
}

/// Sets a connection up for the transactions of steps.
pub(crate) fn step_session(connection: &mut PgConnection) -> SettingUp<'_> {
    Box::pin(async move {
        sqlx::query(STEP_SESSION).execute(connection).await?;
        Ok(())
    })
}

/// Returns what a new connection has set for its session.
pub(crate) async fn session_settings(
    connection: &mut PgConnection,
) -> Result<SessionSettings, sqlx::Error> {
    sqlx::query_as(SESSION_SETTINGS).fetch_one(connection).await
}

/// Clears what a step has left in its session, and sets again what it had when it was new.
pub(crate) async fn reset_step(
    connection: &mut PgConnection,
    (names, settings): &SessionSettings,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(RESET).execute(&mut *connection).await?;
    if names.is_some() {
        sqlx::query(SESSION_SET_AGAIN).bind(names).bind(settings).execute(connection).await?;
    }
    Ok(())
}

/// Applies an outcome in its step's transaction.
///
/// `look` is another connection, for the looks that need a younger snapshot than the transaction's.
/// Without it, the transaction's statements have such snapshots themselves.
pub(crate) async fn commit_step(
    transaction: &mut PgConnection,
    outcome: &Commit,
    isolation: Isolation,
    mut look: Option<&mut PgConnection>,
) -> Result<Applied, sqlx::Error> {
    if outcome.sends() {
        // Above `read committed` a lock of a receiver that has changed since the snapshot would
        // fail, and so would this outcome. The end is reported after the commit.
        let targets = targets_of(transaction, &[outcome], look.is_none()).await?;
        lock_instances(transaction, &[outcome], &targets, Locked::Wait).await?;
    }
    let owes = look.is_some() && outcome.reports_to().is_some();
    let applied = apply(transaction, outcome, isolation, owes).await;
    if !matches!(applied, Ok(true)) {
        // Outside of its transaction the session is read-only. In a transaction that has failed,
        // the question fails as well.
        let state = sqlx::query_scalar(STEP_STATE).bind(isolation.name()).fetch_one(transaction);
        let state: Result<String, _> = state.await;
        return match (applied, state.as_deref()) {
            (_, Ok("ended")) => Ok(Applied::Ended),
            (Err(error), _) => Err(error),
            (_, Ok("level")) => Ok(Applied::OtherLevel),
            _ => state.map(|_| Applied::Lost),
        };
    }
    let mut done = Committed::default();
    let mut inbox = Inbox::default();
    match &outcome.change {
        // Otherwise the new signals are read after the commit: this snapshot is too old for those
        // of others, and another connection does not see those that the step has sent itself.
        Change::Next { .. } if outcome.listens && look.is_none() => {
            inbox = new_signals(transaction, outcome).await?;
        }
        Change::Await { names, count: Some(wanted), .. } => {
            let name = names.first().copied().unwrap_or_default();
            let mut count = *wanted;
            if let Some(look) = look.as_deref_mut() {
                // Those that only the younger snapshot shows count as well.
                let known = known_signals(transaction, outcome, Some(name)).await?;
                let there = signal_ids(look, outcome.id, Some(name)).await?;
                let new = there.iter().filter(|id| !known.contains(id)).count();
                count -= i64::try_from(new).unwrap_or(i64::MAX);
            }
            let parked = [Parked { id: outcome.id, name, count }];
            done.queues.extend(parks::count(transaction, &parked).await?);
        }
        Change::Await { names, seen, .. } => {
            let mut there = is_awaited_there(transaction, outcome.id, names, seen).await?;
            if let Some(look) = look.as_deref_mut() {
                // Another connection still sees the signals that this transaction has consumed.
                let known = [&seen[..], &outcome.consumed].concat();
                there = there || is_awaited_there(look, outcome.id, names, &known).await?;
            }
            if there {
                let woken: Vec<String> = sqlx::query_scalar(WAKE_STEP)
                    .bind(outcome.id)
                    .fetch_all(&mut *transaction)
                    .await?;
                done.queues.extend(woken);
            }
        }
        _ => {}
    }
    done.verdicts = vec![Verdict::Durable { inbox }];
    if outcome.record.is_some() {
        record_history(transaction, std::iter::once(outcome)).await?;
    }
    if empties_inbox(outcome) {
        if let Some(look) = look.as_deref_mut() {
            let known = known_signals(transaction, outcome, None).await?;
            if signal_ids(look, outcome.id, None).await?.iter().any(|id| !known.contains(id)) {
                return Ok(Applied::Stale);
            }
        }
        empty_inboxes(transaction, &[outcome], &done).await?;
    }
    if outcome.sends() {
        send(transaction, &[outcome], &[outcome], None, &mut done).await?;
        if look.is_none() {
            report_ends(transaction, &[outcome], &mut done).await?;
        }
    }
    if let Some(key) = outcome.partition_key.as_ref().filter(|_| frees_partition(outcome)) {
        let keys = std::slice::from_ref(key);
        if look.is_some() {
            // The transaction's snapshot may not show the row that goes next. The key is unblocked
            // after the commit.
            done.locked_partitions.extend_from_slice(keys);
        } else {
            let after = free_partitions(transaction, keys).await?;
            done.queues.extend(after.queues);
            done.locked_partitions = after.locked;
        }
    }
    Ok(Applied::Ready(done))
}

/// Runs the statement `commit_step`. False if it found no row to write to.
async fn apply(
    transaction: &mut PgConnection,
    outcome: &Commit,
    isolation: Isolation,
    owes: bool,
) -> Result<bool, sqlx::Error> {
    let columns = Columns::of(&[outcome]);
    sqlx::query_scalar(COMMIT_STEP)
        .bind(outcome.id)
        .bind(outcome.worker)
        .bind(outcome.revision)
        .bind(columns.statuses[0])
        .bind(columns.steps[0])
        .bind(columns.states[0])
        .bind(columns.results[0])
        .bind(columns.errors[0])
        .bind(columns.attempts[0])
        .bind(columns.delays[0])
        .bind(&columns.awaits[0])
        .bind(columns.wakes[0])
        .bind(columns.versions[0])
        .bind(columns.failures[0])
        .bind(&columns.consumed)
        .bind(isolation.name())
        .bind(owes)
        .fetch_one(transaction)
        .await
}

/// Reads the signals that have come since the worker looked last. The row is this worker's, so no
/// other reads them meanwhile.
pub(crate) async fn new_signals(
    connection: &mut PgConnection,
    outcome: &Commit,
) -> Result<Inbox, sqlx::Error> {
    let text: Option<String> = sqlx::query_scalar(NEW_SIGNALS)
        .bind(outcome.id)
        .bind(outcome.known)
        .fetch_optional(connection)
        .await?;
    parse_inbox(text.as_deref())
}

async fn is_awaited_there(
    connection: &mut PgConnection,
    id: i64,
    names: &[&str],
    seen: &[i64],
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(IS_AWAITED_THERE).bind(id).bind(names).bind(seen).fetch_one(connection).await
}

/// Returns the signals that the step's transaction sees, and those that it has consumed, which
/// another connection still sees.
async fn known_signals(
    transaction: &mut PgConnection,
    outcome: &Commit,
    name: Option<&str>,
) -> Result<HashSet<i64>, sqlx::Error> {
    let there = signal_ids(transaction, outcome.id, name).await?;
    Ok(there.into_iter().chain(outcome.consumed.iter().copied()).collect())
}

async fn signal_ids(
    connection: &mut PgConnection,
    id: i64,
    name: Option<&str>,
) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(SIGNAL_IDS).bind(id).bind(name).fetch_one(connection).await
}

/// Finds out what became of an outcome whose COMMIT got no answer. It waits for the row's lock,
/// which the transaction holds until it has ended.
///
/// The verdict is [`Locked`](Verdict::Locked) if the transaction was rolled back and the worker
/// still owns the row.
pub(crate) async fn fate_of_step(
    connection: &mut PgConnection,
    outcome: &Commit,
) -> Result<Verdict, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let (of, targets) = ([outcome], Targets::new());
    lock_instances(&mut transaction, &of, &targets, Locked::WaitASecond).await?;
    let mut verdicts = [Verdict::Lost];
    inspect(&mut transaction, &of, true, &mut verdicts).await?;
    transaction.commit().await?;
    let [verdict] = verdicts;
    Ok(verdict)
}
