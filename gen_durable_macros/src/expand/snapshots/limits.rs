macro_rules! if_gen_durable_has_another_name_write_crate_equals_that_name {
    () => {
        use ::gen_durable::__private as __gen_durable_Checkout_charge;
    };
}
if_gen_durable_has_another_name_write_crate_equals_that_name! {}
impl Checkout
where
    Self: __gen_durable_Checkout_charge::Machine,
{
    #[allow(clippy::unused_async)]
    async fn charge(cx: Context<Self>, tx: &mut PgConnection) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }
    #[allow(clippy::unused_async)]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Report)
    }
    #[allow(clippy::unused_async)]
    async fn report(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}
#[automatically_derived]
impl __gen_durable_Checkout_charge::StepsInOneImplBlock for Checkout {
    const FUNCTIONS: __gen_durable_Checkout_charge::Functions = __gen_durable_Checkout_charge::Functions {
        steps: &["charge", "ship", "report"],
        others: &[],
        handle: false,
        unreachable: &[&["charge"]],
    };
}
/**The graph of its steps:

```mermaid
stateDiagram-v2
    [*] --> charge
    charge --> ship
    note left of charge : runs in a transaction, limit stripe
    ship --> report
    note left of ship : limit CARRIER for each key, weight 3
    report --> [*]: done
```
*/
#[automatically_derived]
#[allow(clippy::all, clippy::pedantic, clippy::nursery)]
impl __gen_durable_Checkout_charge::Steps for Checkout
where
    Self: __gen_durable_Checkout_charge::Machine,
{
    fn run<'a>(
        self,
        cx: __gen_durable_Checkout_charge::Context<Self>,
        resources: &'a __gen_durable_Checkout_charge::Resources,
    ) -> __gen_durable_Checkout_charge::StepFuture<'a, Self> {
        let _ = resources;
        match __gen_durable_Checkout_charge::Machine::name(&self) {
            "charge" => {
                let _ = cx;
                __gen_durable_Checkout_charge::takes_a_transaction("charge")
            }
            "ship" => {
                __gen_durable_Checkout_charge::Box::pin(async move {
                    let returned = Self::ship(cx).await;
                    __gen_durable_Checkout_charge::IntoStepResult::<
                        Self,
                    >::into_step_result(returned)
                })
            }
            "report" => {
                __gen_durable_Checkout_charge::Box::pin(async move {
                    let returned = Self::report(cx).await;
                    __gen_durable_Checkout_charge::IntoStepResult::<
                        Self,
                    >::into_step_result(returned)
                })
            }
            _ => __gen_durable_Checkout_charge::no_such_step(),
        }
    }
    fn transaction(
        &self,
    ) -> __gen_durable_Checkout_charge::Option<
        __gen_durable_Checkout_charge::Isolation,
    > {
        match __gen_durable_Checkout_charge::Machine::name(self) {
            "charge" => {
                __gen_durable_Checkout_charge::Some(
                    __gen_durable_Checkout_charge::Isolation::ReadCommitted,
                )
            }
            _ => __gen_durable_Checkout_charge::None,
        }
    }
    fn run_in<'a>(
        self,
        cx: __gen_durable_Checkout_charge::Context<Self>,
        resources: &'a __gen_durable_Checkout_charge::Resources,
        tx: &'a mut __gen_durable_Checkout_charge::PgConnection,
    ) -> __gen_durable_Checkout_charge::StepFuture<'a, Self> {
        match __gen_durable_Checkout_charge::Machine::name(&self) {
            "charge" => {
                __gen_durable_Checkout_charge::Box::pin(async move {
                    let returned = Self::charge(cx, tx).await;
                    __gen_durable_Checkout_charge::IntoStepResult::<
                        Self,
                    >::into_step_result(returned)
                })
            }
            _ => __gen_durable_Checkout_charge::Steps::run(self, cx, resources),
        }
    }
    fn limit(
        &self,
    ) -> __gen_durable_Checkout_charge::Option<
        __gen_durable_Checkout_charge::StepLimit,
    > {
        match __gen_durable_Checkout_charge::Machine::name(self) {
            "charge" => {
                __gen_durable_Checkout_charge::Some(
                    __gen_durable_Checkout_charge::StepLimit::new("stripe"),
                )
            }
            "ship" => {
                __gen_durable_Checkout_charge::Some({
                    const __LIMIT: &__gen_durable_Checkout_charge::str = limits::CARRIER;
                    const _: () = __gen_durable_Checkout_charge::is_a_name(
                        __LIMIT,
                        "limit",
                    );
                    __gen_durable_Checkout_charge::StepLimit::new(__LIMIT)
                        .weight(3u32)
                        .keyed()
                })
            }
            _ => __gen_durable_Checkout_charge::None,
        }
    }
    fn limit_key(
        &self,
        __data: &<Self as __gen_durable_Checkout_charge::Machine>::State,
    ) -> __gen_durable_Checkout_charge::Option<__gen_durable_Checkout_charge::String> {
        match __gen_durable_Checkout_charge::Machine::name(self) {
            "ship" => {
                __gen_durable_Checkout_charge::Some(
                    (|
                        state: &<Self as __gen_durable_Checkout_charge::Machine>::State,
                    | -> __gen_durable_Checkout_charge::String {
                        let _ = state;
                        __gen_durable_Checkout_charge::LimitKey::text(&(state.customer))
                    })(__data),
                )
            }
            _ => __gen_durable_Checkout_charge::None,
        }
    }
    fn graph() -> __gen_durable_Checkout_charge::Graph {
        let graph = __gen_durable_Checkout_charge::graph::<
            Self,
        >(&["charge next ship transactional", "ship next report", "report done"]);
        let graph = __gen_durable_Checkout_charge::with_limits::<Self>(graph);
        graph
    }
}
const _: () = {
    const _: () = {
        #[allow(unused_imports)]
        use __gen_durable_Checkout_charge::HasState as _;
        __gen_durable_Checkout_charge::has_state(
            __gen_durable_Checkout_charge::StateOf::<
                <Checkout as __gen_durable_Checkout_charge::Machine>::State,
            >::IS_NONE,
            "`Checkout` has no state, and so no field `customer` in it: write `#[durable_fsm(state = CheckoutState)]` on the enum, with a type of yours that has the field and derives `DurableState`",
        )
    };
    const CHECKS: &__gen_durable_Checkout_charge::Checks = &__gen_durable_Checkout_charge::Checks {
        machine: "Checkout",
        steps: <Checkout as __gen_durable_Checkout_charge::Machine>::STEPS,
        functions: <Checkout as __gen_durable_Checkout_charge::StepsInOneImplBlock>::FUNCTIONS,
    };
    const _: () = CHECKS.step_has_variant(0usize, "charge", "Charge");
    const _: () = CHECKS.step_has_variant(1usize, "ship", "Ship");
    const _: () = CHECKS.step_has_variant(2usize, "report", "Report");
};
