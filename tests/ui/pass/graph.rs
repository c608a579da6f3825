//! The graph is read from the code, and steps that nobody can be sure about are not warned of.

#![deny(warnings)]

use gen_durable::{
    graph::{Edge, Graph, StepNode},
    prelude::*,
};

#[durable_fsm(output = ())]
pub enum Told {
    Start,
    #[cfg(any())]
    Away,
    Ship,
    Cancel,
}

#[durable_fsm]
impl Told {
    #[step(next(Ship, Cancel))]
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        let ship = cx.attempt() == 0;
        go(cx, if ship { Told::Ship } else { Told::Cancel })
    }

    #[cfg(any())]
    async fn away(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Cancel)
    }

    async fn cancel(cx: Context<Self>) -> Outcome<Self> {
        #[cfg(any())]
        return cx.next(Told::Away);
        cx.done(())
    }
}

use self::Told::Cancel;

fn go(cx: Context<Told>, target: Told) -> Outcome<Told> {
    cx.next(target)
}

/// Any step may be where `start` goes.
#[durable_fsm(output = ())]
pub enum Untold {
    Start,
    Ship,
    Cancel,
}

#[durable_fsm]
impl Untold {
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        let target = if cx.attempt() == 0 { Untold::Ship } else { Untold::Cancel };
        cx.next(target)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn cancel(cx: Context<Self>) -> Outcome<Self> {
        cx.stop("cancelled")
    }
}

#[durable_fsm(output = ())]
#[allow(unused_must_use)]
pub enum Allowed {
    Start,
    Never,
}

#[durable_fsm]
impl Allowed {
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn never(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// A step of its own called like the function of the trait.
#[durable_fsm(output = ())]
pub enum Plot {
    Graph,
}

#[durable_fsm]
impl Plot {
    async fn graph(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

fn main() {
    let expected = Graph::new::<Told>([
        StepNode::new("start", [Edge::next("ship"), Edge::next("cancel")]),
        StepNode::new("ship", [Edge::next("cancel")]),
        StepNode::new("cancel", [Edge::Done]),
    ]);
    assert_eq!(Told::graph(), expected);
    assert!(expected.is_complete());
    assert!(Untold::graph().step("start").is_some_and(|start| start.opaque));
    assert!(!Untold::graph().is_complete());
    assert_eq!(Allowed::graph().steps.len(), 2);
    assert_eq!(<Plot as Steps>::graph().initial, "graph");
}
