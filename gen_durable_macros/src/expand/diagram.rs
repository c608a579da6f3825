//! The graph of a machine, twice: as the function `graph`, and as a diagram in the documentation of
//! `impl Steps`.
//!
//! Invariant: the diagram is the text that the runtime's `Graph::to_mermaid` makes of the same
//! graph, except for facts that the impl block does not tell. These are the enum's `retry`, which
//! the diagram lacks, and the initial step, which it shows if only one step can be it. A limit
//! whose name is a constant has the constant's name there.

use std::{collections::BTreeSet, fmt::Write};

use proc_macro2::{Ident, TokenStream};
use quote::quote;

use crate::{
    ast::{MachineImpl, StepFn},
    attr::{Limit, Text},
    graph::{Edge, unreachable},
};

/// The function `graph` of the trait `Steps`.
pub(super) fn graph_fn(machine: &MachineImpl, private: &Ident) -> TokenStream {
    let steps = machine.steps.iter().map(|step| {
        let (cfgs, node) = (&step.cfgs, node(step));
        quote!(#(#cfgs)* #node)
    });
    let handle = machine.handle.as_ref().map(|handle| {
        let (cfgs, node) = (&handle.cfgs, node(handle));
        quote! {
            #(#cfgs)*
            let graph = graph.on_error(#private::node(#node));
        }
    });
    let retry = stands_in(machine)
        .then(|| quote!(let graph = graph.on_error(#private::node("handle replay stop"));));
    let limits = machine
        .steps
        .iter()
        .any(|step| step.options.limit.is_some())
        .then(|| quote!(let graph = #private::with_limits::<Self>(graph);));
    quote! {
        fn graph() -> #private::Graph {
            let graph = #private::graph::<Self>(&[#(#steps),*]);
            #limits
            #handle
            #retry
            graph
        }
    }
}

/// True if the retry policy of a step stands in for `handle`.
fn stands_in(machine: &MachineImpl) -> bool {
    machine.handle.is_none() && machine.steps.iter().any(|step| step.options.retry.is_some())
}

/// A step and the ways out of it, in the words that `__private::node` reads.
fn node(step: &StepFn) -> String {
    let mut text = step.name.clone();
    for edge in &step.flow.edges {
        let _ = write!(text, " {}", words(edge));
    }
    let flags = [
        (step.flow.opaque, " opaque"),
        (step.options.entry, " entry"),
        (step.transaction.is_some(), " transactional"),
    ];
    for (flag, word) in flags {
        text.push_str(if flag { word } else { "" });
    }
    text
}

fn words(edge: &Edge) -> String {
    let known = |name: &Option<String>| match name {
        Some(name) => name.clone(),
        None => "?".to_owned(),
    };
    match edge {
        Edge::Next { step, delayed: false, .. } => format!("next {step}"),
        Edge::Next { step, delayed: true, .. } => format!("next_in {step}"),
        Edge::Replay => "replay".to_owned(),
        Edge::Snooze => "snooze".to_owned(),
        Edge::Await { signal, timeout: false } => format!("await {signal}"),
        Edge::Await { signal, timeout: true } => format!("await_or_timeout {signal}"),
        Edge::Done => "done".to_owned(),
        Edge::Stop => "stop".to_owned(),
        Edge::Insert { machine } => format!("insert {}", known(machine)),
        Edge::Spawn { machine } => format!("spawn {}", known(machine)),
        Edge::Signal { machine, signal } => format!("signal {} {}", known(machine), known(signal)),
    }
}

/// The documentation of `impl Steps`, which the enum's page shows.
pub(super) fn documentation(machine: &MachineImpl) -> String {
    format!("The graph of its steps:\n\n```mermaid\n{}```\n", mermaid(machine))
}

fn mermaid(machine: &MachineImpl) -> String {
    let mut text = "stateDiagram-v2\n".to_owned();
    let mut aliases = BTreeSet::new();
    let mut lines = Vec::new();
    if let Some(initial) = initial(machine) {
        lines.push(format!("[*] --> {}", id(initial, &mut aliases)));
    }
    let mut seen = BTreeSet::new();
    for step in machine.steps.iter().filter(|step| seen.insert(&step.name)) {
        lines.extend(arrows(step, &mut aliases));
    }
    if let Some(handle) = &machine.handle {
        aliases.insert("state \"an error in any step\" as handle".to_owned());
        lines.extend(arrows(handle, &mut aliases));
    }
    if stands_in(machine) {
        aliases.insert("state \"an error in any step\" as handle".to_owned());
        lines.extend(["handle --> handle: replay", "handle --> [*]: stop"].map(str::to_owned));
    }
    for line in aliases.iter().chain(&lines) {
        let _ = writeln!(text, "    {line}");
    }
    text
}

/// The initial step, if the graph has only one candidate: a step that no other leads to.
fn initial(machine: &MachineImpl) -> Option<&str> {
    match &unreachable(machine)[..] {
        [steps] => match steps[..] {
            [step] => Some(step),
            _ => None,
        },
        _ => None,
    }
}

fn arrows(step: &StepFn, aliases: &mut BTreeSet<String>) -> Vec<String> {
    let from = id(&step.name, aliases);
    let mut arrows: Vec<String> = step
        .flow
        .edges
        .iter()
        .map(|edge| match edge {
            Edge::Next { step, delayed: false, .. } => format!("{from} --> {}", id(step, aliases)),
            Edge::Next { step, delayed: true, .. } => {
                format!("{from} --> {}: after a delay", id(step, aliases))
            }
            Edge::Replay => format!("{from} --> {from}: replay"),
            Edge::Snooze => format!("{from} --> {from}: snooze"),
            Edge::Await { signal, timeout: false } => format!("{from} --> {from}: await {signal}"),
            Edge::Await { signal, timeout: true } => {
                format!("{from} --> {from}: await {signal} or a timeout")
            }
            Edge::Done => format!("{from} --> [*]: done"),
            Edge::Stop => format!("{from} --> [*]: stop"),
            Edge::Insert { machine } => {
                format!("{from} --> {}: insert", other(machine.as_deref(), aliases))
            }
            Edge::Spawn { machine } => {
                format!("{from} --> {}: spawn", other(machine.as_deref(), aliases))
            }
            Edge::Signal { machine, signal: Some(signal) } => {
                format!("{from} --> {}: signal {signal}", other(machine.as_deref(), aliases))
            }
            Edge::Signal { machine, signal: None } => {
                format!("{from} --> {}: signal", other(machine.as_deref(), aliases))
            }
        })
        .collect();
    if let Some(facts) = facts(step) {
        arrows.push(format!("note left of {from} : {facts}"));
    }
    if step.flow.opaque {
        arrows.push(format!("note right of {from} : its code does not tell all"));
    }
    arrows
}

/// The facts of a step beside its arrows.
fn facts(step: &StepFn) -> Option<String> {
    let transaction = step.transaction.is_some().then(|| "runs in a transaction".to_owned());
    let limit = step.options.limit.as_ref().map(|limit| plain(&limit_words(limit)));
    match (transaction, limit) {
        (Some(transaction), Some(limit)) => Some(format!("{transaction}, {limit}")),
        (transaction, limit) => transaction.or(limit),
    }
}

fn limit_words(limit: &Limit) -> String {
    let name = match &limit.name {
        Text::Literal(literal) => literal.value(),
        Text::Constant(constant) => {
            constant.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default()
        }
    };
    let mut text = format!("limit {name}");
    if limit.key.is_some() {
        text.push_str(" for each key");
    }
    if limit.weight != 1 {
        let _ = write!(text, ", weight {}", limit.weight);
    }
    text
}

/// Writes each character that could mean something to mermaid as an entity.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars() {
        if letter.is_alphanumeric() || " -_.,/".contains(letter) {
            plain.push(letter);
        } else {
            let _ = write!(plain, "#{};", u32::from(letter));
        }
    }
    plain
}

/// Words that have a meaning in mermaid: a step of such a name gets an alias.
const WORDS: &[&str] = &[
    "as",
    "choice",
    "class",
    "classdef",
    "click",
    "default",
    "direction",
    "end",
    "fork",
    "hide",
    "href",
    "join",
    "note",
    "scale",
    "state",
    "style",
];

fn id(step: &str, aliases: &mut BTreeSet<String>) -> String {
    if !WORDS.contains(&&*step.to_lowercase()) {
        return step.to_owned();
    }
    aliases.insert(format!("state \"{step}\" as {step}_"));
    format!("{step}_")
}

/// The diagram's state that stands for another machine.
fn other(machine: Option<&str>, aliases: &mut BTreeSet<String>) -> String {
    let (state, id) = machine.map_or_else(
        || ("another machine".to_owned(), "another_machine".to_owned()),
        |machine| (format!("machine {machine}"), format!("machine_{machine}")),
    );
    aliases.insert(format!("state \"{state}\" as {id}"));
    id
}
