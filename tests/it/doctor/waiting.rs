//! Instances that are held back: by pauses, parks, keys and limits; and those that failed.

use std::time::Duration;

use gen_durable::{
    operate::{Count, Illness, Severity},
    prelude::*,
};

use super::{WORKER, affected, illnesses, is_healthy, names, only};
use crate::support::{WAIT_MAX, database, engine, eventually, sql};

#[durable_fsm(name = "order", version = 2, state = (), output = ())]
pub enum Order {
    Pay,
    Ship,
}

#[durable_fsm]
impl Order {
    async fn pay(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    #[step(entry)]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_what_is_paused_is_found_while_it_holds_something() {
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    let engine = engine(&db).machine::<Order>().start().await.unwrap();
    client
        .queue("default")
        .pause()
        .by("ada")
        .reason("the bank is down")
        .execute(&client)
        .await
        .unwrap();
    is_healthy(pool).await;
    let id = Order::insert(()).execute(&client).await.unwrap();
    let found = eventually("the row is marked", async || {
        let findings = illnesses(pool).await;
        (!findings.is_empty()).then_some(findings)
    })
    .await;
    assert_eq!(names(&found), [(Illness::PausedScope, "queue default".to_owned())]);
    assert_eq!(affected(&found[0]), (Some(Count::Exact(1)), &[id.get()][..]));
    assert!(found[0].explanation.ends_with("by ada: the bank is down; it has no end"), "{found:?}");
    assert_eq!(
        (found[0].severity, &*found[0].cure),
        (Severity::Warning, "gen-durable queues resume default")
    );
    client.queue("default").resume().execute(&client).await.unwrap();
    client.wait(id, WAIT_MAX).await.unwrap();
    is_healthy(pool).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_pauses_of_every_scope_are_found() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, WORKER).await;
    sql(
        pool,
        "insert into gen_durable.pauses (id, queue, fsm, step, instance_id, until, paused_at, actor)
         overriding system value
         values (1, null, 'order', null, null, null, now() - interval '3 days', 'a'),
                (2, null, 'order', 'pay', null, now() + interval '1 h', now(), 'a'),
                (3, 'idle', null, null, null, null, now(), 'a'), (4, null, null, null, 8, null, now() - interval '3 h', 'a'),
                (5, null, null, null, 9, null, now(), 'a'), (6, null, 'over', null, null, now() - interval '1 s', now(), 'a'),
                (7, null, null, null, 10, now() - interval '1 s', now(), 'a'), (8, null, null, null, 11, null, now(), 'a');
         insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, awaits, finished_at)
         values (8, 'order', 2, 'pay', '{}', 'awaiting_signal', '{paid}', null), (11, 'order', 2, 'pay', '{}', 'done', null, now()),
                (10, 'order', 2, 'pay', '{}', 'awaiting_signal', '{paid}', null);
         insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, locked_by)
         values (9, 'order', 2, 'pay', '{}', 'executing', 1);
         insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, blocked_by, paused_by)
         select n, 'order', 2, 'pay', '{}', 'runnable', 4, pause
         from (values (1, 1), (2, 1), (3, 2), (4, 6)) as v (n, pause)",
    )
    .await;
    let findings = illnesses(pool).await;
    let expected = [
        (Illness::PausedScope, "machine order"),
        (Illness::PausedInstances, "instances"),
        (Illness::PausedScope, "order@pay"),
    ];
    assert_eq!(names(&findings), expected.map(|(illness, subject)| (illness, subject.to_owned())));
    let [machine, instances, step] = &findings[..] else { panic!() };
    assert_eq!(affected(machine), (Some(Count::Exact(2)), &[1, 2][..]));
    assert!(machine.explanation.starts_with("paused for 3 days by a; "), "{}", machine.explanation);
    assert_eq!(affected(instances), (Some(Count::Exact(2)), &[8, 9][..]));
    assert!(instances.explanation.ends_with("3 h"), "{}", instances.explanation);
    assert_eq!(instances.cure, "gen-durable resume 8 9");
    // It ends by itself.
    assert_eq!(
        (step.severity, affected(step)),
        (Severity::Info, (Some(Count::Exact(1)), &[3][..]))
    );
}

/// The version 2 declares `paid` and the reports of `parcel`, and version 3 is not registered.
const PARKED: &str = "
    insert into gen_durable.machines (fsm, fsm_version, initial, steps, signals)
    values ('order', 2, 'pay', '{pay}', '{paid,ended(parcel)}');
    insert into gen_durable.instances
        (id, fsm, fsm_version, step, state, status, awaits, wake_at, updated_at, report_to, owes)
    select n, fsm, version, 'pay', '{}', status, string_to_array(awaits, ';'),
           case when timeout then now() + interval '1 h' end, now() - age * interval '1 h', report_to, owes
    from (values
        (1, 'order', 2, 'awaiting_signal', 'gone', false, 0, null::bigint, null::int),
        (2, 'order', 2, 'awaiting_signal', 'gone;paid', false, 0, null, null),
        (3, 'order', 2, 'awaiting_signal', 'gone', true, 0, null, null),
        (4, 'order', 3, 'awaiting_signal', 'gone', false, 0, null, null),
        (5, 'order', 2, 'awaiting_signal', 'paid', false, 200, null, null),
        (6, 'order', 2, 'awaiting_signal', 'paid', false, 100, null, null),
        (7, 'order', 2, 'awaiting_signal', 'paid', true, 200, null, null),
        (8, 'order', 2, 'awaiting_signal', 'ended(parcel)', false, 2, null, null),
        (9, 'order', 2, 'awaiting_signal', 'ended(parcel)', false, 2, null, null),
        (10, 'order', 2, 'awaiting_signal', 'ended(parcel)', false, 2, null, null),
        (11, 'order', 2, 'awaiting_signal', 'ended(parcel);paid', false, 2, null, null),
        (12, 'order', 2, 'awaiting_signal', 'ended(parcel)', false, 0, null, null),
        (13, 'order', 2, 'awaiting_signal', 'ended(parcel)', true, 2, null, null),
        (14, 'parcel', 1, 'done', null, false, 1, 8, null),
        (15, 'parcel', 1, 'awaiting_signal', 'x', false, 1, 9, null),
        (16, 'parcel', 1, 'failed', null, false, 0, 10, 1),
        (17, 'order', 2, 'done', 'gone', false, 500, null, null)
    ) as v (n, fsm, version, status, awaits, timeout, age, report_to, owes)";

#[tokio::test(flavor = "multi_thread")]
async fn p76_parks_without_a_way_out_are_found() {
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    sql(pool, WORKER).await;
    sql(pool, PARKED).await;
    let findings = illnesses(pool).await;
    let step = "order@pay v2".to_owned();
    let expected = [Illness::NoChild, Illness::UndeclaredSignal, Illness::LongPark];
    assert_eq!(names(&findings), expected.map(|illness| (illness, step.clone())));
    let [childless, undeclared, long] = &findings[..] else { panic!() };
    assert_eq!(affected(childless), (Some(Count::Exact(1)), &[8][..]));
    assert_eq!(affected(undeclared), (Some(Count::Exact(1)), &[1][..]));
    assert_eq!(affected(long), (Some(Count::Exact(1)), &[5][..]));
    assert!(long.explanation.starts_with("for 8 days it waits for paid,"), "{}", long.explanation);
    let severities = findings.iter().map(|finding| finding.severity);
    assert!(severities.eq([Severity::Error, Severity::Error, Severity::Info]));

    for id in [1, 5, 8] {
        client.instance_by_id(id).cancel("it waits in vain").execute(&client).await.unwrap();
    }
    is_healthy(pool).await;
}

/// Rows that wait for ever are the oldest ones: many others beside them do not hide them.
#[tokio::test(flavor = "multi_thread")]
async fn p76_parks_are_found_among_many_instances() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, WORKER).await;
    sql(
        pool,
        "insert into gen_durable.machines (fsm, fsm_version, initial, steps, signals)
         values ('order', 2, 'pay', '{pay}', '{ended(parcel)}');
         insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, awaits, updated_at, report_to)
         select n, 'order', 2, 'pay', '{}', case when n in (1, 2, 3, 50000) then 'awaiting_signal' else 'done' end,
                case n when 3 then '{gone}'::text[] when 50000 then '{gone}' else '{ended(parcel)}' end,
                now() - interval '1 h', case n when 50000 then 2 end
         from generate_series(1, 50000) as n",
    )
    .await;
    let findings = illnesses(pool).await;
    let expected = [Illness::NoChild, Illness::UndeclaredSignal];
    assert_eq!(names(&findings), expected.map(|illness| (illness, "order@pay v2".to_owned())));
    // The only child of 2 is the last row.
    assert_eq!(affected(&findings[0]), (Some(Count::Exact(1)), &[1][..]));
    assert_eq!(affected(&findings[1]), (Some(Count::Exact(2)), &[3, 50_000][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_rows_behind_one_that_does_not_go_on_are_found() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, WORKER).await;
    // The rows 4 and 6 may be claimed, 8 runs before a paused one, and 10 waits for a limit.
    sql(
        pool,
        "insert into gen_durable.instances
             (id, fsm, fsm_version, step, state, status, queue, partition_key, blocked_by, paused_by, locked_by, limited_by, eligible_at)
         select n, fsm, 2, 'pay', '{}', case when locked_by is null then 'runnable' else 'executing' end, queue, key, blocked_by,
                case when blocked_by & 8 = 8 then 0 end, locked_by, case when blocked_by & 16 = 16 then 'l' end,
                now() - (100 - n) * interval '1 s'
         from (values
             (1, 'order', 'default', 'paused', 8, null::bigint), (2, 'order', 'default', 'paused', 1, null),
             (3, 'order', 'default', 'paused', 1, null), (4, 'order', 'default', 'free', 0, null),
             (5, 'order', 'default', 'free', 1, null), (6, 'order', 'default', 'busy', 0, null),
             (7, 'order', 'default', 'busy', 1, null), (8, 'order', 'default', 'runs', 0, 1),
             (9, 'order', 'default', 'runs', 9, null), (10, 'order', 'default', 'limited', 16, null),
             (11, 'order', 'default', 'limited', 1, null), (12, 'none', 'default', 'unknown', 0, null),
             (13, 'order', 'default', 'unknown', 1, null)
         ) as v (n, fsm, queue, key, blocked_by, locked_by)",
    )
    .await;
    let findings = illnesses(pool).await;
    let expected = [
        (Illness::UnknownMachine, "machine none"),
        (Illness::HeldKey, "partition key paused"),
        (Illness::HeldKey, "partition key unknown"),
    ];
    assert_eq!(names(&findings), expected.map(|(illness, subject)| (illness, subject.to_owned())));
    assert_eq!(affected(&findings[1]), (Some(Count::Exact(2)), &[1][..]));
    assert!(findings[1].explanation.starts_with("its first instance, 1, is paused"));
    assert_eq!(affected(&findings[2]), (Some(Count::Exact(1)), &[12][..]));
    let client = Client::new(pool.clone());
    client.instance_by_id(1).resume().execute(&client).await.unwrap();
    client.instance_by_id(12).kill("no program has it").execute(&client).await.unwrap();
    is_healthy(pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_limits_that_let_nothing_in_are_found() {
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    sql(pool, WORKER).await;
    sql(
        pool,
        r"insert into gen_durable.limits (name, body, at_once, starts, period, burst)
         values ('heavy', '', 5, null, null, null), ('rated', '', 9, 10, 1000000, 2), ('gone', '', 1, null, null, null),
                ('idle', '', 1, null, null, null), ('fair', '', 3, 1, 1000000, 3);
         insert into gen_durable.workers (id, name, lease_expires_at) overriding system value
         values (2, 'lost', now() - interval '1 s');
         insert into gen_durable.declarations (worker, kind, name, body, appeared_at)
         values (2, 'limit', 'gone', '', now());
         insert into gen_durable.declarations (worker, kind, name, body, appeared_at)
         select 1, kind, name, '', now() from (values
             ('limit', 'heavy'), ('limit', 'rated'), ('limit', 'fair'), ('schedule', 'gone')
         ) as v (kind, name);
         insert into gen_durable.limit_buckets (bucket, limit_name, weight, wakes_at)
         values ('heavy' || chr(31) || 'ada', 'heavy', 5, 1), ('rated', 'rated', 3, 1), ('gone', 'gone', 9, 1),
                ('idle', 'idle', 9, 1), ('fair', 'fair', 3, 1);
         insert into gen_durable.instances (id, fsm, fsm_version, step, state, blocked_by, limited_by)
         select n, 'order', 2, 'pay', '{}', 16, b from (values
             (1, 'heavy' || chr(31) || 'ada'), (2, 'rated'), (3, 'rated'), (4, 'gone'), (5, 'fair')
         ) as v (n, b)",
    )
    .await;
    client.limit("heavy").set(gen_durable::Limit::new().at_once(4)).execute(&client).await.unwrap();
    let findings = illnesses(pool).await;
    let expected = [
        (Illness::ImpossibleLimit, "limit heavy"),
        (Illness::ImpossibleLimit, "limit rated"),
        (Illness::UndeclaredLimit, "limit gone"),
    ];
    assert_eq!(names(&findings), expected.map(|(illness, subject)| (illness, subject.to_owned())));
    let [heavy, rated, gone] = &findings[..] else { panic!() };
    assert_eq!(affected(heavy), (Some(Count::Exact(1)), &[1][..]));
    let said = "a run of weight 5 waits for it for the key ada, and its bounds admit 4 at most";
    assert_eq!(heavy.explanation, said);
    assert_eq!(affected(rated), (Some(Count::Exact(2)), &[2, 3][..]));
    assert!(rated.explanation.ends_with("admit 2 at most"), "{}", rated.explanation);
    assert_eq!(
        (gone.severity, affected(gone)),
        (Severity::Warning, (Some(Count::Exact(1)), &[4][..]))
    );

    client.limit("heavy").reset().execute(&client).await.unwrap();
    client.limit("rated").set(gen_durable::Limit::new().at_once(3)).execute(&client).await.unwrap();
    sql(
        pool,
        "insert into gen_durable.declarations (worker, kind, name, body, appeared_at)
         values (1, 'limit', 'gone', '', now());
         update gen_durable.limit_buckets set weight = 1 where bucket = 'gone'",
    )
    .await;
    is_healthy(pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_many_failures_are_found() {
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    sql(
        pool,
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, last_error, finished_at)
         select n, fsm, 2, step, 'null', status, 'error ' || n, now() - age * interval '1 min'
         from generate_series(1, 10) as m, (values
             ('order', 'pay', 'failed', 59, 0), ('order', 'ship', 'failed', 61, 100),
             ('parcel', 'pay', 'cancelled', 1, 200), ('few', 'pay', 'failed', 1, 300)
         ) as v (fsm, step, status, age, base), lateral (select base + m as n) as k
         where fsm <> 'few' or m < 10",
    )
    .await;
    let engine = engine(&db).machine::<Order>().start().await.unwrap();
    let found = only(pool, Illness::ManyFailures, "order@pay").await;
    assert_eq!(affected(&found), (Some(Count::Exact(10)), &[10, 9, 8, 7, 6][..]));
    assert!(found.explanation.ends_with("the last: error 10"), "{}", found.explanation);
    assert!(found.cure.ends_with("gen-durable retry --machine=order --step=pay --status failed"));
    let failed = client.instances::<Order>().status(Status::Failed).step(Order::Pay);
    failed.retry().execute(&client).await.unwrap();
    for id in 1..=10 {
        client.wait(InstanceId::<Order>::from_raw(id), Duration::from_mins(1)).await.unwrap();
    }
    is_healthy(pool).await;
    engine.shutdown().await.unwrap();
}
