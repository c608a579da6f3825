/// Sends a mail.
#[allow(clippy::unused_async)]
pub async fn send_mail(cx: JobContext<Mail>, mailer: &Mailer) -> Result<(), Error> {
    mailer.send(&cx.state.to).await
}
/// Sends a mail.
///
/// The machine of the job [`send_mail`], and as visible.
#[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
pub enum SendMail {
    /// Runs the function.
    Run,
}
const _: () = {
    macro_rules! if_gen_durable_has_another_name_write_crate_equals_that_name {
        () => {
            use ::gen_durable::__private as __gen_durable;
        };
    }
    if_gen_durable_has_another_name_write_crate_equals_that_name! {}
    #[automatically_derived]
    impl __gen_durable::Machine for SendMail {
        type State = Mail;
        type Output = ();
        const NAME: &'static __gen_durable::str = "send_mail";
        const VERSION: __gen_durable::u32 = 1u32;
        const QUEUE: &'static __gen_durable::str = "mail";
        const TIMEOUT: __gen_durable::Option<__gen_durable::Duration> = __gen_durable::Some(
            __gen_durable::Duration::new(30u64, 0u32),
        );
        const RETRY: __gen_durable::Option<__gen_durable::Retry> = __gen_durable::Some(
            __gen_durable::Retry::exponential(__gen_durable::Duration::new(1u64, 0u32))
                .max_attempts(3u32)
                .max(__gen_durable::Duration::new(300u64, 0u32))
                .jitter(),
        );
        const INITIAL: Self = Self::Run;
        const HISTORY: __gen_durable::History = __gen_durable::History::Steps;
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
    impl SendMail {
        /// A new instance with this state; `.execute(…)` inserts it.
        pub fn insert(state: Mail) -> __gen_durable::Insert<Self> {
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
    impl __gen_durable::IntoInsert<SendMail> for Mail {
        fn into_insert(self) -> __gen_durable::Insert<SendMail> {
            __gen_durable::Insert::new(self)
        }
    }
    #[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
    impl SendMail {
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
            machine: "SendMail",
            steps: <SendMail as __gen_durable::Machine>::STEPS,
            functions: <SendMail as __gen_durable::StepsInOneImplBlock>::FUNCTIONS,
        };
        const INITIAL: &__gen_durable::str = "run";
        const _: () = CHECKS.variant_has_step(0usize, "run", "Run", "run");
        const _: () = CHECKS
            .has_no_handle(
                "`retry` stands in for `handle`, and this machine has one: remove `retry`, or call `Retry::decide` in `handle`",
            );
    };
    #[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
    impl SendMail
    where
        Self: __gen_durable::Machine,
    {
        #[allow(clippy::unused_async)]
        async fn run(
            cx: __gen_durable::Context<Self>,
            resource_0: &Mailer,
        ) -> __gen_durable::StepResult<Self> {
            let (job, end) = __gen_durable::job(cx);
            let returned = send_mail(job, resource_0).await;
            __gen_durable::Ok(
                end.done(__gen_durable::IntoJobResult::into_job_result(returned)?),
            )
        }
    }
    #[automatically_derived]
    impl __gen_durable::StepsInOneImplBlock for SendMail {
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
    note left of run : limit mail for each key
```
*/
    #[automatically_derived]
    #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
    impl __gen_durable::Steps for SendMail
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
                        let returned = Self::run(cx, resources.get::<Mailer>()).await;
                        __gen_durable::IntoStepResult::<Self>::into_step_result(returned)
                    })
                }
                _ => __gen_durable::no_such_step(),
            }
        }
        fn limit(&self) -> __gen_durable::Option<__gen_durable::StepLimit> {
            match __gen_durable::Machine::name(self) {
                "run" => {
                    __gen_durable::Some(__gen_durable::StepLimit::new("mail").keyed())
                }
                _ => __gen_durable::None,
            }
        }
        fn limit_key(
            &self,
            __data: &<Self as __gen_durable::Machine>::State,
        ) -> __gen_durable::Option<__gen_durable::String> {
            match __gen_durable::Machine::name(self) {
                "run" => {
                    __gen_durable::Some(
                        (|
                            state: &<Self as __gen_durable::Machine>::State,
                        | -> __gen_durable::String {
                            let _ = state;
                            __gen_durable::LimitKey::text(&(state.domain()))
                        })(__data),
                    )
                }
                _ => __gen_durable::None,
            }
        }
        fn requirements() -> __gen_durable::Vec<__gen_durable::Requirement> {
            __gen_durable::Vec::from([__gen_durable::Requirement::of::<Mailer>("run")])
        }
        fn graph() -> __gen_durable::Graph {
            let graph = __gen_durable::graph::<Self>(&["run done"]);
            let graph = __gen_durable::with_limits::<Self>(graph);
            graph
        }
    }
    const _: () = {
        const CHECKS: &__gen_durable::Checks = &__gen_durable::Checks {
            machine: "SendMail",
            steps: <SendMail as __gen_durable::Machine>::STEPS,
            functions: <SendMail as __gen_durable::StepsInOneImplBlock>::FUNCTIONS,
        };
        const _: () = CHECKS.step_has_variant(0usize, "run", "Run");
    };
};
