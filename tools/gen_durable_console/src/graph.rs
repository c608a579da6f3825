//! The graph of a machine as a picture: SVG with classes, for the page's style to colour.
//!
//! Invariant: the picture has each step, and each way from a step to another one or to the end.
//! Each step is a link to its instances. `handle` is drawn if it leads to a step or to the end.

mod draw;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use gen_durable::{
    graph::{Edge, Graph},
    operate::{StepCount, Waits},
};

pub(crate) use self::draw::svg;
use self::words::{facts, loops};

/// The graph of a machine, and what is to be shown of its instances.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    pub(crate) machine: String,
    nodes: Vec<Node>,
    edges: Vec<Arrow>,
}

/// A node of the picture.
#[derive(Debug)]
struct Node {
    kind: Kind,
    name: String,
    /// The facts of the step beside its arrows.
    facts: Vec<String>,
    /// The ways back to the step itself.
    loops: Vec<String>,
    counts: Vec<(Waits, u64, bool)>,
    marks: Marks,
}

/// The highlights of a step.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each may be there without the others")]
struct Marks {
    /// The instance stands here.
    here: bool,
    /// The instance was here.
    seen: bool,
    paused: bool,
    /// A step of which not all ways are known.
    opaque: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Start,
    Step,
    Done,
    /// An event that leads to a step from any other one: a cancel or an error.
    Event,
}

#[derive(Debug)]
struct Arrow {
    from: usize,
    to: usize,
    delayed: bool,
}

impl Picture {
    /// Makes the picture of a graph.
    pub(crate) fn of(graph: &Graph<String>) -> Self {
        let mut picture = Self { machine: graph.machine.clone(), ..Self::default() };
        let start = picture.node(Kind::Start, "start");
        let mut index = BTreeMap::new();
        for step in &graph.steps {
            let node = picture.node(Kind::Step, &step.name);
            picture.nodes[node].facts = facts(step);
            picture.nodes[node].loops = loops(step);
            picture.nodes[node].marks.opaque = step.opaque;
            index.insert(step.name.as_str(), node);
        }
        for step in &graph.steps {
            if step.name == graph.initial || step.entry {
                picture.arrow(start, index[step.name.as_str()], false);
            }
        }
        let ends = graph.steps.iter().chain(&graph.handle);
        let ends = ends.flat_map(|step| &step.edges).any(|edge| matches!(edge, Edge::Done));
        let done = ends.then(|| picture.node(Kind::Done, "done"));
        for step in &graph.steps {
            picture.ways(index[step.name.as_str()], &step.edges, &index, done);
        }
        if let Some(to) = graph.on_cancel.as_deref().and_then(|step| index.get(step)) {
            let event = picture.node(Kind::Event, "on a cancel");
            picture.arrow(event, *to, false);
        }
        if let Some(handle) = &graph.handle {
            let leads = |edge: &Edge<String>| matches!(edge, Edge::Next { .. } | Edge::Done);
            if handle.edges.iter().any(leads) {
                let event = picture.node(Kind::Event, "on an error");
                picture.nodes[event].facts = facts(handle);
                picture.ways(event, &handle.edges, &index, done);
            }
        }
        picture
    }

    fn node(&mut self, kind: Kind, name: &str) -> usize {
        self.nodes.push(Node {
            kind,
            name: name.to_owned(),
            facts: Vec::new(),
            loops: Vec::new(),
            counts: Vec::new(),
            marks: Marks::default(),
        });
        self.nodes.len() - 1
    }

    /// Adds an arrow. Edges between the same nodes share one, delayed only if all of them are.
    fn arrow(&mut self, from: usize, to: usize, delayed: bool) {
        let same = self.edges.iter_mut().find(|arrow| arrow.from == from && arrow.to == to);
        match same {
            Some(arrow) => arrow.delayed &= delayed,
            None => self.edges.push(Arrow { from, to, delayed }),
        }
    }

    /// Adds the arrows of a step, but for those to itself.
    fn ways(
        &mut self,
        from: usize,
        edges: &[Edge<String>],
        index: &BTreeMap<&str, usize>,
        done: Option<usize>,
    ) {
        for edge in edges {
            let (to, delayed) = match edge {
                Edge::Next { step, delayed } => (index.get(step.as_str()).copied(), *delayed),
                Edge::Done => (done, false),
                _ => (None, false),
            };
            if let Some(to) = to.filter(|to| *to != from) {
                self.arrow(from, to, delayed);
            }
        }
    }

    fn steps(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.iter_mut().filter(|node| node.kind == Kind::Step)
    }

    /// Shows how many instances stand at each step.
    pub(crate) fn with_counts(mut self, counts: &[StepCount]) -> Self {
        for node in self.steps() {
            let here = counts.iter().filter(|count| count.step == node.name);
            node.counts = here.map(|count| (count.waits, count.count, count.capped)).collect();
        }
        self
    }

    /// Shows which steps are paused.
    pub(crate) fn with_paused(mut self, is_paused: impl Fn(&str) -> bool) -> Self {
        for node in self.steps() {
            node.marks.paused = is_paused(&node.name);
        }
        self
    }

    /// Shows where an instance stands, and where it was.
    pub(crate) fn with_position(mut self, here: Option<&str>, seen: &BTreeSet<&str>) -> Self {
        for node in self.steps() {
            node.marks.here = here == Some(node.name.as_str());
            node.marks.seen = seen.contains(node.name.as_str());
        }
        self
    }
}
