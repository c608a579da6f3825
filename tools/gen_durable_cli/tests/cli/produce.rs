//! `insert`, `signal` and `fork`: what they insert and send, and what they refuse.

use gen_durable::{Client, Status};

use crate::support::{database, engine, run, run_with, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_inserted_signalled_and_forked() {
    let db = database().await;
    let engine = engine(&db).start().await.unwrap();
    let client = Client::new(db.pool().clone());
    let insert = [
        "insert",
        "order",
        "{\"sku\": \"tea\"}",
        "--unique-key",
        "order 1",
        "--partition-key",
        "ada",
    ];
    assert_eq!(run(&db, &insert).await.done(), "instance 1 inserted\n");
    let said = run(&db, &insert).await.failed(4);
    assert_eq!(said, "error: instance 1 of machine `order` holds the unique key already\n");
    until(&client, 1, Status::AwaitingSignal).await;

    let signal =
        ["signal", "paid", "order/order 1", "--payload", "{\"cents\": 5}", "--dedup-key", "evt-1"];
    assert_eq!(run(&db, &signal).await.done(), "instance 1: delivered\n");
    assert_eq!(run(&db, &["wait", "1"]).await.done(), "5\n");
    let said = run(&db, &["signal", "paid", "1"]).await.failed(4);
    assert_eq!(said, "error: instance 1 is done and takes no more signals\n");
    let said = run(&db, &["signal", "payed", "1"]).await.failed(3);
    assert!(said.contains("machine `order` has no signal `payed` (it has paid)"), "{said}");
    run(&db, &["signal", "payed", "1", "--undeclared"]).await.failed(4);
    let said = run(&db, &["signal", "paid", "99"]).await.failed(3);
    assert!(said.contains("instance 99 does not exist"), "{said}");

    let said = run(&db, &["fork", "1", "--by", "ada", "--json"]).await.done();
    let fork: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(fork["from"], 1);
    let new = fork["id"].as_i64().unwrap();
    until(&client, new, Status::Done).await;
    let said = run(&db, &["fork", "1", "--entry", "99"]).await.failed(3);
    assert!(said.contains("has no entry 99; see `gen-durable history 1`"), "{said}");
    engine.shutdown().await.unwrap();
}

/// A parser would round numbers of 2^64 and more, and decimals of more than 17 digits.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_values_stay_as_they_are_written() {
    let db = database().await;
    let engine = engine(&db).start().await.unwrap();
    let client = Client::new(db.pool().clone());
    let stored = async |statement: &'static str| {
        sqlx::query_scalar::<_, String>(statement).fetch_one(db.pool()).await.unwrap()
    };
    let state = "{\"sku\": \"tea\", \"big\": 18446744073709551617, \"long\": 0.12345678901234567890, \"e\": 1.50e-7}";
    run(&db, &["insert", "order", state, "--delay", "9h"]).await.done();
    assert_eq!(stored("select state::text from gen_durable.instances").await, state);
    run(&db, &["signal", "paid", "1", "--payload", state]).await.done();
    assert_eq!(stored("select payload::text from gen_durable.signals").await, state);
    run(&db, &["kill", "1"]).await.done();
    let other = state.replace("tea", "milk");
    run(&db, &["retry", "1", "--at", "ship", "--with-state", &other]).await.done();
    // The machine reads what its type has of it.
    until(&client, 1, Status::Done).await;
    run(&db, &["insert", "order", &other, "--delay", "9h"]).await.done();
    let shown = run(&db, &["get", "2", "--state"]).await.done();
    for number in ["18446744073709551617", "0.12345678901234567890", "1.50e-7"] {
        assert!(shown.contains(number), "{shown}");
    }
    let said = run(&db, &["insert", "order", "{\"n\": 1e400}"]).await.failed(4);
    assert!(said.contains("number out of range"), "{said}");
    let said = run(&db, &["insert", "order", "{\"n\": tea}"]).await.failed(2);
    assert!(said.contains("this is no JSON"), "{said}");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_an_insert_reach_the_row() {
    let db = database().await;
    engine(&db).start().await.unwrap().shutdown().await.unwrap();
    let client = Client::new(db.pool().clone());
    let insert = [
        "insert",
        "order",
        "-",
        "--step",
        "ship",
        "--queue",
        "mail",
        "--priority",
        "-5",
        "--delay",
        "2h",
        "--machine-version",
        "1",
        "-o",
        "ids",
    ];
    let said = run_with(&db, &insert, "{\"sku\": \"pot\", \"paid\": 7}\n").await.done();
    assert_eq!(said, "1\n");
    let row = client.instance_by_id(1).get().await.unwrap();
    assert_eq!((&*row.step, &*row.queue, row.priority), ("ship", "mail", -5));
    assert_eq!(row.state_json, "{\"sku\": \"pot\", \"paid\": 7}");
    let due = row.due_at.unwrap().duration_since(row.inserted_at.unwrap()).unwrap();
    assert_eq!(due.as_secs(), 7200);
    let insert = ["insert", "import", "1", "--at", "2100-01-01T00:00:00Z"];
    assert_eq!(run(&db, &insert).await.done(), "instance 2 inserted\n");
    let said = run(&db, &["get", "2"]).await.done();
    assert!(said.contains("2100-01-01T00:00:00Z (in "), "{said}");
    assert_eq!(run(&db, &["run-now", "2"]).await.done(), "instance 2: is due now\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_engine_has_registered_is_refused() {
    let db = database().await;
    let said = run(&db, &["insert", "order"]).await.failed(3);
    assert!(said.contains("no engine has registered the machine `order`"), "{said}");
    assert!(said.contains("Registered are: none"), "{said}");
    engine(&db).start().await.unwrap().shutdown().await.unwrap();
    for (arguments, part) in [
        (&["insert", "basket"][..], "Registered are: import version 1, order version 1"),
        (&["insert", "order", "--machine-version", "7"], "in version 7"),
        (&["insert", "order", "--step", "pay"], "its steps are: reserve, await_pay, ship"),
        (&["insert", "order", "--report-to", "9"], "there is no instance 9"),
    ] {
        let said = run(&db, arguments).await.failed(3);
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    let said = run(&db, &["insert", "order", "--unique-key", ""]).await.failed(4);
    assert!(said.contains("unique_key is empty"), "{said}");
    let arguments = ["signal", "paid", "-", "--payload", "-"];
    let said = run(&db, &arguments).await.failed(2);
    assert!(said.contains("standard input cannot have"), "{said}");
}
