//! Times and durations: read from arguments, and printed for people and for programs.
//!
//! Invariant: programs get RFC 3339 in UTC, whatever the host's time zone.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// The units of a duration, and the seconds of each, from the largest down.
const UNITS: [(&str, u64); 5] =
    [("w", 7 * 24 * 3600), ("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];

/// Reads a duration: `90s`, `15m`, `1h30m`, `2d`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write it like 90s, 15m, 1h30m or 2d");
    let (mut sum, mut rest) = (Duration::ZERO, text.trim());
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let part = match rest[..letters].trim() {
            "ms" => Some(Duration::from_millis(number)),
            unit => {
                let seconds = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
                number.checked_mul(seconds).map(Duration::from_secs)
            }
        };
        sum = part.and_then(|part| sum.checked_add(part)).ok_or_else(wrong)?;
        rest = rest[letters..].trim_start();
    }
    Ok(sum)
}

/// Reads a time in the past: RFC 3339, or a duration before now.
pub(crate) fn past(text: &str) -> Result<SystemTime, String> {
    time(text, |now, duration| now.checked_sub(duration), "2h (ago)")
}

/// Reads a time to come: RFC 3339, or a duration from now.
pub(crate) fn future(text: &str) -> Result<SystemTime, String> {
    time(text, |now, duration| now.checked_add(duration), "2h (from now)")
}

fn time(
    text: &str,
    from: impl Fn(SystemTime, Duration) -> Option<SystemTime>,
    example: &str,
) -> Result<SystemTime, String> {
    let wrong =
        || format!("`{text}` is no time; write it like 2026-12-24T18:00:00Z, or like {example}");
    if let Ok(duration) = duration(text) {
        return from(SystemTime::now(), duration).ok_or_else(wrong);
    }
    let time: Timestamp = text.parse().map_err(|_| wrong())?;
    Ok(time.into())
}

/// Prints a time for programs: `2026-11-30T06:13:12.5Z`.
pub(crate) fn stamp(time: SystemTime) -> String {
    // Postgres stores no time that jiff cannot hold, but for the two infinities.
    Timestamp::try_from(time).map_or_else(|_| "infinity".to_owned(), |time| time.to_string())
}

/// Prints a time for people: `3m ago`, `in 2h`.
pub(crate) fn relative(time: SystemTime, now: SystemTime) -> String {
    match now.duration_since(time) {
        Ok(past) if past < Duration::from_secs(1) => "now".to_owned(),
        Ok(past) => format!("{} ago", rough(past)),
        Err(error) if error.duration() < Duration::from_secs(1) => "now".to_owned(),
        Err(error) => format!("in {}", rough(error.duration())),
    }
}

/// Prints a duration in its largest unit: `3m`, `12ms`.
pub(crate) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return format!("{}ms", duration.as_millis());
    }
    // Two weeks are printed as 14d: days are compared more easily.
    let unit = UNITS.iter().skip(1).find(|(_, unit)| seconds >= *unit);
    unit.map_or_else(String::new, |(name, unit)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [("90s", 90), ("1h30m", 5400), ("2d", 172_800), ("1w 1s", 604_801)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "5", "m", "5x", "-5m", "1h-", "99999999999999999999s", "9999999999999999w"]
        {
            let error = duration(text).expect_err(text);
            assert!(error.contains("90s, 15m, 1h30m or 2d"), "{error}");
        }
    }

    #[test]
    fn times_are_read_and_printed() {
        let time = future("2026-12-24T18:00:00+01:00").expect("a time");
        assert_eq!(stamp(time), "2026-12-24T17:00:00Z");
        assert!(past("2h").expect("a time") < SystemTime::now());
        assert!(future("2h").expect("a time") > SystemTime::now());
        assert!(past("yesterday").expect_err("no time").contains("2h (ago)"));
        let now = time;
        for (seconds, expected) in
            [(0, "now"), (59, "59s ago"), (3600, "1h ago"), (172_900, "2d ago")]
        {
            assert_eq!(relative(now - Duration::from_secs(seconds), now), expected);
        }
        assert_eq!(relative(now + Duration::from_secs(90), now), "in 1m");
        assert_eq!(rough(Duration::from_millis(12)), "12ms");
    }
}
