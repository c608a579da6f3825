//! The macros of `gen_durable`. Use them through `gen_durable::prelude`.
//!
//! Invariant: a macro never panics. On an error it still emits the user's item, so that an editor
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
/// | `queue = "…"` | the queue of its instances; or a constant: `queue = QUEUE` | `"default"` |
/// | `state = Type` | the data that is carried from step to step, a `DurableState` | `()` |
/// | `output = Type` | the result, a `DurableState` | `serde_json::Value` |
/// | `name = "…"` | the name in the database; or a constant | the enum's name in `snake_case` |
/// | `initial = Variant` | the step that an instance begins with | the first variant |
/// | `on_cancel = Variant` | the step that answers a cancel | a cancel ends the instance |
/// | `signals(Type, …)` | the signals that it accepts | none |
/// | `timeout = "30s"` | how long a step may run (`ms`, `s`, `m`, `h`) | no limit |
/// | `upgrades = Type` | the version before: this one takes over its instances | none |
/// | `retired` | a version without steps, kept for `upgrades` alone | not retired |
/// | `retry(max_attempts = 5)` | tries a failed run again, instead of a `handle` | no second run |
/// | `history = "steps"` | what is recorded of runs: `"off"`, `"failures"`, `"steps"`, `"states"` | `"failures"` |
/// | `crate = path` | the path of a renamed `gen_durable`: `crate = durable` | `::gen_durable` |
///
/// A machine with `upgrades` implements the trait `Upgrade`. No instance begins in a retired
/// version. The options of `retry` are listed below. The option `crate` also goes on the impl
/// block.
///
/// Variants are unit variants. The macro generates these functions on the enum: `insert`,
/// `insert_many`, `signal`, and `signal_<name>` for each declared signal.
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
/// Every `async fn` whose first parameter is a `Context<Self>` is a step. The function's name is
/// the variant's in `snake_case`. Further parameters are resources, by reference. One of them may
/// be the step's transaction, `tx: &mut PgConnection`. An
/// `async fn handle(cx: Context<Self>, error: StepError)` decides what follows an error. The macro
/// leaves any other function as it stands.
///
/// | `#[step(…)]` on a step | meaning | default |
/// |---|---|---|
/// | `next(Ship, Cancel)` | the steps that it may go to; also on `handle` | those in its code |
/// | `entry` | instances begin at it by an insert elsewhere, or are upgraded to it | no |
/// | `timeout = "30s"` | how long it may run | the machine's |
/// | `retry(max_attempts = 5)` | tries it again, instead of a `handle` | the machine's |
/// | `isolation = "serializable"` | its level; also on `handle` | `"read committed"` |
/// | `limit("stripe")` | the limit that bounds its runs; or `limit = "stripe"` | no limit |
///
/// An insert elsewhere is an `insert(…).step(…)` in code outside of this impl block's steps.
///
/// | `retry(…)` | meaning | default |
/// |---|---|---|
/// | `max_attempts = 5` | the step is given up after so many failed runs in a row | 5 |
/// | `backoff = "exponential"` | delay growth; or `"linear"`, `"constant"` | `"exponential"` |
/// | `initial = "1s"` | the first delay | 1 s |
/// | `max = "5m"` | the longest delay | 5 minutes |
/// | `jitter` | varies each delay by up to a quarter | off |
///
/// With `jitter`, runs that failed together are not tried again together.
///
/// ```text
/// #[step(limit = "stripe")]
/// #[step(limit("stripe", key = state.customer, weight = 3))]
/// ```
///
/// | `limit("stripe", …)` | meaning | default |
/// |---|---|---|
/// | `key = state.customer` | a run's key: each key has bounds of its own | all runs share them |
/// | `weight = 3` | the number of runs that one run counts as, from 1 to 1,000,000 | 1 |
///
/// The engine declares the limit and its bounds, by this name. The name has 1 to 255 bytes and no
/// control character; it may be a constant: `limit = STRIPE` or `limit(STRIPE, …)`. The key is an
/// expression whose value implements `Display`. In it, `state` is a reference to the instance's
/// state. It may call methods, functions and macros: `key = format!("{}/{}", state.shop,
/// state.customer)`. The text has 1 to 1,024 bytes. A `?` or an `.await` is not possible in it.
///
/// # The graph
///
/// The macro reads from the steps' code which step follows which. The enum's page of the
/// documentation shows this graph as a diagram, at `impl Steps`. The function `graph` of the trait
/// `Steps` returns it as data.
///
/// A step with `#[step(next(…))]` does not compile if its code goes to any other step. The code may
/// not tell the target: it hands the context to a function, or the target is a variable. Then a run
/// fails if it goes to a step that is not declared.
///
/// The compiler warns, at the variant, of a step that no step leads to. It does not warn if the
/// code of some step does not tell its targets. `#[step(entry)]` says that instances begin at a
/// step. The warning is the lint `unused_must_use`: `allow(unused_must_use)` on the variant
/// silences it.
#[proc_macro_attribute]
pub fn durable_fsm(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::durable_fsm(options.into(), item.into()).into()
}

/// Makes a function a job: a machine of one step, with the function's name in `CamelCase`.
///
/// ```text
/// #[durable_job(queue = "mail", retry(max_attempts = 5))]
/// pub async fn send_mail(cx: JobContext<Mail>, mailer: &Mailer) -> Result<(), Error> { … }
/// ```
///
/// | option of a job | meaning | default |
/// |---|---|---|
/// | `machine = SendMailJob` | the machine's name in code | the function's name in `CamelCase` |
/// | `version = 1` | the version of its code and of its arguments | 1 |
/// | `queue = "…"` | the queue that it runs in; or a constant: `queue = QUEUE` | `"default"` |
/// | `name = "…"` | the machine's name in the database; or a constant | the function's name |
/// | `timeout = "30s"` | how long it may run (`ms`, `s`, `m`, `h`) | no limit |
/// | `retry(max_attempts = 5)` | tries it again after an error, as on a machine | no second run |
/// | `isolation = "serializable"` | its transaction's level | `"read committed"` |
/// | `limit("mail")` | the limit that bounds its runs, as on a step | no limit |
/// | `history = "steps"` | what is recorded of its runs, as on a machine | `"failures"` |
/// | `cron = "0 3 * * *"` | inserts it by itself, at these times | nothing does |
/// | `every = "15m"` | the same, each time that this interval has passed | nothing does |
/// | `zone = "Europe/Berlin"` | the time zone of `cron`, by its IANA name | `"UTC"` |
/// | `missed = "once"` | ticks that were missed: `"skip"`, `"once"`, `"all(24)"` | `"once"` |
/// | `overlap = "skip"` | ticks while it runs: `"skip"`, `"allow"`, `"queue"` | `"skip"` |
/// | `crate = path` | the path of a renamed `gen_durable` | `::gen_durable` |
///
/// In the key of a job's limit, `state` is a reference to the arguments, like `cx.state`:
/// `limit("mail", key = state.domain)`.
///
/// A job with `cron` or `every` needs the cargo feature `schedules` of `gen_durable`. Its arguments
/// implement `From<Tick>`, as `()` and `Tick` do. An engine that is given the job's machine
/// declares the schedule, by the machine's name.
///
/// The first parameter is a `JobContext` with the type of the arguments, a `DurableState`. Further
/// parameters are resources, by reference. The job returns its result, a `DurableState`. A job that
/// may run again returns a `JobOutcome` of its result. Either may stand in a `Result`. The macro
/// generates `insert` and `insert_many` on the machine `SendMail`. The function itself stays as it
/// is.
///
/// The machine is as visible as the function: a private function makes a private machine. Write
/// `pub async fn` if another module inserts it. A type in the function's signature cannot have the
/// machine's name; `machine = SendMailJob` gives the machine another one. A context that names the
/// machine, `JobContext<Mail, SendMail>`, knows the type of its id.
#[proc_macro_attribute]
pub fn durable_job(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::durable_job(options.into(), item.into()).into()
}

/// Gives a test a migrated database of its own. Use it as `#[gen_durable::test]`, with the feature
/// `testing` of `gen_durable`.
///
/// ```text
/// #[gen_durable::test(setup = tables)]
/// async fn an_order_is_shipped(pool: PgPool) -> Result<(), Error> { … }
/// ```
///
/// | option of a test | meaning | default |
/// |---|---|---|
/// | `setup = tables` | an `async fn(PgPool) -> Result<(), E>` that prepares the template | none |
/// | `crate = path` | the path of a renamed `gen_durable` | `::gen_durable` |
///
/// The test is an `async fn` that takes a `PgPool`, which is sqlx's and `gen_durable::testing`'s.
/// It returns what a `#[test]` may return. Other attributes keep their meaning, `ignore` and
/// `should_panic` too. The test runs on a tokio runtime of its own, with one thread.
///
/// The first test of a process starts a throw-away server without durability, and makes a template:
/// a database with the schema of `gen_durable`. With `setup`, that function then makes the
/// application's own tables in it. Tests with the same setup share the template. Each test gets a
/// copy, which is dropped when the test ends, even by a panic. The server ends with the process.
///
/// If `DATABASE_URL` is set, its server is used and none is started. Its role must be allowed to
/// create databases. Otherwise the server's programs are the newest installed ones, or those in
/// `PG_BIN_DIR`. If there are none, the crate `gen_durable_postgres` fetches them, except in CI. A
/// runner that gives each test a process of its own starts a server for each: set `DATABASE_URL`
/// there.
#[proc_macro_attribute]
pub fn test(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::test(options.into(), item.into()).into()
}

/// Makes a type a state or a result: implements serde's traits and `DurableState`.
///
/// `#[serde(…)]` attributes mean what they mean to serde. With `#[durable(serde = external)]` the
/// user implements serde's traits. Serde's own derives beside this one need this option.
/// `#[durable(crate = path)]` gives the path of a renamed `gen_durable`.
#[proc_macro_derive(DurableState, attributes(serde, durable))]
pub fn durable_state(item: TokenStream) -> TokenStream {
    expand::durable_state(item.into()).into()
}

/// Makes a type a signal: implements serde's traits and `DurableSignal`.
///
/// The signal's name is the type's in `snake_case`. `#[durable(name = "…")]` gives it another one,
/// also by a constant. The other options are those of the derive `DurableState`.
#[proc_macro_derive(DurableSignal, attributes(serde, durable))]
pub fn durable_signal(item: TokenStream) -> TokenStream {
    expand::durable_signal(item.into()).into()
}
