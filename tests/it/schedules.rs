//! Schedules: which ticks fire, once across the fleet, and what operators do with them.

mod actions;
mod fleet;
mod policies;
mod programs;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gen_durable::{Tick, prelude::*};
use sqlx::PgPool;

#[derive(Clone, Debug, DurableSignal)]
pub struct Leave;

/// Stays until it is told to leave.
#[durable_fsm(state = String, output = (), signals(Leave))]
pub enum Visit {
    Stay,
}

#[durable_fsm]
impl Visit {
    async fn stay(mut cx: Context<Self>) -> StepResult<Self> {
        Ok(match cx.take_signal::<Leave>()? {
            Some(Leave) => cx.done(()),
            None => cx.await_signal::<Leave>(),
        })
    }
}

/// Ends at once.
#[durable_fsm(state = String, output = ())]
pub enum Note {
    Take,
}

#[durable_fsm]
impl Note {
    async fn take(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// The schedule and the tick, as text: `hourly 2026-03-29T03:00:00`.
fn told(tick: &Tick) -> String {
    format!("{} {}", tick.name(), tick.local())
}

fn visit(tick: Tick) -> Insert<Visit> {
    Visit::insert(told(&tick))
}

fn note(tick: Tick) -> Insert<Note> {
    Note::insert(told(&tick))
}

/// Returns the ticks of a schedule for which there is an instance, in the order of the inserts.
async fn ticks(pool: &PgPool, schedule: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select substr(state #>> '{}', length($1) + 2) from gen_durable.instances
         where state #>> '{}' like $1 || ' %' order by id",
    )
    .bind(schedule)
    .fetch_all(pool)
    .await
    .unwrap()
}

/// A time of a morning in UTC, `minutes` after midnight.
fn at(minutes: u64) -> SystemTime {
    // 2026-01-05, a Monday.
    UNIX_EPOCH + Duration::from_secs(1_767_571_200 + minutes * 60)
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}
