//! Models of the engine's protocols, of which a checker explores every state.
//!
//! The transitions of a model are the protocol's atomic actions. One action is all that a statement
//! or transaction does under its locks and with its snapshot. Any other action may come between two
//! of them. Each model has variants that leave out one rule, and a test asserts that the checker
//! finds the resulting error. This shows that the rules are needed and that the checker works.
//!
//! Invariant: the header of a model names the statements that its actions stand for.

#![allow(missing_docs, reason = "a test is no API")]

mod cancel;
mod commits;
mod counts;
mod leases;
mod parks;
mod partitions;
mod pause;
mod twins;

use stateright::{Checker, HasDiscoveries, Model};

/// Explores every state of a model. Asserts that nothing is wrong, and that all that should be
/// possible is.
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
