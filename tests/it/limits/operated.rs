//! Looks at limits and at those that wait, and what operators set and reset.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gen_durable::{
    Limit,
    operate::{Cancelled, Count, LimitReset, OperateError},
    prelude::*,
};
use gen_durable_postgres::TestDb;
use sqlx::{PgPool, postgres::PgListener};

use crate::{
    roles::{APP, Login, OPERATOR, SUPERVISOR, WORKER},
    support::{WAIT_MAX, database, row, sql},
};

/// The machine of the instances that wait. A cancel sends it to a step without a limit.
#[durable_fsm(state = (), output = (), on_cancel = Undo)]
pub enum Payment {
    Charge,
    Undo,
}

#[durable_fsm]
impl Payment {
    async fn charge(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn undo(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Two limits, as engines declare them: ten at once, and a hundred in ten seconds, of which twenty
/// may come at the same moment; and three at once for each key.
///
/// The workers 1 and 3 are alive. The text of worker 3 is in force, and worker 2 is lost.
const DECLARED: &str = r"
    insert into gen_durable.machines (fsm, fsm_version, initial, steps, on_cancel)
    values ('payment', 1, 'charge', '{charge,undo}', 'undo');
    insert into gen_durable.limits (name, body, at_once, starts, period, burst)
    values ('stripe', '{}', 10, 100, 10000000, 20), ('per customer', '{}', 3, null, null, null);
    insert into gen_durable.workers (id, name, lease_expires_at) overriding system value
    values (1, 'w', now() + interval '1 hour'), (2, 'w', now() - interval '1 hour'),
           (3, 'w', now() + interval '1 hour');
    insert into gen_durable.declarations (worker, kind, name, body, appeared_at)
    select n, kind, 'stripe', '{}', now() + n * interval '1 minute'
    from generate_series(1, 3) as n, unnest('{limit,schedule}'::text[]) as kind
    where n < 3 or kind = 'limit'";

/// An hour from the beginning of the test, at which the rate of a bucket is used up.
fn later() -> (SystemTime, i64) {
    let later = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_hours(1);
    let micros = u64::try_from(later.as_micros()).unwrap();
    (UNIX_EPOCH + Duration::from_micros(micros), i64::try_from(micros).unwrap())
}

/// Inserts the bucket of a limit: the workers and what they hold.
async fn bucket(pool: &PgPool, name: &str, workers: &[i64], held: &[i32], used_until: i64) {
    sqlx::query(
        "insert into gen_durable.limit_buckets (bucket, limit_name, workers, held, said, used_until)
         values ($1, split_part($1, chr(31), 1), $2, $3, $2, $4)",
    )
    .bind(name)
    .bind(workers)
    .bind(held)
    .bind(used_until)
    .execute(pool)
    .await
    .unwrap();
}

/// Inserts an instance that waits for a bucket, as an engine leaves one.
async fn waits(pool: &PgPool, bucket: &str, priority: i16, blocked_by: i32) -> InstanceId<Payment> {
    let id = sqlx::query_scalar(
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, priority, blocked_by, limited_by)
         values ('payment', 1, 'charge', 'null', $1, $2, $3)
         returning id",
    )
    .bind(priority)
    .bind(blocked_by)
    .bind(bucket)
    .fetch_one(pool)
    .await
    .unwrap();
    InstanceId::from_raw(id)
}

async fn audit(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "select concat_ws(' ', actor, action, limit_name, reason) from gen_durable.audit
         where limit_name is not null order by id",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn revision(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select revision from gen_durable.limits where name = 'stripe'")
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn declared() -> (TestDb, Client) {
    let db = database().await;
    sql(db.pool(), DECLARED).await;
    let client = Client::new(db.pool().clone());
    (db, client)
}

#[tokio::test]
async fn p44_operators_set_and_reset_the_bounds_of_a_limit() {
    let (db, client) = declared().await;
    let pool = db.pool();
    let stripe = client.limit("stripe");
    let seen = stripe.get().await.unwrap().unwrap();
    assert_eq!((&*seen.name, &seen.set, seen.in_force), ("stripe", &None, seen.declared));
    assert_eq!(seen.declared_by, [3, 1], "the text in force first, and no lost worker");
    let bounds = seen.declared;
    assert_eq!(bounds.at_once, Some(10));
    assert_eq!((bounds.per, bounds.burst), (Some((100, Duration::from_secs(10))), Some(20)));
    assert_eq!(bounds.to_string(), "10 at once, 100 per 10s, burst 20");

    // The bounds that are set replace all that are declared.
    let before = SystemTime::now() - Duration::from_mins(1);
    let slow = Limit::new().per(3, Duration::from_millis(1500));
    stripe.set(slow).by("ada").reason("they are down").execute(&client).await.unwrap();
    let seen = stripe.get().await.unwrap().unwrap();
    let set = seen.set.unwrap();
    assert_eq!((&*set.by, set.reason.as_deref()), ("ada", Some("they are down")));
    assert!(set.set_at > before && set.set_at < before + Duration::from_mins(3));
    assert_eq!((seen.in_force, seen.declared), (set.bounds, bounds));
    assert_eq!(seen.in_force.to_string(), "3 per 1.5s, burst 1");
    stripe.set(Limit::new().at_once(1)).execute(pool).await.unwrap();
    let seen = stripe.get().await.unwrap().unwrap();
    let role: String = sqlx::query_scalar("select session_user").fetch_one(pool).await.unwrap();
    let set = seen.set.unwrap();
    assert_eq!(
        (seen.in_force.to_string(), set.by, set.reason),
        ("1 at once".into(), role.clone(), None)
    );
    assert_eq!(revision(pool).await, 2);

    let reset = stripe.reset().by("ada").reason("they are up").execute(&client).await.unwrap();
    assert_eq!(reset, LimitReset::Reset);
    assert_eq!(stripe.reset().by("ada").execute(&client).await.unwrap(), LimitReset::NotSet);
    let seen = stripe.get().await.unwrap().unwrap();
    assert_eq!((seen.set, seen.in_force), (None, bounds));
    assert_eq!(revision(pool).await, 3);
    let other = client.limit("per customer").get().await.unwrap().unwrap();
    assert_eq!((other.set, other.declared_by.len(), other.in_force.at_once), (None, 0, Some(3)));
    let expected = [
        "ada set_limit stripe they are down".to_owned(),
        format!("{role} set_limit stripe"),
        "ada reset_limit stripe they are up".to_owned(),
    ];
    assert_eq!(audit(pool).await, expected);
}

#[tokio::test]
async fn what_makes_no_limit_or_is_not_declared_is_refused() {
    let (db, client) = declared().await;
    let stripe = client.limit("stripe");
    for (limit, why) in [
        (Limit::new(), "it bounds nothing"),
        (Limit::new().at_once(1).burst(2), "a burst needs `per`"),
        (Limit::new().at_once(0), "`at_once` is from 1 to 1,000,000"),
    ] {
        let error = stripe.set(limit).execute(&client).await.unwrap_err();
        assert!(matches!(error, OperateError::InvalidLimit { .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("limit `stripe` cannot be set: {why}")));
    }
    let unknown = client.limit("strype");
    assert_eq!(unknown.get().await.unwrap(), None);
    assert!(unknown.buckets(None).await.unwrap().is_empty());
    assert!(unknown.waiting(None).await.unwrap().is_empty());
    let once = Limit::new().at_once(1);
    for error in [
        unknown.set(once).execute(&client).await.unwrap_err(),
        unknown.reset().execute(&client).await.unwrap_err(),
    ] {
        assert!(matches!(&error, OperateError::UnknownLimit { limit } if limit == "strype"));
        assert!(error.to_string().contains("no engine has declared the limit `strype`"));
    }
    for error in [
        stripe.set(once).by("").execute(&client).await.unwrap_err(),
        stripe.reset().reason("x".repeat(4097)).execute(&client).await.unwrap_err(),
        client.limit("").set(once).execute(&client).await.unwrap_err(),
    ] {
        assert!(matches!(error, OperateError::Encode(_)), "{error}");
    }
    assert_eq!((audit(db.pool()).await.len(), revision(db.pool()).await), (0, 0));
}

/// An engine hears of it with the commit, and of nothing that is rolled back.
#[tokio::test(flavor = "multi_thread")]
async fn p44_bounds_are_set_and_reset_with_the_callers_transaction() {
    let (db, client) = declared().await;
    let pool = db.pool();
    let mut listener = PgListener::connect_with(pool).await.unwrap();
    listener.listen("gen_durable_owed").await.unwrap();
    let stripe = client.limit("stripe");
    let once = Limit::new().at_once(1);
    let mut tx = pool.begin().await.unwrap();
    stripe.set(once).by("eve").execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(stripe.get().await.unwrap().unwrap().set, None);
    assert!(audit(pool).await.is_empty());
    let mut tx = pool.begin().await.unwrap();
    stripe.reset().execute(&mut *tx).await.unwrap();
    stripe.set(once).by("ada").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    stripe.reset().execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(stripe.get().await.unwrap().unwrap().in_force.to_string(), "1 at once");
    assert_eq!(audit(pool).await, ["ada set_limit stripe"]);
    stripe.reset().by("bob").execute(&client).await.unwrap();
    // One was heard for each commit, and nothing else before the last one.
    sqlx::query("select pg_notify('gen_durable_owed', 'last')").execute(pool).await.unwrap();
    let mut heard = Vec::new();
    while heard.last().is_none_or(|payload| payload != "last") {
        let next = tokio::time::timeout(WAIT_MAX, listener.recv()).await.unwrap().unwrap();
        heard.push(next.payload().to_owned());
    }
    assert_eq!(heard, ["paused", "paused", "last"]);
}

/// An operator's transaction may stay open. Engines read the bounds and change buckets meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn p44_bounds_that_are_set_lock_the_row_of_the_limit_alone() {
    let (db, client) = declared().await;
    let pool = db.pool();
    bucket(pool, "stripe", &[1], &[2], 0).await;
    let waiting = waits(pool, "stripe", 0, 16).await;
    for resets in [false, true] {
        let mut tx = pool.begin().await.unwrap();
        let stripe = client.limit("stripe");
        if resets {
            stripe.reset().execute(&mut *tx).await.map(drop).unwrap();
        } else {
            stripe.set(Limit::new().at_once(1)).execute(&mut *tx).await.unwrap();
        }
        sql(
            pool,
            "set lock_timeout = '5s';
             update gen_durable.limit_buckets set held = '{3}';
             update gen_durable.instances set blocked_by = 0;
             update gen_durable.instances set blocked_by = 16;
             insert into gen_durable.limits (name, body) values ('another', '{}');
             delete from gen_durable.limits where name = 'another';
             select max_at_once from gen_durable.limits",
        )
        .await;
        assert_eq!(stripe.waiting(None).await.unwrap()[0].id, waiting.get());
        tx.commit().await.unwrap();
    }
    assert_eq!(revision(pool).await, 2);
}

#[tokio::test]
async fn limits_are_listed_by_their_names_however_many_there_are() {
    let (db, client) = declared().await;
    sql(
        db.pool(),
        "insert into gen_durable.limits (name, body, at_once)
         select 'l' || n, '{}', n from generate_series(1001, 3000) as n",
    )
    .await;
    let names: Vec<String> =
        client.limits().await.unwrap().into_iter().map(|limit| limit.name).collect();
    assert_eq!((names.len(), &*names[0], &*names[2001]), (2002, "l1001", "stripe"));
    assert!(names.is_sorted());
}

#[tokio::test]
async fn p44_buckets_show_what_runs_and_who_waits_until_when() {
    let (db, client) = declared().await;
    let pool = db.pool();
    let (hour, used_until) = later();
    bucket(pool, "stripe", &[1, 2, 3, 4], &[2, 50, 3, 70], used_until).await;
    // This bucket is of another limit, whose name begins like this one's.
    bucket(pool, "stripe test", &[1], &[1], 0).await;
    let stripe = client.limit("stripe");
    let idle = stripe.buckets(None).await.unwrap();
    assert_eq!(
        (idle.len(), &idle[0].key, idle[0].running),
        (1, &None, 55),
        "of workers that are there"
    );
    assert_eq!((idle[0].waiting, idle[0].until), (Count::Exact(0), None));
    for _ in 0..1000 {
        waits(pool, "stripe", 0, 16).await;
    }
    // This one was let in, and that one waits for another limit.
    waits(pool, "stripe", 0, 0).await;
    waits(pool, "stripe test", 0, 16).await;
    let full = &stripe.buckets(None).await.unwrap()[0];
    assert_eq!(full.waiting, Count::Exact(1000));
    // A start each 100 ms, and twenty at once: nineteen may begin ahead of the rate.
    assert_eq!(full.until, Some(hour - Duration::from_millis(1900)));
    waits(pool, "stripe", 0, 24).await;
    assert_eq!(stripe.buckets(None).await.unwrap()[0].waiting, Count::AtLeast(1000));
    // The bounds that are set are in force.
    stripe.set(Limit::new().per(1, Duration::from_mins(1))).execute(&client).await.unwrap();
    assert_eq!(stripe.buckets(None).await.unwrap()[0].until, Some(hour));
    stripe.set(Limit::new().at_once(1)).execute(&client).await.unwrap();
    assert_eq!(stripe.buckets(None).await.unwrap()[0].until, None, "it waits for a run to end");
}

#[tokio::test]
async fn buckets_are_listed_page_by_page() {
    let (db, client) = declared().await;
    let pool = db.pool();
    bucket(pool, "per customer", &[], &[], 0).await;
    bucket(pool, "per customer\u{1f}anna", &[1], &[1], 0).await;
    bucket(pool, "per customers", &[1], &[1], 0).await;
    sql(
        pool,
        "insert into gen_durable.limit_buckets (bucket, limit_name)
         select 'per customer' || chr(31) || n, 'per customer' from generate_series(1001, 2001) as n;
         insert into gen_durable.limit_buckets (bucket, limit_name)
         values ('per customer' || chr(31) || '1500.5', 'another')",
    )
    .await;
    let limit = client.limit("per customer");
    let page = limit.buckets(None).await.unwrap();
    let keys: Vec<Option<&str>> = page.iter().map(|bucket| bucket.key.as_deref()).collect();
    assert_eq!((keys.len(), keys[0], keys[1], keys[999]), (1000, None, Some("1001"), Some("1999")));
    assert!(keys.is_sorted() && !keys.contains(&Some("1500.5")));
    let rest = limit.buckets(keys[999]).await.unwrap();
    let keys: Vec<&str> = rest.iter().filter_map(|bucket| bucket.key.as_deref()).collect();
    assert_eq!(keys, ["2000", "2001", "anna"]);
    assert_eq!((rest[2].running, rest[2].waiting), (1, Count::Exact(0)));
    assert!(limit.buckets(Some("anna")).await.unwrap().is_empty());
}

#[tokio::test]
async fn p44_those_that_wait_are_shown_in_their_order_and_until_when() {
    let (db, client) = declared().await;
    let pool = db.pool();
    let (hour, used_until) = later();
    bucket(pool, "stripe\u{1f}ada", &[], &[], used_until).await;
    let second = waits(pool, "stripe\u{1f}ada", 5, 16).await;
    let third = waits(pool, "stripe\u{1f}ada", 5, 16).await;
    let paused = waits(pool, "stripe\u{1f}ada", 0, 24).await;
    let first = waits(pool, "stripe\u{1f}ada", -1, 16).await;
    let elsewhere = waits(pool, "stripe", 0, 16).await;
    let let_in = waits(pool, "stripe\u{1f}ada", 0, 0).await;
    let stripe = client.limit("stripe");
    let limit = Limit::new().at_once(10).per(60, Duration::from_mins(1));
    stripe.set(limit).execute(&client).await.unwrap();
    let waiting = stripe.waiting(Some("ada")).await.unwrap();
    let ids: Vec<i64> = waiting.iter().map(|waiting| waiting.id).collect();
    assert_eq!(ids, [first, second, third, paused].map(InstanceId::get));
    let blocked: Vec<bool> = waiting.iter().map(|waiting| waiting.blocked).collect();
    assert_eq!(blocked, [false, false, false, true]);
    let untils: Vec<Option<SystemTime>> = waiting.iter().map(|waiting| waiting.until).collect();
    assert_eq!(untils, [0, 1, 2, 3].map(|n| Some(hour + Duration::from_secs(n))));
    assert_eq!((&*waiting[0].machine, &*waiting[0].step), ("payment", "charge"));
    assert!(waiting[0].priority == -1 && waiting[0].due_at.is_some());

    // Each of them says so by itself.
    for (id, ahead) in [(first, 0), (second, 1), (third, 2), (paused, 3)] {
        let limited = client.instance(id).get().await.unwrap().limited.unwrap();
        assert_eq!((&*limited.limit, limited.key.as_deref()), ("stripe", Some("ada")));
        assert_eq!(limited.until, Some(hour + Duration::from_secs(ahead)));
    }
    assert_eq!(client.instance(let_in).get().await.unwrap().limited, None);
    // No bucket says what is used up, so only the others of it are ahead.
    let limited = client.instance(elsewhere).get().await.unwrap().limited.unwrap();
    assert_eq!((&*limited.limit, limited.key, limited.until), ("stripe", None, None));
    stripe.set(Limit::new().at_once(10)).execute(&client).await.unwrap();
    assert_eq!(client.instance(third).get().await.unwrap().limited.unwrap().until, None);
    assert!(stripe.waiting(Some("ada")).await.unwrap().iter().all(|w| w.until.is_none()));
}

/// However many wait, each call reads a bounded number of them.
#[tokio::test]
async fn of_many_that_wait_the_first_are_shown() {
    let (db, client) = declared().await;
    let pool = db.pool();
    let (hour, used_until) = later();
    bucket(pool, "stripe", &[], &[], used_until).await;
    sql(
        pool,
        "insert into gen_durable.instances
             (id, fsm, fsm_version, step, state, blocked_by, limited_by)
         select n, 'payment', 1, 'charge', 'null', 16, 'stripe' from generate_series(1, 3000) as n;
         update gen_durable.limits set burst = 1",
    )
    .await;
    let waiting = client.limit("stripe").waiting(None).await.unwrap();
    assert_eq!((waiting.len(), waiting[0].id, waiting[999].id), (1000, 1, 1000));
    for (id, ahead) in [(1, 0), (999, 998), (1001, 1000), (3000, 1000)] {
        let limited = client.instance(id).get().await.unwrap().limited.unwrap();
        assert_eq!(limited.until, Some(hour + Duration::from_millis(100) * ahead), "{id}");
    }
}

/// A row that goes to another step, or ends, waits for its limit no more. One that is due already
/// waits on.
#[tokio::test]
async fn p44_actions_take_a_row_out_of_its_limit_or_leave_it_there() {
    let (db, client) = declared().await;
    let pool = db.pool();
    let [cancelled, killed, hastened, paused] = [(); 4].map(|()| waits(pool, "stripe", 0, 16));
    let (cancelled, killed) = (cancelled.await, killed.await);
    let (hastened, paused) = (hastened.await, paused.await);
    let cancel = client.instance(cancelled).cancel("why").execute(&client).await.unwrap();
    assert_eq!(cancel, Cancelled::Answering);
    client.instance(killed).kill("why").execute(&client).await.unwrap();
    client.instance(hastened).run_now().execute(&client).await.unwrap();
    client.instance(paused).pause().execute(&client).await.unwrap();
    let blocked = async |id: InstanceId<Payment>| -> i32 {
        sqlx::query_scalar("select blocked_by from gen_durable.instances where id = $1")
            .bind(id.get())
            .fetch_one(pool)
            .await
            .unwrap()
    };
    assert_eq!((blocked(cancelled).await, &*row(pool, cancelled).await.step), (0, "undo"));
    assert_eq!((blocked(killed).await, &*row(pool, killed).await.status), (0, "cancelled"));
    assert_eq!((blocked(hastened).await, blocked(paused).await), (16, 24));
    let waiting = client.limit("stripe").waiting(None).await.unwrap();
    assert_eq!(
        waiting.iter().map(|waiting| waiting.id).collect::<Vec<_>>(),
        [hastened.get(), paused.get()]
    );
    client.instance(paused).resume().execute(&client).await.unwrap();
    client.instance(killed).retry().execute(&client).await.unwrap();
    assert_eq!((blocked(paused).await, blocked(killed).await), (16, 0));
    for id in [cancelled, killed] {
        assert_eq!(client.instance(id).get().await.unwrap().limited, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p44_each_role_does_with_limits_what_it_may() {
    let (db, _) = declared().await;
    let pool = db.pool();
    gen_durable_migrate::roles(pool).await.unwrap();
    bucket(pool, "stripe", &[1], &[2], 0).await;
    let waiting = waits(pool, "stripe", 0, 16).await;
    let logins = [WORKER, SUPERVISOR, OPERATOR].map(|role| Login::of(&db, role));
    for (login, acts) in logins.into_iter().zip([true, true, false]) {
        let login = login.await;
        let client = Client::new(login.pool.clone());
        let stripe = client.limit("stripe");
        assert_eq!(client.limits().await.unwrap().len(), 2);
        assert_eq!(stripe.buckets(None).await.unwrap()[0].running, 2);
        assert_eq!(stripe.waiting(None).await.unwrap()[0].id, waiting.get());
        assert!(client.instance(waiting).get().await.unwrap().limited.is_some());
        let set = stripe.set(Limit::new().at_once(1)).execute(&client).await;
        let reset = stripe.reset().execute(&client).await;
        if acts {
            assert_eq!((set.unwrap(), reset.unwrap()), ((), LimitReset::Reset));
        } else {
            for error in [set.unwrap_err(), reset.unwrap_err()] {
                assert!(
                    matches!(&error, OperateError::Database(error) if error.sqlstate() == Some("42501"))
                );
            }
        }
        login.remove(&db).await;
    }
    let app = Login::of(&db, APP).await;
    let reads = ["select from gen_durable.limits", "select from gen_durable.limit_buckets"];
    app.is_refused(&reads).await;
    app.remove(&db).await;
}
