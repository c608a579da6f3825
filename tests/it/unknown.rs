//! Machines and versions that an engine does not know: their rows wait, cost nothing, and starve no
//! other row.

use gen_durable::prelude::*;

use crate::support::{WAIT_MAX, database, engine, row};

mod v1 {
    use gen_durable::prelude::*;

    #[durable_fsm(version = 1, output = u32)]
    pub enum Report {
        Write,
    }

    #[durable_fsm]
    impl Report {
        async fn write(cx: Context<Self>) -> Outcome<Self> {
            cx.done(1)
        }
    }
}

mod v2 {
    use gen_durable::prelude::*;

    #[durable_fsm(version = 2, output = u32)]
    pub enum Report {
        Write,
    }

    #[durable_fsm]
    impl Report {
        async fn write(cx: Context<Self>) -> Outcome<Self> {
            cx.done(2)
        }
    }
}

#[durable_fsm(output = ())]
pub enum Stranger {
    Come,
}

#[durable_fsm]
impl Stranger {
    async fn come(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_what_nobody_knows_waits_costs_nothing_and_starves_no_one() {
    let db = database().await;
    let pool = db.pool();
    // These rows come before the others in every order.
    let rows = (0..5_000).map(|_| Stranger::insert(()).priority(-10));
    let strangers = Stranger::insert_many(rows).execute(pool).await.unwrap();
    let newer = v2::Report::insert(()).priority(-10).execute(pool).await.unwrap();
    let known = v1::Report::insert(()).execute(pool).await.unwrap();

    let engine = engine(&db).machine::<v1::Report>().queue("default", 1).start().await.unwrap();
    assert_eq!(engine.wait(known, WAIT_MAX).await.unwrap(), 1);
    engine.maintain().await.unwrap();
    let stranger = *strangers[0].as_ref().unwrap();
    for waiting in [stranger.get(), newer.get()] {
        let row = row(pool, waiting).await;
        assert_eq!((row.status.as_str(), row.attempt, row.crashes), ("runnable", 0, 0));
    }

    let second = crate::support::engine(&db)
        .machine::<v2::Report>()
        .machine::<Stranger>()
        .start()
        .await
        .unwrap();
    assert_eq!(engine.wait(newer, WAIT_MAX).await.unwrap(), 2);
    engine.wait(stranger, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}
