//! `fork`: inserts instances that go on from the histories of others.
//!
//! Invariant: a fork changes nothing of the instance that it comes from.

use gen_durable::{
    Client,
    operate::{HistoryEntry, InstanceHandle, Page, RunEntry},
};

use super::act::each;
use crate::{
    choice::{Address, Choice, Chosen},
    confirm::confirm,
    connect::Database,
    failure::{Failure, Kind},
    operator::Operator,
    print::{Object, Out},
};

/// The most instances in a page.
const PAGE_MAX: usize = 1_000;

/// Insert an instance that goes on from an entry of another one's history.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The machine must record states: `history = \"states\"`.

Example:
  gen-durable history 42
  gen-durable fork 42 --entry 1234")]
pub(crate) struct Fork {
    /// The entry of the history; by default the newest one that has a state and a next step,
    /// among the newest 1,000.
    #[arg(long, value_name = "NUMBER")]
    entry: Option<i64>,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    operator: Operator,
}

impl Fork {
    pub(crate) async fn run(self, database: &Database, out: &mut Out) -> Result<(), Failure> {
        let chosen = self.choice.chosen()?;
        let several = !matches!(&chosen, Chosen::Named(addresses) if addresses.len() < 2);
        if self.entry.is_some() && several {
            return Err(Failure::usage("an entry belongs to one instance; name that one alone"));
        }
        let client = database.client().await?;
        let addresses = match chosen {
            Chosen::Named(addresses) => addresses,
            Chosen::Fitting if confirm("fork", &self.choice, &client, out).await? => {
                fitting(&self.choice, &client).await?
            }
            Chosen::Fitting => return Ok(()),
        };
        each(&addresses, async |address: &Address| {
            let id = address.id(&client).await?;
            let handle = client.instance_by_id(id);
            let entry = self.find(id, &handle).await?;
            let fork = handle.fork_from(&entry).by(self.operator.name());
            let new = fork.reason(&self.operator.reason).execute(&client).await?;
            let object = || Object::new().with("id", new).with("from", id).with("entry", entry.id);
            let step = entry.next_step.as_deref().unwrap_or_default();
            let said = format!(
                "instance {new} goes on from entry {} of instance {id}, at {step}",
                entry.id
            );
            out.answer(&said, object, Some(new))
        })
        .await
    }

    /// Finds the entry of the history to go on from.
    async fn find(&self, id: i64, handle: &InstanceHandle<i64>) -> Result<HistoryEntry, Failure> {
        let number = match self.entry {
            Some(number) => Some(number),
            None => newest_with_state(handle).await?,
        };
        let found = match number {
            Some(number) => handle.history_entry(number).await?,
            None => None,
        };
        found.ok_or_else(|| match self.entry {
            Some(number) => Failure::not_found(format!(
                "the history of instance {id} has no entry {number}; see `gen-durable history {id}`"
            )),
            None => Failure::new(
                Kind::Refused,
                format!(
                    "the newest runs of instance {id} have no entry to go on from; a machine with `history = \"states\"` records states, and --entry names an older one"
                ),
            ),
        })
    }
}

/// Returns the newest entry that has a state and a next step, among the newest thousand.
async fn newest_with_state(handle: &InstanceHandle<i64>) -> Result<Option<i64>, Failure> {
    let runs = handle.runs(Page::first().size(PAGE_MAX)).await?;
    let goes_on = |run: &&RunEntry| run.state_size.is_some() && run.next_step.is_some();
    Ok(runs.entries.iter().find(goes_on).map(|run| run.id))
}

/// Returns the ids of all that a filter chooses.
pub(super) async fn fitting(choice: &Choice, client: &Client) -> Result<Vec<Address>, Failure> {
    let instances = choice.filter.instances(client);
    let (mut ids, mut page) = (Vec::new(), Page::first());
    loop {
        let list = instances.list(page.size(PAGE_MAX)).await?;
        ids.extend(list.entries.iter().map(|entry| Address::Id(entry.id)));
        match list.next {
            Some(next) => page = Page::after(next),
            None => return Ok(ids),
        }
    }
}
