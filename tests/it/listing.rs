//! Property 74: lists and counts of instances examine a bounded number of rows, whatever the
//! filter, and miss none.

use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use gen_durable::{
    FindError,
    operate::{Count, Cursor, Instances, Page},
    prelude::*,
};
use sqlx::PgPool;

use crate::support::{database, engine, fitting, sql};

#[durable_fsm(name = "order", version = 2, state = (), output = ())]
pub enum Order {
    Pay,
    Ship,
}

#[durable_fsm]
impl Order {
    async fn pay(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Ship)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.stop("no ship")
    }
}

/// Two machines with instances of every status, one of each kind in turn, with ids in this order.
pub(crate) const MIX: &str = "
    insert into gen_durable.instances
        (id, fsm, fsm_version, step, state, queue, status, partition_key, locked_by, blocked_by, owes, awaits,
         eligible_at, wake_at, last_error, finished_at, unique_key, unique_scope, updated_at, paused_by, limited_by)
    select n, case when n % 3 = 0 then 'order' else 'parcel' end, 1 + n % 2, case when n % 5 = 0 then 'pay' else 'ship' end,
           '{}', case when n % 4 = 0 then 'mail' else 'default' end, k.status,
           case when k.blocked_by & 1 = 1 then 'key' when k.status = 'done' and n % 11 = 0 then 'key' end,
           case when k.status = 'executing' then 1 end, k.blocked_by, case when k.blocked_by & 2 = 2 then 4 end,
           case when k.status = 'awaiting_signal' then '{go}'::text[] end, '2001-01-01', null,
           case when k.status = 'failed' then repeat('x', 500) end,
           case when k.status in ('done', 'failed', 'cancelled') then now() end,
           n::text, case when n % 2 = 0 then '{runnable}'::text[] else '{}' end,
           timestamptz '2001-01-01' + n * interval '1 s',
           case when k.blocked_by & 4 = 4 then 1 when k.blocked_by & 8 = 8 then 0 end,
           case when k.blocked_by & 16 = 16 then 'stripe' end
    from generate_series(1, 2000) as n
    cross join lateral (
        select (array['done','done','done','runnable','runnable','runnable','runnable','executing','awaiting_signal',
                      'failed','cancelled','done'])[1 + n % 12] as status,
               case n % 12 when 4 then 1 when 5 then 2 when 6 then (array[3, 4, 8, 9, 12, 14, 16, 17, 18, 19, 20, 24])[1 + n / 12 % 12] when 9 then 1 else 0 end as blocked_by
    ) as k";

/// Follows a list to its end, in pages of this size.
async fn all<I: gen_durable::AnyId<Id = I> + Into<i64>>(
    instances: &Instances<I>,
    size: usize,
) -> Vec<i64> {
    let mut ids = Vec::new();
    let mut page = Page::first();
    let mut before = i64::MAX;
    loop {
        let list = instances.list(page.size(size)).await.unwrap();
        assert!(list.entries.len() <= size);
        ids.extend(list.entries.into_iter().map(|entry| entry.id.into()));
        let Some(next) = list.next else { return ids };
        assert!(next.get() < before, "a list comes nearer to its end");
        before = next.get();
        page = Page::after(Cursor::from_raw(next.get()));
    }
}

async fn expected(pool: &PgPool, condition: &str) -> Vec<i64> {
    let query = format!("select id from gen_durable.instances where {condition} order by id desc");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p74_every_filter_lists_and_counts_what_fits_newest_first() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, MIX).await;
    let client = Client::new(pool.clone());
    let any = || client.all_instances();
    // 2001-01-01, and the time at which the instance of this id was changed last.
    let at = |id: u64| UNIX_EPOCH + Duration::from_secs(978_307_200 + id);
    let mut cases = vec![
        (any(), "true".to_owned()),
        (any().machine("order"), "fsm = 'order'".to_owned()),
        (any().machine("nobody"), "false".to_owned()),
        (any().queue("mail"), "queue = 'mail'".to_owned()),
        (any().version(2), "fsm_version = 2".to_owned()),
        (any().version(u32::MAX), "false".to_owned()),
        (any().step("pay"), "step = 'pay'".to_owned()),
        (any().partition_key("key"), "partition_key = 'key'".to_owned()),
        (any().unique_key("1009"), "id = 1009".to_owned()),
        (any().changed_since(at(1_500)), "id >= 1500".to_owned()),
        (any().changed_before(at(500)), "id < 500".to_owned()),
        (
            any().machine("order").queue("mail").version(1).step("ship"),
            "fsm = 'order' and queue = 'mail' and fsm_version = 1 and step = 'ship'".to_owned(),
        ),
    ];
    for status in Status::ALL {
        let is = format!("status = '{status}'");
        let of = || any().status(*status);
        cases.extend([
            (of(), is.clone()),
            (of().machine("order"), format!("{is} and fsm = 'order'")),
            (of().machine("nobody"), "false".to_owned()),
            (of().queue("mail"), format!("{is} and queue = 'mail'")),
            (of().version(2), format!("{is} and fsm_version = 2")),
            (of().step("pay"), format!("{is} and step = 'pay'")),
            (of().partition_key("key"), format!("{is} and partition_key = 'key'")),
            (of().unique_key("1009"), format!("{is} and id = 1009")),
            (of().unique_key("1012"), format!("{is} and id = 1012")),
            (
                of().changed_since(at(500)).changed_before(at(1_500)),
                format!("{is} and id >= 500 and id < 1500"),
            ),
        ]);
    }
    for (instances, condition) in cases {
        let expected = expected(pool, &condition).await;
        for size in [7, 1_000] {
            assert_eq!(all(&instances, size).await, expected, "{condition}");
        }
        let count = instances.count().await.unwrap();
        assert_eq!(count, Count::Exact(expected.len() as u64), "{condition}");
    }
    // The same by types.
    let orders = client.instances::<Order>();
    assert_eq!(all(&orders, 100).await, expected(pool, "fsm = 'order'").await);
    let paying = orders.status(Status::Failed).step(Order::Pay);
    let condition = "fsm = 'order' and status = 'failed' and step = 'pay'";
    assert_eq!(all(&paying, 100).await, expected(pool, condition).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn p74_an_entry_shows_where_an_instance_stands() {
    let db = database().await;
    let engine = engine(&db).machine::<Order>().start().await.unwrap();
    let id = Order::insert(()).unique_key("u").partition_key("p").execute(&engine).await.unwrap();
    engine.wait(id, crate::support::WAIT_MAX).await.unwrap_err();
    let list = engine.instances::<Order>().list(Page::first()).await.unwrap();
    assert_eq!((list.entries.len(), list.next), (1, None));
    let entry = &list.entries[0];
    assert_eq!((entry.id, entry.version, entry.status), (id, 2, Status::Failed));
    assert_eq!((&*entry.machine, &*entry.step, &*entry.queue), ("order", "ship", "default"));
    assert_eq!(entry.last_error.as_deref(), Some("no ship"));
    assert_eq!(
        (entry.partition_key.as_deref(), entry.unique_key.as_deref()),
        (Some("p"), Some("u"))
    );
    assert!(entry.inserted_at <= entry.updated_at && entry.finished_at.is_some());
    assert_eq!((entry.attempt, entry.due_at), (0, None));
    engine.shutdown().await.unwrap();

    // Times: when a runnable one is due, and when a parked one wakes. A long error is cut off.
    let error = fitting(db.pool(), &"\u{2116}".repeat(1000)).await;
    sqlx::query(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status, eligible_at, wake_at, last_error)
         values ('order', 2, 'pay', '1', 'runnable', '2100-01-01', null, $1),
                ('order', 2, 'pay', '1', 'awaiting_signal', '2001-01-01', '2100-01-01', null),
                ('order', 2, 'pay', '1', 'awaiting_signal', '2001-01-01', null, null)",
    )
    .bind(&error)
    .execute(db.pool())
    .await
    .unwrap();
    let client = Client::new(db.pool().clone());
    let list = client.all_instances().list(Page::first().size(3)).await.unwrap();
    let due: Vec<bool> = list.entries.iter().map(|entry| entry.due_at.is_some()).collect();
    assert_eq!(due, [false, true, true]);
    assert_eq!(list.entries[1].due_at, list.entries[2].due_at);
    let shown = list.entries[2].last_error.as_ref().unwrap();
    assert_eq!(shown.chars().count(), 300);
    assert_eq!(list.next.map(Cursor::get), Some(list.entries[2].id));
}

/// A page goes on where the one before ended, whatever has come, changed or gone meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn p74_a_cursor_stays_valid_while_instances_come_and_go() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, "insert into gen_durable.instances (id, fsm, fsm_version, step, state) select n, 'm', 1, 's', '1' from generate_series(1, 20) n").await;
    let client = Client::new(pool.clone());
    let instances = client.all_instances();
    let first = instances.list(Page::first().size(5)).await.unwrap();
    sql(pool, "insert into gen_durable.instances (id, fsm, fsm_version, step, state) values (21, 'm', 1, 's', '1');
               delete from gen_durable.instances where id in (16, 15, 3);
               update gen_durable.instances set status = 'done', finished_at = now() where id = 14").await;
    let next = instances.list(Page::after(first.next.unwrap())).await.unwrap();
    let ids: Vec<i64> = next.entries.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 2, 1]);
    assert_eq!(next.next, None);
}

/// Sizes are bounded, and a name that cannot be one is refused.
#[tokio::test(flavor = "multi_thread")]
async fn p74_bad_input_gets_a_clear_answer() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    sql(db.pool(), "insert into gen_durable.instances (fsm, fsm_version, step, state) select 'm', 1, 's', '1' from generate_series(1, 1001)").await;
    for (size, entries) in [(0, 1), (1, 1), (1_000, 1_000), (usize::MAX, 1_000)] {
        let list = client.all_instances().list(Page::first().size(size)).await.unwrap();
        assert_eq!((list.entries.len(), list.next.is_some()), (entries, true));
    }
    for instances in [
        client.all_instances().queue(""),
        client.all_instances().machine("a\0"),
        client.all_instances().step("x".repeat(256)),
        client.all_instances().partition_key("x".repeat(1025)),
        client.all_instances().unique_key(""),
    ] {
        let error = instances.list(Page::first()).await.unwrap_err();
        assert!(matches!(error, FindError::Encode(_)), "{error}");
        assert!(matches!(instances.count().await, Err(FindError::Encode(_))));
    }
    let beyond = Page::after(Cursor::from_raw(i64::MIN));
    assert!(client.all_instances().list(beyond).await.unwrap().entries.is_empty());
}

/// There are more than a call may examine: of all instances, of runnable ones and of failed ones.
#[tokio::test(flavor = "multi_thread")]
async fn p74_beyond_what_a_call_examines_a_list_goes_on_and_a_count_is_a_lower_bound() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, queue)
         select n, 'f' || n % 3, 1, 's', '1', case when n <= 25000 then 'runnable' else 'failed' end,
                case when n in (1, 2, 25001, 25002) then 'rare' else 'default' end
         from generate_series(1, 50000) as n",
    )
    .await;
    let client = Client::new(pool.clone());
    let any = || client.all_instances();
    for (instances, condition) in [
        (any().queue("rare"), "queue = 'rare'"),
        (any().queue("rare").status(Status::Runnable), "queue = 'rare' and status = 'runnable'"),
        (any().queue("rare").status(Status::Failed), "queue = 'rare' and status = 'failed'"),
        (
            any().machine("f1").queue("rare").status(Status::Failed),
            "queue = 'rare' and status = 'failed' and fsm = 'f1'",
        ),
        (any().queue("rare").status(Status::Done), "false"),
        (any().status(Status::Failed).machine("f1"), "status = 'failed' and fsm = 'f1'"),
    ] {
        let found = all(&instances, 1_000).await;
        assert_eq!(found, expected(pool, condition).await, "{condition}");
        let distinct: BTreeSet<_> = found.iter().collect();
        assert_eq!(distinct.len(), found.len());
        // A count may be cut short, and is never too high.
        match instances.count().await.unwrap() {
            Count::Exact(count) => assert_eq!(count, found.len() as u64, "{condition}"),
            Count::AtLeast(count) => assert!(count <= found.len() as u64, "{condition}"),
        }
    }
    for instances in [any(), any().status(Status::Runnable), any().status(Status::Failed)] {
        let count = instances.count().await.unwrap();
        let (Count::AtLeast(least) | Count::Exact(least)) = count;
        assert!(matches!(count, Count::AtLeast(_)) && least <= 10_000, "{count}");
        assert_eq!(count.to_string(), format!("{least}+"));
    }
}
