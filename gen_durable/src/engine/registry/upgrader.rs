//! Runs instances of older versions as what they have become in a newer one.
//!
//! ```text
//!   row of version 1 ──► upgraded in memory ──► step ──► commit: version 2, its step and state
//!                              │                  │
//!                              │                  └── released, lost ──► the row is as it was
//!                              └── failed ──► deferred: the row is as it was, with the reason
//!                                             as its `last_error`
//! ```
//!
//! Invariant: a commit writes the newer version with its step and state, all at once, or none of
//! them.

use std::{
    any::TypeId,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Boxed, Call, Limited, MachineRunner, Run, Runner, Work,
    guard::{catch, describe},
    storable,
};
use sqlx::PgConnection;

use crate::{
    error::{Error, StepError},
    history::History,
    isolation::Isolation,
    machine::{
        Requirement, Steps, context::Instance, limit::StepLimit, resources::Resources,
        upgrade::Older,
    },
    meters::MachineMeters,
    storage::{Change, Commit, NewMachine, Upgraded},
    trace::Trace,
    value,
};

/// The shortest time for which an instance that could not be upgraded is left alone.
const RETRY_MIN: Duration = Duration::from_secs(30);
/// The time between two instances that could not be upgraded, so that many of them cost the others
/// little.
const RETRY_SPACING: Duration = Duration::from_millis(1);

/// The runner of the older versions that the machine `M` upgrades.
pub(super) struct Upgrader<M> {
    runner: MachineRunner<M>,
    value_max: usize,
    /// The time at which the last of those that could not be upgraded is tried again.
    last_retry: Mutex<Instant>,
}

impl<M: Steps> Upgrader<M> {
    pub(super) fn new(value_max: usize) -> Self {
        let runner = MachineRunner::new(value_max);
        Self { runner, value_max, last_retry: Mutex::new(Instant::now()) }
    }

    /// Returns the instance as it is in the newer version. None if its row has been committed in
    /// that version already.
    fn upgraded(&self, work: &Work) -> Result<Option<Box<Work>>, String> {
        let version = u32::try_from(work.fsm_version).unwrap_or(0);
        if version == M::VERSION {
            return Ok(None);
        }
        // All user code runs in here: reading the older state, upgrading it, writing and dropping
        // the newer one.
        let upgrade = || {
            let (step, state) = M::UPGRADES.read(version, &work.instance.step, &work.state)?;
            let state = value::encode("state", &state, self.value_max)
                .map_err(|error| format!("the upgraded state cannot be stored: {error}"))?;
            Ok((step.name(), state.0))
        };
        let (step, state) = catch(upgrade).unwrap_or_else(|panic| Err(describe(&panic)))?;
        let fsm_version = i32::try_from(M::VERSION).unwrap_or(i32::MAX);
        Ok(Some(Box::new(work.upgraded(Upgraded { fsm_version, step }, state))))
    }

    /// Builds the commit that gives the row back as it is, for a process that can upgrade it or
    /// still knows its version.
    fn deferred(&self, work: &Work, reason: &str) -> Box<Commit> {
        let error = format!(
            "not upgraded from version {} to {}, and left as it is: {reason}",
            work.fsm_version,
            M::VERSION
        );
        tracing::warn!(
            machine = M::NAME,
            instance = work.instance.id,
            step = %work.instance.step,
            "{error}"
        );
        let mut commit = work.commit(Change::Defer { delay: self.retry_in() }, false);
        commit.error = Some(storable(error));
        commit
    }

    /// Returns the delay after which the next such instance is tried again.
    fn retry_in(&self) -> Duration {
        let now = Instant::now();
        let mut last = self.last_retry.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (*last + RETRY_SPACING).max(now + RETRY_MIN);
        *last - now
    }
}

impl Work {
    /// Returns the same instance as the newer version sees it.
    fn upgraded(&self, upgraded: Upgraded, state: String) -> Self {
        Self {
            runner: Arc::clone(&self.runner),
            fsm: self.fsm,
            fsm_version: self.fsm_version,
            upgraded: Some(upgraded),
            instance: Arc::new(Instance {
                id: self.instance.id,
                queue: Arc::clone(&self.instance.queue),
                partition_key: self.instance.partition_key.clone(),
                step: upgraded.step.into(),
                attempt: self.instance.attempt,
                failures: self.instance.failures,
                timed_out: self.instance.timed_out,
                claimed_at: self.instance.claimed_at,
                received: self.instance.received,
                fate: self.instance.fate.clone(),
            }),
            worker: self.worker,
            revision: self.revision,
            began: self.began,
            report_to: self.report_to,
            state,
            inbox: self.inbox.clone(),
            unloaded: self.unloaded.clone(),
            decoded: None,
            turn: None,
            trace: Trace::default(),
            dropped: Arc::clone(&self.dropped),
        }
    }
}

impl<M: Steps> Runner for Upgrader<M> {
    fn name(&self) -> &'static str {
        self.runner.name()
    }

    fn version(&self) -> u32 {
        self.runner.version()
    }

    fn queue(&self) -> &'static str {
        self.runner.queue()
    }

    fn meters(&self) -> &MachineMeters {
        self.runner.meters()
    }

    fn listens(&self) -> bool {
        self.runner.listens()
    }

    fn history(&self) -> History {
        self.runner.history()
    }

    fn check(&self) -> Result<(), Error> {
        self.runner.check()
    }

    fn requirements(&self) -> Vec<Requirement> {
        self.runner.requirements()
    }

    fn dead_ends(&self) -> Vec<&'static str> {
        self.runner.dead_ends()
    }

    fn machine(&self) -> TypeId {
        self.runner.machine()
    }

    fn registered(&self) -> NewMachine {
        self.runner.registered()
    }

    fn older(&self) -> Vec<Older> {
        self.runner.older()
    }

    /// Returns the timeout of the newer version's step of that name. Without such a step it is not
    /// known yet where the instance will stand, and the machine's timeout applies.
    fn timeout(&self, step: &str) -> Option<Duration> {
        M::from_name(step).map_or(M::TIMEOUT, |step| step.timeout())
    }

    fn limits(&self) -> Vec<(&'static str, StepLimit)> {
        self.runner.limits()
    }

    /// The limit is that of the step at which the upgrade leaves the instance. If it fails, the run
    /// says so.
    fn limit(&self, work: &mut Work) -> Option<Result<Limited, StepError>> {
        if self.runner.limits().is_empty() {
            return None;
        }
        match self.upgraded(work) {
            Ok(Some(mut upgraded)) => self.runner.limit(&mut upgraded),
            Ok(None) => self.runner.limit(work),
            Err(_) => None,
        }
    }

    fn upgrader(&self) -> Arc<dyn Runner> {
        self.runner.upgrader()
    }

    /// The upgrade tells at which step the instance will stand.
    fn isolation(&self, _: &Work, _: &Call) -> Option<Isolation> {
        None
    }

    fn run<'a>(
        &'a self,
        work: &'a mut Work,
        call: &'a mut Call,
        resources: &'a Resources,
        tx: Option<&'a mut PgConnection>,
    ) -> Boxed<'a, Result<Run, StepError>> {
        Box::pin(async move {
            match self.upgraded(work) {
                Ok(Some(mut upgraded)) => {
                    std::mem::swap(&mut upgraded.trace, &mut work.trace);
                    let run = self.runner.run(&mut upgraded, call, resources, tx).await;
                    std::mem::swap(&mut upgraded.trace, &mut work.trace);
                    run
                }
                Ok(None) => self.runner.run(work, call, resources, tx).await,
                Err(reason) => Ok(Run::Ran(self.deferred(work, &reason).into())),
            }
        })
    }
}
