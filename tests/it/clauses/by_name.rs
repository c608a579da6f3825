//! `insert_by_name.sql`, and the calls of tools that know machines by name.

use std::time::{Duration, SystemTime};

use gen_durable::{Ended, WaitError, operate::InsertByNameError, prelude::*};
use serde_json::json;

use crate::support::{WAIT_MAX, database, engine, row};

/// Keeps its argument.
#[durable_fsm(queue = "notes", state = String, output = String, signals(Ended<Note>))]
pub enum Note {
    Keep,
    Refuse,
}

#[durable_fsm]
impl Note {
    async fn keep(mut cx: Context<Self>) -> Outcome<Self> {
        let kept = std::mem::take(&mut cx.state);
        cx.done(kept)
    }

    #[step(entry)]
    async fn refuse(cx: Context<Self>) -> Outcome<Self> {
        cx.stop("not this one")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_an_insert_by_name_writes_what_it_was_given() {
    let db = database().await;
    engine(&db).machine::<Note>().start().await.unwrap().shutdown().await.unwrap();
    let client = Client::new(db.pool().clone());
    let first = client.insert_by_name("note", json!("one")).execute(&client).await.unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 60);
    let second = client
        .insert_by_name("note", json!("two"))
        .version(1)
        .step("refuse")
        .queue("default")
        .priority(-7)
        .schedule_at(time)
        .partition_key("ada")
        .unique_key("note 2")
        .report_to(first);
    let second = second.execute(&client).await.unwrap();
    let later = client.insert_by_name("note", json!("three")).schedule_in(Duration::from_hours(2));
    let mut tx = db.pool().begin().await.unwrap();
    let later = later.execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();

    let plain = client.instance_by_id(first).get().await.unwrap();
    assert_eq!((&*plain.machine, plain.version, &*plain.step), ("note", 1, "keep"));
    assert_eq!((&*plain.state_json, &*plain.queue, plain.priority), ("\"one\"", "notes", 0));
    assert_eq!((plain.partition_key, plain.unique_key, plain.reports_to), (None, None, None));
    let full = client.instance_by_id(second).get().await.unwrap();
    assert_eq!((&*full.step, &*full.state_json), ("refuse", "\"two\""));
    assert_eq!((&*full.queue, full.priority, full.due_at), ("default", -7, Some(time)));
    assert_eq!(full.partition_key.as_deref(), Some("ada"));
    assert_eq!((full.unique_key.as_deref(), full.reports_to), (Some("note 2"), Some(first)));
    let later = client.instance_by_id(later).get().await.unwrap();
    let delay = later.due_at.unwrap().duration_since(later.inserted_at.unwrap()).unwrap();
    assert_eq!(delay, Duration::from_hours(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_an_insert_by_name_refuses_what_is_taken_or_unknown() {
    let db = database().await;
    engine(&db).machine::<Note>().start().await.unwrap().shutdown().await.unwrap();
    let client = Client::new(db.pool().clone());
    let insert = || client.insert_by_name("note", json!("secret")).unique_key("note 1");
    let id = insert().execute(&client).await.unwrap();
    let error = insert().execute(&client).await.unwrap_err();
    assert!(
        matches!(&error, InsertByNameError::Duplicate { id: Some(holder), .. } if *holder == id),
        "{error}"
    );
    assert_eq!(error.to_string(), "instance 1 of machine `note` holds the unique key already");
    assert_eq!(client.holder_by_name("note", "note 1").await.unwrap(), Some(id));
    assert_eq!(client.holder_by_name("note", "note 2").await.unwrap(), None);
    for (insert, part) in [
        (
            client.insert_by_name("memo", json!(1)),
            "; an engine registers its machines when it starts. Registered are: note version 1",
        ),
        (insert().version(u32::MAX), "no engine has registered the machine `note` in version"),
        (insert().step("burn"), "; its steps are: keep, refuse"),
        (insert().report_to(99), "there is no instance 99"),
    ] {
        let error = insert.execute(&client).await.unwrap_err();
        assert!(matches!(error, InsertByNameError::Unknown { .. }), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
    for insert in [
        client.insert_by_name("", json!(1)),
        insert().step(""),
        insert().queue("x".repeat(256)),
        insert().partition_key(""),
        client.insert_by_name("note", json!("\0")),
    ] {
        assert!(!format!("{insert:?}").contains("secret"), "no state is printed: {insert:?}");
        let error = insert.execute(&client).await.unwrap_err();
        assert!(matches!(error, InsertByNameError::Encode(_)), "{error:?}");
    }
    assert!(client.holder_by_name("", "note 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_waited_for_by_its_id() {
    let db = database().await;
    let engine = engine(&db).machine::<Note>().queue("notes", 2).start().await.unwrap();
    let client = Client::new(db.pool().clone());
    let kept = client.insert_by_name("note", json!("one")).execute(&client).await.unwrap();
    assert_eq!(client.wait_by_id(kept, WAIT_MAX).await.unwrap(), "\"one\"");
    let refused = client.insert_by_name("note", json!("two")).step("refuse");
    let refused = refused.execute(&client).await.unwrap();
    let error = client.wait_by_id(refused, WAIT_MAX).await.unwrap_err();
    assert!(matches!(error, WaitError::Failed { id, .. } if id == refused), "{error}");
    assert_eq!(row(db.pool(), refused).await.status, "failed");
    let delayed = client.insert_by_name("note", json!("three")).schedule_in(WAIT_MAX);
    let delayed = delayed.execute(&client).await.unwrap();
    let error = client.wait_by_id(delayed, Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(error, WaitError::TimedOut { .. }), "{error}");
    client.instance_by_id(delayed).cancel("not needed").execute(&client).await.unwrap();
    let error = client.wait_by_id(delayed, WAIT_MAX).await.unwrap_err();
    assert!(matches!(error, WaitError::Cancelled { .. }), "{error}");
    let error = client.wait_by_id(99, WAIT_MAX).await.unwrap_err();
    assert!(matches!(error, WaitError::Unknown { id: 99 }), "{error}");
    engine.shutdown().await.unwrap();
}
