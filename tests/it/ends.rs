//! Rows and outcomes that cannot work even alone. They end visibly, and the rows that they held up
//! go on.

use std::time::Duration;

use gen_durable::{StepErrorKind, prelude::*};
use serde_json::value::RawValue;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{WAIT_MAX, count, database, engine, eventually, row, sql, until};

/// A state of any size. It is raw JSON, which is neither read nor written character by character,
/// so a large one costs a test little.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Text(Box<RawValue>);

impl DurableState for Text {}

#[durable_fsm(name = "row", state = Text, output = usize)]
pub enum Heavy {
    Run,
}

#[durable_fsm]
impl Heavy {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        let length = cx.state.0.get().len();
        cx.done(length)
    }
}

/// Its outcome ends it, and inserts as many instances as its state says.
#[durable_fsm(state = u32, output = u32)]
pub enum Sender {
    Run,
}

#[durable_fsm]
impl Sender {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        let count = cx.state;
        cx.done(count).insert_many(Child::insert_many((0..count).map(|_| ())))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        assert_eq!(error.kind(), StepErrorKind::Rejected);
        cx.stop(error)
    }
}

/// No engine serves its queue.
#[durable_fsm(queue = "elsewhere", output = ())]
pub enum Child {
    Run,
}

#[durable_fsm]
impl Child {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

async fn alter(pool: &PgPool, name: &str, setting: &str) {
    let alter = format!("alter database \"{name}\" set {setting}");
    sqlx::raw_sql(AssertSqlSafe(alter)).execute(pool).await.unwrap();
}

/// An outcome's inserts take longer than the lease at each try, and nothing but the engine ends a
/// try. Meanwhile the backend of a try that was given up has the row locked. The error reaches
/// `handle`, and other outcomes are committed.
#[tokio::test(flavor = "multi_thread")]
async fn p61_an_outcome_that_is_slower_than_its_lease_reaches_handle() {
    let db = database().await;
    sql(
        db.pool(),
        "create function public.slowly() returns trigger language plpgsql as $$
         begin
             -- Longer than four leases, the time that an outcome by itself is given. The batch
             -- may have another outcome as well.
             if (select count(*) from inserted) >= 7 then perform pg_sleep(10); end if;
             return null;
         end $$;
         create trigger slowly after insert on gen_durable.instances referencing new table as inserted
         for each statement execute function public.slowly();",
    )
    .await;
    let builder = engine(&db).machine::<Sender>().lease_ttl(Duration::from_secs(2));
    let engine = builder.start().await.unwrap();
    let slow = Sender::insert(7).execute(&engine).await.unwrap();
    let mut others = 0;
    let failed = eventually("it ends", async || {
        let other = Sender::insert(3).execute(&engine).await.unwrap();
        assert_eq!(engine.wait(other, WAIT_MAX).await.unwrap(), 3);
        others += 1;
        let row = row(db.pool(), slow).await;
        (row.status == "failed").then(|| row.last_error.unwrap())
    })
    .await;
    assert!(failed.contains("no answer within"), "{failed}");
    let sent: i64 =
        sqlx::query_scalar("select count(*) from gen_durable.instances where fsm = 'child'")
            .fetch_one(db.pool())
            .await
            .unwrap();
    assert_eq!(sent, 3 * others, "all or nothing");
    engine.shutdown().await.unwrap();
}

/// Reading a row takes longer than the statement timeout, even if the row is claimed alone. The row
/// fails with that reason, and the rows behind it run.
#[tokio::test(flavor = "multi_thread")]
async fn p61_a_row_that_cannot_be_claimed_fails_and_those_behind_it_run() {
    for key in [None, Some("key")] {
        let db = database().await;
        let heavy: i64 = sqlx::query_scalar(
            "insert into gen_durable.instances (fsm, fsm_version, step, state, partition_key)
             select 'row', 1, 'run', to_json(repeat('x', 240 * 1024 * 1024)), $1 returning id",
        )
        .bind(key)
        .fetch_one(db.pool())
        .await
        .unwrap();
        alter(db.pool(), db.name(), "statement_timeout = '80ms'").await;
        let engine = engine(&db).machine::<Heavy>().start().await.unwrap();
        let text = || Text(RawValue::from_string("\"light\"".to_owned()).unwrap());
        let behind = Heavy::insert(text()).execute(&engine).await.unwrap();
        assert_eq!(engine.wait(behind, WAIT_MAX).await.unwrap(), 7);
        let error = until(db.pool(), heavy, "failed").await.last_error.unwrap();
        assert!(
            error.contains("cannot be loaded") && error.contains("statement timeout"),
            "{error}"
        );
        engine.shutdown().await.unwrap();
    }
}

/// A claim may find the head of a key by another row of that key. The bytes of such heads are
/// bounded too. If a head is left, another row of its key stays in the claim's index.
#[tokio::test(flavor = "multi_thread")]
async fn p61_heads_of_partition_keys_are_bounded_in_bytes() {
    let db = database().await;
    sql(
        db.pool(),
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (7, 'w', now() + interval '1 hour');
         alter table gen_durable.instances alter state set storage external;
         insert into gen_durable.instances
             (id, fsm, fsm_version, step, state, partition_key, priority, blocked_by)
         overriding system value
         select n, 'row', 1, 'run', to_json(repeat('x', 1000)), 'key ' || n % 3, n, (n < 4)::int
         from generate_series(1, 6) as n",
    )
    .await;
    let statement = include_str!("../../gen_durable/src/storage/sql/claim_partitions.sql");
    let claimed: Vec<Option<i64>> = sqlx::query_scalar(statement)
        .bind(7_i64)
        .bind(vec![4_i64, 5, 6])
        .bind(vec!["key 0", "key 1", "key 2"])
        .bind(vec!["row"])
        .bind(vec![1_i32])
        .bind(Vec::<String>::new())
        .bind(vec!["default"])
        .bind(1500_i64)
        .bind(false)
        .fetch_all(db.pool())
        .await
        .unwrap();
    assert_eq!(claimed, [Some(1), Some(2)], "the third begins beyond 1500 bytes");
    let index: Vec<i64> = sqlx::query_scalar(
        "select id from gen_durable.instances where status = 'runnable' and blocked_by = 0",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    assert_eq!(index, [6]);
}

/// The statement that claims rows with partition keys fails. A row without a key was claimed before
/// it, and runs.
#[tokio::test(flavor = "multi_thread")]
async fn p61_rows_that_were_claimed_run_whatever_becomes_of_those_with_keys() {
    let db = database().await;
    sql(
        db.pool(),
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, partition_key, priority, blocked_by)
         values ('row', 1, 'run', '\"one\"', 'key', 1, 1),
                ('row', 1, 'run', '\"two\"', 'key', 2, 0),
                ('row', 1, 'run', '\"three\"', null, 0, 0);
         create function public.broken() returns trigger language plpgsql as $$
         begin raise exception 'broken'; end $$;
         create trigger broken before update on gen_durable.instances for each row
         when (new.partition_key = 'key' and new.status = 'executing')
         execute function public.broken();",
    )
    .await;
    let engine = engine(&db).machine::<Heavy>().start().await.unwrap();
    eventually("it runs", async || (count(db.pool(), "done").await == 1).then_some(())).await;
    sql(db.pool(), "drop trigger broken on gen_durable.instances").await;
    eventually("all run", async || (count(db.pool(), "done").await == 3).then_some(())).await;
    engine.shutdown().await.unwrap();
}
