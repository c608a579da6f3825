//! Parks that nothing will end.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    super::looks::number,
    Doctor, Finding, Illness, Severity,
    finding::{Argument, Since, listed},
    waiting::arguments,
};
use crate::{
    error::DatabaseError,
    storage::{self, Park},
};

/// The time after which a park without a timeout is reported, if nothing else is wrong with it.
const LONG: Duration = Duration::from_hours(7 * 24);
/// The time for which a parent may have no child: an insert that names it may be on its way.
const CHILDLESS_MAX: Duration = Duration::from_mins(1);
/// The time after which the search for children is given up. It examines a million instances in a
/// second or so.
const SEARCH_MAX: Duration = Duration::from_secs(3);

impl Doctor<'_> {
    pub(super) async fn look_at_parks(&mut self) -> Result<(), DatabaseError> {
        let parks = self.look("the parked instances", async |connection| {
            storage::check_parks(connection, LONG).await
        });
        let mut parks = parks.await?.unwrap_or_default();
        let (now, old) = (self.now, |park: &Park, age| Since(park.since, self.now).age() > age);
        let parents: Vec<Park> = parks
            .iter()
            .filter(|park| park.reports && !park.undeclared && old(park, CHILDLESS_MAX))
            .cloned()
            .collect();
        parks.retain(|park| park.undeclared || old(park, LONG));
        let childless = self.childless(parents).await?;
        let known: Vec<i64> = childless.iter().map(|park| park.id).collect();
        let parks = parks.into_iter().filter(|park| !known.contains(&park.id));
        let mut groups: BTreeMap<(Illness, String, Vec<String>), Vec<Park>> = BTreeMap::new();
        let childless = childless.into_iter().map(|park| (Illness::NoChild, park));
        let others = parks.map(|park| {
            let illness =
                if park.undeclared { Illness::UndeclaredSignal } else { Illness::LongPark };
            (illness, park)
        });
        for (illness, park) in childless.chain(others) {
            let step = format!("{}@{} v{}", park.fsm, park.step, number(park.fsm_version));
            groups.entry((illness, step, park.awaits.clone())).or_default().push(park);
        }
        for ((illness, step, awaits), parks) in groups {
            let since = Since(parks.iter().filter_map(|park| park.since).min(), now);
            let ids: Vec<i64> = parks.iter().map(|park| park.id).collect();
            let name = awaits.first().map(|name| Argument(name).to_string()).unwrap_or_default();
            let (awaits, first) = (listed(&awaits), arguments(&ids[..1]));
            let (severity, explanation, cure) = match illness {
                Illness::NoChild => (
                    Severity::Error,
                    format!(
                        "for {since} it waits for {awaits}, and no live instance reports to it"
                    ),
                    format!(
                        "see who has reported to it: gen-durable tree{first}, and end it: gen-durable cancel{first}"
                    ),
                ),
                Illness::UndeclaredSignal => (
                    Severity::Error,
                    format!(
                        "for {since} it waits for {awaits}, which its machine does not declare"
                    ),
                    format!("declare the signal with `signals(…)`, or: gen-durable cancel{first}"),
                ),
                _ => (
                    Severity::Info,
                    format!("for {since} it waits for {awaits}, without a timeout"),
                    format!("gen-durable signal {name}{first}, or: gen-durable cancel{first}"),
                ),
            };
            let finding = Finding::new(severity, illness, step, explanation, cure);
            self.findings.add(finding.with_count(ids.len() as u64, ids));
        }
        Ok(())
    }

    /// Returns the parents among these that have no child any more. It returns none if there are
    /// too many instances to know.
    async fn childless(&mut self, mut parents: Vec<Park>) -> Result<Vec<Park>, DatabaseError> {
        const LOOK: &str = "the children of parked instances";
        let began = Instant::now();
        // A child has a higher id than its parent.
        let Some(mut after) = parents.iter().map(|park| park.id).min() else { return Ok(parents) };
        while !parents.is_empty() {
            let ids: Vec<i64> = parents.iter().map(|park| park.id).collect();
            let found = self.look(LOOK, async |connection| {
                storage::live_children(connection, after, &ids).await
            });
            let Some((receivers, edge)) = found.await? else { return Ok(Vec::new()) };
            parents.retain(|park| !receivers.contains(&park.id));
            match edge {
                None => break,
                Some(edge) if began.elapsed() < SEARCH_MAX => after = edge,
                Some(_) => return Ok(Vec::new()),
            }
        }
        // The last child of one may have ended between two looks.
        let ids: Vec<i64> = parents.iter().map(|park| park.id).collect();
        let revisions: Vec<i64> = parents.iter().map(|park| park.revision).collect();
        let still = self.look(LOOK, async |connection| {
            storage::still_parked(connection, &ids, &revisions).await
        });
        let still = still.await?.unwrap_or_default();
        parents.retain(|park| still.contains(&park.id));
        Ok(parents)
    }
}
