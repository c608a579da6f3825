//! Property 41: a producer without Rust inserts and signals like the Rust calls, in its own
//! transaction. The SQL functions `gen_durable.insert`, `signal` and `signal_by_key`.

mod drivers;
mod equal;
mod races;
mod traced;

use gen_durable::{Ended, Status, prelude::*};
use sqlx::{PgConnection, PgPool, postgres::PgListener};

use crate::support::{count, database, engine, sql};

#[derive(Clone, Debug, DurableSignal)]
pub struct Paid {
    pub cents: i64,
}

#[derive(Clone, Debug, DurableState)]
pub struct OrderState {
    pub id: i64,
    pub cents: i64,
}

/// Ends with what was paid.
#[durable_fsm(queue = "orders", state = OrderState, output = i64, signals(Paid, Ended<Order>))]
pub enum Order {
    Collect,
    Ship,
}

#[durable_fsm]
impl Order {
    async fn collect(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(paid) = cx.take_signal::<Paid>()? else {
            return Ok(cx.await_signal::<Paid>());
        };
        cx.state.cents = paid.cents;
        Ok(cx.next(Order::Ship))
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        let cents = cx.state.cents;
        cx.done(cents)
    }
}

/// Registers the machine `order`, by the start of an engine that is gone again.
async fn register(db: &gen_durable_postgres::TestDb) {
    let registers = engine(db).machine::<Order>().start().await.unwrap();
    registers.shutdown().await.unwrap();
}

/// Returns the SQLSTATE of a call that is refused, and its message with its hint and detail.
async fn refused(connection: &mut PgConnection, call: &'static str) -> (String, String) {
    let call = sqlx::raw_sql(call).execute(connection).await;
    let error = call.expect_err("the call is refused");
    let error = error.into_database_error().unwrap();
    let error = error.downcast_ref::<sqlx::postgres::PgDatabaseError>();
    let more = error.hint().into_iter().chain(error.detail()).collect::<Vec<_>>();
    (error.code().to_owned(), format!("{}; {}", error.message(), more.join("; ")))
}

/// Each is refused, and says why. The instance 1 is live, 2 has ended, 3 is of another machine.
const REFUSALS: &[(&str, &str, &str)] = &[
    (
        "insert('ordre', '1')",
        "42704",
        "the machine `ordre`; An engine registers its machines when it starts. Registered are: order version 1.",
    ),
    ("insert(null, '1')", "42704", "no engine has registered the machine"),
    ("insert('order', '1', version => 2)", "42704", "the machine `order` in version 2"),
    (
        "insert('order', '1', step => 'shop')",
        "42704",
        "machine `order` version 1 has no step `shop`; Its steps are: collect, ship.",
    ),
    ("insert('order', '1', step => '')", "42704", "has no step ``"),
    ("insert('order', null)", "22004", "state is null"),
    ("insert('order', '{')", "22P02", "invalid input syntax for type json"),
    (r#"insert('order', '"\u0000"')"#, "22P05", "unsupported Unicode escape sequence"),
    (r#"insert('order', '"\ud800"')"#, "22P02", "invalid input syntax for type json"),
    (
        "insert('order', to_json(repeat('x', 8388608)))",
        "22023",
        "state has 8388610 bytes, over the limit of 8388608",
    ),
    (
        "insert('order', (repeat('[', 128) || repeat(']', 128))::json)",
        "22023",
        "state is nested deeper than 127 levels",
    ),
    ("insert('order', '1', queue => '')", "22023", "queue is empty"),
    (
        "insert('order', '1', queue => repeat('x', 256))",
        "22023",
        "queue has 256 bytes, over the limit of 255",
    ),
    ("insert('order', '1', partition_key => '')", "22023", "partition_key is empty"),
    ("insert('order', '1', partition_key => repeat('x', 1025))", "22023", "over the limit of 1024"),
    ("insert('order', '1', unique_key => '')", "22023", "unique_key is empty"),
    ("insert('order', '1', unique_key => repeat('x', 1025))", "22023", "over the limit of 1024"),
    (
        "insert('order', '1', unique_key => repeat(chr(252), 513))",
        "22023",
        "unique_key has 1026 bytes",
    ),
    ("insert('order', '1', priority => 32768)", "22023", "priority is 32768"),
    ("insert('order', '1', priority => -32769)", "22023", "priority is -32769"),
    ("insert('order', '1', priority => null)", "22023", "priority is null"),
    ("insert('order', '1', delay => '-1 s')", "22023", "delay is negative"),
    (
        "insert('order', '1', delay => '1 s', run_at => now())",
        "22023",
        "run_at and delay are both given",
    ),
    (
        "insert('order', '1', unique_while => '{runnable}')",
        "22023",
        "unique_while is given, and no unique_key",
    ),
    (
        "insert('order', '1', unique_key => 'k', unique_while => '{done}')",
        "22023",
        "unique_while lacks `runnable`",
    ),
    (
        "insert('order', '1', unique_key => 'k', unique_while => '{}')",
        "22023",
        "unique_while lacks `runnable`",
    ),
    (
        "insert('order', '1', unique_key => 'k', unique_while => '{runnable,dead}')",
        "22023",
        "The statuses are: runnable, executing, awaiting_signal, done, failed, cancelled.",
    ),
    (
        "insert('order', '1', unique_key => 'k', unique_while => '{runnable,null}')",
        "22023",
        "a status that there is not",
    ),
    ("insert('order', '1', if_taken => 'ignore')", "22023", "if_taken is `ignore`"),
    ("insert('order', '1', report_to => 99)", "P0002", "report_to: there is no instance 99"),
    (
        "insert('order', '1', report_to => 3)",
        "42704",
        "of the machine `other`, which does not accept `Ended` of `order`",
    ),
    ("signal(99, 'paid', '1')", "P0002", "there is no instance 99"),
    ("signal(null, 'paid', '1')", "P0002", "there is no instance"),
    ("signal(2, 'paid', '1')", "55000", "instance 2 has ended and is done"),
    (
        "signal(1, 'pays', '1')",
        "42704",
        "machine `order` has no signal `pays`; Its signals are: paid.",
    ),
    (
        "signal(3, 'paid', '1')",
        "42704",
        "machine `other` has no signal `paid`; Its signals are: none.",
    ),
    ("signal(1, null, '1')", "22004", "the signal has no name"),
    ("signal(1, '', '1')", "22023", "name is empty"),
    ("signal(1, 'ended(order)', '1')", "22023", "name begins with `ended(`, which is reserved"),
    ("signal(1, 'paid', '1', 'ended(order)')", "22023", "dedup_key begins with `ended(`"),
    ("signal(1, 'paid', '1', '')", "22023", "dedup_key is empty"),
    ("signal(1, 'paid', '1', repeat('x', 1025))", "22023", "dedup_key has 1025 bytes"),
    ("signal(1, 'paid', null)", "22004", "payload is null"),
    (r#"signal(1, 'paid', '"\u0000"')"#, "22P05", "unsupported Unicode escape sequence"),
    (
        "signal_by_key('order', 'nobody', 'paid', '1')",
        "P0002",
        "no instance of `order` holds this unique key",
    ),
    (
        "signal_by_key('other', 'one', 'paid', '1')",
        "P0002",
        "no instance of `other` holds this unique key",
    ),
    ("signal_by_key('order', '', 'paid', '1')", "22023", "unique_key is empty"),
    ("signal_by_key('order', 'one', 'pays', '1')", "42704", "machine `order` has no signal `pays`"),
];

#[tokio::test(flavor = "multi_thread")]
async fn p41_what_nobody_has_registered_and_what_makes_no_sense_is_refused() {
    let db = database().await;
    register(&db).await;
    sql(
        db.pool(),
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state, status, unique_key, unique_scope)
         values (1, 'order', 1, 'collect', '1', 'awaiting_signal', 'one', '{awaiting_signal}'),
                (2, 'order', 1, 'ship', '1', 'done', null, null),
                (3, 'other', 1, 'go', '1', 'runnable', null, null)",
    )
    .await;
    let mut connection = db.pool().acquire().await.unwrap();
    let mut wrong = Vec::new();
    for (call, code, part) in REFUSALS {
        let call: &'static str = Box::leak(format!("select gen_durable.{call}").into_boxed_str());
        let (found, text) = refused(&mut connection, call).await;
        if found != *code || !text.contains(part) {
            wrong.push(format!("{call}: {found}: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(count(db.pool(), "runnable").await, 1);
    let signals = "select count(*) from gen_durable.signals";
    assert_eq!(sqlx::query_scalar::<_, i64>(signals).fetch_one(db.pool()).await.unwrap(), 0);
}

/// A value at a limit is taken.
#[tokio::test(flavor = "multi_thread")]
async fn p41_values_and_keys_at_their_limits_are_taken() {
    let db = database().await;
    register(&db).await;
    let taken = "
        select gen_durable.insert('order', to_json(repeat('x', 8388606)));
        select gen_durable.insert('order', (repeat('[', 127) || repeat(']', 127))::json);
        select gen_durable.insert('order', ('[' || repeat('{\"a\": \"[[\\\"{{\"}, ', 500) || '1]')::json);
        select gen_durable.insert('order', '\"\\\\u0000\"', queue => repeat('q', 255),
                                  partition_key => repeat('p', 1024), unique_key => repeat('u', 1024));
        select gen_durable.insert('order', '1', priority => 32767, run_at => 'infinity');
        select gen_durable.insert('order', '1', priority => -32768, run_at => '-infinity');
        select gen_durable.insert('order', '1', delay => '1000 years');";
    sql(db.pool(), taken).await;
    let years: Vec<i32> = sqlx::query_scalar(
        "select extract(year from eligible_at at time zone 'utc')::int from gen_durable.instances
         where priority <> 0 or eligible_at > now() order by priority desc, id",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    assert_eq!((years[0], years[2]), (9999, 1869));
    assert!((2100..2200).contains(&years[1]), "{years:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_a_unique_key_that_is_taken_is_an_error_or_an_answer() {
    let db = database().await;
    register(&db).await;
    let mut connection = db.pool().acquire().await.unwrap();
    let insert = async |connection: &mut PgConnection, if_taken: &str| -> Option<i64> {
        sqlx::query_scalar(
            "select gen_durable.insert('order', '1', unique_key => 'k', if_taken => $1)",
        )
        .bind(if_taken)
        .fetch_one(connection)
        .await
        .unwrap()
    };
    let id = insert(&mut connection, "error").await.unwrap();
    assert_eq!(insert(&mut connection, "holder").await, Some(id));
    assert_eq!(insert(&mut connection, "null").await, None);
    let call = "select gen_durable.insert('order', '1', unique_key => 'k')";
    let (code, text) = refused(&mut connection, call).await;
    assert_eq!(code, "23505");
    assert!(text.ends_with(&format!("; {id}")) && text.contains("if_taken => 'holder'"), "{text}");
    // It is free once its holder has ended.
    sql(db.pool(), "update gen_durable.instances set status = 'done', finished_at = now()").await;
    assert!(insert(&mut connection, "holder").await.unwrap() > id);
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_the_callers_rows_and_its_instances_are_committed_together_or_not_at_all() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, "create table orders (id bigint primary key)").await;
    let engine = engine(&db).queue("orders", 5).machine::<Order>().start().await.unwrap();
    let call = "insert into orders values (1);
                select gen_durable.signal(gen_durable.insert('order', '{\"id\":1,\"cents\":0}'), 'paid', '{\"cents\":7}')";
    let seen = async || -> (i64, i64, i64) {
        sqlx::query_as(
            "select (select count(*) from orders), (select count(*) from gen_durable.instances),
                    (select count(*) from gen_durable.signals)",
        )
        .fetch_one(pool)
        .await
        .unwrap()
    };
    let mut transaction = pool.begin().await.unwrap();
    sqlx::raw_sql(call).execute(&mut *transaction).await.unwrap();
    assert_eq!(seen().await, (0, 0, 0));
    transaction.rollback().await.unwrap();
    assert_eq!(seen().await, (0, 0, 0));
    // The caller's row is refused, and takes the instance with it.
    let twice = "insert into orders values (2); select gen_durable.insert('order', '1'); insert into orders values (2)";
    let error = sqlx::raw_sql(twice).execute(pool).await.unwrap_err();
    assert!(error.as_database_error().unwrap().is_unique_violation(), "{error}");
    assert_eq!(seen().await, (0, 0, 0));
    sqlx::raw_sql(call).execute(pool).await.unwrap();
    let id: i64 = sqlx::query_scalar("select max(id) from gen_durable.instances")
        .fetch_one(pool)
        .await
        .unwrap();
    let ended = engine.wait(InstanceId::<Order>::from_raw(id), crate::support::WAIT_MAX);
    assert_eq!(ended.await.unwrap(), 7);
    engine.shutdown().await.unwrap();
}

/// A notification comes with the commit, for what is due soon and not silent. The notifications of
/// one session arrive in their order.
#[tokio::test(flavor = "multi_thread")]
async fn p41_work_that_is_due_is_announced_unless_it_is_silent() {
    let db = database().await;
    register(&db).await;
    let pool = db.pool();
    let mut listener = PgListener::connect_with(pool).await.unwrap();
    listener.listen("gen_durable").await.unwrap();
    let parked = |id: i64| {
        format!(
            "insert into gen_durable.instances (id, fsm, fsm_version, step, state, queue, status, awaits)
             values ({id}, 'order', 1, 'collect', '1', 'parked {id}', 'awaiting_signal', '{{paid}}')"
        )
    };
    for id in [901, 902, 903] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(parked(id))).execute(pool).await.unwrap();
    }
    for (call, announced) in [
        ("insert('order', '1', queue => 'silent', silent => true)", None),
        ("insert('order', '1', queue => 'delayed', delay => '7 s')", None),
        ("insert('order', '1', queue => 'later', run_at => now() + interval '1 hour')", None),
        ("signal(901, 'paid', '1', silent => true)", None),
        ("insert('order', '1')", Some("orders")),
        ("insert('order', '1', queue => 'now', run_at => now() - interval '1 hour')", Some("now")),
        ("insert('order', '1', queue => 'soon', delay => '5 s')", Some("soon")),
        (
            "insert('order', '1', queue => 'soon, too', run_at => now() + interval '5 s')",
            Some("soon, too"),
        ),
        ("signal(902, 'paid', '1')", Some("parked 902")),
        // It does not wake anybody any more.
        ("signal(902, 'paid', '1')", None),
        ("insert('order', '1', queue => 'last')", Some("last")),
    ] {
        let call = format!("select gen_durable.{call}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(call)).execute(pool).await.unwrap();
        if let Some(queue) = announced {
            assert_eq!(listener.recv().await.unwrap().payload(), queue);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_an_insert_takes_the_newest_version_unless_told_otherwise() {
    let db = database().await;
    register(&db).await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.machines (fsm, fsm_version, queue, initial, steps)
         values ('order', 10, 'ten', 'first', '{second,first}'), ('order', 9, 'nine', 'x', '{x}');
         select gen_durable.insert('order', '1');
         select gen_durable.insert('order', '2', version => 9);
         select gen_durable.insert('order', '3', step => 'second')",
    )
    .await;
    let rows: Vec<(i32, String, String)> =
        sqlx::query_as("select fsm_version, step, queue from gen_durable.instances order by id")
            .fetch_all(pool)
            .await
            .unwrap();
    let row = |version, step: &str, queue: &str| (version, step.to_owned(), queue.to_owned());
    assert_eq!(rows, [row(10, "first", "ten"), row(9, "x", "nine"), row(10, "second", "ten")]);
    // A signal that any version declares is taken.
    assert_eq!(signal(pool, 1).await, "delivered");
    assert!(Status::ALL.len() == 6, "`gen_durable.insert` lists the statuses");
}

async fn signal(pool: &PgPool, place: i64) -> String {
    sqlx::query_scalar(
        "select gen_durable.signal((select id from gen_durable.instances order by id offset $1 - 1 limit 1), 'paid', '1')",
    )
    .bind(place)
    .fetch_one(pool)
    .await
    .unwrap()
}
