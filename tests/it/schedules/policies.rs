//! Ticks in a lab: on time, missed, overlapping, and such as cannot insert their instance.

use std::sync::Arc;

use gen_durable::{Missed, Overlap, Schedule, Tick, prelude::*, testing::Lab};
use sqlx::PgPool;

use super::{Leave, Note, Visit, at, minutes, note, ticks, visit};
use crate::support::{database, sql};

const POLICIES: [(&str, Missed); 3] =
    [("skip", Missed::Skip), ("once", Missed::Once), ("all", Missed::All { max: 3 })];
const OVERLAPS: [(&str, Overlap); 3] =
    [("skip", Overlap::Skip), ("allow", Overlap::Allow), ("queue", Overlap::Queue)];

/// A lab at 00:30 with an hourly schedule for each pair of policies, named like these.
async fn lab(pool: &PgPool) -> Lab {
    let mut builder = Lab::new(pool).machine::<Visit>().starts_at(at(30));
    for (missed_name, missed) in POLICIES {
        for (overlap_name, overlap) in OVERLAPS {
            let schedule = Schedule::cron("0 * * * *").missed(missed).overlap(overlap);
            let name = format!("{missed_name}, {overlap_name}");
            builder = builder.schedule(name, schedule, visit);
        }
    }
    builder.start().await.unwrap()
}

async fn all_leave(lab: &mut Lab, pool: &PgPool) {
    let ids: Vec<i64> =
        sqlx::query_scalar("select id from gen_durable.instances where result is null")
            .fetch_all(pool)
            .await
            .unwrap();
    for id in ids {
        let _ = Visit::signal_leave(InstanceId::from_raw(id), Leave).execute(&*lab).await;
    }
    lab.run_until_idle().await.unwrap();
}

/// Returns the hours of a schedule's ticks that have fired.
async fn hours(pool: &PgPool, schedule: &str) -> Vec<u32> {
    let ticks = ticks(pool, schedule).await;
    ticks.iter().map(|tick| tick["2026-01-05T".len()..][..2].parse().unwrap()).collect()
}

#[tokio::test]
async fn p45_missed_ticks_and_overlaps_are_treated_as_declared() {
    let db = database().await;
    let pool = db.pool();
    let mut lab = lab(pool).await;
    lab.advance(minutes(29)).await.unwrap();
    assert_eq!(hours(pool, "once, skip").await, [0; 0], "none fires when it is declared");
    // 01:00 fires on time, and its instances stay.
    lab.advance(minutes(6)).await.unwrap();
    for (missed, _) in POLICIES {
        for (overlap, _) in OVERLAPS {
            assert_eq!(hours(pool, &format!("{missed}, {overlap}")).await, [1]);
        }
    }
    // The ticks from 02:00 to 06:00 are missed in a pause, as in an outage. It ends at 06:05.
    let pause = "update gen_durable.schedules set paused_at = gen_durable.now(), paused_by = 'x',
                 paused_until = gen_durable.now() + interval '5 hours', revision = revision + 1";
    sql(pool, pause).await;
    lab.advance(minutes(300)).await.unwrap();
    let busy: [(&str, &[u32]); 9] = [
        ("skip, skip", &[1]),
        ("skip, allow", &[1]),
        ("skip, queue", &[1]),
        ("once, skip", &[1]),
        ("once, allow", &[1, 6]),
        ("once, queue", &[1]),
        ("all, skip", &[1]),
        ("all, allow", &[1, 4, 5, 6]),
        ("all, queue", &[1]),
    ];
    for (name, expected) in busy {
        assert_eq!(hours(pool, name).await, expected, "{name}, while the first one stays");
    }
    // The tick that waits fires when the last instance has ended, and no other one does.
    all_leave(&mut lab, pool).await;
    lab.advance(minutes(20)).await.unwrap();
    assert_eq!(hours(pool, "once, queue").await, [1, 6]);
    assert_eq!(hours(pool, "all, queue").await, [1, 4]);
    assert_eq!(hours(pool, "skip, queue").await, [1]);
    all_leave(&mut lab, pool).await;
    // The same pause, while nothing runs: 07:00 to 11:00.
    sql(pool, pause).await;
    lab.advance(minutes(300)).await.unwrap();
    let idle: [(&str, &[u32]); 9] = [
        ("skip, skip", &[]),
        ("skip, allow", &[]),
        ("skip, queue", &[]),
        ("once, skip", &[11]),
        ("once, allow", &[11]),
        ("once, queue", &[11]),
        ("all, skip", &[9]),
        ("all, allow", &[9, 10, 11]),
        ("all, queue", &[9]),
    ];
    for (name, expected) in idle {
        let hours = hours(pool, name).await;
        let after: Vec<u32> = hours.into_iter().filter(|hour| *hour > 6).collect();
        assert_eq!(after, expected, "{name}, while nothing runs");
    }
    // On time again, the last minute counts: 12:00.
    all_leave(&mut lab, pool).await;
    lab.advance(minutes(40)).await.unwrap();
    for name in ["skip, skip", "once, skip", "all, allow"] {
        assert_eq!(hours(pool, name).await.last(), Some(&12), "{name}");
    }
}

/// A day on which the clock goes forward, and one on which it goes back, by half an hour.
#[tokio::test]
async fn p45_ticks_follow_the_time_zone() {
    let db = database().await;
    let pool = db.pool();
    // 2026-04-04 and 2026-10-03, noon in UTC.
    for (noon, fixed, elapsed) in [
        (
            1_775_304_000,
            vec!["2026-04-05T01:45:00", "2026-04-06T01:45:00"],
            [
                "2026-04-05T01:00:00",
                "2026-04-05T01:30:00",
                "2026-04-05T01:30:00",
                "2026-04-05T02:00:00",
            ],
        ),
        (
            1_791_028_800,
            vec!["2026-10-04T01:45:00", "2026-10-05T01:45:00"],
            [
                "2026-10-04T01:00:00",
                "2026-10-04T01:30:00",
                "2026-10-04T02:30:00",
                "2026-10-04T03:00:00",
            ],
        ),
    ] {
        sql(pool, "truncate gen_durable.schedules, gen_durable.instances").await;
        let zone = "Australia/Lord_Howe";
        let mut lab = Lab::new(pool)
            .machine::<Note>()
            .schedule("fixed", Schedule::cron("45 1 * * *").zone(zone), note)
            .schedule("elapsed", Schedule::cron("*/30 * * * *").zone(zone), note)
            .starts_at(std::time::UNIX_EPOCH + std::time::Duration::from_secs(noon))
            .start()
            .await
            .unwrap();
        lab.advance(minutes(30 * 60)).await.unwrap();
        assert_eq!(ticks(pool, "fixed").await, fixed);
        let all = ticks(pool, "elapsed").await;
        assert_eq!(all.len(), 60, "one each half hour, whatever the clock does");
        let changes: Vec<_> = all.iter().skip_while(|tick| **tick != elapsed[0]).take(4).collect();
        assert_eq!(changes, elapsed.each_ref());
        lab.close().await.unwrap();
    }
}

/// A job with a schedule of its own, which takes its tick.
#[durable_job(cron = "30 6 * * *", zone = "Europe/Berlin", missed = "skip", overlap = "allow")]
async fn report(cx: JobContext<Tick>) -> String {
    format!("{} of {}", cx.state.name(), cx.state.local_date().yesterday())
}

/// A job without arguments.
#[durable_job(every = "6h")]
async fn sweep(cx: JobContext) -> bool {
    cx.now() <= at(24 * 60)
}

#[tokio::test]
async fn p45_a_job_runs_at_each_tick_of_its_own_schedule() {
    let db = database().await;
    let builder = Lab::new(db.pool()).machine::<Report>().machine::<Sweep>().starts_at(at(10));
    let mut lab = builder.start().await.unwrap();
    lab.advance(minutes(24 * 60)).await.unwrap();
    let results = "select array_agg(fsm || ' ' || (result #>> '{}') || ' ' ||
                       to_char(inserted_at at time zone 'UTC', 'HH24:MI:SS') order by id)
                   from gen_durable.instances where status = 'done'";
    let results: Vec<String> = sqlx::query_scalar(results).fetch_one(db.pool()).await.unwrap();
    let expected = [
        "report report of 2026-01-04 05:30:00",
        "sweep true 06:00:00",
        "sweep true 12:00:00",
        "sweep true 18:00:00",
        "sweep true 00:00:00",
    ];
    assert_eq!(results, expected);
    let report = lab.client().schedule("report").get().await.unwrap().unwrap();
    assert_eq!(
        report.declaration,
        "cron 30 6 * * *, zone Europe/Berlin, missed skip, overlap allow"
    );
    assert_eq!(report.machine, "report");
}

#[tokio::test]
async fn p45_a_tick_without_an_instance_is_noted_and_delays_no_other_schedule() {
    let db = database().await;
    let pool = db.pool();
    let hourly = || Schedule::cron("0 * * * *").overlap(Overlap::Allow);
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let panics = Arc::clone(&fails);
    let mut lab = Lab::new(pool)
        .machine::<Visit>()
        .machine::<Note>()
        .schedule("a: panics", hourly(), move |tick| {
            assert!(!panics.load(std::sync::atomic::Ordering::SeqCst), "no coffee");
            note(tick)
        })
        .schedule("a: says NUL", hourly(), |_| -> Insert<Note> { panic!("no \0 coffee") })
        .schedule("b: taken", hourly(), |tick| visit(tick).unique_key("one"))
        .schedule("c: invalid", hourly(), |_| Note::insert("\0".to_owned()))
        .schedule("d: nobody", hourly(), |tick| note(tick).queue("x".repeat(2000)))
        .schedule("e: works", hourly(), note)
        .starts_at(at(30))
        .start()
        .await
        .unwrap();
    lab.advance(minutes(100)).await.unwrap();
    let client = lab.client().clone();
    for (name, fired, error) in [
        ("a: panics", 0, Some("panicked: no coffee")),
        ("a: says NUL", 0, Some("panicked: no ")),
        ("b: taken", 1, Some("unique key")),
        ("c: invalid", 0, Some("NUL")),
        ("d: nobody", 0, Some("queue")),
        ("e: works", 2, None),
    ] {
        assert_eq!(ticks(pool, name).await.len(), fired, "{name}");
        let schedule = client.schedule(name).get().await.unwrap().unwrap();
        assert_eq!(schedule.next, Some(at(180)), "{name}");
        match (&schedule.last_error, error) {
            (Some(found), Some(error)) => {
                assert!(found.contains(error), "{name}: {found}");
                assert_eq!(schedule.failed_at, Some(at(120)), "{name}");
            }
            (found, error) => assert_eq!(found.as_deref(), error, "{name}"),
        }
    }
    // A row that the database alone refuses takes nothing with it.
    sql(
        pool,
        "create function refuse() returns trigger language plpgsql as
             $$ begin raise exception 'not in the evening'; end $$;
         create trigger refuse before insert on gen_durable.instances
             for each row when (new.state #>> '{}' like 'e: %') execute function refuse()",
    )
    .await;
    fails.store(false, std::sync::atomic::Ordering::SeqCst);
    lab.advance(minutes(60)).await.unwrap();
    assert_eq!(ticks(pool, "a: panics").await, ["2026-01-05T03:00:00"]);
    assert_eq!(ticks(pool, "e: works").await.len(), 2);
    let refused = client.schedule("e: works").get().await.unwrap().unwrap();
    assert!(refused.last_error.unwrap().contains("insert instances"), "the cause is told");
    let works = client.schedule("a: panics").get().await.unwrap().unwrap();
    assert_eq!((works.last, works.failed_at), (Some(at(180)), Some(at(120))));
}
