//! Dividing a batch before it is committed.
//!
//! Invariant: no part has two outcomes of one instance, or frees more than [`KEYS_MAX`] partition keys.

use std::collections::HashSet;

use super::Job;

/// Partition keys that one commit frees: it takes a lock for each, and a thousand would fill a small
/// server's table of locks.
const KEYS_MAX: usize = 250;

/// Divides a batch so that no part has two outcomes of one instance.
///
/// There are two if the instance was taken from this worker and claimed by it again while the old run of
/// its step went on. What a commit consumes and what it answers goes by the instance's id: with both in
/// one, the old run's signals and inserts would go out with the new one's.
///
/// Each part is in the order of ids, in which the statement looks rows up: Postgres would take longer to sort them.
pub(super) fn one_of_each(mut jobs: Vec<Job>) -> Vec<Vec<Job>> {
    // Of one instance, what came first stays first.
    jobs.sort_by_key(|job| job.commit.id);
    if jobs.is_sorted_by(|one, next| one.commit.id < next.commit.id) {
        return vec![jobs];
    }
    let mut last = None;
    let (first, again): (Vec<_>, Vec<_>) =
        jobs.into_iter().partition(|job| last.replace(job.commit.id) != Some(job.commit.id));
    let mut parts = vec![first];
    parts.extend(one_of_each(again));
    parts
}

/// Divides a batch so that no part frees more than [`KEYS_MAX`] partition keys.
pub(super) fn few_keys(jobs: Vec<Job>) -> Vec<Vec<Job>> {
    let freed = |job: &Job| job.commit.partition_key.is_some() && !job.commit.keeps_claim();
    if jobs.iter().filter(|job| freed(job)).count() <= KEYS_MAX {
        return vec![jobs];
    }
    let mut parts = vec![Vec::new()];
    let mut keys = HashSet::new();
    for job in jobs {
        if freed(&job) && keys.len() == KEYS_MAX && !keys.contains(&job.commit.partition_key) {
            parts.push(Vec::new());
            keys.clear();
        }
        if freed(&job) {
            keys.insert(job.commit.partition_key.clone());
        }
        if let Some(part) = parts.last_mut() {
            part.push(job);
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

    fn job(id: i64, revision: i64) -> Job {
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
            consumed: Vec::new(),
            known: 0,
            awaits_loaded: None,
            inserts: Vec::new(),
            signals: Vec::new(),
            partition_key: None,
            listens: false,
        };
        Job { commit: Box::new(commit), reply: Reply::new(oneshot::channel().0), uncertain: false }
    }

    #[test]
    fn no_part_of_a_batch_has_two_outcomes_of_one_instance_and_each_is_sorted() {
        let parts = |jobs: &[(i64, i64)]| -> Vec<Vec<(i64, i64)>> {
            let jobs = jobs.iter().map(|(id, revision)| job(*id, *revision)).collect();
            let key = |job: &Job| (job.commit.id, job.commit.revision);
            one_of_each(jobs).iter().map(|part| part.iter().map(key).collect()).collect()
        };
        assert_eq!(parts(&[(3, 0), (1, 0), (2, 0)]), [vec![(1, 0), (2, 0), (3, 0)]]);
        // Of one instance in the order in which they came, whatever their revisions are.
        assert_eq!(
            parts(&[(2, 7), (1, 5), (2, 6), (3, 0), (2, 9), (1, 4)]),
            [vec![(1, 5), (2, 7), (3, 0)], vec![(1, 4), (2, 6)], vec![(2, 9)]]
        );
        assert_eq!(parts(&[]), [vec![]; 1]);
    }

    #[test]
    fn a_commit_frees_a_bounded_number_of_partition_keys() {
        let keyed = |id: i64| {
            let mut job = job(id, 0);
            job.commit.partition_key = Some(format!("key {id}"));
            job
        };
        let parts = few_keys((0..1000).map(keyed).collect());
        assert!(parts.iter().all(|part| part.len() == KEYS_MAX) && parts.len() == 4);
        let plain = few_keys((0..1000).map(|id| job(id, 0)).collect());
        assert_eq!(plain.len(), 1, "a row without a key takes no lock");
    }
}
