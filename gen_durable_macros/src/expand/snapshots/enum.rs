pub enum Checkout {
    Start,
    AwaitPay,
}
const _: () = {
    macro_rules! if_gen_durable_has_another_name_write_crate_equals_that_name {
        () => {
            use ::gen_durable::__private as __gen_durable;
        };
    }
    if_gen_durable_has_another_name_write_crate_equals_that_name! {}
    #[automatically_derived]
    impl __gen_durable::Machine for Checkout {
        type State = CheckoutState;
        type Output = Receipt;
        const NAME: &'static __gen_durable::str = "checkout";
        const VERSION: __gen_durable::u32 = 1u32;
        const QUEUE: &'static __gen_durable::str = "checkout";
        const INITIAL: Self = Self::Start;
        const STEPS: &'static [&'static __gen_durable::str] = &["start", "await_pay"];
        const VARIANTS: &'static [&'static __gen_durable::str] = &["Start", "AwaitPay"];
        const SIGNALS: &'static [&'static __gen_durable::str] = &[
            <PaymentConfirmed as __gen_durable::DurableSignal>::NAME,
        ];
        fn name(&self) -> &'static __gen_durable::str {
            match self {
                Self::Start => "start",
                Self::AwaitPay => "await_pay",
            }
        }
        fn from_name(name: &__gen_durable::str) -> __gen_durable::Option<Self> {
            match name {
                "start" => __gen_durable::Some(Self::Start),
                "await_pay" => __gen_durable::Some(Self::AwaitPay),
                _ => __gen_durable::None,
            }
        }
    }
    #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
    impl Checkout {
        /// A new instance with this state; `.execute(…)` inserts it.
        pub fn insert(state: CheckoutState) -> __gen_durable::Insert<Self> {
            __gen_durable::Insert::new(state)
        }
        /// Any number of new instances, from states or from inserts with options;
        /// `.execute(…)` inserts them.
        pub fn insert_many<__I: __gen_durable::IntoInsert<Self>>(
            inserts: impl ::core::iter::IntoIterator<Item = __I>,
        ) -> __gen_durable::InsertMany<Self> {
            __gen_durable::InsertMany::new(inserts)
        }
        /// The instance that holds this unique key. Each call that takes an id takes it.
        pub fn by_key(
            key: impl ::core::convert::Into<__gen_durable::String>,
        ) -> __gen_durable::InstanceKey<Self> {
            __gen_durable::InstanceKey::new(key)
        }
    }
    #[automatically_derived]
    impl __gen_durable::IntoInsert<Checkout> for CheckoutState {
        fn into_insert(self) -> __gen_durable::Insert<Checkout> {
            __gen_durable::Insert::new(self)
        }
    }
    #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
    impl Checkout {
        /// A signal to an instance, of any type that the machine declares; `.execute(…)`
        /// sends it.
        pub fn signal<__S: __gen_durable::DurableSignal>(
            to: impl __gen_durable::Address<Self>,
            payload: __S,
        ) -> __gen_durable::Signal<Self>
        where
            Self: __gen_durable::Accepts<__S>,
        {
            __gen_durable::Signal::new(to, &payload)
        }
        /// A [`PaymentConfirmed`] to an instance; `.execute(…)` sends it.
        pub fn signal_payment_confirmed(
            to: impl __gen_durable::Address<Self>,
            payload: PaymentConfirmed,
        ) -> __gen_durable::Signal<Self> {
            __gen_durable::Signal::new(to, &payload)
        }
    }
    #[automatically_derived]
    impl __gen_durable::Accepts<PaymentConfirmed> for Checkout {}
    const _: () = {
        const SIGNALS: &[&__gen_durable::str] = <Checkout as __gen_durable::Machine>::SIGNALS;
        const _: () = __gen_durable::is_no_report(
            SIGNALS,
            0usize,
            "the signal `PaymentConfirmed` has a name that is reserved for the reports of ended instances: declare a report as `Ended<Parcel>`, by this name, and name other signals otherwise",
        );
        const CHECKS: &__gen_durable::Checks = &__gen_durable::Checks {
            machine: "Checkout",
            steps: <Checkout as __gen_durable::Machine>::STEPS,
            functions: <Checkout as __gen_durable::StepsInOneImplBlock>::FUNCTIONS,
        };
        const INITIAL: &__gen_durable::str = "start";
        const _: () = CHECKS.variant_has_step(0usize, "start", "Start", "start");
        const _: () = {
            CHECKS.variant_has_step(1usize, "await_pay", "AwaitPay", "await_pay");
            __gen_durable::Reached::<{ CHECKS.reach("await_pay", INITIAL) }>::step();
        };
    };
};
