impl Checkout
where
    Self: ::gen_durable::__private::Machine,
{
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
impl ::gen_durable::__private::Steps for Checkout
where
    Self: ::gen_durable::__private::Machine,
{
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
            _ => ::gen_durable::__private::no_such_step(),
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
        >(&["start next ship", "ship done entry"]);
        let graph = graph.on_error(::gen_durable::__private::node("handle replay stop"));
        graph
    }
}
const _: () = {
    const CHECKS: &::gen_durable::__private::Checks = &::gen_durable::__private::Checks {
        machine: "Checkout",
        steps: <Checkout as ::gen_durable::__private::Machine>::STEPS,
        functions: <Checkout as ::gen_durable::__private::StepsInOneImplBlock>::FUNCTIONS,
    };
    const _: () = CHECKS.step_has_variant(0usize, "start", "Start");
    const _: () = CHECKS.step_has_variant(1usize, "ship", "Ship");
};
