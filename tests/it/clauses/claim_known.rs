//! Claiming in known groups: `claim_known.sql`.

use serde_json::json;
use sqlx::{Acquire, PgConnection, Row, postgres::PgRow};

use super::{
    FUTURE, PAST, claim::claimer, claim::ids, each, is_locked, rows, run, session, worker,
};
use crate::support::database;

/// A known group: queue, rows to claim, machine, version, kind, priority and watermark.
type Group<'a> = (&'a str, i64, &'a str, i32, i64, i16, i64);
/// A queue with a machine and version, and the priority of its known group.
type Place<'a> = (&'a str, &'a str, i32, Option<i16>);

/// The first of January 2020 in microseconds since 1970.
const JANUARY: i64 = 1_577_836_800_000_000;
const BYTES: i64 = 1000;
/// The group of the rows that the tests insert by default.
const PLAIN: Group<'_> = ("default", 10, "m", 1, 3, 0, JANUARY);

/// Claims for the worker 7, or for another one.
async fn claim_for(
    connection: &mut PgConnection,
    worker: i64,
    groups: &[Group<'_>],
    places: &[Place<'_>],
) -> PgRow {
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/claim_known.sql"))
        .bind(worker)
        .bind(groups.iter().map(|group| group.0).collect::<Vec<_>>())
        .bind(groups.iter().map(|group| group.1).collect::<Vec<_>>())
        .bind(groups.iter().map(|group| group.2).collect::<Vec<_>>())
        .bind(groups.iter().map(|group| group.3).collect::<Vec<_>>())
        .bind(groups.iter().map(|group| group.4).collect::<Vec<_>>())
        .bind(groups.iter().map(|group| group.5).collect::<Vec<_>>())
        .bind(groups.iter().map(|group| group.6).collect::<Vec<_>>())
        .bind(places.iter().map(|place| place.0).collect::<Vec<_>>())
        .bind(places.iter().map(|place| place.1).collect::<Vec<_>>())
        .bind(places.iter().map(|place| place.2).collect::<Vec<_>>())
        .bind(places.iter().map(|place| place.3).collect::<Vec<_>>())
        .bind(BYTES)
        .fetch_one(connection)
        .await
        .unwrap()
}

async fn claim(connection: &mut PgConnection, groups: &[Group<'_>], places: &[Place<'_>]) -> PgRow {
    claim_for(connection, 7, groups, places).await
}

fn left_out(answer: &PgRow) -> Option<bool> {
    answer.get("left_out")
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_known_group_is_claimed_by_time_and_id() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let day = |day: u32| format!("2020-01-{day:02}T00:00:00+00:00");
    let row =
        |id, time: &str| json!({ "id": id, "queue": "q", "priority": 5, "eligible_at": time });
    let but = |id, more: serde_json::Value| {
        let mut row = row(id, &day(1));
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    // None of these is in the group, due, and waiting.
    let all = json!([
        but(101, json!({ "queue": "x" })),
        but(102, json!({ "fsm": "n" })),
        but(103, json!({ "fsm_version": 2 })),
        but(104, json!({ "priority": 4 })),
        but(105, json!({ "status": "awaiting_signal" })),
        but(106, json!({ "partition_key": "k", "blocked_by": 1 })),
        but(107, json!({ "eligible_at": FUTURE })),
        but(108, json!({ "eligible_at": "2019-12-31T23:59:59.7+00:00" })),
        row(4, &day(2)),
        row(3, &day(2)),
        row(1, "2019-12-31T23:59:59.8+00:00"),
        row(5, &day(3)),
        row(7, &day(1)),
    ]);
    rows(pool, all).await;
    let mut connection = claimer(pool).await;
    for (wanted, expected, first) in
        [(3, &[1, 7, 3][..], JANUARY - 200_000), (1, &[4], JANUARY + 86_400_000_000)]
    {
        let group = ("q", wanted, "m", 1, 9, 5, JANUARY);
        let mut transaction = connection.begin().await.unwrap();
        let answer = claim(&mut transaction, &[group], &[]).await;
        // The claim leaves no lock on the rows that it leaves.
        assert!(!is_locked(pool, 5).await);
        transaction.commit().await.unwrap();
        assert_eq!(ids(&answer), expected);
        assert_eq!(answer.get::<Vec<i64>, _>("first_kinds"), [9]);
        assert_eq!(answer.get::<Vec<i16>, _>("first_priorities"), [5]);
        assert_eq!(answer.get::<Vec<i64>, _>("first_since"), [first]);
        assert_eq!(left_out(&answer), Some(false));
        assert!(!answer.get::<bool, _>("unsure") && !answer.get::<bool, _>("cut"));
    }
    // Each queue has a group, and its own number of rows. In `none` nothing is due.
    let groups = [
        ("none", 10, "m", 1, 1, 5, JANUARY),
        ("x", 10, "m", 1, 2, 5, JANUARY),
        ("q", 10, "m", 1, 3, 5, JANUARY),
    ];
    let answer = claim(&mut connection, &groups, &[]).await;
    assert_eq!((ids(&answer), left_out(&answer)), (vec![101, 5], Some(false)));
    assert_eq!(answer.get::<Vec<i64>, _>("kinds"), [2, 3]);
    let mut first = answer.get::<Vec<i64>, _>("first_kinds");
    first.sort_unstable();
    assert_eq!(first, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_in_known_groups_moves_rows_and_answers_what_they_are() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let row = |id, scope: &[&str], awaits, revision: i64| {
        json!({ "id": id, "updated_at": PAST, "attempt": id, "failures": id + 1, "state": id,
                "step": "t", "unique_key": format!("u{id}"), "unique_scope": scope,
                "awaits": awaits, "revision": revision })
    };
    let both = ["runnable", "executing"];
    let waiting = ["runnable", "awaiting_signal"];
    let last = 4_611_686_018_427_387_904;
    rows(pool, json!([row(1, &both, Some([(); 0]), 3), row(2, &waiting, None, last)])).await;
    let mut connection = session(pool, "").await;
    let row = claim(&mut connection, &[PLAIN], &[("default", "m", 1, Some(0))]).await;
    assert_eq!(ids(&row), [1, 2]);
    assert_eq!(row.get::<Vec<i64>, _>("kinds"), [3, 3]);
    assert_eq!(row.get::<Vec<Option<String>>, _>("partition_keys"), [None, None]);
    assert_eq!(row.get::<Vec<Option<String>>, _>("inboxes"), [None, None]);
    assert_eq!(row.get::<Vec<String>, _>("states"), ["1", "2"]);
    assert_eq!(row.get::<Vec<String>, _>("steps"), ["t", "t"]);
    assert_eq!(row.get::<Vec<i32>, _>("attempts"), [1, 2]);
    assert_eq!(row.get::<Vec<i32>, _>("failures"), [2, 3]);
    assert_eq!(row.get::<Vec<i64>, _>("revisions"), [4, 1]);
    assert_eq!(row.get::<Vec<Option<bool>>, _>("timed_out"), [Some(true), None]);
    let seen = each(
        pool,
        "json_build_array(i.status, i.locked_by, i.revision, case when i.unique_released is null then i.unique_scope end,
                          i.updated_at > now() - interval '1 hour')",
    );
    let expected = json!([["executing", 7, 4, both, true], ["executing", 7, 1, null, true]]);
    assert_eq!(seen.await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_in_known_groups_skips_what_is_locked_and_says_so() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let at = |id| json!({ "id": id, "eligible_at": if id == 5 { FUTURE } else { PAST } });
    rows(pool, (1..=5).map(at).collect()).await;
    let mut somebody = pool.begin().await.unwrap();
    run(
        &mut somebody,
        "select from gen_durable.instances where id = 1 for no key update;
         select from gen_durable.instances where id = 2 for key share",
    )
    .await;
    let two = [("default", 2, "m", 1, 1, 0, JANUARY)];
    let (mut one, mut other) = (claimer(pool).await, claimer(pool).await);
    // A worker without a lease claims nothing.
    run(
        &mut one,
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (8, 'w', now() - interval '1 hour')",
    )
    .await;
    for worker in [8, 9] {
        let answer = claim_for(&mut one, worker, &two, &[]).await;
        assert_eq!((ids(&answer), left_out(&answer)), (vec![], Some(true)));
    }
    // The queue's claim lock keeps another claim out. Each queue has its own.
    let mut transaction = one.begin().await.unwrap();
    let answer = claim(&mut transaction, &two, &[]).await;
    assert_eq!((ids(&answer), left_out(&answer)), (vec![2, 3], Some(false)));
    assert_eq!(answer.get::<Vec<String>, _>("refused"), [""; 0]);
    let another = [two[0], ("another", 2, "m", 1, 1, 0, JANUARY)];
    let refused = claim(&mut other, &another, &[]).await;
    assert_eq!(refused.get::<Vec<String>, _>("refused"), ["default"]);
    assert_eq!((ids(&refused), left_out(&refused)), (vec![], Some(false)));
    assert!(!refused.get::<bool, _>("unsure"));
    transaction.commit().await.unwrap();
    // Both rows that are left are seen, and one is locked. The watermark stays at the locked one.
    let answer = claim(&mut other, &two, &[]).await;
    assert_eq!((ids(&answer), left_out(&answer)), (vec![4], Some(true)));
    assert_eq!(answer.get::<Vec<i64>, _>("first_since"), [JANUARY]);
}

/// Something waits that the statement does not claim. It must leave the rows to `claim.sql`.
#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_in_known_groups_claims_nothing_if_it_meets_other_rows() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let mut connection = session(pool, "").await;
    let places = [("default", "m", 1, Some(0)), ("default", "n", 1, None)];
    // More than half of the bytes, and much more of them, which take little space.
    let heavy = "x".repeat(usize::try_from(BYTES).unwrap() / 2 + 1);
    let packed = "x".repeat(20_000);
    for (other, unsure) in [
        (json!({ "priority": -1 }), true),
        (json!({ "priority": -32768 }), true),
        (json!({ "priority": 1 }), true),
        (json!({ "priority": 32767, "eligible_at": FUTURE }), true),
        (json!({ "fsm": "n", "priority": 32767 }), true),
        (json!({ "fsm": "n", "priority": -32768 }), true),
        (json!({ "partition_key": "k" }), true),
        (json!({ "state": packed }), true),
        (json!({ "state": heavy }), true),
        // These are rows of the group, or no worker of this kind runs them now.
        (json!({ "eligible_at": FUTURE }), false),
        (json!({ "state": "light" }), false),
        (json!({ "queue": "x", "priority": 9 }), false),
        (json!({ "fsm": "x", "priority": 9 }), false),
        (json!({ "fsm_version": 2, "priority": 9 }), false),
        (json!({ "queue": "x", "priority": -9 }), false),
        (json!({ "fsm": "x", "priority": -9 }), false),
        (json!({ "fsm_version": 2, "priority": -9 }), false),
        (json!({ "priority": 9, "status": "awaiting_signal" }), false),
        (json!({ "priority": -9, "status": "awaiting_signal" }), false),
        (json!({ "priority": 9, "partition_key": "k", "blocked_by": 1 }), false),
        (json!({ "priority": -9, "partition_key": "k", "blocked_by": 1 }), false),
    ] {
        run(&mut connection, "truncate gen_durable.instances").await;
        rows(pool, json!([{ "id": 101, "state": heavy, "eligible_at": PAST }])).await;
        rows(pool, json!([other])).await;
        let answer = claim(&mut connection, &[PLAIN], &places).await;
        assert_eq!(answer.get::<bool, _>("unsure"), unsure, "{other}");
        assert_eq!(ids(&answer).is_empty(), unsure, "{other}");
        let kept: bool =
            sqlx::query_scalar("select bool_and(status <> 'executing') from gen_durable.instances")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert_eq!(kept, unsure, "{other}");
    }
}
