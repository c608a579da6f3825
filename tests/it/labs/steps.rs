//! Single steps without a database.

use std::time::Duration;

use gen_durable::{StepErrorKind, prelude::*, testing::StepTest};

use super::{Calls, Checkout, End, Mail, Order, Paid};

#[tokio::test]
async fn p75_a_step_test_shows_the_outcome_of_a_step() {
    let run = StepTest::at(Checkout::Start).run().await;
    run.assert_next_in(Checkout::AwaitPay, Duration::from_secs(5));

    let order = Order { number: 7, paid: None };
    let paid = StepTest::at(Checkout::AwaitPay)
        .state(order.clone())
        .signal(Paid { amount: 100 })
        .signal(Paid { amount: 1 });
    let run = paid.run().await;
    run.assert_next(Checkout::Ship);
    assert_eq!(run.state().paid, Some(100));
    assert_eq!((run.consumed(), run.left()), (1, 1));

    let run = StepTest::<Checkout>::at(Checkout::AwaitPay).run().await;
    assert_eq!(run.assert_awaits::<Paid>(), Some(Duration::from_mins(15)));
    let run = StepTest::at(Checkout::AwaitPay).timed_out().run().await;
    run.assert_done(&End::Expired);

    let calls = Calls::default();
    let run = StepTest::at(Checkout::Ship).state(order).resource(calls.clone()).run().await;
    run.assert_next(Checkout::Book);
    assert_eq!(calls.all(), ["ship 7"]);
    let mails = run.inserts::<Mail>();
    assert_eq!((mails.len(), &*mails[0].state, &*mails[0].queue), (1, "order 7", "mail"));
    assert_eq!(mails[0].unique_key.as_deref(), Some("mail"));
    assert!(run.signals::<Paid>().is_empty());
}

#[tokio::test]
async fn p75_a_step_test_runs_the_handler() {
    let lost = || StepTest::at(Checkout::Ship).state(Order { number: -1, paid: None });
    let run = lost().resource(Calls::default()).run().await;
    assert_eq!(run.assert_repeats(), Duration::from_mins(1));
    assert_eq!(run.error(), Some("no such address"));
    let run = lost().resource(Calls::default()).attempt(1).failures(1).run().await;
    assert_eq!(run.assert_repeats(), Duration::from_mins(2));
    let run = lost().resource(Calls::default()).attempt(2).failures(2).run().await;
    assert_eq!(run.assert_failed(), "no such address");
    // The step is not called.
    let calls = Calls::default();
    let run = lost().resource(calls.clone()).failed_with("the carrier is on strike").run().await;
    assert_eq!(run.error(), Some("the carrier is on strike"));
    assert!(calls.all().is_empty());
}

#[derive(Debug, Default, DurableState)]
pub struct Odd {
    #[serde(default)]
    pub number: f64,
    #[serde(default)]
    pub text: String,
}

/// Its outcomes are of the kinds that an engine refuses.
#[durable_fsm(state = Odd, output = String, signals(Paid))]
pub enum Refused {
    /// A state that JSON cannot express.
    Infinite,
    /// A text that Postgres cannot store.
    Nul,
    /// A state that is larger than 8 MiB.
    Large,
    Panics,
    Awaits,
}

#[durable_fsm]
impl Refused {
    async fn infinite(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.number = f64::INFINITY;
        cx.next(Refused::Nul)
    }

    async fn nul(cx: Context<Self>) -> Outcome<Self> {
        cx.done("a\0b".to_owned())
    }

    #[step(entry)]
    async fn large(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.text = "x".repeat(8 * 1024 * 1024);
        cx.next(Refused::Nul)
    }

    #[step(entry)]
    async fn panics(_: Context<Self>) -> Outcome<Self> {
        panic!("oops")
    }

    #[step(entry)]
    async fn awaits(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Paid>()
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        let kind = match error.kind() {
            StepErrorKind::Rejected => "rejected",
            StepErrorKind::Panicked => "panicked",
            _ => "another",
        };
        cx.stop(format!("{kind}: {error}"))
    }
}

/// A step test refuses an outcome that an engine would refuse, and `handle` decides about it.
#[tokio::test]
async fn p75_a_step_test_refuses_what_an_engine_refuses() {
    for (step, expected) in [
        (Refused::Infinite, "rejected: "),
        (Refused::Nul, "rejected: "),
        (Refused::Large, "rejected: state has "),
        (Refused::Panics, "panicked: panicked: oops"),
    ] {
        let name = step.name();
        let run = StepTest::at(step).run().await;
        let error = run.assert_failed();
        assert!(error.starts_with(expected), "{name}: {error}");
    }
    StepTest::at(Refused::Awaits).run().await.assert_awaits::<Paid>();
}

#[tokio::test]
#[should_panic(expected = "takes a transaction, which needs a database: test it with a `Lab`")]
async fn p75_a_step_test_of_a_transactional_step_names_the_lab() {
    StepTest::at(Checkout::Book).run().await;
}

#[tokio::test]
#[should_panic(expected = "step `ship` takes a resource of type `it::labs::Calls`: add it with")]
async fn p75_a_step_test_names_the_missing_resource() {
    StepTest::at(Checkout::Ship).run().await;
}

#[tokio::test]
#[should_panic(
    expected = "expected that the instance goes to `ship` after step `await_pay`, but it awaits `paid` for 900s"
)]
async fn p75_a_failed_expectation_says_what_the_outcome_was() {
    StepTest::at(Checkout::AwaitPay).run().await.assert_next(Checkout::Ship);
}
