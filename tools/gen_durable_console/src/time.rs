//! Moments and spans of time as text.
//!
//! Invariant: the server writes UTC. The script of the page shows how long ago that was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns a moment as RFC 3339 with milliseconds, in UTC.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let (date, seconds, millis) = parts(time);
    let (year, month, day) = date;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Returns a moment for people: `2026-11-30 06:13:07`, in UTC.
pub(crate) fn plain(time: SystemTime) -> String {
    let mut text = rfc3339(time).replace('T', " ");
    text.truncate(19);
    text
}

/// Returns the date, and the seconds and milliseconds of the day.
fn parts(time: SystemTime) -> ((i64, i64, i64), i64, u32) {
    let (seconds, millis) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_millis()),
        Err(before) => {
            let before = before.duration().as_secs();
            (-i64::try_from(before).unwrap_or(i64::MAX), 0)
        }
    };
    (date(seconds.div_euclid(86_400)), seconds.rem_euclid(86_400), millis)
}

/// Returns the date of a day since 1970, in the Gregorian calendar. Years begin in March, so that
/// the leap day is the last of its year, and four centuries have 146,097 days.
fn date(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Returns a span for people, with its largest unit or two: `850 ms`, `3 min 4 s`, `2 d 5 h`.
pub(crate) fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |large: u64, unit: &str, small: u64, next: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {next}"),
    };
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// Returns a span as a URL has it: `500ms`, `90s`, `15m`, `2h`, `3d`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    if span.subsec_millis() > 0 {
        return format!("{}ms", span.as_millis());
    }
    for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        if seconds > 0 && seconds.is_multiple_of(size) {
            return format!("{}{unit}", seconds / size);
        }
    }
    format!("{seconds}s")
}

/// The longest span, in seconds: a century. The database refuses times that are far away.
const SECONDS_MAX: u64 = 36_525 * 86_400;

/// Reads a span as a URL has it.
pub(crate) fn parse_span(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Some(digits) = text.strip_suffix("ms") {
        let millis = digits.parse::<u64>().ok()?;
        return (millis <= SECONDS_MAX * 1_000).then(|| Duration::from_millis(millis));
    }
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let size = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let seconds = digits.parse::<u64>().ok()?.checked_mul(size)?;
    (seconds <= SECONDS_MAX).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(rfc3339(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(at(951_782_400)), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(at(1_709_251_199)), "2024-02-29T23:59:59.000Z");
        assert_eq!(plain(at(4_107_542_400)), "2100-03-01 00:00:00");
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(before), "1969-12-31T23:59:59.000Z");
    }

    #[test]
    fn spans_are_short() {
        let said = [0, 12, 184, 7_200, 190_800].map(|s| short(Duration::from_secs(s)));
        assert_eq!(said, ["0 ms", "12 s", "3 min 4 s", "2 h", "2 d 5 h"]);
    }

    #[test]
    fn spans_of_a_url_are_read_back() {
        for text in ["0s", "500ms", "1500ms", "90s", "15m", "2h", "3d"] {
            assert_eq!(parse_span(text).map(span).as_deref(), Some(text));
        }
        for text in ["", "s", "ms", "-1ms", "-1s", "5", "5y", "99999999999999d", "é"] {
            assert_eq!(parse_span(text), None, "{text}");
        }
    }
}
