//! A claim brings states and signals with its rows, and bounds their bytes: `claim.sql`.

use serde_json::{Value, json};
use sqlx::{Acquire, Row};

use super::{
    claim::{Request, answer, claimer, ids, ten},
    inbox, rows, worker,
};
use crate::support::database;

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_takes_the_most_urgent_bytes() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let row = |id: i64| json!({ "id": id, "priority": 10 - id });
    rows(pool, (1..=4).map(row).collect()).await;
    // Row 4 comes first, with some 10 KB. Row 3 is compressed and counts for 96 KB. Rows 2 and 1
    // are small.
    crate::support::sql(
        pool,
        "update gen_durable.instances set state = case id
             when 4 then (select to_json(string_agg(md5(n::text), '')) from generate_series(1, 300) as n)
             when 3 then to_json(repeat('x', 1048576))
             else state end",
    )
    .await;
    let mut connection = claimer(pool).await;
    let mut take = async |bytes| {
        let mut transaction = connection.begin().await.unwrap();
        let answer = answer(&mut transaction, &Request { bytes, ..ten() }).await;
        transaction.rollback().await.unwrap();
        (ids(&answer), answer.get::<Option<bool>, _>("cut"))
    };
    assert_eq!(take(1_000).await, (vec![4], Some(true)));
    assert_eq!(take(11_000).await, (vec![4, 3], Some(true)));
    assert_eq!(take(80_000).await, (vec![4, 3], Some(true)));
    assert_eq!(take(1_000_000).await, (vec![4, 3, 2, 1], Some(false)));
    // This state takes more than a MiB on disk, and far less than a state that cannot be loaded.
    crate::support::sql(
        pool,
        "update gen_durable.instances
         set state = (select to_json(string_agg(md5(n::text), '')) from generate_series(1, 40000) as n)
         where id = 4",
    )
    .await;
    let row = answer(&mut connection, &Request { bytes: 1_000, ..ten() }).await;
    let states: Vec<Option<String>> = row.get("states");
    assert_eq!(states[0].as_ref().map(String::len), Some(1_280_002));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_brings_the_oldest_signals_to_machines_that_listen() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    rows(pool, (1..=8).map(|id| json!({ "id": id })).collect()).await;
    inbox::fill(pool).await;
    let mut connection = claimer(pool).await;
    for listening in [true, false] {
        let mut transaction = connection.begin().await.unwrap();
        let listens: &[&str] = if listening { &["n", "m"] } else { &["n"] };
        let row = answer(&mut transaction, &Request { listening: listens, ..ten() }).await;
        let inboxes: Vec<Option<String>> = row.get("inboxes");
        let inboxes: Vec<(i64, Value)> = (1..)
            .zip(inboxes)
            .filter_map(|(id, inbox)| Some((id, serde_json::from_str(&inbox?).unwrap())))
            .collect();
        let expected = if listening { inbox::expected() } else { vec![] };
        assert_eq!(inboxes.iter().map(inbox::summary).collect::<Vec<_>>(), expected);
        transaction.rollback().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_heads_are_weighed_apart_and_in_their_order() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let key = |id: i64| (id > 2).then(|| format!("key {id}"));
    let row = |id: i64| json!({ "id": id, "priority": 10 - id, "partition_key": key(id) });
    rows(pool, (1..=5).map(row).collect()).await;
    // Rows 5, 4 and 3 have keys and come first. Rows 2 and 1 have none. Each row takes some 10 KB.
    crate::support::sql(
        pool,
        "update gen_durable.instances
         set state = (select to_json(string_agg(md5(n::text), '')) from generate_series(1, 300) as n)",
    )
    .await;
    let mut connection = claimer(pool).await;
    let mut take = async |bytes| {
        let mut transaction = connection.begin().await.unwrap();
        let answer = answer(&mut transaction, &Request { bytes, ..ten() }).await;
        transaction.rollback().await.unwrap();
        ids(&answer)
    };
    assert_eq!(take(1_000).await, [5, -4, -3, 2]);
    assert_eq!(take(15_000).await, [5, 4, -3, 2, 1]);
    assert_eq!(take(25_000).await, [5, 4, 3, 2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_light_claim_loads_small_states_and_no_signals() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    rows(pool, (1..=2).map(|id| json!({ "id": id })).collect()).await;
    inbox::large_state(pool, 1).await;
    super::signals(pool, &[(1, 7), (1, 8)]).await;
    let mut connection = claimer(pool).await;
    let request = Request { listening: &["m"], light: true, ..ten() };
    let row = answer(&mut connection, &request).await;
    let states: Vec<Option<String>> = row.get("states");
    let inboxes: Vec<Option<String>> = row.get("inboxes");
    assert_eq!(states, [None, Some("\"old\"".to_owned())]);
    assert_eq!(inboxes, [Some("[[],true]".to_owned()), None]);
}
