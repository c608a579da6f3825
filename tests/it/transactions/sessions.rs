//! The connections of steps in a transaction: their number, and what a step leaves in its session.

use std::sync::Arc;

use gen_durable::Engine;

use super::{Deed, Keep, book, entries, entry, keeper};
use crate::support::{Breakpoint, WAIT_MAX, database, engine, row, sql, until};

/// A step raises its own isolation level. On a connection that is known, that would work.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_step_keeps_the_level_that_it_declares() {
    let db = database().await;
    let pool = book(&db).await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = keeper(&db, &breakpoint).max_transactions(1).start().await.unwrap();
    for _ in 0..3 {
        let id = Keep::insert(entry(Deed::Raise, "n")).execute(&engine).await.unwrap();
        let error = until(&pool, id, "failed").await.last_error.unwrap();
        // With a limit on its time, the transaction has a snapshot before the step begins.
        assert!(error.contains("ISOLATION LEVEL") || error.contains("isolation level"), "{error}");
        assert_eq!(entries(&pool, id).await, Vec::<String>::new());
    }
    engine.shutdown().await.unwrap();
}

/// A step leaves settings and more in its session. They reach no other step, and no statement of
/// the engine's. The next step waits for the connection, or comes later.
#[tokio::test(flavor = "multi_thread")]
async fn p36_the_next_step_on_a_connection_finds_nothing_of_the_last() {
    let db = database().await;
    let pool = book(&db).await;
    sql(&pool, "create role p36_owner superuser").await;
    let breakpoint = Arc::new(Breakpoint::new());
    // The pool's hook belongs to the session, as the application set it up.
    let hooked = sqlx::postgres::PgPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql("set search_path = public, pg_temp; set work_mem = '7MB'")
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .connect_lazy(db.url())
        .unwrap();
    let leave = "set search_path = pg_catalog; set statement_timeout = '7s';
                 set default_transaction_read_only = on; set role p36_owner;
                 set default_transaction_isolation = serializable;
                 create temp table left_over (id int); listen left_over;
                 declare left_over cursor with hold for select 1; set my.left_over = 'yes';
                 select pg_advisory_lock(36)";
    let look = "do $$ begin
        assert current_setting('search_path') like '%public%', 'search_path';
        assert current_setting('statement_timeout') = '3s', 'the limit of this step';
        assert current_user = session_user, 'role';
        assert current_setting('transaction_isolation') = 'read committed', 'level';
        assert current_setting('default_transaction_isolation') = 'read committed', 'level';
        assert to_regclass('pg_temp.left_over') is null, 'temporary table';
        assert not exists (select from pg_cursors where name = 'left_over'), 'cursor';
        assert coalesce(current_setting('my.left_over', true), '') = '', 'setting';
        assert not exists (
            select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
        ), 'advisory lock';
    end $$";
    // Within a transaction, the end of a LISTEN is not visible yet.
    let channel =
        "do $$ begin assert not exists (select from pg_listening_channels()), 'channel'; end $$";
    let kept = "do $$ begin
        assert current_setting('search_path') = 'public, pg_temp', 'hook';
        assert current_setting('work_mem') = '7MB', 'hook';
    end $$";
    for (hook, looks) in [(false, &[look][..]), (true, &[look, kept])] {
        let builder = if hook {
            Engine::builder(hooked.clone()).queue("default", 10).machine::<Keep>()
        } else {
            engine(&db).machine::<Keep>()
        };
        let engine = builder.resource(Arc::clone(&breakpoint)).max_transactions(1);
        let engine = engine.start().await.unwrap();
        for waits in [false, true] {
            let insert = |deed| Keep::insert(entry(deed, "n"));
            let first = if waits {
                let id = insert(Deed::Stand).execute(&engine).await.unwrap();
                assert_eq!(breakpoint.arrival().await, id.get());
                Some(id)
            } else {
                None
            };
            // All of them wait for the one connection, or for the one before.
            let mut ids: Vec<_> = first.into_iter().collect();
            let channel = if waits { &[][..] } else { &[channel][..] };
            for text in [&[leave][..], channel, looks, &[leave], looks].concat() {
                let id = insert(Deed::Run(text.into())).execute(&engine).await.unwrap();
                if !waits {
                    engine.wait(id, WAIT_MAX).await.unwrap();
                }
                ids.push(id);
            }
            breakpoint.open(usize::from(waits));
            for id in ids {
                engine.wait(id, WAIT_MAX).await.unwrap();
            }
        }
        engine.shutdown().await.unwrap();
    }
    sql(&pool, "drop role p36_owner").await;
    // A role that may not write the engine's tables is an error of that run alone.
    sql(&pool, "create role p36_nobody; grant insert on public.book to p36_nobody").await;
    let engine = keeper(&db, &breakpoint).max_transactions(1).start().await.unwrap();
    let deed = Deed::Run("set role p36_nobody".into());
    let id = Keep::insert(entry(deed, "n")).execute(&engine).await.unwrap();
    let failed = until(&pool, id, "failed").await;
    assert!(failed.last_error.unwrap().contains("permission denied"));
    assert_eq!(entries(&pool, id).await, Vec::<String>::new());
    let id = Keep::insert(entry(Deed::Done, "n")).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
    sql(&pool, "drop owned by p36_nobody; drop role p36_nobody").await;
}

/// A step drops the statements that the driver has prepared. It runs again on another connection,
/// and the next step is not the worse for it.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_connection_without_its_prepared_statements_is_given_up() {
    let db = database().await;
    let pool = book(&db).await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = keeper(&db, &breakpoint).max_transactions(1).start().await.unwrap();
    for text in ["select 1", "deallocate all", "select 1", "deallocate all", "select 1"] {
        let deed = Deed::Run(text.to_owned());
        let id = Keep::insert(entry(deed, "n")).execute(&engine).await.unwrap();
        engine.wait(id, WAIT_MAX).await.unwrap();
        assert_eq!(row(&pool, id).await.attempt, 0);
        assert_eq!(entries(&pool, id).await, ["n"]);
    }
    engine.shutdown().await.unwrap();
}

/// Steps that hold all connections hold up no other step, no commit and no lease. A step that waits
/// for a connection begins when one is free.
#[tokio::test(flavor = "multi_thread")]
async fn p36_steps_that_hold_all_connections_hold_up_nobody_else() {
    let db = database().await;
    let pool = book(&db).await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = keeper(&db, &breakpoint).max_transactions(1).start().await.unwrap();
    let first = Keep::insert(entry(Deed::Stand, "n")).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, first.get());
    let second = Keep::insert(entry(Deed::Done, "n")).execute(&engine).await.unwrap();
    until(&pool, second, "executing").await;
    let third = Keep::insert(entry(Deed::Done, "n")).step(Keep::After);
    let third = third.execute(&engine).await.unwrap();
    engine.wait(third, WAIT_MAX).await.unwrap();
    assert_eq!(row(&pool, second).await.status, "executing");
    breakpoint.open(1);
    for id in [first, second] {
        engine.wait(id, WAIT_MAX).await.unwrap();
        assert_eq!(entries(&pool, id).await, ["n"]);
    }
    engine.shutdown().await.unwrap();
}
