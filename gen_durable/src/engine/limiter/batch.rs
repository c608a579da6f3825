//! A batch of the limiter: asks for the turns of runs, tells of ended ones, and holds back the rows
//! that find no room.
//!
//! Invariant: the batches of an engine come one after the other, and each statement has a number.
//! Each run that asks gets one answer.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    super::{lease::Lease, outage::no_connection},
    book::{Book, Said, Told, Turn},
};
use crate::{
    connections::Connections,
    error::Cause,
    group,
    storage::{self, Bounds, BucketAnswer, BucketAsk, HeldRow},
};

/// The most buckets of which one statement tells the ends of runs alone.
const ENDS_MAX: usize = 500;

/// A run that asks for its turn.
pub(super) struct Ask {
    pub(super) id: i64,
    pub(super) revision: i64,
    pub(super) worker: i64,
    pub(super) bucket: Arc<str>,
    pub(super) limit: &'static str,
    pub(super) weight: u32,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// The answer to a run.
pub(super) enum Answer {
    /// It may begin after this delay.
    Admitted(Turn, Duration),
    /// It has no room, and its row waits. `gone` says that the row is given back.
    HeldBack { gone: bool },
    /// Nothing is known, and the row is as it was.
    Left,
}

/// An item of a batch.
pub(super) enum Item {
    Ask(Ask),
    /// The ends of runs that are due are told. The answer is false if that failed.
    Settle(oneshot::Sender<bool>),
}

impl group::Item for Item {
    fn weight(&self) -> usize {
        match self {
            Self::Ask(ask) => 64 + ask.bucket.len(),
            Self::Settle(_) => 64,
        }
    }
}

/// The parts of an engine that a batch needs.
pub(super) struct Parts {
    pub(super) book: Arc<Book>,
    pub(super) connections: Connections,
    pub(super) lease: Arc<Lease>,
    /// A run may be admitted this much before its time.
    pub(super) ahead: Duration,
}

/// The questions about one bucket in one statement.
struct Question {
    said: Said,
    weight: u32,
    asks: Vec<Ask>,
}

/// Runs a batch.
pub(super) async fn run(parts: &Parts, items: Vec<Item>) {
    let worker = parts.lease.worker();
    let mut waiting: BTreeMap<Arc<str>, VecDeque<Ask>> = BTreeMap::new();
    let mut settling = Vec::new();
    for item in items {
        match item {
            Item::Settle(done) => settling.push(done),
            // Another worker may have the row by now.
            Item::Ask(ask) if ask.worker != worker => drop(ask.answer.send(Answer::Left)),
            Item::Ask(ask) => waiting.entry(Arc::clone(&ask.bucket)).or_default().push_back(ask),
        }
    }
    let (mut settled, mut refused) = (true, Vec::new());
    let mut number = parts.book.begin(worker);
    // Once, as ends that could not be told are listed again.
    let mut ends = if settling.is_empty() { Vec::new() } else { parts.book.take_due(ENDS_MAX) };
    loop {
        let mut questions = next(&parts.book, &mut waiting);
        let asked: HashSet<_> =
            questions.iter().map(|question| Arc::clone(&question.said.bucket)).collect();
        let ends = ends.drain(..).filter(|said| !asked.contains(&said.bucket));
        questions.extend(ends.map(|said| Question { said, weight: 1, asks: Vec::new() }));
        questions.sort_by(|one, other| one.said.bucket.cmp(&other.said.bucket));
        if questions.is_empty() {
            break;
        }
        settled &= ask(parts, worker, number, questions, &mut refused).await;
        number = parts.book.begin(worker);
    }
    if !refused.is_empty() {
        hold_back(parts, worker, refused).await;
        // The look that follows finds out when there is room.
        parts.book.wake.notify_one();
    }
    for done in settling {
        let _ = done.send(settled);
    }
}

/// Takes the next question about each bucket: the first runs of one weight that ask.
fn next(book: &Book, waiting: &mut BTreeMap<Arc<str>, VecDeque<Ask>>) -> Vec<Question> {
    let mut questions = Vec::with_capacity(waiting.len());
    waiting.retain(|bucket, asks| {
        let Some(first) = asks.front() else { return false };
        let (weight, limit) = (first.weight, first.limit);
        let same = asks.iter().take_while(|ask| ask.weight == weight).count();
        let said = Said { bucket: Arc::clone(bucket), limit, running: book.running(bucket) };
        questions.push(Question { said, weight, asks: asks.drain(..same).collect() });
        !asks.is_empty()
    });
    questions
}

/// Asks the database, and answers the runs that were admitted. The others are `refused`. False if
/// a question got no answer.
async fn ask(
    parts: &Parts,
    worker: i64,
    number: i64,
    questions: Vec<Question>,
    refused: &mut Vec<Ask>,
) -> bool {
    let answers = match answers(parts, worker, number, &questions).await {
        Ok(answers) => answers,
        Err(error) => {
            tracing::debug!(error = %Cause(&error), "limited steps got no turn");
            for question in questions {
                leave(&parts.book, question);
            }
            return false;
        }
    };
    let mut all = true;
    for (question, answer) in questions.into_iter().zip(answers) {
        if let Some(answer) = answer {
            follow(parts, worker, question, &answer, refused);
        } else {
            // The worker's lease has run out, or the bucket was deleted at this moment.
            leave(&parts.book, question);
            all = false;
        }
    }
    all
}

/// Gives back the runs of a question that has no answer.
fn leave(book: &Book, question: Question) {
    book.doubt(&question.said.bucket, question.said.limit);
    for ask in question.asks {
        let _ = ask.answer.send(Answer::Left);
    }
}

/// Returns the answer to each question. Buckets that have no row are added.
async fn answers(
    parts: &Parts,
    worker: i64,
    number: i64,
    questions: &[Question],
) -> Result<Vec<Option<BucketAnswer>>, sqlx::Error> {
    let ahead = i64::try_from(parts.ahead.as_micros()).unwrap_or(0);
    let asks: Vec<BucketAsk<'_>> = questions
        .iter()
        .map(|question| BucketAsk {
            bucket: &question.said.bucket,
            limit: question.said.limit,
            mine: question.said.running,
            weight: question.weight,
            ids: question.asks.iter().map(|ask| ask.id).collect(),
        })
        .collect();
    let mut answers: Vec<Option<BucketAnswer>> = questions.iter().map(|_| None).collect();
    let mut connection = parts.connections.get().await.map_err(no_connection)?;
    let asking = async {
        for answer in storage::take_turns(&mut connection, worker, number, &asks, ahead).await? {
            let place = answer.place;
            answers[place] = Some(answer);
        }
        let missing: Vec<usize> =
            (0..asks.len()).filter(|place| answers[*place].is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<_> =
            missing.iter().map(|place| (asks[*place].bucket, asks[*place].limit)).collect();
        storage::add_buckets(&mut connection, &names).await?;
        let again: Vec<_> = missing
            .iter()
            .map(|place| BucketAsk { ids: asks[*place].ids.clone(), ..asks[*place] })
            .collect();
        for answer in storage::take_turns(&mut connection, worker, number, &again, ahead).await? {
            let place = missing[answer.place];
            answers[place] = Some(answer);
        }
        Ok(())
    };
    let result = parts.connections.within(asking).await;
    connection.done(result)?;
    Ok(answers)
}

/// Notes the answer of a bucket, and answers the runs that were admitted.
fn follow(
    parts: &Parts,
    worker: i64,
    question: Question,
    answer: &BucketAnswer,
    refused: &mut Vec<Ask>,
) {
    let Question { said, weight, asks } = question;
    let told = Told {
        bucket: said.bucket,
        limit: said.limit,
        said: said.running,
        weight: weight.into(),
        admitted: answer.admitted.len(),
        waited: answer.waited,
        full: answer.bounds.at_once.is_some_and(|most| answer.held * 2 > i64::from(most)),
    };
    let mut turns = parts.book.note(worker, &told).into_iter();
    for ask in asks {
        let place = answer.admitted.iter().position(|id| *id == ask.id);
        match place {
            None => refused.push(ask),
            Some(place) => {
                let delay = delay(answer, weight, place);
                let answer = turns.next().map(|turn| Answer::Admitted(turn, delay));
                // If the run is gone, its turn is dropped here.
                let _ = ask.answer.send(answer.unwrap_or(Answer::Left));
            }
        }
    }
}

/// Returns the time until the run at this place among the admitted ones may begin: until all that
/// was admitted up to it fits into a burst.
fn delay(answer: &BucketAnswer, weight: u32, place: usize) -> Duration {
    let Bounds { starts: Some(starts), period: Some(period), burst: Some(burst), .. } =
        answer.bounds
    else {
        return Duration::ZERO;
    };
    let (starts, period, burst) = (i128::from(starts), i128::from(period), i128::from(burst));
    let after = i128::try_from(answer.admitted.len() - place - 1).unwrap_or(0);
    let beyond = i128::from(answer.used) * starts - (after * i128::from(weight) + burst) * period;
    let micros = (beyond + starts - 1).div_euclid(starts.max(1));
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Takes rows that have no room out of the claim's index, and answers their runs.
async fn hold_back(parts: &Parts, worker: i64, refused: Vec<Ask>) {
    let rows: Vec<HeldRow<'_>> = refused
        .iter()
        .map(|ask| HeldRow {
            id: ask.id,
            revision: ask.revision,
            bucket: &ask.bucket,
            weight: ask.weight,
        })
        .collect();
    let holding = async {
        let mut connection = parts.connections.get().await.map_err(no_connection)?;
        let hold = storage::hold_back(&mut connection, worker, &rows);
        let result = parts.connections.within(hold).await;
        connection.done(result)
    };
    let marked: BTreeMap<i64, bool> = match holding.await {
        Ok(marked) => marked.into_iter().collect(),
        // Rows without a mark are given back, claimed again, and ask again.
        Err(error) => {
            tracing::debug!(rows = rows.len(), error = %Cause(&error), "rows without room stay unmarked");
            BTreeMap::new()
        }
    };
    for ask in refused {
        let answer = match marked.get(&ask.id) {
            Some(gone) => Answer::HeldBack { gone: *gone },
            None => Answer::Left,
        };
        let _ = ask.answer.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred starts in a second, three at once, and four that were admitted.
    fn answer(used: i64) -> BucketAnswer {
        BucketAnswer {
            place: 0,
            admitted: vec![1, 2, 3, 4],
            waited: false,
            used,
            held: 4,
            bounds: Bounds {
                at_once: None,
                starts: Some(100),
                period: Some(1_000_000),
                burst: Some(3),
            },
        }
    }

    #[test]
    fn runs_beyond_the_burst_begin_one_after_the_other() {
        let delays = |used| (0..4).map(move |place| delay(&answer(used), 1, place).as_micros());
        assert_eq!(delays(40_000).collect::<Vec<_>>(), [0, 0, 0, 10_000]);
        assert_eq!(delays(65_000).collect::<Vec<_>>(), [5_000, 15_000, 25_000, 35_000]);
    }

    #[test]
    fn a_delay_is_rounded_up() {
        let mut thirds = answer(40_001);
        thirds.bounds.starts = Some(3);
        thirds.bounds.period = Some(100);
        thirds.bounds.burst = Some(1);
        assert_eq!(delay(&thirds, 1, 3).as_micros(), 39_968);
    }
}
