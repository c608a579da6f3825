/// Sends a mail.
#[allow(clippy::unused_async)]
pub async fn send_mail(cx: JobContext<Mail>, mailer: &Mailer) -> Result<(), Error> {
    mailer.send(&cx.state.to).await
}
/// Sends a mail.
///
/// The machine of the job [`send_mail`].
#[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
pub enum SendMail {
    /// Runs the function.
    Run,
}
#[automatically_derived]
impl ::gen_durable::__private::Machine for SendMail {
    type State = Mail;
    type Output = ();
    const NAME: &'static ::gen_durable::__private::str = "send_mail";
    const VERSION: ::gen_durable::__private::u32 = 1u32;
    const QUEUE: &'static ::gen_durable::__private::str = "mail";
    const TIMEOUT: ::gen_durable::__private::Option<
        ::gen_durable::__private::Duration,
    > = ::gen_durable::__private::Some(
        ::gen_durable::__private::Duration::new(30u64, 0u32),
    );
    const RETRY: ::gen_durable::__private::Option<::gen_durable::__private::Retry> = ::gen_durable::__private::Some(
        ::gen_durable::__private::Retry::exponential(
                ::gen_durable::__private::Duration::new(1u64, 0u32),
            )
            .max_attempts(3u32)
            .max(::gen_durable::__private::Duration::new(300u64, 0u32))
            .jitter(),
    );
    const INITIAL: Self = Self::Run;
    const STEPS: &'static [&'static ::gen_durable::__private::str] = &["run"];
    const VARIANTS: &'static [&'static ::gen_durable::__private::str] = &["Run"];
    const SIGNALS: &'static [&'static ::gen_durable::__private::str] = &[];
    fn name(&self) -> &'static ::gen_durable::__private::str {
        match self {
            Self::Run => "run",
        }
    }
    fn from_name(
        name: &::gen_durable::__private::str,
    ) -> ::gen_durable::__private::Option<Self> {
        match name {
            "run" => ::gen_durable::__private::Some(Self::Run),
            _ => ::gen_durable::__private::None,
        }
    }
}
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
impl SendMail {
    /// A new instance with this state; `.execute(…)` inserts it.
    pub fn insert(state: Mail) -> ::gen_durable::__private::Insert<Self> {
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
impl ::gen_durable::__private::IntoInsert<SendMail> for Mail {
    fn into_insert(self) -> ::gen_durable::__private::Insert<SendMail> {
        ::gen_durable::__private::Insert::new(self)
    }
}
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
impl SendMail {
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
    const CHECKS: &::gen_durable::__private::Checks = &::gen_durable::__private::Checks {
        machine: "SendMail",
        steps: <SendMail as ::gen_durable::__private::Machine>::STEPS,
        functions: <SendMail as ::gen_durable::__private::StepsInOneImplBlock>::FUNCTIONS,
    };
    const INITIAL: &::gen_durable::__private::str = "run";
    const _: () = CHECKS.variant_has_step(0usize, "run", "Run", "run");
    const _: () = CHECKS
        .has_no_handle(
            "`retry` stands in for `handle`, and this machine has one: remove `retry`, or call `Retry::decide` in `handle`",
        );
};
#[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
impl SendMail
where
    Self: ::gen_durable::__private::Machine,
{
    #[allow(clippy::unused_async)]
    async fn run(
        cx: ::gen_durable::__private::Context<Self>,
        resource_0: &Mailer,
    ) -> ::gen_durable::__private::StepResult<Self> {
        let (job, end) = ::gen_durable::__private::job(cx);
        let returned = send_mail(job, resource_0).await;
        ::gen_durable::__private::Ok(
            end.done(::gen_durable::__private::IntoJobResult::into_job_result(returned)?),
        )
    }
}
#[automatically_derived]
impl ::gen_durable::__private::StepsInOneImplBlock for SendMail {
    const FUNCTIONS: ::gen_durable::__private::Functions = ::gen_durable::__private::Functions {
        steps: &["run"],
        others: &[],
        handle: false,
        islands: &[&["run"]],
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
impl ::gen_durable::__private::Steps for SendMail
where
    Self: ::gen_durable::__private::Machine,
{
    fn run<'a>(
        self,
        cx: ::gen_durable::__private::Context<Self>,
        resources: &'a ::gen_durable::__private::Resources,
    ) -> ::gen_durable::__private::StepFuture<'a, Self> {
        let _ = resources;
        match ::gen_durable::__private::Machine::name(&self) {
            "run" => {
                ::gen_durable::__private::Box::pin(async move {
                    let returned = Self::run(cx, resources.get::<Mailer>()).await;
                    ::gen_durable::__private::IntoStepResult::<
                        Self,
                    >::into_step_result(returned)
                })
            }
            _ => ::gen_durable::__private::no_such_step(),
        }
    }
    fn requirements() -> ::gen_durable::__private::Vec<
        ::gen_durable::__private::Requirement,
    > {
        ::gen_durable::__private::Vec::from([
            ::gen_durable::__private::Requirement::of::<Mailer>("run"),
        ])
    }
    fn graph() -> ::gen_durable::__private::Graph {
        let graph = ::gen_durable::__private::graph::<Self>(&["run done"]);
        graph
    }
}
const _: () = {
    const CHECKS: &::gen_durable::__private::Checks = &::gen_durable::__private::Checks {
        machine: "SendMail",
        steps: <SendMail as ::gen_durable::__private::Machine>::STEPS,
        functions: <SendMail as ::gen_durable::__private::StepsInOneImplBlock>::FUNCTIONS,
    };
    const _: () = CHECKS.step_has_variant(0usize, "run", "Run");
};
