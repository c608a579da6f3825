//! The graph of a machine: the ways out of its steps, as far as their code tells them.
//!
//! Invariant: code that cannot be read makes its step opaque; nothing is guessed. Names are
//! resolved against the functions of the impl block, which holds a function for each variant.

mod scan;
mod unreachable;
mod uses;

use proc_macro2::Ident;
use quote::ToTokens;
use syn::{Block, FnArg, Pat, Signature, ext::IdentExt};

use self::scan::Scan;
pub(crate) use self::{unreachable::unreachable, uses::Uses};
use crate::{
    ast::{MachineImpl, StepFn},
    errors::Errors,
    names::{camel_case, nearest, snake_case},
};

/// The ways in which the body of a step can end.
#[derive(Clone, Default)]
pub(crate) struct Flow {
    /// Each way once, in the order of the code.
    pub(crate) edges: Vec<Edge>,
    /// True if the step may do more than the edges tell.
    pub(crate) opaque: bool,
    /// Steps at which its code inserts instances: `insert(…).step(Checkout::Ship)`.
    pub(crate) inserted_at: Vec<String>,
}

/// A way out of a step, or what its outcome sends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Edge {
    /// To the step of the variant `to`.
    Next {
        step: String,
        to: Ident,
        delayed: bool,
    },
    Replay,
    Snooze,
    Await {
        signal: String,
        timeout: bool,
    },
    Done,
    Stop,
    /// The machine has the name that the code writes for its type; none if the code does not tell.
    Insert {
        machine: Option<String>,
    },
    Signal {
        machine: Option<String>,
        signal: Option<String>,
    },
    /// An insert of instances that report their end to this one.
    Spawn {
        machine: Option<String>,
    },
}

impl Edge {
    fn next(to: &Ident, delayed: bool) -> Self {
        Self::Next { step: snake_case(&to.unraw().to_string()), to: to.clone(), delayed }
    }

    /// The edge of an outcome that carries this by the method `spawn`, or by another one.
    fn carried_by(self, method: &Ident) -> Self {
        match self {
            Self::Insert { machine } if method == "spawn" => Self::Spawn { machine },
            edge => edge,
        }
    }
}

impl Flow {
    /// Reads the body of a step, of `handle` or of a job.
    pub(crate) fn read(sig: &Signature, body: &Block, machine: &str) -> Self {
        let mut flow = Self::default();
        let context = match sig.inputs.first() {
            Some(FnArg::Typed(first)) => &*first.pat,
            _ => return flow,
        };
        match context {
            Pat::Ident(context) => {
                let mut scan = Scan::new(&context.ident, machine, &mut flow);
                scan.tokens(body.to_token_stream());
            }
            // A step that ignores its context can make no outcome.
            Pat::Wild(_) => {}
            _ => flow.opaque = true,
        }
        flow
    }

    fn push(&mut self, edge: Edge) {
        if !self.edges.contains(&edge) {
            self.edges.push(edge);
        }
    }

    /// The steps that it goes to.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &str> {
        self.edges.iter().filter_map(|edge| match edge {
            Edge::Next { step, .. } => Some(&**step),
            _ => None,
        })
    }
}

/// Resolves the targets of all steps, and compares them with those that `#[step(next(…))]`
/// declares.
pub(crate) fn resolve(machine: &mut MachineImpl, errors: &mut Errors) {
    let names: Vec<String> = machine.steps.iter().map(|step| step.name.clone()).collect();
    for step in machine.steps.iter_mut().chain(&mut machine.handle) {
        let is_handle = step.name == "handle";
        let what =
            if is_handle { "`handle`".to_owned() } else { format!("the step `{}`", step.name) };
        if let Some(declared) = &step.options.next {
            // If a declared target is misspelt, only this is reported: the right one in the code
            // would also count as not declared.
            if check_declared(declared, &names, errors) {
                check_targets(step, declared, &what, errors);
            }
        }
        close(step, &names);
    }
}

/// Reports the declared targets that are no steps. Returns true if all are steps.
fn check_declared(declared: &[Ident], names: &[String], errors: &mut Errors) -> bool {
    let mut correct = true;
    for target in declared {
        let step = snake_case(&target.unraw().to_string());
        if names.contains(&step) {
            continue;
        }
        correct = false;
        let variants: Vec<String> = names.iter().map(|name| camel_case(name)).collect();
        let variants: Vec<&str> = variants.iter().map(String::as_str).collect();
        let hint = match nearest(&target.unraw().to_string(), &variants) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("name a variant whose step, `{step}`, is in this impl block"),
        };
        errors.at(target, format!("`{target}` is no step of this machine; {hint}"));
    }
    correct
}

/// Reports the targets in a step's code that the step does not declare.
fn check_targets(step: &StepFn, declared: &[Ident], what: &str, errors: &mut Errors) {
    for edge in &step.flow.edges {
        let Edge::Next { to, .. } = edge else { continue };
        if declared.contains(to) {
            continue;
        }
        let list: Vec<String> =
            declared.iter().chain([to]).map(|target| target.unraw().to_string()).collect();
        errors.at(
            to,
            format!(
                "{what} goes to `{to}`, which it does not declare: write `#[step(next({}))]`, or go elsewhere",
                list.join(", ")
            ),
        );
    }
}

/// Makes an edge of each declared target. A step that goes to an unknown target becomes opaque.
fn close(step: &mut StepFn, names: &[String]) {
    let flow = &mut step.flow;
    let unknown = |edge: &Edge| matches!(edge, Edge::Next { step, .. } if !names.contains(step));
    flow.opaque |= flow.edges.iter().any(unknown);
    flow.edges.retain(|edge| !unknown(edge));
    flow.inserted_at.retain(|step| names.contains(step));
    let Some(declared) = &step.options.next else { return };
    // Only the targets are declared. All else that an unreadable step does stays unknown, and gets
    // no edge.
    step.trusted = std::mem::take(&mut flow.opaque);
    for target in declared {
        let edge = Edge::next(target, false);
        if !flow.targets().any(|step| matches!(&edge, Edge::Next { step: new, .. } if new == step))
        {
            flow.edges.push(edge);
        }
    }
}

#[cfg(test)]
mod tests;
