//! `console`: serves the console to a browser on this machine.
//!
//! Invariant: it listens on a loopback address alone.

use std::{
    io::IsTerminal,
    net::{Ipv4Addr, SocketAddr},
};

use gen_durable_console::{Options, Server};

use crate::{
    connect::Database,
    failure::{Failure, Kind},
    operator::Operator,
    print::Out,
};

/// The connections of the console: pages, live pages and an action at once.
const CONNECTIONS_MAX: u32 = 4;

/// Serve the console, a page to watch and to operate instances, to this machine's browsers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It runs until it is interrupted. Without --write nobody can act.

Example:
  gen-durable console
  gen-durable console --write --by ada --port 8080")]
pub(crate) struct Console {
    /// The port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 7311)]
    port: u16,
    /// Let one browser act: the one that opens the link that is printed, which can be used once.
    #[arg(long)]
    write: bool,
    /// Show states, results and payloads, which may be confidential.
    #[arg(long)]
    states: bool,
    /// The operator that the audit names; by default the user of this system, and the host.
    #[arg(long, value_name = "NAME", requires = "write")]
    by: Option<String>,
}

impl Console {
    pub(crate) async fn run(self, database: &Database, out: &mut Out) -> Result<(), Failure> {
        let failed =
            |error: gen_durable_console::ServeError| Failure::new(Kind::Failed, error.to_string());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut options = Options::new().address(address);
        if self.write {
            options = options.write(Operator::named(self.by));
        }
        if self.states {
            options = options.with_states();
        }
        log();
        let pool = database.pool(CONNECTIONS_MAX).await?;
        let server = Server::bind(pool, options).await.map_err(failed)?;
        out.line(&format!("the console is at {}", server.url()))?;
        if let Some(link) = server.link() {
            out.line(&format!("to act, open this link once: {link}"))?;
        }
        out.flush()?;
        server.run(interrupted()).await.map_err(failed)
    }
}

/// Prints warnings on standard error: a page says no more of a failed look than that it failed.
fn log() {
    let stderr = std::io::stderr();
    let lines = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(stderr.is_terminal())
        .with_writer(std::io::stderr);
    // A program that runs the command may have a log of its own.
    let _ = lines.try_init();
}

/// Returns when the process is told to stop.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
