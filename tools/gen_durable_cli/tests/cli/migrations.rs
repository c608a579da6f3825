//! `migrate`: what the library does, in words.

use crate::support::{Said, database, empty_database, engine, program, run, steady};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_migrated_up_and_down() {
    let db = empty_database().await;
    let said = run(&db, &["migrate", "status"]).await.done();
    assert_eq!(said, "VERSION  NAME  SERVES  APPLIED\n      1  init  1+      no\n");
    let said = run(&db, &["migrate", "up"]).await.done();
    assert_eq!(said, "the database is at version 1 or later\n");
    let said = run(&db, &["migrate", "up", "--json"]).await.done();
    assert_eq!(said, "{\"version\":1}\n");
    let said = run(&db, &["migrate", "status", "--json"]).await.done();
    let (before, at) = said.split_once("\"applied_at\":\"20").expect("a time");
    assert_eq!(before, "{\"version\":1,\"name\":\"init\",\"serves\":1,");
    assert!(at.ends_with("\"is_known\":true}\n"), "{at}");

    let said = run(&db, &["migrate", "up", "--to", "7"]).await.failed(4);
    assert!(said.contains("version 7"), "{said}");
    let said = run(&db, &["migrate", "down", "--json"]).await.done();
    assert_eq!(said, "{\"version\":0}\n");
    let said = run(&db, &["ls"]).await.failed(1);
    assert!(said.contains("run `gen-durable migrate up`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_instances_are_not_lost_without_force() {
    let db = database().await;
    engine(&db).start().await.unwrap().shutdown().await.unwrap();
    run(&db, &["insert", "import", "1"]).await.done();
    let said = run(&db, &["migrate", "down"]).await.failed(4);
    assert!(said.contains("1 live instances would be lost"), "{said}");
    run(&db, &["migrate", "down", "--force"]).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_shown() {
    let db = database().await;
    sqlx::raw_sql(
        "insert into gen_durable.migrations (version, name, serves)
         values (2, 'more', 1), (3, 'even_more', 1)",
    )
    .execute(db.pool())
    .await
    .unwrap();
    let said = run(&db, &["migrate", "status"]).await.done();
    let line = steady(&said).lines().last().unwrap().to_owned();
    assert!(line.starts_with("3 | even_more | 1+ | 20"), "{said}");
    assert!(line.ends_with("(by a newer program)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_need_no_database() {
    for (arguments, begin) in [
        (&["migrate", "script"][..], "begin;"),
        (&["migrate", "roles", "--print"], "-- Makes four"),
    ] {
        let said = Said::of(program(None).args(arguments).output().await.unwrap()).done();
        assert!(said.starts_with(begin), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_made_and_granted() {
    let db = database().await;
    let said = run(&db, &["migrate", "roles"]).await.done();
    assert!(said.contains("gen_durable_operator are there; grant them to your logins"), "{said}");
    let granted: bool = sqlx::query_scalar(
        "select has_table_privilege('gen_durable_operator', 'gen_durable.instances', 'select')",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert!(granted);
}
