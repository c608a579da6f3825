//! Tests of the picture: all that a graph tells is there, and nothing of it is markup.

use gen_durable::graph::{Edge, Graph};

use super::{Picture, svg};

/// A graph of which every kind of edge is known.
fn graph(first: &str) -> Graph<String> {
    let graph = serde_json::json!({
        "machine": "order", "version": 1, "initial": first, "on_cancel": "refund",
        "steps": [
            { "name": first, "variant": null, "opaque": false, "entry": false, "transactional": true,
              "limit": { "name": "bank", "weight": 1, "keyed": false },
              "edges": [
                  { "kind": "next", "step": "refund", "delayed": true },
                  { "kind": "next", "step": "refund", "delayed": false },
                  { "kind": "next", "step": first, "delayed": true },
                  { "kind": "await", "signal": "paid", "timeout": true },
                  { "kind": "replay" }, { "kind": "snooze" }, { "kind": "stop" },
                  { "kind": "sends", "machine": null, "signal": null },
              ] },
            { "name": "refund", "variant": null, "opaque": true, "entry": true,
              "transactional": false, "limit": null, "edges": [{ "kind": "done" }] },
        ],
        "handle": { "name": "handle", "variant": null, "opaque": false, "entry": false,
            "transactional": false, "limit": null,
            "edges": [{ "kind": "next", "step": "refund", "delayed": false }, { "kind": "stop" }] },
    });
    serde_json::from_value(graph).expect("a graph")
}

fn drawn(graph: &Graph<String>) -> String {
    let picture = Picture::of(graph).with_paused(|step| step == "refund");
    svg(&picture, |step| format!("/of/{}", step.len())).expect("small enough").into_string()
}

#[test]
fn all_that_a_graph_tells_is_in_the_picture() {
    let picture = Picture::of(&graph("charge"));
    let names: Vec<&str> = picture.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["start", "charge", "refund", "done", "on a cancel", "on an error"]);
    let edges: Vec<(usize, usize, bool)> =
        picture.edges.iter().map(|edge| (edge.from, edge.to, edge.delayed)).collect();
    let expected = [(0, 1), (0, 2), (1, 2), (2, 3), (4, 2), (5, 2)];
    assert_eq!(edges, expected.map(|(from, to)| (from, to, false)));
    let svg = drawn(&graph("charge"));
    for text in [
        "in a transaction",
        "limit bank",
        "may stop",
        "signals another machine",
        "again, later",
        "awaits paid or a timeout",
        "replay",
        "snooze",
        "its code does not tell all",
        "class=\"node paused opaque\"",
        "href=\"/of/6\"",
        "step charge, in a transaction",
    ] {
        assert!(svg.contains(text), "{text}: {svg}");
    }
    assert!(!svg.contains("style="), "the policy of the page forbids styles");
}

#[test]
fn names_are_escaped_and_long_ones_are_cut() {
    let name = "</svg><script>".repeat(9);
    let svg = drawn(&graph(&name));
    assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;"), "{svg}");
    assert!(svg.contains('…'));
}

#[test]
fn a_graph_that_is_too_large_is_not_drawn() {
    let mut large = graph("charge");
    let step = large.steps[1].clone();
    for number in 0..500 {
        let mut step = step.clone();
        step.name = format!("step {number}");
        step.edges = vec![Edge::Done];
        large.steps.push(step);
    }
    assert!(svg(&Picture::of(&large), |_| String::new()).is_none());
}
