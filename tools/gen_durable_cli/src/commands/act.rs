//! `cancel`, `kill`, `pause`, `resume`, `retry`, `run-now`, `delete`: the actions on instances.
//!
//! Invariant: an instance that is named is acted on by itself, and a failure of one holds up no
//! other. The instances that a filter chooses are acted on in batches, after a preview.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use gen_durable::{
    Client,
    operate::{Cancelled, Counts, Instances, Resumed},
};
use serde_json::value::RawValue;

use super::insert::value;
use crate::{
    choice::{Address, Choice, Chosen},
    confirm::confirm,
    connect::Database,
    failure::{Failure, Kind},
    operator::Operator,
    print::{Object, Out, note},
    when,
};

/// An action.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Act {
    /// Ask instances to end: their machines may answer with a step.
    #[command(after_help = "\
Example:
  gen-durable cancel 42 --reason 'changed his mind'
  gen-durable cancel --machine order --step await_pay --changed-before 7d")]
    Cancel(Plain),
    /// End instances at once, without asking their machines.
    #[command(after_help = "\
Example:
  gen-durable kill 42 --reason 'it loops'")]
    Kill(Plain),
    /// Keep instances from running, until they are resumed or a time has come.
    #[command(after_help = "\
Queues, machines and steps are paused by `gen-durable queues pause` and `gen-durable machines pause`.

Example:
  gen-durable pause 42 --until 2h --reason 'the bank is down'")]
    Pause(Pause),
    /// End the pauses of instances.
    #[command(after_help = "\
Example:
  gen-durable resume 42 43")]
    Resume(Plain),
    /// Return failed and cancelled instances to the steps where they stand.
    #[command(after_help = "\
Example:
  gen-durable retry 42
  gen-durable retry --machine order --step ship --status failed --yes --reason 'the carrier is back'
  gen-durable ls --status failed -o ids | xargs -r gen-durable retry")]
    Retry(Retry),
    /// Make delayed instances due now.
    #[command(after_help = "\
Example:
  gen-durable run-now 42")]
    RunNow(Plain),
    /// Delete ended instances, with their history.
    #[command(after_help = "\
Example:
  gen-durable delete --machine import --status done --changed-before 30d --dry-run")]
    Delete(Plain),
}

/// An action without options of its own.
#[derive(Debug, clap::Args)]
pub(crate) struct Plain {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    operator: Operator,
}

/// The pause of instances.
#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    /// The end of the pause: RFC 3339, or 2h for two hours from now.
    #[arg(long, value_name = "TIME", value_parser = when::future)]
    until: Option<SystemTime>,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    operator: Operator,
}

/// The retry of instances.
#[derive(Debug, clap::Args)]
pub(crate) struct Retry {
    /// Send them to this step, and not to the one where they stand.
    #[arg(long, value_name = "STEP")]
    at: Option<String>,
    /// Give them this state, as JSON, or - to read it from standard input.
    #[arg(long, value_name = "JSON")]
    with_state: Option<String>,
    /// Forget the deduplication keys that they have accepted.
    #[arg(long)]
    forget_dedup_keys: bool,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    operator: Operator,
}

/// The deed of an action.
#[derive(Debug)]
enum Deed {
    Cancel,
    Kill,
    Pause { until: Option<SystemTime> },
    Resume,
    Retry { at: Option<String>, state: Option<Box<RawValue>>, forgets: bool },
    RunNow,
    Delete,
}

impl Act {
    pub(crate) async fn run(self, database: &Database, out: &mut Out) -> Result<(), Failure> {
        let (deed, choice, operator) = match self {
            Self::Cancel(Plain { choice, operator }) => (Deed::Cancel, choice, operator),
            Self::Kill(Plain { choice, operator }) => (Deed::Kill, choice, operator),
            Self::Resume(Plain { choice, operator }) => (Deed::Resume, choice, operator),
            Self::RunNow(Plain { choice, operator }) => (Deed::RunNow, choice, operator),
            Self::Delete(Plain { choice, operator }) => (Deed::Delete, choice, operator),
            Self::Pause(Pause { until, choice, operator }) => {
                (Deed::Pause { until }, choice, operator)
            }
            Self::Retry(retry) => {
                let Retry { at, forget_dedup_keys: forgets, .. } = retry;
                let from_input = retry.with_state.as_deref() == Some("-");
                if from_input && retry.choice.targets.iter().any(|target| target == "-") {
                    return Err(Failure::usage(
                        "standard input cannot have the state and the instances",
                    ));
                }
                let state = retry.with_state.as_deref().map(value).transpose()?;
                (Deed::Retry { at, state, forgets }, retry.choice, retry.operator)
            }
        };
        match choice.chosen()? {
            Chosen::Named(addresses) => {
                let client = database.client().await?;
                each(&addresses, async |address: &Address| {
                    let id = address.id(&client).await?;
                    let answer = deed.one(&client, id, &operator).await?;
                    let object = || Object::new().with("id", id).with("answer", answer);
                    out.answer(&format!("instance {id}: {answer}"), object, Some(id))
                })
                .await
            }
            Chosen::Fitting => {
                let verb = deed.verb();
                if matches!(&deed, Deed::Retry { at, state, .. } if at.is_some() || state.is_some())
                {
                    return Err(Failure::usage(
                        "--at and --with-state are for instances that are named; name them by \
                         `gen-durable ls … -o ids | xargs -r gen-durable retry --at …`",
                    ));
                }
                out.no_ids(&format!("{verb} with a filter"))?;
                let client = database.client().await?;
                if !confirm(verb, &choice, &client, out).await? {
                    return Ok(());
                }
                let counts =
                    deed.all(&choice.filter.instances(&client), &client, &operator).await?;
                tell(counts, verb, out)
            }
        }
    }
}

/// Prints the counts of an action on many instances.
fn tell(counts: Counts, verb: &str, out: &mut Out) -> Result<(), Failure> {
    let rest = match counts.left_alone {
        0 => String::new(),
        left => format!(", {left} left alone, as they cannot or need not change"),
    };
    let said = format!("{verb}: {} done{rest}", counts.done);
    let object = || {
        Object::new()
            .with("done", counts.done)
            .with("left_alone", counts.left_alone)
            .with("locked", counts.locked)
            .with("stopped", counts.stopped)
    };
    out.answer(&said, object, None)?;
    if counts.stopped {
        let text = "interrupted; the same command goes on with the rest";
        return Err(Failure::new(Kind::Interrupted, text));
    }
    if counts.locked > 0 {
        return Err(Failure::new(
            Kind::Failed,
            format!(
                "{} instances are locked by other transactions; try again when those have ended",
                counts.locked
            ),
        ));
    }
    Ok(())
}

impl Deed {
    /// Returns the name of the command.
    fn verb(&self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Kill => "kill",
            Self::Pause { .. } => "pause",
            Self::Resume => "resume",
            Self::Retry { .. } => "retry",
            Self::RunNow => "run-now",
            Self::Delete => "delete",
        }
    }

    /// Acts on one instance. Returns the answer in words.
    async fn one(
        &self,
        client: &Client,
        id: i64,
        operator: &Operator,
    ) -> Result<&'static str, Failure> {
        let (handle, by, reason) = (client.instance_by_id(id), operator.name(), &operator.reason);
        Ok(match self {
            Self::Cancel => match handle.cancel(reason).by(by).execute(client).await? {
                Cancelled::Ended => "cancelled",
                Cancelled::Answering => "goes to the step with which its machine answers",
                Cancelled::Before => "was cancelled before, and has not ended yet",
                _ => "an engine will answer the cancel",
            },
            Self::Kill => {
                handle.kill(reason).by(by).execute(client).await?;
                "killed"
            }
            Self::Pause { until } => {
                let pause = handle.pause().by(by).reason(reason);
                match until {
                    Some(until) => pause.until(*until).execute(client).await?,
                    None => pause.execute(client).await?,
                }
                "paused"
            }
            Self::Resume => match handle.resume().by(by).reason(reason).execute(client).await? {
                Resumed::NotPaused => "was not paused by itself",
                _ => "resumed",
            },
            Self::Retry { at, state, forgets } => {
                let mut retry = handle.retry().by(by).reason(reason);
                if let Some(step) = at {
                    retry = retry.at_step(step);
                }
                if let Some(state) = state {
                    retry = retry.with_json(state);
                }
                if *forgets {
                    retry = retry.forget_dedup_keys();
                }
                if retry.execute(client).await?.heard {
                    "retried; its receiver may have seen the report of its end, and hears of no other"
                } else {
                    "retried"
                }
            }
            Self::RunNow => {
                handle.run_now().by(by).reason(reason).execute(client).await?;
                "is due now"
            }
            Self::Delete => {
                handle.delete().by(by).reason(reason).execute(client).await?;
                "deleted"
            }
        })
    }

    /// Acts on all that a filter chooses, until the user interrupts it. The first interrupt lets
    /// the batch under way finish. The second one gives it up: it may wait for locks.
    async fn all(
        &self,
        chosen: &Instances<i64>,
        client: &Client,
        operator: &Operator,
    ) -> Result<Counts, Failure> {
        let (by, reason) = (operator.name(), &operator.reason);
        let so_far = Arc::new(Mutex::new(Counts::default()));
        let is_interrupted = Arc::new(AtomicBool::new(false));
        let (counted, told) = (Arc::clone(&so_far), Arc::clone(&is_interrupted));
        let progress = move |counts: &Counts| {
            *counted.lock().unwrap_or_else(PoisonError::into_inner) = *counts;
            if told.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let interrupted_twice = async {
            interrupted().await;
            is_interrupted.store(true, Ordering::Relaxed);
            note("stopping after this batch; interrupt again to give it up");
            interrupted().await;
        };
        macro_rules! execute {
            ($bulk:expr) => {
                $bulk.by(by).progress(progress).execute(client).await?
            };
        }
        let acting = async {
            Ok(match self {
                Self::Cancel => execute!(chosen.cancel(reason)),
                Self::Kill => execute!(chosen.kill(reason)),
                Self::Pause { until: Some(until) } => {
                    execute!(chosen.pause().until(*until).reason(reason))
                }
                Self::Pause { until: None } => execute!(chosen.pause().reason(reason)),
                Self::Resume => execute!(chosen.resume().reason(reason)),
                Self::Retry { forgets: true, .. } => {
                    execute!(chosen.retry().forget_dedup_keys().reason(reason))
                }
                Self::Retry { .. } => execute!(chosen.retry().reason(reason)),
                Self::RunNow => execute!(chosen.run_now().reason(reason)),
                Self::Delete => execute!(chosen.delete().reason(reason)),
            })
        };
        tokio::select! {
            biased;
            counts = acting => counts,
            () = interrupted_twice => {
                note("given up; a batch takes effect as a whole, or not at all");
                let mut counts = *so_far.lock().unwrap_or_else(PoisonError::into_inner);
                counts.stopped = true;
                Ok(counts)
            }
        }
    }
}

/// Waits until the user interrupts the program. Without a way to hear of that, it waits for ever.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Does something for each instance. Tells each failure, and goes on with the next instance, unless
/// no other could succeed. The last failure gives the exit code.
pub(super) async fn each(
    addresses: &[Address],
    mut run: impl AsyncFnMut(&Address) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut failed: Option<Failure> = None;
    for address in addresses {
        let Err(failure) = run(address).await else { continue };
        let ends_all = [Kind::NoConnection, Kind::BrokenPipe, Kind::Interrupted, Kind::Usage];
        if ends_all.contains(&failure.kind) || addresses.len() == 1 {
            return Err(failure);
        }
        failure.tell();
        // Failures of different kinds have no code in common but the general one.
        let kind = match failed {
            Some(before) if before.kind != failure.kind => Kind::Failed,
            _ => failure.kind,
        };
        failed = Some(Failure::silent(kind));
    }
    failed.map_or(Ok(()), Err)
}
