//! The data of an instance appears in no log line, no error and no `Debug` output.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use gen_durable::{Engine, InsertError, prelude::*};
use gen_durable_postgres::TestDb;
use serde_json::json;
use sqlx::PgPool;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::support::{WAIT_MAX, database, engine, sql, until};

const SECRET: &str = "s3cr3t";

/// Collects text: what was logged, or what the test printed.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<String>>);

impl Kept {
    fn push(&self, text: &str) {
        let mut kept = self.0.lock().unwrap();
        kept.push_str(text);
        kept.push('\n');
    }

    /// Collects the log of this thread, as `filter` says, for as long as the guard lives.
    pub(crate) fn log(filter: &str) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        let here = tracing::subscriber::set_default(subscriber);
        (log, here)
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Kept {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

#[derive(Clone, Debug, DurableState)]
pub struct Keeps {
    how: How,
    secret: String,
    #[serde(default)]
    number: u32,
    #[serde(default)]
    deep: serde_json::Value,
}

#[derive(Clone, Copy, Debug, PartialEq, DurableState)]
pub enum How {
    Done,
    Err,
    Panic,
    Nul,
    Large,
    Deep,
    Constraint,
    NulInResult,
    NulInInsert,
    NulInSignal,
    Take,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Whisper {
    word: String,
    #[serde(default)]
    number: u32,
}

#[derive(Clone, Debug, DurableState)]
pub struct Told {
    word: String,
}

#[durable_fsm(state = Keeps, output = Told, signals(Whisper))]
pub enum Keeper {
    Begin,
    End,
}

#[durable_fsm]
impl Keeper {
    async fn begin(mut cx: Context<Self>, printed: &Kept) -> StepResult<Self> {
        printed.push(&format!("{cx:?}"));
        let word = cx.state.secret.clone();
        match cx.state.how {
            How::Done => {}
            How::Err => return Err(io::Error::other("the user's own text").into()),
            How::Panic => panic!("the user's own panic"),
            How::Nul => cx.state.secret.push('\0'),
            How::Large => cx.state.secret = word.repeat(10_000),
            How::Deep => {
                cx.state.deep = (0..500).fold(json!(word), |inner, _| json!([inner]));
            }
            How::Constraint => cx.state.number = 13,
            How::NulInResult => return Ok(cx.done(Told { word: format!("{word}\0") })),
            How::NulInInsert => {
                let mut state = cx.state.clone();
                state.secret.push('\0');
                return Ok(cx.next(Keeper::End).insert(Keeper::insert(state)));
            }
            How::NulInSignal => {
                let signal = Keeper::signal_whisper(cx.id(), whisper(&format!("{word}\0")));
                printed.push(&format!("{signal:?}"));
                return Ok(cx.next(Keeper::End).signal(signal));
            }
            How::Take => {
                if cx.take_signal::<Whisper>()?.is_none() {
                    let parked = cx.await_signal::<Whisper>();
                    printed.push(&format!("{parked:?}"));
                    return Ok(parked);
                }
            }
        }
        let next = cx.next(Keeper::End);
        printed.push(&format!("{next:?}"));
        Ok(next)
    }

    async fn end(cx: Context<Self>, printed: &Kept) -> Outcome<Self> {
        let word = cx.state.secret.clone();
        let insert = Keeper::insert(cx.state.clone()).unique_key("one");
        let signal = Keeper::signal_whisper(cx.id(), whisper(&word));
        printed.push(&format!("{insert:?} {signal:?}"));
        let done = cx.done(Told { word });
        printed.push(&format!("{done:?}"));
        done
    }

    async fn handle(cx: Context<Self>, error: StepError, printed: &Kept) -> Outcome<Self> {
        printed.push(&format!("{cx:?} {error:?} {error:#?} {error}"));
        let stopped = cx.stop(error);
        printed.push(&format!("{stopped:?}"));
        stopped
    }
}

fn keeps(how: How) -> Keeps {
    Keeps { how, secret: SECRET.to_owned(), number: 0, deep: json!(null) }
}

fn whisper(word: &str) -> Whisper {
    Whisper { word: word.to_owned(), number: 0 }
}

/// The first version of another machine. Its second version cannot read a state that is stored
/// here.
mod first {
    use gen_durable::prelude::*;

    #[derive(Debug, DurableState)]
    pub struct Old {
        pub number: u32,
    }

    #[durable_fsm(state = Old, output = (), retired)]
    pub enum Aged {
        Only,
    }
}

#[durable_fsm(version = 2, state = String, output = (), upgrades = first::Aged)]
pub enum Aged {
    Only,
}

impl Upgrade<first::Aged> for Aged {
    fn upgrade(_: first::Aged, state: first::Old) -> Result<(Self, String), UpgradeError> {
        Ok((Aged::Only, state.number.to_string()))
    }
}

#[durable_fsm]
impl Aged {
    async fn only(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Inserts an instance whose stored state does not decode.
async fn spoil(pool: &PgPool, change: serde_json::Value) -> InstanceId<Keeper> {
    let id = Keeper::insert(keeps(How::Done)).execute(pool).await.unwrap();
    sqlx::query("update gen_durable.instances set state = state::jsonb || $1 where id = $2")
        .bind(change)
        .bind(id.get())
        .execute(pool)
        .await
        .unwrap();
    id
}

/// Prints the errors that a caller gets for states that cannot be stored.
async fn print_refusals(engine: &Engine, printed: &Kept) {
    let mut states = [keeps(How::Done), keeps(How::Done), keeps(How::Done)];
    states[0].secret.push('\0');
    states[1].secret = SECRET.repeat(10_000);
    states[2].number = 13;
    for state in states {
        let error = Keeper::insert(state).execute(engine).await.unwrap_err();
        printed.push(&format!("{error:?} {error:#?} {error}"));
        if let InsertError::Database(error) = &error {
            printed.push(&format!("{error:?}"));
            let text = error.to_string();
            assert!(text.contains("violates check constraint"), "{text}");
        }
    }
}

async fn last_errors(db: &TestDb) -> Vec<String> {
    sqlx::query_scalar("select last_error from gen_durable.instances where last_error is not null")
        .fetch_all(db.pool())
        .await
        .unwrap()
}

// The runtime has one thread, as the log is collected only on the thread of the test.
#[tokio::test]
async fn what_an_instance_carries_is_printed_nowhere() {
    // This shows more than a program would: sqlx logs its statements, and must not log the bound
    // values.
    let (log, _here) = Kept::log("info,sqlx=trace");
    let db = database().await;
    let pool = db.pool();
    let printed = Kept::default();
    let spoiled = [
        spoil(pool, json!({ "number": SECRET })).await,
        spoil(pool, json!({ "number": format!("{SECRET}`, expected \"{SECRET}\", expected u32") }))
            .await,
        spoil(pool, json!({ "how": SECRET })).await,
        spoil(pool, json!({ "how": { SECRET: 1 } })).await,
        spoil(pool, json!({ "secret": [SECRET] })).await,
    ];
    sqlx::query(
        "insert into gen_durable.instances (fsm, fsm_version, step, state) values ('aged', 1, 'only', $1)",
    )
    .bind(json!({ "number": SECRET }))
    .execute(pool)
    .await
    .unwrap();
    sql(
        pool,
        "alter table gen_durable.instances add check ((state ->> 'number') is distinct from '13')",
    )
    .await;
    let engine = engine(&db)
        .machine::<Keeper>()
        .machine::<Aged>()
        .resource(printed.clone())
        .value_max(5_000)
        .start()
        .await
        .unwrap();

    for how in [
        How::Done,
        How::Err,
        How::Panic,
        How::Nul,
        How::Large,
        How::Deep,
        How::Constraint,
        How::NulInResult,
        How::NulInInsert,
        How::NulInSignal,
    ] {
        let id = Keeper::insert(keeps(how)).execute(&engine).await.unwrap();
        let ended = engine.wait(id, WAIT_MAX).await;
        assert_eq!(ended.is_ok(), how == How::Done, "{how:?}");
        if let Err(error) = ended {
            printed.push(&format!("{error:?} {error}"));
        }
        let snapshot = engine.client().find(id.get()).await.unwrap();
        printed.push(&format!("{snapshot:?}"));
    }

    // One payload decodes, and one does not.
    let taken = Keeper::insert(keeps(How::Take)).execute(&engine).await.unwrap();
    Keeper::signal_whisper(taken, whisper(SECRET)).execute(&engine).await.unwrap();
    engine.wait(taken, WAIT_MAX).await.unwrap();
    let misheard = Keeper::insert(keeps(How::Take)).execute(&engine).await.unwrap();
    let payload = json!({ "word": "fine", "number": SECRET });
    engine.client().signal_by_name(misheard.get(), "whisper", &payload, None).await.unwrap();
    for id in spoiled.into_iter().chain([misheard]) {
        let error = engine.wait(id, WAIT_MAX).await.unwrap_err();
        printed.push(&format!("{error:?} {error}"));
        let row = until(pool, id, "failed").await;
        assert!(row.last_error.unwrap().contains("does not decode at field"));
    }

    print_refusals(&engine, &printed).await;
    let error = Keeper::signal_whisper(taken, whisper(SECRET)).execute(&engine).await.unwrap_err();
    printed.push(&format!("{error:?} {error}"));
    printed.push(&format!("{engine:?} {:?}", engine.client()));
    crate::support::eventually("the upgrade has failed", async || {
        last_errors(&db).await.iter().any(|error| error.contains("not upgraded")).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
    // Lets the runtime poll its tasks once more: one of them may still have a warning to log.
    tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await.unwrap_err();

    let log = log.text();
    for line in
        ["step failed: the user's own text", "panicked: the user's own panic", "not upgraded from"]
    {
        assert!(log.contains(line), "the log has no `{line}`: {log}");
    }
    assert!(log.contains("sqlx::query"), "statements are logged");
    for (what, text) in [
        ("log", log),
        ("printed", printed.text()),
        ("last_error", last_errors(&db).await.join("\n")),
    ] {
        let line = text.lines().find(|line| line.contains(SECRET));
        assert_eq!(line, None, "in {what}");
    }
}
