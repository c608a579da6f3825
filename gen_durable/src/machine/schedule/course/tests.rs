//! Missed ticks, and clocks that jump.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::machine::schedule::Schedule;

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

fn hourly() -> Calendar {
    Schedule::every(Duration::from_hours(1)).calendar().expect("a calendar")
}

fn hours(ticks: &[i64]) -> Vec<i64> {
    ticks.iter().map(|tick| tick / HOUR).collect()
}

#[test]
fn missed_ticks_fire_as_the_policy_says() {
    let calendar = hourly();
    let course = Course::begin(&calendar, HOUR / 2);
    assert_eq!(course.next, Some(HOUR));
    // The hours at which the engine comes, and what fires by each policy.
    let late = 2 * MINUTE;
    let all = Missed::All { max: 3 };
    let none: &[i64] = &[];
    for (now, skip, once, some) in [
        (HOUR - 1, none, none, none),
        (HOUR, &[1][..], &[1][..], &[1][..]),
        (HOUR + MINUTE, &[1], &[1], &[1]),
        (HOUR + late, none, &[1], &[1]),
        (3 * HOUR + 1, &[3], &[3], &[1, 2, 3]),
        (3 * HOUR + late, none, &[3], &[1, 2, 3]),
        (9 * HOUR + late, none, &[9], &[7, 8, 9]),
    ] {
        for (missed, expected) in [(Missed::Skip, skip), (Missed::Once, once), (all, some)] {
            let (fired, after) = course.clone().pass(&calendar, now, missed);
            assert_eq!(hours(&fired), expected, "{missed:?} at {now}");
            let next = (now / HOUR + 1) * HOUR;
            assert_eq!(after.next, Some(next), "{missed:?} at {now}");
            let again = after.clone().pass(&calendar, now, missed);
            assert_eq!(again, (Vec::new(), after), "once more");
        }
    }
}

#[test]
fn a_clock_that_goes_back_fires_no_tick_twice() {
    let calendar = hourly();
    let mut course = Course::begin(&calendar, HOUR / 2);
    for now in [HOUR, 2 * HOUR, 3 * HOUR] {
        let (fired, after) = course.pass(&calendar, now, Missed::Once);
        assert_eq!(fired, [now]);
        course = after;
    }
    // It goes back by two hours, and waits for the first tick that has not fired.
    assert_eq!(course.rewind(&calendar, HOUR + MINUTE), None);
    assert_eq!(course.next, Some(4 * HOUR));
}

#[test]
fn a_clock_that_was_ahead_holds_nothing_up() {
    let calendar = hourly();
    let course = Course::begin(&calendar, HOUR / 2);
    // It goes a year ahead: one tick fires for all that seem to be missed.
    let ahead = 9000 * HOUR;
    let (fired, course) = course.pass(&calendar, ahead, Missed::Once);
    assert_eq!(fired, [ahead]);
    // It is set right: the ticks that have not fired come in their time.
    let mut course = course.rewind(&calendar, 2 * HOUR + MINUTE).expect("ticks come again");
    for now in [3 * HOUR, 4 * HOUR] {
        let (fired, after) = course.pass(&calendar, now, Missed::Once);
        assert_eq!(fired, [now]);
        assert_eq!(after.rewind(&calendar, now), None, "it is rewound already");
        course = after;
    }
    // A year later: the tick that has fired is left out.
    let (fired, course) = course.pass(&calendar, ahead - HOUR, Missed::Once);
    assert_eq!((fired, course.next), (vec![ahead - HOUR], Some(ahead + HOUR)));
}

#[test]
fn a_schedule_that_began_while_the_clock_was_ahead_is_held_up_by_nothing() {
    let calendar = hourly();
    let course = Course::begin(&calendar, 9000 * HOUR + MINUTE);
    let course = course.rewind(&calendar, HOUR + MINUTE).expect("ticks come");
    assert_eq!(course.next, Some(2 * HOUR));
    let (fired, course) = course.pass(&calendar, 2 * HOUR, Missed::Skip);
    assert_eq!((fired, course.next), (vec![2 * HOUR], Some(3 * HOUR)));
}

#[test]
fn another_calendar_goes_on_where_the_former_one_was() {
    let (calendar, quarter) = (hourly(), Schedule::every(Duration::from_mins(15)).calendar());
    let quarter = quarter.expect("a calendar");
    let course = Course::begin(&calendar, HOUR / 2);
    let (_, course) = course.pass(&calendar, HOUR, Missed::Once);
    let changed = course.clone().change(&quarter, HOUR + 5 * MINUTE);
    assert_eq!(changed.next, Some(HOUR + 15 * MINUTE));
    // The tick of this moment has fired, by the former calendar.
    assert_eq!(course.change(&quarter, HOUR - MINUTE).next, Some(HOUR + 15 * MINUTE));
}

/// Whatever the clock does, a tick comes within the time in which one always does, but for those
/// that have fired.
#[test]
fn a_clock_that_jumps_ahead_and_back_again_and_again_holds_nothing_up() {
    let calendar = hourly();
    let mut course = Course::begin(&calendar, HOUR / 2);
    let mut fired = Vec::new();
    let mut now = HOUR;
    for jump in [9000, 0, 50, 0, 7, 70, 0, 8] {
        let there = now + jump * HOUR;
        for at in [there - HOUR / 2, there, there + HOUR] {
            course = course.rewind(&calendar, at).unwrap_or(course);
            let (ticks, after) = course.pass(&calendar, at, Missed::Once);
            // The tick has come, unless it has fired at an earlier jump.
            let on_time = ticks == [at] || fired.contains(&at);
            assert!(on_time || at < there, "{ticks:?} at {at}");
            fired.extend(ticks);
            course = after;
        }
        now += 2 * HOUR;
    }
    let count = fired.len();
    fired.sort_unstable();
    fired.dedup();
    assert_eq!(fired.len(), count);
}

/// The clock jumps at random. No tick fires twice, and in the end a tick that comes fires.
#[test]
fn no_tick_fires_twice_however_the_clock_jumps() {
    let calendar = Schedule::every(Duration::from_mins(1)).calendar().expect("a calendar");
    let mut random = 7_u64;
    let mut below = |bound: i64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        i64::try_from(random >> 33).expect("31 bits") % bound
    };
    for missed in [Missed::Skip, Missed::Once, Missed::All { max: 5 }] {
        let mut fired: BTreeMap<i64, u32> = BTreeMap::new();
        let mut now = 100 * HOUR;
        let mut course = Course::begin(&calendar, now);
        for _ in 0..3_000 {
            now = match below(20) {
                0 => now - below(5 * HOUR),
                1 => now + below(5 * HOUR),
                _ => now + below(3 * MINUTE),
            };
            course = course.rewind(&calendar, now).unwrap_or(course);
            assert!(course.skipped.len() <= SKIPPED_MAX && course.skipped.is_sorted());
            let (ticks, after) = course.pass(&calendar, now, missed);
            for tick in ticks {
                assert!(tick <= now, "{tick} has not come at {now}");
                *fired.entry(tick).or_default() += 1;
            }
            course = after;
        }
        let twice: Vec<_> = fired.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "{missed:?}: {twice:?}");
        assert!(fired.len() > 500, "{missed:?}: {}", fired.len());
    }
}
