//! The registered rows: what an engine's start tells tools, actions and other languages of the
//! machines, the queues and the process.

use gen_durable::{
    Resources, UpgradeError,
    graph::{Edge, Graph, StepNode},
    machine::{Machine, StepFuture, Steps},
    prelude::*,
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{database, engine, holds, sql, until_a_session_waits};

#[derive(Clone, Debug, DurableSignal)]
pub struct Paid {
    pub amount: i64,
}

mod v1 {
    use gen_durable::prelude::*;

    #[durable_fsm(version = 1, queue = "old", state = (), output = (), signals(super::Paid))]
    pub enum Order {
        Charge,
        Ship,
    }

    #[durable_fsm]
    impl Order {
        async fn charge(cx: Context<Self>) -> Outcome<Self> {
            cx.next(Order::Ship)
        }

        async fn ship(cx: Context<Self>) -> Outcome<Self> {
            cx.done(())
        }
    }
}

#[durable_fsm(version = 2, state = (), output = (), signals(Paid), initial = Pack, upgrades = v1::Order)]
pub enum Order {
    Charge,
    Pack,
}

impl Upgrade<v1::Order> for Order {
    fn upgrade(_: v1::Order, (): ()) -> Result<(Self, ()), UpgradeError> {
        Ok((Order::Pack, ()))
    }
}

#[durable_fsm]
impl Order {
    async fn charge(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Charge)
    }
}

/// Another text of the same machine and version, as a deployment may bring.
mod changed {
    use gen_durable::prelude::*;

    #[durable_fsm(version = 2, state = (), output = ())]
    pub enum Order {
        Charge,
        Pack,
        Ship,
    }

    #[durable_fsm]
    impl Order {
        async fn charge(cx: Context<Self>) -> Outcome<Self> {
            cx.next(Order::Pack)
        }

        async fn pack(cx: Context<Self>) -> Outcome<Self> {
            cx.next(Order::Ship)
        }

        async fn ship(cx: Context<Self>) -> Outcome<Self> {
            cx.done(())
        }
    }
}

/// A machine that is written by hand, and whose graph has names that no database stores as text.
struct ByHand;

impl Machine for ByHand {
    type State = ();
    type Output = ();
    const NAME: &'static str = "by_hand";
    const VERSION: u32 = 1;
    const INITIAL: Self = Self;
    const STEPS: &'static [&'static str] = &["only"];

    fn name(&self) -> &'static str {
        "only"
    }

    fn from_name(name: &str) -> Option<Self> {
        (name == "only").then_some(Self)
    }
}

impl Steps for ByHand {
    fn run(self, cx: Context<Self>, _: &Resources) -> StepFuture<'_, Self> {
        Box::pin(async { Ok(cx.done(())) })
    }

    fn graph() -> Graph {
        let sends = Edge::Sends { machine: Some("N\u{2116}\0"), signal: Some("\u{1f600}") };
        Graph::new::<Self>([StepNode::new("only", [sends]).opaque()])
    }
}

/// Returns a registered row.
async fn registered(pool: &PgPool, fsm: &str, version: i32) -> Value {
    sqlx::query_scalar(
        "select json_build_object('queue', queue, 'initial', initial, 'on_cancel', on_cancel,
                                  'steps', steps, 'signals', signals, 'graph', graph)
         from gen_durable.machines where fsm = $1 and fsm_version = $2",
    )
    .bind(fsm)
    .bind(version)
    .fetch_one(pool)
    .await
    .unwrap()
}

/// The versions of the rows in which Postgres has stored machines and queues.
async fn written(pool: &PgPool) -> Value {
    sqlx::query_scalar(
        "select json_agg(t) from (
             select fsm as name, xmin::text, xmax::text, ctid::text from gen_durable.machines
             union all
             select name, xmin::text, xmax::text, ctid::text from gen_durable.queues
             order by 1, 2
         ) as t",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_registers_its_machines_its_queues_and_its_process() {
    let db = database().await;
    let pool = db.pool();
    let builder = engine(&db).name("w").queue("mail", 3).machine::<Order>().machine::<ByHand>();
    let engine = builder.start().await.unwrap();
    let order = registered(pool, "order", 2).await;
    let graph: Value = serde_json::from_str(&Order::graph().to_json()).unwrap();
    let expected = json!({
        "queue": "default", "initial": "pack", "on_cancel": null, "steps": ["charge", "pack"],
        "signals": ["paid"], "graph": graph,
    });
    assert_eq!(order, expected);
    assert_eq!(order["graph"]["steps"][1]["edges"][0]["step"], "charge");
    // The older version has no graph, as its own engine never ran.
    let expected = json!({
        "queue": "old", "initial": "charge", "on_cancel": null, "steps": ["charge", "ship"],
        "signals": ["paid"], "graph": null,
    });
    assert_eq!(registered(pool, "order", 1).await, expected);
    // Any database stores the graph of a machine that is written by hand. One in UTF-8 can
    // query it as `jsonb`.
    let cast = "select graph::jsonb -> 'steps' -> 0 ->> 'opaque' from gen_durable.machines
                where fsm = 'by_hand'";
    if holds(pool, "\u{2116}").await {
        assert_eq!(sqlx::query_scalar::<_, String>(cast).fetch_one(pool).await.unwrap(), "true");
    }
    let queues: Vec<String> =
        sqlx::query_scalar("select name from gen_durable.queues order by name")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(queues, ["default", "mail"]);
    let process: Value = sqlx::query_scalar(
        "select json_build_object(
             'name', name, 'queues', queues, 'slots', slots, 'pid', pid, 'library', library,
             'host', host <> '',
             'kinds', (select json_agg(k order by k) from unnest(fsms, fsm_versions) as k (fsm, version)))
         from gen_durable.workers",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let expected = json!({
        "name": "w", "queues": ["default", "mail"], "slots": [10, 3], "pid": std::process::id(),
        "library": env!("CARGO_PKG_VERSION"), "host": true,
        "kinds": [
            { "fsm": "by_hand", "version": 1 },
            { "fsm": "order", "version": 1 },
            { "fsm": "order", "version": 2 },
        ],
    });
    assert_eq!(process, expected);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_writes_nothing_and_a_changed_text_wins() {
    let db = database().await;
    let pool = db.pool();
    let first = engine(&db).machine::<Order>().start().await.unwrap();
    first.shutdown().await.unwrap();
    let before = written(pool).await;
    // Neither does an engine whose order of machines is another one.
    for order in [true, false] {
        let builder = engine(&db);
        let builder = if order {
            builder.machine::<ByHand>().machine::<Order>()
        } else {
            builder.machine::<Order>().machine::<ByHand>()
        };
        builder.start().await.unwrap().shutdown().await.unwrap();
    }
    sql(pool, "delete from gen_durable.machines where fsm = 'by_hand'").await;
    assert_eq!(written(pool).await, before);
    let newer = engine(&db).machine::<changed::Order>().start().await.unwrap();
    newer.shutdown().await.unwrap();
    let order = registered(pool, "order", 2).await;
    assert_eq!(order["steps"], json!(["charge", "pack", "ship"]));
    assert_eq!((&order["initial"], &order["signals"]), (&json!("charge"), &json!([])));
    assert_eq!(order["graph"]["steps"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_engine_of_an_older_version_knows_more_than_one_that_upgrades_it() {
    let db = database().await;
    let pool = db.pool();
    let newer = engine(&db).machine::<Order>().start().await.unwrap();
    let own = engine(&db).machine::<v1::Order>().start().await.unwrap();
    let graph = registered(pool, "order", 1).await["graph"].clone();
    assert_eq!(graph["steps"][0]["edges"][0]["kind"], "next");
    let again = engine(&db).machine::<Order>().start().await.unwrap();
    let both = engine(&db).machine::<v1::Order>().machine::<Order>().start().await.unwrap();
    assert_eq!(registered(pool, "order", 1).await["graph"], graph);
    for engine in [newer, own, again, both] {
        engine.shutdown().await.unwrap();
    }
}

/// The engines meet: one of them has written its rows and not committed yet.
#[tokio::test(flavor = "multi_thread")]
async fn many_engines_start_at_once_and_wait_for_each_other_only_for_a_moment() {
    let db = database().await;
    let mut other = db.pool().begin().await.unwrap();
    sqlx::raw_sql(
        "insert into gen_durable.machines (fsm, fsm_version, initial, steps) values ('order', 2, 'x', '{x}');
         insert into gen_durable.queues (name) values ('default')",
    )
    .execute(&mut *other)
    .await
    .unwrap();
    let starts: Vec<_> = (0..6)
        .map(|n| {
            let builder = engine(&db).connections_max(5);
            let builder = if n % 2 == 0 {
                builder.machine::<Order>().machine::<ByHand>()
            } else {
                builder.machine::<ByHand>().machine::<v1::Order>().machine::<Order>()
            };
            tokio::spawn(builder.start())
        })
        .collect();
    until_a_session_waits(db.pool(), 6).await;
    other.commit().await.unwrap();
    for start in starts {
        start.await.unwrap().unwrap().shutdown().await.unwrap();
    }
    assert_eq!(registered(db.pool(), "order", 2).await["initial"], "pack");
}

#[durable_fsm(name = "n\u{2116}", state = (), output = ())]
pub enum Numbered {
    Only,
}

#[durable_fsm]
impl Numbered {
    async fn only(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// The test runs in a database with the encoding LATIN1 too.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_database_cannot_store_is_a_clear_error_at_start() {
    let db = database().await;
    let started = engine(&db).machine::<Numbered>().start().await;
    if holds(db.pool(), Numbered::NAME).await {
        started.unwrap().shutdown().await.unwrap();
    } else {
        let text = started.unwrap_err().to_string();
        for part in ["the machines and queues", "has a character that this database cannot store"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
