//! Runs one step of a row that no database has.

use std::{sync::Arc, time::Instant};

use super::LEASE;
use crate::{
    engine::{
        latch::Latch,
        lease::Lease,
        registry::{self, Call, MachineRunner, Polls, Run, Runner, Surroundings, Work},
    },
    error::StepError,
    machine::{Steps, resources::Resources},
    storage::{Claimed, Commit},
};

/// Runs the step of a row, and `handle` if the step fails, or `handle` alone after this error.
/// Returns the outcome as it would be committed. None if the code takes a transaction.
pub(crate) async fn run_step<M: Steps>(
    claimed: Claimed,
    error: Option<StepError>,
    resources: Resources,
    value_max: usize,
) -> Option<Box<Commit>> {
    let runner: Arc<dyn Runner> = Arc::new(MachineRunner::<M>::new(value_max));
    let lease = Lease::new(claimed.worker, Instant::now(), LEASE);
    let (queue, dropped) = (claimed.queue.as_str().into(), Arc::new(Latch::new()));
    let mut work = Work::new(claimed, Arc::clone(&runner), queue, None, dropped, &lease);
    let around = Surroundings { resources, polls: Polls::default(), watch: None };
    let ran = match error {
        None => registry::run(&*runner, &mut work, &mut Call::Step, &around, None).await,
        Some(error) => Err(error),
    };
    let error = match ran {
        Ok(Run::Ran(ran)) => return Some(ran.commit),
        Ok(Run::TakesTransaction(_)) => return None,
        Err(error) => error,
    };
    let mut handle = Call::handle(error);
    match registry::run(&*runner, &mut work, &mut handle, &around, None).await {
        Ok(Run::Ran(ran)) => Some(ran.commit),
        Ok(Run::TakesTransaction(_)) => None,
        Err(second) => Some(registry::failed_twice(&work, &handle, second)),
    }
}
