//! Carries OpenTelemetry trace contexts through the instances and signals of `gen_durable`.
//!
//! The span that inserts an instance becomes the parent of the spans of its steps, in whatever
//! process they run, and so does the span that sends the signal for which an instance wakes. Work
//! that is due later begins a trace of its own, which is linked to that span. The guide of
//! `gen_durable`, [tracing](gen_durable::guide::tracing), has the rules.
//!
//! ```
//! use opentelemetry::trace::TracerProvider;
//! use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
//! use tracing_subscriber::prelude::*;
//!
//! // An exporter goes here: `.with_batch_exporter(…)`.
//! let provider = SdkTracerProvider::builder()
//!     .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.01))))
//!     .build();
//! let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("checkout"));
//! tracing_subscriber::registry().with(layer).init();
//! gen_durable_opentelemetry::install()?;
//! # Ok::<(), gen_durable::trace::HookIsSet>(())
//! ```
//!
//! The stored text is the W3C's [`traceparent`](https://www.w3.org/TR/trace-context/). If there is
//! a `tracestate`, it follows on a line of its own. A span whose trace is not sampled stores
//! nothing.
//!
//! Invariant: text that is no trace context changes no span.

use std::{collections::HashMap, fmt};

use gen_durable::trace::{Hook, HookIsSet, Origin};
use opentelemetry::{
    Context,
    propagation::TextMapPropagator,
    trace::{SpanContext, TraceContextExt},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Sets the hook of this process. Call it once, before the first insert.
///
/// Spans come from [`tracing_opentelemetry::layer`], which the subscriber must have. An insert
/// outside of a span of `tracing` takes the current [`Context`] of OpenTelemetry.
///
/// # Errors
///
/// [`HookIsSet`] if the process has a hook already.
pub fn install() -> Result<(), HookIsSet> {
    gen_durable::trace::set_hook(OpenTelemetry { propagator: TraceContextPropagator::new() })
}

struct OpenTelemetry {
    propagator: TraceContextPropagator,
}

impl OpenTelemetry {
    fn write(&self, context: &Context) -> Option<String> {
        if !context.span().span_context().is_sampled() {
            return None;
        }
        let mut headers = HashMap::new();
        self.propagator.inject_context(context, &mut headers);
        let mut text = headers.remove(PARENT)?;
        if let Some(state) = headers.get(STATE).filter(|state| !state.is_empty()) {
            text.push('\n');
            text.push_str(state);
        }
        Some(text)
    }

    fn read(&self, text: &str) -> Option<SpanContext> {
        let (parent, state) = text.split_once('\n').unwrap_or((text, ""));
        let headers = HashMap::from([
            (PARENT.to_owned(), parent.to_owned()),
            (STATE.to_owned(), state.to_owned()),
        ]);
        let context = self.propagator.extract_with_context(&Context::new(), &headers);
        let span = context.span().span_context().clone();
        span.is_valid().then_some(span)
    }
}

impl Hook for OpenTelemetry {
    fn current(&self) -> Option<String> {
        let span = Span::current();
        if span.is_none() { self.write(&Context::current()) } else { self.context(&span) }
    }

    fn context(&self, span: &Span) -> Option<String> {
        self.write(&span.context())
    }

    fn begin(&self, span: &Span, name: fmt::Arguments<'_>, origin: Option<Origin<'_>>) {
        match origin {
            Some(Origin::Parent(text)) => {
                if let Some(parent) = self.read(text) {
                    // Without the layer of `tracing_opentelemetry`, the span is not exported.
                    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
                }
            }
            Some(Origin::Link(text)) => {
                if let Some(origin) = self.read(text) {
                    span.add_link(origin);
                }
            }
            _ => {}
        }
        // The look starts the span, so its sampler sees the name `step`. Few spans are sampled, and
        // the others need no name.
        let context = span.context();
        if context.span().span_context().is_sampled() {
            context.span().update_name(name.to_string());
        }
    }

    fn link(&self, span: &Span, context: &str) {
        if let Some(sender) = self.read(context) {
            span.add_link(sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook() -> OpenTelemetry {
        OpenTelemetry { propagator: TraceContextPropagator::new() }
    }

    fn is_read(text: &str) -> bool {
        hook().read(text).is_some()
    }

    #[test]
    fn a_context_is_written_as_it_was_read() {
        for text in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nvendor=1,other=2",
        ] {
            let hook = hook();
            let read = hook.read(text).map(|span| Context::new().with_remote_span_context(span));
            assert_eq!(read.and_then(|context| hook.write(&context)).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_trace_that_is_not_sampled_is_not_written() {
        let hook = hook();
        let span = hook.read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
        let context = span.map(|span| Context::new().with_remote_span_context(span));
        assert_eq!(context.and_then(|context| hook.write(&context)), None);
    }

    #[test]
    fn other_text_is_no_context() {
        for text in
            ["", "x", "00-0-0-01", "\n", "00-00000000000000000000000000000000-b7ad6b7169203331-01"]
        {
            assert!(!is_read(text), "{text}");
        }
    }
}

/// The code block of the README, compiled as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[allow(missing_debug_implementations, reason = "a place for documentation tests, and no type")]
pub struct Readme;
