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
impl ::gen_durable::__private::StepFunctions for Checkout {
    const NAMES: &'static [&'static ::gen_durable::__private::str] = &[
        "start",
        "await_pay",
    ];
}
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
                    ::gen_durable::__private::IntoStepResult::<
                        Self,
                    >::into_step_result(Self::start(cx).await)
                })
            }
            "await_pay" => {
                ::gen_durable::__private::Box::pin(async move {
                    ::gen_durable::__private::IntoStepResult::<
                        Self,
                    >::into_step_result(
                        Self::await_pay(cx, resources.get::<Carrier>()).await,
                    )
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
            ::gen_durable::__private::IntoStepResult::<
                Self,
            >::into_step_result(Self::handle(cx, error).await)
        })
    }
    fn requirements() -> ::gen_durable::__private::Vec<
        ::gen_durable::__private::Requirement,
    > {
        ::gen_durable::__private::Vec::from([
            ::gen_durable::__private::Requirement::of::<Carrier>("await_pay"),
        ])
    }
}
const _: () = {
    const STEPS: &[&::gen_durable::__private::str] = <Checkout as ::gen_durable::__private::Machine>::STEPS;
    const _: () = ::core::assert!(
        ::gen_durable::__private::contains(STEPS, "start"),
        "step `start` has no variant: add `Start` to `enum Checkout`, or rename the step to one that has"
    );
    const _: () = ::core::assert!(
        ::gen_durable::__private::contains(STEPS, "await_pay"),
        "step `await_pay` has no variant: add `AwaitPay` to `enum Checkout`, or rename the step to one that has"
    );
};
