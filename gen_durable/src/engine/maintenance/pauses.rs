//! Keeps this engine's knowledge of what is paused, ends pauses whose time is over, and frees the
//! rows of pauses that have ended.
//!
//! Invariant: a mark that is left over is found within a minute, whatever became of the engine that
//! was to free it.

use std::time::{Duration, Instant};

use super::Database;
use crate::engine::pauses::{self, Left};

/// The longest time between two looks, if nothing is known to be paused.
const LOOK_MAX: Duration = Duration::from_mins(1);
/// The time after which a pause is ended again whose row was locked.
const AGAIN: Duration = Duration::from_millis(500);
/// The same for rows to be freed, at first and at most. A claim locks a row for some milliseconds.
const LOCKED: Duration = Duration::from_millis(20);
const LOCKED_MAX: Duration = Duration::from_secs(1);

/// The times of the looks.
pub(super) struct Looks {
    last: Option<Instant>,
    /// The time at which a pause ends by itself.
    end: Option<Instant>,
    /// The time after which rows of pauses that have ended are freed that were left.
    left: Option<Duration>,
    /// Without announcements, each round looks.
    listens: bool,
}

impl Looks {
    pub(super) fn new(listens: bool) -> Self {
        Self { last: None, end: None, left: None, listens }
    }

    /// True if there is more to do at once.
    pub(super) fn has_more(&self) -> bool {
        self.left == Some(Duration::ZERO)
    }

    fn ends_in(&mut self, ends_in: Option<Duration>) {
        let now = Instant::now();
        self.end = ends_in.map(|left| now + if left.is_zero() { AGAIN } else { left });
    }

    /// Returns the time until the next look is due, or this time if that is shorter.
    pub(super) fn until_next(&self, pause: Duration) -> Duration {
        let end = self.end.map(|end| end.saturating_duration_since(Instant::now()));
        let pause = end.map_or(pause, |end| pause.min(end));
        self.left.map_or(pause, |left| pause.min(left))
    }
}

/// Looks at what is paused, if a look is due, and frees rows of pauses that have ended. Only with
/// `maintenance` it ends pauses.
pub(super) async fn run_once(
    database: &Database,
    looks: &mut Looks,
    maintenance: bool,
) -> Result<(), sqlx::Error> {
    let Some(shared) = database.engine.upgrade() else { return Ok(()) };
    let now = Instant::now();
    let told = shared.pauses.take_told();
    let ends = looks.end.is_some_and(|end| end <= now);
    let overdue = looks.last.is_none_or(|last| now.duration_since(last) >= LOOK_MAX);
    let left = looks.left.take();
    if !(told || ends || overdue || left.is_some() || !looks.listens || shared.pauses.any()) {
        return Ok(());
    }
    let looked = async {
        let (ends_in, changed) = pauses::look(&shared).await?;
        looks.ends_in(ends_in);
        if told || ends || overdue || changed || left.is_some() {
            // Marks of this engine's own are cleared also without `maintenance`.
            let over = maintenance && ends_in == Some(Duration::ZERO);
            looks.left = match pauses::tidy(&shared, over).await? {
                Left::Nothing => None,
                Left::More => Some(Duration::ZERO),
                Left::Locked => {
                    Some(left.map_or(LOCKED, |left| (left * 2).clamp(LOCKED, LOCKED_MAX)))
                }
            };
            if over {
                // Pauses of others may be next, and the scopes that have ended are known no more.
                looks.ends_in(pauses::look(&shared).await?.0);
            }
        }
        if overdue && !changed {
            shared.pauses.forget_all();
        }
        looks.last = Some(now);
        Ok(())
    };
    let result = looked.await;
    if result.is_err() {
        shared.pauses.tell();
    }
    result
}
