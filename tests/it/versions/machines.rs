//! One machine in three versions. Each step adds an entry to the trail in the state, and `plan`
//! says what the first step does.

use std::sync::Arc;

use crate::support::Breakpoint;

/// The breakpoint, at which steps stop if their plan says so.
#[derive(Debug)]
pub struct Stops(pub Arc<Breakpoint>);

impl Stops {
    async fn at(&self, plan: &str, id: i64) {
        if plan == "breakpoint" {
            self.0.pass(id).await;
        }
    }
}

pub mod v1 {
    use gen_durable::prelude::*;

    use super::Stops;

    #[derive(Clone, Debug, DurableState)]
    pub struct State {
        pub n: u32,
        pub plan: String,
        pub trail: Vec<String>,
    }

    impl State {
        pub fn new(n: u32, plan: &str) -> Self {
            Self { n, plan: plan.to_owned(), trail: Vec::new() }
        }
    }

    #[derive(Clone, Debug, DurableSignal)]
    pub struct Paid {
        pub amount: u32,
    }

    #[durable_fsm(version = 1, state = State, output = Vec<String>, signals(Paid))]
    pub enum Parcel {
        Start,
        Finish,
    }

    #[durable_fsm]
    impl Parcel {
        async fn start(mut cx: Context<Self>, stops: &Stops) -> StepResult<Self> {
            stops.at(&cx.state.plan, cx.id().get()).await;
            if cx.state.plan == "await" && cx.take_signal::<Paid>()?.is_none() {
                return Ok(cx.await_signal::<Paid>());
            }
            let attempt = match cx.attempt() {
                0 => String::new(),
                attempt => format!(", attempt {attempt}"),
            };
            cx.state.trail.push(format!("v1 start{attempt}"));
            Ok(cx.next(Parcel::Finish))
        }

        async fn finish(mut cx: Context<Self>) -> Outcome<Self> {
            cx.state.trail.push("v1 finish".to_owned());
            let trail = cx.state.trail.clone();
            cx.done(trail)
        }
    }
}

pub mod v2 {
    use std::time::Duration;

    use gen_durable::prelude::*;

    use super::{Stops, v1};

    const LATER: Duration = Duration::from_hours(1);

    #[derive(Clone, Debug, DurableState)]
    pub struct State {
        pub count: i64,
        pub plan: String,
        pub trail: Vec<String>,
    }

    impl State {
        pub fn new(count: i64, plan: &str) -> Self {
            Self { count, plan: plan.to_owned(), trail: Vec::new() }
        }
    }

    #[derive(Clone, Debug, DurableSignal)]
    pub struct Paid {
        pub amount: i64,
        #[serde(default)]
        pub currency: Option<String>,
    }

    #[durable_fsm(version = 2, state = State, output = Vec<String>, signals(Paid),
                  upgrades = v1::Parcel)]
    pub enum Parcel {
        Begin,
        Middle,
        Finish,
    }

    impl Upgrade<v1::Parcel> for Parcel {
        fn upgrade(
            step: v1::Parcel,
            state: v1::State,
        ) -> Result<(Self, Self::State), UpgradeError> {
            match state.plan.as_str() {
                "no upgrade" => return Err("this plan has no counterpart".into()),
                "panic" => panic!("an upgrade that gives up"),
                "nul" => return Ok((Parcel::Begin, State::new(1, "a\0b"))),
                _ => {}
            }
            let step = match step {
                v1::Parcel::Start => Parcel::Begin,
                v1::Parcel::Finish => Parcel::Finish,
            };
            let mut trail = state.trail;
            trail.push("v1 to v2".to_owned());
            Ok((step, State { count: state.n.into(), plan: state.plan, trail }))
        }
    }

    #[durable_fsm]
    impl Parcel {
        async fn begin(mut cx: Context<Self>, stops: &Stops) -> StepResult<Self> {
            stops.at(&cx.state.plan, cx.id().get()).await;
            match cx.state.plan.as_str() {
                "replay" => return Ok(cx.replay(LATER)),
                "stop" => return Ok(cx.stop("stopped")),
                "later" => return Ok(cx.next_in(Parcel::Middle, LATER)),
                "fail" => return Err(std::fmt::Error.into()),
                "await" => match cx.take_signal::<Paid>()? {
                    None => return Ok(cx.await_signal::<Paid>()),
                    Some(paid) => cx.state.trail.push(format!("paid {}", paid.amount)),
                },
                _ => {}
            }
            cx.state.trail.push("v2 begin".to_owned());
            Ok(cx.next(Parcel::Middle))
        }

        async fn middle(mut cx: Context<Self>, stops: &Stops) -> Outcome<Self> {
            stops.at(&cx.state.plan, cx.id().get()).await;
            cx.state.trail.push("v2 middle".to_owned());
            cx.next(Parcel::Finish)
        }

        async fn finish(mut cx: Context<Self>) -> Outcome<Self> {
            cx.state.trail.push("v2 finish".to_owned());
            let trail = cx.state.trail.clone();
            cx.done(trail)
        }

        async fn handle(cx: Context<Self>, _error: StepError) -> Outcome<Self> {
            cx.replay(LATER)
        }
    }
}

/// Version 2 with an upgrade that works.
pub mod mended {
    use gen_durable::prelude::*;

    use super::v1;

    #[durable_fsm(version = 2, state = serde_json::Value, output = String, upgrades = v1::Parcel)]
    pub enum Parcel {
        Begin,
    }

    impl Upgrade<v1::Parcel> for Parcel {
        fn upgrade(_: v1::Parcel, state: v1::State) -> Result<(Self, Self::State), UpgradeError> {
            Ok((Parcel::Begin, state.plan.into()))
        }
    }

    #[durable_fsm]
    impl Parcel {
        async fn begin(cx: Context<Self>) -> Outcome<Self> {
            let plan = cx.state.to_string();
            cx.done(plan)
        }
    }
}

pub mod v3 {
    use gen_durable::prelude::*;

    use super::v2;

    #[derive(Clone, Debug, DurableState)]
    pub struct State {
        pub total: f64,
        pub trail: Vec<String>,
    }

    impl State {
        pub fn new(count: u32, _plan: &str) -> Self {
            Self { total: count.into(), trail: Vec::new() }
        }
    }

    #[durable_fsm(version = 3, state = State, output = Vec<String>, upgrades = v2::Parcel)]
    pub enum Parcel {
        Begin,
        Finish,
    }

    impl Upgrade<v2::Parcel> for Parcel {
        fn upgrade(
            step: v2::Parcel,
            state: v2::State,
        ) -> Result<(Self, Self::State), UpgradeError> {
            let step = match step {
                v2::Parcel::Begin | v2::Parcel::Middle => Parcel::Begin,
                v2::Parcel::Finish => Parcel::Finish,
            };
            let total = i32::try_from(state.count)?.into();
            let mut trail = state.trail;
            trail.push("v2 to v3".to_owned());
            Ok((step, State { total, trail }))
        }
    }

    #[durable_fsm]
    impl Parcel {
        async fn begin(mut cx: Context<Self>) -> Outcome<Self> {
            cx.state.trail.push("v3 begin".to_owned());
            let trail = cx.state.trail.clone();
            cx.done(trail)
        }

        // Only an upgrade leads here.
        #[step(entry)]
        async fn finish(mut cx: Context<Self>) -> Outcome<Self> {
            cx.state.trail.push("v3 finish".to_owned());
            let trail = cx.state.trail.clone();
            cx.done(trail)
        }
    }
}
