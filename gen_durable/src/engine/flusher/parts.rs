//! Divides a batch before it is committed.
//!
//! Invariant: no part has two outcomes of one instance, or frees more than [`KEYS_MAX`] partition
//! keys.

use std::collections::HashSet;

use super::PendingCommit;

/// The most partition keys that one commit frees. It takes an advisory lock for each, and a
/// thousand would fill the lock table of a small server.
const KEYS_MAX: usize = 250;

/// Divides a batch so that no part has two outcomes of one instance.
///
/// A batch has two if the reaper took the instance from this worker, which claimed it again while
/// the old run of its step went on. A commit finds consumed signals and answers by the instance's
/// id. With both outcomes in one commit, the signals and inserts of the old run would be sent with
/// those of the new one.
///
/// Each part is in the order of ids, in which the statement looks rows up. Postgres would take
/// longer to sort them.
pub(super) fn one_of_each(mut commits: Vec<PendingCommit>) -> Vec<Vec<PendingCommit>> {
    // The sort is stable: of one instance, the outcome that came first stays first.
    commits.sort_by_key(|pending| pending.commit.id);
    if commits.is_sorted_by(|one, next| one.commit.id < next.commit.id) {
        return vec![commits];
    }
    let mut last = None;
    let (first, again): (Vec<_>, Vec<_>) = commits
        .into_iter()
        .partition(|pending| last.replace(pending.commit.id) != Some(pending.commit.id));
    let mut parts = vec![first];
    parts.extend(one_of_each(again));
    parts
}

/// Divides a batch so that no part frees more than [`KEYS_MAX`] partition keys.
pub(super) fn few_keys(commits: Vec<PendingCommit>) -> Vec<Vec<PendingCommit>> {
    let freed = |pending: &PendingCommit| {
        pending.commit.partition_key.is_some() && !pending.commit.keeps_claim()
    };
    if commits.iter().filter(|pending| freed(pending)).count() <= KEYS_MAX {
        return vec![commits];
    }
    let mut parts = vec![Vec::new()];
    let mut keys = HashSet::new();
    for pending in commits {
        if freed(&pending)
            && keys.len() == KEYS_MAX
            && !keys.contains(&pending.commit.partition_key)
        {
            parts.push(Vec::new());
            keys.clear();
        }
        if freed(&pending) {
            keys.insert(pending.commit.partition_key.clone());
        }
        if let Some(part) = parts.last_mut() {
            part.push(pending);
        }
    }
    parts
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::{
        super::{Change, Commit, Reply},
        *,
    };
    use tokio::sync::oneshot;

    fn pending(id: i64, revision: i64) -> PendingCommit {
        let commit = Commit {
            id,
            fsm: "m",
            worker: 1,
            revision,
            attempt: 0,
            failures: 0,
            change: Change::Release,
            state: None,
            upgraded: None,
            error: None,
            record: None,
            consumed: Vec::new(),
            known: 0,
            awaits_loaded: None,
            inserts: Vec::new(),
            signals: Vec::new(),
            partition_key: None,
            report_to: None,
            listens: false,
            trace_context: None,
        };
        PendingCommit {
            commit: Box::new(commit),
            reply: Reply::new(oneshot::channel().0),
            uncertain: false,
        }
    }

    #[test]
    fn no_part_of_a_batch_has_two_outcomes_of_one_instance_and_each_is_sorted() {
        let parts = |commits: &[(i64, i64)]| -> Vec<Vec<(i64, i64)>> {
            let commits = commits.iter().map(|(id, revision)| pending(*id, *revision)).collect();
            let key = |pending: &PendingCommit| (pending.commit.id, pending.commit.revision);
            one_of_each(commits).iter().map(|part| part.iter().map(key).collect()).collect()
        };
        assert_eq!(parts(&[(3, 0), (1, 0), (2, 0)]), [vec![(1, 0), (2, 0), (3, 0)]]);
        // Outcomes of one instance keep the order in which they came, whatever their revisions are.
        assert_eq!(
            parts(&[(2, 7), (1, 5), (2, 6), (3, 0), (2, 9), (1, 4)]),
            [vec![(1, 5), (2, 7), (3, 0)], vec![(1, 4), (2, 6)], vec![(2, 9)]]
        );
        assert_eq!(parts(&[]), [vec![]; 1]);
    }

    #[test]
    fn a_commit_frees_a_bounded_number_of_partition_keys() {
        let keyed = |id: i64| {
            let mut pending = pending(id, 0);
            pending.commit.partition_key = Some(format!("key {id}"));
            pending
        };
        let parts = few_keys((0..1000).map(keyed).collect());
        assert!(parts.iter().all(|part| part.len() == KEYS_MAX) && parts.len() == 4);
        let plain = few_keys((0..1000).map(|id| pending(id, 0)).collect());
        assert_eq!(plain.len(), 1, "a row without a key takes no lock");
    }
}
