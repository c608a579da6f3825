pub enum Checkout {
    Start,
    AwaitPay,
}
#[automatically_derived]
impl ::gen_durable::__private::Machine for Checkout {
    type State = CheckoutState;
    type Output = Receipt;
    const NAME: &'static ::gen_durable::__private::str = "checkout";
    const VERSION: ::gen_durable::__private::u32 = 1u32;
    const QUEUE: &'static ::gen_durable::__private::str = "checkout";
    const INITIAL: Self = Self::Start;
    const STEPS: &'static [&'static ::gen_durable::__private::str] = &[
        "start",
        "await_pay",
    ];
    const VARIANTS: &'static [&'static ::gen_durable::__private::str] = &[
        "Start",
        "AwaitPay",
    ];
    const SIGNALS: &'static [&'static ::gen_durable::__private::str] = &[
        <PaymentConfirmed as ::gen_durable::__private::DurableSignal>::NAME,
    ];
    fn name(&self) -> &'static ::gen_durable::__private::str {
        match self {
            Self::Start => "start",
            Self::AwaitPay => "await_pay",
        }
    }
    fn from_name(
        name: &::gen_durable::__private::str,
    ) -> ::gen_durable::__private::Option<Self> {
        match name {
            "start" => ::gen_durable::__private::Some(Self::Start),
            "await_pay" => ::gen_durable::__private::Some(Self::AwaitPay),
            _ => ::gen_durable::__private::None,
        }
    }
}
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
impl Checkout {
    /// A new instance with this state; `.execute(…)` inserts it.
    pub fn insert(state: CheckoutState) -> ::gen_durable::__private::Insert<Self> {
        ::gen_durable::__private::Insert::new(state)
    }
    /// Any number of new instances, from states or from inserts with options;
    /// `.execute(…)` inserts them.
    pub fn insert_many<__I: ::gen_durable::__private::IntoInsert<Self>>(
        inserts: impl ::core::iter::IntoIterator<Item = __I>,
    ) -> ::gen_durable::__private::InsertMany<Self> {
        ::gen_durable::__private::InsertMany::new(inserts)
    }
}
#[automatically_derived]
impl ::gen_durable::__private::IntoInsert<Checkout> for CheckoutState {
    fn into_insert(self) -> ::gen_durable::__private::Insert<Checkout> {
        ::gen_durable::__private::Insert::new(self)
    }
}
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
impl Checkout {
    /// A signal to an instance, of any type that the machine declares; `.execute(…)`
    /// sends it.
    pub fn signal<__S: ::gen_durable::__private::DurableSignal>(
        id: ::gen_durable::__private::InstanceId<Self>,
        payload: __S,
    ) -> ::gen_durable::__private::Signal<Self>
    where
        Self: ::gen_durable::__private::Accepts<__S>,
    {
        ::gen_durable::__private::Signal::new(id, &payload)
    }
    /// A [`PaymentConfirmed`] to an instance; `.execute(…)` sends it.
    pub fn signal_payment_confirmed(
        id: ::gen_durable::__private::InstanceId<Self>,
        payload: PaymentConfirmed,
    ) -> ::gen_durable::__private::Signal<Self> {
        ::gen_durable::__private::Signal::new(id, &payload)
    }
}
#[automatically_derived]
impl ::gen_durable::__private::Accepts<PaymentConfirmed> for Checkout {}
const _: () = {
    const CHECKS: &::gen_durable::__private::Checks = &::gen_durable::__private::Checks {
        machine: "Checkout",
        steps: <Checkout as ::gen_durable::__private::Machine>::STEPS,
        functions: <Checkout as ::gen_durable::__private::StepsInOneImplBlock>::FUNCTIONS,
    };
    const INITIAL: &::gen_durable::__private::str = "start";
    const _: () = CHECKS.variant_has_step(0usize, "start", "Start", "start");
    const _: () = {
        CHECKS.variant_has_step(1usize, "await_pay", "AwaitPay", "await_pay");
        ::gen_durable::__private::Reached::<
            { CHECKS.reach("await_pay", INITIAL) },
        >::step();
    };
};
