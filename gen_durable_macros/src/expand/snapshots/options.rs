impl Checkout {
    #[allow(clippy::unused_async)]
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        go(cx)
    }
    #[allow(clippy::unused_async)]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}
#[automatically_derived]
impl ::gen_durable::__private::StepsInOneImplBlock for Checkout {
    const FUNCTIONS: ::gen_durable::__private::Functions = ::gen_durable::__private::Functions {
        steps: &["start", "ship"],
        others: &[],
        handle: false,
        islands: &[&["start"]],
    };
}
/**The graph of its steps:

```mermaid
stateDiagram-v2
    state "an error in any step" as handle
    [*] --> start
    start --> ship
    ship --> [*]: done
    handle --> handle: replay
    handle --> [*]: stop
```
*/
#[automatically_derived]
#[allow(clippy::all, clippy::pedantic, clippy::nursery)]
impl ::gen_durable::__private::Steps for Checkout {
    fn run<'a>(
        self,
        cx: ::gen_durable::__private::Context<Self>,
        resources: &'a ::gen_durable::__private::Resources,
    ) -> ::gen_durable::__private::StepFuture<'a, Self> {
        let _ = resources;
        match ::gen_durable::__private::Machine::name(&self) {
            "start" => {
                ::gen_durable::__private::Box::pin(async move {
                    let returned = Self::start(cx).await;
                    ::gen_durable::__private::going_to(
                        ::gen_durable::__private::IntoStepResult::<
                            Self,
                        >::into_step_result(returned),
                        &["ship"],
                    )
                })
            }
            "ship" => {
                ::gen_durable::__private::Box::pin(async move {
                    let returned = Self::ship(cx).await;
                    ::gen_durable::__private::IntoStepResult::<
                        Self,
                    >::into_step_result(returned)
                })
            }
            _ => ::core::unreachable!(),
        }
    }
    fn timeout(
        &self,
    ) -> ::gen_durable::__private::Option<::gen_durable::__private::Duration> {
        match ::gen_durable::__private::Machine::name(self) {
            "start" => {
                ::gen_durable::__private::Some(
                    ::gen_durable::__private::Duration::new(30u64, 0u32),
                )
            }
            _ => <Self as ::gen_durable::__private::Machine>::TIMEOUT,
        }
    }
    fn retry(
        &self,
    ) -> ::gen_durable::__private::Option<::gen_durable::__private::Retry> {
        match ::gen_durable::__private::Machine::name(self) {
            "ship" => {
                ::gen_durable::__private::Some(
                    ::gen_durable::__private::Retry::linear(
                            ::gen_durable::__private::Duration::new(1u64, 0u32),
                        )
                        .max_attempts(3u32)
                        .max(::gen_durable::__private::Duration::new(300u64, 0u32)),
                )
            }
            _ => <Self as ::gen_durable::__private::Machine>::RETRY,
        }
    }
    fn graph() -> ::gen_durable::__private::Graph {
        let graph = ::gen_durable::__private::graph::<
            Self,
        >([
            ::gen_durable::__private::StepNode::new(
                "start",
                [
                    ::gen_durable::__private::Edge::Next {
                        step: "ship",
                        delayed: false,
                    },
                ],
            ),
            ::gen_durable::__private::StepNode::new(
                    "ship",
                    [::gen_durable::__private::Edge::Done],
                )
                .entry(),
        ]);
        let graph = graph
            .on_error(
                ::gen_durable::__private::StepNode::new(
                    "handle",
                    [
                        ::gen_durable::__private::Edge::Replay,
                        ::gen_durable::__private::Edge::Stop,
                    ],
                ),
            );
        graph
    }
}
const _: () = {
    const STEPS: &[&::gen_durable::__private::str] = <Checkout as ::gen_durable::__private::Machine>::STEPS;
    const FUNCTIONS: ::gen_durable::__private::Functions = <Checkout as ::gen_durable::__private::StepsInOneImplBlock>::FUNCTIONS;
    const _: () = ::gen_durable::__private::step_has_variant(
        STEPS,
        &FUNCTIONS,
        "start",
        "step `start` has no variant: add `Start` to `enum Checkout`; a function that is no step goes in an impl block without `#[durable_fsm]`",
    );
    const _: () = ::gen_durable::__private::step_has_variant(
        STEPS,
        &FUNCTIONS,
        "ship",
        "step `ship` has no variant: add `Ship` to `enum Checkout`; a function that is no step goes in an impl block without `#[durable_fsm]`",
    );
};
