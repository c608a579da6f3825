//! Runs user code so that a panic in it is an error of its run.
//!
//! User code is more than the body of a step. A state, an output, an error and a panic's payload
//! have a `Drop`. A state has a `Serialize` and a `Deserialize`, and an error has a `Display`. All
//! of it runs inside of a future that [`Guarded`] polls and drops, or inside of [`catch`] or
//! [`quietly`].
//!
//! Invariant: no panic of user code leaves this module. A panic during another one's unwinding
//! aborts the process: Rust gives no way to stop that.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use super::{Boxed, shortened};
use crate::error::StepError;

/// A future of user code. A panic in it, or in its drop, becomes its error.
pub(crate) struct Guarded<'a, T>(Option<Boxed<'a, Result<T, StepError>>>);

impl<'a, T> Guarded<'a, T> {
    pub(crate) fn new(future: Boxed<'a, Result<T, StepError>>) -> Self {
        Self(Some(future))
    }
}

impl<T> Future for Guarded<'_, T> {
    type Output = Result<T, StepError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let result = match catch(|| future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result,
            Err(panic) => Err(panic),
        };
        let future = self.0.take();
        Poll::Ready(catch(|| drop(future)).and(result))
    }
}

/// Drops what the user code still holds, if the run was cut off.
impl<T> Drop for Guarded<'_, T> {
    fn drop(&mut self) {
        let future = self.0.take();
        quietly(|| drop(future));
    }
}

/// Runs user code whose result no caller waits for. The panic hook has reported its panic, if any.
pub(crate) fn quietly(code: impl FnOnce()) {
    let _ = catch(code);
}

/// Runs user code, and returns its panic as an error.
///
/// Values that a panic left half-done are dropped and not looked at again. Resources are the
/// exception: they are shared, and guard themselves.
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, StepError> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let error = StepError::panicked(&*payload);
        drop_payload(payload);
        error
    })
}

/// Returns the text of an error, even if its `Display` panics.
pub(crate) fn describe(error: &StepError) -> String {
    let text = catch(|| error.to_string());
    shortened(text.unwrap_or_else(|panic| format!("an error whose `Display` {panic}")))
}

/// Drops a panic's payload. That may panic again, and the second payload may panic when it is
/// dropped too, so the second one is leaked.
fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

/// A state that was decoded before a step asks for it.
pub(crate) struct Decoded(Option<Box<dyn Any + Send>>);

impl Decoded {
    pub(super) fn new<T: Any + Send>(value: T) -> Self {
        Self(Some(Box::new(value)))
    }

    /// Returns a view of the value, if it is of this type.
    pub(super) fn get<T: Any>(&self) -> Option<&T> {
        self.0.as_ref()?.downcast_ref()
    }

    /// Returns the value, if it is of this type.
    pub(super) fn take<T: Any>(mut self) -> Option<T> {
        self.0.take()?.downcast().ok().map(|value| *value)
    }
}

impl Drop for Decoded {
    fn drop(&mut self) {
        let value = self.0.take();
        quietly(|| drop(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb(&'static str);

    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                std::panic::panic_any(Self(self.0));
            }
        }
    }

    fn guarded<'a, T>(
        future: impl Future<Output = Result<T, StepError>> + Send + 'a,
    ) -> Guarded<'a, T> {
        Guarded::new(Box::pin(future))
    }

    #[tokio::test]
    async fn a_panic_in_a_poll_or_in_a_drop_is_an_error_and_its_payload_may_panic() {
        let error = guarded::<()>(async { panic!("in the body") }).await.map(drop);
        assert_eq!(error.map_err(|error| error.to_string()), Err("panicked: in the body".into()));
        let error = guarded(async {
            let _local = Bomb("local");
            Ok(())
        });
        let error = error.await.map_err(|error| error.to_string());
        assert_eq!(error, Err("panicked: a value that is not text".into()));
        // A run is dropped in the middle.
        let mut hung = Box::pin(guarded::<()>(async {
            let _local = Bomb("local");
            std::future::pending().await
        }));
        let waker = std::task::Waker::noop();
        assert!(hung.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        drop(hung);
        drop(Decoded::new(Bomb("state")));
    }

    #[test]
    fn an_error_whose_display_panics_has_a_text() {
        #[derive(Debug)]
        struct Mute;
        impl std::fmt::Display for Mute {
            fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                panic!("no words")
            }
        }
        impl std::error::Error for Mute {}
        let text = describe(&StepError::from(Mute));
        assert_eq!(text, "an error whose `Display` panicked: no words");
    }
}
