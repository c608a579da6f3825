//! Jobs: machines of one step that are written as a function.
//!
//! Invariant: a job owns its arguments while it runs. The stored ones stay as they were inserted.

use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Machine,
    context::{Context, Instance, Received},
    outcome::{Outcome, Transition},
};
use crate::id::InstanceId;

/// The arguments of a job, and the facts about its run. The job owns them while it runs.
///
/// ```
/// use gen_durable::prelude::*;
///
/// #[derive(Clone, Debug, DurableState)]
/// pub struct Mail {
///     to: String,
/// }
///
/// pub struct Mailer;
///
/// impl Mailer {
///     async fn send(&self, to: &str, key: i64) -> std::io::Result<()> {
///         # let _ = (to, key);
///         Ok(())
///     }
/// }
///
/// #[durable_job(queue = "mail", retry(max_attempts = 5))]
/// async fn send_mail(cx: JobContext<Mail>, mailer: &Mailer) -> Result<(), std::io::Error> {
///     // The id is the same in each run: the receiver can tell a repetition by it.
///     mailer.send(&cx.state.to, cx.id().get()).await
/// }
///
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder(pool)
///     .machine::<SendMail>()
///     .queue("mail", 10)
///     .resource(Mailer)
///     .start()
///     .await?;
/// SendMail::insert(Mail { to: "ada@example.com".to_owned() }).execute(&engine).await?;
/// # Ok(())
/// # }
/// ```
pub struct JobContext<S = (), M = Job> {
    /// The arguments, as they were inserted.
    pub state: S,
    instance: Arc<Instance>,
    machine: PhantomData<fn() -> M>,
}

/// The machine of a job whose context does not name it: `JobContext<Mail>` stands for
/// `JobContext<Mail, Job>`.
#[derive(Clone, Copy, Debug)]
pub enum Job {}

impl<S, M> JobContext<S, M> {
    /// Returns the instance's id. It is the same in each run, so others can tell a repetition by
    /// it.
    ///
    /// The id is of the machine that the context names: of `SendMail` for
    /// `JobContext<Mail, SendMail>`. A `JobContext<Mail>` names none: its id is a number without a
    /// machine, [`get`](InstanceId::get).
    pub fn id(&self) -> InstanceId<M> {
        InstanceId::from_raw(self.instance.id)
    }

    /// Returns the number of runs before this one. A `snooze` adds none.
    pub fn attempt(&self) -> u32 {
        self.instance.attempt
    }

    /// Returns the number of runs that failed in a row, just before this one; see
    /// [`Context::failures`](crate::Context::failures).
    pub fn failures(&self) -> u32 {
        self.instance.failures
    }

    /// Returns the database's time at the claim of this job; see
    /// [`Context::now`](crate::Context::now).
    pub fn now(&self) -> SystemTime {
        self.instance.claimed_at
    }

    /// Ends the job with its result. A job that may also run again returns this.
    pub fn done<T>(self, result: T) -> JobOutcome<T> {
        JobOutcome(Decision::Done(result))
    }

    /// Runs the job again after `delay`, at the same attempt: this is how a job polls.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use gen_durable::prelude::*;
    /// # pub struct Bank;
    /// # impl Bank {
    /// #     async fn receipt(&self, _: i64) -> std::io::Result<Option<String>> { Ok(None) }
    /// # }
    ///
    /// #[durable_job(retry(max_attempts = 5))]
    /// async fn settle(
    ///     cx: JobContext<i64>,
    ///     bank: &Bank,
    /// ) -> Result<JobOutcome<String>, std::io::Error> {
    ///     Ok(match bank.receipt(cx.state).await? {
    ///         Some(receipt) => cx.done(receipt),
    ///         None => cx.snooze(Duration::from_mins(1)),
    ///     })
    /// }
    /// ```
    pub fn snooze<T>(self, delay: Duration) -> JobOutcome<T> {
        JobOutcome(Decision::Snooze(delay))
    }

    /// Runs the job again after `delay`, with one more attempt.
    pub fn replay<T>(self, delay: Duration) -> JobOutcome<T> {
        JobOutcome(Decision::Replay(delay))
    }

    /// Returns the queue that the job runs in.
    pub fn queue(&self) -> &str {
        &self.instance.queue
    }

    /// Returns the partition key that the job was inserted with.
    pub fn partition_key(&self) -> Option<&str> {
        self.instance.partition_key.as_deref()
    }
}

/// The return type of a job that may run again. [`JobContext::done`], [`JobContext::snooze`] and
/// [`JobContext::replay`] make it.
#[must_use = "an outcome takes effect only if the job returns it"]
pub struct JobOutcome<T>(Decision<T>);

enum Decision<T> {
    Done(T),
    Snooze(Duration),
    Replay(Duration),
}

/// Prints no result, as it may be confidential.
impl<T> fmt::Debug for JobOutcome<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Decision::Done(_) => f.write_str("JobOutcome(done)"),
            Decision::Snooze(delay) => write!(f, "JobOutcome(snooze({delay:?}))"),
            Decision::Replay(delay) => write!(f, "JobOutcome(replay({delay:?}))"),
        }
    }
}

/// Prints no arguments, as they may be confidential.
impl<S, M> fmt::Debug for JobContext<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// The rest of a step's context while its job runs: it makes the outcome at the end.
pub struct JobEnd {
    inbox: Vec<Received>,
}

impl fmt::Debug for JobEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobEnd").field("inbox", &self.inbox.len()).finish()
    }
}

impl JobEnd {
    /// Ends the instance with its result.
    pub fn done<M: Machine>(self, output: M::Output) -> Outcome<M> {
        Outcome::new(Transition::Done(output), None, self.inbox)
    }

    /// Ends the instance, or runs it again.
    pub fn decide<M: Machine>(self, outcome: JobOutcome<M::Output>) -> Outcome<M> {
        let transition = match outcome.0 {
            Decision::Done(output) => Transition::Done(output),
            Decision::Snooze(delay) => Transition::Snooze { delay },
            Decision::Replay(delay) => Transition::Replay { delay },
        };
        Outcome::new(transition, None, self.inbox)
    }
}

/// The machines that the context of a job of `M` may name: `M`, or none.
#[diagnostic::on_unimplemented(
    message = "the context of a job of `{M}` names another machine, `{Self}`",
    label = "takes the context of another machine's job",
    note = "write `JobContext<Mail, {M}>` with the type of its arguments, or `JobContext<Mail>`"
)]
pub trait JobOf<M> {}

impl<M: Machine> JobOf<M> for M {}
impl<M: Machine> JobOf<M> for Job {}

/// Splits the context of a job's step.
pub fn job<M: Machine, N: JobOf<M>>(cx: Context<M>) -> (JobContext<M::State, N>, JobEnd) {
    let (state, instance, inbox) = cx.into_parts();
    (JobContext { state, instance, machine: PhantomData }, JobEnd { inbox })
}
