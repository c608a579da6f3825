//! Models of the engine's protocols, explored state by state.
//!
//! A model has the protocol's atomic actions as transitions: what one statement or transaction does
//! under its locks and with its snapshot is one action, and everything between two of them may be
//! interleaved with anything else. Each model has variants that leave out one rule; a test asserts
//! that the checker finds what goes wrong without it. So the rules are needed, and the checker works.
//!
//! Invariant: a model says in its first comment which statements its actions stand for.

#![allow(missing_docs, reason = "a test is no API")]

mod commits;
mod leases;
mod parks;
mod partitions;
mod twins;

use stateright::{Checker, HasDiscoveries, Model};

/// Explores all of it, and asserts that nothing is wrong and everything that should be possible is.
fn holds<M>(model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: std::fmt::Debug + std::hash::Hash + Clone + PartialEq + Send + Sync,
    M::Action: std::fmt::Debug + Clone + PartialEq + Send + Sync,
{
    let checker = model.checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.unique_state_count() > 20, "{} states", checker.unique_state_count());
}

/// Asserts that the checker finds a counterexample to this property.
fn breaks<M>(model: M, property: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: std::fmt::Debug + std::hash::Hash + Clone + PartialEq + Send + Sync,
    M::Action: std::fmt::Debug + Clone + PartialEq + Send + Sync,
{
    let found = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().finish_when(found).spawn_bfs().join();
    let path = checker.discovery(property).expect("the broken variant is caught");
    assert!(!path.into_actions().is_empty());
}
