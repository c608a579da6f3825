//! How much is claimed, by whatever plan, and in which order.

use std::sync::Arc;

use gen_durable::prelude::*;
use gen_durable_tests::{
    machines::{Keyed, KeyedState},
    oracle,
};
use sqlx::postgres::PgPoolOptions;

use crate::support::{Gate, count, database, engine, eventually};

#[durable_fsm(state = (), output = ())]
pub enum Held {
    Hold,
}

#[durable_fsm]
impl Held {
    async fn hold(cx: Context<Self>, gate: &Arc<Gate>) -> Outcome<Self> {
        gate.pass(cx.id()).await;
        cx.done(())
    }
}

/// Nothing finishes, so nothing is claimed ahead: what executes is what there are slots for.
#[tokio::test(flavor = "multi_thread")]
async fn p25_a_claim_takes_no_more_than_asked_under_any_plan() {
    const SLOTS: usize = 3;
    let plans: [&[&str]; 6] = [
        &[],
        &["enable_indexscan", "enable_bitmapscan", "enable_indexonlyscan"],
        &["enable_seqscan"],
        &["enable_nestloop"],
        &["enable_hashjoin", "enable_mergejoin"],
        &["enable_sort", "enable_material"],
    ];
    for off in plans {
        let db = database().await;
        // What is switched off costs so much on paper that each statement would be compiled first.
        let options = off.iter().fold(
            (*db.pool().connect_options()).clone().options([("jit", "off")]),
            |options, setting| options.options([(*setting, "off")]),
        );
        let pool = PgPoolOptions::new().connect_lazy_with(options);
        let gate = Arc::new(Gate::new());
        let rows = (0..60).map(|n| {
            let insert = Held::insert(()).priority(n % 3);
            if n % 2 == 0 { insert } else { insert.partition_key(format!("key {n}")) }
        });
        Held::insert_many(rows).execute(db.pool()).await.unwrap();
        crate::support::sql(db.pool(), "analyze").await;
        let engine = gen_durable::Engine::builder(pool)
            .machine::<Held>()
            .queue("default", SLOTS)
            .resource(Arc::clone(&gate))
            .start()
            .await
            .unwrap();
        for done in 0..5 {
            for _ in 0..if done == 0 { SLOTS } else { 1 } {
                gate.arrival().await;
            }
            let executing = count(db.pool(), "executing").await;
            let claimed = i64::try_from(engine.metrics().claimed).unwrap();
            // Each one that has finished, and how fast, may lead to a few that are claimed ahead.
            assert!(executing <= SLOTS as i64 + done * 2, "{executing} with {off:?} off");
            assert!(claimed <= SLOTS as i64 + done * 2, "{claimed} with {off:?} off");
            gate.open(1);
        }
        gate.open(60);
        eventually("all have run", async || (count(db.pool(), "done").await == 60).then_some(()))
            .await;
        engine.shutdown().await.unwrap();
    }
}

/// Claimed ahead or not, the rows of a key are claimed in their order.
#[tokio::test(flavor = "multi_thread")]
async fn p25_claiming_ahead_keeps_the_order_of_each_key() {
    const ROWS: i64 = 400;
    let db = database().await;
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    let rows = (0..ROWS).map(|n| {
        Keyed::insert(KeyedState::default()).step(Keyed::Second).partition_key(format!("{}", n % 4))
    });
    Keyed::insert_many(rows).execute(pool).await.unwrap();
    let start = async || engine(&db).machine::<Keyed>().queue("keyed", 2).start().await.unwrap();
    let (one, other) = (start().await, start().await);
    eventually("all have run", async || (count(pool, "done").await == ROWS).then_some(())).await;
    let misplaced: Vec<i64> = sqlx::query_scalar(
        "select id from (
             select id, lag(id) over (partition by partition_key order by seq) as before
             from chaos.log where old_status = 'runnable' and new_status = 'executing'
         ) as l where before > id",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(misplaced, Vec::<i64>::new());
    assert_eq!(oracle::check(pool).await.unwrap(), Vec::<String>::new());
    one.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p21_no_key_serialises_nothing_and_keys_that_look_alike_are_different() {
    // Cases, spaces, numbers, what a collation may take for equal, and ids of the rows that have no key.
    let keys = [
        "", " ", "0", "00", "1", "01", "1.0", "+1", " 1", "1 ", "2", "3", "null", "NULL", "a", "A",
        "\u{e9}", "e\u{301}", "ss", "\u{df}", "\u{1f}", "%", "_", "\\", "'", "\"",
    ];
    let db = database().await;
    let gate = Arc::new(Gate::new());
    let engine = engine(&db)
        .machine::<Held>()
        .queue("default", keys.len() + 20)
        .resource(Arc::clone(&gate))
        .start()
        .await
        .unwrap();
    let with = keys.iter().map(|key| Held::insert(()).partition_key(*key));
    let without = (0..20).map(|_| Held::insert(()));
    let ids = Held::insert_many(without.chain(with)).execute(&engine).await.unwrap();
    let ids: Vec<String> = ids.iter().map(|id| id.as_ref().unwrap().get().to_string()).collect();
    assert!(["1", "2", "3"].iter().all(|key| ids[..20].iter().any(|id| id == key)), "{ids:?}");
    // All of them run at once.
    for _ in 0..keys.len() + 20 {
        gate.arrival().await;
    }
    // A second one of each key waits for the first.
    Held::insert_many(keys.iter().map(|key| Held::insert(()).partition_key(*key)))
        .execute(&engine)
        .await
        .unwrap();
    assert_eq!(count(db.pool(), "executing").await, keys.len() as i64 + 20);
    gate.open(1000);
    let all = keys.len() as i64 * 2 + 20;
    eventually("all have run", async || (count(db.pool(), "done").await == all).then_some(()))
        .await;
    engine.shutdown().await.unwrap();
}
