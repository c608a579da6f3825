//! `tree`: shows the instances that report to each other.
//!
//! Invariant: a tree that may be incomplete says so on standard error.

use std::collections::HashMap;

use gen_durable::{
    Client,
    operate::{Tree as Found, TreeNode},
};

use super::ls;
use crate::{
    choice::Address,
    failure::Failure,
    print::{Cell, Out, Table, left, maybe, note},
};

/// Show the instances to which an instance reports, and those that report to it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gen-durable tree 42
  gen-durable tree 42 -o ids")]
pub(crate) struct Tree {
    /// The instance: an id, or MACHINE/KEY for the one that holds a unique key.
    #[arg(value_name = "INSTANCE")]
    target: String,
}

/// A line of the tree.
struct Line<'a> {
    node: &'a TreeNode,
    /// The branches before the id.
    branches: String,
    /// The generation: 0 for the instance itself, negative for those that it reports to.
    generation: i64,
}

impl Tree {
    pub(crate) async fn run(self, client: &Client, out: &mut Out) -> Result<(), Failure> {
        let id = Address::read(&self.target)?.id(client).await?;
        let tree = client.instance_by_id(id).tree().await?;
        let table = Table::new([
            left("INSTANCE"),
            left("MACHINE"),
            left("STEP"),
            left("STATUS"),
            maybe("KEY"),
            maybe("ERROR"),
        ]);
        let row = |line: &Line<'_>| {
            let entry = &line.node.entry;
            let mark = if entry.id == id { " ◀" } else { "" };
            vec![
                Cell::plain(format!("{}{}{mark}", line.branches, entry.id)),
                Cell::plain(ls::machine(&entry.machine, entry.version)),
                Cell::plain(&entry.step),
                ls::status(entry.status),
                Cell::maybe(entry.unique_key.as_ref()),
                Cell::maybe(entry.last_error.as_ref()),
            ]
        };
        let json = |line: &Line<'_>| {
            let node = line.node;
            ls::json(&node.entry)
                .with("reports_to", node.reports_to)
                .with("generation", line.generation)
        };
        out.things(&lines(&tree), table, row, json, |line| Some(line.node.entry.id))?;
        if let Some(looked_to) = tree.looked_to {
            note(&format!(
                "the look was bounded: instances after {looked_to} that report to these are not shown"
            ));
        }
        Ok(())
    }
}

/// Returns the tree in lines: each instance before those that report to it.
fn lines(tree: &Found) -> Vec<Line<'_>> {
    let mut children: HashMap<i64, Vec<&TreeNode>> = HashMap::new();
    for node in &tree.descendants {
        children.entry(node.reports_to.unwrap_or_default()).or_default().push(node);
    }
    let line = tree.ancestors.iter().rev().chain([&tree.root]);
    let mut lines: Vec<Line<'_>> = line
        .enumerate()
        .map(|(depth, node)| Line {
            node,
            branches: branch(depth),
            generation: -i64::from(node.depth),
        })
        .collect();
    let own = tree.ancestors.len();
    // A stack, as a tree can be deep. The child that is shown first comes last.
    let mut stack: Vec<&TreeNode> = Vec::new();
    let mut children_of = tree.root.entry.id;
    loop {
        extend(&mut stack, children_of, &children);
        let Some(node) = stack.pop() else { break };
        let depth = own + usize::try_from(node.depth).unwrap_or(usize::MAX);
        let generation = i64::from(node.depth);
        lines.push(Line { node, branches: branch(depth), generation });
        children_of = node.entry.id;
    }
    lines
}

/// Puts the children of an instance on the stack.
fn extend<'a>(stack: &mut Vec<&'a TreeNode>, id: i64, children: &HashMap<i64, Vec<&'a TreeNode>>) {
    stack.extend(children.get(&id).into_iter().flatten().rev().copied());
}

/// The branch before an instance at this depth.
fn branch(depth: usize) -> String {
    if depth == 0 { String::new() } else { format!("{}└ ", "  ".repeat(depth - 1)) }
}
