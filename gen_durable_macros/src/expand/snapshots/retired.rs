pub enum Checkout {
    Start,
}
#[automatically_derived]
impl ::gen_durable::__private::Machine for Checkout {
    type State = ();
    type Output = ::gen_durable::__private::Value;
    const NAME: &'static ::gen_durable::__private::str = "checkout";
    const VERSION: ::gen_durable::__private::u32 = 2u32;
    const QUEUE: &'static ::gen_durable::__private::str = "default";
    const INITIAL: Self = Self::Start;
    const STEPS: &'static [&'static ::gen_durable::__private::str] = &["start"];
    const VARIANTS: &'static [&'static ::gen_durable::__private::str] = &["Start"];
    const SIGNALS: &'static [&'static ::gen_durable::__private::str] = &[];
    const UPGRADES: ::gen_durable::__private::Upgrades<Self> = ::gen_durable::__private::Upgrades::<
        Self,
    >::from::<v1::Checkout>();
    fn name(&self) -> &'static ::gen_durable::__private::str {
        match self {
            Self::Start => "start",
        }
    }
    fn from_name(
        name: &::gen_durable::__private::str,
    ) -> ::gen_durable::__private::Option<Self> {
        match name {
            "start" => ::gen_durable::__private::Some(Self::Start),
            _ => ::gen_durable::__private::None,
        }
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
}
const _: () = {
    const _: () = ::gen_durable::__private::upgrades_an_older_version::<
        Checkout,
    >(
        "`Checkout` upgrades `v1::Checkout`, whose version is not lower than 2: give `Checkout` the next `version`",
    );
    const _: () = ::gen_durable::__private::upgrades_the_same_machine::<
        Checkout,
    >(
        "`Checkout` upgrades `v1::Checkout`, which has another name in the database: give both the same `name = \"…\"`",
    );
};
