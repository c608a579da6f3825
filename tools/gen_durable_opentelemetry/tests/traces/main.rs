//! Traces across processes: OpenTelemetry's SDK in each process, and one collector.

mod collector;
mod machines;
mod processes;
mod requests;
mod shop;
