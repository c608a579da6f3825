//! Tests of the layout, on graphs like those of machines and on random ones.

#![expect(clippy::float_cmp, reason = "places that should be equal are the same numbers")]

use super::{Layout, Point, SIZE_MAX, Size, cycles, layers, layout, order};

const NODE: Size = Size { left: 60.0, right: 60.0, height: 40.0, port: 48.0 };

/// Checks the invariants of a layout: what must hold for every graph.
fn check(sizes: &[Size], edges: &[(usize, usize)]) -> Layout {
    let found = layout(sizes, edges).expect("small enough");
    let boxes: Vec<[f64; 4]> = found
        .nodes
        .iter()
        .zip(sizes)
        .map(|(at, size)| [at.x - size.left, at.x + size.right, at.y, at.y + size.height])
        .collect();
    for (index, a) in boxes.iter().enumerate() {
        assert!(a[0] >= -0.01 && a[1] <= found.width + 0.01, "outside: {a:?}");
        assert!(a[2] >= -0.01 && a[3] <= found.height + 0.01, "outside: {a:?}");
        for b in &boxes[index + 1..] {
            let apart = a[1] <= b[0] || b[1] <= a[0] || a[3] <= b[2] || b[3] <= a[2];
            assert!(apart, "{a:?} overlaps {b:?}");
        }
    }
    assert_eq!(found.lines.len(), edges.len());
    for (line, &(from, to)) in found.lines.iter().zip(edges) {
        let (first, last) = (line.points[0], line.points[line.points.len() - 1]);
        let ends = [(first, from, line.back), (last, to, !line.back)];
        for (point, node, at_top) in ends {
            let [left, right, top, bottom] = boxes[node];
            assert!(left <= point.x && point.x <= right, "{point:?} is not at node {node}");
            let side = if at_top { top } else { bottom };
            assert!((point.y - side).abs() < 0.01, "{point:?} is not at node {node}");
        }
        for point in curve(&line.points) {
            for (node, [left, right, top, bottom]) in boxes.iter().enumerate() {
                let inside = *left + 0.01 < point.x
                    && point.x < *right - 0.01
                    && *top + 0.01 < point.y
                    && point.y < *bottom - 0.01;
                assert!(!inside, "the line {from} to {to} runs through node {node}");
            }
        }
    }
    found
}

/// Points along a line, as it is drawn.
fn curve(points: &[Point]) -> Vec<Point> {
    let mut all = Vec::new();
    for pair in points.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        for step in 0..=20 {
            let t = f64::from(step) / 20.0;
            let ease = t * t * (3.0 - 2.0 * t);
            all.push(Point { x: a.x + (b.x - a.x) * ease, y: a.y + (b.y - a.y) * t });
        }
    }
    all
}

fn crossings(nodes: usize, edges: &[(usize, usize)]) -> usize {
    let turned = cycles::to_turn(nodes, edges);
    let edges: Vec<_> = edges
        .iter()
        .zip(turned)
        .map(|(&(a, b), back)| if back { (b, a) } else { (a, b) })
        .collect();
    let layer = layers::assign(nodes, &edges);
    let mut built = layers::build(&vec![NODE; nodes], &edges, &layer).expect("few bends");
    order::reduce_crossings(&mut built);
    order::crossings(&built)
}

#[test]
fn nothing_and_one_node_are_laid_out() {
    let empty = check(&[], &[]);
    assert!(empty.nodes.is_empty());
    let one = check(&[NODE], &[]);
    assert_eq!((one.nodes[0], one.width, one.height), (Point { x: 60.0, y: 0.0 }, 120.0, 40.0));
}

#[test]
fn a_chain_is_a_straight_line_downwards() {
    let found = check(&[NODE; 4], &[(0, 1), (1, 2), (2, 3)]);
    assert!(found.nodes.windows(2).all(|pair| pair[0].y < pair[1].y && pair[0].x == pair[1].x));
    assert!(found.lines.iter().all(|line| line.points.iter().all(|point| point.x == 60.0)));
}

#[test]
fn branches_lie_beside_each_other_and_their_parent_in_the_middle() {
    let found = check(&[NODE; 4], &[(0, 1), (0, 2), (1, 3), (2, 3)]);
    assert_eq!(found.nodes[1].y, found.nodes[2].y);
    assert_eq!(found.nodes[0].x, f64::midpoint(found.nodes[1].x, found.nodes[2].x));
    assert_eq!(found.nodes[0].x, found.nodes[3].x);
}

#[test]
fn a_back_edge_leads_up_and_lies_beside_the_way_down() {
    let found = check(&[NODE; 3], &[(0, 1), (1, 0), (1, 2), (2, 0)]);
    let back: Vec<bool> = found.lines.iter().map(|line| line.back).collect();
    assert_eq!(back, [false, true, false, true]);
    let (down, up) = (&found.lines[0].points, &found.lines[1].points);
    assert!((down[0].x - up[up.len() - 1].x).abs() > 5.0, "they lie on each other");
    // The long one passes the node between its ends.
    assert!(found.lines[3].points.iter().any(|point| (point.x - found.nodes[1].x).abs() > 60.0));
}

#[test]
fn planar_graphs_have_no_crossings() {
    assert_eq!(crossings(7, &[(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)]), 0);
    // The order of the edges would cross all of them.
    assert_eq!(crossings(7, &[(0, 1), (0, 2), (0, 3), (3, 4), (2, 5), (1, 6)]), 0);
    // An order with a refund: pay, ship, await, done, refund, end.
    let order = [(0, 1), (1, 2), (2, 3), (1, 4), (2, 4), (4, 5), (3, 5), (2, 1)];
    assert_eq!(crossings(6, &order), 0);
    // Three with all of three cross once at least in any layered drawing, and here nine times.
    let utilities: Vec<_> = (0..3).flat_map(|a| (3..6).map(move |b| (a, b))).collect();
    assert_eq!(crossings(6, &utilities), 9);
}

#[test]
fn a_source_lies_close_to_what_it_leads_to() {
    // A cancel leads to the refund, which is the fourth.
    let edges = [(0, 1), (1, 2), (2, 3), (4, 3)];
    let found = check(&[NODE; 5], &edges);
    assert_eq!(found.nodes[4].y, found.nodes[2].y);
}

#[test]
fn wide_nodes_and_loops_beside_them_keep_apart() {
    let wide = Size { left: 150.0, right: 260.0, height: 60.0, port: 138.0 };
    let sizes = [NODE, wide, NODE, wide, NODE];
    check(&sizes, &[(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4), (4, 0)]);
}

#[test]
fn the_same_graph_always_gets_the_same_layout() {
    let edges = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 0), (2, 1)];
    let both = [check(&[NODE; 4], &edges), check(&[NODE; 4], &edges)];
    assert_eq!(format!("{:?}", both[0]), format!("{:?}", both[1]));
}

#[test]
fn a_graph_that_is_too_large_is_not_drawn() {
    assert!(layout(&vec![NODE; SIZE_MAX + 1], &[]).is_none());
    let chain: Vec<_> = (1..200).map(|node| (node - 1, node)).collect();
    let long: Vec<_> = (0..100).map(|node| (node, 199)).collect();
    assert!(layout(&[NODE; 200], &[chain, long].concat()).is_none(), "it has too many bends");
}

#[test]
fn random_graphs_keep_the_invariants() {
    // A linear congruential generator: numbers that look random, and are the same each time.
    let mut seed = 7_u64;
    let mut below = |max: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).expect("31 bits") % max
    };
    for _ in 0..300 {
        let nodes = 2 + below(14);
        let sizes: Vec<Size> = (0..nodes)
            .map(|_| {
                let half = 20.0 + f64::from(u32::try_from(below(120)).expect("small"));
                let beside = f64::from(u32::try_from(below(90)).expect("small"));
                let height = 30.0 + f64::from(u32::try_from(below(30)).expect("small"));
                Size { left: half, right: half + beside, height, port: half - 8.0 }
            })
            .collect();
        let edges: Vec<(usize, usize)> = (0..below(3 * nodes))
            .map(|_| (below(nodes), below(nodes)))
            .filter(|(from, to)| from != to)
            .collect();
        check(&sizes, &edges);
    }
}
