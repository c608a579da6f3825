//! Schedules that do not fire, or whose ticks come to nothing.

use std::time::{Duration, SystemTime};

use super::{
    super::ScheduleEntry,
    Doctor, Finding, Illness, Severity,
    finding::{Argument, Since},
};
use crate::{error::DatabaseError, storage};

/// The most schedules that are looked at.
const SCHEDULES_MAX: i64 = 1_000;
/// The time within which an engine fires what is due.
const LATE_MAX: Duration = Duration::from_mins(1);

impl Doctor<'_> {
    pub(super) async fn look_at_schedules(&mut self, engines: bool) -> Result<(), DatabaseError> {
        let schedules = self.look("the schedules", async |connection| {
            storage::list_schedules(connection, "", SCHEDULES_MAX, None).await
        });
        let schedules = schedules.await?.unwrap_or_default();
        for schedule in schedules.into_iter().map(ScheduleEntry::of) {
            // Without any engine that is no news.
            if engines {
                self.unfired(&schedule);
            }
            self.failing_or_paused(&schedule);
        }
        Ok(())
    }

    fn unfired(&mut self, schedule: &ScheduleEntry) {
        let name = &schedule.name;
        let subject = format!("schedule {name}");
        if schedule.declared_by.is_empty() {
            self.findings.add(Finding::new(
                Severity::Warning,
                Illness::UndeclaredSchedule,
                subject,
                "no living engine declares it, so it does not fire",
                format!(
                    "start a program that declares it, or: delete from gen_durable.schedules where name = '{}'",
                    name.replace('\'', "''")
                ),
            ));
            return;
        }
        let due = if schedule.paused.is_some() { None } else { schedule.next };
        let due = due.into_iter().chain(schedule.asked).min();
        let late = Since(due, self.now);
        if late.age() > LATE_MAX {
            self.findings.add(Finding::new(
                Severity::Error,
                Illness::OverdueSchedule,
                subject,
                format!("it has been due for {late}, and no engine has fired it"),
                "see the logs of the engines that declare it",
            ));
        }
    }

    fn failing_or_paused(&mut self, schedule: &ScheduleEntry) {
        let name = &schedule.name;
        let subject = format!("schedule {name}");
        // A tick that fired later than the failure says that it is over.
        let over = |failed: SystemTime| schedule.last.is_some_and(|last| last > failed);
        if let Some(failed) = schedule.failed_at.filter(|failed| !over(*failed)) {
            let since = Since(Some(failed), self.now);
            let error = schedule.last_error.as_deref().unwrap_or_default();
            self.findings.add(Finding::new(
                Severity::Error,
                Illness::FailingSchedule,
                &*subject,
                format!("{since} ago a tick could not insert its instance: {error}"),
                format!(
                    "mend what the error says, then: gen-durable schedules run-now {}",
                    Argument(name)
                ),
            ));
        }
        if let Some(pause) = &schedule.paused {
            let since = Since(Some(pause.paused_at), self.now);
            let by = pause.by.as_str();
            self.findings.add(Finding::new(
                Severity::Info,
                Illness::PausedSchedule,
                subject,
                format!("it has been paused for {since} by {by}"),
                format!("gen-durable schedules resume {}", Argument(name)),
            ));
        }
    }
}
