//! Addresses of instances: an id, or the unique key that an instance holds.
//!
//! Invariant: an address of one machine reaches no instance of another.

use std::{fmt, hash, marker::PhantomData};

use super::Machine;
use crate::id::InstanceId;

/// The instance of `M` that holds a unique key.
///
/// The generated function `by_key` of a machine makes one. Each call that takes an [`InstanceId`]
/// takes an `InstanceKey` as well. The key is looked up when the call is executed. If an instance
/// gave the key back and another one holds it now, the call reaches the other one. A signal
/// that is sent again then reaches the other one too: a deduplication key tells redeliveries to one
/// instance apart.
///
/// ```
/// use gen_durable::prelude::*;
/// # #[derive(DurableSignal)]
/// # pub struct Paid { amount: i64 }
/// # #[durable_fsm(output = i64, signals(Paid))]
/// # pub enum Invoice { Wait }
/// # #[durable_fsm]
/// # impl Invoice {
/// #     async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
/// #         Ok(match cx.take_signal::<Paid>()? {
/// #             Some(paid) => cx.done(paid.amount),
/// #             None => cx.await_signal::<Paid>(),
/// #         })
/// #     }
/// # }
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// Invoice::signal_paid(Invoice::by_key("order 42"), Paid { amount: 100 }).execute(&client).await?;
/// # Ok(())
/// # }
/// ```
pub struct InstanceKey<M> {
    key: String,
    machine: PhantomData<fn() -> M>,
}

impl<M> InstanceKey<M> {
    /// Names the instance of `M` that holds this unique key.
    pub fn new(key: impl Into<String>) -> Self {
        Self { key: key.into(), machine: PhantomData }
    }

    /// Returns the unique key.
    pub fn get(&self) -> &str {
        &self.key
    }
}

// These impls are written by hand: a derive would require the same traits of `M`.
impl<M> Clone for InstanceKey<M> {
    fn clone(&self) -> Self {
        Self::new(self.key.clone())
    }
}

impl<M> PartialEq for InstanceKey<M> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<M> Eq for InstanceKey<M> {}

impl<M> hash::Hash for InstanceKey<M> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl<M> fmt::Debug for InstanceKey<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InstanceKey").field(&self.key).finish()
    }
}

/// An address of an instance of `M`: an [`InstanceId`], or an [`InstanceKey`] as `M::by_key(…)`
/// makes one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no address of an instance of `{M}`",
    label = "expected an `InstanceId<{M}>`, or `{M}::by_key(…)`",
    note = "a plain number becomes an id by `InstanceId::from_raw`"
)]
pub trait Address<M: Machine>: sealed::Sealed {
    /// Returns the id or the unique key.
    #[doc(hidden)]
    fn into_raw(self) -> Result<i64, String>;
}

mod sealed {
    pub trait Sealed {}
}

impl<M: Machine> sealed::Sealed for InstanceId<M> {}
impl<M: Machine> Address<M> for InstanceId<M> {
    fn into_raw(self) -> Result<i64, String> {
        Ok(self.get())
    }
}

impl<M: Machine> sealed::Sealed for InstanceKey<M> {}
impl<M: Machine> Address<M> for InstanceKey<M> {
    fn into_raw(self) -> Result<i64, String> {
        Err(self.key)
    }
}
