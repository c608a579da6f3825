//! The answer of an exporter: series with their values.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{ALL, Kind};

/// The labels of a series, by their names.
pub(crate) type Labels = BTreeMap<String, String>;

/// A scrape, in Prometheus's text format.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrape {
    pub(crate) series: Vec<(String, Labels, f64)>,
    /// The kinds, by metric.
    pub(crate) types: BTreeMap<String, String>,
    pub(crate) helps: BTreeMap<String, String>,
}

impl Scrape {
    pub(crate) fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                scrape.types.insert(name.to_owned(), kind.to_owned());
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                scrape.helps.insert(name.to_owned(), help.to_owned());
            } else {
                scrape.series.push(series(line));
            }
        }
        scrape
    }

    /// Returns the value of the only series with these labels, among others.
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |own: &Labels| {
            labels.iter().all(|(label, value)| own.get(*label).is_some_and(|own| own == value))
        };
        let found: Vec<f64> = self
            .series
            .iter()
            .filter(|(own, with, _)| own == name && fits(with))
            .map(|(_, _, value)| *value)
            .collect();
        assert!(found.len() <= 1, "{name} {labels:?}: {found:?}");
        found.first().copied()
    }

    /// Returns the sum over all series with these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |own: &Labels| {
            labels.iter().all(|(label, value)| own.get(*label).is_some_and(|own| own == value))
        };
        let own = self.series.iter().filter(|(own, with, _)| own == name && fits(with));
        own.map(|(_, _, value)| *value).sum()
    }

    /// Returns the names and labels of all series.
    pub(crate) fn identities(&self) -> BTreeSet<(String, Labels)> {
        self.series.iter().map(|(name, labels, _)| (name.clone(), labels.clone())).collect()
    }
}

/// Reads `name{label="value",…} number`.
fn series(line: &str) -> (String, Labels, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let value = value.parse().unwrap();
    let Some((name, labels)) = head.split_once('{') else {
        return (head.to_owned(), Labels::new(), value);
    };
    let mut rest = labels.strip_suffix('}').unwrap();
    let mut found = Labels::new();
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").unwrap();
        let mut text = String::new();
        let mut letters = quoted.char_indices();
        let end = loop {
            match letters.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => match letters.next().unwrap().1 {
                    'n' => text.push('\n'),
                    other => text.push(other),
                },
                (_, letter) => text.push(letter),
            }
        };
        found.insert(label.to_owned(), text);
        rest = quoted[end + 1..].trim_start_matches(',');
    }
    (name.to_owned(), found, value)
}

/// Checks that each series of ours has a name and labels that the code describes, and its kind.
pub(crate) fn check_names(scrape: &Scrape) {
    for (name, labels, _) in &scrape.series {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let known = ALL.iter().find(|metric| {
            metric.name == name || metric.kind == Kind::Histogram && Some(metric.name) == base
        });
        let metric = known.unwrap_or_else(|| panic!("nobody describes {name}"));
        let own: BTreeSet<&str> =
            labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
        assert_eq!(own, metric.labels.iter().copied().collect(), "{name}");
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(scrape.types[metric.name], kind, "{name}");
        assert_eq!(scrape.helps[metric.name], metric.help, "{name}");
    }
}

#[test]
fn quotes_and_backslashes_are_read() {
    let text = "a{b=\"x\\\"y\\\\\",c=\"d\"} 1.5\ne NaN";
    let scrape = Scrape::parse(text);
    assert_eq!(scrape.get("a", &[("b", "x\"y\\"), ("c", "d")]), Some(1.5));
    assert!(scrape.get("e", &[]).unwrap().is_nan());
}
