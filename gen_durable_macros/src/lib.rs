//! The macros of `gen_durable`. Use them through `gen_durable::prelude`.
//!
//! Invariant: a macro never panics, and on an error still emits the user's item, so that an editor
//! keeps working. It emits no SQL: generated code calls `gen_durable::__private` alone.

mod ast;
mod attr;
mod check;
mod errors;
mod expand;
mod graph;
mod names;

use proc_macro::TokenStream;

/// Makes an enum of steps and its impl block a durable state machine.
///
/// # On the enum
///
/// ```text
/// #[durable_fsm(version = 1, queue = "checkout", state = CheckoutState, output = Receipt,
///               signals(PaymentConfirmed))]
/// pub enum Checkout {
///     Start,
///     AwaitPay,
///     Ship,
/// }
/// ```
///
/// | option | meaning | default |
/// |---|---|---|
/// | `version = 1` | the version of the steps and the state | 1 |
/// | `queue = "…"` | the queue that instances run in; or a constant: `queue = QUEUE` | `"default"` |
/// | `state = Type` | what is carried from step to step, a `DurableState` | `()` |
/// | `output = Type` | the result, a `DurableState` | `serde_json::Value` |
/// | `name = "…"` | the machine's name in the database; or a constant | the enum's name in `snake_case` |
/// | `initial = Variant` | the step that an instance begins with | the first variant |
/// | `signals(Type, …)` | the signals that it accepts | none |
/// | `timeout = "30s"` | how long a step may run (`ms`, `s`, `m`, `h`) | no limit |
/// | `upgrades = Type` | the version before, whose instances this one takes over (`Upgrade`) | none |
/// | `retired` | a version kept for `upgrades` alone: without steps, and nothing begins in it | not retired |
/// | `retry(max_attempts = 5)` | tries again what failed, instead of a `handle`; its options are below | no second run |
/// | `crate = path` | where `gen_durable` is, if it was renamed: `crate = durable`; also on the impl block | `::gen_durable` |
///
/// Variants are unit variants. Generated on the enum: `insert`, `insert_many`, `signal`, and
/// `signal_<name>` for each declared signal.
///
/// # On the impl block
///
/// ```text
/// #[durable_fsm]
/// impl Checkout {
///     async fn ship(cx: Context<Self>, carrier: &Carrier) -> StepResult<Self> { … }
/// }
/// ```
///
/// Every `async fn` whose first parameter is a `Context<Self>` is the step of the variant whose
/// name in `snake_case` is the function's; further parameters are resources, by reference. An
/// `async fn handle(cx: Context<Self>, error: StepError)` decides what follows an error. Any other
/// function is left as it stands.
///
/// | `#[step(…)]` on a step | meaning | default |
/// |---|---|---|
/// | `next(Ship, Cancel)` | the steps that it may go to; also on `handle` | what its code says |
/// | `entry` | instances are inserted at it (`insert(…).step(…)` elsewhere), or upgraded to it | no |
/// | `timeout = "30s"` | how long it may run | the machine's |
/// | `retry(max_attempts = 5)` | tries it again, instead of a `handle` | the machine's |
///
/// | `retry(…)` | meaning | default |
/// |---|---|---|
/// | `max_attempts = 5` | how many runs may fail in a row before the step is given up | 5 |
/// | `backoff = "exponential"` | how the delays grow; or `"linear"`, `"constant"` | `"exponential"` |
/// | `initial = "1s"` | the first delay | 1 s |
/// | `max = "5m"` | the longest delay | 5 minutes |
/// | `jitter` | varies each delay by up to a quarter | off |
///
/// With `jitter`, runs that failed together are not tried again together.
///
/// # The graph
///
/// Where the steps go is read from their code and shown as a diagram on the enum's page of the
/// documentation, at `impl Steps`; the function `graph` of the trait `Steps` gives it as data. With `#[step(next(…))]`
/// a step that goes anywhere else does not compile; where its code does not tell (its context is
/// handed to a function, the target is a variable), it fails when it does so.
///
/// The compiler warns of a step that nothing leads to, at its variant, unless a step's code does not
/// tell where it goes. `#[step(entry)]` says that instances begin there. The warning is the lint
/// `unused_must_use`: `allow(unused_must_use)` on the variant silences it.
#[proc_macro_attribute]
pub fn durable_fsm(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::durable_fsm(options.into(), item.into()).into()
}

/// Makes a function a job: a machine of one step, called like the function in `CamelCase`.
///
/// ```text
/// #[durable_job(queue = "mail", retry(max_attempts = 5))]
/// pub async fn send_mail(cx: JobContext<Mail>, mailer: &Mailer) -> Result<(), Error> { … }
/// ```
///
/// | option of a job | meaning | default |
/// |---|---|---|
/// | `machine = SendMailJob` | what the machine is called in code | the function's name in `CamelCase` |
/// | `version = 1` | the version of what it does and of its arguments | 1 |
/// | `queue = "…"` | the queue that it runs in; or a constant: `queue = QUEUE` | `"default"` |
/// | `name = "…"` | the machine's name in the database; or a constant | the function's name |
/// | `timeout = "30s"` | how long it may run (`ms`, `s`, `m`, `h`) | no limit |
/// | `retry(max_attempts = 5)` | tries it again after an error, as on a machine | no second run |
/// | `crate = path` | where `gen_durable` is, if it was renamed | `::gen_durable` |
///
/// Its first parameter is a `JobContext` with the type of its arguments, a `DurableState`; further
/// parameters are resources, by reference. It returns its result, a `DurableState`, or a
/// `JobOutcome` of that if it may run again, or a `Result` of either. Generated on the machine
/// `SendMail`: `insert` and `insert_many`. The function itself stays as it stands.
///
/// The machine is as visible as the function: a private function makes a private machine. Write
/// `pub async fn` where another module inserts it. A type of the function's signature cannot have the
/// machine's name; `machine = SendMailJob` gives the machine another one. A context that names the
/// machine, `JobContext<Mail, SendMail>`, knows the type of its id.
#[proc_macro_attribute]
pub fn durable_job(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::durable_job(options.into(), item.into()).into()
}

/// Makes a type a state or a result: implements serde's traits and `DurableState`.
///
/// `#[serde(…)]` attributes are taken as serde takes them. `#[durable(serde = external)]` leaves
/// serde's traits to the user, and so to serde's own derives: beside this one they need it.
/// `#[durable(crate = path)]` says where `gen_durable` is.
#[proc_macro_derive(DurableState, attributes(serde, durable))]
pub fn durable_state(item: TokenStream) -> TokenStream {
    expand::durable_state(item.into()).into()
}

/// Makes a type a signal: implements serde's traits and `DurableSignal`.
///
/// The signal's name is the type's in `snake_case`, or that of `#[durable(name = "…")]`, where a constant may stand. Otherwise
/// as the derive `DurableState`.
#[proc_macro_derive(DurableSignal, attributes(serde, durable))]
pub fn durable_signal(item: TokenStream) -> TokenStream {
    expand::durable_signal(item.into()).into()
}
