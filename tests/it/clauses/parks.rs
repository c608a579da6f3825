//! The clauses of the statement by which the doctor looks again at parked instances.

use serde_json::json;

use super::rows;
use crate::support::database;

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_instance_that_went_on_is_not_parked_as_it_was() {
    let db = database().await;
    let row = |id: i64, status: &str, revision: i64| json!({ "id": id, "status": status, "revision": revision });
    let parked = "awaiting_signal";
    let all = [row(1, parked, 5), row(2, parked, 6), row(3, "runnable", 5), row(4, parked, 5)];
    rows(db.pool(), all.into()).await;
    let still: Vec<i64> =
        sqlx::query_scalar(include_str!("../../../gen_durable/src/storage/sql/still_parked.sql"))
            .bind(vec![4_i64, 3, 2, 1, 9])
            .bind(vec![5_i64; 5])
            .fetch_all(db.pool())
            .await
            .unwrap();
    assert_eq!(still, [1, 4]);
}
