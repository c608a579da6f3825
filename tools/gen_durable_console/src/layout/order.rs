//! The order of the vertices in each layer, by the barycenter heuristic, with few crossings.
//!
//! Each round sorts the layers by the mean position of the vertices joined to them, down and up by
//! turns. Then it exchanges adjacent vertices where that removes crossings.
//!
//! Invariant: the result is the best order of all rounds.

use super::Layers;

/// The rounds of sorting. Machines' graphs settle after five or so.
const ROUNDS: usize = 16;
/// The passes of exchanges in a round.
const PASSES: usize = 4;

pub(super) fn reduce_crossings(layers: &mut Layers) {
    let mut best = layers.rows.clone();
    let mut fewest = crossings(layers);
    for round in 0..ROUNDS {
        if fewest == 0 {
            break;
        }
        sort(layers, round % 2 == 0);
        for _ in 0..PASSES {
            if !exchange(layers) {
                break;
            }
        }
        let now = crossings(layers);
        if now < fewest {
            fewest = now;
            best.clone_from(&layers.rows);
        }
    }
    layers.rows = best;
}

/// Sorts each layer by the mean position of the neighbours in the layer before it.
fn sort(layers: &mut Layers, down: bool) {
    let mut positions = layers.positions();
    let rows: Vec<usize> = if down {
        (1..layers.rows.len()).collect()
    } else {
        (0..layers.rows.len().saturating_sub(1)).rev().collect()
    };
    for row in rows {
        let sides = if down { &layers.above } else { &layers.below };
        let key = |&vertex: &usize| {
            let near = &sides[vertex];
            let sum: usize = near.iter().map(|&other| positions[other]).sum();
            // A vertex without neighbours stays where it is.
            if near.is_empty() { ratio(positions[vertex], 1) } else { ratio(sum, near.len()) }
        };
        let mut keyed: Vec<(f64, usize)> =
            layers.rows[row].iter().map(|vertex| (key(vertex), *vertex)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        layers.rows[row] = keyed.into_iter().map(|(_, vertex)| vertex).collect();
        for (position, &vertex) in layers.rows[row].iter().enumerate() {
            positions[vertex] = position;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "positions are small numbers")]
fn ratio(sum: usize, count: usize) -> f64 {
    sum as f64 / count as f64
}

/// Exchanges neighbours where that leaves fewer crossings. Returns whether it did.
fn exchange(layers: &mut Layers) -> bool {
    let mut positions = layers.positions();
    let mut changed = false;
    for row in 0..layers.rows.len() {
        for left in 1..layers.rows[row].len() {
            let (a, b) = (layers.rows[row][left - 1], layers.rows[row][left]);
            let count = |first: usize, second: usize| {
                between(&layers.above[first], &layers.above[second], &positions)
                    + between(&layers.below[first], &layers.below[second], &positions)
            };
            if count(b, a) < count(a, b) {
                layers.rows[row].swap(left - 1, left);
                (positions[a], positions[b]) = (positions[b], positions[a]);
                changed = true;
            }
        }
    }
    changed
}

/// Counts the crossings between the lines of two neighbours, to one side.
fn between(left: &[usize], right: &[usize], positions: &[usize]) -> usize {
    left.iter().map(|&a| right.iter().filter(|&&b| positions[b] < positions[a]).count()).sum()
}

/// Counts all crossings.
pub(super) fn crossings(layers: &Layers) -> usize {
    let positions = layers.positions();
    let mut all = 0;
    for row in &layers.rows {
        for (left, &a) in row.iter().enumerate() {
            for &b in &row[left + 1..] {
                all += between(&layers.below[a], &layers.below[b], &positions);
            }
        }
    }
    all
}
