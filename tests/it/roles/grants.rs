//! The grants of the roles: each role has what its statements need and nothing besides. Each
//! database has its own grants, and granting again undoes a change by others.

use std::path::Path;

use gen_durable_migrate::{Down, Error, ROLES, down, roles, up};
use gen_durable_postgres::TestDb;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{APP, Login, SUPERVISOR, WORKER, database_with_roles, run};
use crate::{
    statements::has_several_commands,
    support::{database, empty_database, sql, until_a_session_waits},
};

/// True if Postgres lets the role run the statement. It is only explained, so it changes nothing.
async fn may_run(connection: &mut PgConnection, role: &str, statement: &str) -> bool {
    let parameters = (1..=20).rev().find(|n| statement.contains(&format!("${n}"))).unwrap_or(0);
    let nulls = vec!["null"; parameters].join(", ");
    let call = if nulls.is_empty() { String::new() } else { format!("({nulls})") };
    run(connection, format!("savepoint here; set local role {role}")).await.unwrap();
    let tried =
        run(connection, format!("prepare tried as {statement};\nexplain execute tried{call}"))
            .await;
    run(connection, "rollback to here; deallocate all".to_owned()).await.unwrap();
    match tried {
        Ok(()) => true,
        Err(error) => {
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
            false
        }
    }
}

/// The look-up of the SQL functions for producers. `explain` does not look into a function.
const LOOK_UP: &str = "select m.fsm_version, m.queue, m.initial, m.steps, m.signals
    from gen_durable.machines m where m.fsm = $1";

/// Each role may run all of its statements. If any single grant is revoked, it can no longer run at
/// least one of them: each grant is needed.
#[tokio::test(flavor = "multi_thread")]
async fn every_statement_is_allowed_and_every_grant_is_needed() {
    let db = database_with_roles().await;
    let mut connection = db.pool().acquire().await.unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gen_durable/src/storage/sql");
    let statements: Vec<(String, String)> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        // None of several commands in a file needs a privilege.
        .filter(|path| !has_several_commands(path))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    let app = [
        "insert",
        "insert_by_name",
        "insert_or_signal",
        "unique_holders",
        "deliver",
        "ended",
        "notify",
        "schema_version",
        "cancel",
        "notify_owed",
    ];
    let supervisor = [
        "unique_holders",
        "cancel",
        "run_now",
        "retry",
        "delete_instances",
        "pause_instances",
        "resume_instances",
        "pause_scope",
        "resume_scope",
        "list_pauses",
        "pause_schedule",
        "resume_schedule",
        "run_schedule_now",
        "list_schedules",
        "set_limit",
        "reset_limit",
        "list_limits",
        "list_buckets",
        "list_waiting",
        "fork",
        "history",
        "list_instances",
        "find_instances",
        "find_busy",
        "find_failed",
        "delete_history",
        "report_to",
        "lock_instances",
        "notify",
        "notify_owed",
        "details",
        "count_awaiting",
        "count_due",
        "count_failed",
        "count_held",
        "list_audit",
        "list_inbox",
        "list_machines",
        "list_queues",
        "list_runs",
        "list_workers",
        "ancestors",
        "reporting",
    ];
    for role in [APP, WORKER, SUPERVISOR] {
        let own: Vec<&str> = statements
            .iter()
            .filter(|(name, _)| match role {
                APP => app.contains(&name.as_str()),
                SUPERVISOR => supervisor.contains(&name.as_str()),
                _ => true,
            })
            .map(|(_, text)| text.as_str())
            .chain([LOOK_UP])
            .collect();
        run(&mut connection, "begin".to_owned()).await.unwrap();
        for statement in &own {
            assert!(may_run(&mut connection, role, statement).await, "{role}: {statement}");
        }
        run(&mut connection, "rollback".to_owned()).await.unwrap();
        for grant in grants(&mut connection, role).await {
            run(&mut connection, format!("begin; revoke {grant} from {role}")).await.unwrap();
            let mut needed = false;
            for statement in &own {
                needed = needed || !may_run(&mut connection, role, statement).await;
            }
            run(&mut connection, "rollback".to_owned()).await.unwrap();
            // `insert` calls a function on the sequence. `explain` does not call it, and cannot
            // tell that the grant is needed.
            let reads_all = role == SUPERVISOR && grant.starts_with("SELECT");
            let needed = needed || reads_all || grant.contains("SEQUENCE");
            assert!(needed, "{role} does not need: {grant}");
        }
    }
}

/// Returns the grants of a role, in the words that `revoke` takes.
async fn grants(connection: &mut PgConnection, role: &str) -> Vec<String> {
    let grants: Vec<String> = sqlx::query_scalar(
        "select format('%s on %s gen_durable.%I', a.privilege_type,
                       case c.relkind when 'S' then 'SEQUENCE' else 'TABLE' end, c.relname)
         from pg_class c, aclexplode(c.relacl) a
         where c.relnamespace = 'gen_durable'::regnamespace and a.grantee = $1::text::regrole
         union all
         select format('%s (%I) on gen_durable.%I', a.privilege_type, t.attname, c.relname)
         from pg_class c join pg_attribute t on t.attrelid = c.oid, aclexplode(t.attacl) a
         where c.relnamespace = 'gen_durable'::regnamespace and a.grantee = $1::text::regrole
         order by 1",
    )
    .persistent(false)
    .bind(role)
    .fetch_all(connection)
    .await
    .unwrap();
    assert!(grants.len() > 20, "{grants:?}");
    grants
}

/// Roles belong to the cluster, so its databases share them. Two databases make the roles at the
/// same moment: both must succeed, and each must keep its own grants when the other one drops its
/// tables.
#[tokio::test(flavor = "multi_thread")]
async fn two_databases_make_the_roles_at_once_and_keep_their_own_grants() {
    let (one, other) = (database().await, database().await);
    // Roles that no other test uses.
    let mine = format!("{}_", one.name());
    let script = ROLES.replace("gen_durable_", &mine);
    let mut first = one.pool().begin().await.unwrap();
    run(&mut first, script.clone()).await.unwrap();
    let second = {
        let (pool, script) = (other.pool().clone(), script.clone());
        tokio::spawn(async move {
            sqlx::raw_sql(AssertSqlSafe(script)).execute(&pool).await.map(|_| ())
        })
    };
    // Its `create role` waits for that of the other database.
    until_a_session_waits(other.pool(), 1).await;
    first.commit().await.unwrap();
    second.await.unwrap().expect("the roles are there now");

    down(one.pool(), Down { to: 0, force: true }).await.unwrap();
    let reads = |db: &TestDb| {
        let (pool, role) = (db.pool().clone(), format!("{mine}operator"));
        async move {
            let mut transaction = pool.begin().await.unwrap();
            run(&mut transaction, format!("set local role {role}")).await.unwrap();
            run(&mut transaction, "select * from gen_durable.instances".to_owned()).await
        }
    };
    reads(&other).await.expect("the other database's grants are its own");
    up(one.pool()).await.unwrap();
    reads(&one).await.expect_err("they went with the tables");
    let mut connection = one.pool().acquire().await.unwrap();
    for _ in 0..2 {
        run(&mut connection, script.clone()).await.unwrap();
        reads(&one).await.expect("they are back");
    }
    for db in [&one, &other] {
        let mut connection = db.pool().acquire().await.unwrap();
        for role in ["app", "worker", "supervisor", "operator"] {
            run(&mut connection, format!("drop owned by {mine}{role}")).await.unwrap();
        }
    }
    for role in ["app", "worker", "supervisor", "operator"] {
        run(&mut connection, format!("drop role {mine}{role}")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_granted_again_after_somebody_widened_them_and_only_on_the_latest_schema() {
    let db = empty_database().await;
    let error = roles(db.pool()).await.unwrap_err();
    assert!(matches!(error, Error::OtherVersion { found: 0, .. }), "{error}");
    up(db.pool()).await.unwrap();
    roles(db.pool()).await.unwrap();
    let mut connection = db.pool().acquire().await.unwrap();
    let granted = grants(&mut connection, APP).await;
    sql(
        db.pool(),
        "grant delete, update (state) on gen_durable.instances to gen_durable_app;
         grant create on schema gen_durable to gen_durable_app",
    )
    .await;
    assert_ne!(grants(&mut connection, APP).await, granted);
    roles(db.pool()).await.unwrap();
    assert_eq!(grants(&mut connection, APP).await, granted);
    let app = Login::of(&db, APP).await;
    app.is_refused(&["create table gen_durable.mine ()"]).await;
    app.remove(&db).await;
}
