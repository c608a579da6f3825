//! Golden samples: today's stored values must be readable tomorrow, and by yesterday's processes.
//!
//! Invariant: a check that fails writes nothing. In [`GoldenMode::Check`], no check writes.

use std::{
    any::TypeId,
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    recorded::{Entry, Recorded, Sample},
    shape,
};
use crate::{
    error::StepError,
    machine::{
        Machine,
        signal::{Accepts, DurableSignal},
    },
    value,
};

/// Checks that a machine still reads what it has stored, by samples in a committed file.
///
/// The rows of a version outlive the process that wrote them. While a deployment rolls, processes
/// of two builds read them. A version's state, signals and output may therefore change only in ways
/// that both builds can read. The file holds samples of each version. The check fails, and says
/// what to do, in each of these cases:
///
/// - Today's types do not decode a sample.
/// - A field of a sample would not be written again.
/// - A step came or went.
/// - A sample of an older version cannot be upgraded any more (see [`Upgrade`](crate::Upgrade)).
///
/// ```no_run
/// use gen_durable::{prelude::*, testing::Golden};
/// # #[derive(DurableState)]
/// # pub struct CheckoutState { pub order: i64, pub paid: Option<i64> }
/// # #[derive(DurableSignal)]
/// # pub struct PaymentConfirmed { pub amount: i64 }
/// # #[derive(DurableState)]
/// # pub struct Receipt { pub shipped: bool }
/// # #[durable_fsm(state = CheckoutState, output = Receipt, signals(PaymentConfirmed))]
/// # pub enum Checkout { Start, Ship }
/// # #[durable_fsm]
/// # impl Checkout {
/// #     async fn start(cx: Context<Self>) -> Outcome<Self> { cx.next(Checkout::Ship) }
/// #     async fn ship(cx: Context<Self>) -> Outcome<Self> { cx.done(Receipt { shipped: true }) }
/// # }
///
/// #[test]
/// # fn shown() {}
/// fn checkout_reads_what_it_has_stored() {
///     Golden::<Checkout>::new("tests/golden/checkout.json")
///         .state(CheckoutState { order: 42, paid: None })
///         .state_at(Checkout::Ship, CheckoutState { order: 42, paid: Some(100) })
///         .signal(PaymentConfirmed { amount: 100 })
///         .output(Receipt { shipped: true })
///         .check();
/// }
/// # checkout_reads_what_it_has_stored();
/// ```
///
/// The first run writes the file. Later runs add what it does not have: a new version, or a new
/// shape of a value that fits the recorded ones. A value with a new optional field has a new shape.
/// Commit the file. In CI (the variable `CI` is set) nothing is written, and a sample that the file
/// lacks is a failure. `BLESS=1` records the version's samples anew and drops the recorded ones.
/// Use it for a version of which no instance was ever stored.
///
/// Give samples that fill every field, and one for each variant of an enum. The check cannot notice
/// a change to a field or variant that no sample shows.
#[must_use = "nothing is checked before `.check()`"]
pub struct Golden<M: Machine> {
    path: PathBuf,
    mode: GoldenMode,
    today: Entry,
    readers: BTreeMap<String, Reader>,
    problems: Vec<String>,
    machine: PhantomData<fn() -> M>,
}

/// The samples that a [`Golden`] check may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GoldenMode {
    /// None: a sample that the file lacks is a failure. The default where the variable `CI` is set.
    Check,
    /// Those that the file does not have yet. The default elsewhere.
    Record,
    /// All of the version, in place of those that the file has. The default where the variable
    /// `BLESS` is set.
    Bless,
}

impl GoldenMode {
    fn from_env() -> Self {
        let is_set = |name| {
            std::env::var_os(name)
                .is_some_and(|value| !["", "0", "false"].iter().any(|off| value == *off))
        };
        if is_set("BLESS") {
            Self::Bless
        } else if is_set("CI") {
            Self::Check
        } else {
            Self::Record
        }
    }
}

/// A function that reads a recorded value as today's type and writes it again.
type Reader = fn(&Value) -> Result<Value, String>;

fn reread<M: Machine, T: Serialize + DeserializeOwned>(recorded: &Value) -> Result<Value, String> {
    let value: T = value::decode("", M::NAME, M::VERSION, &recorded.to_string())
        .map_err(|error| format!("does not decode at field `{}`: {}", error.field, error.reason))?;
    stored(&value)
}

/// Returns the value as it would be stored.
fn stored<T: Serialize + DeserializeOwned>(value: &T) -> Result<Value, String> {
    let text =
        value::encode("the value", value, value::VALUE_MAX).map_err(|error| error.to_string())?;
    serde_json::from_str(&text.0).map_err(|error| error.to_string())
}

impl<M: Machine> Golden<M> {
    /// Makes a check against this file. All versions of one machine share a file. A relative path
    /// begins at the package's root, where cargo runs tests.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let steps = M::STEPS.iter().map(|step| (*step).to_owned()).collect();
        Self {
            path: path.into(),
            mode: GoldenMode::from_env(),
            today: Entry { steps, ..Entry::default() },
            readers: BTreeMap::new(),
            problems: Vec::new(),
            machine: PhantomData,
        }
    }

    /// Adds a sample of the state at the initial step.
    pub fn state(self, sample: M::State) -> Self {
        self.state_at(M::INITIAL, sample)
    }

    /// Adds a sample of the state at a step. In a newer version, the sample is upgraded from that
    /// step.
    #[expect(clippy::needless_pass_by_value, reason = "a sample is made for this call")]
    pub fn state_at(mut self, step: M, sample: M::State) -> Self {
        let step = step.name().to_owned();
        match stored(&sample) {
            Ok(state) => self.today.states.push(Sample { step, state }),
            Err(reason) => self.problems.push(format!("the sample of the state: {reason}")),
        }
        self
    }

    /// Adds a sample of a signal.
    #[expect(clippy::needless_pass_by_value, reason = "a sample is made for this call")]
    pub fn signal<S: DurableSignal>(mut self, sample: S) -> Self
    where
        M: Accepts<S>,
    {
        self.readers.insert(S::NAME.to_owned(), reread::<M, S>);
        match stored(&sample) {
            Ok(payload) => {
                self.today.signals.entry(S::NAME.to_owned()).or_default().push(payload);
            }
            Err(reason) => {
                self.problems.push(format!("the sample of signal `{}`: {reason}", S::NAME));
            }
        }
        self
    }

    /// Adds a sample of the result.
    #[expect(clippy::needless_pass_by_value, reason = "a sample is made for this call")]
    pub fn output(mut self, sample: M::Output) -> Self {
        match stored(&sample) {
            Ok(output) => self.today.outputs.push(output),
            Err(reason) => self.problems.push(format!("the sample of the output: {reason}")),
        }
        self
    }

    /// Sets the samples that the check may write, in place of the environment's choice.
    pub fn mode(mut self, mode: GoldenMode) -> Self {
        self.mode = mode;
        self
    }

    /// Checks, and records the samples that may be recorded.
    ///
    /// # Panics
    ///
    /// - If a sample does not fit. The message names all that do not, and says what to do.
    /// - If a sample is missing: one of the state, one of each declared signal and one of the
    ///   output are needed. A state or an output of type `()` needs none.
    /// - If the file cannot be read or written.
    #[track_caller]
    pub fn check(self) {
        if let Err(problem) = self.compare() {
            panic!("{problem}");
        }
    }

    fn compare(mut self) -> Result<(), String> {
        self.find_missing_samples();
        if !self.problems.is_empty() {
            return Err(self.report("the samples are not complete", "Give a sample of each."));
        }
        let recorded = Recorded::open(&self.path, M::NAME, self.mode != GoldenMode::Check)?;
        let before = match self.mode {
            GoldenMode::Bless => None,
            GoldenMode::Check | GoldenMode::Record => recorded.version(M::VERSION).cloned(),
        };
        if let Some(before) = &before {
            self.compare_version(before);
        }
        if !self.problems.is_empty() {
            return Err(self.report(
                "today's types do not fit what this version has stored",
                &format!(
                    "Make a new field optional (`#[serde(default)]`), or keep the old one; or raise the version and say what \
                     the stored instances are in it (`#[durable_fsm(version = {}, upgrades = …)]`). If no instance of \
                     version {} was ever stored, record it anew with BLESS=1.",
                    M::VERSION + 1,
                    M::VERSION
                ),
            ));
        }
        for older in M::UPGRADES.older() {
            if let Some(entry) = recorded.version(older.version) {
                let found = self.upgrade_all(older.version, entry);
                self.problems.extend(found);
            }
        }
        if !self.problems.is_empty() {
            return Err(self.report(
                "an older version's instances cannot be taken over any more",
                "Mend the `Upgrade`, so that it takes what the older version has stored.",
            ));
        }
        let after = before.unwrap_or_default().extended(&self.today);
        if recorded.version(M::VERSION) == Some(&after) {
            return Ok(());
        }
        if self.mode == GoldenMode::Check {
            self.problems
                .push(format!("{} lacks samples that this test gives", self.path.display()));
            return Err(self.report(
                "the file is not up to date",
                "Run this test where the variable `CI` is not set: it adds them. Then commit the file.",
            ));
        }
        recorded.write(M::VERSION, after)
    }

    fn find_missing_samples(&mut self) {
        let is_unit = |id| id == TypeId::of::<()>();
        if self.today.states.is_empty() {
            if is_unit(TypeId::of::<M::State>()) {
                let step = M::INITIAL.name().to_owned();
                self.today.states.push(Sample { step, state: Value::Null });
            } else {
                self.problems.push("`.state(…)` is missing".to_owned());
            }
        }
        for name in M::SIGNALS.iter().filter(|name| !self.readers.contains_key(**name)) {
            self.problems.push(format!("`.signal(…)` is missing for the signal `{name}`"));
        }
        if self.today.outputs.is_empty() {
            if is_unit(TypeId::of::<M::Output>()) {
                self.today.outputs.push(Value::Null);
            } else {
                self.problems.push("`.output(…)` is missing".to_owned());
            }
        }
    }

    /// Compares today's types with the samples that the file has of this version.
    fn compare_version(&mut self, before: &Entry) {
        for step in before.steps.iter().filter(|step| !self.today.steps.contains(step)) {
            self.problems
                .push(format!("step `{step}` is gone: an instance that stands there would fail"));
        }
        for step in self.today.steps.iter().filter(|step| !before.steps.contains(step)) {
            self.problems.push(format!(
                "step `{step}` is new: a process of the previous deployment would fail an instance that stands there"
            ));
        }
        for sample in &before.states {
            self.problems.extend(misfit(
                &format!("state at step `{}`", sample.step),
                &sample.state,
                reread::<M, M::State>,
            ));
        }
        for (name, payloads) in &before.signals {
            let what = format!("signal `{name}`");
            match self.readers.get(name) {
                Some(read) => {
                    let misfits =
                        payloads.iter().filter_map(|payload| misfit(&what, payload, *read));
                    self.problems.extend(misfits);
                }
                None => self.problems.push(format!(
                    "{what} is gone: an instance may wait for it, or have one in its inbox"
                )),
            }
        }
        for output in &before.outputs {
            self.problems.extend(misfit("output", output, reread::<M, M::Output>));
        }
    }

    /// Upgrades the samples that the file has of an older version.
    fn upgrade_all(&self, version: u32, entry: &Entry) -> Vec<String> {
        let mut problems = Vec::new();
        for Sample { step, state } in &entry.states {
            let upgrade = || {
                let (_, state) = M::UPGRADES.read(version, step, &state.to_string())?;
                stored(&state)
            };
            let upgraded = catch_unwind(AssertUnwindSafe(upgrade))
                .unwrap_or_else(|payload| Err(StepError::panicked(&*payload).to_string()));
            if let Err(reason) = upgraded {
                problems.push(format!("version {version} at step `{step}`: {reason}"));
            }
        }
        // The new version reads the signals that wait in the inbox of an old instance.
        for (name, payloads) in &entry.signals {
            let Some(read) = self.readers.get(name) else { continue };
            for reason in payloads.iter().filter_map(|payload| read(payload).err()) {
                problems.push(format!("signal `{name}` of version {version} {reason}"));
            }
        }
        problems
    }

    fn report(&self, summary: &str, advice: &str) -> String {
        format!(
            "machine `{}` version {}: {summary}\n  - {}\n{advice}\nThe samples: {}",
            M::NAME,
            M::VERSION,
            self.problems.join("\n  - "),
            self.path.display()
        )
    }
}

/// Returns the reason why a recorded value does not fit today's type, if it does not.
fn misfit(what: &str, recorded: &Value, read: Reader) -> Option<String> {
    match read(recorded) {
        Err(reason) => Some(format!("{what} {reason}")),
        Ok(again) => shape::lost(recorded, &again).map(|field| {
            format!(
                "{what} does not come back as it was at field `{field}`: a process of the previous deployment could not read it, or would miss it"
            )
        }),
    }
}

/// Prints no sample.
impl<M: Machine> fmt::Debug for Golden<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Golden")
            .field("machine", &M::NAME)
            .field("version", &M::VERSION)
            .field("path", &self.path)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
