//! The statements that pause and resume queues, machines and steps, and `fork.sql`.

use serde_json::{Value, json};
use sqlx::{PgConnection, Row};

use super::{each, operate::instance, rows, run, see, session};
use crate::support::{database, sql};

const PAUSE: &str = include_str!("../../../gen_durable/src/storage/sql/pause_scope.sql");
const RESUME: &str = include_str!("../../../gen_durable/src/storage/sql/resume_scope.sql");
const FORK: &str = include_str!("../../../gen_durable/src/storage/sql/fork.sql");

/// A queue, a machine, a step.
type Scope = [Option<&'static str>; 3];

const QUEUE: Scope = [Some("q"), None, None];
const MACHINE: Scope = [None, Some("m"), None];
const STEP: Scope = [None, Some("m"), Some("t")];

/// The queues and machines that engines have registered.
const REGISTERED: &str = "
    insert into gen_durable.queues (name) values ('q'), ('p');
    insert into gen_durable.machines (fsm, fsm_version, initial, steps)
    values ('m', 2, 's', '{t,s}'), ('m', 1, 's', '{s}'), ('a', 1, 'x', '{x}')";

/// All pauses and the whole audit, each without the times that the database gives.
const PAUSED: &str = "select json_agg(json_build_array(queue, fsm, step, instance_id, actor, reason, until) order by id)
    from gen_durable.pauses";
const AUDIT: &str = "select json_agg(json_build_array(actor, action, reason, instance_id, queue, fsm, step) order by id)
    from gen_durable.audit";

/// Returns the deed and the names.
async fn pause(
    connection: &mut PgConnection,
    scope: Scope,
    until: Option<i64>,
    by: Option<&str>,
) -> Value {
    let [queue, fsm, step] = scope;
    let row = sqlx::query(PAUSE)
        .bind(queue)
        .bind(fsm)
        .bind(step)
        .bind(until)
        .bind(by)
        .bind("why")
        .bind(Some("20ms"))
        .fetch_one(connection)
        .await
        .unwrap();
    json!([row.get::<&str, _>("deed"), row.get::<Vec<String>, _>("names")])
}

async fn resume(
    connection: &mut PgConnection,
    [queue, fsm, step]: Scope,
    timeout: Option<&str>,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(RESUME)
        .bind(queue)
        .bind(fsm)
        .bind(step)
        .bind("bob")
        .bind("go")
        .bind(timeout)
        .fetch_one(connection)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_scope_that_nobody_has_registered_is_not_paused() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, REGISTERED).await;
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    for (scope, deed) in [
        ([Some("z"), None, None], json!(["queue", ["p", "q"]])),
        ([None, Some("z"), None], json!(["machine", ["a", "m"]])),
        ([None, Some("m"), Some("x")], json!(["step", ["s", "t"]])),
    ] {
        assert_eq!(pause(&mut connection, scope, None, Some("ada")).await, deed);
    }
    assert_eq!(pause(&mut connection, QUEUE, Some(0), None).await, json!(["past", []]));
    assert_eq!((see(pool, PAUSED).await, see(pool, AUDIT).await), (Value::Null, Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_scope_is_paused_and_resumed() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, REGISTERED).await;
    rows(pool, json!([instance(1, "m", "runnable", json!({}))])).await;
    // These stay as they are.
    let others = "insert into gen_durable.pauses (queue, fsm, step, instance_id, actor)
        values (null, null, null, 1, 'old'), ('p', null, null, null, 'old'), (null, 'a', null, null, 'old'), (null, 'a', 't', null, 'old')";
    sql(pool, others).await;
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    let scopes = [QUEUE, MACHINE, STEP];
    for scope in scopes {
        assert_eq!(pause(&mut connection, scope, None, None).await, json!(["paused", []]));
    }
    let before = "update gen_durable.pauses set paused_at = '2020-01-01'";
    sql(pool, before).await;
    // A pause that is repeated gets the new end, operator and reason.
    let end = 4_102_444_800_000_000;
    assert_eq!(pause(&mut connection, STEP, Some(end), Some("ada")).await, json!(["paused", []]));
    let user = see(pool, "select session_user").await;
    let stay = [
        json!([null, null, null, 1, "old", null, null]),
        json!(["p", null, null, null, "old", null, null]),
        json!([null, "a", null, null, "old", null, null]),
        json!([null, "a", "t", null, "old", null, null]),
    ];
    let and = |more: &[&Value]| json!(stay.iter().chain(more.iter().copied()).collect::<Vec<_>>());
    let paused = |[queue, fsm, step]: Scope| json!([queue, fsm, step, null, user, "why", null]);
    let again = json!([null, "m", "t", null, "ada", "why", "2100-01-01T00:00:00+00:00"]);
    assert_eq!(see(pool, PAUSED).await, and(&[&paused(QUEUE), &paused(MACHINE), &again]));
    let new = "select count(*) from gen_durable.pauses where paused_at > '2021-01-01'";
    assert_eq!(see(pool, new).await, 1);
    let noted = |by: &Value, action: &str, reason: &str, [queue, fsm, step]: Scope| {
        json!([by, action, reason, null, queue, fsm, step])
    };
    let (ada, bob) = (json!("ada"), json!("bob"));
    let mut audit: Vec<Value> =
        scopes.iter().map(|scope| noted(&user, "pause", "why", *scope)).collect();
    audit.push(noted(&ada, "pause", "why", STEP));
    assert_eq!(see(pool, AUDIT).await, json!(audit));

    for (n, (scope, left)) in
        [(QUEUE, and(&[&paused(MACHINE), &again])), (MACHINE, and(&[&again])), (STEP, and(&[]))]
            .into_iter()
            .enumerate()
    {
        assert!(resume(&mut connection, scope, None).await.unwrap());
        assert_eq!(see(pool, PAUSED).await, left);
        audit.push(noted(&bob, "resume", "go", scope));
        assert!(!resume(&mut connection, scope, None).await.unwrap(), "it is not paused");
        assert_eq!(see(pool, AUDIT).await, json!(audit), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_pause_of_a_scope_waits_for_as_long_as_it_may() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, REGISTERED).await;
    let mut connection = session(pool, "set statement_timeout = '10s'").await;
    pause(&mut connection, QUEUE, None, None).await;
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.pauses for key share").await;
    // The statement's own timeout ends the wait, and the session's is as it was.
    let timed_out = |error: sqlx::Error| {
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
    };
    timed_out(resume(&mut connection, QUEUE, Some("20ms")).await.unwrap_err());
    assert_eq!(see(pool, "select count(*) from gen_durable.pauses").await, 1);
    // Without one the session's own ends it.
    run(&mut connection, "set lock_timeout = '20ms'").await;
    timed_out(resume(&mut connection, QUEUE, None).await.unwrap_err());
    other.rollback().await.unwrap();
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.pauses for update").await;
    let again = async |connection: &mut PgConnection, timeout: Option<&str>| {
        let again = sqlx::query(PAUSE).bind("q").bind(None::<&str>).bind(None::<&str>);
        let again = again.bind(None::<i64>).bind("ada").bind("why").bind(timeout);
        again.execute(connection).await
    };
    timed_out(again(&mut connection, None).await.unwrap_err());
    run(&mut connection, "set lock_timeout = 0").await;
    timed_out(again(&mut connection, Some("20ms")).await.unwrap_err());
    other.rollback().await.unwrap();
    let kept = async |connection: &mut PgConnection| -> String {
        sqlx::query_scalar("show lock_timeout").fetch_one(connection).await.unwrap()
    };
    again(&mut connection, Some("1s")).await.unwrap();
    assert_eq!(kept(&mut connection).await, "0");
    resume(&mut connection, QUEUE, Some("1s")).await.unwrap();
    assert_eq!(kept(&mut connection).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_fork_has_the_step_and_the_state_of_its_entry() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.machines (fsm, fsm_version, initial, steps, queue)
         values ('m', 1, 's', '{s}', 'home'), ('m', 2, 's', '{s}', 'elsewhere'), ('n', 1, 's', '{s}', 'n')",
    )
    .await;
    let more = json!({
        "fsm_version": 2, "priority": 3, "partition_key": "p", "report_to": 8, "queue": "q",
    });
    rows(pool, json!([instance(90, "m", "failed", more)])).await;
    sql(
        pool,
        "insert into gen_durable.history
             (id, day, instance_id, fsm, fsm_version, step, attempt, outcome, next_step, state,
              started_at, ended_at)
         overriding system value
         select id, '-infinity', instance, fsm, 1, 's', 0, 'next', next, state::json, now(), now()
         from (values (1, 90, 'm', 't', '\"then\"'), (2, 90, 'm', null, '1'), (3, 90, 'm', 's', null),
                      (4, 80, 'm', 't', '2'), (5, 70, 'z', 't', '3'))
              as h (id, instance, fsm, next, state)",
    )
    .await;
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    let mut fork = async |id: i64, entry: i64, fsm: Option<&str>, by: Option<&str>| {
        let row = sqlx::query(FORK).bind(id).bind(entry).bind(fsm).bind(by).bind("why");
        let row = row.fetch_one(&mut connection).await.unwrap();
        let [deed, machine, queue] =
            ["deed", "fsm", "queue"].map(|name| row.get::<Option<String>, _>(name));
        (json!([deed, machine, queue]), row.get::<Option<i64>, _>("id"))
    };
    for (id, entry, fsm, deed) in [
        (90, 9, None, json!(["gone", null, null])),
        (90, 4, None, json!(["gone", null, null])),
        (90, 1, Some("n"), json!(["foreign", "m", null])),
        (90, 2, Some("m"), json!(["ended", "m", null])),
        (90, 3, None, json!(["stateless", "m", null])),
    ] {
        assert_eq!(fork(id, entry, fsm, None).await, (deed, None));
    }
    assert_eq!(see(pool, AUDIT).await, Value::Null);
    let (answer, first) = fork(90, 1, Some("m"), Some("ada")).await;
    assert_eq!(answer, json!(["forked", "m", "q"]));
    // The instance is gone, so the machine's queue counts, and the default for an unknown machine.
    let (answer, second) = fork(80, 4, None, None).await;
    assert_eq!(answer, json!(["forked", "m", "home"]));
    let (answer, third) = fork(70, 5, None, None).await;
    assert_eq!(answer, json!(["forked", "z", "default"]));
    let columns =
        "json_build_array(i.fsm, i.fsm_version, i.step, i.state, i.status, i.queue, i.priority,
        i.partition_key, i.unique_key, i.report_to, i.attempt)";
    assert_eq!(
        each(pool, columns).await.as_array().unwrap()[..3],
        [
            json!(["m", 1, "t", "then", "runnable", "q", 3, "p", null, null, 0]),
            json!(["m", 1, "t", 2, "runnable", "home", 0, null, null, null, 0]),
            json!(["z", 1, "t", 3, "runnable", "default", 0, null, null, null, 0]),
        ]
    );
    let user = see(pool, "select session_user").await;
    let noted = |by: &Value, action: &str, id: Option<i64>, fsm: &str| {
        json!([by, action, "why", id, null, fsm, null])
    };
    let ada = json!("ada");
    assert_eq!(
        see(pool, AUDIT).await,
        json!([
            noted(&ada, "fork", Some(90), "m"),
            noted(&ada, "forked", first, "m"),
            noted(&user, "fork", Some(80), "m"),
            noted(&user, "forked", second, "m"),
            noted(&user, "fork", Some(70), "z"),
            noted(&user, "forked", third, "z"),
        ])
    );
}
