#[allow(clippy::unused_async)]
async fn report(cx: JobContext<Day>) {}
macro_rules! the_machine_is_as_visible_as_its_function {
    () => {
        #[doc = " The machine of the job [`report`], and as visible."]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)] enum
        Report { #[doc = r" Runs the function."] Run, }
    };
}
the_machine_is_as_visible_as_its_function! {}
const _: () = {
    macro_rules! if_gen_durable_has_another_name_write_crate_equals_that_name {
        () => {
            use ::gen_durable::__private as __gen_durable;
        };
    }
    if_gen_durable_has_another_name_write_crate_equals_that_name! {}
    #[automatically_derived]
    impl __gen_durable::Machine for Report {
        type State = Day;
        type Output = ();
        const NAME: &'static __gen_durable::str = "report";
        const VERSION: __gen_durable::u32 = 1u32;
        const QUEUE: &'static __gen_durable::str = "default";
        const INITIAL: Self = Self::Run;
        const STEPS: &'static [&'static __gen_durable::str] = &["run"];
        const VARIANTS: &'static [&'static __gen_durable::str] = &["Run"];
        const SIGNALS: &'static [&'static __gen_durable::str] = &[];
        fn name(&self) -> &'static __gen_durable::str {
            match self {
                Self::Run => "run",
            }
        }
        fn from_name(name: &__gen_durable::str) -> __gen_durable::Option<Self> {
            match name {
                "run" => __gen_durable::Some(Self::Run),
                _ => __gen_durable::None,
            }
        }
    }
    #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
    impl Report {
        /// A new instance with this state; `.execute(…)` inserts it.
        pub fn insert(state: Day) -> __gen_durable::Insert<Self> {
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
    impl __gen_durable::IntoInsert<Report> for Day {
        fn into_insert(self) -> __gen_durable::Insert<Report> {
            __gen_durable::Insert::new(self)
        }
    }
    #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
    impl Report {
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
        const CHECKS: &__gen_durable::Checks = &__gen_durable::Checks {
            machine: "Report",
            steps: <Report as __gen_durable::Machine>::STEPS,
            functions: <Report as __gen_durable::StepsInOneImplBlock>::FUNCTIONS,
        };
        const INITIAL: &__gen_durable::str = "run";
        const _: () = CHECKS.variant_has_step(0usize, "run", "Run", "run");
    };
    #[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
    impl Report
    where
        Self: __gen_durable::Machine,
    {
        #[allow(clippy::unused_async)]
        async fn run(
            cx: __gen_durable::Context<Self>,
        ) -> __gen_durable::StepResult<Self> {
            let (job, end) = __gen_durable::job(cx);
            let returned = report(job).await;
            __gen_durable::Ok(end.done(returned))
        }
    }
    #[automatically_derived]
    impl __gen_durable::StepsInOneImplBlock for Report {
        const FUNCTIONS: __gen_durable::Functions = __gen_durable::Functions {
            steps: &["run"],
            others: &[],
            handle: false,
            unreachable: &[&["run"]],
        };
    }
    /**The graph of its steps:

```mermaid
stateDiagram-v2
    [*] --> run
    run --> [*]: done
```
*/
    #[automatically_derived]
    #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
    impl __gen_durable::Steps for Report
    where
        Self: __gen_durable::Machine,
    {
        fn run<'a>(
            self,
            cx: __gen_durable::Context<Self>,
            resources: &'a __gen_durable::Resources,
        ) -> __gen_durable::StepFuture<'a, Self> {
            let _ = resources;
            match __gen_durable::Machine::name(&self) {
                "run" => {
                    __gen_durable::Box::pin(async move {
                        let returned = Self::run(cx).await;
                        __gen_durable::IntoStepResult::<Self>::into_step_result(returned)
                    })
                }
                _ => __gen_durable::no_such_step(),
            }
        }
        fn schedule() -> __gen_durable::Option<__gen_durable::Scheduled<Self>> {
            __gen_durable::Some(__gen_durable::Scheduled {
                schedule: __gen_durable::Schedule::cron("0 3 * * *")
                    .zone("Europe/Berlin")
                    .missed(__gen_durable::Missed::All {
                        max: 24u32,
                    })
                    .overlap(__gen_durable::Overlap::Queue),
                insert: |tick| __gen_durable::Insert::new(
                    <Day as __gen_durable::FromTick>::from_tick(tick),
                ),
            })
        }
        fn graph() -> __gen_durable::Graph {
            let graph = __gen_durable::graph::<Self>(&["run done"]);
            graph
        }
    }
    const _: () = {
        const CHECKS: &__gen_durable::Checks = &__gen_durable::Checks {
            machine: "Report",
            steps: <Report as __gen_durable::Machine>::STEPS,
            functions: <Report as __gen_durable::StepsInOneImplBlock>::FUNCTIONS,
        };
        const _: () = CHECKS.step_has_variant(0usize, "run", "Run");
    };
};
