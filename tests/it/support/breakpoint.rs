//! A breakpoint for tests: steps stop at it until the test lets them pass.
//!
//! Invariant: steps pass in the order in which they report their arrival.

use std::{
    future::{Future, poll_fn},
    pin::pin,
};

use tokio::sync::{Mutex, Semaphore, mpsc};

use super::WAIT_MAX;

/// A test gives a clone of it to an engine as a resource, and keeps the other clone.
#[derive(Debug)]
pub(crate) struct Breakpoint {
    arrivals: mpsc::UnboundedSender<i64>,
    arrived: Mutex<mpsc::UnboundedReceiver<i64>>,
    open: Semaphore,
    order: std::sync::Mutex<()>,
}

impl Breakpoint {
    pub(crate) fn new() -> Self {
        let (arrivals, arrived) = mpsc::unbounded_channel();
        Self {
            arrivals,
            arrived: Mutex::new(arrived),
            open: Semaphore::new(0),
            order: std::sync::Mutex::default(),
        }
    }

    /// Called by a step: reports its arrival and stops until the test lets it pass. Steps pass in
    /// the order of their reports: a step queues for a permit and reports under one lock.
    pub(crate) async fn pass(&self, id: impl Into<i64>) {
        let id = id.into();
        let mut permit = pin!(self.open.acquire());
        let mut said = false;
        let permit = poll_fn(|cx| {
            if std::mem::replace(&mut said, true) {
                return permit.as_mut().poll(cx);
            }
            let _one_by_one = self.order.lock().expect("no step panics here");
            let polled = permit.as_mut().poll(cx);
            self.arrivals.send(id).expect("the test looks");
            polled
        });
        permit.await.expect("the breakpoint is not closed").forget();
    }

    /// Waits until a step has stopped here, and returns the id that the step reported.
    pub(crate) async fn arrival(&self) -> i64 {
        let mut arrived = self.arrived.lock().await;
        tokio::time::timeout(WAIT_MAX, arrived.recv())
            .await
            .expect("a step arrives in time")
            .expect("the breakpoint is held")
    }

    /// Lets this many steps pass: those that have stopped here first, and then those that come
    /// later.
    pub(crate) fn open(&self, steps: usize) {
        self.open.add_permits(steps);
    }
}
