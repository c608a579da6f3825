//! The spans of runs: one for each run of a step, and one for each of `handle`.
//!
//! Invariant: a span begins when the machine's code is called. It ends before the outcome is
//! committed, and says what the run came to, if the run was not dropped.

use tracing::{Span, field::Empty};

use super::{Run, Work};
use crate::{
    error::{StepError, StepErrorKind},
    trace,
};

/// The code of a machine that decides on an outcome.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Step,
    Handle,
}

/// Makes the span of a run of this version's code. The hook for trace contexts gives it its parent.
/// The engine's own span is never its parent, because that span did not cause the run.
///
/// The field `otel.status_code` is how OpenTelemetry's layer knows a span of an error.
pub(super) fn begin(work: &mut Work, version: u32, by: By) -> Span {
    macro_rules! span {
        ($name:literal) => {
            tracing::info_span!(
                target: "gen_durable::step",
                parent: None,
                $name,
                machine = work.fsm,
                version,
                step = &*work.instance.step,
                instance = work.instance.id,
                attempt = work.instance.attempt,
                queue = &*work.instance.queue,
                worker = work.worker,
                outcome = Empty,
                duration = Empty,
                otel.status_code = Empty,
            )
        };
    }
    let span = match by {
        By::Step => span!("step"),
        By::Handle => span!("handle"),
    };
    work.trace.begin(&span, work.fsm, &work.instance.step);
    span
}

/// Ends the span of a run, if there is one. `duration` is in seconds. An outcome that reports an
/// end to another instance passes the span's context on.
pub(super) fn end(work: &mut Work, run: &mut Result<Run, StepError>) {
    let Some((span, took)) = work.trace.end() else { return };
    let (outcome, is_error) = match run {
        Ok(Run::Ran(ran)) => {
            let attempt = i32::try_from(work.instance.attempt).unwrap_or(i32::MAX);
            for context in work.inbox.trace_contexts(&ran.commit.consumed) {
                trace::link(&span, context);
            }
            if ran.commit.reports_to().is_some() {
                ran.commit.trace_context = trace::context(&span);
            }
            (ran.commit.outcome(attempt), false)
        }
        Ok(Run::TakesTransaction(_)) => return,
        Err(error) => (failure(error.kind()), true),
    };
    // One call: a subscriber formats the values of each.
    tracing::record_all!(span, outcome = outcome, duration = took.as_secs_f64());
    if is_error {
        span.record("otel.status_code", "ERROR");
    }
}

/// Returns the name of a run that failed.
fn failure(kind: StepErrorKind) -> &'static str {
    match kind {
        StepErrorKind::Failed => "error",
        StepErrorKind::Panicked => "panic",
        StepErrorKind::TimedOut => "timeout",
        StepErrorKind::Rejected => "rejected",
        StepErrorKind::Undecodable => "undecodable",
    }
}
