//! Property 74 for looks at the fleet: queues, workers, machines, the audit, inboxes, and trees of
//! instances show what is there, and examine a bounded number of rows.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use gen_durable::{
    History,
    operate::{AuditEntry, Cursor, OperateError, Page, Waits},
    prelude::*,
};
use sqlx::{AssertSqlSafe, PgPool, Row};

use crate::{
    listing::MIX,
    support::{database, engine, sql, until},
};

#[derive(Debug, DurableSignal)]
pub struct Paid;

#[durable_fsm(name = "order", version = 2, state = (), output = (), queue = "mail", signals(Paid), on_cancel = Ship, history = "steps")]
pub enum Order {
    Pay,
    Ship,
}

#[durable_fsm]
impl Order {
    async fn pay(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Paid>()
    }

    #[step(entry)]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// A service looks from within tasks.
#[tokio::test(flavor = "multi_thread")]
async fn looks_can_be_spawned() {
    fn spawn<T: Send>(_: impl Future<Output = T> + Send + 'static) {}
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let look = client.clone();
    spawn(async move {
        look.queues().await.unwrap();
        look.depths().await.unwrap();
        look.workers().await.unwrap();
        look.machines().await.unwrap();
        look.step_counts("order").await.unwrap();
        look.diagnose().await.unwrap();
        look.audit().list(Page::first()).await.unwrap();
        look.instance_by_id(1).tree().await.unwrap();
        look.instance(Order::by_key("key")).tree().await.unwrap();
    });
    assert_eq!(client.audit().list(Page::first()).await.unwrap().entries, []);
}

/// The rows of [`MIX`] by the thing that they wait for, queue, step and version.
const TRUTH: &str = "
    select queue, fsm, fsm_version, step, case
        when status = 'executing' then 'executing'
        when status = 'awaiting_signal' then 'awaiting'
        when status = 'failed' then 'failed'
        when blocked_by & 1 = 1 then 'blocked'
        when blocked_by & 12 <> 0 then 'paused'
        when blocked_by & 16 = 16 then 'limited'
        when blocked_by & 2 = 2 then 'blocked'
        when eligible_at <= now() then 'due'
        else 'scheduled'
    end as waits, count(*) as count
    from gen_durable.instances
    where status not in ('done', 'cancelled')
    group by 1, 2, 3, 4, 5";

async fn truth(pool: &PgPool, key: &str, condition: &str) -> BTreeMap<String, u64> {
    let query = format!(
        "select {key} as key, sum(count)::bigint as count from ({TRUTH}) t where {condition} group by 1"
    );
    let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(pool).await.unwrap();
    rows.iter().map(|row| (row.get("key"), row.get::<i64, _>("count").cast_unsigned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p74_every_instance_that_waits_is_counted_once() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    assert_eq!(client.depths().await.unwrap(), []);
    assert_eq!(client.queues().await.unwrap(), []);
    assert_eq!(client.step_counts("order").await.unwrap(), []);
    sql(db.pool(), MIX).await;
    sql(
        db.pool(),
        "update gen_durable.instances set eligible_at = '2101-01-01' where status = 'runnable' and id % 7 = 0;
         update gen_durable.instances set fsm = 'parcel' where status in ('runnable', 'failed') and id % 5 = 0;
         update gen_durable.instances set fsm_version = 1 where status = 'runnable' and id % 11 < 3",
    )
    .await;
    let depths = client.depths().await.unwrap();
    assert!(depths.iter().all(|depth| !depth.capped && depth.oldest.is_some()), "{depths:?}");
    let found =
        depths.iter().map(|depth| (format!("{} {}", depth.queue, depth.waits), depth.count));
    let expected = truth(db.pool(), "queue || ' ' || waits", "true").await;
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
    assert!(Waits::ALL.iter().all(|waits| depths.iter().any(|depth| depth.waits == *waits)));

    let counts = client.step_counts("order").await.unwrap();
    let name = |version, step: &str, waits: Waits| format!("{version} {step} {waits}");
    let found = counts.iter().map(|c| (name(c.version, &c.step, c.waits), c.count));
    let key = "fsm_version || ' ' || step || ' ' || waits";
    let expected = truth(db.pool(), key, "fsm = 'order'").await;
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);

    let queues = client.queues().await.unwrap();
    let names: Vec<&str> = queues.iter().map(|queue| &*queue.name).collect();
    assert_eq!(names, ["default", "mail"]);
    let all: Vec<_> = queues.into_iter().flat_map(|queue| queue.depths).collect();
    assert_eq!(all, depths);
}

#[tokio::test(flavor = "multi_thread")]
async fn p74_counts_say_that_there_are_more() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    sql(
        db.pool(),
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, queue, status, blocked_by, locked_by, paused_by, limited_by,
              partition_key, eligible_at, wake_at, finished_at)
         select case when n = 1 then 'b' else 'a' end, 1, 's', '{}', k.waits, k.status, k.blocked_by,
                case when k.status = 'executing' then 1 end, case when k.blocked_by = 4 then 1 end,
                case when k.blocked_by = 16 then 'l' end, case when k.blocked_by = 1 then 'key' end,
                case when k.waits = 'scheduled' then timestamptz '2100-01-01' else '2020-01-01' end,
                case when k.waits = 'timed' then now() + interval '1 h' end,
                case when k.status in ('failed', 'cancelled') then now() end
         from (values ('timed', 'awaiting_signal', 0), ('due', 'runnable', 0), ('scheduled', 'runnable', 0),
                      ('executing', 'executing', 0), ('failed', 'failed', 0), ('paused', 'runnable', 4),
                      ('limited', 'runnable', 16), ('blocked', 'runnable', 1), ('awaiting', 'awaiting_signal', 0)
              ) as k (waits, status, blocked_by),
              generate_series(1, 12000) as n
         where k.waits <> 'limited' or n <= 3000
         order by k.waits = 'awaiting'",
    )
    .await;
    // All scheduled rows of one queue are counted. Some of the newest rows time out before others.
    sql(
        db.pool(),
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue, eligible_at)
         values ('a', 1, 's', '{}', 'due', '2100-01-01');
         update gen_durable.instances set wake_at = now()
         where id > (select max(id) - 10 from gen_durable.instances) and status = 'awaiting_signal'",
    )
    .await;
    let mut depths = client.depths().await.unwrap();
    let of_due = |depth: &mut gen_durable::operate::Depth| {
        depth.queue == "due" && depth.waits == Waits::Scheduled
    };
    let whole: Vec<_> = depths.extract_if(.., of_due).collect();
    assert_eq!(whole.iter().map(|d| (d.count, d.capped)).collect::<Vec<_>>(), [(1, false)]);
    let found: BTreeMap<&str, (u64, bool)> =
        depths.iter().map(|depth| (&*depth.queue, (depth.count, depth.capped))).collect();
    let expected = [
        ("awaiting", (10_000, true)),
        ("blocked", (5_001, true)),
        ("due", (1_251, true)),
        ("executing", (5_001, true)),
        ("failed", (2_501, true)),
        ("limited", (3_000, false)),
        ("paused", (5_001, true)),
        ("scheduled", (1_251, true)),
        ("timed", (4_991, true)),
    ];
    assert_eq!(found, BTreeMap::from(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_workers_and_machines_are_listed() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    assert_eq!(client.workers().await.unwrap(), []);
    assert_eq!(client.machines().await.unwrap(), []);
    let before = SystemTime::now() - Duration::from_mins(1);
    let engine = engine(&db)
        .machine::<Order>()
        .queue("mail", 3)
        .queue("post", 2)
        .name("the first")
        .maintenance(false)
        .start()
        .await
        .unwrap();
    let parked = Order::insert(()).execute(&client).await.unwrap();
    until(db.pool(), parked, "awaiting_signal").await;
    sql(
        db.pool(),
        "insert into gen_durable.workers (id, name, lease_expires_at, queues, slots, fsms, fsm_versions)
         overriding system value
         values (1000, 'lost', now() - interval '1 s', '{mail}', '{9}', '{order}', '{2}'),
                (1001, 'gone', now() - interval '1 s', '{}', '{}', '{}', '{}');
         insert into gen_durable.instances (fsm, fsm_version, step, state, queue, status, locked_by)
         select 'order', 2, 'pay', '{}', 'rest', 'executing', 1000 from generate_series(1, 9999);
         insert into gen_durable.instances (fsm, fsm_version, step, state, queue, status, locked_by)
         select 'order', 2, 'pay', '{}', 'rest', 'executing', 1001 from generate_series(1, 3);
         insert into gen_durable.machines (fsm, fsm_version, initial, steps) values ('order', 1, 'pay', '{pay}')",
    )
    .await;

    let queues = client.queues().await.unwrap();
    let facts: Vec<_> = queues
        .iter()
        .map(|queue| (&*queue.name, queue.registered, queue.workers, queue.slots))
        .collect();
    let [default, mail, post] =
        [("default", 10), ("mail", 3), ("post", 2)].map(|(name, slots)| (name, true, 1, slots));
    assert_eq!(facts, [default, mail, post, ("rest", false, 0, 0)]);
    client.queue("post").pause().by("ada").execute(&client).await.unwrap();
    let queues = client.queues().await.unwrap();
    let by: Vec<_> = queues.iter().map(|queue| queue.paused.as_ref().map(|p| &*p.by)).collect();
    assert_eq!(by, [None, None, Some("ada"), None]);

    let workers = client.workers().await.unwrap();
    let [first, lost, gone] = &workers[..] else { panic!("{workers:?}") };
    assert_eq!((&*first.name, first.is_alive, first.executing), ("the first", true, 0));
    assert_eq!(
        first.queues,
        [("default", 10), ("mail", 3), ("post", 2)].map(|(q, n)| (q.to_owned(), n))
    );
    assert_eq!(first.machines, [("order".to_owned(), 2)]);
    assert_eq!(first.pid, Some(i64::from(std::process::id())));
    assert!(first.library.is_some() && first.started_at > before);
    assert!(first.lease_ends_at > SystemTime::now());
    assert_eq!((&*lost.name, lost.is_alive), ("lost", false));
    assert_eq!(
        (first.executing_capped, lost.executing, lost.executing_capped),
        (false, 9_999, false)
    );
    assert_eq!((gone.executing, gone.executing_capped), (2, true));

    let machines = client.machines().await.unwrap();
    let [old, new] = &machines[..] else { panic!("{machines:?}") };
    assert_eq!((&*old.name, old.version, old.workers, old.graph()), ("order", 1, 0, None));
    assert_eq!((&*new.name, new.version, new.workers), ("order", 2, 1));
    assert_eq!(
        (&*new.queue, &*new.first_step, new.on_cancel.as_deref()),
        ("mail", "pay", Some("ship"))
    );
    assert_eq!(
        (&new.steps[..], &new.signals[..]),
        (&["pay", "ship"].map(str::to_owned)[..], &["paid".to_owned()][..])
    );
    assert_eq!((new.history, old.history), (History::Steps, History::Failures));
    let graph = new.graph().unwrap();
    assert_eq!(graph.to_mermaid(), Order::graph().to_mermaid());
    assert_eq!(graph.to_json(), new.graph_json().unwrap());

    let step = client.step_counts("order").await.unwrap();
    let step: Vec<_> = step.iter().map(|c| (&*c.step, c.waits, c.count)).collect();
    // The parked instance is older than ten thousand others.
    assert_eq!(step, [("pay", Waits::Executing, 5_001)]);
    assert!(matches!(client.step_counts("").await, Err(gen_durable::FindError::Encode(_))));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p74_what_operators_did_is_listed() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let ids = Order::insert_many([(), (), ()]).execute(&client).await.unwrap();
    let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
    for (id, by) in ids.iter().zip(["ada", "bob", "ada"]) {
        client.instance(*id).pause().by(by).reason("a try").execute(&client).await.unwrap();
        client.instance(*id).resume().by(by).execute(&client).await.unwrap();
    }
    let first = ids[0].get();
    let list = async |audit: gen_durable::operate::Audit, size| {
        let (mut entries, mut page) = (Vec::new(), Page::first());
        loop {
            let found = audit.list(page.size(size)).await.unwrap();
            assert!(found.entries.len() <= size);
            entries.extend(found.entries);
            let Some(next) = found.next else { return entries };
            page = Page::after(Cursor::from_raw(next.get()));
        }
    };
    let short = |entries: &[AuditEntry]| -> Vec<(i64, String, String)> {
        let entry =
            |e: &AuditEntry| (e.instance.unwrap() - first, e.actor.clone(), e.action.clone());
        entries.iter().map(entry).collect()
    };
    let entries = list(client.audit(), 2).await;
    let texts = |all: &[(i64, &str, &str)]| -> Vec<(i64, String, String)> {
        all.iter()
            .map(|(n, actor, action)| (*n, (*actor).to_owned(), (*action).to_owned()))
            .collect()
    };
    let all = [
        (2, "ada", "resume"),
        (2, "ada", "pause"),
        (1, "bob", "resume"),
        (1, "bob", "pause"),
        (0, "ada", "resume"),
        (0, "ada", "pause"),
    ];
    assert_eq!(short(&entries), texts(&all));
    assert_eq!(entries, list(client.audit(), 50).await);
    assert_eq!(entries[1].reason.as_deref(), Some("a try"));
    assert_eq!(entries[1].machine.as_deref(), Some("order"));
    let bob = list(client.audit().actor("bob"), 1).await;
    assert_eq!(short(&bob), texts(&all[2..4]));
    let resumed = list(client.audit().action("resume").machine("order"), 50).await;
    assert_eq!(short(&resumed), texts(&[all[0], all[2], all[4]]));
    let one = list(client.audit().instance(first + 1), 1).await;
    assert_eq!(short(&one), texts(&all[2..4]));
    assert_eq!(list(client.audit().machine("none"), 50).await, []);

    // Few of many are found bit by bit.
    sql(
        db.pool(),
        "insert into gen_durable.audit (actor, action, fsm) select 'eve', 'pause', 'm' from generate_series(1, 25000)",
    )
    .await;
    let page = client.audit().actor("bob").list(Page::first()).await.unwrap();
    assert_eq!((page.entries.len(), page.next.is_some()), (0, true));
    assert_eq!(list(client.audit().actor("bob"), 50).await, bob);
    assert_eq!(list(client.audit().instance(first + 1), 50).await, one);
}

#[tokio::test(flavor = "multi_thread")]
async fn p74_a_tree_has_those_that_report_to_each_other() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    // 3 has the ancestors 2 and 1, which reports to one that is gone; two children, of which one
    // has a child; and others report elsewhere.
    sql(
        db.pool(),
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, report_to)
         select n, 'order', 2, 'pay', '{}', case when n = 12000 then 'failed' else 'awaiting_signal' end,
                case n when 1 then 20000 when 2 then 1 when 3 then 2 when 5 then 3 when 6 then 4 when 7 then 6
                       when 11000 then 5 when 12000 then 3 end
         from generate_series(1, 12500) as n",
    )
    .await;
    let tree = client.instance_by_id(3).tree().await.unwrap();
    let nodes = |nodes: &[gen_durable::operate::TreeNode]| -> Vec<(i64, Option<i64>, u32)> {
        nodes.iter().map(|node| (node.entry.id, node.reports_to, node.depth)).collect()
    };
    assert_eq!((tree.root.entry.id, tree.root.reports_to, tree.root.depth), (3, Some(2), 0));
    assert_eq!(nodes(&tree.ancestors), [(2, Some(1), 1), (1, Some(20_000), 2)]);
    let children = [(5, Some(3), 1), (11_000, Some(5), 2), (12_000, Some(3), 1)];
    assert_eq!(nodes(&tree.descendants), children);
    assert_eq!(tree.descendants[2].entry.status, Status::Failed);
    assert_eq!(tree.looked_to, None);

    // A circle ends, and so do many children.
    sql(
        db.pool(),
        "update gen_durable.instances set report_to = 3 where id = 1;
         update gen_durable.instances set report_to = 12000 where id between 12001 and 12500;
         insert into gen_durable.instances (id, fsm, fsm_version, step, state, report_to)
         select 13000 + n, 'order', 2, 'pay', '{}', 3 from generate_series(1, 1000) as n",
    )
    .await;
    let tree = client.instance_by_id(3).tree().await.unwrap();
    assert_eq!(nodes(&tree.ancestors), [(2, Some(1), 1), (1, Some(3), 2)]);
    assert_eq!((tree.descendants.len(), tree.looked_to), (1_000, Some(13_497)));

    let order = client.instance(InstanceId::<Order>::from_raw(3)).tree().await.unwrap();
    assert_eq!(order.root.entry.id, 3);
    let unknown = client.instance_by_id(99_999).tree().await.unwrap_err();
    assert!(matches!(unknown, OperateError::Unknown { id: 99_999 }), "{unknown}");
    let nobody = client.instance(Order::by_key("none")).tree().await.unwrap_err();
    assert!(matches!(nobody, OperateError::NoHolder { .. }), "{nobody}");
    sql(db.pool(), "update gen_durable.instances set fsm = 'parcel' where id = 3").await;
    let other = client.instance(InstanceId::<Order>::from_raw(3)).tree().await.unwrap_err();
    assert!(matches!(other, OperateError::WrongMachine { .. }), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p74_an_inbox_shows_its_oldest_signals() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let before = SystemTime::now() - Duration::from_mins(1);
    let id = Order::insert(()).unique_key("mine").execute(&client).await.unwrap();
    let order = client.instance(id);
    let inbox = order.inbox().await.unwrap();
    assert_eq!((inbox.entries.len(), inbox.capped), (0, false));
    Order::signal_paid(id, Paid).dedup_key("once").execute(&client).await.unwrap();
    sql(
        db.pool(),
        "insert into gen_durable.signals (target_id, name, payload)
         select i.id, 'long', to_json(repeat('x', n)) from gen_durable.instances i, unnest('{16382,16383}'::int[]) n;
         insert into gen_durable.signals (target_id, name, payload)
         select i.id, 'more', '\"secret\"' from gen_durable.instances i, generate_series(1, 97)",
    )
    .await;
    let inbox = client.instance(Order::by_key("mine")).inbox().await.unwrap();
    assert_eq!((inbox.entries.len(), inbox.capped), (100, false));
    assert!(inbox.entries.is_sorted_by(|one, other| one.id < other.id));
    let first = &inbox.entries[0];
    assert_eq!((&*first.name, first.dedup_key.as_deref()), ("paid", Some("once")));
    assert_eq!((first.payload_json(), first.size), (Some("null"), 4));
    assert!(first.arrived_at > before);
    let lengths = |at: usize| {
        let entry = &inbox.entries[at];
        (&*entry.name, entry.size, entry.payload_json().map(str::len))
    };
    assert_eq!(lengths(1), ("long", 16_384, Some(16_384)));
    assert_eq!(lengths(2), ("long", 16_385, None));
    assert_eq!(inbox.entries[3].payload_json(), Some("\"secret\""));
    assert!(!format!("{inbox:?}").contains("secret"));

    // There may be more.
    sql(
        db.pool(),
        "insert into gen_durable.signals (target_id, name, payload)
         select id, 'newest', '1' from gen_durable.instances",
    )
    .await;
    let more = order.inbox().await.unwrap();
    assert_eq!((more.entries, more.capped), (inbox.entries, true));

    let unknown = client.instance_by_id(99_999).inbox().await.unwrap_err();
    assert!(matches!(unknown, OperateError::Unknown { id: 99_999 }), "{unknown}");
    let nobody = client.instance(Order::by_key("none")).inbox().await.unwrap_err();
    assert!(matches!(nobody, OperateError::NoHolder { .. }), "{nobody}");
    sql(db.pool(), "update gen_durable.instances set fsm = 'parcel'").await;
    let other = order.inbox().await.unwrap_err();
    assert!(matches!(other, OperateError::WrongMachine { .. }), "{other}");
}
