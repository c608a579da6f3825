//! Counters, gauges and histograms of the facade `metrics`, made once and then used without a
//! look-up.
//!
//! Invariant: without the feature `metrics` each of them is empty, and its methods do nothing.

use super::names::Metric;

/// Counts what has happened.
#[derive(Clone)]
pub(crate) struct Counter(#[cfg(feature = "metrics")] metrics::Counter);

/// Shows how much there is.
#[derive(Clone)]
pub(crate) struct Gauge(#[cfg(feature = "metrics")] metrics::Gauge);

/// Shows how durations are distributed.
#[derive(Clone)]
pub(crate) struct Histogram(#[cfg(feature = "metrics")] metrics::Histogram);

/// Measures the time from its beginning.
#[derive(Clone, Copy)]
pub(crate) struct Timer(#[cfg(feature = "metrics")] std::time::Instant);

#[cfg(feature = "metrics")]
mod on {
    use std::time::{Duration, Instant};

    use metrics::{Key, Label, Level, Metadata, with_recorder};

    use super::{Counter, Gauge, Histogram, Metric, Timer};
    use crate::meters::names::{ALL, Kind, Unit};

    /// The crate as the source of the metrics. A layer may filter by it.
    const SOURCE: Metadata<'static> =
        Metadata::new("gen_durable", Level::INFO, Some("gen_durable"));

    fn key(metric: &Metric, values: &[&str]) -> Key {
        debug_assert_eq!(metric.labels.len(), values.len(), "the labels of {}", metric.name);
        let labels = metric.labels.iter().zip(values);
        let labels = labels.map(|(label, value)| Label::new(*label, (*value).to_owned()));
        Key::from_parts(metric.name, labels.collect::<Vec<_>>())
    }

    /// Tells the recorder what each metric means.
    pub(crate) fn describe() {
        with_recorder(|recorder| {
            for metric in ALL {
                let unit = match metric.unit {
                    Unit::Count => metrics::Unit::Count,
                    Unit::Seconds => metrics::Unit::Seconds,
                };
                let (name, unit, help) = (metric.name.into(), Some(unit), metric.help.into());
                match metric.kind {
                    Kind::Counter => recorder.describe_counter(name, unit, help),
                    Kind::Gauge => recorder.describe_gauge(name, unit, help),
                    Kind::Histogram => recorder.describe_histogram(name, unit, help),
                }
            }
        });
    }

    impl Counter {
        /// Makes the counter with these values of its labels. It shows 0 from now on.
        pub(crate) fn new(metric: &Metric, values: &[&str]) -> Self {
            Self(with_recorder(|recorder| recorder.register_counter(&key(metric, values), &SOURCE)))
        }

        pub(crate) fn add(&self, more: usize) {
            self.0.increment(u64::try_from(more).unwrap_or(u64::MAX));
        }
    }

    impl Gauge {
        pub(crate) fn new(metric: &Metric, values: &[&str]) -> Self {
            Self(with_recorder(|recorder| recorder.register_gauge(&key(metric, values), &SOURCE)))
        }

        pub(crate) fn set(&self, value: f64) {
            self.0.set(value);
        }

        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 slots")]
        pub(crate) fn raise(&self, by: usize) {
            self.0.increment(by as f64);
        }

        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 slots")]
        pub(crate) fn lower(&self, by: usize) {
            self.0.decrement(by as f64);
        }
    }

    impl Histogram {
        pub(crate) fn new(metric: &Metric, values: &[&str]) -> Self {
            Self(with_recorder(|recorder| {
                recorder.register_histogram(&key(metric, values), &SOURCE)
            }))
        }

        pub(crate) fn record(&self, took: Duration) {
            self.0.record(took.as_secs_f64());
        }

        pub(crate) fn stop(&self, timer: Timer) {
            self.record(timer.0.elapsed());
        }
    }

    impl Timer {
        pub(crate) fn start() -> Self {
            Self(Instant::now())
        }
    }
}

#[cfg(not(feature = "metrics"))]
#[expect(clippy::unused_self, reason = "they are called as those that count")]
mod off {
    use std::time::Duration;

    use super::{Counter, Gauge, Histogram, Metric, Timer};

    pub(crate) fn describe() {}

    impl Counter {
        pub(crate) fn new(_: &Metric, _: &[&str]) -> Self {
            Self()
        }

        #[inline]
        pub(crate) fn add(&self, _: usize) {}
    }

    impl Gauge {
        pub(crate) fn new(_: &Metric, _: &[&str]) -> Self {
            Self()
        }

        #[inline]
        pub(crate) fn raise(&self, _: usize) {}

        #[inline]
        pub(crate) fn lower(&self, _: usize) {}
    }

    impl Histogram {
        pub(crate) fn new(_: &Metric, _: &[&str]) -> Self {
            Self()
        }

        #[inline]
        pub(crate) fn record(&self, _: Duration) {}

        #[inline]
        pub(crate) fn stop(&self, _: Timer) {}
    }

    impl Timer {
        #[inline]
        pub(crate) fn start() -> Self {
            Self()
        }
    }
}

#[cfg(not(feature = "metrics"))]
pub(crate) use self::off::describe;
#[cfg(feature = "metrics")]
pub(crate) use self::on::describe;
