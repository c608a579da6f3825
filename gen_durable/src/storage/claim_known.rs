//! Claims the rows of known groups, with a statement that is smaller than the one for all others.
//!
//! Invariant: only if each queue has one known group, and no row of it may have an inbox.

use sqlx::{PgConnection, postgres::PgRow};

use super::row::{ClaimRequest, First, Places};

const CLAIM_KNOWN: &str = include_str!("sql/claim_known.sql");

/// Returns the known group of each queue, if the statement for known groups may claim. None if a
/// queue has several, or if a row of a group may have an inbox.
pub(super) fn groups(request: &ClaimRequest) -> Option<Vec<&First>> {
    let whole = request.light.is_none() && request.without_lock.is_empty();
    if !(request.settled && whole) {
        return None;
    }
    let groups = request.queues.iter().map(|queue| {
        let mut groups = request.known.iter().filter(|first| first.queue == *queue);
        let (group, others) = (groups.next()?, groups.next());
        let fsm = request.kinds.fsms.get(group.kind)?;
        (others.is_none() && !request.kinds.listening.contains(fsm)).then_some(group)
    });
    groups.collect()
}

/// Runs the statement `claim_known`.
pub(super) async fn claim(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    places: &Places<'_>,
    groups: &[&First],
) -> Result<PgRow, sqlx::Error> {
    let kinds = request.kinds.fsms.len();
    let place = |(queue, group): (usize, &&First)| queue * kinds + group.kind;
    let group_places: Vec<usize> = groups.iter().enumerate().map(place).collect();
    let mut priorities = vec![None; places.queues.len()];
    for (place, group) in group_places.iter().zip(groups) {
        priorities[*place] = Some(group.priority);
    }
    let number = |place: &usize| i64::try_from(place + 1).unwrap_or(i64::MAX);
    sqlx::query(CLAIM_KNOWN)
        .bind(request.worker)
        .bind(&request.queues)
        .bind(&request.wanted)
        .bind(group_places.iter().map(|place| places.fsms[*place]).collect::<Vec<_>>())
        .bind(group_places.iter().map(|place| places.versions[*place]).collect::<Vec<_>>())
        .bind(group_places.iter().map(number).collect::<Vec<_>>())
        .bind(groups.iter().map(|group| group.priority).collect::<Vec<_>>())
        .bind(groups.iter().map(|group| group.since).collect::<Vec<_>>())
        .bind(&places.queues)
        .bind(&places.fsms)
        .bind(&places.versions)
        .bind(priorities)
        .bind(request.bytes_max)
        .fetch_one(connection)
        .await
}
