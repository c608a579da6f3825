//! The labels are bounded by what programs declare.

use std::time::Duration;

use gen_durable::{Limit, prelude::*};

use crate::program::{Program, WAIT_MAX, database, eventually, options};

#[derive(Debug, DurableSignal)]
pub struct Word {
    pub text: String,
}

#[derive(Clone, Debug, Default, DurableState)]
pub struct Hostile {
    text: String,
}

#[durable_fsm(state = Hostile, output = (), signals(Word))]
pub enum Any {
    Run,
}

#[durable_fsm]
impl Any {
    #[step(limit("keyed", key = state.text))]
    async fn run(cx: Context<Self>) -> Result<Outcome<Self>, StepError> {
        if cx.attempt() == 0 {
            return Err(cx.state.text.clone().into());
        }
        let text = cx.state.text.clone();
        Ok(cx.stop(text))
    }

    async fn handle(cx: Context<Self>, _error: StepError) -> Outcome<Self> {
        cx.replay(Duration::ZERO)
    }
}

/// A text that no label may contain.
const HOSTILE: &str = "\"}evil{x=\"";

#[tokio::test(flavor = "multi_thread")]
async fn p77_no_key_no_id_and_no_text_becomes_a_label() {
    let db = database().await;
    let program = Program::start(options(&db), |engine| {
        let engine =
            engine.machine::<Any>().queue("default", 10).limit("keyed", Limit::new().at_once(5));
        engine.sample_interval(Duration::from_millis(100))
    })
    .await;
    let client = program.engine.client();
    let insert = |n: u32| {
        let text = format!("{HOSTILE}{n}");
        Any::insert(Hostile { text: text.clone() }).unique_key(text.clone()).partition_key(text)
    };
    // One of each kind, so that all that comes later has its series.
    let first = insert(0).execute(client).await.unwrap();
    client.wait(first, WAIT_MAX).await.unwrap_err();
    insert(1).queue("unserved").execute(client).await.unwrap();
    let wanted = |waits: &'static str| [("queue", "(other)"), ("waits", waits)];
    let seen = eventually("the view shows the other queue", async || {
        let scrape = program.scrape().await;
        let shown = scrape.get("gen_durable_depth", &wanted("due")).is_some_and(|n| n >= 1.0);
        (shown && scrape.get("gen_durable_limit_in_use", &[("limit", "keyed")]).is_some())
            .then_some(scrape)
    })
    .await;
    let rows = (2..1_500).map(insert);
    for answer in Any::insert_many(rows).execute(client).await.unwrap() {
        answer.unwrap();
    }
    // Queues that nobody has registered count as one.
    let strays = (2_000..2_300).map(|n| insert(n).queue(format!("{HOSTILE} queue {n}")));
    Any::insert_many(strays).execute(client).await.unwrap();
    let many = eventually("all have ended", async || {
        let scrape = program.scrape().await;
        let labels = [("machine", "any"), ("step", "run"), ("outcome", "failed")];
        let ended = scrape.get("gen_durable_steps_total", &labels) == Some(1_499.0);
        let strays = scrape.get("gen_durable_depth", &wanted("due")) == Some(301.0);
        (ended && strays).then_some(scrape)
    })
    .await;
    let new: Vec<_> = many.identities().difference(&seen.identities()).cloned().collect();
    let expected =
        |name: &str| name == "gen_durable_depth" || name == "gen_durable_oldest_age_seconds";
    // Instances of the two queues wait for other things by now.
    assert!(new.iter().all(|(name, _)| expected(name)), "{new:?}");
    assert!(new.len() <= 16, "{new:?}");
    for (name, labels, _) in &many.series {
        let hostile = labels.values().any(|value| value.contains("evil"));
        assert!(!hostile, "{name} {labels:?}");
    }
    program.engine.shutdown().await.unwrap();
}
