//! A collector of spans: each process of the test sends it the spans that its SDK exports.
//!
//! Invariant: a span is a line of JSON. The exporter blocks, so the collector has all spans of a
//! process that has ended.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::Result;
use opentelemetry::trace::{Status, TracerProvider};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use serde_json::{Value, json};
use tracing_subscriber::{EnvFilter, prelude::*};

/// A span as a test sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) process: String,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) span: String,
    pub(crate) parent: String,
    /// The spans that it is linked to.
    pub(crate) links: Vec<String>,
    /// The time from its start to its end, in seconds.
    pub(crate) took: f64,
    pub(crate) is_error: bool,
    pub(crate) attributes: Value,
}

impl Seen {
    pub(crate) fn is_root(&self) -> bool {
        self.parent == "0000000000000000"
    }

    pub(crate) fn attribute(&self, name: &str) -> &str {
        self.attributes[name].as_str().unwrap_or_default()
    }
}

/// The collector of a test.
pub(crate) struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Seen>>>,
}

impl Collector {
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let spans = Arc::<Mutex<Vec<Seen>>>::default();
        let all = Arc::clone(&spans);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let all = Arc::clone(&all);
                thread::spawn(move || {
                    for line in BufReader::new(stream).lines().map_while(Result::ok) {
                        let span: Value = serde_json::from_str(&line).expect("a line of JSON");
                        all.lock().expect("no test panics with it").push(seen(&span));
                    }
                });
            }
        });
        Ok(Self { address, spans })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.spans.lock().expect("no test panics with it").clone()
    }
}

fn seen(span: &Value) -> Seen {
    let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
    let links = span["links"].as_array().into_iter().flatten();
    Seen {
        process: text("process"),
        name: text("name"),
        trace: text("trace"),
        span: text("span"),
        parent: text("parent"),
        links: links.filter_map(|link| link.as_str().map(str::to_owned)).collect(),
        took: span["took"].as_f64().unwrap_or_default(),
        is_error: span["is_error"] == true,
        attributes: span["attributes"].clone(),
    }
}

/// Sets up tracing in this process as an application does it: a subscriber with the layer of
/// `tracing_opentelemetry`, and the hook.
pub(crate) fn trace(process: &str, collector: SocketAddr, sampler: Sampler) -> Result<()> {
    let exporter =
        Lines { process: process.to_owned(), stream: Mutex::new(TcpStream::connect(collector)?) };
    let provider =
        SdkTracerProvider::builder().with_sampler(sampler).with_simple_exporter(exporter).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing_subscriber::registry().with(EnvFilter::new("info,sqlx=off")).with(layer).try_init()?;
    gen_durable_opentelemetry::install()?;
    Ok(())
}

/// An exporter that writes spans as lines to the collector.
#[derive(Debug)]
struct Lines {
    process: String,
    stream: Mutex<TcpStream>,
}

impl SpanExporter for Lines {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut stream = self.stream.lock().expect("no exporter panics with it");
        for span in batch {
            let attributes: serde_json::Map<String, Value> = span
                .attributes
                .iter()
                .map(|pair| (pair.key.to_string(), json!(pair.value.to_string())))
                .collect();
            let links: Vec<String> =
                span.links.iter().map(|link| link.span_context.span_id().to_string()).collect();
            let line = json!({
                "process": self.process,
                "name": span.name,
                "trace": span.span_context.trace_id().to_string(),
                "span": span.span_context.span_id().to_string(),
                "parent": span.parent_span_id.to_string(),
                "links": links,
                "took": span.end_time.duration_since(span.start_time).unwrap_or_default().as_secs_f64(),
                "is_error": matches!(span.status, Status::Error { .. }),
                "attributes": attributes,
            });
            // The test may be over.
            let _ = writeln!(stream, "{line}");
        }
        Ok(())
    }
}
