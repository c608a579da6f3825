//! Waiting for a result: in the process that runs the instance, and in another one.

use std::{sync::Arc, time::Duration};

use gen_durable::{WaitError, prelude::*};

use crate::support::{Breakpoint, WAIT_MAX, database, engine};

#[durable_fsm(state = u32, output = String)]
pub enum Held {
    Hold,
}

#[durable_fsm]
impl Held {
    async fn hold(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        let text = format!("held {}", cx.state);
        cx.done(text)
    }
}

#[durable_fsm(output = u32)]
pub enum Other {
    Do,
}

#[durable_fsm]
impl Other {
    async fn r#do(cx: Context<Self>) -> Outcome<Self> {
        cx.done(1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_typed_and_reaches_every_process() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Held>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let elsewhere = Client::new(db.pool().clone());
    let id = Held::insert(3).execute(&elsewhere).await.unwrap();
    let short = engine.wait(id, Duration::from_millis(30)).await.unwrap_err();
    assert!(matches!(short, WaitError::TimedOut { .. }), "{short}");
    let (here, there, opened) =
        tokio::join!(engine.wait(id, WAIT_MAX), elsewhere.wait(id, WAIT_MAX), async {
            breakpoint.arrival().await;
            breakpoint.open(1);
        });
    let () = opened;
    assert_eq!((here.unwrap().as_str(), there.unwrap().as_str()), ("held 3", "held 3"));
    // A wait also works after the end of the instance.
    assert_eq!(elsewhere.wait(id, WAIT_MAX).await.unwrap(), "held 3");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_what_cannot_come_is_an_error_at_once() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let nobody = InstanceId::<Held>::from_raw(404);
    let error = client.wait(nobody, WAIT_MAX).await.unwrap_err();
    assert!(matches!(error, WaitError::Unknown { id: 404 }), "{error}");

    let engine = engine(&db).machine::<Other>().start().await.unwrap();
    let other = Other::insert(()).execute(&engine).await.unwrap();
    engine.wait(other, WAIT_MAX).await.unwrap();
    let wrong = InstanceId::<Held>::from_raw(other.get());
    let error = client.wait(wrong, WAIT_MAX).await.unwrap_err();
    assert!(matches!(error, WaitError::WrongMachine { .. }), "{error}");
    sqlx::query("update gen_durable.instances set result = '\"text\"'")
        .execute(db.pool())
        .await
        .unwrap();
    let error = client.wait(other, WAIT_MAX).await.unwrap_err();
    assert!(matches!(error, WaitError::Decode(_)), "{error}");
    engine.shutdown().await.unwrap();
}

/// Two hundred calls come at once, more than the engine has connections. Each must wait for one and
/// then succeed.
#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_connections_wait_their_turn() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Held>().resource(breakpoint).start().await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for id in 0..200 {
        let client = engine.client().clone();
        calls.spawn(async move { client.find(id).await });
    }
    while let Some(call) = calls.join_next().await {
        assert!(call.unwrap().unwrap().is_none());
    }
    engine.shutdown().await.unwrap();
}
