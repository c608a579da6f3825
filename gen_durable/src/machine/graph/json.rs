//! A graph as JSON: the form in which it is stored for tools.
//!
//! Invariant: the text is ASCII, so every database can store it, whatever its encoding. It has no
//! NUL, so a database in UTF-8 can cast it to `jsonb`.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{
    Serializer, Value,
    ser::{CharEscape, CompactFormatter, Formatter},
};

use super::{Edge, Graph};

/// Writes a graph.
pub(super) fn text(graph: &Graph<&str>) -> String {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, Ascii(CompactFormatter));
    // A graph has only texts, numbers and lists, and memory takes them all.
    let written = graph.serialize(&mut serializer);
    debug_assert!(written.is_ok(), "{written:?}");
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads a graph. Edges of unknown kinds are left out, and their steps are opaque. None if the text
/// is no graph.
pub(super) fn read(text: &str) -> Option<Graph<String>> {
    let mut graph: Value = serde_json::from_str(text).ok()?;
    let handle = graph.get_mut("handle").map(Value::take).unwrap_or_default();
    let steps = graph.get_mut("steps").map(Value::take).unwrap_or_default();
    let Value::Array(mut steps) = steps else { return None };
    let mut handle = vec![handle];
    for step in steps.iter_mut().chain(&mut handle) {
        let Some(edges) = step.get_mut("edges").and_then(Value::as_array_mut) else { continue };
        let all = edges.len();
        edges.retain(|edge| Edge::<String>::deserialize(edge).is_ok());
        if edges.len() < all {
            step["opaque"] = true.into();
        }
    }
    graph["steps"] = steps.into();
    graph["handle"] = handle.pop()?;
    serde_json::from_value(graph).ok()
}

/// Writes each other character than those of ASCII as an escape, and a NUL as the character that
/// stands for one.
struct Ascii(CompactFormatter);

impl Formatter for Ascii {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut units = [0; 2];
        for letter in fragment.chars() {
            if letter.is_ascii() {
                write!(writer, "{letter}")?;
                continue;
            }
            for unit in letter.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }

    fn write_char_escape<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::AsciiControl(0) => writer.write_all(b"\\ufffd"),
            escape => self.0.write_char_escape(writer, escape),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{Edge, Graph, StepNode},
        read,
    };
    use crate::machine::limit::StepLimit;

    fn graph(steps: Vec<StepNode>) -> Graph {
        Graph { machine: "order", version: 2, initial: "pay", steps, on_cancel: None, handle: None }
    }

    /// The names and fields are what tools read. A change of them breaks tools.
    #[test]
    fn every_kind_of_edge_has_its_stable_form() {
        let edges = [
            Edge::next("ship"),
            Edge::Next { step: "ship", delayed: true },
            Edge::Replay,
            Edge::Snooze,
            Edge::Await { signal: "paid", timeout: true },
            Edge::Done,
            Edge::Stop,
            Edge::Inserts { machine: Some("Parcel") },
            Edge::Spawns { machine: None },
            Edge::Sends { machine: Some("Parcel"), signal: None },
        ];
        let pay = StepNode { variant: Some("Pay"), ..StepNode::new("pay", edges) };
        let ship = StepNode::new("ship", []).opaque().entry().transactional();
        let limit = StepLimit::new("stripe").weight(3).keyed();
        let mut graph = graph(vec![pay, ship.limit(limit)]);
        graph.handle = Some(StepNode::new("handle", [Edge::Replay]));
        let read: serde_json::Value = serde_json::from_str(&graph.to_json()).expect("JSON");
        let expected = json!({
            "machine": "order", "version": 2, "initial": "pay",
            "steps": [
                {
                    "name": "pay", "variant": "Pay", "opaque": false, "entry": false,
                    "transactional": false, "limit": null,
                    "edges": [
                        { "kind": "next", "step": "ship", "delayed": false },
                        { "kind": "next", "step": "ship", "delayed": true },
                        { "kind": "replay" },
                        { "kind": "snooze" },
                        { "kind": "await", "signal": "paid", "timeout": true },
                        { "kind": "done" },
                        { "kind": "stop" },
                        { "kind": "inserts", "machine": "Parcel" },
                        { "kind": "spawns", "machine": null },
                        { "kind": "sends", "machine": "Parcel", "signal": null },
                    ],
                },
                {
                    "name": "ship", "variant": null, "opaque": true, "entry": true,
                    "transactional": true, "edges": [],
                    "limit": { "name": "stripe", "weight": 3, "keyed": true },
                },
            ],
            "on_cancel": null,
            "handle": {
                "name": "handle", "variant": null, "opaque": false, "entry": false,
                "transactional": false, "limit": null, "edges": [{ "kind": "replay" }],
            },
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn a_graph_is_read_back() {
        let edges = [
            Edge::Next { step: "ship", delayed: true },
            Edge::Replay,
            Edge::Snooze,
            Edge::Await { signal: "paid", timeout: true },
            Edge::Done,
            Edge::Stop,
            Edge::Inserts { machine: Some("Parcel") },
            Edge::Spawns { machine: None },
            Edge::Sends { machine: Some("Parcel"), signal: None },
        ];
        let limit = StepLimit::new("stripe").weight(3).keyed();
        let pay = StepNode::new("pay \u{fc}", edges).entry().transactional().limit(limit);
        let mut graph = graph(vec![pay, StepNode::new("ship", []).opaque()]);
        for handle in [None, Some(StepNode::new("handle", [Edge::Stop]))] {
            graph.handle = handle;
            let read = read(&graph.to_json()).expect("a graph");
            assert_eq!(read.to_json(), graph.to_json());
            assert_eq!(read.to_mermaid(), graph.to_mermaid());
            assert_eq!(read.to_dot(), graph.to_dot());
            assert!(read.step("ship").is_some_and(|step| step.opaque));
        }
    }

    #[test]
    fn what_a_later_version_adds_is_left_out() {
        let graph = graph(vec![StepNode::new("pay", [Edge::Stop, Edge::Done])]);
        let text = graph.to_json().replace("\"stop\"", "\"split\",\"ways\":2");
        let read = read(&text.replace("\"version\"", "\"colour\":1,\"version\"")).expect("a graph");
        let pay = read.step("pay").expect("the step");
        assert_eq!((pay.opaque, &pay.edges[..]), (true, &[Edge::Done][..]));
        for text in ["", "{}", "null", "[]", "{\"steps\":[],\"machine\":1}"] {
            assert_eq!(super::read(text), None, "{text}");
        }
    }

    #[test]
    fn any_name_is_written_in_ascii() {
        let text = graph(vec![StepNode::new("f\u{fc}\u{df}e \u{1f600} \"\\ \0\n", [])]).to_json();
        assert!(text.is_ascii(), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["steps"][0]["name"], "f\u{fc}\u{df}e \u{1f600} \"\\ \u{fffd}\n");
    }
}
