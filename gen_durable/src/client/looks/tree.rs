//! An instance among those that report to each other.
//!
//! Invariant: the look is bounded. No index has the receivers of reports, so it examines the
//! instances that were inserted after the parent, and says how far.

use std::collections::{HashMap, HashSet};

use super::{
    super::{AnyId, Client, Entry, InstanceHandle},
    look,
};
use crate::{
    error::{DatabaseError, OperateError},
    storage::{self, Item, Reporting},
};

/// The most descendants in a tree.
const DESCENDANTS_MAX: usize = 1_000;
/// The most generations of descendants.
const GENERATIONS_MAX: u32 = 100;
/// The most batches of instances in which a call looks for descendants. Each has ten thousand
/// instances, and takes ten milliseconds or so.
const LOOKS_MAX: usize = 5;

const LOOK: &str = "look at the tree of an instance";

impl<A: AnyId + Clone> InstanceHandle<A> {
    /// Returns the instances to which this one reports, and those that report to it, directly or
    /// through others.
    ///
    /// Descendants are looked for among the 50,000 instances that were inserted after this one. If
    /// there are more, [`Tree::looked_to`] says how far the call has come.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let tree = client.instance_by_id(42).tree().await?;
    /// for node in tree.ancestors.iter().rev().chain([&tree.root]).chain(&tree.descendants) {
    ///     println!("{} {} at {}", node.entry.id, node.entry.status, node.entry.step);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`OperateError`]: the instance does not exist, or is of another machine; no instance holds
    /// the unique key; the database failed. It needs the rights of an operator or a worker.
    pub async fn tree(&self) -> Result<Tree, OperateError> {
        let client = &self.client;
        let id = client.id_of::<A, OperateError>(self.address.clone()).await?;
        let machine = A::machine().unwrap_or_default().to_owned();
        let id = id.map_err(|key| OperateError::NoHolder { machine, key })?;
        let mut line =
            look(client, LOOK, async |connection| storage::ancestors(connection, id).await).await?;
        // Ids that somebody has set can make a circle.
        let mut seen = HashSet::new();
        line.retain(|(id, _)| seen.insert(*id));
        let found = Descendants::find(client, id).await?;
        let ids: Vec<i64> =
            line.iter().map(|(id, _)| *id).chain(found.nodes.iter().map(|node| node.id)).collect();
        let items =
            look(client, LOOK, async |connection| storage::list_instances(connection, &ids).await);
        let mut items: HashMap<i64, Item> =
            items.await?.into_iter().map(|item| (item.id, item)).collect();
        let mut node = |(id, reports_to): Reporting, depth| {
            Some(TreeNode { entry: Entry::of(items.remove(&id)?)?, reports_to, depth })
        };
        let mut line = line.into_iter();
        let root =
            line.next().and_then(|root| node(root, 0)).ok_or(OperateError::Unknown { id })?;
        if let Some(expected) = A::machine()
            && root.entry.machine != expected
        {
            let found = root.entry.machine;
            return Err(OperateError::WrongMachine { id, expected: expected.to_owned(), found });
        }
        Ok(Tree {
            root,
            ancestors: line.zip(1..).filter_map(|(line, height)| node(line, height)).collect(),
            descendants: (found.nodes.iter())
                .filter_map(|found| node((found.id, Some(found.parent)), found.depth))
                .collect(),
            looked_to: found.looked_to,
        })
    }
}

/// A descendant that was found.
struct Descendant {
    id: i64,
    parent: i64,
    depth: u32,
}

struct Descendants {
    nodes: Vec<Descendant>,
    looked_to: Option<i64>,
}

impl Descendants {
    /// Looks for the descendants of an instance in the order of their ids: a child has a higher id
    /// than its parent, so one pass finds all generations.
    async fn find(client: &Client, root: i64) -> Result<Self, DatabaseError> {
        let mut depths = HashMap::from([(root, 0_u32)]);
        let (mut nodes, mut looked_to) = (Vec::new(), None);
        for _ in 0..LOOKS_MAX {
            let after = looked_to.unwrap_or(root);
            let (rows, edge) =
                look(client, LOOK, async |connection| storage::reporting(connection, after).await)
                    .await?;
            for (id, parent) in rows {
                let Some(depth) = depths.get(&parent).map(|depth| depth + 1) else { continue };
                if nodes.len() == DESCENDANTS_MAX {
                    return Ok(Self { nodes, looked_to: Some(id - 1) });
                }
                if depth <= GENERATIONS_MAX {
                    depths.insert(id, depth);
                    nodes.push(Descendant { id, parent, depth });
                }
            }
            looked_to = edge;
            if looked_to.is_none() {
                break;
            }
        }
        Ok(Self { nodes, looked_to })
    }
}

/// An instance, those to which it reports, and those that report to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tree {
    /// The instance.
    pub root: TreeNode,
    /// The instance to which it reports, the receiver of that one, and so on, up to 100. The chain
    /// also ends at a receiver that was deleted, or that is in it already.
    pub ancestors: Vec<TreeNode>,
    /// The instances that report to it, directly or through others, in the order of their ids, up
    /// to 1,000 and up to 100 generations. A deleted one is missing, with those that report to it.
    pub descendants: Vec<TreeNode>,
    /// The id of the last instance that the call has examined. None if it has examined all.
    pub looked_to: Option<i64>,
}

/// An instance in a [`Tree`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TreeNode {
    /// The instance.
    pub entry: Entry,
    /// The instance that gets the report of its end.
    pub reports_to: Option<i64>,
    /// The number of reports between it and the instance that was asked for: 1 for a child, and for
    /// the parent.
    pub depth: u32,
}
