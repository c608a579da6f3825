//! The hot statements of limits with the parameters of a batch, and the order in which they lock
//! buckets.

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};

use super::{
    BATCH,
    cases::{Case, batch, case, ids, repeated},
    run,
};
use crate::support::{database, sql};

/// The buckets that arrive after the statistics were taken, in no order, and rows that wait for
/// some of them.
pub(super) const ARRIVALS: &str = "
    insert into gen_durable.limits (name, body, at_once, starts, period, burst)
    values ('v', '', 1, 1000, 1000000, 100), ('l', '', null, 1, 1000, 1) on conflict do nothing;
    insert into gen_durable.declarations (worker, kind, name, body, appeared_at)
    select id, 'limit', 'v', '', now() from gen_durable.workers where id = 7 on conflict do nothing;
    truncate gen_durable.limit_buckets;
    insert into gen_durable.limit_buckets (bucket, limit_name, wakes_at, let_in)
    select 'v' || chr(31) || n, 'v', case when n between 2501 and 5000 then 1 end,
           array[(select min(id) from gen_durable.instances where locked_by = 7)]
    from generate_series(1, 50000) as n order by hashint4(n);
    insert into gen_durable.limit_buckets (bucket, limit_name)
    select 'l' || case when n = 0 then '' else chr(31) || n end, 'l' from generate_series(0, 1000) as n;
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue, blocked_by, limited_by)
    select 'v', 1, 's', '{}', 'v', 16, 'v' || chr(31) || n % 2500 + 2501 from generate_series(1, 5000) as n;";

/// The first buckets of the arrivals, in their order.
fn asked() -> String {
    let mut buckets: Vec<String> = (1..=BATCH).map(|n| format!("\"v\u{1f}{n}\"")).collect();
    buckets.sort();
    format!("'{{{}}}'", buckets.join(","))
}

pub(super) async fn cases(connection: &mut PgConnection) -> Vec<Case> {
    let held = ids(connection, "fsm = 'b' and locked_by = 9").await;
    let [v, zero, one, asks] = ["v", "0", "1", "\"{1}\""].map(repeated);
    let limited = &["instances_limited", "instances_pkey"];
    vec![
        case("take_turns", &["7", "1", &asked(), &v, &zero, &one, &asks, "50000"], &[], batch(3)),
        case("hold_back", &["9", &held, &zero, &asked(), &one], &["instances_pkey"], batch(4)),
        // Each bucket is found, locked and changed, with its limit, a row that was let in, one that
        // comes in, and one that waits on.
        case("wake_buckets", &["200", "'{}'", "50000", "0"], limited, batch(12)),
    ]
}

async fn take(connection: &mut PgConnection, number: i64) -> Vec<i32> {
    let text = include_str!("../../../gen_durable/src/storage/sql/take_turns.sql");
    let arrays = "select array_agg(bucket), array_agg('v'::text), array_agg(0), array_agg(1), array_agg('{1}'::text)
                  from (select bucket from gen_durable.limit_buckets
                        where limit_name = 'v' order by bucket limit 200) as b";
    let asked = sqlx::query(AssertSqlSafe(arrays)).fetch_one(&mut *connection).await.unwrap();
    sqlx::query_scalar(text)
        .bind(7_i64)
        .bind(number)
        .bind(asked.get::<Option<Vec<String>>, _>(0).unwrap_or_default())
        .bind(asked.get::<Option<Vec<String>>, _>(1).unwrap_or_default())
        .bind(asked.get::<Option<Vec<i32>>, _>(2).unwrap_or_default())
        .bind(asked.get::<Option<Vec<i32>>, _>(3).unwrap_or_default())
        .bind(asked.get::<Option<Vec<String>>, _>(4).unwrap_or_default())
        .bind(50_000_i64)
        .fetch_all(connection)
        .await
        .unwrap()
}

/// Opens a session with the settings of the engine's sessions.
async fn session(pool: &PgPool) -> PgConnection {
    let mut connection = pool.acquire().await.unwrap().detach();
    let settings = include_str!("../../../gen_durable/src/storage/sql/session.sql");
    run(&mut connection, settings.to_owned()).await;
    connection
}

/// Two statements that take turns in the same buckets do not wait for each other in a circle, as
/// both lock the buckets in the order of their names. The answers come in the same order.
#[tokio::test(flavor = "multi_thread")]
async fn p15_turns_are_taken_in_the_order_of_the_buckets() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, "alter table gen_durable.limit_buckets set (autovacuum_enabled = off)").await;
    let mut early = session(pool).await;
    assert!(take(&mut early, 1).await.is_empty());
    run(&mut early, ARRIVALS.to_owned()).await;
    sql(
        pool,
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (7, 'w', now() + interval '1 day')",
    )
    .await;
    let all: Vec<i32> = (1..=200).collect();
    assert_eq!(take(&mut early, 2).await, all, "planned when there was nothing");
    for analyze in ["", "analyze gen_durable.limit_buckets"] {
        sql(pool, analyze).await;
        let mut later = session(pool).await;
        let number = if analyze.is_empty() { 3 } else { 4 };
        assert_eq!(take(&mut later, number).await, all, "{analyze}");
    }
}
