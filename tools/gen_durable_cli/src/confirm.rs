//! The preview of an action on all instances that a filter chooses, and the question before it.
//!
//! Invariant: nothing is done before a person, or `--yes`, has said so.

use std::io::{self, IsTerminal, Write};

use gen_durable::{
    Client,
    operate::{Count, Page},
};

use crate::{
    choice::Choice,
    commands::ls,
    failure::{Failure, Kind},
    print::{Look, Out, note},
};

/// The instances that a preview shows.
const SHOWN: usize = 5;

/// Shows the instances that a filter chooses, and asks. False if there is nothing to do, or nothing
/// is to be done. `verb` names the action: `retry`.
pub(crate) async fn confirm(
    verb: &str,
    choice: &Choice,
    client: &Client,
    out: &Out,
) -> Result<bool, Failure> {
    if choice.yes {
        return Ok(true);
    }
    let instances = choice.filter.instances(client);
    let count = instances.count().await?;
    let list = instances.list(Page::first().size(SHOWN)).await?;
    if count == Count::Exact(0) {
        note("the filter chooses no instance");
        return Ok(false);
    }
    let noun = if count == Count::Exact(1) { "instance" } else { "instances" };
    note(&format!("the filter chooses {count} {noun}:"));
    let table = ls::table(&list.entries, out);
    // Nobody reads it if standard error is gone.
    let _ = io::stderr().write_all(table.render(Look::stderr()).as_bytes());
    if list.entries.is_empty() {
        note("none of the newest instances fits; older ones may, and the action goes through all");
    } else if Count::Exact(list.entries.len() as u64) != count {
        note("…");
    }
    if choice.dry_run {
        return Ok(false);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(format!(
            "nobody can confirm this here; give --yes to {verb} all that the filter chooses"
        )));
    }
    let mut stderr = io::stderr();
    write!(stderr, "{verb} {count} {noun}? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(true);
    }
    Err(Failure::new(Kind::Interrupted, "nothing was done"))
}
