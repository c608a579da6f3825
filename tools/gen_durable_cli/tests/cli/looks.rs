//! `ls`, `get`, `history`, `wait`, `limits`, `schedules`: what they show.

use gen_durable::{Client, Status, prelude::*};
use gen_durable_postgres::TestDb;
use serde_json::Value;

use crate::support::{
    Cart, Import, Order, WAIT_MAX, database, engine, eventually, run, run_with, steady, until,
};

/// A database on which an engine has run: orders 1, parked; 2, failed; 3, done; and an import, 4,
/// that failed.
async fn busy() -> (TestDb, Engine, Client) {
    let db = database().await;
    let engine = engine(&db).start().await.unwrap();
    let client = Client::new(db.pool().clone());
    let parked = Order::insert(Cart::of("tea")).unique_key("order 1").partition_key("ada");
    let parked = parked.execute(&client).await.unwrap();
    until(&client, parked, Status::AwaitingSignal).await;
    let failed = Order::insert(Cart::of("evil")).execute(&client).await.unwrap();
    until(&client, failed, Status::Failed).await;
    let done = Order::insert(Cart::of("cup")).execute(&client).await.unwrap();
    let paid = serde_json::json!({ "cents": 1999 });
    client.signal_by_name(done.get(), "paid", &paid, None).await.unwrap();
    engine.wait(done, WAIT_MAX).await.unwrap();
    let import = Import::insert(0).execute(&client).await.unwrap();
    until(&client, import, Status::Failed).await;
    assert_eq!(import.get(), 4, "ids count from one");
    (db, engine, client)
}

/// Reads JSON lines.
fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_is_shown() {
    let db = database().await;
    let titles = "ID  MACHINE  STEP  STATUS  ATTEMPT  QUEUE  CHANGED\n";
    assert_eq!(run(&db, &["ls"]).await.done(), titles);
    assert_eq!(run(&db, &["ls", "--json"]).await.done(), "");
    assert_eq!(run(&db, &["ls", "-o", "ids"]).await.done(), "");
    assert_eq!(run(&db, &["ls", "--count"]).await.done(), "0\n");
    assert_eq!(run(&db, &["limits"]).await.done(), "LIMIT  IN FORCE  WORKERS\n");
    let said = run(&db, &["schedules"]).await.done();
    assert_eq!(said, "SCHEDULE  MACHINE  NEXT  LAST  DECLARATION\n");
    for command in ["get", "history", "wait"] {
        let said = run(&db, &[command, "1"]).await.failed(3);
        assert!(said.starts_with("error: instance 1 does not exist"), "{said}");
        let said = run(&db, &[command, "order/order 1"]).await.failed(3);
        assert!(said.contains("no instance of machine `order` holds the unique key"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_listed_and_filtered() {
    let (db, engine, _) = busy().await;
    let said = run(&db, &["ls"]).await.done();
    assert_eq!(
        steady(&said),
        "\
ID | MACHINE | STEP | STATUS | ATTEMPT | QUEUE | CHANGED | KEY | PARTITION | ERROR
4 | import | read | failed | 0 | default | … | nothing to import
3 | order | ship | done | 0 | default | …
2 | order | reserve | failed | 0 | default | … | \\u{1b}]0;owned\\u{7}\\u{1b}[2J
1 | order | await_pay | awaiting_signal | 0 | default | … | order 1 | ada
"
    );
    assert!(!said.contains('\u{1b}'), "no colours in a pipe, and nothing raw");
    for (arguments, ids) in [
        (&["--status", "failed"][..], "4\n2\n"),
        (&["--machine", "order"], "3\n2\n1\n"),
        (&["--machine", "order", "--step", "await_pay"], "1\n"),
        (&["--unique-key", "order 1"], "1\n"),
        (&["--partition-key", "ada"], "1\n"),
        (&["--queue", "mail"], ""),
        (&["--machine-version", "2"], ""),
        (&["--changed-since", "1h", "--status", "done"], "3\n"),
        (&["--changed-before", "1h"], ""),
        (&["--all"], "4\n3\n2\n1\n"),
    ] {
        let arguments = [&["ls", "-o", "ids"], arguments].concat();
        assert_eq!(run(&db, &arguments).await.done(), ids, "{arguments:?}");
    }
    let said = run(&db, &["ls", "--limit", "3", "-o", "ids"]).await;
    assert_eq!(said.out, "4\n3\n2\n");
    assert_eq!(said.err, "there may be more: go on with --after 2, or take --all\n");
    assert_eq!(run(&db, &["ls", "--after", "2", "-o", "ids"]).await.done(), "1\n");
    assert_eq!(run(&db, &["ls", "--status", "failed", "--count"]).await.done(), "2\n");
    let said = run(&db, &["ls", "--count", "--json"]).await.done();
    assert_eq!(said, "{\"count\":4,\"is_exact\":true}\n");

    let said = run(&db, &["ls", "--json"]).await.done();
    let line = said.lines().nth(3).unwrap();
    let end = line.find("\"due_at\"").unwrap();
    assert_eq!(
        line[..end],
        *"{\"id\":1,\"machine\":\"order\",\"version\":1,\"status\":\"awaiting_signal\",\
          \"step\":\"await_pay\",\"attempt\":0,\"queue\":\"default\",\"partition_key\":\"ada\",\
          \"unique_key\":\"order 1\",\"last_error\":null,"
    );
    let all = json(&said);
    assert_eq!(all[2]["last_error"], "\u{1b}]0;owned\u{7}\u{1b}[2J", "JSON has it unchanged");
    let at = all[0]["finished_at"].as_str().unwrap();
    assert!(at.starts_with("20") && at.ends_with('Z'), "{at}");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_shown_without_its_state_unless_that_is_asked_for() {
    let (db, engine, _) = busy().await;
    let said = run(&db, &["get", "order/order 1"]).await.done();
    assert_eq!(
        steady(&said),
        "\
id | 1
machine | order
status | awaiting_signal
step | await_pay
attempt | 0
awaits | paid
queue | default
partition key | ada
unique key | order 1
inserted | …
changed | …
"
    );
    let said = run(&db, &["get", "3", "--state"]).await.done();
    assert!(said.contains("{\"sku\":\"cup\",\"paid\":1999}"), "{said}");
    assert!(said.lines().any(|line| steady(line) == "result | 1999\n"), "{said}");
    for arguments in [&["get", "3"][..], &["get", "3", "--json"], &["history", "3", "--json"]] {
        let said = run(&db, arguments).await.done();
        assert!(!said.contains("cup") && !said.contains("1999"), "{said}");
    }
    let all = json(&run_with(&db, &["get", "-", "--json", "--state"], "3\n\n1\n").await.done());
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["state"], serde_json::json!({ "sku": "cup", "paid": 1999 }));
    assert_eq!(all[0]["result"], 1999);
    assert_eq!((&all[1]["awaits"][0], &all[1]["result"]), (&Value::from("paid"), &Value::Null));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_wait_are_shown_without_their_payloads_unless_those_are_asked_for() {
    let (db, engine, _) = busy().await;
    engine.shutdown().await.unwrap();
    // A terminal would obey this name.
    let signals = "insert into gen_durable.signals (target_id, name, dedup_key, payload)
                   select 1, name, key, payload::json from (values
                       ('paid', 'evt-1', '{\"cents\": 4711}'), (E'\\x1b[2J', null, '1'),
                       ('paid', null, to_json(repeat('x', 20000))::text)
                   ) as s (name, key, payload)";
    sqlx::raw_sql(signals).execute(db.pool()).await.unwrap();
    let line = |said: &str| -> Option<String> {
        steady(said).lines().find(|line| line.starts_with("inbox")).map(str::to_owned)
    };
    let said = run(&db, &["get", "1"]).await.done();
    assert_eq!(line(&said).as_deref(), Some("inbox | 3 signals: 2 paid, \\u{1b}[2J"));
    assert!(!said.contains("4711") && !said.contains('\u{1b}'), "{said}");

    let said = run(&db, &["get", "1", "--json"]).await.done();
    assert!(!said.contains("4711") && !said.contains("payload"), "{said}");
    let inbox = &json(&said)[0]["inbox"];
    let facts: Vec<_> =
        inbox.as_array().unwrap().iter().map(|s| (&s["name"], &s["size"])).collect();
    let [paid, evil] = ["paid", "\u{1b}[2J"].map(Value::from);
    let sizes = [15, 1].map(Value::from);
    assert_eq!(facts[..2], [(&paid, &sizes[0]), (&evil, &sizes[1])]);
    assert!(facts[2].1.as_u64() > Some(0), "{facts:?}");
    assert_eq!((&inbox[0]["dedup_key"], &inbox[1]["dedup_key"]), (&"evt-1".into(), &Value::Null));
    let at = inbox[0]["arrived_at"].as_str().unwrap();
    assert!(at.starts_with("20") && at.ends_with('Z'), "{at}");
    let said = json(&run(&db, &["get", "1", "--json", "--state"]).await.done());
    let payloads: Vec<_> = (0..3).map(|n| said[0]["inbox"][n]["payload"].clone()).collect();
    assert_eq!(payloads, [serde_json::json!({ "cents": 4711 }), 1.into(), Value::Null]);

    let done = json(&run(&db, &["get", "3", "--json"]).await.done());
    assert_eq!(
        (&done[0]["inbox"], &done[0]["inbox_capped"]),
        (&serde_json::json!([]), &false.into())
    );
    let many = "insert into gen_durable.signals (target_id, name, payload)
                select 1, 'paid', '1' from generate_series(1, 98)";
    sqlx::raw_sql(many).execute(db.pool()).await.unwrap();
    let said = run(&db, &["get", "1"]).await.done();
    let expected = "inbox | more than 100 signals; the oldest: 99 paid, \\u{1b}[2J";
    assert_eq!(line(&said).as_deref(), Some(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_shown() {
    let (db, engine, _) = busy().await;
    let said = run(&db, &["history", "3"]).await.done();
    let lines = steady(&said);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[0], "ENTRY | STEP | ATTEMPT | OUTCOME | NEXT | ENDED | TOOK | WORKER");
    let parts = |line: &str| -> Vec<String> { line.split(" | ").map(str::to_owned).collect() };
    let outcomes: Vec<String> = lines[1..].iter().map(|line| parts(line)[1..4].join(" ")).collect();
    assert_eq!(outcomes.first().map(String::as_str), Some("reserve 0 next"));
    assert_eq!(outcomes.last().map(String::as_str), Some("ship 0 done"));
    let entries = json(&run(&db, &["history", "3", "--json", "--state"]).await.done());
    assert_eq!(entries.len(), outcomes.len());
    assert_eq!(entries[0]["state"]["sku"], "cup");
    let said = run(&db, &["history", "4"]).await;
    assert_eq!(said.code, Some(0));
    assert!(said.err.contains("nothing is recorded"), "{said:?}");
    let many = "insert into gen_durable.history
                    (day, instance_id, fsm, fsm_version, step, attempt, outcome, started_at, ended_at)
                select '-infinity', 4, 'order', 1, 'ship', n, 'replay', now(), now()
                from generate_series(1, $1::int) as n";
    sqlx::query(many).bind(1000).execute(db.pool()).await.unwrap();
    assert_eq!(run(&db, &["history", "4"]).await.err, "");
    sqlx::query(many).bind(1).execute(db.pool()).await.unwrap();
    let said = run(&db, &["history", "4"]).await;
    assert!(said.err.contains("only the newest 1000 runs are shown"), "{said:?}");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_waited_for() {
    let (db, engine, _) = busy().await;
    assert_eq!(run(&db, &["wait", "3"]).await.done(), "1999\n");
    let said = run(&db, &["wait", "3", "--json"]).await.done();
    assert_eq!(said, "{\"id\":3,\"status\":\"done\",\"result\":1999}\n");
    let said = run(&db, &["wait", "4", "--json"]).await;
    assert_eq!(said.code, Some(5));
    assert_eq!(said.out, "{\"id\":4,\"status\":\"failed\",\"reason\":\"nothing to import\"}\n");
    let said = run(&db, &["wait", "2"]).await.failed(5);
    assert!(said.starts_with("error: instance 2 failed: \\u{1b}]0;owned"), "{said}");
    let said = run(&db, &["wait", "1", "--timeout", "50ms"]).await.failed(124);
    assert!(said.starts_with("error: instance 1 did not end within 50ms"), "{said}");
    let said = run(&db, &["wait", "3", "4", "99"]).await;
    assert_eq!((said.code, &*said.out), (Some(1), "3 1999\n"), "{said:?}");
    assert_eq!(said.err.lines().count(), 2);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_shown_and_set() {
    let (db, engine, client) = busy().await;
    let said = run(&db, &["limits"]).await.done();
    assert_eq!(
        steady(&said),
        "LIMIT | IN FORCE | WORKERS\ncarrier | 3 at once, 100 per 1s, burst 20 | 1\n"
    );
    let set = ["limits", "set", "carrier", "--at-once", "0"];
    let said = run(&db, &set).await.failed(4);
    assert!(said.contains("limit `carrier` cannot be set"), "{said}");
    let set = ["limits", "set", "carrier", "--per", "1/1h", "--by", "ada", "--reason", "slow down"];
    assert_eq!(run(&db, &set).await.done(), "limit carrier: set\n");
    let said = json(&run(&db, &["limits", "--json"]).await.done());
    assert_eq!(said[0]["in_force"]["period_seconds"], 3600.0);
    assert_eq!(said[0]["set"]["by"], "ada");
    assert_eq!(said[0]["declared"]["at_once"], 3);

    // Two more reach the limited step. One has a turn at most.
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = Order::insert(Cart::of("pot")).execute(&client).await.unwrap().get();
        let paid = serde_json::json!({ "cents": 1 });
        client.signal_by_name(id, "paid", &paid, None).await.unwrap();
        ids.push(id);
    }
    let waiting = async || {
        let waiting = run(&db, &["limits", "waiting", "carrier", "-o", "ids"]).await.done();
        (waiting.lines().count() >= 2).then_some(waiting)
    };
    let waiting = eventually("two wait for the limit", waiting).await;
    let held = waiting.lines().next().unwrap();
    let said = run(&db, &["get", held]).await.done();
    assert!(said.contains("held back by") && said.contains("carrier, room in "), "{said}");
    // The run that had the turn may not have ended yet.
    eventually("no run is under way", async || {
        let said = run(&db, &["limits", "buckets", "carrier"]).await.done();
        steady(&said).starts_with("KEY | RUNNING | WAITING | ROOM\n0 | ").then_some(())
    })
    .await;
    let reset = ["limits", "reset", "carrier"];
    assert_eq!(run(&db, &reset).await.done(), "limit carrier: reset\n");
    for id in ids {
        until(&client, id, Status::Done).await;
    }
    for arguments in [
        &["limits", "waiting", "stripe"][..],
        &["limits", "buckets", "stripe"],
        &["limits", "reset", "stripe"],
        &["limits", "set", "stripe", "--at-once", "1"],
    ] {
        let said = run(&db, arguments).await.failed(3);
        assert!(said.contains("no engine has declared the limit `stripe`"), "{said}");
    }
    engine.shutdown().await.unwrap();
}
