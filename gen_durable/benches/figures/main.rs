//! Measures the engine's figures, each beside its baseline on the same server in the same run.
//!
//! ```text
//! cargo bench --bench figures                     # all but the long ones
//! cargo bench --bench figures -- --quick          # does it run? (small numbers, no verdict)
//! cargo bench --bench figures -- --only one_step  # figures with this in their name
//! cargo bench --bench figures -- --json           # one JSON object a line
//! cargo bench --bench figures -- --long           # also ten million rows, and half an hour
//! cargo bench --bench figures -- --quick --long   # do the long ones run?
//! ```
//!
//! Invariant: a figure is a ratio of two measurements of one round. The report shows the median of
//! the rounds' ratios.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "a benchmark is no API"
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "counts and times of a benchmark are far below what a float holds exactly"
)]

mod bare;
mod bench;
mod bulk;
mod claims;
mod endurance;
mod fleet;
mod floor;
mod footprint;
mod half_load;
mod history;
mod inserts;
mod latency;
mod limits;
mod listing;
mod machines;
#[cfg(feature = "metrics")]
mod metered;
mod proc;
mod processes;
mod report;
mod throughput;
mod tracing;
mod transactional;
mod variants;

use std::time::Instant;

use bench::{Bench, Error, Figure, Row};

/// The options of the command line.
#[derive(Debug, Default)]
pub struct Options {
    quick: bool,
    long: bool,
    json: bool,
    only: Option<String>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--long" => options.long = true,
                "--json" => options.json = true,
                "--only" => options.only = arguments.next(),
                // Cargo adds this option itself.
                "--bench" => {}
                other => {
                    eprintln!(
                        "unknown option {other}; there are --quick --long --json --only NAME"
                    );
                    std::process::exit(2);
                }
            }
        }
        options
    }

    fn wants(&self, figure: &Figure) -> bool {
        figure.rows.iter().any(|row| self.names(row)) && (self.long || !figure.long)
    }

    fn names(&self, row: &Row) -> bool {
        self.only.as_ref().is_none_or(|only| row.name.contains(only.as_str()))
    }
}

fn figures() -> Vec<Figure> {
    [
        throughput::figures(),
        transactional::figures(),
        variants::figures(),
        latency::figures(),
        history::figures(),
        #[cfg(feature = "metrics")]
        metered::figures(),
        half_load::figures(),
        inserts::figures(),
        claims::figures(),
        fleet::figures(),
        limits::figures(),
        footprint::figures(),
        listing::figures(),
        bulk::figures(),
        tracing::figures(),
        endurance::figures(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Ok(role) = std::env::var(processes::ROLE) {
        return runtime.block_on(processes::work(&role));
    }
    runtime.block_on(async {
        let options = Options::parse();
        let figures: Vec<Figure> =
            figures().into_iter().filter(|figure| options.wants(figure)).collect();
        if figures.is_empty() {
            return Err("no figure has such a name".into());
        }
        let bench = Bench::start(options.quick).await?;
        report::head(&options, &bench);
        let began = Instant::now();
        let mut results = Vec::new();
        for (index, figure) in figures.iter().enumerate() {
            let mut samples = vec![Vec::new(); figure.rows.len()];
            let rounds = if options.quick { 1 } else { figure.rounds };
            for round in 0..rounds {
                report::progress(&options, index, figures.len(), figure, round, rounds);
                for (samples, sample) in samples.iter_mut().zip(figure.run(&bench).await?) {
                    samples.push(sample);
                }
            }
            for (row, samples) in figure.rows.iter().zip(&samples) {
                if options.names(row) {
                    results.push(report::result(&options, row, samples));
                }
            }
        }
        report::foot(&options, &results, began.elapsed());
        Ok(())
    })
}
