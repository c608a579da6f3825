//! One value for each runtime that a client is used on.
//!
//! A client may be used on several runtimes and outlive some of them: it is in a `static`, say, and
//! each test has a runtime. A task ends with the runtime that it was spawned on.
//!
//! Invariant: a call uses only the value of its own runtime. The end of another runtime therefore
//! cannot take the call's task away.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::runtime::{Handle, Id};

/// A value that may be dropped and made anew while nothing is under way in it.
pub(crate) trait Idle {
    fn is_idle(&self) -> bool;
}

/// Values by runtime. Each is made when it is first needed.
pub(crate) struct PerRuntime<T> {
    by_id: RwLock<HashMap<Id, Arc<T>>>,
    make: Box<dyn Fn() -> T + Send + Sync>,
}

impl<T: Idle> PerRuntime<T> {
    pub(crate) fn new(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self { by_id: RwLock::default(), make: Box::new(make) }
    }

    /// Returns the value of the runtime that this is called on.
    pub(crate) fn here(&self) -> Arc<T> {
        let id = Handle::current().id();
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = by_id.get(&id) {
            return Arc::clone(value);
        }
        drop(by_id);
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        // Nothing tells that a runtime has ended, but nothing is under way on it then, so idle
        // values are dropped. A value that a caller has in hand stays, as the caller is about to
        // use it.
        by_id.retain(|_, value| Arc::strong_count(value) > 1 || !value.is_idle());
        Arc::clone(by_id.entry(id).or_insert_with(|| Arc::new((self.make)())))
    }
}

impl<T> fmt::Debug for PerRuntime<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerRuntime").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct Value(AtomicBool);

    impl Idle for Value {
        fn is_idle(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn each_runtime_has_its_own_and_an_idle_one_is_forgotten_when_another_comes() {
        let values = PerRuntime::new(|| Value(AtomicBool::new(false)));
        let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let here = |runtime: &tokio::runtime::Runtime| runtime.block_on(async { values.here() });
        let len = || values.by_id.read().expect("not poisoned").len();
        let (one, other, third) = (runtime(), runtime(), runtime());
        let first = here(&one);
        assert!(Arc::ptr_eq(&first, &here(&one)));
        assert!(!Arc::ptr_eq(&first, &here(&other)));
        first.0.store(true, Ordering::Relaxed);
        here(&third);
        assert_eq!(len(), 3, "somebody has it in hand, and the second one is not idle");
        drop(first);
        here(&runtime());
        assert_eq!(len(), 3, "the first one is forgotten");
    }
}
