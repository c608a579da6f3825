//! The doctor works with the rights that a login has.

use gen_durable::{
    operate::{Illness, Severity},
    prelude::*,
};

use super::WORKER as LIVING;
use crate::{
    roles::{APP, Login, OPERATOR, SUPERVISOR, WORKER},
    support::{database, sql},
};

#[tokio::test(flavor = "multi_thread")]
async fn p76_a_look_that_is_not_allowed_hides_no_other() {
    let db = database().await;
    gen_durable_migrate::roles(db.pool()).await.unwrap();
    sql(db.pool(), LIVING).await;
    sql(
        db.pool(),
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue) values ('order', 2, 's', '{}', 'attic')",
    )
    .await;
    for role in [OPERATOR, SUPERVISOR, WORKER] {
        let login = Login::of(&db, role).await;
        let findings = Client::new(login.pool.clone()).diagnose().await.unwrap();
        assert!(findings.iter().any(|finding| finding.illness == Illness::UnservedQueue), "{role}");
        let failed = |illness| findings.iter().filter(move |finding| finding.illness == illness);
        for look in failed(Illness::CouldNotLook) {
            // Other sessions of the database are not shown to it.
            assert_eq!(look.subject, "the transactions of other roles", "{role}: {look:?}");
            assert_eq!(
                (look.severity, &*look.cure),
                (Severity::Info, "grant it pg_read_all_stats")
            );
        }
        login.remove(&db).await;
    }
    let app = Login::of(&db, APP).await;
    let findings = Client::new(app.pool.clone()).diagnose().await.unwrap();
    let queues = findings.iter().find(|finding| finding.subject == "the look at the workers");
    let queues = queues.unwrap();
    assert_eq!((queues.illness, queues.severity), (Illness::CouldNotLook, Severity::Warning));
    assert!(queues.explanation.contains("permission denied"), "{}", queues.explanation);
    assert!(queues.cure.contains("gen_durable_operator"), "{}", queues.cure);
    app.remove(&db).await;

    let closed = Client::new(db.pool().clone());
    db.pool().close().await;
    closed.diagnose().await.unwrap_err();
}

/// A table that is locked for longer than a look may take.
#[tokio::test(flavor = "multi_thread")]
async fn p76_a_look_that_takes_too_long_hides_no_other() {
    let db = database().await;
    sql(db.pool(), LIVING).await;
    sql(
        db.pool(),
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue) values ('order', 2, 's', '{}', 'attic')",
    )
    .await;
    let mut locked = db.pool().begin().await.unwrap();
    sqlx::query("lock table gen_durable.schedules").execute(&mut *locked).await.unwrap();
    let findings = Client::new(db.pool().clone()).diagnose().await.unwrap();
    let failed = findings.iter().find(|finding| finding.illness == Illness::CouldNotLook).unwrap();
    assert_eq!(failed.subject, "the look at the schedules");
    assert!(failed.cure.starts_with("try again"), "{}", failed.cure);
    assert!(findings.iter().any(|finding| finding.illness == Illness::UnservedQueue));
    locked.rollback().await.unwrap();
}
