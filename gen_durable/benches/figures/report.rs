//! Prints the progress, the table of results, and JSON.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use crate::{
    Options,
    bench::{Bench, Figure, Row, Sample, Target},
};

/// The result of a figure: its line of the table, and true if it met its target. A figure without a
/// target, or of a quick run, is neither met nor missed.
pub struct Outcome {
    line: String,
    met: Option<bool>,
}

pub fn head(options: &Options, bench: &Bench) {
    if !options.json {
        println!("Postgres {}{}", bench.version, if options.quick { ", quick run" } else { "" });
    }
}

pub fn progress(
    options: &Options,
    index: usize,
    figures: usize,
    figure: &Figure,
    round: usize,
    rounds: usize,
) {
    if options.json || !std::io::stderr().is_terminal() {
        return;
    }
    let done = index * 30 / figures;
    eprint!(
        "\r[{}{}] {}/{figures} {} {}/{rounds}\x1b[K",
        "#".repeat(done),
        "-".repeat(30 - done),
        index + 1,
        figure.rows[0].name,
        round + 1
    );
    let _ = std::io::stderr().flush();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}

pub fn result(options: &Options, figure: &Row, samples: &[Sample]) -> Outcome {
    let value = median(samples.iter().map(|sample| sample.value).collect());
    let min = samples.iter().map(|sample| sample.value).fold(f64::INFINITY, f64::min);
    let max = samples.iter().map(|sample| sample.value).fold(f64::NEG_INFINITY, f64::max);
    let baseline: Vec<f64> = samples.iter().filter_map(|sample| sample.baseline).collect();
    let baseline = (!baseline.is_empty()).then(|| median(baseline));
    let ratio = median(samples.iter().map(Sample::ratio).collect());
    let (target, met) = match figure.target {
        Target::AtLeast(target) => (Some((">=", target)), Some(ratio >= target)),
        Target::AtMost(target) => (Some(("<=", target)), Some(ratio <= target)),
        Target::None => (None, None),
    };
    // A quick run has too few rows for a verdict.
    let met = met.filter(|_| !options.quick);
    if options.json {
        let json = serde_json::json!({
            "figure": figure.name,
            "value": value,
            "min": min,
            "max": max,
            "unit": figure.unit,
            "baseline": baseline,
            "baseline_name": figure.baseline,
            "ratio": ratio,
            "target": target.map(|(_, target)| target),
            "met": met,
        });
        println!("{json}");
    }
    let line = format!(
        "{:<34} {:>12} {:>12} {:>12} {:>12} {:<11} {:>7.2} {:>8} {}",
        figure.name,
        number(value),
        number(min),
        number(max),
        baseline.map_or_else(|| "-".to_owned(), number),
        figure.unit,
        ratio,
        target.map_or_else(|| "-".to_owned(), |(sign, target)| format!("{sign} {target}")),
        match met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        }
    );
    if !options.json {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        println!("{line}");
    }
    Outcome { line, met }
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

pub fn foot(options: &Options, results: &[Outcome], took: Duration) {
    if options.json {
        return;
    }
    println!(
        "\n{:<34} {:>12} {:>12} {:>12} {:>12} {:<11} {:>7} {:>8}",
        "figure", "median", "min", "max", "baseline", "unit", "ratio", "target"
    );
    for result in results {
        println!("{}", result.line);
    }
    let missed = results.iter().filter(|result| result.met == Some(false)).count();
    println!("\n{} figures, {missed} not met, in {:.0} s", results.len(), took.as_secs_f64());
}
