//! The rules for a job's schedule: its expression, its zone, and the options that go together.
//!
//! Invariant: the runtime accepts at start what is accepted here.

use std::time::Duration;

use syn::LitStr;

use crate::{attr::ScheduleOptions, errors::Errors};

/// The shortest and the longest interval, as in the runtime.
const EVERY_MIN: Duration = Duration::from_secs(1);
const EVERY_MAX: Duration = Duration::from_hours(24 * 366);

/// True if the cargo feature `schedules` is on.
pub(crate) const IS_ENABLED: bool = cfg!(feature = "schedules");

pub(crate) fn check_schedule(schedule: &ScheduleOptions, is_enabled: bool, errors: &mut Errors) {
    let Some(at) = schedule.at() else { return };
    if !is_enabled {
        errors.push(syn::Error::new(
            at,
            "a job with a schedule needs the cargo feature `schedules` of gen_durable: enable it in Cargo.toml, with `features = [\"schedules\"]`",
        ));
        return;
    }
    match (&schedule.cron, &schedule.every) {
        (None, None) => errors.push(syn::Error::new(
            at,
            "this belongs to a schedule, and the job has none: write `cron = \"0 3 * * *\"` or `every = \"15m\"` as well",
        )),
        (Some(cron), Some(_)) => errors.at(
            cron,
            "a job has one schedule: leave out `cron` or `every`",
        ),
        (Some(cron), None) => check_expression(cron, errors),
        (None, Some((at, every))) => {
            if !(EVERY_MIN..=EVERY_MAX).contains(every) {
                errors.push(syn::Error::new(*at, "an interval is 1 s to 366 days"));
            }
        }
    }
    if let Some(zone) = &schedule.zone {
        check_zone(zone, errors);
    }
}

#[cfg(feature = "schedules")]
fn check_expression(cron: &LitStr, errors: &mut Errors) {
    use croner::parser::{CronParser, Seconds, Year};
    let expression = cron.value();
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    match parser.parse(&expression) {
        Err(error) => errors.at(
            cron,
            format!("this is no cron expression ({}): write minute, hour, day of the month, month and day of the week, such as `0 3 * * *`", error.to_string().trim_end_matches('.')),
        ),
        Ok(cron_of) => {
            let from = jiff::civil::DateTime::constant(2000, 1, 1, 0, 0, 0, 0);
            if cron_of.find_next_occurrence(&from, true).is_err() {
                errors.at(cron, "this never fires, as no such day comes: choose another day");
            }
        }
    }
}

#[cfg(feature = "schedules")]
fn check_zone(zone: &LitStr, errors: &mut Errors) {
    if jiff::tz::TimeZoneDatabase::bundled().get(&zone.value()).is_err() {
        errors.at(
            zone,
            "this is no time zone: write its IANA name, such as `Europe/Berlin` or `UTC`",
        );
    }
}

// Without the feature nothing comes this far.
#[cfg(not(feature = "schedules"))]
fn check_expression(_: &LitStr, _: &mut Errors) {}

#[cfg(not(feature = "schedules"))]
fn check_zone(_: &LitStr, _: &mut Errors) {}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;
    use crate::attr::MachineOptions;

    /// Returns the messages about a job's options.
    fn messages(options: proc_macro2::TokenStream, is_enabled: bool) -> String {
        let mut errors = Errors::default();
        let options = MachineOptions::read_job(options, &mut errors);
        check_schedule(&options.schedule, is_enabled, &mut errors);
        errors.report().to_string()
    }

    #[test]
    fn without_the_feature_the_message_names_it() {
        for options in [
            quote!(cron = "0 3 * * *"),
            quote!(every = "15m"),
            quote!(queue = "mail", zone = "UTC"),
            // The expression is not looked at.
            quote!(cron = "nonsense"),
        ] {
            let text = messages(options, false);
            assert!(text.contains("the cargo feature `schedules`"), "{text}");
            assert_eq!(text.matches("compile_error").count(), 1, "{text}");
        }
        assert_eq!(messages(quote!(queue = "mail"), false), "");
    }

    #[cfg(feature = "schedules")]
    #[test]
    fn a_wrong_schedule_is_told() {
        for (options, told) in [
            (quote!(cron = "0 3 * *"), "no cron expression"),
            (quote!(cron = "0 0 30 2 *"), "never fires"),
            (quote!(cron = "0 3 * * *", zone = "Mars/Olympus"), "no time zone"),
            (quote!(every = "10ms"), "1 s to 366 days"),
            (quote!(every = "9000h"), "1 s to 366 days"),
            (quote!(zone = "UTC"), "the job has none"),
            (quote!(missed = "skip"), "the job has none"),
            (quote!(overlap = "queue"), "the job has none"),
            (quote!(cron = "0 3 * * *", every = "15m"), "one schedule"),
            (quote!(cron = "0 3 * * *", missed = "all(0)"), "missed = \\\"once\\\""),
            (quote!(cron = "0 3 * * *", missed = "all(1001)"), "missed = \\\"once\\\""),
            (quote!(cron = "0 3 * * *", overlap = "often"), "overlap = \\\"skip\\\""),
            (quote!(cron = 3), "write `cron ="),
        ] {
            let text = messages(options.clone(), true);
            assert!(text.contains(told), "{options}: {text}");
            assert_eq!(text.matches("compile_error").count(), 1, "{options}: {text}");
        }
        let whole = quote!(
            cron = "0 3 * * *",
            zone = "Europe/Berlin",
            missed = "all(24)",
            overlap = "allow"
        );
        for right in [whole, quote!(every = "15m"), quote!(cron = "@daily", missed = "skip")] {
            assert_eq!(messages(right.clone(), true), "", "{right}");
        }
    }
}
