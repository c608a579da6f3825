//! The bounds that operators set and reset: `set_limit.sql` and `reset_limit.sql`.

use serde_json::json;
use sqlx::PgConnection;

use super::{run, see, session};
use crate::support::{database, sql};

const SET: &str = include_str!("../../../gen_durable/src/storage/sql/set_limit.sql");
const RESET: &str = include_str!("../../../gen_durable/src/storage/sql/reset_limit.sql");

/// Sets or resets the limit `a`, and returns the deed.
async fn act(
    statement: &'static str,
    connection: &mut PgConnection,
    timeout: Option<&str>,
) -> Result<String, sqlx::Error> {
    let query = sqlx::query_scalar(statement).bind("a");
    let query = if statement == SET {
        query.bind(Some(1)).bind(Some(2)).bind(Some(3_i64)).bind(Some(4))
    } else {
        query
    };
    query.bind(Some("ada")).bind(Some("why")).bind(timeout).fetch_one(connection).await
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_bounds_are_set_and_reset_in_one_row() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.limits (name, body, at_once, revision, set_at_once, set_at)
         values ('a', '{}', 9, 5, null, null), ('b', '{}', 9, 5, 8, now())",
    )
    .await;
    let bounds = "select json_agg(json_build_array(set_at_once, set_starts, set_period, set_burst,
                      set_at is not null, set_by, set_reason, max_at_once, max_starts, max_period,
                      max_burst, revision) order by name)
                  from gen_durable.limits";
    let declared = |revision: i64| {
        json!([null, null, null, null, false, null, null, 9, null, null, null, revision])
    };
    let other = json!([8, null, null, null, true, null, null, 8, null, null, null, 5]);
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    assert_eq!(act(RESET, &mut connection, None).await.unwrap(), "not_set");
    assert_eq!(see(pool, bounds).await, json!([declared(5), other]));
    assert_eq!(act(SET, &mut connection, None).await.unwrap(), "set");
    let set = json!([1, 2, 3, 4, true, "ada", "why", 1, 2, 3, 4, 6]);
    assert_eq!(see(pool, bounds).await, json!([set, other]));
    assert_eq!(act(RESET, &mut connection, None).await.unwrap(), "reset");
    assert_eq!(see(pool, bounds).await, json!([declared(7), other]));
    let audit = "select json_agg(json_build_array(actor, action, reason, limit_name) order by id)
                 from gen_durable.audit";
    let noted = |action: &str| json!(["ada", action, "why", "a"]);
    assert_eq!(see(pool, audit).await, json!([noted("set_limit"), noted("reset_limit")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_action_waits_for_its_limit_for_as_long_as_it_may() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.limits (name, body, at_once, set_at) values ('a', '{}', 9, now())",
    )
    .await;
    for statement in [SET, RESET] {
        let mut other = pool.begin().await.unwrap();
        run(&mut other, "select from gen_durable.limits for update").await;
        // The statement's own timeout ends the wait, and the session's is as it was.
        let mut connection =
            session(pool, "set lock_timeout = 0; set statement_timeout = '10s'").await;
        let error = act(statement, &mut connection, Some("20ms")).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
        // Without one the session's own ends it.
        run(&mut connection, "set lock_timeout = '20ms'").await;
        let error = act(statement, &mut connection, None).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
        other.rollback().await.unwrap();
        act(statement, &mut connection, Some("1s")).await.unwrap();
        let kept: String =
            sqlx::query_scalar("show lock_timeout").fetch_one(&mut connection).await.unwrap();
        assert_eq!(kept, "20ms");
    }
}
