//! A program with an engine and an exporter: its own recorder, on a thread with a runtime.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use gen_durable::{Engine, EngineBuilder};
use gen_durable_postgres::{Cluster, Template, TestDb};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{OnceCell, oneshot},
};

use crate::scrape::Scrape;

/// The longest time that a condition may take.
pub(crate) const WAIT_MAX: Duration = Duration::from_mins(1);

/// The buckets that the guide recommends, in seconds.
pub(crate) const BUCKETS: [f64; 13] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0];

/// A migrated database of the test's own.
pub(crate) async fn database() -> TestDb {
    template().await.0.database().await.unwrap()
}

/// The options that connect to it.
pub(crate) fn options(db: &TestDb) -> PgConnectOptions {
    db.pool().connect_options().as_ref().clone()
}

/// The directory of the server's socket, for a proxy.
pub(crate) async fn server_dir() -> std::path::PathBuf {
    template().await.1.server().expect("a throw-away server").socket_dir().to_owned()
}

async fn template() -> &'static (Template, Cluster) {
    static SHARED: OnceCell<(Template, Cluster)> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let cluster = Cluster::from_env_or_throwaway(true).unwrap();
            let template =
                Template::create(&cluster, async |pool| gen_durable_migrate::up(&pool).await);
            (template.await.unwrap(), cluster)
        })
        .await
}

/// Calls `look` every 20 ms until it returns a value.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let looked = tokio::time::timeout(WAIT_MAX, async {
        loop {
            ticks.tick().await;
            if let Some(seen) = look().await {
                return seen;
            }
        }
    });
    looked.await.unwrap_or_else(|_elapsed| panic!("waited in vain until {what}"))
}

/// A running program.
pub(crate) struct Program {
    pub(crate) engine: Arc<Engine>,
    address: SocketAddr,
    /// Dropped to end the program's runtime.
    runs: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Program {
    /// Starts a program on a database, and waits until its engine has started.
    pub(crate) async fn start(
        options: PgConnectOptions,
        build: impl FnOnce(EngineBuilder) -> EngineBuilder + Send + 'static,
    ) -> Self {
        let address = free_address();
        let (runs, ends) = oneshot::channel();
        let (started, starts) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (recorder, exporter) = {
                let _inside = runtime.enter();
                exporter(address).build().unwrap()
            };
            let _recorder = metrics::set_default_local_recorder(&recorder);
            runtime.block_on(async {
                tokio::spawn(exporter);
                let pool = PgPoolOptions::new().max_connections(5).connect_with(options);
                let builder = build(Engine::builder(pool.await.unwrap()));
                started.send(Arc::new(builder.start().await.unwrap())).ok().unwrap();
                let _: Result<(), _> = ends.await;
            });
            // Everything of the engine ends here, as in a crash.
        });
        let engine = starts.await.unwrap();
        Self { engine, address, runs: Some(runs), thread: Some(thread) }
    }

    /// Asks the exporter over HTTP.
    pub(crate) async fn scrape(&self) -> Scrape {
        scrape(self.address).await
    }

    /// Ends everything of the program in the middle of whatever it does.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.runs.take();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.end();
        }
    }
}

/// An exporter as the guide sets it up.
pub(crate) fn exporter(address: SocketAddr) -> PrometheusBuilder {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(seconds, &BUCKETS).unwrap();
    builder.with_http_listener(address)
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Asks an exporter over HTTP.
pub(crate) async fn scrape(address: SocketAddr) -> Scrape {
    let text = eventually("the exporter answers", async || get(address).await.ok()).await;
    Scrape::parse(&text)
}

async fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::InvalidData)?;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(!head.to_lowercase().contains("chunked"), "{head}");
    Ok(body.to_owned())
}
