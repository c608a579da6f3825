//! The lines: from the bottom of a node to the top of another one, through their bends.
//!
//! Invariant: lines that end at the same side of a node end beside each other, in the order of the
//! places that they lead to. Two lines between the same nodes do not lie on each other.

use super::{LAYER_GAP, Layers, Layout, Line, Point, place::ends};

/// The space between the ends of lines at a node, in pixels, if there is room for it.
const PORT_GAP: f64 = 18.0;

pub(super) fn draw(layers: &Layers, xs: &[f64], turned: &[bool]) -> Layout {
    // The top and the height of each row.
    let mut tops = Vec::new();
    let mut y = 0.0;
    for row in &layers.rows {
        let height = row.iter().map(|&vertex| layers.sizes[vertex].height).fold(0.0, f64::max);
        tops.push((y, height));
        y += height + LAYER_GAP;
    }
    let mut row_of = vec![0; layers.sizes.len()];
    for (row, vertices) in layers.rows.iter().enumerate() {
        for &vertex in vertices {
            row_of[vertex] = row;
        }
    }
    // A node is in the middle of its row.
    let top = |vertex: usize| {
        let (y, height) = tops[row_of[vertex]];
        y + (height - layers.sizes[vertex].height) / 2.0
    };
    let (from, to) = (ports(layers, xs, true), ports(layers, xs, false));
    let lines = (0..layers.chains.len()).map(|edge| {
        let chain = &layers.chains[edge];
        let (first, last) = (chain[0], chain[chain.len() - 1]);
        let mut points = vec![Point { x: from[edge], y: top(first) + layers.sizes[first].height }];
        // A node that is less tall than its row leaves a straight piece down to the row's end.
        let (y, height) = tops[row_of[first]];
        points.push(Point { x: from[edge], y: y + height });
        for &bend in &chain[1..chain.len() - 1] {
            let (y, height) = tops[row_of[bend]];
            points.extend([Point { x: xs[bend], y }, Point { x: xs[bend], y: y + height }]);
        }
        points.push(Point { x: to[edge], y: tops[row_of[last]].0 });
        points.push(Point { x: to[edge], y: top(last) });
        points.dedup();
        if turned[edge] {
            points.reverse();
        }
        Line { points, back: turned[edge] }
    });
    Layout {
        lines: lines.collect(),
        nodes: (0..layers.nodes).map(|node| Point { x: xs[node], y: top(node) }).collect(),
        width: if xs.is_empty() { 0.0 } else { ends(layers, xs).1 },
        height: (y - LAYER_GAP).max(0.0),
    }
}

/// Returns where each line ends at its upper node, or at its lower one.
fn ports(layers: &Layers, xs: &[f64], at_the_upper: bool) -> Vec<f64> {
    let mut at = vec![Vec::new(); layers.nodes];
    for (edge, chain) in layers.chains.iter().enumerate() {
        let last = chain.len() - 1;
        let (node, next) =
            if at_the_upper { (chain[0], chain[1]) } else { (chain[last], chain[last - 1]) };
        at[node].push((xs[next], edge, wanted(layers, xs, node, next)));
    }
    let mut ports = vec![0.0; layers.chains.len()];
    for (node, mut lines) in at.into_iter().enumerate() {
        lines.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let targets: Vec<f64> = lines.iter().map(|line| line.2).collect();
        let spread = spread(&targets, xs[node], layers.sizes[node].port);
        for ((_, edge, _), x) in lines.into_iter().zip(spread) {
            ports[edge] = x;
        }
    }
    ports
}

/// Returns where a line would best end at a node: where it is straight, if the node reaches as far.
fn wanted(layers: &Layers, xs: &[f64], node: usize, next: usize) -> f64 {
    let (here, there) = (xs[node], xs[next]);
    let port = layers.sizes[node].port;
    let straight = if layers.is_bend(next) { there } else { f64::midpoint(here, there) };
    let reaches = |vertex: usize| {
        layers.is_bend(vertex) || (straight - xs[vertex]).abs() <= layers.sizes[vertex].port
    };
    if reaches(node) && reaches(next) { straight } else { here + 0.6 * port.copysign(there - here) }
}

/// Moves the ends apart, and as little as that takes.
fn spread(targets: &[f64], middle: f64, port: f64) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a node has few lines")]
    let between = (targets.len() as f64 - 1.0).max(1.0);
    let gap = PORT_GAP.min(2.0 * port / between);
    let mut rightwards = targets.to_vec();
    let mut leftwards = targets.to_vec();
    for index in 1..targets.len() {
        rightwards[index] = rightwards[index].max(rightwards[index - 1] + gap);
        let mirrored = targets.len() - 1 - index;
        leftwards[mirrored] = leftwards[mirrored].min(leftwards[mirrored + 1] - gap);
    }
    let mut ends: Vec<f64> =
        rightwards.iter().zip(&leftwards).map(|(a, b)| f64::midpoint(*a, *b)).collect();
    // From the left end inwards, and then from the right end: both leave the gaps as they are.
    let mut least = middle - port;
    for end in &mut ends {
        *end = end.max(least);
        least = *end + gap;
    }
    let mut most = middle + port;
    for end in ends.iter_mut().rev() {
        *end = end.min(most);
        most = *end - gap;
    }
    ends
}
