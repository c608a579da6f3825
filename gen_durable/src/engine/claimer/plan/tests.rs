//! The claimer's decisions after each kind of answer.

use std::{io, sync::atomic::Ordering, time::SystemTime};

use super::*;
use crate::{fault::NoAnswer, storage::Kind};

const POLL: Duration = Duration::from_secs(10);

/// A planner of these queues, which have ten slots each, and the queues.
fn planner(names: &[&str], now: Instant) -> (Planner, Vec<Arc<Queue>>) {
    let queues: Vec<Arc<Queue>> = names.iter().map(|name| Arc::new(Queue::new(name, 10))).collect();
    let kinds = Kinds { fsms: vec!["m".into()], versions: vec![1], listening: Vec::new() };
    (Planner::new(queues.iter().cloned(), Arc::new(kinds), POLL, now), queues)
}

/// The next action, which must be a claim.
fn request(planner: &mut Planner, now: Instant) -> ClaimRequest {
    match planner.plan(Some(7), now) {
        Plan::Claim(request) => request,
        other => panic!("no claim: {other:?}"),
    }
}

/// The next action, which must be a wait. Returns its length, and if more rows may wait.
fn wait(planner: &mut Planner, now: Instant) -> (Duration, bool) {
    match planner.plan(Some(7), now) {
        Plan::Wait { until, saturated } => (until - now, saturated),
        other => panic!("no wait: {other:?}"),
    }
}

/// Answers the look that must be the next action. Returns the queues that it looked in.
fn look(planner: &mut Planner, eligible: Option<Duration>, now: Instant) -> Vec<String> {
    let Plan::Look { queues, .. } = planner.plan(Some(7), now) else { panic!("no look") };
    planner.absorb_look(Ok(Due { eligible, wake: None }), None, now);
    queues
}

/// The answer to a request, with this many rows of each queue.
fn claim(request: &ClaimRequest, counts: &[usize]) -> Claim {
    let rows = request.queues.iter().zip(counts);
    Claim {
        rows: rows.flat_map(|(queue, count)| (0..*count).map(|_| row(queue))).collect(),
        busy_keys: vec![0; request.queues.len()],
        stuck: vec![0; request.queues.len()],
        ..Claim::default()
    }
}

fn row(queue: &str) -> Claimed {
    Claimed {
        id: 1,
        worker: 7,
        revision: 1,
        kind: Kind { fsm: "m".into(), fsm_version: 1 },
        step: "s".into(),
        state: Some("{}".into()),
        queue: queue.into(),
        partition_key: None,
        attempt: 0,
        failures: 0,
        timed_out: false,
        report_to: None,
        trace_context: None,
        now: SystemTime::UNIX_EPOCH,
        waited: Duration::ZERO,
        inbox: crate::storage::Inbox::default(),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// About this long: a jittered pause is between three quarters and five quarters of it.
fn is_about(pause: Duration, expected: Duration) -> bool {
    (expected * 3 / 4..=expected * 5 / 4).contains(&pause)
}

#[test]
fn a_full_claim_is_repeated_at_once_and_announced_once() {
    let now = Instant::now();
    let (mut planner, _) = planner(&["a", "b"], now);
    for first in [true, false] {
        let request = request(&mut planner, now);
        assert_eq!((&request.queues, &request.wanted), (&names(&["a", "b"]), &vec![10, 10]));
        let absorbed = planner.absorb(&request, Ok(claim(&request, &[10, 0])), None, now);
        assert_eq!((absorbed.found, absorbed.backlog), (Some(true), Some(true)));
        assert_eq!(absorbed.announce, first);
        assert_eq!(absorbed.rows.iter().filter(|(_, runs)| *runs).count(), 10);
    }
}

#[test]
fn after_a_claim_that_found_nothing_the_claimer_looks_and_waits_ever_longer() {
    let now = Instant::now();
    let (mut planner, _) = planner(&["a"], now);
    for pause in [50, 100, 200] {
        let request = request(&mut planner, now);
        let absorbed = planner.absorb(&request, Ok(claim(&request, &[0])), None, now);
        assert_eq!((absorbed.found, absorbed.backlog), (Some(false), Some(false)));
        assert_eq!(look(&mut planner, None, now), ["a"]);
        let (until, saturated) = wait(&mut planner, now);
        assert!(is_about(until, Duration::from_millis(pause)), "{until:?}");
        assert!(!saturated);
        planner.woken();
    }
}

#[test]
fn what_is_due_ends_the_wait() {
    let now = Instant::now();
    let (mut planner, _) = planner(&["a"], now);
    let due = Duration::from_millis(10);
    let nothing = |planner: &mut Planner, own| {
        let request = request(planner, now);
        planner.absorb(&request, Ok(claim(&request, &[0])), own, now);
    };
    nothing(&mut planner, None);
    look(&mut planner, Some(due), now);
    assert_eq!(wait(&mut planner, now), (due, false));
    planner.woken();
    // The look found what the claim missed.
    nothing(&mut planner, None);
    look(&mut planner, Some(Duration::ZERO), now);
    // A row that this engine delayed has become due while the claim was under way.
    nothing(&mut planner, Some(now));
    nothing(&mut planner, Some(now + due));
    let Plan::Look { .. } = planner.plan(Some(7), now) else { panic!("no look") };
    planner.absorb_look(Ok(Due { eligible: None, wake: None }), Some(now + due), now);
    assert_eq!(wait(&mut planner, now), (due, false));
}

#[test]
fn contended_rows_are_asked_for_again_soon_and_then_less_often() {
    let now = Instant::now();
    let (mut planner, _) = planner(&["a"], now);
    let contended = |planner: &mut Planner, count| {
        let request = request(planner, now);
        let answer = Claim { contended: true, ..claim(&request, &[count]) };
        planner.absorb(&request, Ok(answer), None, now);
        if let Plan::Look { .. } = planner.plan(Some(7), now) {
            look(planner, None, now);
        }
        let waited = wait(planner, now);
        planner.woken();
        waited
    };
    for pause in [1, 2, 4, 8] {
        let (until, saturated) = contended(&mut planner, 0);
        assert!(is_about(until, CONTENDED_PAUSE_MIN * pause), "{until:?}");
        assert!(!saturated);
    }
    let (until, saturated) = contended(&mut planner, 1);
    assert!(is_about(until, CONTENDED_PAUSE_MIN), "{until:?}");
    assert!(saturated, "rows of other groups may wait");
}

#[test]
fn a_refused_queue_pauses_and_the_others_do_not() {
    let now = Instant::now();
    let (mut planner, _) = planner(&["a", "b"], now);
    let first = request(&mut planner, now);
    let answer = Claim { refused: names(&["a"]), ..claim(&first, &[0, 0]) };
    let absorbed = planner.absorb(&first, Ok(answer), None, now);
    assert_eq!((absorbed.found, absorbed.backlog), (None, None), "both are open");
    assert_eq!(look(&mut planner, None, now), ["b"]);
    let (until, _) = wait(&mut planner, now);
    assert!(until < Duration::from_millis(3), "{until:?}");
    planner.woken();
    assert_eq!(request(&mut planner, now).queues, ["b"]);
    let later = now + until;
    planner.woken();
    assert_eq!(request(&mut planner, later).queues, ["a", "b"]);
}

#[test]
fn a_queue_that_is_too_large_or_too_slow_is_asked_for_less() {
    let slow = || sqlx::Error::Io(io::Error::other(NoAnswer(Duration::from_secs(1))));
    let large = || sqlx::Error::Encode("too large".into());
    for error in [&slow as &dyn Fn() -> sqlx::Error, &large] {
        let mut now = Instant::now();
        let (mut planner, _) = planner(&["a", "b"], now);
        let first = request(&mut planner, now);
        let absorbed = planner.absorb(&first, Err(error()), None, now);
        assert!(absorbed.failed);
        // Each is claimed by itself then. Queue `a` fails again and again, and `b` works.
        let mut asked = Vec::new();
        for _ in 0..20 {
            now += Duration::from_millis(500);
            let request = request(&mut planner, now);
            let [queue] = &request.queues[..] else { panic!("{request:?}") };
            asked.push((queue.clone(), request.wanted[0], request.light.is_some()));
            let answer = if queue == "a" { Err(error()) } else { Ok(claim(&request, &[10])) };
            planner.absorb(&request, answer, None, now);
        }
        let a: Vec<_> = asked.iter().filter(|(queue, ..)| queue == "a").collect();
        let (_, wanted, light) = a.last().unwrap();
        assert_eq!((*wanted, a[0].1, *light), (1, 10, false), "{asked:?}");
        assert!(asked.len() - a.len() >= 8, "the other queue goes on: {asked:?}");
    }
}

#[test]
fn an_outage_is_waited_out_whatever_is_announced() {
    let now = Instant::now();
    let (mut planner, _) = planner(&["a"], now);
    let first = request(&mut planner, now);
    let error = sqlx::Error::Io(io::ErrorKind::ConnectionReset.into());
    planner.absorb(&first, Err(error), None, now);
    let Plan::Pause { until } = planner.plan(Some(7), now) else { panic!("no pause") };
    assert!(until > now);
    planner.woken();
    request(&mut planner, until);
}

#[test]
fn a_queue_without_free_slots_is_claimed_as_soon_as_it_has_some() {
    let now = Instant::now();
    let (mut planner, queues) = planner(&["a", "b"], now);
    queues[1].claimed.store(10, Ordering::SeqCst);
    let first = request(&mut planner, now);
    assert_eq!(first.queues, ["a"]);
    planner.absorb(&first, Ok(claim(&first, &[0])), None, now);
    look(&mut planner, None, now);
    assert!(wait(&mut planner, now).1, "a free slot wakes the claimer");
    queues[1].claimed.store(9, Ordering::SeqCst);
    assert_eq!(request(&mut planner, now).queues, ["a", "b"]);
}

#[test]
fn without_free_slots_or_a_lease_the_claimer_waits_for_them() {
    let now = Instant::now();
    let (mut planner, queues) = planner(&["a"], now);
    queues[0].claimed.store(10, Ordering::SeqCst);
    assert_eq!(wait(&mut planner, now), (POLL, true));
    queues[0].claimed.store(0, Ordering::SeqCst);
    assert!(matches!(planner.plan(None, now), Plan::Wait { until, .. } if until == now + POLL));
    request(&mut planner, now);
}

#[test]
fn rows_that_hid_others_lead_to_another_claim_at_once() {
    let now = Instant::now();
    let (mut planner, _) = planner(&["a"], now);
    for (count, cut, cleared, again) in
        [(1, true, false, true), (0, true, false, false), (0, false, true, true)]
    {
        let request = request(&mut planner, now);
        let answer = Claim { cut, cleared, ..claim(&request, &[count]) };
        planner.absorb(&request, Ok(answer), None, now);
        let next = planner.plan(Some(7), now);
        assert_eq!(matches!(next, Plan::Claim(_)), again, "{next:?}");
        planner.woken();
    }
}

#[test]
fn rows_beyond_the_free_slots_are_given_back() {
    let now = Instant::now();
    let (mut planner, _) = planner(&["a"], now);
    for _ in 0..3 {
        let request = request(&mut planner, now);
        let answer = Claim { stuck: vec![10], contended: true, ..claim(&request, &[0]) };
        planner.absorb(&request, Ok(answer), None, now);
        planner.woken();
    }
    let request = request(&mut planner, now);
    assert_eq!((request.wanted[0], request.beyond[0]), (20, 10));
    let absorbed = planner.absorb(&request, Ok(claim(&request, &[13])), None, now);
    assert_eq!(absorbed.rows.iter().filter(|(_, runs)| *runs).count(), 10);
}
