//! The place of each vertex in its layer, after Brandes and Köpf, "Fast and Simple Horizontal
//! Coordinate Assignment" (2001).
//!
//! Each vertex is aligned with a median one of those that it is joined to. Aligned vertices form a
//! block. This is done in four ways: with those above or below, from the left or from the right.
//! Each way places all blocks. The result is the mean of the two middle ones of the four places.
//!
//! Invariant: adjacent vertices keep their distance in each way, and therefore in the result. A
//! line between two bends is vertical, unless two such lines cross.

use std::collections::BTreeSet;

use super::{LINE_GAP, Layers, NODE_GAP};

/// Returns the middle of each vertex. The leftmost end of all is at 0.
pub(super) fn places(layers: &Layers) -> Vec<f64> {
    let conflicts = conflicts(layers);
    let mut ways: Vec<Vec<f64>> = Vec::new();
    for down in [true, false] {
        for rightwards in [true, false] {
            ways.push(way(layers, &conflicts, down, rightwards));
        }
    }
    bring_together(&mut ways, layers);
    let mut xs: Vec<f64> = (0..layers.sizes.len())
        .map(|vertex| {
            let mut four: Vec<f64> = ways.iter().map(|xs| xs[vertex]).collect();
            four.sort_by(f64::total_cmp);
            f64::midpoint(four[1], four[2])
        })
        .collect();
    let left = ends(layers, &xs).0;
    for x in &mut xs {
        *x -= left;
    }
    xs
}

/// Returns the pairs of vertices whose line crosses one between two bends. The latter stays
/// straight.
fn conflicts(layers: &Layers) -> BTreeSet<(usize, usize)> {
    let positions = layers.positions();
    let mut found = BTreeSet::new();
    let is_inner = |a, b| layers.is_bend(a) && layers.is_bend(b);
    for row in &layers.rows {
        let lines: Vec<(usize, usize)> = row
            .iter()
            .flat_map(|&vertex| layers.below[vertex].iter().map(move |&below| (vertex, below)))
            .collect();
        for &(a, b) in lines.iter().filter(|(a, b)| is_inner(*a, *b)) {
            for &(c, d) in &lines {
                let above = positions[a].cmp(&positions[c]);
                let below = positions[b].cmp(&positions[d]);
                // If two such lines cross, the later one gives way.
                let gives_way = !is_inner(c, d) || (a, b) < (c, d);
                if above.reverse() == below && above.is_ne() && gives_way {
                    found.insert((c, d));
                }
            }
        }
    }
    found
}

/// Returns the places of one of the four ways.
fn way(
    layers: &Layers,
    conflicts: &BTreeSet<(usize, usize)>,
    down: bool,
    rightwards: bool,
) -> Vec<f64> {
    let mut rows = layers.rows.clone();
    if !down {
        rows.reverse();
    }
    if !rightwards {
        for row in &mut rows {
            row.reverse();
        }
    }
    let near = if down { &layers.above } else { &layers.below };
    let in_conflict = |a: usize, b: usize| conflicts.contains(&if down { (b, a) } else { (a, b) });
    let roots = align(&rows, near, in_conflict);
    let distance = |left: usize, right: usize| {
        let (left, right) = if rightwards { (left, right) } else { (right, left) };
        let bend = layers.is_bend(left) || layers.is_bend(right);
        let gap = if bend { LINE_GAP } else { NODE_GAP };
        layers.sizes[left].right + layers.sizes[right].left + gap
    };
    let mut xs = compact(&rows, &roots, distance);
    if !rightwards {
        for x in &mut xs {
            *x = -*x;
        }
    }
    xs
}

/// Aligns each vertex with one in the middle of its neighbours in the row before, if no other
/// alignment would be crossed. Returns the root of the block of each vertex.
fn align(
    rows: &[Vec<usize>],
    near: &[Vec<usize>],
    in_conflict: impl Fn(usize, usize) -> bool,
) -> Vec<usize> {
    let vertices = near.len();
    let mut positions = vec![0; vertices];
    for row in rows {
        for (position, &vertex) in row.iter().enumerate() {
            positions[vertex] = position;
        }
    }
    let mut roots: Vec<usize> = (0..vertices).collect();
    let mut has_next = vec![false; vertices];
    for row in rows {
        // The first position of the row before that may still be aligned with.
        let mut free = 0;
        for &vertex in row {
            let mut others = near[vertex].clone();
            others.sort_by_key(|&other| positions[other]);
            let Some(last) = others.len().checked_sub(1) else { continue };
            for middle in [last / 2, last.div_ceil(2)] {
                let other = others[middle];
                let is_free = positions[other] >= free && !has_next[other];
                if roots[vertex] == vertex && is_free && !in_conflict(vertex, other) {
                    roots[vertex] = roots[other];
                    has_next[other] = true;
                    free = positions[other] + 1;
                }
            }
        }
    }
    roots
}

/// Gives each block its place: as far left as its neighbours allow, and then as far right as they
/// allow without moving those.
fn compact(
    rows: &[Vec<usize>],
    roots: &[usize],
    distance: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut right: Vec<Vec<(usize, f64)>> = vec![Vec::new(); roots.len()];
    let mut entering = vec![0_usize; roots.len()];
    for row in rows {
        for pair in row.windows(2) {
            let (left, next) = (roots[pair[0]], roots[pair[1]]);
            right[left].push((next, distance(pair[0], pair[1])));
            entering[next] += 1;
        }
    }
    let mut order: Vec<usize> =
        (0..roots.len()).filter(|&block| roots[block] == block && entering[block] == 0).collect();
    let mut xs = vec![0.0_f64; roots.len()];
    let mut done = 0;
    while done < order.len() {
        let block = order[done];
        for &(next, distance) in &right[block] {
            xs[next] = xs[next].max(xs[block] + distance);
            entering[next] -= 1;
            if entering[next] == 0 {
                order.push(next);
            }
        }
        done += 1;
    }
    for &block in order.iter().rev() {
        let room = right[block].iter().map(|&(next, distance)| xs[next] - distance);
        let room = room.fold(f64::INFINITY, f64::min);
        if room.is_finite() {
            xs[block] = xs[block].max(room);
        }
    }
    (0..roots.len()).map(|vertex| xs[roots[vertex]]).collect()
}

/// Moves the four ways so that their left or right ends are those of the narrowest.
fn bring_together(ways: &mut [Vec<f64>], layers: &Layers) {
    let all: Vec<(f64, f64)> = ways.iter().map(|xs| ends(layers, xs)).collect();
    let narrowest = all.iter().copied().min_by(|a, b| (a.1 - a.0).total_cmp(&(b.1 - b.0)));
    let Some((left, right)) = narrowest else { return };
    for (index, xs) in ways.iter_mut().enumerate() {
        let rightwards = index % 2 == 0;
        let shift = if rightwards { left - all[index].0 } else { right - all[index].1 };
        for x in xs {
            *x += shift;
        }
    }
}

/// Returns the leftmost and the rightmost end.
pub(super) fn ends(layers: &Layers, xs: &[f64]) -> (f64, f64) {
    xs.iter()
        .zip(&layers.sizes)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(left, right), (x, size)| {
            (left.min(x - size.left), right.max(x + size.right))
        })
}
