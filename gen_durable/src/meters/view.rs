//! The gauges of the database's view, which one engine at a time shows: the observer.
//!
//! ```text
//!   hidden ──granted──► lease ──show──► shown ──show──► shown …
//!     ▲                   │               │
//!     └──── the lease ends, is lost, or the engine stops: every gauge becomes NaN
//! ```
//!
//! Two engines never show values together, but for as long as a process stands still:
//!
//! - The lease of the table `observer` names one worker, and another one gets it only after its
//!   time by the database's clock. Each engine counts a lease from before it asked for it, and a
//!   tenth less. Its own time therefore ends first, unless its clock runs a tenth too slow.
//! - A sample may take longer than the lease. Without a check the interleaving would be: the lease
//!   ends, [`View::watch`] hides the gauges, another engine shows its own, and then the late sample
//!   is shown, and stays. Therefore [`View::show`] checks the time under the lock that `hide` takes
//!   too.
//! - The caller's runtime may stand still while an exporter on a thread of its own still answers.
//!   Therefore the thread of the worker's lease runs [`View::watch`].
//!
//! Invariant: values are set only before `until`, and afterwards each of them becomes NaN.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

use super::{Gauge, Results, names, names::Metric};
use crate::throttle::Throttle;

/// A value of a sample, with the values of its labels.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) metric: Metric,
    pub(crate) labels: Vec<String>,
    pub(crate) number: f64,
}

type Series = (&'static str, Vec<String>);

/// The gauges of an engine.
pub(crate) struct View {
    state: Mutex<State>,
    changed: Notify,
    observes: Gauge,
    samples: Results<2>,
    /// Bounds the log lines about samples that failed.
    pub(crate) throttle: Throttle,
}

#[derive(Default)]
struct State {
    /// The time until which this engine may show values. None if it may not.
    until: Option<Instant>,
    /// The engine has stopped, and shows nothing any more.
    ended: bool,
    shown: HashMap<Series, Gauge>,
}

impl View {
    pub(crate) fn new() -> Self {
        let observes = Gauge::new(&names::OBSERVES, &[]);
        observes.set(0.0);
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            observes,
            samples: Results::new(&names::SAMPLES, &[], ["shown", "failed"]),
            throttle: Throttle::default(),
        }
    }

    /// Notes that this engine is the observer until then.
    pub(crate) fn granted(&self, until: Instant) {
        let mut state = self.lock();
        if !state.ended {
            state.until = Some(until);
            self.observes.set(1.0);
            self.changed.notify_one();
        }
    }

    /// Shows a sample, unless the lease is over. A series that was shown before and is not in it
    /// becomes NaN: a queue that is gone, say.
    pub(crate) fn show(&self, sample: Vec<Value>) {
        self.show_at(sample, Instant::now());
    }

    fn show_at(&self, sample: Vec<Value>, now: Instant) {
        let mut state = self.lock();
        if state.until.is_none_or(|until| until <= now) {
            return;
        }
        let series = |value: &Value| (value.metric.name, value.labels.clone());
        let present: HashSet<Series> = sample.iter().map(series).collect();
        state.shown.retain(|series, gauge| {
            let stays = present.contains(series);
            if !stays {
                gauge.set(f64::NAN);
            }
            stays
        });
        for value in sample {
            let gauge = state.shown.entry(series(&value)).or_insert_with(|| {
                let labels: Vec<&str> = value.labels.iter().map(String::as_str).collect();
                Gauge::new(&value.metric, &labels)
            });
            gauge.set(value.number);
        }
        self.samples.add(0, 1);
    }

    /// Notes that a sample failed. Values that are old would hide that, so all become NaN.
    pub(crate) fn failed(&self) {
        blank(&mut self.lock());
        self.samples.add(1, 1);
    }

    /// Ends the time of this engine as the observer.
    pub(crate) fn hide(&self) {
        self.hide_in(&mut self.lock());
    }

    /// The same for good, as the engine stops.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        self.hide_in(&mut state);
    }

    fn hide_in(&self, state: &mut State) {
        blank(state);
        if state.until.take().is_some() {
            self.observes.set(0.0);
        }
    }

    /// True if this engine is the observer, as far as it knows.
    pub(crate) fn is_granted(&self) -> bool {
        self.lock().until.is_some()
    }

    /// Hides the values as soon as the lease is over.
    pub(crate) async fn watch(&self) -> Infallible {
        loop {
            let until = self.lock().until;
            match until {
                Some(until) => tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => self.expire(Instant::now()),
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    fn expire(&self, now: Instant) {
        let mut state = self.lock();
        if state.until.is_some_and(|until| until <= now) {
            self.hide_in(&mut state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn blank(state: &mut State) {
    for (_, gauge) in state.shown.drain() {
        gauge.set(f64::NAN);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use metrics::{Counter, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::*;

    /// Keeps the last value of each gauge, by its first label.
    #[derive(Default)]
    struct Last(Mutex<HashMap<String, Arc<AtomicU64>>>);

    impl Last {
        fn value(&self, label: &str) -> Option<f64> {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(label).map(|bits| f64::from_bits(bits.load(Ordering::Relaxed)))
        }
    }

    impl Recorder for Last {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> metrics::Gauge {
            let label = key.labels().next().map_or(key.name(), metrics::Label::value).to_owned();
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            metrics::Gauge::from_arc(Arc::clone(known.entry(label).or_default()))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    fn sample(queues: &[(&str, f64)]) -> Vec<Value> {
        let value = |(queue, value): &(&str, f64)| Value {
            metric: names::DEPTH,
            labels: vec![(*queue).to_owned(), "due".to_owned()],
            number: *value,
        };
        queues.iter().map(value).collect()
    }

    fn is_nan(value: Option<f64>) -> bool {
        value.is_some_and(f64::is_nan)
    }

    #[test]
    fn a_late_sample_is_not_shown_after_the_lease() {
        let last = Last::default();
        metrics::with_local_recorder(&last, || {
            let view = View::new();
            let begin = Instant::now();
            let lease = Duration::from_secs(10);
            view.show_at(sample(&[("a", 1.0)]), begin);
            assert_eq!(last.value("a"), None, "nobody may show without a lease");
            view.granted(begin + lease);
            view.show_at(sample(&[("a", 1.0)]), begin);
            assert_eq!(last.value("a"), Some(1.0));
            // The next sample is taken within the lease. Its answer comes after the end.
            view.expire(begin + lease);
            assert!(is_nan(last.value("a")));
            view.show_at(sample(&[("a", 2.0)]), begin + lease);
            assert!(is_nan(last.value("a")), "another engine shows its values by now");
            assert_eq!(last.value(names::OBSERVES.name), Some(0.0));
        });
    }

    #[test]
    fn a_late_sample_is_not_shown_if_nobody_noticed_the_end_of_the_lease() {
        let last = Last::default();
        metrics::with_local_recorder(&last, || {
            let view = View::new();
            let until = Instant::now() + Duration::from_secs(10);
            view.granted(until);
            view.show_at(sample(&[("a", 2.0)]), until);
            assert_eq!(last.value("a"), None);
            // A renewal that came in time moves the end.
            view.granted(until + Duration::from_secs(10));
            view.expire(until);
            view.show_at(sample(&[("a", 2.0)]), until);
            assert_eq!(last.value("a"), Some(2.0));
        });
    }

    #[test]
    fn what_a_sample_lacks_becomes_nan_and_comes_back() {
        let last = Last::default();
        metrics::with_local_recorder(&last, || {
            let view = View::new();
            view.granted(Instant::now() + Duration::from_hours(1));
            view.show(sample(&[("a", 1.0), ("b", 2.0)]));
            view.show(sample(&[("b", 3.0)]));
            assert!(is_nan(last.value("a")));
            assert_eq!(last.value("b"), Some(3.0));
            view.show(sample(&[("a", 4.0)]));
            assert_eq!(last.value("a"), Some(4.0));
            view.failed();
            assert!(is_nan(last.value("a")) && is_nan(last.value("b")));
            view.show(sample(&[("a", 5.0)]));
            view.end();
            assert!(is_nan(last.value("a")));
            view.granted(Instant::now() + Duration::from_hours(1));
            view.show(sample(&[("a", 6.0)]));
            assert!(is_nan(last.value("a")), "an engine that has stopped shows nothing");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_lease_is_noticed_without_a_sample() {
        let last = Last::default();
        let view = metrics::with_local_recorder(&last, || {
            let view = View::new();
            view.granted(tokio::time::Instant::now().into_std() + Duration::from_secs(10));
            view.show(sample(&[("a", 1.0)]));
            view
        });
        let ended = async {
            while view.is_granted() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            never = view.watch() => match never {},
            () = ended => {}
        }
        assert!(is_nan(last.value("a")));
    }
}
