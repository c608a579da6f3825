//! Explores courses of a test: other orders, crashes and lost leases, from a seed.
//!
//! ```text
//!   seed ──► course 0: no fault ──► course 1 ──► … ──► one fails
//!                                                        └──► its choices are taken away, part by
//!                                                             part, while it still fails
//! ```
//!
//! A course is a list of choices, in the order in which the lab asks for them. The choice 0 is what
//! a lab does by itself. A course without choices is therefore the test as it is.
//!
//! Invariant: the same seed leads to the same courses, if the test itself is deterministic.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    future::{Future, IntoFuture, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use gen_durable_postgres::Copies;
use sqlx::PgPool;

use super::lab::{Lab, LabError};
use crate::{engine::by_hand::describe, error::StepError};

/// The courses that are explored, unless the test says otherwise.
const COURSES: u32 = 50;
/// The longest time to close a course's connections.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// The most courses that are tried to find a shorter one.
const SHORTER_MAX: u32 = 100;

tokio::task_local! {
    static COURSE: Arc<Course>;
}

/// Returns the course of the test that runs, if it is explored.
pub(super) fn course() -> Option<Arc<Course>> {
    COURSE.try_with(Arc::clone).ok()
}

/// The choices of a course, by their place in the order of all.
type Choices = BTreeMap<u32, usize>;

/// A course of a test.
pub(super) struct Course {
    taken: Mutex<Taken>,
    /// The time at which the first lab of the exploration began. All begin then.
    began: Arc<OnceLock<SystemTime>>,
    /// Says what the labs of the course have done.
    traces: Mutex<Vec<Trace>>,
}

/// A function that says what a lab has done.
pub(super) type Trace = Box<dyn Fn() -> String + Send>;

struct Taken {
    /// Makes choices, or repeats given ones.
    source: Source,
    /// The next choice's place.
    place: u32,
    /// The choices other than 0, and what they were about.
    choices: Choices,
    words: Vec<String>,
}

enum Source {
    Random(Random),
    Given(Choices),
}

impl Course {
    fn new(source: Source, began: &Arc<OnceLock<SystemTime>>) -> Arc<Self> {
        let taken = Taken { source, place: 0, choices: Choices::new(), words: Vec::new() };
        let (taken, began) = (Mutex::new(taken), Arc::clone(began));
        Arc::new(Self { taken, began, traces: Mutex::default() })
    }

    /// Returns the time at which a lab begins.
    pub(super) fn began(&self) -> Option<SystemTime> {
        self.began.get().copied()
    }

    /// Notes that a lab has begun.
    pub(super) fn begin(&self, at: SystemTime, trace: Trace) {
        self.began.get_or_init(|| at);
        self.traces.lock().unwrap_or_else(PoisonError::into_inner).push(trace);
    }

    fn trace(&self) -> String {
        let traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        traces.iter().map(|trace| trace()).collect::<Vec<_>>().join("\n")
    }

    /// Chooses a number below `among`. `what` says what a choice other than 0 means.
    pub(super) fn choose(&self, among: usize, what: impl FnOnce() -> String) -> usize {
        if among < 2 {
            return 0;
        }
        let mut taken = self.taken();
        let place = taken.place;
        taken.place += 1;
        let chosen = match &mut taken.source {
            Source::Random(random) => random.below(among),
            Source::Given(choices) => choices.get(&place).copied().unwrap_or(0).min(among - 1),
        };
        if chosen > 0 {
            taken.choices.insert(place, chosen);
            let what = what();
            taken.words.push(format!("choice {place}: {what}"));
        }
        chosen
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `SplitMix64`, by Steele, Lea and Flood. A course must be the same with every version of a
/// library.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, among: usize) -> usize {
        let among = u64::try_from(among).unwrap_or(u64::MAX);
        usize::try_from(self.next() % among).unwrap_or(0)
    }
}

/// The result of an exploration in which the test did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explored {
    /// The courses that the test passed.
    pub courses: u32,
}

/// An exploration that is about to begin; see [`Lab::explore`]. It begins when it is awaited.
#[must_use = "an exploration does nothing unless it is awaited"]
pub struct Explore<'d, F> {
    database: &'d PgPool,
    seed: u64,
    courses: u32,
    test: F,
    began: Arc<OnceLock<SystemTime>>,
}

/// The result of a test that is explored. Its error takes any error by `?`, and a text by `into`.
pub type TestResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Lab {
    /// Runs a test in many courses: its instances run in other orders, their process crashes after
    /// a run and before its commit, and their worker loses its lease. If the test fails in one of
    /// them, the error has the seed, the shortest failing course that was found, and what was done
    /// in it. The same seed leads to the same courses.
    ///
    /// Each course has a database of its own, a copy of this one. It holds what was committed
    /// before the exploration. The closure itself starts a lab on it: a lab that a spawned task
    /// starts gets no faults.
    ///
    /// Postgres copies no database that is in use. Therefore all sessions in the original are
    /// ended, those of this pool too: hold no connection of it meanwhile. The pool's login must be
    /// allowed to make databases, to connect to the database `postgres`, and to end sessions. If
    /// the process is killed, databases `gen_durable_lab_…` are left on the server.
    ///
    /// ```no_run
    /// # use gen_durable::{prelude::*, testing::Lab};
    /// # #[durable_fsm(output = ())]
    /// # pub enum Greet { Send }
    /// # #[durable_fsm]
    /// # impl Greet {
    /// #     async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
    /// # }
    /// # async fn shown(database: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// Lab::explore(&database, 42, async |pool| {
    ///     let mut lab = Lab::new(&pool).machine::<Greet>().start().await?;
    ///     let id = Greet::insert(()).execute(&lab).await?;
    ///     lab.run_until_idle().await?;
    ///     lab.assert_done(id, &()).await?;
    ///     Ok(())
    /// })
    /// .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`LabError`] if the test fails or panics in a course, or if the database cannot be copied.
    pub fn explore<F>(database: &PgPool, seed: u64, test: F) -> Explore<'_, F>
    where
        F: AsyncFn(PgPool) -> TestResult,
    {
        Explore { database, seed, courses: COURSES, test, began: Arc::default() }
    }
}

impl<F> Explore<'_, F> {
    /// Sets the number of courses. The default is 50. The first has no faults.
    pub fn courses(mut self, courses: u32) -> Self {
        self.courses = courses;
        self
    }
}

impl<F> Explore<'_, F>
where
    F: AsyncFn(PgPool) -> TestResult,
{
    async fn explore(self) -> Result<Explored, LabError> {
        let copies = Copies::of(self.database).await?;
        let found = self.look(&copies).await;
        let ended = copies.end().await;
        let found = found?;
        ended?;
        Ok(found)
    }

    async fn look(&self, copies: &Copies) -> Result<Explored, LabError> {
        let mut seeds = Random(self.seed);
        for number in 0..self.courses {
            let random = Random(seeds.next());
            let source =
                if number == 0 { Source::Given(Choices::new()) } else { Source::Random(random) };
            let course = Course::new(source, &self.began);
            if let Err(error) = self.run(copies, &course).await? {
                return Err(self.shorten(copies, number, &course, error).await);
            }
        }
        Ok(Explored { courses: self.courses })
    }

    /// Takes choices away for as long as the test fails without them: halves of them at first, and
    /// single ones at last.
    async fn shorten(
        &self,
        copies: &Copies,
        number: u32,
        course: &Course,
        error: String,
    ) -> LabError {
        let (mut shortest, mut words, mut error, mut trace) = {
            let taken = course.taken();
            (taken.choices.clone(), taken.words.clone(), error, course.trace())
        };
        let (mut tried, mut part) = (0, shortest.len().div_ceil(2));
        while part > 0 && tried < SHORTER_MAX {
            let places: Vec<u32> = shortest.keys().copied().collect();
            let mut shorter = None;
            for without in places.chunks(part) {
                let mut choices = shortest.clone();
                choices.retain(|place, _| !without.contains(place));
                let course = Course::new(Source::Given(choices), &self.began);
                tried += 1;
                // If no further copy can be made, what was found so far is the answer.
                if let Ok(Err(other)) = self.run(copies, &course).await {
                    let taken = course.taken();
                    let choices = taken.choices.clone();
                    shorter = Some((choices, taken.words.clone(), other, course.trace()));
                    break;
                }
                if tried == SHORTER_MAX {
                    break;
                }
            }
            match shorter {
                Some(found) if found.0.len() < shortest.len() => {
                    (shortest, words, error, trace) = found;
                    part = part.min(shortest.len().div_ceil(2));
                }
                _ if part == 1 => break,
                _ => part = part.div_ceil(2),
            }
        }
        let mut text = format!("seed {}, course {number}", self.seed);
        if words.is_empty() {
            text.push_str(": the test fails without any fault");
        }
        for word in words {
            let _ = write!(text, "\n  {word}");
        }
        // The error of a lab has a trace.
        if !trace.is_empty() && !error.contains(&trace) {
            let _ = write!(text, "\n{trace}");
        }
        let what = format!("the test fails: {error}");
        LabError::failed(what, format!("The shortest course found: {text}"))
    }

    /// Runs the test in a course, on a copy of its own. Returns the test's error.
    async fn run(
        &self,
        copies: &Copies,
        course: &Arc<Course>,
    ) -> Result<Result<(), String>, LabError> {
        let copy = copies.make().await?;
        let options = self.database.connect_options().as_ref().clone().database(&copy);
        let pool = self.database.options().clone().connect_lazy_with(options);
        let result = {
            let mut test = pin!(COURSE.scope(Arc::clone(course), (self.test)(pool.clone())));
            // A panic is a failure of the test as well.
            poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| test.as_mut().poll(cx))) {
                Ok(polled) => {
                    polled.map(|result| result.map_err(|error| describe(&StepError::from(error))))
                }
                Err(panic) => std::task::Poll::Ready(Err(panic_text(&*panic))),
            })
            .await
        };
        // A connection that the test has leaked is ended with the database.
        let _ = tokio::time::timeout(CLOSE_MAX, pool.close()).await;
        Ok(result)
    }
}

impl<'d, F> IntoFuture for Explore<'d, F>
where
    F: AsyncFn(PgPool) -> TestResult + 'd,
{
    type Output = Result<Explored, LabError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + 'd>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.explore())
    }
}

impl<F> std::fmt::Debug for Explore<'_, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explore")
            .field("seed", &self.seed)
            .field("courses", &self.courses)
            .finish_non_exhaustive()
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked with a value that is not text")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_choices_are_repeated_and_random_ones_are_recorded() {
        let new = |source| Course::new(source, &Arc::default());
        let random = new(Source::Random(Random(7)));
        let ask = |course: &Course| -> Vec<usize> {
            (0..20).map(|n| course.choose(1 + n % 5, || "a choice".to_owned())).collect()
        };
        let first = ask(&random);
        let choices = random.taken().choices.clone();
        assert_eq!(choices.len(), first.iter().filter(|choice| **choice > 0).count());
        assert!(choices.len() > 3, "{first:?}");
        assert_eq!(ask(&new(Source::Given(choices))), first);
        assert_eq!(ask(&new(Source::Given(Choices::new()))), [0; 20]);
        assert_eq!(ask(&new(Source::Random(Random(7)))), first);
    }
}
