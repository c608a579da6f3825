//! Golden samples: a test notices that a type has changed before the change is deployed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use gen_durable::{
    prelude::*,
    testing::{Golden, GoldenMode},
};

use crate::versions::machines;

/// Declares one machine in a module: as it was, or as it might be after a change.
macro_rules! checkout {
    ($module:ident: $options:tt; $($step:ident = $function:ident),*; $($items:item)*) => {
        mod $module {
            use gen_durable::prelude::*;

            $($items)*

            checkout!(@machine $options; $($step = $function),*);
        }
    };
    (@machine ($($options:tt)*); $($step:ident = $function:ident),*) => {
        #[durable_fsm(name = "golden", state = State, output = Receipt, signals(Paid), $($options)*)]
        pub enum Checkout {
            $($step),*
        }

        #[durable_fsm]
        impl Checkout {
            $(#[step(entry)]
            async fn $function(cx: Context<Self>) -> Outcome<Self> {
                cx.stop("never run")
            })*
        }
    };
}

checkout! { before: (version = 1); Start = start, Ship = ship;
    #[derive(DurableState)]
    pub struct State {
        pub order: i64,
        pub paid: Option<i64>,
    }

    #[derive(DurableSignal)]
    pub struct Paid {
        pub amount: i64,
    }

    #[derive(DurableState)]
    pub struct Receipt {
        pub shipped: bool,
    }
}

checkout! { field_added: (version = 1); Start = start, Ship = ship;
    pub use super::before::{Paid, Receipt};

    #[derive(DurableState)]
    pub struct State {
        pub order: i64,
        pub paid: Option<i64>,
        #[serde(default)]
        pub note: String,
    }
}

checkout! { field_required: (version = 1); Start = start, Ship = ship;
    pub use super::before::{Paid, Receipt};

    #[derive(DurableState)]
    pub struct State {
        pub order: i64,
        pub paid: Option<i64>,
        pub note: String,
    }
}

checkout! { field_retyped: (version = 1); Start = start, Ship = ship;
    pub use super::before::{Receipt, State};

    #[derive(DurableSignal)]
    pub struct Paid {
        pub amount: String,
    }
}

checkout! { field_renamed: (version = 1); Start = start, Ship = ship;
    pub use super::before::{Paid, Receipt};

    // A stored state decodes into this one, but the paid amount is lost.
    #[derive(DurableState)]
    pub struct State {
        pub order: i64,
        #[serde(default)]
        pub paid_cents: Option<i64>,
    }
}

checkout! { step_renamed: (version = 1); Start = start, Send = send;
    pub use super::before::{Paid, Receipt, State};
}

checkout! { raised: (version = 2, upgrades = super::before::Checkout); Begin = begin;
    pub use super::{before::Paid, field_required::State};

    #[derive(DurableState)]
    pub struct Receipt {
        pub carrier: String,
    }

    impl Upgrade<super::before::Checkout> for Checkout {
        fn upgrade(
            _: super::before::Checkout,
            state: super::before::State,
        ) -> Result<(Self, State), UpgradeError> {
            let super::before::State { order, paid } = state;
            Ok((Checkout::Begin, State { order, paid, note: String::new() }))
        }
    }
}

checkout! { raised_badly: (version = 2, upgrades = super::before::Checkout); Begin = begin;
    pub use super::{field_required::State, field_retyped::Paid, raised::Receipt};

    impl Upgrade<super::before::Checkout> for Checkout {
        fn upgrade(
            step: super::before::Checkout,
            state: super::before::State,
        ) -> Result<(Self, State), UpgradeError> {
            let paid = match step {
                super::before::Checkout::Start => None,
                super::before::Checkout::Ship => Some(state.paid.ok_or("shipped and not paid")?),
            };
            Ok((Checkout::Begin, State { order: state.order, paid, note: String::new() }))
        }
    }
}

/// A directory of the test's own for its file of samples. It is removed at the end of the test.
struct Sandbox(PathBuf);

impl Sandbox {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = format!("gen_durable_golden_{}_{number}", std::process::id());
        Self(std::env::temp_dir().join(dir))
    }

    fn golden<M: Machine>(&self, mode: GoldenMode) -> Golden<M> {
        Golden::new(self.0.join("golden/checkout.json")).mode(mode)
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.0.join("golden/checkout.json")).unwrap_or_default()
    }

    /// Returns a sandbox in which version 1 is recorded as it was.
    fn recorded() -> Self {
        let sandbox = Self::new();
        before(sandbox.golden(GoldenMode::Record)).check();
        sandbox
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn before(golden: Golden<before::Checkout>) -> Golden<before::Checkout> {
    use before::{Checkout, Paid, Receipt, State};
    golden
        .state(State { order: 42, paid: None })
        .state_at(Checkout::Ship, State { order: 42, paid: Some(100) })
        .signal(Paid { amount: 100 })
        .output(Receipt { shipped: true })
}

fn failure<M: Machine>(golden: Golden<M>) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| golden.check())).expect_err("the check fails");
    *panic.downcast::<String>().expect("a text")
}

fn assert_parts(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

#[test]
fn p35_the_first_run_records_and_the_next_compares() {
    let sandbox = Sandbox::new();
    let text = failure(before(sandbox.golden(GoldenMode::Check)));
    assert_parts(&text, &["file of golden samples is missing", "golden/checkout.json", "`CI`"]);
    assert_eq!(sandbox.text(), "", "nothing is written in CI");

    before(sandbox.golden(GoldenMode::Record)).check();
    let recorded = sandbox.text();
    assert_parts(&recorded, &["\"machine\": \"golden\"", "\"1\": {", "\"order\": 42", "\"paid\""]);
    before(sandbox.golden(GoldenMode::Check)).check();
    before(sandbox.golden(GoldenMode::Record)).check();
    assert_eq!(sandbox.text(), recorded);
}

#[test]
fn p35_a_changed_field_fails_with_what_to_do() {
    let sandbox = Sandbox::recorded();
    let recorded = sandbox.text();
    let advice = ["#[serde(default)]", "upgrades = …", "version = 2", "BLESS=1", "checkout.json"];

    let required = {
        use field_required::{Checkout, Paid, Receipt, State};
        let golden = sandbox.golden::<Checkout>(GoldenMode::Record);
        let golden = golden.state(State { order: 1, paid: None, note: "n".to_owned() });
        failure(golden.signal(Paid { amount: 1 }).output(Receipt { shipped: true }))
    };
    assert_parts(&required, &advice);
    assert_parts(&required, &["machine `golden` version 1", "state at step `start`", "`note`"]);

    let retyped = {
        use field_retyped::{Checkout, Paid, Receipt, State};
        let golden = sandbox.golden::<Checkout>(GoldenMode::Record);
        let golden = golden.state(State { order: 1, paid: None });
        failure(golden.signal(Paid { amount: "1".to_owned() }).output(Receipt { shipped: true }))
    };
    assert_parts(&retyped, &advice);
    assert_parts(&retyped, &["signal `paid` does not decode at field `amount`"]);

    let renamed = {
        use field_renamed::{Checkout, Paid, Receipt, State};
        let golden = sandbox.golden::<Checkout>(GoldenMode::Record);
        let golden = golden.state(State { order: 1, paid_cents: None });
        failure(golden.signal(Paid { amount: 1 }).output(Receipt { shipped: true }))
    };
    assert_parts(&renamed, &advice);
    assert_parts(&renamed, &["does not come back as it was at field `paid`", "step `ship`"]);

    let step = {
        use step_renamed::{Checkout, Paid, Receipt, State};
        let golden = sandbox.golden::<Checkout>(GoldenMode::Record);
        let golden = golden.state(State { order: 1, paid: None });
        failure(golden.signal(Paid { amount: 1 }).output(Receipt { shipped: true }))
    };
    assert_parts(&step, &["step `ship` is gone", "step `send` is new"]);
    assert_eq!(sandbox.text(), recorded, "a check that fails writes nothing");

    // A version that was never deployed has nothing stored, so its samples may be replaced
    // (`Bless`).
    {
        use step_renamed::{Checkout, Paid, Receipt, State};
        let golden = || {
            let golden = |mode| sandbox.golden::<Checkout>(mode);
            move |mode| {
                let golden = golden(mode).state(State { order: 1, paid: None });
                golden.signal(Paid { amount: 1 }).output(Receipt { shipped: true }).check();
            }
        };
        golden()(GoldenMode::Bless);
        golden()(GoldenMode::Check);
    }
}

#[test]
fn p35_an_optional_field_fits_and_is_recorded_beside_what_was_before() {
    use field_added::{Checkout, Paid, Receipt, State};
    let sandbox = Sandbox::recorded();
    let golden = |mode| {
        let golden = sandbox.golden::<Checkout>(mode);
        let golden = golden.state(State { order: 1, paid: None, note: "n".to_owned() });
        golden.signal(Paid { amount: 1 }).output(Receipt { shipped: true })
    };
    let text = failure(golden(GoldenMode::Check));
    assert_parts(&text, &["not up to date", "commit the file"]);
    golden(GoldenMode::Record).check();
    golden(GoldenMode::Check).check();
    assert_eq!(sandbox.text().matches("\"order\"").count(), 3);
    // The build before the change notices a field that it does not have.
    assert_parts(&failure(before(sandbox.golden(GoldenMode::Check))), &["field `note`"]);
}

#[test]
fn p35_samples_of_older_versions_are_upgraded() {
    let sandbox = Sandbox::recorded();
    let state = || field_required::State { order: 1, paid: Some(1), note: "n".to_owned() };
    let receipt = || raised::Receipt { carrier: "c".to_owned() };
    {
        use raised::{Checkout, Paid};
        let golden = sandbox.golden::<Checkout>(GoldenMode::Record).state(state());
        golden.signal(Paid { amount: 1 }).output(receipt()).check();
    }
    assert_parts(&sandbox.text(), &["\"1\": {", "\"2\": {"]);
    before(sandbox.golden(GoldenMode::Check)).check();

    // Records a sample of version 1 that `raised_badly` refuses to upgrade.
    {
        use before::{Checkout, Paid, Receipt, State};
        let golden =
            sandbox.golden::<Checkout>(GoldenMode::Record).state(State { order: 1, paid: None });
        let golden = golden.state_at(Checkout::Ship, State { order: 1, paid: None });
        golden.signal(Paid { amount: 100 }).output(Receipt { shipped: true }).check();
    }
    let golden = sandbox.golden::<raised_badly::Checkout>(GoldenMode::Bless).state(state());
    let paid = raised_badly::Paid { amount: "1".to_owned() };
    let text = failure(golden.signal(paid).output(receipt()));
    assert_parts(
        &text,
        &[
            "cannot be taken over",
            "version 1 at step `ship`: from version 1 to 2: shipped and not paid",
            "signal `paid` of version 1 does not decode at field `amount`",
            "Mend the `Upgrade`",
        ],
    );
}

#[test]
fn p35_samples_must_be_complete_and_the_file_the_machines_own() {
    let sandbox = Sandbox::recorded();
    let text = failure(sandbox.golden::<before::Checkout>(GoldenMode::Record));
    assert_parts(&text, &["`.state(…)` is missing", "signal `paid`", "`.output(…)` is missing"]);
    let text = failure(
        sandbox
            .golden::<machines::v3::Parcel>(GoldenMode::Record)
            .output(Vec::new())
            .state(machines::v3::State::new(1, "")),
    );
    assert_parts(&text, &["has the samples of the machine `golden`", "a file of its own"]);
}

/// The machine of the tests of versions has its samples in a committed file.
#[test]
fn the_versions_of_a_machine_share_a_file() {
    let file = "it/golden/parcel.json";
    let trail = || vec!["start".to_owned()];
    {
        use machines::v1::{Paid, Parcel, State};
        let golden =
            Golden::<Parcel>::new(file).state(State { trail: trail(), ..State::new(7, "") });
        let golden = golden.state_at(Parcel::Finish, State { trail: trail(), ..State::new(7, "") });
        golden.signal(Paid { amount: 1 }).output(trail()).check();
    }
    {
        use machines::v2::{Paid, Parcel, State};
        let golden =
            Golden::<Parcel>::new(file).state(State { trail: trail(), ..State::new(7, "") });
        let golden = golden.signal(Paid { amount: 1, currency: Some("EUR".to_owned()) });
        golden.output(trail()).check();
    }
    {
        use machines::v3::{Parcel, State};
        let golden =
            Golden::<Parcel>::new(file).state(State { trail: trail(), ..State::new(7, "") });
        golden.output(trail()).check();
    }
}
