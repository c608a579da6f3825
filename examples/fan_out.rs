//! Fan-out and join: a parent inserts a child for each line of a text. Each child counts the words
//! of its line, and the parent adds up their answers.
//!
//! ```text
//! cargo run --example fan_out
//! ```
//!
//! The engine knows nothing of parents and children. The parent's outcome carries inserts, and a
//! child's carries a signal. Each is committed with its outcome: exactly once, or not at all.

use std::time::Duration;

use gen_durable::prelude::*;
use gen_durable_examples::{Error, Session};

#[derive(Default, DurableState)]
struct TextState {
    lines: Vec<String>,
    /// The number of answers that the parent waits for: one for each line.
    children: u32,
    heard: u32,
    words: u64,
    /// The numbers of the lines whose words could not be counted.
    failed: Vec<u32>,
}

/// A child's answer about its line.
#[derive(DurableSignal)]
struct LineEnded {
    line: u32,
    /// The number of words; none if the child failed. A join must hear of failures too, or it waits
    /// for ever.
    words: Option<u64>,
}

#[derive(Debug, PartialEq, DurableState)]
struct Report {
    words: u64,
    failed: Vec<u32>,
}

#[durable_fsm(state = TextState, output = Report, signals(LineEnded))]
enum Text {
    Scatter,
    Gather,
}

#[durable_fsm]
impl Text {
    async fn scatter(mut cx: Context<Self>) -> Outcome<Self> {
        let parent = cx.id();
        let lines = std::mem::take(&mut cx.state.lines);
        let mut children: Vec<_> = (0..)
            .zip(lines)
            .map(|(line, text)| Line::insert(LineState { parent, line, text }))
            .collect();
        cx.state.children = u32::try_from(children.len()).unwrap_or(u32::MAX);
        // One line has two children by mistake. Both answer, and the join must count one of them.
        children.push(Line::insert(LineState { parent, line: 0, text: "no more".to_owned() }));
        println!("  scatter: {} children", children.len());
        cx.next(Text::Gather).insert_many(children)
    }

    // Runs whenever a signal has arrived. One commit removes the signals that it takes and stores
    // the new sums. A crash between two signals therefore neither loses one nor counts one twice.
    async fn gather(mut cx: Context<Self>) -> StepResult<Self> {
        while let Some(ended) = cx.take_signal::<LineEnded>()? {
            cx.state.heard += 1;
            match ended.words {
                Some(words) => cx.state.words += words,
                None => cx.state.failed.push(ended.line),
            }
        }
        println!("  gather: heard from {} of {}", cx.state.heard, cx.state.children);
        if cx.state.heard < cx.state.children {
            return Ok(cx.await_signal::<LineEnded>());
        }
        let report = Report { words: cx.state.words, failed: cx.state.failed.clone() };
        Ok(cx.done(report))
    }
}

#[derive(DurableState)]
struct LineState {
    parent: InstanceId<Text>,
    line: u32,
    text: String,
}

impl LineState {
    /// The answer to the parent, with the line as its deduplication key. The parent ever accepts
    /// one signal with this key: if two children count one line, it hears one of them.
    fn answer(&self, words: Option<u64>) -> Signal<Text> {
        Text::signal_line_ended(self.parent, LineEnded { line: self.line, words })
            .dedup_key(format!("line:{}", self.line))
    }
}

/// A line has a token that is not a word.
#[derive(Debug, thiserror::Error)]
#[error("line {0} is not made of words")]
struct NotWords(u32);

#[durable_fsm(state = LineState, output = ())]
enum Line {
    Count,
}

#[durable_fsm]
impl Line {
    async fn count(cx: Context<Self>) -> Result<Outcome<Self>, NotWords> {
        let words: Vec<_> = cx.state.text.split_whitespace().collect();
        if words.iter().any(|word| !word.chars().all(char::is_alphabetic)) {
            return Err(NotWords(cx.state.line));
        }
        let answer = cx.state.answer(Some(words.len() as u64));
        // The pause lets the children answer one after another, so that the output shows each.
        tokio::time::sleep(Duration::from_millis(50) * cx.state.line).await;
        Ok(cx.done(()).signal(answer))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        let answer = cx.state.answer(None);
        cx.stop(error).signal(answer)
    }
}

const LINES: [&str; 8] = [
    "no more",
    "but crushed and wet",
    "the red leaf waits",
    "0x7c00",
    "for one that falls beside it",
    "and both",
    "go down the river",
    "without a word",
];

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;
    let engine = Engine::builder(session.pool.clone())
        .machine::<Text>()
        .machine::<Line>()
        .queue("default", 4)
        .start()
        .await?;

    let lines = LINES.map(str::to_owned).to_vec();
    let id = Text::insert(TextState { lines, ..Default::default() }).execute(&engine).await?;
    println!("instance {id} inserted, with {} lines", LINES.len());
    let report = engine.wait(id, Duration::from_secs(30)).await?;
    println!("{report:?}");
    engine.shutdown().await?;

    let is_text = |line: &&str| !line.contains("0x");
    let words: usize =
        LINES.iter().filter(|line| is_text(line)).map(|line| line.split(' ').count()).sum();
    assert_eq!(report, Report { words: words as u64, failed: vec![3] });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graphs_show_what_the_machines_send_each_other() {
        assert_eq!(
            Text::graph().to_mermaid(),
            "stateDiagram-v2
    state \"machine Line\" as machine_Line
    [*] --> scatter
    scatter --> gather
    scatter --> machine_Line: insert
    gather --> gather: await line_ended
    gather --> [*]: done
"
        );
        // Another function makes the signals. The macro does not read it, so the graph does not
        // name their machine.
        assert_eq!(
            Line::graph().to_mermaid(),
            "stateDiagram-v2
    state \"an error in any step\" as handle
    state \"another machine\" as another_machine
    [*] --> count
    count --> [*]: done
    count --> another_machine: signal
    handle --> [*]: stop
    handle --> another_machine: signal
"
        );
    }
}
