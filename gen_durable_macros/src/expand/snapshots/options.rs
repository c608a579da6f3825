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
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        go(cx)
    }
    #[allow(clippy::unused_async)]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}
#[automatically_derived]
impl __gen_durable_Checkout_start::StepsInOneImplBlock for Checkout {
    const FUNCTIONS: __gen_durable_Checkout_start::Functions = __gen_durable_Checkout_start::Functions {
        steps: &["start", "ship"],
        others: &[],
        handle: false,
        unreachable: &[&["start"]],
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
                    __gen_durable_Checkout_start::going_to(
                        __gen_durable_Checkout_start::IntoStepResult::<
                            Self,
                        >::into_step_result(returned),
                        &["ship"],
                    )
                })
            }
            "ship" => {
                __gen_durable_Checkout_start::Box::pin(async move {
                    let returned = Self::ship(cx).await;
                    __gen_durable_Checkout_start::IntoStepResult::<
                        Self,
                    >::into_step_result(returned)
                })
            }
            _ => __gen_durable_Checkout_start::no_such_step(),
        }
    }
    fn timeout(
        &self,
    ) -> __gen_durable_Checkout_start::Option<__gen_durable_Checkout_start::Duration> {
        match __gen_durable_Checkout_start::Machine::name(self) {
            "start" => {
                __gen_durable_Checkout_start::Some(
                    __gen_durable_Checkout_start::Duration::new(30u64, 0u32),
                )
            }
            _ => <Self as __gen_durable_Checkout_start::Machine>::TIMEOUT,
        }
    }
    fn retry(
        &self,
    ) -> __gen_durable_Checkout_start::Option<__gen_durable_Checkout_start::Retry> {
        match __gen_durable_Checkout_start::Machine::name(self) {
            "ship" => {
                __gen_durable_Checkout_start::Some(
                    __gen_durable_Checkout_start::Retry::linear(
                            __gen_durable_Checkout_start::Duration::new(1u64, 0u32),
                        )
                        .max_attempts(3u32)
                        .max(__gen_durable_Checkout_start::Duration::new(300u64, 0u32)),
                )
            }
            _ => <Self as __gen_durable_Checkout_start::Machine>::RETRY,
        }
    }
    fn graph() -> __gen_durable_Checkout_start::Graph {
        let graph = __gen_durable_Checkout_start::graph::<
            Self,
        >(&["start next ship", "ship done entry"]);
        let graph = graph
            .on_error(__gen_durable_Checkout_start::node("handle replay stop"));
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
    const _: () = CHECKS.step_has_variant(1usize, "ship", "Ship");
};
