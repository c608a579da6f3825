//! Reports under faults and races: lost workers, commits that are cut off, isolated snapshots,
//! locked receivers; and children that are claimed by the commit that inserts them.

use std::{sync::Arc, time::Duration};

use gen_durable_tests::proxy::Effect;

use super::{Deed, Parcel, Parent, machines, results};
use crate::{
    networks::behind,
    support::{
        Breakpoint, database, deadlocks, engine, eventually, lose_worker, proxy, row, sql, until,
    },
};

/// The reaper fails a child that has lost too many workers. If the receiver's row is locked, the
/// report comes later.
#[tokio::test(flavor = "multi_thread")]
async fn p37_a_child_that_loses_its_workers_is_reported() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let start = async |name: &str| {
        let builder = engine(&db).machine::<Parcel>().machine::<Parent>().crashes_max(1).name(name);
        let builder = builder.resource(Arc::clone(&breakpoint));
        builder.start().await.unwrap()
    };
    let first = start("first").await;
    let parent = Parent::insert(vec![Deed::Stand, Deed::Done(3)]).execute(&first).await.unwrap();
    let child = breakpoint.arrival().await;
    until(pool, parent, "awaiting_signal").await;
    let second = start("second").await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.instances where id = $1 for update")
        .bind(parent.get())
        .execute(&mut *holder)
        .await
        .unwrap();
    let worker = row(pool, child).await.locked_by.unwrap();
    lose_worker(pool, worker, &second, child).await;
    assert_eq!(row(pool, child).await.status, "failed");
    assert_eq!(row(pool, parent).await.inbox, 1, "the receiver is locked");
    holder.commit().await.unwrap();
    second.maintain().await.unwrap();
    let heard = results(&second, parent).await;
    let why = "step act: its worker was lost 1 times in a row";
    assert_eq!(heard, [Err(format!("instance {child} failed: {why}")), Ok(3)]);
    breakpoint.open(1);
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

/// Children whose insert has free slots are claimed by it.
#[tokio::test(flavor = "multi_thread")]
async fn p37_children_are_claimed_at_birth() {
    let db = database().await;
    let pool = db.pool();
    let engine = machines(engine(&db)).queue("default", 100).start().await.unwrap();
    sql(
        pool,
        "create table public.born (status text, report_to bigint);
         create function public.note_birth() returns trigger language plpgsql as $$
         begin
             insert into public.born values (new.status, new.report_to);
             return null;
         end $$;
         create trigger note_birth after insert on gen_durable.instances
         for each row execute function public.note_birth()",
    )
    .await;
    // A claim that is under way leaves the children to itself.
    eventually("all children are born claimed", async || {
        let parent = Parent::insert((0..60).map(Deed::Done).collect());
        let parent = parent.execute(&engine).await.unwrap();
        let all: Vec<_> = (0..60).map(Ok).collect();
        assert_eq!(results(&engine, parent).await, all);
        let born: Vec<(String, i64)> = sqlx::query_as(
            "select status, count(*) from public.born where report_to = $1 group by status",
        )
        .bind(parent.get())
        .fetch_all(pool)
        .await
        .unwrap();
        assert_eq!(born.iter().map(|(_, count)| count).sum::<i64>(), 60);
        (born == [("executing".to_owned(), 60)]).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
}

/// The commit that spawns children and claims them, and the commit that reports an end, are cut off
/// or lose their answers.
#[tokio::test(flavor = "multi_thread")]
async fn p37_a_lost_commit_spawns_and_reports_once() {
    for effect in [Effect::CutBefore, Effect::LoseAnswer] {
        let db = database().await;
        let pool = db.pool().clone();
        let proxy = proxy().await;
        let at = Arc::new(Breakpoint::new());
        let engine = behind(&proxy, &db)
            .machine::<Parcel>()
            .machine::<Parent>()
            .resource(Arc::clone(&at))
            .maintenance(false)
            .poll_interval(Duration::from_mins(1))
            .start()
            .await
            .unwrap();
        let parent = Parent::insert(vec![Deed::Stand; 4]).step(Parent::Wait);
        let parent = parent.execute(&pool).await.unwrap();
        assert_eq!(at.arrival().await, parent.get());
        let spawned = proxy.trap_commit(effect);
        at.open(1);
        spawned.await.expect("the commit that spawns goes by");
        until(&pool, parent, "awaiting_signal").await;
        for _ in 0..3 {
            at.arrival().await;
            at.open(1);
        }
        at.arrival().await;
        let parked = "select awaits_more from gen_durable.instances where id = $1";
        eventually("three have been reported", async || {
            let more: Option<i32> =
                sqlx::query_scalar(parked).bind(parent.get()).fetch_one(&pool).await.unwrap();
            (more == Some(1)).then_some(())
        })
        .await;
        let reported = proxy.trap_commit(effect);
        at.open(1);
        reported.await.expect("the commit that reports goes by");
        assert_eq!(results(&engine, parent).await, vec![Ok(1); 4]);
        let all: (i64, i64) = sqlx::query_as(
            "select count(*), count(*) filter (where status = 'done') from gen_durable.instances",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(all, (5, 5));
        engine.shutdown().await.unwrap();
    }
}

/// Children whose snapshots are older than each other's reports do not conflict: the report follows
/// the commit of each.
#[tokio::test(flavor = "multi_thread")]
async fn p37_isolated_children_of_one_parent_do_not_conflict() {
    let db = database().await;
    let pool = db.pool();
    let at = Arc::new(Breakpoint::new());
    let builder = engine(&db).machine::<Parcel>().machine::<Parent>().resource(Arc::clone(&at));
    let engine = builder.queue("default", 30).max_transactions(8).start().await.unwrap();
    let parent = Parent::insert(vec![Deed::Isolated; 8]).execute(&engine).await.unwrap();
    for _ in 0..8 {
        at.arrival().await;
    }
    until(pool, parent, "awaiting_signal").await;
    // Serializable transactions may conflict for reasons of their own, and run again.
    at.open(1_000);
    assert_eq!(results(&engine, parent).await, vec![Ok(3); 8]);
    engine.shutdown().await.unwrap();
}

/// A process is killed between the commit of an end and its report. The service finds the end, and
/// passes over those whose receivers are locked.
#[tokio::test(flavor = "multi_thread")]
async fn p37_ends_that_are_owed_are_found_beside_locked_ones() {
    let db = database().await;
    let pool = db.pool();
    let engine = machines(engine(&db)).start().await.unwrap();
    let wait = || Parent::insert(vec![Deed::Wait]).step(Parent::Join);
    let locked = wait().execute(&engine).await.unwrap();
    let free = wait().execute(&engine).await.unwrap();
    until(pool, locked, "awaiting_signal").await;
    until(pool, free, "awaiting_signal").await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.instances where id = $1 for update")
        .bind(locked.get())
        .execute(&mut *holder)
        .await
        .unwrap();
    for receiver in [locked, free] {
        sqlx::query(
            "insert into gen_durable.instances
                 (fsm, fsm_version, step, state, status, result, report_to, owes, finished_at)
             values ('parcel', 1, 'isolated', '\"Isolated\"', 'done', '4', $1, 1, now())",
        )
        .bind(receiver.get())
        .execute(pool)
        .await
        .unwrap();
    }
    engine.maintain().await.unwrap();
    assert_eq!(results(&engine, free).await, [Ok(4)]);
    assert_eq!(row(pool, locked).await.inbox, 0);
    holder.commit().await.unwrap();
    engine.maintain().await.unwrap();
    assert_eq!(results(&engine, locked).await, [Ok(4)]);
    engine.shutdown().await.unwrap();
}

/// Two steps in transactions signal each other's instance at their ends. Both lock the two rows in
/// the order of their ids.
#[tokio::test(flavor = "multi_thread")]
async fn p37_transactions_that_send_to_each_other_do_not_deadlock() {
    let db = database().await;
    let pool = db.pool();
    let at = Arc::new(Breakpoint::new());
    let builder = engine(&db).machine::<Parcel>().machine::<Parent>().resource(Arc::clone(&at));
    let engine = builder.start().await.unwrap();
    for round in 0..10 {
        let first = 1 + 2 * round;
        let one = Parcel::insert(Deed::Signal(first + 1)).execute(&engine).await.unwrap();
        let two = Parcel::insert(Deed::Signal(first)).execute(&engine).await.unwrap();
        assert_eq!((one.get(), two.get()), (first, first + 1));
        at.arrival().await;
        at.arrival().await;
        at.open(2);
        until(pool, one, "done").await;
        until(pool, two, "done").await;
    }
    engine.shutdown().await.unwrap();
    assert_eq!(deadlocks(&db).await, 0);
}
