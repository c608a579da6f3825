//! Pauses and resumes that race claims, marks, and the actions of others.

use super::*;

const BLOCK: &str = include_str!("../../../gen_durable/src/storage/sql/block_paused.sql");

/// A transaction that marks rows has locked the pause. A resume waits for it, so that no mark is
/// written after engines have cleared them.
#[tokio::test(flavor = "multi_thread")]
async fn p42_a_resume_waits_for_rows_that_are_being_marked() {
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    sql(
        pool,
        "insert into gen_durable.queues (name) values ('q');
         insert into gen_durable.pauses (queue, actor) values ('q', 'ada');
         insert into gen_durable.instances (id, fsm, fsm_version, step, state, queue, status, locked_by)
         values (1, 'm', 1, 's', '1', 'q', 'executing', 7)",
    )
    .await;
    let mut marking = pool.begin().await.unwrap();
    let marked: Vec<i64> = sqlx::query_scalar(BLOCK)
        .bind(7_i64)
        .bind([1_i64].as_slice())
        .fetch_all(&mut *marking)
        .await
        .unwrap();
    assert_eq!(marked, [1]);
    let resuming = {
        let client = client.clone();
        tokio::spawn(async move { client.queue("q").resume().execute(&client).await })
    };
    until_a_session_waits(pool, 1).await;
    marking.commit().await.unwrap();
    assert_eq!(resuming.await.unwrap().unwrap(), Resumed::Resumed);
    assert_eq!(standing(pool, "blocked_by = 4").await, 1);

    // The other way round: a resume that is not committed yet. The mark is not written after it.
    sql(
        pool,
        "insert into gen_durable.pauses (queue, actor) values ('q', 'ada');
         update gen_durable.instances set blocked_by = 0",
    )
    .await;
    let mut resuming = pool.begin().await.unwrap();
    client.queue("q").resume().execute(&mut *resuming).await.unwrap();
    let marking = {
        let pool = pool.clone();
        tokio::spawn(async move {
            let block = sqlx::query_scalar::<_, i64>(BLOCK).bind(7_i64).bind([1_i64].as_slice());
            block.fetch_all(&pool).await
        })
    };
    until_a_session_waits(pool, 1).await;
    resuming.commit().await.unwrap();
    assert_eq!(marking.await.unwrap().unwrap(), [] as [i64; 0]);
    assert_eq!(standing(pool, "blocked_by = 0").await, 1);
}

/// A cancel sends a marked row to a step that is not paused.
#[tokio::test(flavor = "multi_thread")]
async fn p42_actions_move_a_paused_row_out_of_its_scope() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db, false).await;
    breakpoint.open(1_000_000);
    let client = engine.client().clone();
    client.machine::<Order>().pause_step(Order::Charge).execute(&client).await.unwrap();
    engine.maintain().await.unwrap();
    sql(pool, "update gen_durable.machines set on_cancel = 'ship' where fsm = 'order'").await;
    let cancelled = Order::insert(5).step(Order::Charge).execute(&client).await.unwrap();
    let killed = Order::insert(6).step(Order::Charge).execute(&client).await.unwrap();
    until_there_are(pool, 2, "status = 'runnable' and blocked_by & 4 = 4").await;
    client.instance(cancelled).cancel("").execute(&client).await.unwrap();
    assert_eq!(engine.wait(cancelled, WAIT_MAX).await.unwrap(), 5);
    // A killed instance is retried at another step.
    client.instance(killed).pause().execute(&client).await.unwrap();
    client.instance(killed).kill("").execute(&client).await.unwrap();
    client.instance(killed).retry().at(Order::Ship).execute(&client).await.unwrap();
    assert_eq!(standing(pool, &format!("id = {killed} and blocked_by = 8")).await, 1);
    client.instance(killed).resume().execute(&client).await.unwrap();
    assert_eq!(engine.wait(killed, WAIT_MAX).await.unwrap(), 6);
    engine.shutdown().await.unwrap();
}

/// Pauses, resumes and all other actions at the same time, with partition keys.
#[tokio::test(flavor = "multi_thread")]
async fn p42_pauses_at_random_leave_nothing_behind() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db, false).await;
    let (second, open) = start(&db, true).await;
    breakpoint.open(1_000_000);
    open.open(1_000_000);
    let mut ids = Vec::new();
    for n in 0..60 {
        let insert = Order::insert(n).partition_key(format!("p{}", n % 9));
        let insert = if n % 3 == 0 { insert.queue("mail") } else { insert };
        ids.push(insert.execute(&engine).await.unwrap());
    }
    let tasks = (0..4).map(|task: usize| {
        let (client, ids) = (engine.client().clone(), ids.clone());
        tokio::spawn(async move {
            for turn in 0..60 {
                let id = ids[(turn * 7 + task * 5) % ids.len()];
                let (on, machine) = (client.instance(id), client.machine::<Order>());
                let error = match (turn * 3 + task) % 10 {
                    0 => machine.pause_step(Order::Charge).execute(&client).await.err(),
                    1 => machine.resume_step(Order::Charge).execute(&client).await.err(),
                    2 => client.queue("mail").pause().execute(&client).await.err(),
                    3 => client.queue("mail").resume().execute(&client).await.err(),
                    4 => machine.pause().execute(&client).await.err(),
                    5 => machine.resume().execute(&client).await.err(),
                    6 => on.pause().execute(&client).await.err(),
                    7 => on.resume().execute(&client).await.err(),
                    8 if turn % 4 == 0 => on.cancel("").execute(&client).await.err(),
                    8 => on.retry().execute(&client).await.err(),
                    _ => {
                        let insert = Order::insert(1).partition_key(format!("p{}", turn % 9));
                        insert.execute(&client).await.unwrap();
                        None
                    }
                };
                if let Some(OperateError::Database(error)) = error {
                    panic!("{error}");
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let client = engine.client().clone();
    client.queue("mail").resume().execute(&client).await.unwrap();
    client.machine::<Order>().resume().execute(&client).await.unwrap();
    client.machine::<Order>().resume_step(Order::Charge).execute(&client).await.unwrap();
    let counts = client.all_instances().resume().execute(&client).await.unwrap();
    assert_eq!(counts.locked, 0);
    let left =
        "status not in ('done', 'failed', 'cancelled') or owes is not null or blocked_by <> 0";
    until_there_are(pool, 0, left).await;
    until_no_pause_is_left(pool).await;
    engine.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}
