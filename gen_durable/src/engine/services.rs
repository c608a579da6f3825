//! Starts the services of an engine, each in a task of its own.
//!
//! Invariant: each of them ends by itself when the engine stops.

use std::sync::Arc;

use super::{
    Shared, claimer, keeper, limiter, listener,
    maintenance::{self, Database},
    shutdown,
};

/// Starts them, on the caller's runtime.
pub(super) fn spawn(shared: &Arc<Shared>) {
    shutdown::watch(shared);
    let service = Arc::clone(shared);
    tokio::spawn(async move { claimer::run(&service).await });
    let service = Arc::clone(shared);
    tokio::spawn(async move { keeper::beat(&service).await });
    if !shared.config.poll_only {
        let service = Arc::clone(shared);
        let queues = shared.queues.keys().cloned().collect();
        tokio::spawn(async move {
            let Shared { connections, wake, tasks, pauses, life, .. } = &*service;
            listener::listen(connections, &queues, wake, (tasks, pauses), life).await;
        });
    }
    if !shared.limiter.is_empty() {
        let service = Arc::clone(shared);
        tokio::spawn(async move { limiter::run(&service).await });
    }
    #[cfg(feature = "schedules")]
    if !shared.schedules.is_empty() {
        let service = Arc::clone(shared);
        tokio::spawn(async move { super::schedules::run(&service).await });
    }
    let services = shared.config.maintenance;
    let listens = !shared.config.poll_only;
    maintenance::spawn_debts(Database::of(shared), &shared.wake, &shared.life, services, listens);
    if services {
        maintenance::spawn(Database::of(shared), &shared.life);
    }
}
