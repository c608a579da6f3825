//! The ticks around changes of the clock, leap days and mistakes, as tables.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

use super::super::{Missed, Schedule};

fn micros(time: &str) -> i64 {
    time.parse::<Timestamp>().expect("a time").as_microsecond()
}

/// Checks the ticks after a time. Each is given as local time with its offset from UTC.
fn check(expression: &str, zone: &str, after: &str, ticks: &[&str]) {
    let calendar = Schedule::cron(expression).zone(zone).calendar().expect("a calendar");
    let in_zone = TimeZone::get(zone).expect("a zone");
    let mut at = micros(after);
    let mut found = Vec::new();
    for _ in ticks {
        at = calendar.next(at).expect("a tick");
        let zoned = Timestamp::from_microsecond(at).expect("a time").to_zoned(in_zone.clone());
        found.push(zoned.strftime("%m-%dT%H:%M%:z").to_string());
    }
    assert_eq!(found, ticks, "{expression} in {zone}");
    // The last tick is found from the first one, whatever comes after it.
    let first = calendar.next(micros(after)).expect("a tick");
    let next = calendar.next(at).expect("a tick");
    for until in [at, at + 1, next - 1] {
        assert_eq!(calendar.last(first, until), at, "the last of {expression} in {zone}");
    }
}

#[test]
fn a_fixed_time_that_does_not_exist_fires_at_the_next_one_that_does() {
    let berlin = "2026-03-28T12:00:00Z";
    check("30 2 * * *", "Europe/Berlin", berlin, &["03-29T03:00+02:00", "03-30T02:30+02:00"]);
    // Several of them fire once.
    check(
        "*/20 2,4 * * *",
        "Europe/Berlin",
        berlin,
        &["03-29T03:00+02:00", "03-29T04:00+02:00", "03-29T04:20+02:00"],
    );
    // The moment is a tick by itself as well.
    check(
        "30 2,3 * * *",
        "Europe/Berlin",
        berlin,
        &["03-29T03:00+02:00", "03-29T03:30+02:00", "03-30T02:30+02:00"],
    );
    check(
        "15 2 * * *",
        "America/New_York",
        "2026-03-07T12:00:00Z",
        &["03-08T03:00-04:00", "03-09T02:15-04:00"],
    );
    // The clock goes forward by half an hour.
    check(
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T00:00:00Z",
        &["10-04T02:30+11:00", "10-05T02:15+11:00"],
    );
    check(
        "45 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T00:00:00Z",
        &["10-04T02:45+11:00", "10-05T02:45+11:00"],
    );
    // A whole day does not exist.
    check(
        "0 12 30 * *",
        "Pacific/Apia",
        "2011-12-20T00:00:00Z",
        &["12-31T00:00+14:00", "01-30T12:00+14:00"],
    );
}

#[test]
fn a_fixed_time_that_occurs_twice_fires_once() {
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T12:00:00Z",
        &["10-25T02:30+02:00", "10-26T02:30+01:00"],
    );
    // From within the second of the two hours.
    check("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", &["10-26T02:30+01:00"]);
    check(
        "0,30 2,3 * * *",
        "Europe/Berlin",
        "2026-10-24T12:00:00Z",
        &[
            "10-25T02:00+02:00",
            "10-25T02:30+02:00",
            "10-25T03:00+01:00",
            "10-25T03:30+01:00",
            "10-26T02:00+01:00",
        ],
    );
    check(
        "30 1 * * *",
        "America/New_York",
        "2026-10-31T12:00:00Z",
        &["11-01T01:30-04:00", "11-02T01:30-05:00"],
    );
    check(
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T00:00:00Z",
        &["04-05T01:45+11:00", "04-06T01:45+10:30"],
    );
}

#[test]
fn an_expression_of_elapsed_time_fires_at_each_moment_that_fits() {
    check(
        "*/30 * * * *",
        "Europe/Berlin",
        "2026-03-29T00:20:00Z",
        &["03-29T01:30+01:00", "03-29T03:00+02:00", "03-29T03:30+02:00"],
    );
    check(
        "*/30 * * * *",
        "Europe/Berlin",
        "2026-10-24T23:50:00Z",
        &[
            "10-25T02:00+02:00",
            "10-25T02:30+02:00",
            "10-25T02:00+01:00",
            "10-25T02:30+01:00",
            "10-25T03:00+01:00",
        ],
    );
    check(
        "@hourly",
        "America/New_York",
        "2026-11-01T04:30:00Z",
        &["11-01T01:00-04:00", "11-01T01:00-05:00", "11-01T02:00-05:00"],
    );
    check(
        "15 */2 * * *",
        "America/New_York",
        "2026-03-08T05:00:00Z",
        &["03-08T00:15-05:00", "03-08T04:15-04:00"],
    );
    check(
        "*/20 * * * *",
        "Australia/Lord_Howe",
        "2026-04-04T14:30:00Z",
        &["04-05T01:40+11:00", "04-05T01:40+10:30", "04-05T02:00+10:30"],
    );
    check(
        "*/20 * * * *",
        "Australia/Lord_Howe",
        "2026-10-03T15:05:00Z",
        &["10-04T01:40+10:30", "10-04T02:40+11:00", "10-04T03:00+11:00"],
    );
}

#[test]
fn leap_days_come_when_they_come() {
    let ticks = |after: &str, count: usize| {
        let calendar = Schedule::cron("0 0 29 2 *").calendar().expect("a calendar");
        let mut at = micros(after);
        let next = || {
            at = calendar.next(at)?;
            Some(calendar.local(at).date().to_string())
        };
        std::iter::from_fn(next).take(count).collect::<Vec<_>>()
    };
    assert_eq!(ticks("2026-01-01T00:00:00Z", 2), ["2028-02-29", "2032-02-29"]);
    // 2100 is no leap year.
    assert_eq!(ticks("2096-02-29T00:00:00Z", 2), ["2104-02-29", "2108-02-29"]);
    check("0 6 L 2 *", "UTC", "2027-12-01T00:00:00Z", &["02-29T06:00+00:00", "02-28T06:00+00:00"]);
}

#[test]
fn an_interval_follows_elapsed_time() {
    let every = |seconds: u64| {
        Schedule::every(Duration::from_secs(seconds)).calendar().expect("a calendar")
    };
    let quarter = every(900);
    let at = micros("2026-03-29T00:50:00Z");
    assert_eq!(quarter.next(at), Some(micros("2026-03-29T01:00:00Z")));
    assert_eq!(quarter.next(micros("2026-03-29T01:00:00Z")), Some(micros("2026-03-29T01:15:00Z")));
    assert_eq!(quarter.next(-1), Some(0));
    let from = micros("2026-03-29T01:00:00Z");
    assert_eq!(quarter.last(from, micros("2027-01-01T00:14:59Z")), micros("2027-01-01T00:00:00Z"));
    assert_eq!(quarter.last(from, from), from);
    let odd = every(7);
    let next = odd.next(at).expect("a tick");
    assert_eq!((next % 7_000_000, next > at, next - at <= 7_000_000), (0, true, true));
    assert_eq!(odd.next(i64::MAX), None);
}

#[test]
fn the_year_9999_has_no_next_tick() {
    let calendar = Schedule::cron("0 0 1 1 *").calendar().expect("a calendar");
    assert_eq!(calendar.next(micros("9999-06-01T00:00:00Z")), None);
    assert_eq!(calendar.next(i64::MAX), None);
}

#[test]
fn mistakes_are_told() {
    let wrong = |schedule: Schedule| schedule.calendar().expect_err("a mistake");
    for expression in ["", "* * * *", "* * * * * *", "61 * * * *", "0 25 * * *", "0 0 * * XYZ", "x"]
    {
        let error = wrong(Schedule::cron(expression));
        assert!(error.contains("is no cron expression"), "{expression}: {error}");
    }
    for expression in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 2 +1"] {
        let error = wrong(Schedule::cron(expression));
        assert!(error.contains("never fires"), "{expression}: {error}");
    }
    for zone in ["Europe/Nowhere", "", "../etc/passwd", &"x".repeat(300)] {
        let error = wrong(Schedule::cron("0 3 * * *").zone(zone));
        assert!(error.contains("is no time zone"), "{zone}: {error}");
    }
    for interval in [Duration::ZERO, Duration::from_millis(999), Duration::MAX, Duration::new(1, 1)]
    {
        assert!(wrong(Schedule::every(interval)).contains("an interval is"), "{interval:?}");
    }
    for max in [0, 1001, u32::MAX] {
        let all = Schedule::cron("0 3 * * *").missed(Missed::All { max });
        assert!(wrong(all).contains("1 to 1000"), "{max}");
    }
    assert!(wrong(Schedule::cron("0".repeat(300))).contains("at most 255 bytes"));
}
