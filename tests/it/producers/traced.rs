//! The trace contexts that producers without Rust pass on.

use super::register;
use crate::support::{database, sql};

/// The contexts of instances 1 to 3, and of their signals.
const CONTEXTS: &str = "
    select coalesce(i.trace_context, 'none') || ' '
           || coalesce(string_agg(coalesce(s.trace_context, 'none'), ' ' order by s.id), '')
    from gen_durable.instances i
    left join gen_durable.signals s on s.target_id = i.id
    group by i.id
    order by i.id";

#[tokio::test(flavor = "multi_thread")]
async fn p41_the_context_of_a_span_comes_with_an_insert_and_a_signal() {
    let db = database().await;
    register(&db).await;
    let parked = "update gen_durable.instances set status = 'awaiting_signal', awaits = '{paid}'";
    for call in [
        "select gen_durable.insert('order', '1', trace_context => 'web 1')",
        "select gen_durable.insert('order', '1', trace_context => 'web 2', unique_key => 'k')",
        "select gen_durable.insert('order', '1', trace_context => 'web 3')",
        parked,
        "select gen_durable.signal(1, 'paid', '1', trace_context => 'bank 1')",
        "select gen_durable.signal_by_key('order', 'k', 'paid', '1', trace_context => 'bank 2')",
        "select gen_durable.signal(3, 'paid', '1')",
        // These are runnable now: a signal that wakes nobody changes no instance.
        "select gen_durable.signal(1, 'paid', '2', trace_context => 'bank 4')",
        "select gen_durable.signal(3, 'paid', '2')",
    ] {
        sql(db.pool(), call).await;
    }
    let found: Vec<String> = sqlx::query_scalar(CONTEXTS).fetch_all(db.pool()).await.unwrap();
    assert_eq!(found, ["bank 1 bank 1 bank 4", "bank 2 bank 2", "-web 3 none none"]);
    // The next signal finds a link already.
    sql(db.pool(), parked).await;
    sql(db.pool(), "select gen_durable.signal(3, 'paid', '3')").await;
    let found: Vec<String> = sqlx::query_scalar(CONTEXTS).fetch_all(db.pool()).await.unwrap();
    assert_eq!(found[2], "-web 3 none none none");
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_a_text_that_cannot_be_a_context_counts_as_none() {
    let db = database().await;
    register(&db).await;
    for (context, is_kept) in [
        ("''", false),
        ("'-web'", false),
        ("repeat('x', 640)", true),
        ("repeat('x', 641)", false),
        ("repeat('é', 320)", true),
        ("repeat('é', 321)", false),
        ("null", false),
    ] {
        let call = format!(
            "with inserted as materialized (
                 select gen_durable.insert('order', '1', trace_context => {context}) as id
             )
             select gen_durable.signal(id, 'paid', '1', trace_context => {context}) from inserted"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(call)).execute(db.pool()).await.unwrap();
        let kept: Vec<Option<String>> = sqlx::query_scalar(
            "(select trace_context from gen_durable.instances order by id desc limit 1)
             union all
             (select trace_context from gen_durable.signals order by target_id desc limit 1)",
        )
        .fetch_all(db.pool())
        .await
        .unwrap();
        assert!(kept.len() == 2 && kept.iter().all(|kept| kept.is_some() == is_kept), "{context}");
    }
}
