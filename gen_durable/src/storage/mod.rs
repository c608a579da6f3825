//! The only place with SQL. Each statement is a file in `sql/`. The file, its constant and the
//! function that runs it share a name.
//!
//! Invariant: storage knows rows, not machines. No statement is built from strings.

mod claim;
mod claim_known;
mod commit;
mod declarations;
mod deliver;
mod doctor;
mod history;
mod inbox;
mod insert;
mod insert_or_signal;
mod limit_acts;
mod limits;
mod listing;
mod locked;
mod looks;
mod maintenance;
#[cfg(feature = "metrics")]
mod observer;
mod operate;
mod parks;
mod pauses;
mod producers;
mod registered;
mod row;
mod schedule_acts;
#[cfg(feature = "schedules")]
mod schedules;
mod send;
mod server;
mod step_transaction;
mod unblock;
mod workers;

pub(crate) use self::{
    claim::{Claim, claim, next_due},
    commit::{Committed, Verdict, commit},
    declarations::{Declarations, register_declaring},
    deliver::{Sent, claim_woken, deliver},
    doctor::{
        Affected, Park, WaitingKind, begin_look, check_debts, check_failures, check_holders,
        check_keys, check_kinds, check_limits, check_parks, check_pauses, live_children,
        still_parked,
    },
    history::{Forked, Kept, Record, Recorded, RunRow, fork, history, keep_history, list_runs},
    inbox::load_inbox,
    insert::{Birth, Born, Inserted, insert, unique_holders},
    insert_or_signal::{Found, insert_or_signal},
    limit_acts::{
        BucketRow, LimitAct, LimitRow, act_on_limit, bucket_of, limit_and_key, list_buckets,
        list_limits, list_waiting,
    },
    limits::{
        Bounds, BucketAnswer, BucketAsk, DeclaredLimit, HeldRow, LimitState, RowGroup, Woken,
        add_buckets, hold_back, look_at_limits, prune_buckets, register_limits, settle_limits,
        stranded_buckets, take_turns, touch_buckets, wake_buckets,
    },
    listing::{Filter, Ids, Item, find, list_instances},
    locked::{Locked, LockedRows},
    looks::{
        AuditFilter, AuditRow, CountRow, MachineRow, Reporting, SignalRow, WorkerRow, ancestors,
        count_waiting, list_audit, list_inbox, list_machines, list_queues, list_workers, reporting,
    },
    maintenance::{
        Ended, PRUNE_MAX, Retention, announce, ended, notify, prune, reap, rescue_stranded, retain,
        unknown_kinds, unserved_queues, wake_timed_out,
    },
    operate::{
        Act, Acted, Deed, Details, OWES_ANSWER, OWES_KEY, OWES_REPORT, Owing, Retried, Whom, act,
        act_on_fitting, answer_cancels, details, owed, settle_keys,
    },
    pauses::{
        Freed, PAUSED, PauseRow, Paused, Scope, ScopeAct, block_paused, end_pauses, list_pauses,
        pause_scope, pauses, resume_scope, unblock_paused,
    },
    producers::{NamedInstance, insert_by_name},
    registered::{NewMachine, is_inexpressible, register},
    row::{
        Addressee, Change, ClaimRequest, Claimed, Commit, Due, Eligible, First, Inbox, InboxRow,
        Kind, Kinds, LostClaim, Missing, NewInstance, NewSignal, Portion, Receiver, Upgraded,
    },
    schedule_acts::{ScheduleAct, ScheduleDeed, ScheduleRow, act_on_schedule, list_schedules},
    send::{NoReceiver, Settled, TAKEN, find_receivers, settle_owed, settle_reports},
    server::{
        ServerState, check_history, check_server, check_tables, check_timeouts, check_transactions,
    },
    step_transaction::{
        Applied, backend, begin_step, commit_step, end_backend, fate_of_step, limit_step,
        new_signals, reset_step, session_settings, step_session,
    },
    unblock::{Unblocked, unblock_again},
    workers::{
        Process, abandon, is_foreign_ledger, lost_claims, remove_worker, renew_lease,
        schema_version, session,
    },
};

#[cfg(feature = "metrics")]
pub(crate) use self::observer::{
    observe, sample_limits, sample_schedules, sample_workers, stop_observing,
};
#[cfg(feature = "schedules")]
pub(crate) use self::schedules::{
    Course, DueSchedule, Passed, SCHEDULE, SettledSchedule, Unsettled, due_schedules,
    lock_schedule, pass_schedule, schedule_times, settle_schedules, undeclared_schedules,
    unsettled_schedules,
};

use std::time::{Duration, SystemTime};

use sqlx::{Connection, PgConnection, Postgres, Transaction};

const BEGIN: &str = include_str!("sql/begin.sql");

/// The version of the schema for which these statements are written.
pub(crate) const SCHEMA_VERSION: i32 = 1;

/// Begins a transaction of the engine's own. It waits for no lock longer than a second.
pub(crate) async fn begin(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    connection.begin_with(BEGIN).await
}

/// Converts a duration into the microseconds that the statements take. A duration beyond a hundred
/// years means the same as a hundred years.
fn micros(duration: Duration) -> i64 {
    const CENTURY: i64 = 100 * 366 * 24 * 3600 * 1_000_000;
    i64::try_from(duration.as_micros()).map_or(CENTURY, |micros| micros.min(CENTURY))
}

/// Converts a time that has passed in the database. A clock that went back makes it none.
fn duration(passed: Option<&sqlx::postgres::types::PgInterval>) -> Duration {
    let Some(passed) = passed else { return Duration::ZERO };
    let micros = i64::from(passed.days) * 24 * 3_600_000_000 + passed.microseconds;
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Converts microseconds since 1970 into a time.
pub(crate) fn time(micros: i64) -> SystemTime {
    let since = Duration::from_micros(micros.unsigned_abs());
    let time = if micros < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(since)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The latest time that a statement takes, in microseconds since 1970: the end of the year 9999.
const LATEST: i64 = 253_402_300_799_000_000;

/// Converts a time into microseconds since 1970.
fn since_1970(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).map_or(LATEST, |time| time.min(LATEST)),
        Err(before) => -micros(before.duration()),
    }
}
