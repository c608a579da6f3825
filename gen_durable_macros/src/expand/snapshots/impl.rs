impl Checkout {
    #[allow(clippy::unused_async)]
    async fn start(mut cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::AwaitPay)
    }
    #[allow(clippy::unused_async)]
    async fn await_pay(cx: Context<Self>, carrier: &Carrier) -> StepResult<Self> {
        helper();
        Ok(cx.done(Receipt {}))
    }
    #[allow(clippy::unused_async)]
    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
    fn helper() {}
}
#[automatically_derived]
impl ::gen_durable::__private::StepsInOneImplBlock for Checkout {
    const FUNCTIONS: ::gen_durable::__private::Functions = ::gen_durable::__private::Functions {
        steps: &["start", "await_pay"],
        others: &["helper"],
        handle: true,
        islands: &[&["start"]],
    };
}
/**The graph of its steps:

```mermaid
stateDiagram-v2
    state "an error in any step" as handle
    [*] --> start
    start --> await_pay
    await_pay --> [*]: done
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
                    ::gen_durable::__private::IntoStepResult::<
                        Self,
                    >::into_step_result(returned)
                })
            }
            "await_pay" => {
                ::gen_durable::__private::Box::pin(async move {
                    let returned = Self::await_pay(cx, resources.get::<Carrier>()).await;
                    ::gen_durable::__private::IntoStepResult::<
                        Self,
                    >::into_step_result(returned)
                })
            }
            _ => ::core::unreachable!(),
        }
    }
    fn handle<'a>(
        cx: ::gen_durable::__private::Context<Self>,
        error: ::gen_durable::__private::StepError,
        resources: &'a ::gen_durable::__private::Resources,
    ) -> ::gen_durable::__private::StepFuture<'a, Self> {
        let _ = resources;
        ::gen_durable::__private::Box::pin(async move {
            let returned = Self::handle(cx, error).await;
            ::gen_durable::__private::IntoStepResult::<Self>::into_step_result(returned)
        })
    }
    fn requirements() -> ::gen_durable::__private::Vec<
        ::gen_durable::__private::Requirement,
    > {
        ::gen_durable::__private::Vec::from([
            ::gen_durable::__private::Requirement::of::<Carrier>("await_pay"),
        ])
    }
    fn graph() -> ::gen_durable::__private::Graph {
        let graph = ::gen_durable::__private::graph::<
            Self,
        >([
            ::gen_durable::__private::StepNode::new(
                "start",
                [
                    ::gen_durable::__private::Edge::Next {
                        step: "await_pay",
                        delayed: false,
                    },
                ],
            ),
            ::gen_durable::__private::StepNode::new(
                "await_pay",
                [::gen_durable::__private::Edge::Done],
            ),
        ]);
        let graph = graph
            .on_error(
                ::gen_durable::__private::StepNode::new(
                    "handle",
                    [::gen_durable::__private::Edge::Stop],
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
        "await_pay",
        "step `await_pay` has no variant: add `AwaitPay` to `enum Checkout`; a function that is no step goes in an impl block without `#[durable_fsm]`",
    );
    const _: () = ::gen_durable::__private::is_no_step(
        STEPS,
        "helper",
        "the step `helper` must take the context first: write `async fn helper(cx: Context<Self>)`, and resources behind it",
    );
};
