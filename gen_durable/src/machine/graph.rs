//! The graph of a machine: where its steps go, what they await and send, and how they end.
//!
//! Invariant: a graph tells all that is known, and says where more may be. If a step is not
//! `opaque`, it has no other edges than those shown.

mod json;
mod text;

use serde::{Deserialize, Serialize};

use super::{Machine, limit::StepLimit};

/// The graph of a machine, given by [`Steps::graph`](crate::Steps::graph).
///
/// `#[durable_fsm]` reads it from the steps' code: from the calls on their context, wherever they
/// stand in the body. A step whose code does not tell all is [`opaque`](StepNode::opaque): its
/// context is handed to a function, say, or a target is a variable. `#[step(next(…))]` declares the
/// targets of such a step. The documentation shows the same graph as a diagram, on the enum's page
/// at `impl Steps`.
///
/// ```
/// use gen_durable::{graph::Edge, prelude::*};
///
/// # #[derive(DurableSignal)]
/// # pub struct Paid;
/// #[durable_fsm(output = (), signals(Paid))]
/// pub enum Order {
///     AwaitPay,
///     Ship,
/// }
///
/// #[durable_fsm]
/// impl Order {
///     async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
///         if cx.take_signal::<Paid>()?.is_none() {
///             return Ok(cx.await_signal::<Paid>());
///         }
///         Ok(cx.next(Order::Ship))
///     }
///
///     async fn ship(cx: Context<Self>) -> Outcome<Self> {
///         cx.done(())
///     }
/// }
///
/// let graph = Order::graph();
/// assert_eq!(graph.initial, "await_pay");
/// let ship = graph.step("ship").unwrap();
/// assert_eq!((ship.variant, &ship.edges[..]), (Some("Ship"), &[Edge::Done][..]));
/// assert_eq!(
///     graph.to_mermaid(),
///     "stateDiagram-v2
///     [*] --> await_pay
///     await_pay --> await_pay: await paid
///     await_pay --> ship
///     ship --> [*]: done
/// "
/// );
/// ```
///
/// A machine that is written by hand states its graph with the same functions:
///
/// ```
/// # use gen_durable::{graph::{Edge, Graph, StepNode}, machine::Machine};
/// # fn graph<M: Machine>() -> Graph {
/// Graph::new::<M>([
///     StepNode::new("pack", [Edge::next("ship"), Edge::Replay]),
///     StepNode::new("ship", [Edge::Done]),
/// ])
/// # }
/// ```
///
/// A graph that was read back from the database
/// ([`MachineEntry::graph`](crate::operate::MachineEntry::graph)) is the same with names of type
/// `String`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Graph<S = &'static str> {
    /// The machine's name.
    pub machine: S,
    /// The machine's version.
    pub version: u32,
    /// The step that an instance begins with.
    pub initial: S,
    /// The steps, in the order of their functions.
    pub steps: Vec<StepNode<S>>,
    /// The step with which an instance answers a cancel. None if a cancel ends the instance.
    pub on_cancel: Option<S>,
    /// The ways to go on after an error in any step, as a node that is named `handle`. None if an
    /// error stops the instance.
    pub handle: Option<StepNode<S>>,
}

/// A step in a [`Graph`], or `handle`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepNode<S = &'static str> {
    /// The step's name, as stored.
    pub name: S,
    /// The enum's variant, as the code names it. None if it is not known: for `handle`, and for a
    /// machine that is written by hand and does not state its [`VARIANTS`](Machine::VARIANTS).
    pub variant: Option<S>,
    /// The ways out of the step, each once.
    pub edges: Vec<Edge<S>>,
    /// True if there may be others.
    pub opaque: bool,
    /// True if instances are inserted at this step: it says `#[step(entry)]`.
    pub entry: bool,
    /// True if the step takes a `&mut PgConnection`, and so runs in the transaction that commits
    /// its outcome.
    pub transactional: bool,
    /// The limit that bounds the runs of the step.
    pub limit: Option<StepLimit<S>>,
}

/// A way out of a step, or a message that goes out with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Edge<S = &'static str> {
    /// Goes to another step.
    Next {
        /// The name of that step.
        step: S,
        /// True if it goes there after a delay, by [`next_in`](crate::Context::next_in).
        delayed: bool,
    },
    /// Runs the same step again, with one more attempt.
    Replay,
    /// Runs the same step again later, at the same attempt.
    Snooze,
    /// Parks until a signal arrives. There is one edge for each signal that is awaited.
    Await {
        /// The signal's name: that of its type in `snake_case`, even if the type says
        /// `#[durable(name = "…")]`; `ended(parcel)` for `Ended<Parcel>`.
        signal: S,
        /// True if a timeout may come first.
        timeout: bool,
    },
    /// Ends with a result.
    Done,
    /// Ends as failed.
    Stop,
    /// Inserts instances of a machine with the outcome.
    Inserts {
        /// The name of the machine's type; none if the code does not tell.
        machine: Option<S>,
    },
    /// Inserts instances of a machine with the outcome, which report their end to this one.
    Spawns {
        /// The name of the machine's type; none if the code does not tell.
        machine: Option<S>,
    },
    /// Sends a signal with the outcome.
    Sends {
        /// The name of the type of the machine that gets it; none if the code does not tell.
        machine: Option<S>,
        /// The signal's name; none if the code does not tell.
        signal: Option<S>,
    },
}

impl Edge {
    /// Makes an edge to another step, at once.
    pub const fn next(step: &'static str) -> Self {
        Self::Next { step, delayed: false }
    }

    /// Makes an edge that parks until this signal arrives.
    pub const fn wait(signal: &'static str) -> Self {
        Self::Await { signal, timeout: false }
    }
}

impl StepNode {
    /// Makes a step with these ways out of it.
    pub fn new(name: &'static str, edges: impl IntoIterator<Item = Edge>) -> Self {
        Self {
            name,
            variant: None,
            edges: edges.into_iter().collect(),
            opaque: false,
            entry: false,
            transactional: false,
            limit: None,
        }
    }

    /// States that there may be other ways out of the step.
    #[must_use]
    pub fn opaque(mut self) -> Self {
        self.opaque = true;
        self
    }

    /// States that instances are inserted at this step.
    #[must_use]
    pub fn entry(mut self) -> Self {
        self.entry = true;
        self
    }

    /// States that the step runs in a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.transactional = true;
        self
    }

    /// States that this limit bounds the runs of the step.
    #[must_use]
    pub fn limit(mut self, limit: StepLimit) -> Self {
        self.limit = Some(limit);
        self
    }
}

impl Graph {
    /// Makes the graph of `M` with these steps. An edge to a step that `M` does not have is left
    /// out.
    pub fn new<M: Machine>(steps: impl IntoIterator<Item = StepNode>) -> Self {
        Self::of(&Names::of::<M>(), steps.into_iter().collect())
    }

    pub(crate) fn of(names: &Names, mut steps: Vec<StepNode>) -> Self {
        for step in &mut steps {
            names.complete(step);
        }
        Self {
            machine: names.machine,
            version: names.version,
            initial: names.initial,
            on_cancel: names.on_cancel,
            steps,
            handle: names.retried.then(|| StepNode::new("handle", [Edge::Replay, Edge::Stop])),
        }
    }

    /// Sets the ways to go on after an error in any step.
    #[must_use]
    pub fn on_error(mut self, handle: StepNode) -> Self {
        self.handle = Some(handle);
        self
    }

    /// Makes the graph of a machine of which only the steps' names are known.
    pub fn opaque<M: Machine>() -> Self {
        Self::new::<M>(M::STEPS.iter().map(|step| StepNode::new(step, []).opaque()))
            .on_error(StepNode::new("handle", []).opaque())
    }

    /// Returns the steps that await a signal without a timeout, and lead to no other step and no
    /// end.
    pub(crate) fn dead_ends(&self) -> Vec<&'static str> {
        let parks = |edge: &Edge| matches!(edge, Edge::Await { timeout: false, .. });
        let leaves = |edge: &Edge| match edge {
            Edge::Next { .. } | Edge::Done | Edge::Stop | Edge::Await { timeout: true, .. } => true,
            Edge::Await { .. }
            | Edge::Replay
            | Edge::Snooze
            | Edge::Inserts { .. }
            | Edge::Spawns { .. }
            | Edge::Sends { .. } => false,
        };
        let stuck = |step: &&StepNode| {
            !step.opaque && step.edges.iter().any(parks) && !step.edges.iter().any(leaves)
        };
        self.steps.iter().filter(stuck).map(|step| step.name).collect()
    }
}

impl<S: AsRef<str>> Graph<S> {
    /// Returns the step of this name.
    pub fn step(&self, name: &str) -> Option<&StepNode<S>> {
        self.steps.iter().find(|step| step.name.as_ref() == name)
    }

    /// True if every way out of every step is known.
    pub fn is_complete(&self) -> bool {
        self.nodes().all(|step| !step.opaque)
    }

    /// Yields the steps, and then `handle`.
    fn nodes(&self) -> impl Iterator<Item = &StepNode<S>> {
        self.steps.iter().chain(&self.handle)
    }

    /// Returns a state diagram for [mermaid](https://mermaid.js.org).
    pub fn to_mermaid(&self) -> String {
        text::mermaid(&self.borrowed())
    }

    /// Returns the graph as a JSON object, in ASCII. An engine stores it in the table
    /// `gen_durable.machines` at its start, so a tool can draw the machine without the user's code.
    ///
    /// The object has the fields of [`Graph`], a step those of [`StepNode`], and its limit those of
    /// [`StepLimit`]. An edge has its [`Edge`]'s name in `snake_case` as its `kind`, beside its
    /// fields. A part that is not known or not there is null. Later versions of this library may
    /// add fields and kinds.
    ///
    /// ```
    /// use gen_durable::{graph::{Edge, Graph, StepNode}, prelude::*};
    /// # #[durable_fsm(output = ())]
    /// # pub enum Order { Ship }
    /// # #[durable_fsm]
    /// # impl Order { async fn ship(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
    ///
    /// assert_eq!(
    ///     Graph::new::<Order>([StepNode::new("ship", [Edge::wait("paid"), Edge::Done])])
    ///         .to_json(),
    ///     r#"{"machine":"order","version":1,"initial":"ship","steps":["#.to_owned()
    ///         + r#"{"name":"ship","variant":"Ship","edges":["#
    ///         + r#"{"kind":"await","signal":"paid","timeout":false},{"kind":"done"}],"#
    ///         + r#""opaque":false,"entry":false,"transactional":false,"limit":null}],"#
    ///         + r#""on_cancel":null,"handle":null}"#
    /// );
    /// ```
    pub fn to_json(&self) -> String {
        json::text(&self.borrowed())
    }

    /// Returns a diagram for [Graphviz](https://graphviz.org).
    pub fn to_dot(&self) -> String {
        text::dot(&self.borrowed())
    }

    /// Returns the same graph with borrowed names. The code that writes graphs is thereby not
    /// generic.
    fn borrowed(&self) -> Graph<&str> {
        Graph {
            machine: self.machine.as_ref(),
            version: self.version,
            initial: self.initial.as_ref(),
            steps: self.steps.iter().map(StepNode::borrowed).collect(),
            on_cancel: self.on_cancel.as_ref().map(S::as_ref),
            handle: self.handle.as_ref().map(StepNode::borrowed),
        }
    }
}

impl<S: AsRef<str>> StepNode<S> {
    fn borrowed(&self) -> StepNode<&str> {
        StepNode {
            name: self.name.as_ref(),
            variant: self.variant.as_ref().map(S::as_ref),
            edges: self.edges.iter().map(Edge::borrowed).collect(),
            opaque: self.opaque,
            entry: self.entry,
            transactional: self.transactional,
            limit: self.limit.as_ref().map(StepLimit::borrowed),
        }
    }
}

impl<S: AsRef<str>> Edge<S> {
    fn borrowed(&self) -> Edge<&str> {
        match self {
            Self::Next { step, delayed } => Edge::Next { step: step.as_ref(), delayed: *delayed },
            Self::Replay => Edge::Replay,
            Self::Snooze => Edge::Snooze,
            Self::Await { signal, timeout } => {
                Edge::Await { signal: signal.as_ref(), timeout: *timeout }
            }
            Self::Done => Edge::Done,
            Self::Stop => Edge::Stop,
            Self::Inserts { machine } => Edge::Inserts { machine: machine.as_ref().map(S::as_ref) },
            Self::Spawns { machine } => Edge::Spawns { machine: machine.as_ref().map(S::as_ref) },
            Self::Sends { machine, signal } => Edge::Sends {
                machine: machine.as_ref().map(S::as_ref),
                signal: signal.as_ref().map(S::as_ref),
            },
        }
    }
}

impl Graph<String> {
    /// Reads what [`to_json`](Self::to_json) wrote, perhaps in a later version of this library. An
    /// edge of a kind that this version does not know is left out, and its step counts as opaque.
    pub(crate) fn from_json(text: &str) -> Option<Self> {
        json::read(text)
    }
}

/// The trait that the compiler names in its warning of a step that nothing leads to. It has no
/// other use.
///
/// Generated code drops a value of it, as an opaque type, at the variant of each such step, and the
/// lint `unused_must_use` reports that. A macro on a stable compiler cannot give a warning of its
/// own.
#[must_use = "no step goes here, and instances do not begin here: remove the variant, go to it from a step, or put `#[step(entry)]` on its function if instances are inserted at it or upgraded to it"]
pub trait UnreachableStep {}

/// The parts of a machine that its graph needs. The code that uses them is not generic: it would be
/// compiled again for each machine, with the user's crate.
pub(crate) struct Names {
    machine: &'static str,
    version: u32,
    initial: &'static str,
    on_cancel: Option<&'static str>,
    steps: &'static [&'static str],
    variants: &'static [&'static str],
    retried: bool,
}

impl Names {
    pub(crate) fn of<M: Machine>() -> Self {
        Self {
            machine: M::NAME,
            version: M::VERSION,
            initial: M::INITIAL.name(),
            on_cancel: M::ON_CANCEL.map(|step| step.name()),
            steps: M::STEPS,
            variants: M::VARIANTS,
            retried: M::RETRY.is_some(),
        }
    }

    /// Gives a step its variant, and drops its edges to steps that the configuration has left out.
    fn complete(&self, step: &mut StepNode) {
        let index = self.steps.iter().position(|name| *name == step.name);
        step.variant = index.and_then(|index| self.variants.get(index).copied());
        step.edges.retain(|edge| match edge {
            Edge::Next { step, .. } => self.steps.contains(step),
            _ => true,
        });
    }
}
