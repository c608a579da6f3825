//! The actions on instances: by id, by key, by filter, and from a pipe.

use std::process::Stdio;

use gen_durable::{Client, Status};
use gen_durable_postgres::TestDb;
use tokio::process::Command;

use crate::support::{Cart, Import, Order, PROGRAM, Said, database, engine, run, run_with, until};

/// Failed imports 1, 2 and 3, and a parked order 4, without an engine that runs.
async fn stopped() -> (TestDb, Client) {
    let db = database().await;
    let engine = engine(&db).start().await.unwrap();
    let client = Client::new(db.pool().clone());
    for _ in 0..3 {
        let id = Import::insert(0).execute(&client).await.unwrap();
        until(&client, id, Status::Failed).await;
    }
    let order = Order::insert(Cart::of("tea")).unique_key("order 4").execute(&client).await;
    until(&client, order.unwrap(), Status::AwaitingSignal).await;
    engine.shutdown().await.unwrap();
    (db, client)
}

async fn statuses(client: &Client) -> Vec<&'static str> {
    let mut all = Vec::new();
    for id in 1..=4 {
        let found = client.find(id).await.unwrap();
        all.push(found.map_or("none", |found| found.status.as_str()));
    }
    all
}

/// The audit's rows: operator, action, reason.
async fn audit(db: &TestDb) -> Vec<(String, String, Option<String>)> {
    sqlx::query_as("select actor, action, reason from gen_durable.audit order by id")
        .fetch_all(db.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_is_done_by_id_and_by_key() {
    let (db, client) = stopped().await;
    let by = ["--by", "ada", "--reason", "a test"];
    for (arguments, said) in [
        (&["pause", "order/order 4", "--until", "2h"][..], "instance 4: paused\n"),
        (&["resume", "4"], "instance 4: resumed\n"),
        (&["resume", "4"], "instance 4: was not paused by itself\n"),
        (&["cancel", "order/order 4"], "instance 4: cancelled\n"),
        (&["retry", "4"], "instance 4: retried\n"),
        (&["kill", "4"], "instance 4: killed\n"),
        (&["delete", "4"], "instance 4: deleted\n"),
        (&["retry", "1", "2", "-o", "ids"], "1\n2\n"),
        (&["run-now", "1", "--json"], "{\"id\":1,\"answer\":\"is due now\"}\n"),
    ] {
        let arguments = [arguments, &by].concat();
        assert_eq!(run(&db, &arguments).await.done(), said, "{arguments:?}");
    }
    assert_eq!(statuses(&client).await, ["runnable", "runnable", "failed", "none"]);
    let audit = audit(&db).await;
    let (actor, reason) = ("ada".to_owned(), Some("a test".to_owned()));
    assert!(audit.iter().all(|row| row.0 == actor && row.2 == reason), "{audit:?}");
    let actions: Vec<&str> = audit.iter().map(|row| &*row.1).collect();
    assert!(actions.starts_with(&["pause", "resume", "cancel", "retry", "kill"]), "{actions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_one_holds_up_no_other() {
    let (db, client) = stopped().await;
    let said = run(&db, &["retry", "1", "99", "4", "2"]).await;
    assert_eq!(said.code, Some(1), "two kinds of failure have the general code");
    assert_eq!(said.out, "instance 1: retried\ninstance 2: retried\n");
    let lines: Vec<&str> = said.err.lines().collect();
    assert!(lines[0].starts_with("error: instance 99 does not exist"), "{said:?}");
    assert!(lines[1].starts_with("error: instance 4 is awaiting_signal"), "{said:?}");
    assert_eq!(statuses(&client).await, ["runnable", "runnable", "failed", "awaiting_signal"]);
    run(&db, &["retry", "4"]).await.failed(4);
    run(&db, &["retry", "99"]).await.failed(3);
    let said = run(&db, &["retry", "3", "--at", "nowhere"]).await.failed(3);
    assert!(said.contains("has no step `nowhere`; it has read"), "{said}");
    run(&db, &["retry", "3", "--at", "read", "--with-state", "8"]).await.done();
    let state = client.instance_by_id(3).get().await.unwrap().state_json;
    assert_eq!(state, "8");
    let operator = audit(&db).await.pop().unwrap().0;
    assert!(operator.contains('@') || !operator.is_empty(), "the user of this system: {operator}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_shows_what_it_chooses_and_needs_a_yes() {
    let (db, client) = stopped().await;
    let retry = ["retry", "--machine", "import", "--status", "failed"];
    let said = run(&db, &[&retry[..], &["--dry-run"]].concat()).await;
    assert_eq!((said.code, &*said.out), (Some(0), ""));
    assert!(said.err.starts_with("the filter chooses 3 instances:\n"), "{said:?}");
    assert_eq!(said.err.lines().count(), 5, "{said:?}");
    let said = run(&db, &retry).await;
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.ends_with("give --yes to retry all that the filter chooses\n"), "{said:?}");
    assert_eq!(statuses(&client).await[..3], ["failed", "failed", "failed"]);
    let said = run(&db, &[&retry[..], &["--yes", "--json"]].concat()).await.done();
    assert_eq!(said, "{\"done\":3,\"left_alone\":0,\"locked\":0,\"stopped\":false}\n");
    assert_eq!(statuses(&client).await[..3], ["runnable", "runnable", "runnable"]);
    let said = run(&db, &retry).await;
    assert_eq!((said.code, &*said.err), (Some(0), "the filter chooses no instance\n"));
    for (verb, said) in [
        ("pause", "pause: 3 done\n"),
        ("resume", "resume: 3 done\n"),
        ("cancel", "cancel: 3 done\n"),
        ("delete", "delete: 3 done\n"),
        ("kill", "kill: 0 done\n"),
        ("run-now", "run-now: 0 done\n"),
        ("signal", ""),
        ("fork", ""),
    ] {
        let mut arguments = vec![verb, "--machine", "import", "--yes"];
        if verb == "signal" {
            arguments.insert(1, "paid");
        }
        assert_eq!(run(&db, &arguments).await.done(), said);
    }
    let signal = ["signal", "paid", "--machine", "order", "--yes"];
    assert_eq!(run(&db, &signal).await.done(), "instance 4: delivered\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_is_never_all_by_mistake() {
    let (db, client) = stopped().await;
    for (arguments, part) in [
        (&["delete", "--yes"][..], "no instance is named"),
        (&["delete", "1", "--machine", "import"], "give one of the two"),
        (&["delete", "1", "--dry-run"], "--dry-run is for a filter"),
        (&["delete", "import"], "`import` names no instance"),
        (&["retry", "--status", "failed", "--at", "read", "--yes"], "--at and --with-state"),
        (&["retry", "--status", "failed", "--yes", "-o", "ids"], "`-o ids` would print nothing"),
    ] {
        let said = run(&db, arguments).await.failed(2);
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(statuses(&client).await, ["failed", "failed", "failed", "awaiting_signal"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_go_through_pipes() {
    let (db, client) = stopped().await;
    assert_eq!(run_with(&db, &["retry", "-", "-o", "ids"], "1\n\n 2 \n").await.done(), "1\n2\n");
    assert_eq!(run_with(&db, &["retry", "-"], "").await.done(), "", "an empty list is no error");
    let pipe = format!(
        "'{PROGRAM}' ls --status failed -o ids | xargs '{PROGRAM}' retry && \
         '{PROGRAM}' ls --machine order -o ids | '{PROGRAM}' cancel -"
    );
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", &pipe]).env("DATABASE_URL", db.url()).stdin(Stdio::null());
    let said = Said::of(shell.output().await.unwrap()).done();
    assert_eq!(said, "instance 3: retried\ninstance 4: cancelled\n");
    assert_eq!(statuses(&client).await, ["runnable", "runnable", "runnable", "cancelled"]);
}
