//! Reads the metrics and labels that an expression in Prometheus's language names. It reads no
//! more of the language than that.

use std::collections::BTreeSet;

use crate::names::{ALL, Kind, Metric};

/// The functions and keywords that expressions of ours may use.
const WORDS: [&str; 25] = [
    "sum",
    "max",
    "min",
    "avg",
    "count",
    "topk",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "rate",
    "increase",
    "histogram_quantile",
    "time",
    "clamp_min",
    "clamp_max",
    "and",
    "or",
    "unless",
    "bool",
    "absent",
    "max_over_time",
    "label_values",
];

/// The labels that Prometheus adds, and those of histograms.
const FOREIGN: [&str; 3] = ["instance", "job", "le"];

/// Parts of an expression.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text,
    Sign(char),
}

fn tokens(expression: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut letters = expression.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_ascii_alphabetic() || letter == '_' || letter == '$' {
            let mut word = String::from(letter);
            while let Some(next) =
                letters.next_if(|next| next.is_ascii_alphanumeric() || "_:".contains(*next))
            {
                word.push(next);
            }
            tokens.push(Token::Word(word));
        } else if letter == '"' {
            while let Some(next) = letters.next() {
                match next {
                    '\\' => drop(letters.next()),
                    '"' => break,
                    _ => {}
                }
            }
            tokens.push(Token::Text);
        } else if letter.is_ascii_digit() {
            // A number, or a duration with its unit.
            while letters.next_if(|next| next.is_ascii_alphanumeric() || *next == '.').is_some() {}
        } else if !letter.is_whitespace() {
            tokens.push(Token::Sign(letter));
        }
    }
    tokens
}

/// The metric that a series of Prometheus is part of.
fn metric(series: &str) -> Option<&'static Metric> {
    ALL.iter().find(|metric| match metric.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|end| series.strip_suffix(end) == Some(metric.name)),
        _ => metric.name == series,
    })
}

/// Returns the metrics of an expression, or what is wrong with it.
pub(crate) fn check(expression: &str) -> Result<BTreeSet<&'static str>, String> {
    let tokens = tokens(expression);
    let (mut found, mut labels, mut grouped) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let mut open = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            Token::Sign(sign @ ('(' | '[' | '{')) => open.push(*sign),
            Token::Sign(sign @ (')' | ']' | '}')) => {
                let pair = matches!(
                    (open.pop(), sign),
                    (Some('('), ')') | (Some('['), ']') | (Some('{'), '}')
                );
                if !pair {
                    return Err(format!("`{sign}` closes nothing: {expression}"));
                }
            }
            Token::Word(word) if word.starts_with("gen_durable_") => {
                let metric = metric(word).ok_or(format!("there is no metric `{word}`"))?;
                found.insert(metric.name);
                if tokens.get(at + 1) == Some(&Token::Sign('{')) {
                    let end = tokens[at..].iter().position(|token| *token == Token::Sign('}'));
                    let matchers = &tokens[at + 2..at + end.ok_or("`{` is not closed")?];
                    for token in matchers {
                        match token {
                            Token::Word(label) if !has(metric, label) => {
                                return Err(format!("`{word}` has no label `{label}`"));
                            }
                            _ => {}
                        }
                    }
                    at += matchers.len() + 2;
                }
                labels.extend(metric.labels.iter().copied());
            }
            Token::Word(word)
                if ["by", "without", "on", "ignoring", "group_left"].contains(&&**word) =>
            {
                let end = tokens[at..].iter().position(|token| *token == Token::Sign(')'));
                let inside = &tokens[at + 2..at + end.ok_or("`(` is not closed")?];
                let names = inside.iter().filter_map(|token| match token {
                    Token::Word(label) => Some(label.clone()),
                    _ => None,
                });
                grouped.extend(names);
                at += inside.len() + 2;
            }
            Token::Word(word) if word.starts_with('$') || WORDS.contains(&&**word) => {}
            Token::Word(word) if FOREIGN.contains(&&**word) || labels.contains(&**word) => {}
            Token::Word(word) => return Err(format!("nobody knows `{word}`: {expression}")),
            Token::Text | Token::Sign(_) => {}
        }
        at += 1;
    }
    if !open.is_empty() {
        return Err(format!("{open:?} is not closed: {expression}"));
    }
    if found.is_empty() {
        return Err(format!("it has no metric: {expression}"));
    }
    match grouped
        .iter()
        .find(|label| !labels.contains(label.as_str()) && !FOREIGN.contains(&label.as_str()))
    {
        Some(label) => Err(format!("no metric has the label `{label}`: {expression}")),
        None => Ok(found),
    }
}

fn has(metric: &Metric, label: &str) -> bool {
    metric.labels.contains(&label) || FOREIGN.contains(&label)
}

#[test]
fn what_is_wrong_with_an_expression_is_found() {
    let good = "sum by (machine) (rate(gen_durable_steps_total{outcome=~\"failed|x\", step=\"a\"}[5m])) > 0.5";
    assert_eq!(check(good), Ok(["gen_durable_steps_total"].into()));
    let histogram = "histogram_quantile(0.9, sum by (le, queue) (rate(gen_durable_waiting_seconds_bucket[$__rate_interval])))";
    assert_eq!(check(histogram), Ok(["gen_durable_waiting_seconds"].into()));
    for wrong in [
        "rate(gen_durable_step_total[5m])",
        "rate(gen_durable_waiting_seconds[5m])",
        "gen_durable_depth{machine=\"a\"}",
        "sum by (machine) (gen_durable_depth)",
        "total(gen_durable_depth)",
        "sum(gen_durable_depth",
        "sum(gen_durable_depth])",
        "1 + 1",
    ] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
}
