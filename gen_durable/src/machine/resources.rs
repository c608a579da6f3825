//! The values that an engine was given for its steps: clients, pools, configuration.
//!
//! Invariant: there is at most one value of a type. Once the engine has started, every value that a
//! registered machine requires is present.

use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    fmt,
};

/// The resources of an engine, by type.
#[derive(Default)]
pub struct Resources {
    by_type: HashMap<TypeId, (&'static str, Box<dyn Any + Send + Sync>)>,
    /// The type of the first value that was replaced, if one was.
    replaced: Option<&'static str>,
}

impl Resources {
    /// Adds a resource, and replaces one of the same type. An engine refuses a second one.
    pub fn insert<T: Send + Sync + 'static>(&mut self, resource: T) {
        let replaced =
            self.by_type.insert(TypeId::of::<T>(), (type_name::<T>(), Box::new(resource)));
        self.replaced = self.replaced.or(replaced.map(|(name, _)| name));
    }

    /// Returns the type of the first resource that was replaced, if one was.
    pub(crate) fn replaced(&self) -> Option<&'static str> {
        self.replaced
    }

    /// Returns the resource of this type.
    ///
    /// # Panics
    ///
    /// If there is none. An engine checks at its start that it has what its machines require. Only
    /// a machine that is written by hand, and does not state its requirements, can therefore panic
    /// here.
    pub fn get<T: Send + Sync + 'static>(&self) -> &T {
        self.try_get().unwrap_or_else(|| {
            panic!(
                "no resource of type `{}`: add `.resource(…)` to the engine, and state it in `Steps::requirements`",
                type_name::<T>()
            )
        })
    }

    /// Returns the resource of this type, if there is one.
    pub fn try_get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.by_type.get(&TypeId::of::<T>()).and_then(|(_, value)| value.downcast_ref())
    }

    pub(crate) fn contains(&self, type_id: TypeId) -> bool {
        self.by_type.contains_key(&type_id)
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.by_type.values().map(|(name, _)| *name).collect();
        names.sort_unstable();
        f.debug_tuple("Resources").field(&names).finish()
    }
}
