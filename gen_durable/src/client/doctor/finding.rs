//! The doctor's findings: one for each illness of a thing.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::{super::Count, Illness};
use crate::{error::DatabaseError, storage::Affected};

/// The number up to which instances are counted.
const COUNT_MAX: u64 = 1_000;
/// The most ids that a finding gives.
const IDS_MAX: usize = 5;

/// Something that is ill, as [`Client::diagnose`](crate::Client::diagnose) found it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The weight of it.
    pub severity: Severity,
    /// The kind of illness.
    pub illness: Illness,
    /// The thing that is ill: `queue mail`, `order v2`, `setting fsync`.
    pub subject: String,
    /// A text for people: what is wrong, and since when.
    pub explanation: String,
    /// The remedy: a command of the program `gen-durable`, a setting, or what to start.
    pub cure: String,
    /// The number of instances that suffer, if it is about instances.
    pub count: Option<Count>,
    /// The ids of some of them.
    pub instances: Vec<i64>,
}

/// The weight of a [`Finding`]. A graver one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// It may well be meant.
    Info,
    /// It will hurt, or hurts a part.
    Warning,
    /// Something waits that will not go on by itself, or data is in danger.
    Error,
}

impl Severity {
    /// Returns `info`, `warning` or `error`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Finding {
    pub(super) fn new(
        severity: Severity,
        illness: Illness,
        subject: impl Into<String>,
        explanation: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            illness,
            subject: subject.into(),
            explanation: explanation.into(),
            cure: cure.into(),
            count: None,
            instances: Vec::new(),
        }
    }

    /// Says which instances suffer.
    pub(super) fn with(self, affected: Affected) -> Self {
        let count = u64::try_from(affected.count).unwrap_or(0);
        self.with_count(count, affected.ids)
    }

    pub(super) fn with_count(mut self, count: u64, mut ids: Vec<i64>) -> Self {
        ids.truncate(IDS_MAX);
        self.count =
            Some(if count > COUNT_MAX { Count::AtLeast(COUNT_MAX) } else { Count::Exact(count) });
        self.instances = ids;
        self
    }

    /// Adds the instances of another finding about the same thing.
    fn merge(&mut self, other: Self) {
        let sum = |one, other| match (one, other) {
            (Count::Exact(one), Count::Exact(other)) => Count::Exact(one + other),
            (
                Count::Exact(one) | Count::AtLeast(one),
                Count::Exact(other) | Count::AtLeast(other),
            ) => Count::AtLeast(one + other),
        };
        self.severity = self.severity.max(other.severity);
        self.count = match (self.count, other.count) {
            (Some(one), Some(other)) => Some(sum(one, other)),
            (one, other) => one.or(other),
        };
        self.instances.extend(other.instances);
        self.instances.truncate(IDS_MAX);
    }
}

/// The findings so far: one for each illness of a thing.
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn add(&mut self, finding: Finding) {
        let same = |known: &&mut Finding| {
            (known.illness, &known.subject) == (finding.illness, &finding.subject)
        };
        match self.0.iter_mut().find(same) {
            Some(known) => known.merge(finding),
            None => self.0.push(finding),
        }
    }

    /// Notes a look that failed.
    pub(super) fn failed(&mut self, what: &str, error: &DatabaseError) {
        let cure = match error.sqlstate() {
            Some("42501") => {
                "grant the login gen_durable_operator, after `gen-durable migrate roles`"
            }
            Some("57014" | "55P03") => "try again when the database has less to do",
            _ => "gen-durable migrate status",
        };
        let subject = format!("the look at {what}");
        let text = error.to_string();
        self.add(Finding::new(Severity::Warning, Illness::CouldNotLook, subject, text, cure));
    }

    /// Returns the findings, the gravest first.
    pub(super) fn sorted(self) -> Vec<Finding> {
        let mut findings = self.0;
        findings.sort_by(|one, other| {
            let rank = |finding: &Finding| (std::cmp::Reverse(finding.severity), finding.illness);
            rank(one).cmp(&rank(other)).then_with(|| one.subject.cmp(&other.subject))
        });
        findings
    }
}

/// The time from one moment to another in words: `12 min`. A moment that has not come is `0 s` ago.
pub(super) struct Since(pub(super) Option<SystemTime>, pub(super) SystemTime);

impl Since {
    pub(super) fn age(&self) -> Duration {
        self.0.and_then(|since| self.1.duration_since(since).ok()).unwrap_or_default()
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.age().as_secs();
        match seconds {
            0..=119 => write!(f, "{seconds} s"),
            120..=7_199 => write!(f, "{} min", seconds / 60),
            7_200..=172_799 => write!(f, "{} h", seconds / 3_600),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

/// A name as an argument of a command in a shell. The command's options come before it: a name that
/// begins with a hyphen would be taken for one, so `--` ends them.
pub(super) struct Argument<'a>(pub(super) &'a str);

impl fmt::Display for Argument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end_of_options = if self.0.starts_with('-') { "-- " } else { "" };
        write!(f, "{end_of_options}{}", Quoted(self.0))
    }
}

/// A name in a shell, as the value of an option: `--step=pay`. It is quoted if a shell would take
/// it apart.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |letter: char| letter.is_alphanumeric() || "_-./:@".contains(letter);
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        write!(f, "'{}'", self.0.replace('\'', r"'\''"))
    }
}

/// Names as a list: `pay, ship`.
pub(super) fn listed<T: fmt::Display>(names: &[T]) -> String {
    names.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_its_largest_unit() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365);
        let since = |seconds| Since(Some(now - Duration::from_secs(seconds)), now).to_string();
        let times = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(since);
        assert_eq!(times, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
        assert_eq!(Since(Some(now + Duration::from_secs(9)), now).to_string(), "0 s");
        assert_eq!(Since(None, now).to_string(), "0 s");
    }

    #[test]
    fn a_name_is_an_argument_for_a_shell() {
        let arguments = ["mail", "order@pay", "night mail", "it's", "$(rm)", ""].map(Argument);
        let written = arguments.map(|argument| argument.to_string());
        let expected = ["mail", "order@pay", "'night mail'", r"'it'\''s'", "'$(rm)'", "''"];
        assert_eq!(written, expected);
        assert_eq!(Argument("-x y").to_string(), "-- '-x y'");
        assert_eq!(format!("--step={}", Quoted("-x")), "--step=-x");
    }

    #[test]
    fn findings_of_a_thing_are_one_and_the_gravest_come_first() {
        let finding = |severity, illness, subject: &str, count, ids: &[i64]| {
            Finding::new(severity, illness, subject, "", "").with_count(count, ids.to_vec())
        };
        let mut findings = Findings::new();
        findings.add(finding(Severity::Info, Illness::LongPark, "b", 1, &[1]));
        findings.add(finding(Severity::Info, Illness::LongPark, "a", 1_001, &[1, 2, 3]));
        findings.add(finding(Severity::Warning, Illness::LongPark, "a", 2, &[4, 5, 6]));
        findings.add(finding(Severity::Error, Illness::HeldKey, "c", 2, &[]));
        let sorted = findings.sorted();
        let subjects: Vec<&str> = sorted.iter().map(|finding| &*finding.subject).collect();
        assert_eq!(subjects, ["c", "a", "b"]);
        assert_eq!(sorted[1].count, Some(Count::AtLeast(1_002)));
        assert_eq!(sorted[1].instances, [1, 2, 3, 4, 5]);
        assert_eq!(sorted[1].severity, Severity::Warning);
    }
}
