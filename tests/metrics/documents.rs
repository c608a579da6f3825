//! The guide and the dashboard name the metrics that the code describes, with their labels.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    names::{ALL, Kind, Unit},
    program::BUCKETS,
    promql,
};

const GUIDE: &str = include_str!("../../gen_durable/src/guide/metrics.md");
const DASHBOARD: &str = include_str!("../../docs/grafana.json");

/// Rows of the guide's tables: name, kind, unit, labels.
fn rows() -> Vec<Vec<String>> {
    let rows = GUIDE.lines().filter(|line| line.starts_with("| `gen_durable_"));
    let cells = |line: &str| {
        let inner = line.trim_start_matches("| ").trim_end_matches('|');
        inner.split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    rows.map(cells).collect()
}

#[test]
fn the_guide_lists_the_metrics_as_they_are() {
    let expected: Vec<Vec<String>> = ALL
        .iter()
        .map(|metric| {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let unit = match metric.unit {
                Unit::Count => "",
                Unit::Seconds => ", s",
            };
            let labels: Vec<String> =
                metric.labels.iter().map(|label| format!("`{label}`")).collect();
            vec![format!("`{}`", metric.name), format!("{kind}{unit}"), labels.join(", ")]
        })
        .collect();
    let found: Vec<Vec<String>> = rows().into_iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_alerts_of_the_guide_name_metrics_that_there_are() {
    let expressions: Vec<&str> =
        GUIDE.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(expressions.len() >= 5);
    for expression in expressions {
        promql::check(expression).unwrap();
    }
}

#[test]
fn the_guide_recommends_the_buckets_that_the_tests_use() {
    let code: String = GUIDE.split_whitespace().collect();
    let buckets: Vec<String> = BUCKETS.iter().map(|bucket| format!("{bucket:?}")).collect();
    assert!(code.contains(&buckets.join(",")), "{buckets:?}");
}

/// The names follow the conventions of Prometheus.
#[test]
fn names_end_in_their_units() {
    let mut seen = BTreeSet::new();
    for metric in ALL {
        assert!(seen.insert(metric.name), "{} is there twice", metric.name);
        let name = metric.name.strip_prefix("gen_durable_").expect("a name of ours");
        assert!(name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_seconds"), metric.unit == Unit::Seconds, "{name}");
        assert!(metric.help.ends_with('.'), "{name}");
    }
}

/// All values of this field, at any depth.
fn fields<'a>(json: &'a Value, field: &str, found: &mut Vec<&'a Value>) {
    match json {
        Value::Object(object) => {
            for (name, value) in object {
                if name == field {
                    found.push(value);
                }
                fields(value, field, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, field, found)),
        _ => {}
    }
}

#[test]
fn each_expression_of_the_dashboard_names_metrics_and_labels_that_there_are() {
    let json: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut expressions = Vec::new();
    for field in ["expr", "query"] {
        fields(&json, field, &mut expressions);
    }
    let mut named = BTreeSet::new();
    let texts = expressions.into_iter().filter_map(Value::as_str);
    for text in texts.filter(|text| text.contains("gen_durable")) {
        named.extend(promql::check(text).unwrap_or_else(|wrong| panic!("{wrong}")));
    }
    let missing: Vec<&str> =
        ALL.iter().map(|metric| metric.name).filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
    // Each panel asks the data source that is chosen at the top, and has its own number.
    let panels = json["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty());
        let refs: BTreeSet<&str> =
            targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert_eq!(refs.len(), targets.len(), "{}", panel["title"]);
    }
    let variables: Vec<&str> = json["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(variables, ["datasource", "machine", "queue"]);
}
