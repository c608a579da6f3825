//! The number of rows that a claim takes, under any plan, and their order.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use gen_durable::prelude::*;
use gen_durable_tests::{
    machines::{Keyed, KeyedState},
    oracle,
};
use sqlx::{AssertSqlSafe, PgConnection, PgExecutor, PgPool, Row, postgres::PgRow};

use crate::support::{Breakpoint, NOT_HELD, count, database, engine, eventually, holds, sql};

#[durable_fsm(state = (), output = ())]
pub enum Held {
    Hold,
}

#[durable_fsm]
impl Held {
    async fn hold(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.done(())
    }
}

/// While no step finishes, nothing is claimed ahead: as many rows are executing as there are slots.
#[tokio::test(flavor = "multi_thread")]
async fn p25_an_engine_claims_no_more_than_it_has_slots_for() {
    const SLOTS: usize = 3;
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let rows = (0..60).map(|n| {
        let insert = Held::insert(()).priority(n % 3);
        if n % 2 == 0 { insert } else { insert.partition_key(format!("key {n}")) }
    });
    Held::insert_many(rows).execute(db.pool()).await.unwrap();
    let engine = gen_durable::Engine::builder(db.pool().clone())
        .machine::<Held>()
        .queue("default", SLOTS)
        .resource(Arc::clone(&breakpoint))
        .start()
        .await
        .unwrap();
    for done in 0..5 {
        for _ in 0..if done == 0 { SLOTS } else { 1 } {
            breakpoint.arrival().await;
        }
        let executing = count(db.pool(), "executing").await;
        let claimed = i64::try_from(engine.metrics().claimed).unwrap();
        // Each step that finishes may lead to a few rows that are claimed ahead, more if it was
        // fast.
        assert!(executing <= SLOTS as i64 + done * 2, "{executing}");
        assert!(claimed <= SLOTS as i64 + done * 2, "{claimed}");
        breakpoint.open(1);
    }
    breakpoint.open(60);
    eventually("all have run", async || (count(db.pool(), "done").await == 60).then_some(())).await;
    engine.shutdown().await.unwrap();
}

/// The kinds of plans that the planner must avoid. The engine's sessions avoid those of the second
/// entry.
const WITHOUT: [&[&str]; 7] = [
    &[],
    &["seqscan", "bitmapscan"],
    &["indexscan", "indexonlyscan", "bitmapscan"],
    &["seqscan", "indexscan", "indexonlyscan"],
    &["nestloop"],
    &["hashjoin", "mergejoin"],
    &["sort", "material", "hashagg"],
];
/// The queues of a claim, each with the number of rows that it asks for.
const ASKED: [(&str, i64); 2] = [("q0", 3), ("q1", 20)];

/// Six hundred rows of two queues, two machines and three priorities, due within ten minutes.
/// `KEYED` stands for true or false. If it is true, half of the rows have a partition key, and one
/// key has a holder.
const ROWS: &str = "
    truncate gen_durable.instances;
    insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, priority, eligible_at, partition_key)
    select 'm' || n % 2, 1, 's', '0', 'q' || n / 2 % 2, n / 4 % 3,
           '2026-01-01 12:00:00+00'::timestamptz + n * interval '1 second',
           case when KEYED and n / 12 % 2 = 0 then format('%s of q%s', n % 37, n / 2 % 2) end
    from generate_series(1, 600) as n;
    insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, status, locked_by, partition_key)
    select 'm0', 1, 's', '0', 'q0', 'executing', 8, '7 of q0' where KEYED;
    analyze gen_durable.instances;";

/// The watermarks of a claim: none, or five minutes past noon in some of the groups.
const WATERMARKS: [&str; 2] = [
    "'{}', '{}', '{}'",
    "'{1, 1, 2, 4}', '{0, 2, 1, 0}',
     '{1767269100000000, 1767269100000000, 1767269100000000, 1767269100000000}'",
];

/// Runs a statement of the engine, and returns its plan and its rows. The statement is prepared
/// anew for each run, as a session would keep the plan that it made first.
async fn run(
    connection: &mut PgConnection,
    statement: &str,
    parameters: &str,
) -> (String, Vec<PgRow>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gen_durable/src/storage/sql");
    let text = std::fs::read_to_string(folder.join(format!("{statement}.sql"))).unwrap();
    execute(connection, format!("prepare {statement} as {text}")).await;
    let call = format!("execute {statement}({parameters})");
    let plan = execute(connection, format!("explain (costs off) {call}")).await;
    let rows = execute(connection, call).await;
    execute(connection, format!("deallocate {statement}")).await;
    (plan.iter().map(|line| line.get::<String, _>(0) + "\n").collect(), rows)
}

async fn execute(connection: &mut PgConnection, sql: String) -> Vec<PgRow> {
    sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap()
}

async fn in_queue(connection: impl PgExecutor<'_>, count: &'static str, queue: &str) -> i64 {
    sqlx::query_scalar(count).bind(queue).fetch_one(connection).await.unwrap()
}

/// Claims as the engine does, and checks that no queue gives more rows than the claim asks for.
/// Returns how many rows each of the two statements has claimed.
async fn claim(
    tx: &mut PgConnection,
    pool: &PgPool,
    (watermarks, with_keys): (&str, bool),
    plans: &mut [BTreeSet<String>; 2],
) -> (i64, i64) {
    const CLAIMED: &str =
        "select count(*) from gen_durable.instances where queue = $1 and locked_by = 7";
    const FREE: &str = "select count(*) from (
             select from gen_durable.instances where queue = $1 and status = 'runnable'
             for no key update skip locked
         ) as free";
    let parameters = format!(
        "7, '{{q0, q0, q1, q1}}', '{{3, 3, 20, 20}}', '{{m0, m1, m0, m1}}', '{{1, 1, 1, 1}}',
         '{{m1}}', '{{}}', {with_keys}, {watermarks}, 2097152, false"
    );
    let (plan, answer) = run(tx, "claim", &parameters).await;
    plans[0].insert(plan);
    let ids: Vec<i64> = answer[0].get("ids");
    let kinds: Vec<i64> = answer[0].get("kinds");
    let steps: Vec<Option<String>> = answer[0].get("steps");
    let mut at_first = 0;
    for (place, (queue, asked)) in ASKED.into_iter().enumerate() {
        let named = kinds.iter().filter(|kind| usize::try_from(**kind - 1).unwrap() / 2 == place);
        assert_eq!(named.count() as i64, asked, "claimed or to be claimed of {queue}");
        let claimed = in_queue(&mut *tx, CLAIMED, queue).await;
        assert!(claimed <= asked, "{claimed} of {queue} claimed");
        let locked = 300 - in_queue(pool, FREE, queue).await;
        assert!(locked <= asked, "{locked} of {queue} locked");
        at_first += claimed;
    }
    let unclaimed = ids.iter().zip(&steps).filter(|(_, step)| step.is_none());
    let candidates: Vec<i64> = unclaimed.map(|(id, _)| *id).collect();
    assert_eq!(at_first, (ids.len() - candidates.len()) as i64);
    let lock = include_str!("../../gen_durable/src/storage/sql/lock_free_partitions.sql");
    let keys: Vec<String> =
        sqlx::query_scalar(lock).bind(&candidates).fetch_all(&mut *tx).await.unwrap();
    let candidates: Vec<String> = candidates.iter().map(i64::to_string).collect();
    let parameters = format!(
        "7, '{{{}}}', '{{{}}}', '{{m0, m1}}', '{{1, 1}}', '{{m1}}', '{{q0, q1}}', 2097152, false",
        candidates.join(","),
        keys.join(",")
    );
    let (plan, answer) = run(tx, "claim_partitions", &parameters).await;
    plans[1].insert(plan);
    let heads =
        answer.iter().filter(|row| row.get::<Option<i64>, _>("id").is_some()).count() as i64;
    let mut in_all = 0;
    for (queue, asked) in ASKED {
        let claimed = in_queue(&mut *tx, CLAIMED, queue).await;
        assert!(claimed <= asked, "{claimed} of {queue} claimed in the end");
        in_all += claimed;
    }
    assert_eq!(in_all, at_first + heads);
    (at_first, heads)
}

/// A plan may run a part of a statement more than once, and a limit in that part bounds each run
/// alone. The test forces the plans of the engine's sessions, and others that a planner may choose.
#[tokio::test(flavor = "multi_thread")]
async fn p25_a_claim_takes_no_more_than_asked_under_any_plan() {
    let db = database().await;
    sql(
        db.pool(),
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (7, 'w', now() + interval '1 day')",
    )
    .await;
    let mut heads = 0;
    for keyed in [false, true] {
        let mut plans = [BTreeSet::new(), BTreeSet::new()];
        let rows = ROWS.replace("KEYED", &keyed.to_string());
        sqlx::raw_sql(AssertSqlSafe(rows)).execute(db.pool()).await.unwrap();
        for (without, mode) in
            WITHOUT.iter().flat_map(|without| [(without, "custom"), (without, "generic")])
        {
            let mut set = vec![format!("set local plan_cache_mode = force_{mode}_plan")];
            set.push("set local jit = off".to_owned());
            set.extend(without.iter().map(|what| format!("set local enable_{what} = off")));
            // The text of a custom plan contains the parameters, so these texts differ anyway and
            // do not count.
            let mut others = plans.clone();
            let plans = if mode == "generic" { &mut plans } else { &mut others };
            for watermarks in WATERMARKS {
                for with_keys in [true, false] {
                    let mut tx = db.pool().begin().await.unwrap();
                    execute(&mut tx, set.join("; ")).await;
                    let (at_first, then) =
                        claim(&mut tx, db.pool(), (watermarks, with_keys), plans).await;
                    tx.rollback().await.unwrap();
                    assert!(keyed || at_first == 23 && then == 0, "there are more than enough");
                    heads += then;
                }
            }
        }
        for (statement, plans) in ["claim", "claim_partitions"].into_iter().zip(plans) {
            assert!(plans.len() > 1, "{statement} is planned in one way alone");
        }
    }
    assert!(heads > 0, "some are claimed by the second statement");
}

/// The rows of a key are claimed in their order, even if rows are claimed ahead.
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
    // The keys differ in case or in spaces, are numbers, or are equal under some collations. Some
    // are the ids of the rows that have no key.
    let mut keys = vec![
        " ", "0", "00", "1", "01", "1.0", "+1", " 1", "1 ", "2", "3", "null", "NULL", "a", "A",
        "\u{e9}", "e\u{301}", "ss", "\u{df}", "\u{1f}", "%", "_", "\\", "'", "\"",
    ];
    let db = database().await;
    if !holds(db.pool(), "e\u{301}").await {
        let insert = Held::insert(()).partition_key("e\u{301}").execute(db.pool());
        assert!(insert.await.unwrap_err().to_string().contains(NOT_HELD));
        keys.retain(|key| *key != "e\u{301}");
    }
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db)
        .machine::<Held>()
        .queue("default", keys.len() + 20)
        .resource(Arc::clone(&breakpoint))
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
        breakpoint.arrival().await;
    }
    // A second row of each key waits for the first one.
    Held::insert_many(keys.iter().map(|key| Held::insert(()).partition_key(*key)))
        .execute(&engine)
        .await
        .unwrap();
    assert_eq!(count(db.pool(), "executing").await, keys.len() as i64 + 20);
    breakpoint.open(1000);
    let all = keys.len() as i64 * 2 + 20;
    eventually("all have run", async || (count(db.pool(), "done").await == all).then_some(()))
        .await;
    engine.shutdown().await.unwrap();
}
