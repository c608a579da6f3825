//! Workers: this test's program, started again as a process that runs an engine.

use std::{
    env,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use gen_durable::Engine;
use opentelemetry_sdk::trace::Sampler;
use sqlx::PgPool;

use crate::{
    collector,
    machines::{Order, Parcel},
};

const NAME: &str = "GEN_DURABLE_TRACES_WORKER";
const URL: &str = "GEN_DURABLE_TRACES_URL";
const COLLECTOR: &str = "GEN_DURABLE_TRACES_COLLECTOR";

/// A process that runs an engine until it is dropped.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(name: &str, url: &str, collector: SocketAddr) -> Result<Self> {
        let child = Command::new(env::current_exe()?)
            .args(["--exact", "processes::worker", "--nocapture"])
            .env(NAME, name)
            .env(URL, url)
            .env(COLLECTOR, collector.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// Closes the standard input of the worker, which tells it to shut down, and waits for its end.
    pub(crate) fn shut_down(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        anyhow::ensure!(status.success(), "the worker ended with {status}");
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The worker's program. Without its environment it is a test that does nothing.
#[test]
fn worker() -> Result<()> {
    let Ok(name) = env::var(NAME) else { return Ok(()) };
    let url = env::var(URL).context(URL)?;
    let collector = env::var(COLLECTOR).context(COLLECTOR)?.parse()?;
    collector::trace(&name, collector, Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let engine = Engine::builder(PgPool::connect(&url).await?)
            .machine::<Order>()
            .machine::<Parcel>()
            .queue("orders", 10)
            .queue("parcels", 10)
            .start()
            .await?;
        tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await?;
        engine.shutdown().await?;
        Ok(())
    })
}
