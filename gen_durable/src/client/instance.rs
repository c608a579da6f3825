//! An instance that people and tools look at and act on.
//!
//! Invariant: a handle holds nothing of the instance. Each call looks it up anew.

use std::fmt;

use super::{AnyId, Client};
/// An instance, named by its id or by the unique key that it holds.
///
/// [`Client::instance`] makes one.
#[derive(Clone)]
pub struct InstanceHandle<A> {
    pub(super) client: Client,
    pub(super) address: A,
}

impl Client {
    /// Names an instance, to look at it and to act on it. Nothing is sent yet.
    pub fn instance<A: AnyId>(&self, address: A) -> InstanceHandle<A> {
        InstanceHandle { client: self.clone(), address }
    }

    /// Names an instance by its plain number, for tools that do not know its machine's types.
    pub fn instance_by_id(&self, id: i64) -> InstanceHandle<i64> {
        self.instance(id)
    }
}

impl<A: fmt::Debug> fmt::Debug for InstanceHandle<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceHandle").field("address", &self.address).finish_non_exhaustive()
    }
}
