//! A layered layout of a directed graph, after Sugiyama: the arrows lead downwards, as far as they
//! can.
//!
//! ```text
//!   reverse back edges ──► layers ──► order in each layer ──► places ──► lines
//! ```
//!
//! Invariant: no two nodes overlap, and no line runs through a node that it does not belong to. The
//! same graph always gets the same layout.

mod cycles;
mod layers;
mod order;
mod place;
mod route;

#[cfg(test)]
mod tests;

/// The most nodes, and the most edges, of a graph that is laid out.
const SIZE_MAX: usize = 400;
/// The most bends of all lines together. Long lines through many layers would take the time and the
/// memory of the server.
const BENDS_MAX: usize = 8_000;
/// The space between neighbours in a layer, in pixels.
const NODE_GAP: f64 = 36.0;
/// The same beside a line.
const LINE_GAP: f64 = 22.0;
/// The space between layers, in pixels.
const LAYER_GAP: f64 = 54.0;

/// The size of a node, in pixels. It may reach further to one side of its middle than to the other:
/// a loop beside it belongs to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// The distance from its middle to its left end.
    pub(crate) left: f64,
    /// The distance from its middle to its right end.
    pub(crate) right: f64,
    /// Its height.
    pub(crate) height: f64,
    /// Lines may end at its top and its bottom, up to this far from its middle on either side.
    pub(crate) port: f64,
}

/// A point, in pixels from the upper left corner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

/// A line from a node to another one.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Its points, from the source to the target. Between two points on different heights it is
    /// drawn as a curve that leaves and arrives vertically.
    pub(crate) points: Vec<Point>,
    /// True if it leads back up.
    pub(crate) back: bool,
}

/// The places of all nodes and lines.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The middle of the top of each node.
    pub(crate) nodes: Vec<Point>,
    /// A line for each edge.
    pub(crate) lines: Vec<Line>,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// Nodes and the bends of lines, in layers. The nodes come first.
#[derive(Debug)]
struct Layers {
    sizes: Vec<Size>,
    /// The number of nodes. Vertices from there on are bends.
    nodes: usize,
    /// The vertices of each layer, from left to right.
    rows: Vec<Vec<usize>>,
    /// For each vertex, those above and below that a line joins it to.
    above: Vec<Vec<usize>>,
    below: Vec<Vec<usize>>,
    /// For each edge, its vertices from the upper end to the lower one.
    chains: Vec<Vec<usize>>,
}

impl Layers {
    fn is_bend(&self, vertex: usize) -> bool {
        vertex >= self.nodes
    }

    /// Returns the position of each vertex in its row.
    fn positions(&self) -> Vec<usize> {
        let mut positions = vec![0; self.sizes.len()];
        for row in &self.rows {
            for (position, &vertex) in row.iter().enumerate() {
                positions[vertex] = position;
            }
        }
        positions
    }
}

/// Lays a graph out. Edges name their ends by index, and none leads from a node to itself. The
/// first node is at the top, if the edges allow. None if the graph is too large.
pub(crate) fn layout(sizes: &[Size], edges: &[(usize, usize)]) -> Option<Layout> {
    if sizes.len() > SIZE_MAX || edges.len() > SIZE_MAX {
        return None;
    }
    let turned = cycles::to_turn(sizes.len(), edges);
    let downwards: Vec<(usize, usize)> = edges
        .iter()
        .zip(&turned)
        .map(|(&(from, to), &turned)| if turned { (to, from) } else { (from, to) })
        .collect();
    let layer_of = layers::assign(sizes.len(), &downwards);
    let mut layers = layers::build(sizes, &downwards, &layer_of)?;
    order::reduce_crossings(&mut layers);
    let xs = place::places(&layers);
    Some(route::draw(&layers, &xs, &turned))
}
