//! The edges to reverse before the layout: the back edges of a depth-first search.
//!
//! Invariant: once they are reversed, no cycle is left. The search begins at the first node, so the
//! loops of a machine are drawn as loops.

/// Returns for each edge whether it is to be turned round.
pub(super) fn to_turn(nodes: usize, edges: &[(usize, usize)]) -> Vec<bool> {
    let mut out = vec![Vec::new(); nodes];
    for (edge, &(from, to)) in edges.iter().enumerate() {
        out[from].push((edge, to));
    }
    let mut turned = vec![false; edges.len()];
    let (mut seen, mut on_path) = (vec![false; nodes], vec![false; nodes]);
    for root in 0..nodes {
        if seen[root] {
            continue;
        }
        (seen[root], on_path[root]) = (true, true);
        // Each node of the path, with the number of its edges that were followed.
        let mut path = vec![(root, 0)];
        while let Some((node, next)) = path.last_mut() {
            let Some(&(edge, to)) = out[*node].get(*next) else {
                on_path[*node] = false;
                path.pop();
                continue;
            };
            *next += 1;
            if on_path[to] {
                turned[edge] = true;
            } else if !seen[to] {
                (seen[to], on_path[to]) = (true, true);
                path.push((to, 0));
            }
        }
    }
    turned
}
