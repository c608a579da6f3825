//! The spans of steps, and the hook that connects them with the spans of other processes.
//!
//! Invariant: without a hook this process makes no trace context and stores none. It passes on what
//! other processes, and producers in SQL, have stored.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
    time::{Duration, Instant},
};

use tracing::Span;

/// The most bytes of a trace context. The W3C allows a `traceparent` of 55 bytes and a `tracestate`
/// of 512, which a hook may put into one text.
const CONTEXT_MAX: usize = 640;

static HOOK: OnceLock<Box<dyn Hook>> = OnceLock::new();

/// Carries trace contexts from the span that inserts an instance, or that sends a signal, to the
/// span of the step that runs for it, in whatever process.
///
/// The crate `gen_durable_opentelemetry` has one for OpenTelemetry. A context is text, which only
/// the hook reads. It is stored with the instance and with the signal, in a column `trace_context`
/// that is null without a hook. [The guide](crate::guide::tracing) says which span becomes the
/// parent of which.
///
/// A panic of a hook is caught, and counts as no context.
///
/// ```
/// use std::fmt;
///
/// use gen_durable::trace::{Hook, Origin};
/// use tracing::Span;
///
/// /// Passes the number of the span on, and prints which step it leads to.
/// struct Printed;
///
/// impl Hook for Printed {
///     fn current(&self) -> Option<String> {
///         self.context(&Span::current())
///     }
///
///     fn context(&self, span: &Span) -> Option<String> {
///         span.id().map(|id| id.into_u64().to_string())
///     }
///
///     fn begin(&self, span: &Span, name: fmt::Arguments<'_>, origin: Option<Origin<'_>>) {
///         println!("{name} runs in {:?}, because of {origin:?}", span.id());
///     }
///
///     fn link(&self, span: &Span, context: &str) {
///         println!("{:?} consumed a signal of {context}", span.id());
///     }
/// }
///
/// gen_durable::trace::set_hook(Printed)?;
/// # Ok::<(), gen_durable::trace::HookIsSet>(())
/// ```
pub trait Hook: Send + Sync + 'static {
    /// Returns the context of the current span. None if there is no span, or if its trace is not
    /// sampled: then nothing is stored.
    ///
    /// A context has 1 to 640 bytes, does not begin with `-`, and has no NUL. Any other text counts
    /// as none.
    fn current(&self) -> Option<String>;

    /// Returns the context of this span, on the same terms.
    fn context(&self, span: &Span) -> Option<String>;

    /// Prepares the span of a run, before it is entered for the first time. `name` has the machine
    /// and its step, as in `checkout.ship`. `origin` is the context that the work came with.
    fn begin(&self, span: &Span, name: fmt::Arguments<'_>, origin: Option<Origin<'_>>);

    /// Links the span of a run with the context of a signal that the run has consumed.
    fn link(&self, span: &Span, context: &str);
}

/// The relation of a run to the span that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// The work was due at once: this context is the parent of the run's span.
    Parent(&'a str),
    /// The work was due later: the run's span begins a trace of its own, which is linked to this
    /// context.
    Link(&'a str),
}

/// The process has a [`Hook`] already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process has a hook for trace contexts already; set it once, at its start")]
#[non_exhaustive]
pub struct HookIsSet;

/// Sets the process's hook for trace contexts. Call it once, before the first insert and before
/// the first engine starts: what was inserted before carries no context.
///
/// The hook belongs to the process, as the subscriber of `tracing` does: an insert in a transaction
/// of the caller's knows no engine and no client.
///
/// # Errors
///
/// [`HookIsSet`] if it was called before.
pub fn set_hook(hook: impl Hook) -> Result<(), HookIsSet> {
    HOOK.set(Box::new(hook)).map_err(|_| HookIsSet)
}

/// Returns the context of the current span, if the hook gives one.
pub(crate) fn current() -> Option<String> {
    ask(Hook::current).flatten().filter(|context| is_valid(context))
}

fn is_valid(context: &str) -> bool {
    (1..=CONTEXT_MAX).contains(&context.len())
        && !context.starts_with('-')
        && !context.contains('\0')
}

fn ask<T>(question: impl FnOnce(&dyn Hook) -> T) -> Option<T> {
    let hook = &**HOOK.get()?;
    catch_unwind(AssertUnwindSafe(|| question(hook))).ok()
}

/// The context that made an instance due, and the span of the run under way.
#[derive(Default)]
pub(crate) struct Trace {
    origin: Option<Stored>,
    /// The span of the run under way, and when it began.
    span: Option<(Span, Instant)>,
}

struct Stored {
    context: String,
    linked: bool,
}

impl Trace {
    /// Makes the trace of a claimed row from its column `trace_context`.
    pub(crate) fn new(stored: Option<String>) -> Self {
        let origin = stored.map(|stored| match stored.strip_prefix('-') {
            Some(context) => Stored { context: context.to_owned(), linked: true },
            None => Stored { context: stored, linked: false },
        });
        Self { origin, span: None }
    }

    /// Prepares the span of a run, and keeps it until the run [ends](Self::end).
    pub(crate) fn begin(&mut self, span: &Span, machine: &str, step: &str) {
        if span.is_disabled() {
            return;
        }
        let origin = self.origin.as_ref().map(|origin| {
            let to = if origin.linked { Origin::Link } else { Origin::Parent };
            to(&origin.context)
        });
        ask(|hook| hook.begin(span, format_args!("{machine}.{step}"), origin));
        self.span = Some((span.clone(), Instant::now()));
    }

    /// Returns the span of the run that has ended, and how long the run took.
    ///
    /// The next steps on this claim follow at once. If the origin is only a link, this run has
    /// begun a trace of its own. The next steps are then children of this run's span.
    pub(crate) fn end(&mut self) -> Option<(Span, Duration)> {
        let (span, began) = self.span.take()?;
        if let Some(origin) = self.origin.as_mut().filter(|origin| origin.linked)
            && let Some(context) = context(&span)
        {
            *origin = Stored { context, linked: false };
        }
        Some((span, began.elapsed()))
    }
}

/// Returns the context of a span, if the hook gives one.
pub(crate) fn context(span: &Span) -> Option<String> {
    ask(|hook| hook.context(span)).flatten().filter(|context| is_valid(context))
}

/// Links a span with the context of a signal.
pub(crate) fn link(span: &Span, context: &str) {
    ask(|hook| hook.link(span, context));
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("span", &self.span).finish_non_exhaustive()
    }
}
