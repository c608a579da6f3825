//! Fan-out and join: a parent spawns a child for each line of a text. Each child counts the words
//! of its line, and the parent adds up their results. It hears of a child that fails, too.
//!
//! ```text
//! cargo run --example fan_out
//! ```

use std::time::Duration;

use gen_durable::prelude::*;
use gen_durable_examples::{Error, Session};

/// The number of words, and the lines that could not be counted.
#[derive(Debug, Default, PartialEq, DurableState)]
struct Count {
    words: usize,
    failed: Vec<String>,
}

#[durable_fsm(state = Vec<String>, output = Count, signals(Ended<Line>))]
enum Text {
    Scatter,
    Gather,
}

#[durable_fsm]
impl Text {
    // The commit of this step inserts the children. Each reports its end to this instance.
    async fn scatter(cx: Context<Self>) -> Outcome<Self> {
        let children = Line::insert_many(cx.state.clone());
        cx.next(Text::Gather).spawn(children)
    }

    // Runs again when all children have ended, however they have.
    async fn gather(mut cx: Context<Self>) -> StepResult<Self> {
        let wanted = cx.state.len();
        let Some(lines) = cx.gather::<Ended<Line>>(wanted)? else {
            println!("  waits for {wanted} reports");
            return Ok(cx.await_count::<Ended<Line>>(wanted));
        };
        let mut count = Count::default();
        for line in lines {
            match line.result() {
                Ok(words) => count.words += words,
                Err(why) => count.failed.push(why.to_string()),
            }
        }
        Ok(cx.done(count))
    }
}

#[durable_fsm(state = String, output = usize)]
enum Line {
    Count,
}

#[durable_fsm]
impl Line {
    async fn count(cx: Context<Self>) -> StepResult<Self> {
        let words: Vec<_> = cx.state.split_whitespace().collect();
        if let Some(word) = words.iter().find(|word| word.starts_with("0x")) {
            return Err(format!("{word} is no word").into());
        }
        let count = words.len();
        Ok(cx.done(count))
    }
}

const LINES: [&str; 4] = ["the red leaf waits", "0x7c00", "for one that falls", "beside it"];

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;
    let builder = Engine::builder(session.pool.clone()).machine::<Text>().machine::<Line>();
    let engine = builder.start().await?;

    let id = Text::insert(LINES.map(str::to_owned).to_vec()).execute(&engine).await?;
    println!("instance {id} has {} lines", LINES.len());
    let count = engine.wait(id, Duration::from_secs(30)).await?;
    println!("{count:?}");
    engine.shutdown().await?;

    assert_eq!((count.words, count.failed.len()), (10, 1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use gen_durable::testing::{Lab, PgPool, StepTest};

    use super::*;

    #[tokio::test]
    async fn each_line_is_a_child() {
        let run = StepTest::at(Text::Scatter).state(LINES.map(str::to_owned).to_vec()).run().await;
        run.assert_next(Text::Gather);
        let children = run.inserts::<Line>();
        assert_eq!(children.len(), LINES.len());
        assert!(children.iter().all(|child| child.reports));
    }

    /// The children end in any order, and the parent hears of each once.
    #[gen_durable::test]
    async fn the_count_is_right_whatever_the_order(pool: PgPool) -> Result<(), Error> {
        Lab::explore(&pool, 1, async |pool| {
            let mut lab = Lab::new(&pool).machine::<Text>().machine::<Line>().start().await?;
            let id = Text::insert(LINES.map(str::to_owned).to_vec()).execute(&lab).await?;
            lab.run_until_idle().await?;
            let failed = vec!["instance 3 failed: 0x7c00 is no word".to_owned()];
            lab.assert_done(id, &Count { words: 10, failed }).await?;
            Ok(())
        })
        .courses(5)
        .await?;
        Ok(())
    }

    #[test]
    fn the_graph_shows_what_the_machine_spawns() {
        assert_eq!(
            Text::graph().to_mermaid(),
            "stateDiagram-v2
    state \"machine Line\" as machine_Line
    [*] --> scatter
    scatter --> gather
    scatter --> machine_Line: spawn
    gather --> gather: await ended(line)
    gather --> [*]: done
"
        );
    }
}
