//! The plan for a schedule that is due: which ticks fire, which wait, and which are dropped.
//!
//! Invariant: the plan depends on its arguments alone. Only its commit, under the row's lock, makes
//! it true.

use std::time::Duration;

use crate::{
    machine::schedule::{Calendar, Overlap, Schedule},
    storage::{Course, DueSchedule},
};

/// The pause between two looks at the last instance while a tick waits for its end: a tenth of the
/// time for which the tick has waited, within these bounds.
const LOOK_MIN: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_mins(1);

/// The plan for a schedule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The ticks that fire, in their order.
    pub(super) fires: Vec<i64>,
    pub(super) course: Course,
    /// The tick that waits for the end of the last instance, and the time until the next look.
    pub(super) waiting: Option<i64>,
    pub(super) look_in: Option<Duration>,
    /// True if the schedule stays paused.
    pub(super) paused: bool,
    /// The number of ticks that come to nothing, as an instance has not ended.
    pub(super) skipped: usize,
}

impl Plan {
    /// Returns the plan for a schedule, or none if there is nothing to do.
    pub(super) fn new(
        calendar: &Calendar,
        schedule: &Schedule,
        seen: &DueSchedule,
        now: i64,
    ) -> Option<Self> {
        let mut fires: Vec<i64> = seen.asked.into_iter().collect();
        let rewound = seen.course.rewind(calendar, now);
        let is_rewound = rewound.is_some();
        let mut course = rewound.unwrap_or_else(|| seen.course.clone());
        let mut waiting = seen.waiting;
        let mut skipped = 0;
        if !seen.paused {
            let (ticks, after) = course.pass(calendar, now, schedule.missed_ticks());
            course = after;
            // A run that an operator asked for is the last instance from here on.
            let mut active = seen.active || !fires.is_empty();
            for tick in waiting.take().into_iter().chain(ticks) {
                match schedule.overlapping() {
                    Overlap::Skip if active => skipped += 1,
                    Overlap::Queue if active && waiting.is_some() => skipped += 1,
                    Overlap::Queue if active => waiting = Some(tick),
                    _ => {
                        fires.push(tick);
                        active = true;
                    }
                }
            }
        }
        let look_in = waiting.map(|since| {
            let waited = Duration::from_micros(u64::try_from(now - since).unwrap_or(0));
            (waited / 10).clamp(LOOK_MIN, LOOK_MAX)
        });
        let changed = course != seen.course || waiting.is_some() || seen.waiting.is_some();
        let begins = seen.asked.is_some() || is_rewound;
        (changed || begins || !fires.is_empty()).then_some(Self {
            fires,
            course,
            waiting,
            look_in,
            paused: seen.paused,
            skipped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::schedule::Missed;

    const HOUR: i64 = 3_600_000_000;

    /// Returns the hours that fire, and the one that waits, of an hourly schedule at which the
    /// engine looks at the hour `now` and some seconds, after it has passed the hour 1.
    fn plan(schedule: &Schedule, now: i64, seen: &DueSchedule) -> Option<(Vec<i64>, Option<i64>)> {
        let calendar = schedule.calendar().expect("a calendar");
        let plan = Plan::new(&calendar, schedule, seen, now * HOUR + 30_000_000)?;
        assert_eq!(plan.waiting.is_some(), plan.look_in.is_some());
        let fires = plan.fires.iter().map(|tick| tick / HOUR).collect();
        Some((fires, plan.waiting.map(|tick| tick / HOUR)))
    }

    fn seen(active: bool) -> DueSchedule {
        let course = Course { next: Some(2 * HOUR), passed: HOUR, skipped: vec![(i64::MIN, HOUR)] };
        DueSchedule {
            name: "hourly".to_owned(),
            revision: 7,
            course,
            last: Some((HOUR, 1)),
            waiting: None,
            asked: None,
            paused: false,
            active,
        }
    }

    #[test]
    fn missed_ticks_and_overlaps_go_together() {
        let all = Missed::All { max: 3 };
        let none: &[i64] = &[];
        // The engine comes at the hour 6: the ticks of 2 to 6 are due, and the last is on time.
        for (missed, overlap, idle, active) in [
            (Missed::Skip, Overlap::Skip, (&[6][..], None), (none, None)),
            (Missed::Skip, Overlap::Allow, (&[6], None), (&[6][..], None)),
            (Missed::Skip, Overlap::Queue, (&[6], None), (none, Some(6))),
            (Missed::Once, Overlap::Skip, (&[6], None), (none, None)),
            (Missed::Once, Overlap::Allow, (&[6], None), (&[6], None)),
            (Missed::Once, Overlap::Queue, (&[6], None), (none, Some(6))),
            (all, Overlap::Skip, (&[4], None), (none, None)),
            (all, Overlap::Allow, (&[4, 5, 6], None), (&[4, 5, 6], None)),
            (all, Overlap::Queue, (&[4], Some(5)), (none, Some(4))),
        ] {
            let schedule = Schedule::cron("0 * * * *").missed(missed).overlap(overlap);
            for (is_active, (fires, waiting)) in [(false, idle), (true, active)] {
                let expected = Some((fires.to_vec(), waiting));
                let found = plan(&schedule, 6, &seen(is_active));
                assert_eq!(found, expected, "{missed:?}, {overlap:?}, active: {is_active}");
            }
        }
    }

    #[test]
    fn a_tick_that_waits_fires_first() {
        let schedule = Schedule::cron("0 * * * *").overlap(Overlap::Queue);
        let waits = |active| DueSchedule { waiting: Some(HOUR), ..seen(active) };
        assert_eq!(plan(&schedule, 1, &waits(true)), Some((vec![], Some(1))));
        assert_eq!(plan(&schedule, 1, &waits(false)), Some((vec![1], None)));
        assert_eq!(plan(&schedule, 2, &waits(false)), Some((vec![1], Some(2))));
        // One waits, the first.
        assert_eq!(plan(&schedule, 2, &waits(true)), Some((vec![], Some(1))));
        assert_eq!(plan(&schedule, 1, &seen(false)), None);
    }

    #[test]
    fn an_operator_has_it_run_in_a_pause_and_beside_the_last_run() {
        let schedule = Schedule::cron("0 * * * *");
        let asked = |paused, active| DueSchedule { asked: Some(HOUR), paused, ..seen(active) };
        assert_eq!(plan(&schedule, 1, &asked(true, true)), Some((vec![1], None)));
        assert_eq!(plan(&schedule, 2, &asked(true, false)), Some((vec![1], None)));
        // The tick at the same moment finds the run that was asked for.
        assert_eq!(plan(&schedule, 2, &asked(false, false)), Some((vec![1], None)));
        let paused = DueSchedule { paused: true, ..seen(false) };
        assert_eq!(plan(&schedule, 9, &paused), None);
    }
}
