//! The options of `#[durable_fsm(…)]`, `#[durable_job(…)]`, `#[step(…)]`, `#[durable(…)]` and
//! `#[gen_durable::test(…)]`.
//!
//! Invariant: reading goes on after a mistake, so that all mistakes are found. If a mistake leaves
//! no doubt about what was meant, that is used: the compiler then reports nothing that only follows
//! from the mistake.

mod limit;
mod option_list;
mod values;

use std::time::Duration;

use proc_macro2::{Ident, Span, TokenStream};
use syn::{Attribute, ExprPath, LitStr, Path, Type, parse::ParseStream, spanned::Spanned};

pub(crate) use self::limit::Limit;
use self::option_list::{Known, OptionList};
use crate::errors::Errors;

/// The options of a machine, as far as the user gave them.
#[derive(Default)]
pub(crate) struct MachineOptions {
    pub(crate) version: Option<u32>,
    pub(crate) queue: Option<Text>,
    /// The name of a job's machine.
    pub(crate) machine: Option<Ident>,
    pub(crate) state: Option<Type>,
    pub(crate) output: Option<Type>,
    pub(crate) name: Option<Text>,
    pub(crate) initial: Option<Ident>,
    pub(crate) on_cancel: Option<Ident>,
    pub(crate) signals: Vec<Path>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) upgrades: Option<Type>,
    pub(crate) retired: bool,
    pub(crate) retry: Option<Retry>,
    /// The level of the history: the name of the runtime's variant.
    pub(crate) history: Option<&'static str>,
    /// The schedule of a job.
    pub(crate) schedule: ScheduleOptions,
    /// The isolation level of a job's transaction.
    pub(crate) isolation: Option<Isolation>,
    /// The limit that bounds a job's runs.
    pub(crate) limit: Option<Limit>,
    pub(crate) krate: Option<Path>,
}

/// The options of a job's schedule.
#[derive(Default)]
pub(crate) struct ScheduleOptions {
    pub(crate) cron: Option<LitStr>,
    /// The interval, with its place.
    pub(crate) every: Option<(Span, Duration)>,
    pub(crate) zone: Option<LitStr>,
    pub(crate) missed: Option<(Span, Missed)>,
    /// The policy for a tick while the last instance runs: the name of the runtime's variant.
    pub(crate) overlap: Option<(Span, &'static str)>,
}

/// The policy for ticks that were missed.
#[derive(Clone, Copy)]
pub(crate) enum Missed {
    Skip,
    Once,
    All(u32),
}

impl ScheduleOptions {
    /// Returns the place of one of the options, the times first.
    pub(crate) fn at(&self) -> Option<Span> {
        let text = |text: &Option<LitStr>| text.as_ref().map(LitStr::span);
        let every = self.every.map(|(at, _)| at);
        let rest = self.missed.map(|(at, _)| at).or(self.overlap.map(|(at, _)| at));
        text(&self.cron).or(every).or(text(&self.zone)).or(rest)
    }
}

/// A text: a literal, or the path of a constant.
#[derive(Clone)]
pub(crate) enum Text {
    /// `"checkout"`
    Literal(LitStr),
    /// `queues::CHECKOUT`. Its text is checked when the compiler evaluates constants.
    Constant(ExprPath),
}

/// The options of a step, or of `handle`.
#[derive(Default)]
pub(crate) struct StepOptions {
    /// The variants that it may go to.
    pub(crate) next: Option<Vec<Ident>>,
    /// True if instances begin here by an insert in other code, or by an upgrade.
    pub(crate) entry: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: Option<Retry>,
    pub(crate) isolation: Option<Isolation>,
    pub(crate) limit: Option<Limit>,
}

/// The isolation level of a step's transaction.
#[derive(Clone)]
pub(crate) struct Isolation {
    /// The place of the level.
    pub(crate) at: Span,
    /// The level as SQL writes it, and the name of the runtime's variant.
    pub(crate) text: &'static str,
    pub(crate) level: &'static str,
}

/// A retry policy: how often and when a failed run is tried again.
#[derive(Clone)]
pub(crate) struct Retry {
    /// The place of the option.
    pub(crate) at: Span,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) initial: Duration,
    pub(crate) max: Duration,
    pub(crate) jitter: bool,
}

/// The growth of the delays from one retry to the next.
#[derive(Clone, Copy)]
pub(crate) enum Backoff {
    Constant,
    Linear,
    Exponential,
}

/// The options of a derive.
#[derive(Default)]
pub(crate) struct DeriveOptions {
    pub(crate) external_serde: bool,
    pub(crate) name: Option<Text>,
    pub(crate) krate: Option<Path>,
}

/// The options of a test.
#[derive(Default)]
pub(crate) struct TestOptions {
    /// The function that prepares the template.
    pub(crate) setup: Option<Path>,
    pub(crate) krate: Option<Path>,
}

const MACHINE: Known = &[
    ("version", "version = 1"),
    ("queue", "queue = \"checkout\""),
    ("state", "state = CheckoutState"),
    ("output", "output = Receipt"),
    ("name", "name = \"checkout\""),
    ("initial", "initial = Start"),
    ("on_cancel", "on_cancel = Refund"),
    ("signals", "signals(PaymentConfirmed)"),
    ("timeout", "timeout = \"30s\""),
    ("upgrades", "upgrades = v1::Checkout"),
    ("retired", "retired"),
    ("retry", "retry(max_attempts = 5)"),
    ("history", "history = \"steps\""),
    ("crate", "crate = gen_durable"),
];

const JOB: Known = &[
    ("machine", "machine = SendMailJob"),
    ("version", "version = 1"),
    ("queue", "queue = \"mail\""),
    ("name", "name = \"send_mail\""),
    ("timeout", "timeout = \"30s\""),
    ("retry", "retry(max_attempts = 5)"),
    ("isolation", "isolation = \"serializable\""),
    ("limit", "limit(\"stripe\")"),
    ("history", "history = \"steps\""),
    ("cron", "cron = \"0 3 * * *\""),
    ("every", "every = \"15m\""),
    ("zone", "zone = \"Europe/Berlin\""),
    ("missed", "missed = \"once\""),
    ("overlap", "overlap = \"skip\""),
    ("crate", "crate = gen_durable"),
];

const RETRY: Known = &[
    ("max_attempts", "max_attempts = 5"),
    ("backoff", "backoff = \"exponential\""),
    ("initial", "initial = \"1s\""),
    ("max", "max = \"5m\""),
    ("jitter", "jitter"),
];

const LIMIT: Known = &[("key", "key = state.customer"), ("weight", "weight = 3")];

const IMPL: Known = &[("crate", "crate = gen_durable")];

const STEP: Known = &[
    ("next", "next(Ship, Cancel)"),
    ("entry", "entry"),
    ("timeout", "timeout = \"30s\""),
    ("retry", "retry(max_attempts = 5)"),
    ("isolation", "isolation = \"serializable\""),
    ("limit", "limit(\"stripe\")"),
];

const HANDLE: Known =
    &[("next", "next(Ship, Cancel)"), ("isolation", "isolation = \"serializable\"")];

const STATE: Known = &[("serde", "serde = external"), ("crate", "crate = gen_durable")];

const SIGNAL: Known = &[
    ("serde", "serde = external"),
    ("name", "name = \"payment_confirmed\""),
    ("crate", "crate = gen_durable"),
];

const TEST: Known = &[("setup", "setup = tables"), ("crate", "crate = gen_durable")];

impl MachineOptions {
    /// Reads the options on the enum.
    pub(crate) fn read(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        let elsewhere = "belongs on a step: put it in `#[step(…)]` on the step's function";
        OptionList::new(MACHINE, Some((STEP, elsewhere))).options(
            tokens,
            errors,
            |name, input, errors| options.take(name, input, errors),
        );
        options
    }

    /// Reads the options of a job.
    pub(crate) fn read_job(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        let elsewhere = "belongs on a machine of several steps: a job's state and output are in its signature, and it takes no signals";
        OptionList::new(JOB, Some((MACHINE, elsewhere))).options(
            tokens,
            errors,
            |name, input, errors| options.take(name, input, errors),
        );
        options
    }

    fn take(&mut self, name: &str, input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<()> {
        match name {
            "version" => self.version = Some(values::version(input)?),
            "queue" => self.queue = Some(values::text(name, "checkout", input, errors)?),
            "machine" => self.machine = Some(values::type_name(name, input)?),
            "name" => self.name = Some(values::text(name, "checkout", input, errors)?),
            "state" => self.state = Some(values::ty(name, input, errors)?),
            "output" => self.output = Some(values::ty(name, input, errors)?),
            "initial" => self.initial = Some(values::variant(name, "Start", input, errors)?),
            "on_cancel" => {
                self.on_cancel = Some(values::variant(name, "Refund", input, errors)?);
            }
            "signals" => self.signals = values::signals(input, errors)?,
            "timeout" => self.timeout = Some(values::duration("timeout", "30s", input)?),
            "upgrades" => self.upgrades = Some(values::ty(name, input, errors)?),
            "retired" => {
                self.retired = true;
                values::flag(name, input)?;
            }
            "retry" => self.retry = Some(Retry::read(input, errors)?),
            "isolation" => self.isolation = Some(values::isolation(input)?),
            "limit" => self.limit = Some(Limit::read(input, errors)?),
            "history" => self.history = Some(values::history(input)?),
            "cron" => self.schedule.cron = Some(values::string(name, "0 3 * * *", input)?),
            "every" => {
                let at = values::place(input);
                self.schedule.every = Some((at, values::duration("every", "15m", input)?));
            }
            "zone" => self.schedule.zone = Some(values::string(name, "Europe/Berlin", input)?),
            "missed" => self.schedule.missed = Some(values::missed(input)?),
            "overlap" => self.schedule.overlap = Some(values::overlap(input)?),
            _ => self.krate = Some(values::path(name, "gen_durable", input, errors)?),
        }
        Ok(())
    }
}

/// Reads the options on the impl block: the path of a renamed `gen_durable` alone.
pub(crate) fn read_impl_options(tokens: TokenStream, errors: &mut Errors) -> Option<Path> {
    let mut krate = None;
    let elsewhere = (MACHINE, "belongs on the enum: the impl block takes `#[durable_fsm]` alone");
    OptionList::new(IMPL, Some(elsewhere)).options(tokens, errors, |name, input, errors| {
        krate = Some(values::path(name, "gen_durable", input, errors)?);
        Ok(())
    });
    krate
}

impl StepOptions {
    /// Reads the `#[step(…)]` attributes of a function.
    pub(crate) fn read(attrs: &[Attribute], of_handle: bool, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        let mut parser = if of_handle {
            OptionList::new(HANDLE, Some((STEP, "belongs on a step, and `handle` is none")))
        } else {
            OptionList::new(STEP, None)
        };
        for attr in attrs.iter().filter(|attr| is_step(attr)) {
            let Ok(list) = attr.meta.require_list() else {
                errors.push(syn::Error::new(
                    attr.meta.span(),
                    format!("the options stand in parentheses: `#[step({})]`", STEP[0].1),
                ));
                continue;
            };
            parser.options(list.tokens.clone(), errors, |name, input, errors| {
                match name {
                    "next" => options.next = Some(values::targets(input, errors)?),
                    "timeout" => {
                        options.timeout = Some(values::duration("timeout", "30s", input)?);
                    }
                    "retry" => options.retry = Some(Retry::read(input, errors)?),
                    "isolation" => options.isolation = Some(values::isolation(input)?),
                    "limit" => options.limit = Some(Limit::read(input, errors)?),
                    _ => options.entry = true,
                }
                Ok(())
            });
        }
        options
    }
}

impl Retry {
    /// `(max_attempts = 5, backoff = "exponential", initial = "1s", max = "5m", jitter)`
    fn read(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Self> {
        let (at, tokens) = values::in_parentheses("retry(max_attempts = 5)", input)?;
        let mut retry = Self {
            at,
            max_attempts: 5,
            backoff: Backoff::Exponential,
            initial: Duration::from_secs(1),
            max: Duration::from_mins(5),
            jitter: false,
        };
        let mut longest = None;
        OptionList::new(RETRY, None).options(tokens, errors, |name, input, _| {
            match name {
                "max_attempts" => retry.max_attempts = values::attempts(input)?,
                "backoff" => retry.backoff = values::backoff(input)?,
                "initial" => retry.initial = values::duration("initial", "1s", input)?,
                "max" => longest = Some((input.span(), values::duration("max", "5m", input)?)),
                _ => retry.jitter = true,
            }
            Ok(())
        });
        // Without a `max`, an `initial` that is longer than 5 minutes raises the longest delay.
        retry.max = longest.map_or(retry.max.max(retry.initial), |(_, max)| max);
        if let Some((at, max)) = longest
            && max < retry.initial
        {
            errors.push(syn::Error::new(
                at,
                "no delay may be longer than `max`, and the first one, `initial`, is: make `max` longer or `initial` shorter",
            ));
        }
        Ok(retry)
    }
}

/// True if an attribute is `#[step…]`.
pub(crate) fn is_step(attr: &Attribute) -> bool {
    attr.path().is_ident("step")
}

impl DeriveOptions {
    /// Reads the `#[durable(…)]` attributes of a type. Only a signal has the option `name`.
    pub(crate) fn read(attrs: &[Attribute], is_signal: bool, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        let mut parser = if is_signal {
            OptionList::new(SIGNAL, None)
        } else {
            OptionList::new(
                STATE,
                Some((SIGNAL, "belongs on a signal: a state has no name of its own")),
            )
        };
        for attr in attrs.iter().filter(|attr| is_durable(attr)) {
            let Ok(list) = attr.meta.require_list() else {
                let example = if is_signal { SIGNAL } else { STATE }[0].1;
                errors.push(syn::Error::new(
                    attr.meta.span(),
                    format!("the options stand in parentheses: `#[durable({example})]`"),
                ));
                continue;
            };
            parser.options(list.tokens.clone(), errors, |name, input, errors| {
                match name {
                    "serde" => options.external_serde = values::external(input, errors)?,
                    "name" => options.name = Some(values::text(name, "checkout", input, errors)?),
                    _ => options.krate = Some(values::path(name, "gen_durable", input, errors)?),
                }
                Ok(())
            });
        }
        options
    }
}

/// True if an attribute is `#[durable…]`.
pub(crate) fn is_durable(attr: &Attribute) -> bool {
    attr.path().is_ident("durable")
}

impl TestOptions {
    /// Reads the options of a test.
    pub(crate) fn read(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        OptionList::new(TEST, None).options(tokens, errors, |name, input, errors| {
            match name {
                "setup" => options.setup = Some(values::path(name, "tables", input, errors)?),
                _ => options.krate = Some(values::path(name, "gen_durable", input, errors)?),
            }
            Ok(())
        });
        options
    }
}
