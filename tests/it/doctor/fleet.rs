//! Instances that no engine runs, and what lost engines have left.

use gen_durable::operate::{Count, Illness, Severity};

use super::{WORKER, affected, illnesses, is_healthy, names, only};
use crate::support::{database, engine, sql};

#[tokio::test(flavor = "multi_thread")]
async fn p76_what_no_engine_runs_is_found() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, WORKER).await;
    sql(
        pool,
        "update gen_durable.workers set fsms = '{order,other}', fsm_versions = '{2,1}';
         insert into gen_durable.workers (id, name, lease_expires_at, queues, slots, fsms, fsm_versions)
         overriding system value
         values (2, 'w', now() + interval '1 hour', '{post}', '{1}', '{letter}', '{1}'),
                (3, 'lost', now() - interval '1 second', '{attic,default}', '{1,1}', '{order,parcel}', '{1,1}');
         insert into gen_durable.instances (id, fsm, fsm_version, step, state, queue, eligible_at)
         select n, fsm, fsm_version, 's', '{}', queue, now() + due * interval '1 min'
         from (values (1, 'order', 2, 'default', -3), (2, 'order', 2, 'attic', -4), (3, 'parcel', 1, 'attic', -5),
                      (4, 'parcel', 1, 'default', -6), (5, 'order', 1, 'default', -7), (6, 'order', 3, 'default', 9),
                      (7, 'letter', 1, 'default', -8), (8, 'order', 2, 'attic', -1)
              ) as v (n, fsm, fsm_version, queue, due)",
    )
    .await;
    let findings = illnesses(pool).await;
    let expected = [
        (Illness::UnservedQueue, "queue attic"),
        (Illness::UnknownMachine, "machine parcel"),
        (Illness::UnknownVersion, "order v1"),
        (Illness::Unreachable, "letter v1 in queue default"),
        (Illness::UnknownVersion, "order v3"),
    ];
    assert_eq!(names(&findings), expected.map(|(illness, subject)| (illness, subject.to_owned())));
    let [attic, parcel, first, letter, third] = &findings[..] else { panic!() };
    assert_eq!(affected(attic), (Some(Count::Exact(3)), &[2, 8, 3][..]));
    assert!(attic.cure.contains(".queue(\"attic\""), "{}", attic.cure);
    assert!(attic.explanation.contains("4 min"), "{}", attic.explanation);
    assert_eq!(affected(parcel), (Some(Count::Exact(1)), &[4][..]));
    assert_eq!(affected(letter), (Some(Count::Exact(1)), &[7][..]));
    assert!(first.explanation.ends_with("other versions: 2"), "{}", first.explanation);
    // It is to run later: an engine may come until then.
    assert_eq!((first.severity, third.severity), (Severity::Error, Severity::Info));

    // An engine that serves the queue, or runs the machine, is the cure.
    sql(
        pool,
        "update gen_durable.workers
         set lease_expires_at = now() + interval '1 hour', fsms = '{order,order,order,parcel,letter}',
             fsm_versions = '{1,2,3,1,1}'
         where id = 3",
    )
    .await;
    is_healthy(pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_many_that_wait_are_counted_up_to_a_bound() {
    let db = database().await;
    sql(db.pool(), WORKER).await;
    sql(
        db.pool(),
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
         select 'order', 2, 's', '{}', 'attic' from generate_series(1, 2000)",
    )
    .await;
    let found = only(db.pool(), Illness::UnservedQueue, "queue attic").await;
    assert_eq!((found.count, found.instances.len()), (Some(Count::AtLeast(1000)), 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_a_fleet_without_engines_is_found() {
    let db = database().await;
    sql(
        db.pool(),
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state, queue)
         values (1, 'order', 1, 's', '{}', 'a'), (2, 'parcel', 1, 's', '{}', 'b')",
    )
    .await;
    let found = only(db.pool(), Illness::NoEngine, "the fleet").await;
    assert_eq!(
        (found.severity, affected(&found)),
        (Severity::Error, (Some(Count::Exact(2)), &[1, 2][..]))
    );
    assert!(found.explanation.ends_with("order v1, parcel v1"), "{}", found.explanation);
    sql(
        db.pool(),
        "insert into gen_durable.workers (name, lease_expires_at, queues, slots, fsms, fsm_versions)
         values ('w', now() + interval '1 hour', '{a,b}', '{1,1}', '{order,parcel}', '{1,1}')",
    )
    .await;
    is_healthy(db.pool()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_what_lost_workers_left_is_found() {
    let db = database().await;
    let pool = db.pool();
    // Worker 1001 was lost a moment ago: a reaper may be about to look. The row 5 was abandoned a
    // moment ago.
    sql(
        pool,
        "insert into gen_durable.workers (id, name, lease_expires_at, host) overriding system value
         values (1000, 'old', now() - interval '2 min', 'web-1'), (1001, 'new', now() - interval '50 s', 'web-2');
         insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, locked_by, updated_at)
         select n, 'order', 2, 's', '{}', 'executing', worker, now() - age * interval '1 min'
         from (values (1, 1000, 5), (2, 1000, 5), (3, 0, 5), (4, 999, 5), (5, 0, 0), (6, 1001, 5)) as v (n, worker, age)",
    )
    .await;
    let engine = engine(&db).maintenance(false).start().await.unwrap();
    let findings = illnesses(pool).await;
    let expected = [
        (Illness::LostWorker, "worker 1000 (old on web-1)"),
        (Illness::OrphanedInstances, "worker 0"),
        (Illness::OrphanedInstances, "worker 999"),
    ];
    assert_eq!(names(&findings), expected.map(|(illness, subject)| (illness, subject.to_owned())));
    assert_eq!(findings[0].count, Some(Count::Exact(2)));
    assert!(findings[0].explanation.contains("2 min"), "{}", findings[0].explanation);
    assert_eq!(affected(&findings[1]), (Some(Count::Exact(1)), &[3][..]));
    assert_eq!(affected(&findings[2]), (Some(Count::Exact(1)), &[4][..]));
    engine.maintain().await.unwrap();
    sql(pool, "delete from gen_durable.instances").await;
    engine.maintain().await.unwrap();
    is_healthy(pool).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_what_nobody_settles_is_found() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.instances
             (id, fsm, fsm_version, step, state, status, report_to, partition_key, owes, finished_at, updated_at)
         values (1, 'order', 2, 's', '{}', 'failed', 99, null, 1, now(), now() - interval '2 min'),
                (2, 'order', 2, 's', '{}', 'failed', 99, 'key', 3, now(), now() - interval '2 min'),
                (3, 'order', 2, 's', '{}', 'failed', 99, null, 1, now(), now()),
                (4, 'order', 2, 's', '{}', 'failed', null, 'other', 2, now(), now() - interval '2 min')",
    )
    .await;
    let engine = engine(&db).maintenance(false).start().await.unwrap();
    let found = only(pool, Illness::Unsettled, "what transactions left to engines").await;
    assert_eq!(
        (found.severity, affected(&found)),
        (Severity::Error, (Some(Count::Exact(3)), &[1, 2, 4][..]))
    );
    let said = "2 ends are not reported, 2 partition keys are not freed";
    assert!(found.explanation.ends_with(said), "{}", found.explanation);
    engine.maintain().await.unwrap();
    is_healthy(pool).await;
    engine.shutdown().await.unwrap();
}
