//! `doctor`: says what is ill, and what helps.
//!
//! Invariant: the exit code is 0 only if nothing is worse than information.

use gen_durable::{
    Client,
    operate::{Count, Finding, Severity},
};

use crate::{
    failure::{Failure, Kind},
    print::{Format, Object, Out, Style, plain},
};

/// Find what waits for ever and why, and what endangers the rest; name the cures.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It ends with 1 if it found a warning or an error. Information alone is no illness.

Example:
  gen-durable doctor
  gen-durable doctor --json")]
pub(crate) struct Doctor {}

impl Doctor {
    pub(crate) async fn run(self, client: &Client, out: &mut Out) -> Result<(), Failure> {
        let findings = client.diagnose().await?;
        for finding in &findings {
            match out.format {
                Format::Table => print(finding, out)?,
                Format::Json => out.text(&json(finding).line())?,
                Format::Ids => {
                    for id in &finding.instances {
                        out.line(&id.to_string())?;
                    }
                }
            }
        }
        let ill = findings.iter().filter(|finding| finding.severity > Severity::Info).count();
        if ill > 0 {
            return Err(Failure::silent(Kind::Failed));
        }
        if out.format == Format::Table {
            out.line("nothing is ill")?;
        }
        Ok(())
    }
}

/// Prints a finding as a paragraph.
fn print(finding: &Finding, out: &mut Out) -> Result<(), Failure> {
    let style = match finding.severity {
        Severity::Info => Style::Plain,
        Severity::Warning => Style::Warning,
        _ => Style::Bad,
    };
    let severity = out.styled(finding.severity.as_str(), style);
    let (subject, explanation) = (plain(&finding.subject), plain(&finding.explanation));
    out.line(&format!("{severity}  {}: {explanation}", out.styled(&subject, Style::Title)))?;
    let ids: Vec<String> = finding.instances.iter().map(i64::to_string).collect();
    match finding.count {
        Some(count) if ids.is_empty() => out.line(&format!("  instances: {count}"))?,
        Some(count) => out.line(&format!("  instances: {count}, such as {}", ids.join(" ")))?,
        None if ids.is_empty() => {}
        None => out.line(&format!("  instances: {}", ids.join(" ")))?,
    }
    out.line(&format!("  cure: {}", plain(&finding.cure)))
}

fn json(finding: &Finding) -> Object {
    let (count, is_exact) = match finding.count {
        Some(Count::Exact(count)) => (Some(count), Some(true)),
        Some(Count::AtLeast(count)) => (Some(count), Some(false)),
        None => (None, None),
    };
    Object::new()
        .with("severity", finding.severity.as_str())
        .with("illness", finding.illness.as_str())
        .with("subject", &*finding.subject)
        .with("explanation", &*finding.explanation)
        .with("cure", &*finding.cure)
        .with("count", count)
        .with("count_is_exact", is_exact)
        .with("instances", finding.instances.clone())
}
