//! Jobs: machines of one step that are written as a function.
//!
//! Invariant: a job owns its arguments while it runs, and what is stored of them stays as it was inserted.

use std::{fmt, sync::Arc};

use crate::{
    context::{Context, Instance, Received},
    machine::Machine,
    outcome::{Outcome, Transition},
};

/// Owned by a job while it runs: its arguments, and what is known of the run.
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
///     mailer.send(&cx.state.to, cx.id()).await
/// }
///
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder(pool).machine::<SendMail>().queue("mail", 10).resource(Mailer).start().await?;
/// SendMail::insert(Mail { to: "ada@example.com".to_owned() }).execute(&engine).await?;
/// # Ok(())
/// # }
/// ```
pub struct JobContext<S = ()> {
    /// The arguments, as they were inserted.
    pub state: S,
    instance: Arc<Instance>,
}

impl<S> JobContext<S> {
    /// The instance's id: the same in each run, so that others can tell a repetition by it.
    pub fn id(&self) -> i64 {
        self.instance.id
    }

    /// How many runs came before this one.
    pub fn attempt(&self) -> u32 {
        self.instance.attempt
    }

    /// The queue that the job runs in.
    pub fn queue(&self) -> &str {
        &self.instance.queue
    }

    /// The partition key that it was inserted with.
    pub fn partition_key(&self) -> Option<&str> {
        self.instance.partition_key.as_deref()
    }
}

/// Prints no arguments: they may be confidential.
impl<S> fmt::Debug for JobContext<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// What is left of a step's context while its job runs: the way to end.
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
}

/// Splits the context of a job's step.
pub fn job<M: Machine>(cx: Context<M>) -> (JobContext<M::State>, JobEnd) {
    let (state, instance, inbox) = cx.into_parts();
    (JobContext { state, instance }, JobEnd { inbox })
}
