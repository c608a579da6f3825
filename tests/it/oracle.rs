//! The oracle of the tests finds each problem that it looks for. The test causes each problem by
//! hand.

use gen_durable_tests::oracle;
use sqlx::{Connection, PgPool};

use crate::support::{database, eventually, sql};

/// `begin_run` records a run, as the code of a step does when it begins. `end_run` gives what the
/// outcome of that run then has in its state.
const RUNS: &str = "
    create function chaos.begin_run(id bigint, step text, n bigint) returns bigint language sql as $$
        insert into chaos.runs (id, step, n, attempt, pid, saw)
        values ($1, $2, $3, 0, 1, (select max(l.seq) from chaos.log l where l.id = $1))
        returning began
    $$;
    create function chaos.end_run(id bigint) returns jsonb language sql as $$
        select jsonb_build_object(
            'run', jsonb_build_object(
                'began', max(r.began), 'server', chaos.server(), 'ended', nextval('chaos.ticks')
            )
        )
        from chaos.runs r where r.id = $1
    $$;
";

/// An instance that lives as it should. It is the first one, so its id is 1.
const LIFE: &str = "
    insert into gen_durable.instances (fsm, fsm_version, step, state)
    values ('chain', 1, 'hop', '{\"n\": 0, \"hops\": 0}');
    update gen_durable.instances set status = 'executing', locked_by = 1, revision = 1 where id = 1;
    select chaos.begin_run(1, 'hop', 0);
    update gen_durable.instances
    set step = 'finish', state = '{\"n\": 1, \"hops\": 0}'::jsonb || chaos.end_run(1), revision = 2
    where id = 1;
    select chaos.begin_run(1, 'finish', 1);
    update gen_durable.instances
    set status = 'done', state = state::jsonb || chaos.end_run(1), result = '1', locked_by = null,
        revision = 3, finished_at = now()
    where id = 1;
";

/// Two instances of one partition key. Their steps ran one after the other, and both were
/// committed.
const IN_TURN: &str = "
    insert into gen_durable.instances (id, fsm, fsm_version, step, state, partition_key)
    overriding system value
    values (12, 'keyed', 1, 'first', '{\"n\": 0}', 'k'), (13, 'keyed', 1, 'first', '{\"n\": 0}', 'k');
    update gen_durable.instances set status = 'executing', revision = 1 where id = 12;
    select chaos.begin_run(12, 'first', 0);
    update gen_durable.instances
    set status = 'runnable', step = 'second', state = '{\"n\": 1}'::jsonb || chaos.end_run(12), revision = 2
    where id = 12;
    update gen_durable.instances set status = 'executing', revision = 1 where id = 13;
    select chaos.begin_run(13, 'first', 0);
    update gen_durable.instances
    set status = 'runnable', step = 'second', state = '{\"n\": 1}'::jsonb || chaos.end_run(13), revision = 2
    where id = 13;
    update gen_durable.instances set status = 'executing', revision = 3 where id = 12;
    update gen_durable.instances set status = 'done', revision = 4, finished_at = now() where id = 12;
    update gen_durable.instances set status = 'executing', revision = 3 where id = 13;
    update gen_durable.instances set status = 'done', revision = 4, finished_at = now() where id = 13;
";

/// Statements that cause a problem, with the title under which the oracle reports it.
const WRONGS: &[(&str, &str)] = &[
    (
        "an instance has not ended",
        "insert into gen_durable.instances (fsm, fsm_version, step, state)
         values ('keyed', 1, 'first', '{\"n\": 0}')",
    ),
    (
        "an ended instance is locked or blocked",
        "alter table gen_durable.instances disable trigger user;
         update gen_durable.instances set blocked_by = 1 where id = 1",
    ),
    (
        "something was undone or done twice",
        "alter table gen_durable.instances disable trigger user;
         update gen_durable.instances set status = 'executing', revision = 7 where id = 1;
         alter table gen_durable.instances enable trigger user;
         update gen_durable.instances set status = 'done', revision = 8 where id = 1",
    ),
    (
        "a transition is none that an instance may make",
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state)
         overriding system value values (2, 'keyed', 1, 'second', '{\"n\": 1}');
         update gen_durable.instances set status = 'done' where id = 2",
    ),
    (
        "a transition is none that an instance may make",
        // One commit goes two steps ahead.
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state)
         overriding system value values (2, 'keyed', 1, 'first', '{\"n\": 0}');
         update gen_durable.instances set status = 'executing', revision = 1 where id = 2;
         update gen_durable.instances set step = 'second', state = '{\"n\": 2}', revision = 2
         where id = 2",
    ),
    (
        "an instance ended where or how its machine does not",
        "update gen_durable.instances set step = 'pause' where id = 1",
    ),
    (
        "an instance ended where or how its machine does not",
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status, last_error)
         values ('leaf', 1, 'work', '{\"n\": 0}', 'failed', 'nobody wanted this')",
    ),
    (
        "two executions of one partition key overlap",
        "drop index gen_durable.instances_partition_holder;
         insert into gen_durable.instances (id, fsm, fsm_version, step, state, partition_key)
         overriding system value
         values (2, 'keyed', 1, 'first', '{\"n\": 0}', 'k'), (3, 'keyed', 1, 'first', '{\"n\": 0}', 'k');
         update gen_durable.instances set status = 'executing', revision = 1 where id = 2;
         update gen_durable.instances set status = 'executing', revision = 1 where id = 3",
    ),
    (
        "ran at once, and both were committed",
        // The order of the log is right, as each outcome was committed late. The runs themselves
        // overlap.
        "update chaos.log set ran_until = (select max(ran) from chaos.log where id = 13) where id = 12",
    ),
    (
        "ran at once, and both were committed",
        // Two runs of one instance overlap.
        "update chaos.log set ran_until = (select max(ran) from chaos.log where id = 1)
         where id = 1 and ran = (select min(ran) from chaos.log where id = 1)",
    ),
    (
        "a step's code began before its claim, or the outcome before it, was committed",
        "select chaos.begin_run(1, 'finish', 2)",
    ),
    (
        "a step's code began before its claim, or the outcome before it, was committed",
        // The instance was claimed, but only after the run had begun.
        "update chaos.runs set saw = 1 where id = 13",
    ),
    (
        "an outcome is of no run",
        "delete from chaos.runs where id = 12",
    ),
    (
        "was committed for another claim than that of its run",
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state)
         overriding system value values (14, 'keyed', 1, 'first', '{\"n\": 0}');
         update gen_durable.instances set status = 'executing', revision = 1 where id = 14;
         select chaos.begin_run(14, 'first', 0);
         update gen_durable.instances set status = 'runnable', revision = 2 where id = 14;
         update gen_durable.instances set status = 'executing', revision = 3 where id = 14;
         update gen_durable.instances
         set status = 'runnable', step = 'second', state = '{\"n\": 1}'::jsonb || chaos.end_run(14),
             revision = 4
         where id = 14",
    ),
    (
        "the code of a step ran twice for one claim",
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state)
         overriding system value values (14, 'keyed', 1, 'first', '{\"n\": 0}');
         update gen_durable.instances set status = 'executing', revision = 1 where id = 14;
         select chaos.begin_run(14, 'first', 0);
         select chaos.begin_run(14, 'first', 0)",
    ),
    (
        "an effect of an outcome is missing or doubled",
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status, result)
         values ('collector', 1, 'sum', '{\"n\": 2, \"leaves\": 1, \"external\": 0}', 'done', '[0]')",
    ),
    (
        "a collector has not got each of its signals exactly once",
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status, result)
         values ('collector', 1, 'sum', '{\"n\": 2, \"leaves\": 0, \"external\": 1}', 'done',
                 '[1000, 1000]')",
    ),
    (
        "a signal was not consumed exactly once",
        "insert into gen_durable.signals (target_id, name, payload) values (1, 'ping', '{}');
         delete from chaos.signals where op = 'DELETE';
         alter table gen_durable.signals disable trigger user;
         delete from gen_durable.signals",
    ),
    (
        "a deduplication key was accepted twice",
        "insert into gen_durable.signals (target_id, name, payload, dedup_key)
         values (1, 'ping', '{}', 'k');
         delete from gen_durable.signals;
         insert into gen_durable.signals (target_id, name, payload, dedup_key)
         values (1, 'ping', '{}', 'k')",
    ),
    (
        "an inbox is not empty",
        "insert into gen_durable.signals (target_id, name, payload) values (1, 'ping', '{}')",
    ),
    (
        "a unique key was held twice",
        "insert into gen_durable.instances (fsm, fsm_version, step, state, unique_key)
         values ('once', 1, 'do', '{\"n\": 0}', 'k'), ('once', 1, 'do', '{\"n\": 0}', 'k')",
    ),
    (
        "a chain did not hop as often as it was to",
        "update gen_durable.instances set result = '2' where id = 1",
    ),
];

async fn run(pool: &PgPool, statements: &'static str) {
    let mut connection = pool.acquire().await.unwrap();
    for statement in statements.split(';').filter(|statement| !statement.trim().is_empty()) {
        // Each statement runs alone, in a transaction of its own.
        sqlx::raw_sql(statement).execute(&mut *connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_finds_each_thing_that_it_looks_for() {
    for (title, wrong) in WRONGS {
        let db = database().await;
        oracle::install(db.pool()).await.unwrap();
        for right in [RUNS, LIFE, IN_TURN] {
            run(db.pool(), right).await;
        }
        assert_eq!(oracle::check(db.pool()).await.unwrap(), Vec::<String>::new());
        run(db.pool(), wrong).await;
        let found = oracle::check(db.pool()).await.unwrap();
        assert!(found.iter().any(|problem| problem.contains(title)), "{title}: found {found:?}");
    }
}

/// A worker is stopped in the middle of a step, and the instance is taken from it. The old run goes
/// on while the instance runs elsewhere. Then an outcome arrives whose run was forgotten when
/// Postgres stopped. Neither is a problem, so the oracle must report none.
#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_allows_what_an_outcome_never_comes_of() {
    let db = database().await;
    oracle::install(db.pool()).await.unwrap();
    run(db.pool(), RUNS).await;
    run(
        db.pool(),
        "insert into gen_durable.instances (fsm, fsm_version, step, state, partition_key)
         values ('keyed', 1, 'first', '{\"n\": 0}', 'k');
         update gen_durable.instances set status = 'executing', revision = 1 where id = 1;
         select chaos.begin_run(1, 'first', 0);
         update gen_durable.instances
         set status = 'runnable', attempt = 1, crashes = 1, revision = 2 where id = 1;
         update gen_durable.instances set status = 'executing', revision = 3 where id = 1;
         insert into chaos.runs (id, step, n, attempt, pid, saw)
         select 1, 'first', 0, 1, 2, max(seq) from chaos.log;
         update gen_durable.instances
         set step = 'second', state = '{\"n\": 1}'::jsonb || chaos.end_run(1), attempt = 0, revision = 4
         where id = 1;
         select chaos.begin_run(1, 'first', 0);
         update gen_durable.instances
         set status = 'done', state = '{\"n\": 1, \"run\": {\"began\": 1, \"server\": 1}}', revision = 5,
             finished_at = now()
         where id = 1",
    )
    .await;
    assert_eq!(oracle::check(db.pool()).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_finds_that_there_was_nothing_to_judge() {
    let db = database().await;
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    let missing = async |long| oracle::figures(pool).await.unwrap().missing(long).join(", ");
    let (lost, silent) = ("no instance was taken from a lost worker", "no signal was delivered");
    let unrecorded = "half of the steps ran unrecorded, or more";
    assert_eq!(
        missing(true).await,
        format!("no instance was claimed, no instance has ended, {unrecorded}, {lost}, {silent}")
    );
    run(pool, RUNS).await;
    run(pool, LIFE).await;
    assert_eq!(missing(false).await, "");
    assert_eq!(missing(true).await, format!("{lost}, {silent}"));
    run(
        pool,
        "update chaos.log set ran_until = null;
         insert into gen_durable.signals (target_id, name, payload) values (1, 'ping', '{}')",
    )
    .await;
    assert_eq!(missing(true).await, format!("{unrecorded}, {lost}"));
    run(pool, "update gen_durable.instances set attempt = attempt + 1, crashes = crashes + 1")
        .await;
    assert_eq!(missing(true).await, unrecorded);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_finds_a_session_that_stays_in_a_transaction() {
    let db = database().await;
    let options = (*db.pool().connect_options()).clone();
    let pool = PgPool::connect_with(options.clone().application_name("oracle")).await.unwrap();
    let mut connection = sqlx::PgConnection::connect_with(&options).await.unwrap();
    assert_eq!(oracle::held(&pool).await.unwrap(), Vec::<String>::new());
    for statement in ["begin", "select no_such_column"] {
        // The second statement fails. Its transaction is then aborted, but has not ended. The error
        // arrives before `pg_stat_activity` shows the session as idle, so the test waits.
        let _ = sqlx::raw_sql(statement).execute(&mut connection).await;
        eventually("the session is found in its transaction", async || {
            let found = oracle::held(&pool).await.unwrap();
            let title = "a session stays in a transaction";
            found.iter().any(|problem| problem.contains(title)).then_some(())
        })
        .await;
    }
    sqlx::raw_sql("rollback").execute(&mut connection).await.unwrap();
    assert_eq!(oracle::held(&pool).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_finds_what_workers_leave_behind() {
    let db = database().await;
    let options = (*db.pool().connect_options()).clone();
    let pool = PgPool::connect_with(options.clone().application_name("oracle")).await.unwrap();
    db.pool().close().await;
    let mut left = Vec::new();
    for (title, statement) in [
        (
            "a worker is left",
            "insert into gen_durable.workers (name, lease_expires_at) values ('w', now())",
        ),
        ("a connection is left", "select"),
        ("an advisory lock is left", "select pg_advisory_lock(1)"),
    ] {
        let mut connection = sqlx::PgConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        let found = oracle::leftovers(&pool).await.unwrap();
        assert!(found.iter().any(|problem| problem.contains(title)), "{title}: {found:?}");
        left.push(connection);
    }
    for connection in left {
        connection.close().await.unwrap();
    }
    sql(&pool, "delete from gen_durable.workers").await;
    eventually("nothing is left", async || {
        oracle::leftovers(&pool).await.unwrap().is_empty().then_some(())
    })
    .await;
}
