//! The SQL functions write what the Rust calls write, column by column.

use std::time::{Duration, SystemTime};

use gen_durable::{Status, prelude::*};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{Order, OrderState, Paid, register};
use crate::support::{database, sql};

/// Returns all rows as they are now, without the ids that were drawn for new ones.
async fn everything(connection: &mut PgConnection) -> Value {
    sqlx::query_scalar(
        "select json_build_object(
             'instances', (select json_agg(to_jsonb(i) - 'id' || jsonb_build_object('text', i.state::text) order by i.id)
                           from gen_durable.instances i),
             'signals', (select json_agg(to_jsonb(s) - 'id' || jsonb_build_object('text', s.payload::text) order by s.id)
                         from gen_durable.signals s),
             'keys', (select json_agg(k order by k) from gen_durable.signal_keys k))",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

async fn run(connection: &mut PgConnection, statement: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(statement.into())).execute(connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_a_row_of_the_sql_function_equals_the_row_of_the_rust_call() {
    let db = database().await;
    register(&db).await;
    let receiver = Order::insert(OrderState { id: 1, cents: 0 })
        .unique_key("month")
        .execute(db.pool())
        .await
        .unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(4_000_000_000_123_456);
    let at_sql = "run_at => 'epoch'::timestamptz + 4000000000123456 * interval '1 microsecond'";
    let long_ago = SystemTime::UNIX_EPOCH - Duration::from_secs(10);
    let insert = || Order::insert(OrderState { id: 7, cents: 0 });
    let all = format!(
        "step => 'ship', queue => 'q', priority => -5, partition_key => 'p', unique_key => 'u',
         unique_while => '{{runnable,failed,done}}', report_to => {receiver}, {at_sql}, version => 1"
    );
    let cases: Vec<(Insert<Order>, String)> = vec![
        (insert(), String::new()),
        (insert().step(Order::Ship), "step => 'ship'".to_owned()),
        (insert().queue("q"), "queue => 'q'".to_owned()),
        (insert().priority(3), "priority => 3".to_owned()),
        (insert().schedule_at(at), at_sql.to_owned()),
        (insert().schedule_at(long_ago), "run_at => '1969-12-31 23:59:50+00'".to_owned()),
        (insert().schedule_in(Duration::from_millis(1500)), "delay => '1500 ms'".to_owned()),
        (insert().schedule_in(Duration::MAX), "delay => '100000 years'".to_owned()),
        (insert().partition_key("p"), "partition_key => 'p'".to_owned()),
        (insert().unique_key("u"), "unique_key => 'u'".to_owned()),
        (
            insert().unique_key("u").unique_while([Status::Executing, Status::Runnable]),
            "unique_key => 'u', unique_while => '{executing,runnable}'".to_owned(),
        ),
        (insert().report_to(receiver), format!("report_to => {receiver}")),
        (insert().silent(), "silent => true".to_owned()),
        (
            insert()
                .step(Order::Ship)
                .queue("q")
                .priority(-5)
                .schedule_at(at)
                .partition_key("p")
                .unique_key("u")
                .unique_while([Status::Runnable, Status::Failed, Status::Done])
                .report_to(receiver),
            all,
        ),
    ];
    for (insert, options) in cases {
        // In one transaction both have the same time.
        let mut transaction = db.pool().begin().await.unwrap();
        run(&mut transaction, "savepoint here").await;
        insert.execute(&mut *transaction).await.unwrap();
        let by_rust = everything(&mut transaction).await;
        run(&mut transaction, "rollback to here").await;
        let options = if options.is_empty() { options } else { format!(", {options}") };
        let call =
            format!(r#"select gen_durable.insert('order', '{{"id":7,"cents":0}}'{options})"#);
        run(&mut transaction, call).await;
        let by_sql = everything(&mut transaction).await;
        assert_eq!(by_sql, by_rust, "{options}");
        assert_eq!(by_sql["instances"].as_array().unwrap().len(), 2);
    }
}

/// The targets of signals: in each live status, parked for the signal, for another one, for
/// several; with a unique key that they give back when they wake.
const TARGETS: &str = "
    insert into gen_durable.instances
        (id, fsm, fsm_version, step, state, status, awaits, awaits_more, wake_at, locked_by, unique_key, unique_scope)
    values
        (1, 'order', 1, 'collect', '1', 'runnable', null, null, null, null, 'k1', '{runnable}'),
        (2, 'order', 1, 'collect', '1', 'executing', null, null, null, 1, null, null),
        (3, 'order', 1, 'collect', '1', 'awaiting_signal', '{other,paid}', null, now() + interval '1 day', null,
            'k3', '{awaiting_signal}'),
        (4, 'order', 1, 'collect', '1', 'awaiting_signal', '{other}', null, null, null, null, null),
        (5, 'order', 1, 'collect', '1', 'awaiting_signal', '{paid}', 2, null, null, 'k5', '{runnable,awaiting_signal}'),
        (6, 'order', 1, 'collect', '1', 'awaiting_signal', '{paid}', 1, now(), null, 'k6', '{runnable,awaiting_signal}')";

#[tokio::test(flavor = "multi_thread")]
async fn p41_a_signal_of_the_sql_function_does_what_the_rust_call_does() {
    let db = database().await;
    register(&db).await;
    sql(db.pool(), TARGETS).await;
    // A signal without a context leaves a link to that of the insert.
    sql(db.pool(), "update gen_durable.instances set trace_context = 'insert'").await;
    for (id, key) in
        [(1, Some("k1")), (2, None), (3, Some("k3")), (4, None), (5, Some("k5")), (6, Some("k6"))]
    {
        for key in std::iter::once(None).chain(key.map(Some)) {
            for dedup in [None, Some("evt-7")] {
                let mut transaction = db.pool().begin().await.unwrap();
                run(&mut transaction, "savepoint here").await;
                for _ in 0..2 {
                    let signal = match key {
                        Some(key) => Order::signal_paid(Order::by_key(key), Paid { cents: 5 }),
                        None => Order::signal_paid(InstanceId::from_raw(id), Paid { cents: 5 }),
                    };
                    let signal = dedup.into_iter().fold(signal, Signal::dedup_key);
                    // The second one finds that the target has given the key back.
                    let _ = signal.execute(&mut *transaction).await;
                }
                let by_rust = everything(&mut transaction).await;
                run(&mut transaction, "rollback to here").await;
                let target = match key {
                    Some(key) => format!("signal_by_key('order', '{key}'"),
                    None => format!("signal({id}"),
                };
                let dedup = dedup.map(|key| format!(", dedup_key => '{key}'")).unwrap_or_default();
                let call =
                    format!(r#"select gen_durable.{target}, 'paid', '{{"cents":5}}'{dedup})"#);
                run(&mut transaction, call.clone()).await;
                run(&mut transaction, "savepoint second").await;
                let second = sqlx::raw_sql(AssertSqlSafe(call.clone())).execute(&mut *transaction);
                if second.await.is_err() {
                    run(&mut transaction, "rollback to second").await;
                }
                assert_eq!(everything(&mut transaction).await, by_rust, "{call}");
            }
        }
    }
}
