//! Schedules that do not fire, or whose ticks come to nothing.

use gen_durable::{
    operate::{Illness, Severity},
    prelude::*,
};

use super::{WORKER, illnesses, is_healthy, names, only};
use crate::support::{database, sql};

/// The schedules `idle`, `fine` and `mended` are as they should be.
const SCHEDULES: &str = "
    insert into gen_durable.schedules
        (name, body, fsm, next_at, passed_at, skipped, skipped_to, last_at, asked_at, last_error, failed_at, paused_at, paused_by)
    select name, 'b', 'order', now() + next * interval '1 min', now(), '{}', now(), now() + last * interval '1 min',
           now() + asked * interval '1 min', case when failed is not null then 'no room' end,
           now() + failed * interval '1 min', now() + paused * interval '1 h', case when paused is not null then 'ada' end
    from (values
        ('fine', 1, -1, null::int, null::int, null::int), ('idle', null, null, null, null, null),
        ('overdue', -2, -9, null, null, null), ('asked', 9, -9, -3, null, null),
        ('failing', 5, -9, null, -4, null), ('mended', 5, -1, null, -4, null),
        ('paused', -5, -9, null, null, -7), ('gone', -9, null, null, null, null)
    ) as v (name, next, last, asked, failed, paused);
    insert into gen_durable.declarations (worker, kind, name, body, appeared_at)
    select 1, case when name = 'gone' then 'limit' else 'schedule' end, name, 'b', now() from gen_durable.schedules";

#[tokio::test(flavor = "multi_thread")]
async fn p76_schedules_that_do_not_fire_are_found() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, WORKER).await;
    sql(pool, SCHEDULES).await;
    let findings = illnesses(pool).await;
    let expected = [
        (Illness::FailingSchedule, "schedule failing"),
        (Illness::OverdueSchedule, "schedule asked"),
        (Illness::OverdueSchedule, "schedule overdue"),
        (Illness::UndeclaredSchedule, "schedule gone"),
        (Illness::PausedSchedule, "schedule paused"),
    ];
    assert_eq!(names(&findings), expected.map(|(illness, subject)| (illness, subject.to_owned())));
    let [failing, _, overdue, gone, paused] = &findings[..] else { panic!() };
    assert!(failing.explanation.ends_with("its instance: no room"), "{}", failing.explanation);
    assert!(overdue.explanation.contains("due for 2 min"), "{}", overdue.explanation);
    assert!(gone.cure.ends_with("where name = 'gone'"), "{}", gone.cure);
    assert_eq!(paused.severity, Severity::Info);
    assert_eq!(paused.explanation, "it has been paused for 7 h by ada");
    assert_eq!(paused.cure, "gen-durable schedules resume paused");

    let client = Client::new(pool.clone());
    client.schedule("paused").resume().execute(&client).await.unwrap();
    sql(
        pool,
        "update gen_durable.schedules set next_at = now() + interval '1 min', asked_at = null, last_at = now();
         delete from gen_durable.schedules where name = 'gone'",
    )
    .await;
    is_healthy(pool).await;

    // Without an engine, none is due in vain.
    sql(pool, "delete from gen_durable.workers; update gen_durable.schedules set next_at = now() - interval '1 h'").await;
    only(pool, Illness::NoEngine, "the fleet").await;
}
