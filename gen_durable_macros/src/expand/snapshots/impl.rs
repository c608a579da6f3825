macro_rules! if_gen_durable_has_another_name_write_crate_equals_that_name {
    () => {
        use ::gen_durable::__private as __gen_durable_Checkout_start;
    };
}
if_gen_durable_has_another_name_write_crate_equals_that_name! {}
impl Checkout
where
    Self: __gen_durable_Checkout_start::Machine,
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
impl __gen_durable_Checkout_start::StepsInOneImplBlock for Checkout {
    const FUNCTIONS: __gen_durable_Checkout_start::Functions = __gen_durable_Checkout_start::Functions {
        steps: &["start", "await_pay"],
        others: &["helper"],
        handle: true,
        unreachable: &[&["start"]],
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
impl __gen_durable_Checkout_start::Steps for Checkout
where
    Self: __gen_durable_Checkout_start::Machine,
{
    fn run<'a>(
        self,
        cx: __gen_durable_Checkout_start::Context<Self>,
        resources: &'a __gen_durable_Checkout_start::Resources,
    ) -> __gen_durable_Checkout_start::StepFuture<'a, Self> {
        let _ = resources;
        match __gen_durable_Checkout_start::Machine::name(&self) {
            "start" => {
                __gen_durable_Checkout_start::Box::pin(async move {
                    let returned = Self::start(cx).await;
                    __gen_durable_Checkout_start::IntoStepResult::<
                        Self,
                    >::into_step_result(returned)
                })
            }
            "await_pay" => {
                __gen_durable_Checkout_start::Box::pin(async move {
                    let returned = Self::await_pay(cx, resources.get::<Carrier>()).await;
                    __gen_durable_Checkout_start::IntoStepResult::<
                        Self,
                    >::into_step_result(returned)
                })
            }
            _ => __gen_durable_Checkout_start::no_such_step(),
        }
    }
    fn handle<'a>(
        cx: __gen_durable_Checkout_start::Context<Self>,
        error: __gen_durable_Checkout_start::StepError,
        resources: &'a __gen_durable_Checkout_start::Resources,
    ) -> __gen_durable_Checkout_start::StepFuture<'a, Self> {
        let _ = resources;
        __gen_durable_Checkout_start::Box::pin(async move {
            let returned = Self::handle(cx, error).await;
            __gen_durable_Checkout_start::IntoStepResult::<
                Self,
            >::into_step_result(returned)
        })
    }
    fn requirements() -> __gen_durable_Checkout_start::Vec<
        __gen_durable_Checkout_start::Requirement,
    > {
        __gen_durable_Checkout_start::Vec::from([
            __gen_durable_Checkout_start::Requirement::of::<Carrier>("await_pay"),
        ])
    }
    fn graph() -> __gen_durable_Checkout_start::Graph {
        let graph = __gen_durable_Checkout_start::graph::<
            Self,
        >(&["start next await_pay", "await_pay done"]);
        let graph = graph.on_error(__gen_durable_Checkout_start::node("handle stop"));
        graph
    }
}
const _: () = {
    const CHECKS: &__gen_durable_Checkout_start::Checks = &__gen_durable_Checkout_start::Checks {
        machine: "Checkout",
        steps: <Checkout as __gen_durable_Checkout_start::Machine>::STEPS,
        functions: <Checkout as __gen_durable_Checkout_start::StepsInOneImplBlock>::FUNCTIONS,
    };
    const _: () = CHECKS.step_has_variant(0usize, "start", "Start");
    const _: () = CHECKS.step_has_variant(1usize, "await_pay", "AwaitPay");
    const _: () = CHECKS
        .is_no_step(
            "helper",
            "the step `helper` must take the context first: write `async fn helper(cx: Context<Self>)`, and resources behind it",
        );
};
