//! The layer of each node, and the bends of lines that cross layers.
//!
//! Invariant: an edge leads to a lower layer, and each part of its line to the next one.

use super::{BENDS_MAX, Layers, Size};

/// The size of a bend: a line needs no room of its own.
const BEND: Size = Size { left: 0.0, right: 0.0, height: 0.0, port: 0.0 };

/// Returns the layer of each node. The edges have no cycle.
///
/// First, each node lies one layer below its lowest predecessor (longest path). Then each node with
/// more outgoing than incoming edges moves down, to just above its nearest successor. That shortens
/// lines. The first node stays at the top.
pub(super) fn assign(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let order = topological(nodes, edges);
    let mut out = vec![Vec::new(); nodes];
    let mut entering = vec![0_usize; nodes];
    for &(from, to) in edges {
        out[from].push(to);
        entering[to] += 1;
    }
    let mut layer = vec![0; nodes];
    for &node in &order {
        for &to in &out[node] {
            layer[to] = layer[to].max(layer[node] + 1);
        }
    }
    for &node in order.iter().rev() {
        let below = out[node].iter().map(|&to| layer[to]).min();
        if let Some(below) = below
            && out[node].len() > entering[node]
            && node != 0
        {
            layer[node] = below - 1;
        }
    }
    layer
}

/// Returns the nodes so that each edge leads from an earlier to a later one.
fn topological(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut entering = vec![0_usize; nodes];
    for &(_, to) in edges {
        entering[to] += 1;
    }
    let mut order: Vec<usize> = (0..nodes).filter(|&node| entering[node] == 0).collect();
    let mut done = 0;
    while done < order.len() {
        for &(from, to) in edges {
            if from == order[done] {
                entering[to] -= 1;
                if entering[to] == 0 {
                    order.push(to);
                }
            }
        }
        done += 1;
    }
    order
}

/// Puts the nodes into their layers, and a bend where a line crosses one. None if there are too
/// many bends.
pub(super) fn build(sizes: &[Size], edges: &[(usize, usize)], layer: &[usize]) -> Option<Layers> {
    let bends: usize = edges.iter().map(|&(from, to)| layer[to] - layer[from] - 1).sum();
    if bends > BENDS_MAX {
        return None;
    }
    let vertices = sizes.len() + bends;
    let mut built = Layers {
        sizes: sizes.iter().copied().chain(std::iter::repeat_n(BEND, bends)).collect(),
        nodes: sizes.len(),
        rows: vec![Vec::new(); layer.iter().max().map_or(0, |last| last + 1)],
        above: vec![Vec::new(); vertices],
        below: vec![Vec::new(); vertices],
        chains: Vec::new(),
    };
    let mut bend = sizes.len();
    let mut row_of = layer.to_vec();
    for &(from, to) in edges {
        let mut chain = vec![from];
        for row in layer[from] + 1..layer[to] {
            chain.push(bend);
            row_of.push(row);
            bend += 1;
        }
        chain.push(to);
        for pair in chain.windows(2) {
            built.below[pair[0]].push(pair[1]);
            built.above[pair[1]].push(pair[0]);
        }
        built.chains.push(chain);
    }
    for vertex in depth_first(&built) {
        built.rows[row_of[vertex]].push(vertex);
    }
    Some(built)
}

/// Returns all vertices in the order of a search downwards: a first order in which trees do not
/// cross.
fn depth_first(layers: &Layers) -> Vec<usize> {
    let mut seen = vec![false; layers.sizes.len()];
    let mut found = Vec::new();
    let roots = (0..layers.sizes.len()).filter(|&vertex| layers.above[vertex].is_empty());
    let mut stack: Vec<usize> = roots.collect();
    stack.reverse();
    while let Some(vertex) = stack.pop() {
        if std::mem::replace(&mut seen[vertex], true) {
            continue;
        }
        found.push(vertex);
        stack.extend(layers.below[vertex].iter().rev().filter(|&&next| !seen[next]));
    }
    found
}
