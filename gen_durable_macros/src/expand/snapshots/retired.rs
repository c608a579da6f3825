pub enum Checkout {
    Start,
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
        type State = ();
        type Output = __gen_durable::Value;
        const NAME: &'static __gen_durable::str = "checkout";
        const VERSION: __gen_durable::u32 = 2u32;
        const QUEUE: &'static __gen_durable::str = "default";
        const INITIAL: Self = Self::Start;
        const STEPS: &'static [&'static __gen_durable::str] = &["start"];
        const VARIANTS: &'static [&'static __gen_durable::str] = &["Start"];
        const SIGNALS: &'static [&'static __gen_durable::str] = &[];
        const UPGRADES: __gen_durable::Upgrades<Self> = __gen_durable::Upgrades::<
            Self,
        >::from::<v1::Checkout>();
        fn name(&self) -> &'static __gen_durable::str {
            match self {
                Self::Start => "start",
            }
        }
        fn from_name(name: &__gen_durable::str) -> __gen_durable::Option<Self> {
            match name {
                "start" => __gen_durable::Some(Self::Start),
                _ => __gen_durable::None,
            }
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
    }
    const _: () = {
        const _: () = __gen_durable::upgrades_an_older_version::<
            Checkout,
        >(
            "`Checkout` upgrades `v1::Checkout`, whose version is not lower than 2: give `Checkout` the next `version`",
        );
        const _: () = __gen_durable::upgrades_the_same_machine::<
            Checkout,
        >(
            "`Checkout` upgrades `v1::Checkout`, which has another name in the database: give both the same `name = \"…\"`",
        );
    };
};
