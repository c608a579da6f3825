//! Property 79: the spans of a request, of an instance's steps in two processes, of a signal, a
//! child and a retry form the traces that the guide describes.

use std::{net::SocketAddr, sync::LazyLock, time::Duration};

use anyhow::{Context as _, Result};
use gen_durable::Client;
use gen_durable_postgres::{Cluster, Template, TestDb};
use opentelemetry::{
    Context as Spans,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::Sampler;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    collector::{self, Collector, Seen},
    machines::{Order, Paid},
    processes::Worker,
    shop::shop,
};

async fn database() -> Result<TestDb> {
    static CLUSTER: LazyLock<Cluster> =
        LazyLock::new(|| Cluster::from_env_or_throwaway(true).expect("a Postgres server"));
    let template =
        Template::create(&CLUSTER, async |pool| gen_durable_migrate::up(&pool).await).await?;
    Ok(template.database().await?)
}

/// The collector of this process, which is set up once.
fn collector() -> &'static Collector {
    static COLLECTOR: LazyLock<Collector> = LazyLock::new(|| {
        let collector = Collector::start().expect("a free port");
        let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
        collector::trace("web", collector.address(), sampler).expect("nothing is set up before");
        collector
    });
    &COLLECTOR
}

/// Sends a request, and returns the body of the answer.
async fn post(shop: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(shop).await?;
    let request = format!("POST {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context(answer.clone())?;
    Ok(body.to_owned())
}

/// Returns the value once there is one.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_mins(1), async {
        loop {
            if let Some(seen) = look().await? {
                return Ok(seen);
            }
            // Between two looks.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .with_context(|| format!("waited in vain until {what}"))?
}

fn named<'a>(spans: &'a [Seen], name: &str) -> Vec<&'a Seen> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p79_a_request_its_steps_a_signal_a_child_and_a_retry_form_traces() -> Result<()> {
    let collector = collector();
    let db = database().await?;
    let pool = db.pool();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let app = shop(Client::new(pool.clone()));
    tokio::spawn(async move { axum::serve(listener, app).await });

    // 1. A request inserts the order. One worker runs it until it waits for its payment.
    let first = Worker::start("first", db.url(), collector.address())?;
    let id = post(at, "/orders").await?;
    let status = async |wanted: &str| {
        let status: String =
            sqlx::query_scalar("select status from gen_durable.instances where id = $1")
                .bind(id.parse::<i64>()?)
                .fetch_one(pool)
                .await?;
        Ok((status == wanted).then_some(()))
    };
    eventually("the order waits", async || status("awaiting_signal").await).await?;
    first.shut_down()?;
    // 2. Another request pays it. Another worker goes on.
    let second = Worker::start("second", db.url(), collector.address())?;
    assert_eq!(post(at, &format!("/orders/{id}/paid")).await?, "true");
    eventually("the order has ended", async || status("done").await).await?;
    second.shut_down()?;

    let spans = eventually("all spans have come", async || {
        let spans = collector.spans();
        let ended = |span: &&Seen| span.attribute("outcome") == "done";
        Ok((spans.iter().filter(ended).count() == 2).then_some(spans))
    })
    .await?;
    let request = named(&spans, "POST /orders")[0];
    assert!(request.is_root() && request.process == "web");

    let reserve = named(&spans, "order.reserve")[0];
    assert_eq!((&reserve.trace, &reserve.parent), (&request.trace, &request.span));
    assert_eq!(reserve.process, "first");
    assert_eq!(reserve.attribute("outcome"), "next");
    assert_eq!(reserve.attribute("instance"), id);
    for name in ["machine", "version", "step", "attempt", "queue", "worker", "duration"] {
        assert!(!reserve.attribute(name).is_empty(), "{name}");
    }

    // The first run parks, and the second one finds the signal.
    let collect = named(&spans, "order.collect");
    assert_eq!((&collect[0].trace, &collect[0].parent), (&request.trace, &request.span));
    assert_eq!(collect[0].attribute("outcome"), "await");
    let paid = named(&spans, &format!("POST /orders/{id}/paid"))[0];
    assert_eq!((&collect[1].trace, &collect[1].parent), (&paid.trace, &paid.span));
    assert_eq!(collect[1].process, "second");

    // The step that spawns the child is the parent of the child's step.
    let ship = named(&spans, "order.ship")[0];
    assert_eq!((&ship.trace, &ship.parent), (&paid.trace, &paid.span));
    let pack = named(&spans, "parcel.pack");
    let (runs, handle): (Vec<&Seen>, Vec<&Seen>) =
        pack.into_iter().partition(|span| span.attribute("outcome") != "replay");
    assert_eq!((&runs[0].trace, &runs[0].parent), (&ship.trace, &ship.span));
    assert!(runs[0].is_error);
    assert_eq!(runs[0].attribute("outcome"), "error");
    assert_eq!((&handle[0].trace, &handle[0].parent), (&ship.trace, &ship.span));

    // Each run says how long it took, and an error says so too.
    for run in [runs[0], handle[0], runs[1]] {
        let duration: f64 = run.attribute("duration").parse()?;
        assert!(duration > 0.0 && duration <= run.took + 0.001, "{run:?}");
    }

    // The retry waited, so it begins a trace that is linked to the spawning step.
    assert!(runs[1].is_root());
    assert_eq!(runs[1].links, std::slice::from_ref(&ship.span));
    assert_eq!(runs[1].attribute("outcome"), "done");

    // The end of the child wakes the order.
    let deliver = named(&spans, "order.deliver");
    let last = deliver.last().context("the order is delivered")?;
    assert_eq!((&last.trace, &last.parent), (&runs[1].trace, &runs[1].span));
    assert_eq!(last.attribute("outcome"), "done");
    Ok(())
}

/// Counts the rows that carry a context.
async fn traced(db: &TestDb) -> Result<i64> {
    let count = sqlx::query_scalar(
        "select (select count(trace_context) from gen_durable.instances)
              + (select count(trace_context) from gen_durable.signals)",
    );
    Ok(count.fetch_one(db.pool()).await?)
}

#[tokio::test]
async fn p79_without_a_sampled_span_nothing_is_stored() -> Result<()> {
    collector();
    let db = database().await?;
    let client = Client::new(db.pool().clone());
    sqlx::query(
        "insert into gen_durable.machines (fsm, fsm_version, queue, initial, steps, signals)
         values ('order', 1, 'default', 'reserve', '{reserve}', '{paid}')",
    )
    .execute(db.pool())
    .await?;
    let calls = async || {
        let id = Order::insert(1).execute(&client).await?;
        Order::signal_paid(id, Paid { amount: 1 }).execute(&client).await?;
        Order::insert_many([1, 2]).execute(db.pool()).await?;
        let id = client.insert_by_name("order", 1).execute(&client).await?;
        client.signal_by_name(id, "paid", "payload", None).await?;
        anyhow::Ok(())
    };
    // Neither without a span, nor in one whose parent is not sampled.
    calls().await?;
    let unsampled = tracing::info_span!("unsampled");
    let parent = SpanContext::new(
        TraceId::from(1),
        SpanId::from(1),
        TraceFlags::NOT_SAMPLED,
        true,
        TraceState::NONE,
    );
    unsampled.set_parent(Spans::new().with_remote_span_context(parent))?;
    calls().instrument(unsampled).await?;
    assert_eq!(traced(&db).await?, 0);
    // In a sampled one, each row and signal carries it.
    calls().instrument(tracing::info_span!("sampled")).await?;
    assert_eq!(traced(&db).await?, 6);
    Ok(())
}
