impl Checkout
where
    Self: ::gen_durable::__private::Machine,
{
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
            _ => ::gen_durable::__private::no_such_step(),
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
        >(&["start next await_pay", "await_pay done"]);
        let graph = graph.on_error(::gen_durable::__private::node("handle stop"));
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
    const _: () = CHECKS.step_has_variant(1usize, "await_pay", "AwaitPay");
    const _: () = CHECKS
        .is_no_step(
            "helper",
            "the step `helper` must take the context first: write `async fn helper(cx: Context<Self>)`, and resources behind it",
        );
};
