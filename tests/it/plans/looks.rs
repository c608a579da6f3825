//! The statements that look at the fleet, and those of the doctor. They are bounded, whatever there
//! is.

use std::ops::RangeInclusive;

use sqlx::PgConnection;

use super::cases::{BUSY, Case, case, ids};

/// The rows that a look may examine: some ten thousand, by each of its parts.
fn bounded(parts: u32) -> RangeInclusive<f64> {
    0.0..=f64::from(parts) * 10_010.0
}

pub(super) async fn cases(connection: &mut PgConnection, target: &str) -> Vec<Case> {
    let first = ids(connection, "fsm = 'r'").await;
    let revisions = super::cases::repeated("0");
    let by_id: &[&str] = &["instances_pkey"];
    let claimable: &[&str] = &["instances_claim"];
    let timed: &[&str] = &["instances_pkey", "instances_wake"];
    let failed: &[&str] = &["instances_failed"];
    let leased: &[&str] = &["instances_lease"];
    let keyed: &[&str] =
        &["instances_blocked", "instances_partition", "instances_partition_holder"];
    vec![
        // Each group is found, and rows of each are read: due ones, and scheduled ones.
        case("count_due", &["null"], claimable, bounded(8)),
        case("count_due", &["'m'"], claimable, bounded(8)),
        case("count_held", &["null"], BUSY, bounded(5)),
        case("count_held", &["'m'"], BUSY, bounded(5)),
        case("count_failed", &["null"], failed, bounded(1)),
        case("count_failed", &["'f'"], failed, bounded(1)),
        case("count_awaiting", &["null"], timed, bounded(2)),
        case("count_awaiting", &["'m'"], timed, bounded(2)),
        case("list_workers", &["1000"], leased, bounded(1)),
        case("ancestors", &["1"], by_id, 0.0..=3.0),
        case("reporting", &["0"], by_id, bounded(1)),
        case("list_inbox", &[target, "101", "16384"], by_id, 0.0..=102.0),
        case("check_kinds", &[], claimable, bounded(3)),
        case("check_pauses", &[], &["instances_paused", "instances_pkey"], bounded(1)),
        case("check_parks", &["604800"], by_id, bounded(3)),
        case("live_children", &["0", &first], by_id, bounded(1)),
        case("still_parked", &[&first, &revisions], by_id, bounded(1)),
        case("check_holders", &[], leased, bounded(1)),
        case("check_debts", &[], &["instances_owed"], bounded(1)),
        case("check_keys", &[], keyed, bounded(1)),
        case("check_limits", &[], &["instances_limited"], bounded(2)),
        case("check_failures", &["10"], failed, bounded(1)),
    ]
}
