//! Retry policies without a `handle`, and options that a step has of its own.

use std::time::Duration;

use gen_durable::{Retry, StepErrorKind, graph::Edge, prelude::*};

use crate::support::{WAIT_MAX, database, engine, row, until};

/// Fails until its attempt has reached its state.
#[durable_fsm(state = u32, output = u32, timeout = "1h",
              retry(max_attempts = 3, backoff = "linear", initial = "1ms", max = "2ms", jitter))]
pub enum Flaky {
    Usual,
    Stubborn,
    Hasty,
}

#[durable_fsm]
impl Flaky {
    async fn usual(cx: Context<Self>) -> StepResult<Self> {
        ends_at(cx)
    }

    #[step(entry, retry(max_attempts = 6, backoff = "constant", initial = "1ms"))]
    async fn stubborn(cx: Context<Self>) -> StepResult<Self> {
        ends_at(cx)
    }

    #[step(entry, timeout = "20ms", retry(max_attempts = 1))]
    async fn hasty(_cx: Context<Self>) -> StepResult<Self> {
        std::future::pending().await
    }
}

fn ends_at(cx: Context<Flaky>) -> StepResult<Flaky> {
    let attempt = cx.attempt();
    if attempt < cx.state {
        return Err(std::io::Error::other(format!("attempt {attempt}")).into());
    }
    Ok(cx.done(attempt))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_retries_as_its_option_says() {
    let db = database().await;
    let engine = engine(&db).machine::<Flaky>().start().await.unwrap();
    let id = Flaky::insert(2).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 2);
    let id = Flaky::insert(3).execute(&engine).await.unwrap();
    let row = until(db.pool(), id, "failed").await;
    assert_eq!((row.attempt, row.last_error.as_deref()), (2, Some("attempt 2")), "three runs");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_has_options_of_its_own() {
    let db = database().await;
    let engine = engine(&db).machine::<Flaky>().start().await.unwrap();
    let id = Flaky::insert(5).step(Flaky::Stubborn).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 5);
    let id = Flaky::insert(0).step(Flaky::Hasty).execute(&engine).await.unwrap();
    let row = until(db.pool(), id, "failed").await;
    assert_eq!(row.last_error.as_deref(), Some("ran longer than its timeout of 20ms"));
    assert_eq!(row.attempt, 0);
    engine.shutdown().await.unwrap();
}

#[test]
fn options_are_what_they_say() {
    let machine =
        Retry::linear(Duration::from_millis(1)).max_attempts(3).max(Duration::from_millis(2));
    assert_eq!(Flaky::RETRY, Some(machine.jitter()));
    assert_eq!(Flaky::Usual.retry(), Flaky::RETRY);
    assert_eq!(Flaky::Usual.timeout(), Some(Duration::from_hours(1)));
    let stubborn = Retry::constant(Duration::from_millis(1)).max_attempts(6);
    assert_eq!(Flaky::Stubborn.retry(), Some(stubborn));
    assert_eq!(Flaky::Hasty.timeout(), Some(Duration::from_millis(20)));
    let handle = Flaky::graph().handle.expect("the policy stands in for it");
    assert_eq!(handle.edges, [Edge::Replay, Edge::Stop]);
}

/// Has a `handle` that stops after a panic and leaves the other errors to a policy.
#[durable_fsm(state = u32, output = u32)]
pub enum Careful {
    Go,
}

#[durable_fsm]
impl Careful {
    async fn go(cx: Context<Self>) -> StepResult<Self> {
        assert!(cx.state != 99, "a panic");
        if cx.attempt() < cx.state {
            return Err(std::io::Error::other("not yet").into());
        }
        let attempt = cx.attempt();
        Ok(cx.done(attempt))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        if error.kind() == StepErrorKind::Panicked {
            return cx.stop(error);
        }
        Retry::constant(Duration::from_millis(1)).max_attempts(4).decide(cx, error)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_may_leave_it_to_a_policy() {
    let db = database().await;
    let engine = engine(&db).machine::<Careful>().start().await.unwrap();
    let id = Careful::insert(3).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 3);
    for (state, attempt) in [(99, 0), (4, 3)] {
        let id = Careful::insert(state).execute(&engine).await.unwrap();
        until(db.pool(), id, "failed").await;
        assert_eq!(row(db.pool(), id).await.attempt, attempt);
    }
    engine.shutdown().await.unwrap();
}

/// Its first step declares one target. The code does not show the target, and may choose another
/// one.
#[durable_fsm(state = bool, output = ())]
pub enum Declared {
    Start,
    Right,
    Wrong,
}

#[durable_fsm]
impl Declared {
    #[step(next(Right))]
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        let target = if cx.state { Declared::Right } else { Declared::Wrong };
        cx.next(target)
    }

    async fn right(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    #[step(entry)]
    async fn wrong(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_goes_where_it_did_not_declare_fails() {
    let db = database().await;
    let engine = engine(&db).machine::<Declared>().start().await.unwrap();
    let id = Declared::insert(true).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    let id = Declared::insert(false).execute(&engine).await.unwrap();
    let row = until(db.pool(), id, "failed").await;
    let expected = "went to step `wrong`, which it does not declare; add it to `#[step(next(...))]`, which has [right]";
    assert_eq!((&*row.step, row.last_error.as_deref()), ("start", Some(expected)));
    engine.shutdown().await.unwrap();
}
