//! A graph as text: for mermaid and for Graphviz.
//!
//! Invariant: both show the same arrows. `#[durable_fsm]` writes the same mermaid text into the
//! documentation, but for the arrow of a cancel: the impl block does not know of it.

use std::{
    collections::BTreeSet,
    fmt::{self, Write},
};

use super::{Edge, Graph, StepNode};
use crate::machine::limit::StepLimit;

/// An arrow of the diagram.
struct Arrow<'a> {
    from: &'a str,
    to: Place<'a>,
    label: String,
}

/// The place that an arrow points to.
enum Place<'a> {
    Step(&'a str),
    End,
    /// An instance of another machine, as its type is called.
    Machine(Option<&'a str>),
}

fn arrows<'a>(step: &StepNode<&'a str>) -> impl Iterator<Item = Arrow<'a>> {
    let from = step.name;
    step.edges.iter().map(move |edge| {
        let (to, label) = match *edge {
            Edge::Next { step, delayed: false } => (Place::Step(step), String::new()),
            Edge::Next { step, delayed: true } => (Place::Step(step), "after a delay".to_owned()),
            Edge::Replay => (Place::Step(from), "replay".to_owned()),
            Edge::Snooze => (Place::Step(from), "snooze".to_owned()),
            Edge::Await { signal, timeout: false } => {
                (Place::Step(from), format!("await {signal}"))
            }
            Edge::Await { signal, timeout: true } => {
                (Place::Step(from), format!("await {signal} or a timeout"))
            }
            Edge::Done => (Place::End, "done".to_owned()),
            Edge::Stop => (Place::End, "stop".to_owned()),
            Edge::Inserts { machine } => (Place::Machine(machine), "insert".to_owned()),
            Edge::Spawns { machine } => (Place::Machine(machine), "spawn".to_owned()),
            Edge::Sends { machine, signal: Some(signal) } => {
                (Place::Machine(machine), format!("signal {signal}"))
            }
            Edge::Sends { machine, signal: None } => (Place::Machine(machine), "signal".to_owned()),
        };
        Arrow { from, to, label }
    })
}

const ON_ERROR: &str = "an error in any step";
const ON_CANCEL: &str = "a cancel in any step";

pub(super) fn mermaid(graph: &Graph<&str>) -> String {
    let mut aliases = BTreeSet::new();
    let mut lines = vec![format!("[*] --> {}", id(graph.initial, &mut aliases))];
    for step in graph.nodes() {
        for arrow in arrows(step) {
            let from = id(arrow.from, &mut aliases);
            let to = match arrow.to {
                Place::Step(step) => id(step, &mut aliases),
                Place::End => "[*]".to_owned(),
                Place::Machine(Some(machine)) => {
                    aliases.insert(format!("state \"machine {machine}\" as machine_{machine}"));
                    format!("machine_{machine}")
                }
                Place::Machine(None) => {
                    aliases.insert("state \"another machine\" as another_machine".to_owned());
                    "another_machine".to_owned()
                }
            };
            let label = &arrow.label;
            let colon = if label.is_empty() { "" } else { ": " };
            lines.push(format!("{from} --> {to}{colon}{label}"));
        }
        if let Some(facts) = facts(step) {
            let from = id(step.name, &mut aliases);
            lines.push(format!("note left of {from} : {facts}"));
        }
        if step.opaque {
            let from = id(step.name, &mut aliases);
            lines.push(format!("note right of {from} : its code does not tell all"));
        }
    }
    if let Some(step) = graph.on_cancel {
        aliases.insert(format!("state \"{ON_CANCEL}\" as on_a_cancel"));
        lines.push(format!("on_a_cancel --> {}", id(step, &mut aliases)));
    }
    if graph.handle.is_some() {
        aliases.insert(format!("state \"{ON_ERROR}\" as handle"));
    }
    let mut text = "stateDiagram-v2\n".to_owned();
    for line in aliases.iter().chain(&lines) {
        let _ = writeln!(text, "    {line}");
    }
    text
}

/// Words that have a meaning in mermaid.
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

/// Returns a step's name, or an alias where mermaid would misunderstand the name.
fn id(step: &str, aliases: &mut BTreeSet<String>) -> String {
    if !WORDS.contains(&&*step.to_lowercase()) {
        return step.to_owned();
    }
    aliases.insert(format!("state \"{step}\" as {step}_"));
    format!("{step}_")
}

/// Returns the facts that a diagram for mermaid tells of a step beside its arrows. They are one
/// note: mermaid does not always show two on one side.
fn facts(step: &StepNode<&str>) -> Option<String> {
    let transaction = step.transactional.then(|| "runs in a transaction".to_owned());
    let limit = step.limit.map(|limit| plain(&words(&limit)));
    match (transaction, limit) {
        (Some(transaction), Some(limit)) => Some(format!("{transaction}, {limit}")),
        (transaction, limit) => transaction.or(limit),
    }
}

/// Returns a limit in words.
fn words(limit: &StepLimit<&str>) -> String {
    let mut text = format!("limit {}", limit.name);
    if limit.keyed {
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

pub(super) fn dot(graph: &Graph<&str>) -> String {
    let mut text = format!("digraph {} {{\n", Quoted(graph.machine));
    let mut line = |line: fmt::Arguments<'_>| {
        let _ = writeln!(text, "    {line}");
    };
    line(format_args!("node [shape=box, style=rounded];"));
    line(format_args!("\"[begin]\" [shape=point];"));
    line(format_args!("\"[end]\" [shape=doublecircle, label=\"\", width=0.15];"));
    line(format_args!("\"[begin]\" -> {};", Quoted(graph.initial)));
    for step in graph.nodes() {
        for Arrow { from, to, label } in arrows(step) {
            let (to, style) = match to {
                Place::Step(step) if step == from => (step.to_owned(), ", style=dashed"),
                Place::Step(step) => (step.to_owned(), ""),
                Place::End => ("[end]".to_owned(), ""),
                Place::Machine(Some(machine)) => (format!("machine {machine}"), ", style=dotted"),
                Place::Machine(None) => ("another machine".to_owned(), ", style=dotted"),
            };
            let (from, to, label) = (Quoted(from), Quoted(&to), Quoted(&label));
            line(format_args!("{from} -> {to} [label={label}{style}];"));
        }
        if step.transactional {
            line(format_args!("{} [peripheries=2];", Quoted(step.name)));
        }
        if let Some(limit) = &step.limit {
            let label = format!("{}\n{}", step.name, words(limit));
            line(format_args!("{} [label={}];", Quoted(step.name), Quoted(&label)));
        }
        if step.opaque {
            let name = Quoted(step.name);
            line(format_args!("{name} -> \"?\" [style=dotted];"));
        }
    }
    if let Some(step) = graph.on_cancel {
        line(format_args!("\"[cancel]\" [label={}, shape=hexagon];", Quoted(ON_CANCEL)));
        line(format_args!("\"[cancel]\" -> {};", Quoted(step)));
    }
    if graph.handle.is_some() {
        line(format_args!("\"handle\" [label={}, shape=hexagon];", Quoted(ON_ERROR)));
    }
    text.push_str("}\n");
    text
}

/// A text that is quoted for Graphviz.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        write!(f, "\"{text}\"")
    }
}
