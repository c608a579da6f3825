//! Performs the actions that operators have confirmed.
//!
//! Invariant: each action is a call of the library, in the operator's name. No other module makes
//! such a call. `perform` takes an [`Operator`] as the proof of the checks.

use std::{sync::Arc, time::SystemTime};

use axum::http::StatusCode;
use gen_durable::{
    Client, Limit,
    operate::{Bulk, Counts, Does, OperateError},
};

use crate::{
    bulk::BulkAction,
    console::Inner,
    deed::{Act, Deed, Subject},
    filter::Filter,
    guard::Operator,
    looks::Causes,
    time,
    url::{BadParam, Params},
    view::View,
};

/// The reason why an action was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Bad(#[from] BadParam),
    #[error("{0}")]
    Refused(OperateError),
    #[error(
        "the database gave no answer, or failed: the log of this program says how; look whether it was done"
    )]
    Database,
    #[error("tick the box to confirm that instances end or are deleted")]
    NotConfirmed,
    #[error("this form was sent before, and acts once: look whether it was done")]
    Repeated,
    #[error("choose which instances: this console acts on no choice without a filter")]
    NoFilter,
    #[error(
        "several actions on many instances are under way: wait until one has ended, or stop one"
    )]
    Busy,
    #[error("this console knows of no such action: it may be of another process, or from long ago")]
    NoBulk,
    #[error("the history does not have this run any more")]
    NoEntry,
}

impl Failure {
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) | Self::NotConfirmed | Self::NoFilter => StatusCode::BAD_REQUEST,
            Self::Refused(_) | Self::Repeated => StatusCode::CONFLICT,
            Self::Database => StatusCode::SERVICE_UNAVAILABLE,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::NoBulk | Self::NoEntry => StatusCode::NOT_FOUND,
        }
    }
}

impl From<OperateError> for Failure {
    fn from(error: OperateError) -> Self {
        match error {
            OperateError::Database(error) => {
                tracing::warn!(target: "gen_durable::console", error = %Causes(&error), "an action failed");
                Self::Database
            }
            error => Self::Refused(error),
        }
    }
}

/// The words of a form beside the action itself.
struct Said<'a> {
    operator: &'a str,
    reason: &'a str,
    until: Option<SystemTime>,
    form: &'a Params,
}

/// Performs an action. Returns the page to show next, and the kind of action for its notice.
pub(crate) async fn perform(
    inner: &Arc<Inner>,
    operator: &Operator<'_>,
    act: &Act,
    params: &Params,
) -> Result<(View, Deed), Failure> {
    let until = params.get("until").map(|text| time::parse_span(text).ok_or(BadParam("until")));
    let said = Said {
        operator: operator.name,
        reason: params.get("reason").unwrap_or_default(),
        until: until.transpose()?.map(|span| SystemTime::now() + span),
        form: params,
    };
    let client = &inner.acts;
    let mut view = act.subject.view_after(act.deed);
    match &act.subject {
        Subject::Instance(id) => on_instance(client, *id, act.deed, &said).await?,
        Subject::Entry { instance, entry } => {
            let id = fork(inner, *instance, *entry, &said).await?;
            view = View::Instance { id, before: None };
        }
        Subject::Instances(filter) => {
            let id = on_many(inner, filter, act.deed, &said)?;
            view = View::Bulk { id };
        }
        Subject::Queue(name) => {
            let queue = client.queue(name);
            on_scope(client, queue.pause(), queue.resume(), act.deed, &said).await?;
        }
        Subject::Machine(name) => {
            let machine = client.machine_by_name(name);
            on_scope(client, machine.pause(), machine.resume(), act.deed, &said).await?;
        }
        Subject::Step { machine, step } => {
            let machine = client.machine_by_name(machine);
            let (pause, resume) = (machine.pause_step(step), machine.resume_step(step));
            on_scope(client, pause, resume, act.deed, &said).await?;
        }
        Subject::Schedule(name) => on_schedule(client, name, act.deed, &said).await?,
        Subject::Limit(name) => on_limit(client, name, act.deed, &said).await?,
        Subject::Bulk(id) => {
            if !inner.bulk.stop(*id) {
                return Err(Failure::NoBulk);
            }
        }
    }
    Ok((view, act.deed))
}

/// A deed that its subject does not know. Reading the action has refused it before.
const WRONG: Failure = Failure::Bad(BadParam("deed"));

async fn on_instance(client: &Client, id: i64, deed: Deed, said: &Said<'_>) -> Result<(), Failure> {
    let handle = client.instance_by_id(id);
    let Said { operator, reason, until, form } = *said;
    if matches!(deed, Deed::Kill | Deed::Delete) && form.get("sure").is_none() {
        return Err(Failure::NotConfirmed);
    }
    match deed {
        Deed::Cancel => drop(handle.cancel(reason).by(operator).execute(client).await?),
        Deed::Kill => drop(handle.kill(reason).by(operator).execute(client).await?),
        Deed::RunNow => {
            handle.run_now().by(operator).reason(reason).execute(client).await?;
        }
        Deed::Delete => {
            handle.delete().by(operator).reason(reason).execute(client).await?;
        }
        Deed::Resume => {
            handle.resume().by(operator).reason(reason).execute(client).await?;
        }
        Deed::Pause => {
            let mut pause = handle.pause().by(operator).reason(reason);
            if let Some(until) = until {
                pause = pause.until(until);
            }
            pause.execute(client).await?;
        }
        Deed::Retry => {
            let mut retry = handle.retry().by(operator).reason(reason);
            if let Some(step) = form.get("at") {
                retry = retry.at_step(step);
            }
            if form.get("forget").is_some() {
                retry = retry.forget_dedup_keys();
            }
            retry.execute(client).await?;
        }
        Deed::Fork | Deed::Set | Deed::Reset | Deed::Stop => return Err(WRONG),
    }
    Ok(())
}

async fn fork(inner: &Inner, instance: i64, entry: i64, said: &Said<'_>) -> Result<i64, Failure> {
    let handle = inner.acts.instance_by_id(instance);
    let found = inner.looks.instance_by_id(instance).history_entry(entry).await;
    let found = found.map_err(|error| {
        tracing::warn!(target: "gen_durable::console", error = %Causes(&error), "a look failed");
        Failure::Database
    })?;
    let found = found.ok_or(Failure::NoEntry)?;
    let fork = handle.fork_from(&found).by(said.operator).reason(said.reason);
    Ok(fork.execute(&inner.acts).await?)
}

async fn on_scope(
    client: &Client,
    pause: gen_durable::operate::ScopeAction<gen_durable::operate::Pause>,
    resume: gen_durable::operate::ScopeAction<gen_durable::operate::Resume>,
    deed: Deed,
    said: &Said<'_>,
) -> Result<(), Failure> {
    match deed {
        Deed::Pause => {
            let mut pause = pause.by(said.operator).reason(said.reason);
            if let Some(until) = said.until {
                pause = pause.until(until);
            }
            pause.execute(client).await?;
        }
        Deed::Resume => {
            resume.by(said.operator).reason(said.reason).execute(client).await?;
        }
        _ => return Err(WRONG),
    }
    Ok(())
}

async fn on_schedule(
    client: &Client,
    name: &str,
    deed: Deed,
    said: &Said<'_>,
) -> Result<(), Failure> {
    let schedule = client.schedule(name);
    let Said { operator, reason, until, .. } = *said;
    match deed {
        Deed::RunNow => {
            schedule.run_now().by(operator).reason(reason).execute(client).await?;
        }
        Deed::Resume => {
            schedule.resume().by(operator).reason(reason).execute(client).await?;
        }
        Deed::Pause => {
            let mut pause = schedule.pause().by(operator).reason(reason);
            if let Some(until) = until {
                pause = pause.until(until);
            }
            pause.execute(client).await?;
        }
        _ => return Err(WRONG),
    }
    Ok(())
}

async fn on_limit(client: &Client, name: &str, deed: Deed, said: &Said<'_>) -> Result<(), Failure> {
    let handle = client.limit(name);
    match deed {
        Deed::Set => {
            let set = handle.set(bounds(said.form)?).by(said.operator).reason(said.reason);
            set.execute(client).await?;
        }
        Deed::Reset => {
            handle.reset().by(said.operator).reason(said.reason).execute(client).await?;
        }
        _ => return Err(WRONG),
    }
    Ok(())
}

/// Reads the bounds of a limit from a form.
fn bounds(form: &Params) -> Result<Limit, BadParam> {
    let mut limit = Limit::new();
    if let Some(runs) = form.read("at_once")? {
        limit = limit.at_once(runs);
    }
    if let Some(starts) = form.read("starts")? {
        let period = form.get("period").unwrap_or("1s");
        limit = limit.per(starts, time::parse_span(period).ok_or(BadParam("period"))?);
    }
    if let Some(burst) = form.read("burst")? {
        limit = limit.burst(burst);
    }
    Ok(limit)
}

/// Begins an action on many instances. It goes on when the request has ended.
fn on_many(
    inner: &Arc<Inner>,
    filter: &Filter,
    deed: Deed,
    said: &Said<'_>,
) -> Result<u64, Failure> {
    if filter.is_empty() {
        return Err(Failure::NoFilter);
    }
    if deed.is_final() && said.form.get("sure").is_none() {
        return Err(Failure::NotConfirmed);
    }
    let chosen = filter.on(&inner.acts);
    let back = View::Instances { filter: filter.clone(), before: None }.path();
    let begun = inner.bulk.begin(deed, filter.words(), back, said.operator.to_owned());
    let (id, action) = begun.ok_or(Failure::Busy)?;
    let client = inner.acts.clone();
    match deed {
        Deed::Cancel => go(chosen.cancel(said.reason), action, client, said),
        Deed::Kill => go(chosen.kill(said.reason), action, client, said),
        Deed::RunNow => go(chosen.run_now(), action, client, said),
        Deed::Delete => go(chosen.delete(), action, client, said),
        Deed::Resume => go(chosen.resume(), action, client, said),
        Deed::Pause => {
            let pause = chosen.pause();
            let pause = match said.until {
                Some(until) => pause.until(until),
                None => pause,
            };
            go(pause, action, client, said);
        }
        Deed::Retry => {
            let retry = chosen.retry();
            let forget = said.form.get("forget").is_some();
            let retry = if forget { retry.forget_dedup_keys() } else { retry };
            go(retry, action, client, said);
        }
        Deed::Fork | Deed::Set | Deed::Reset | Deed::Stop => {
            action.end(Err("nothing was done".to_owned()));
            return Err(WRONG);
        }
    }
    Ok(id)
}

/// Notes that an action has ended, also if it panicked.
struct Ends {
    action: Arc<BulkAction>,
    result: Result<Counts, String>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.action.end(std::mem::replace(&mut self.result, Err(String::new())));
    }
}

fn go<D: Does + Send + 'static>(
    bulk: Bulk<i64, D>,
    action: Arc<BulkAction>,
    client: Client,
    said: &Said<'_>,
) {
    let told = Arc::clone(&action);
    let bulk = bulk.by(said.operator).reason(said.reason);
    let bulk = bulk.progress(move |counts| told.progress(counts));
    tokio::spawn(async move {
        let result = Err("it broke off: the log of this program says why".to_owned());
        let mut ends = Ends { action, result };
        ends.result = bulk.execute(&client).await.map_err(|error| Failure::from(error).to_string());
    });
}
