//! Rows that no engine writes, but a person or a mistake might. No engine stumbles over them.
//!
//! Each run makes the same rows. `FUZZ_CASES=1000000` makes more rows, `FUZZ_SEED=…` makes others.

use std::time::Duration;

use gen_durable::prelude::*;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{WAIT_MAX, database, engine, eventually, fitting};

/// A random generator that is good enough to pick from lists (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).expect("it is below a usize")
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// JSON of any shape, as text.
    fn json(&mut self) -> String {
        match self.below(12) {
            0 => self.pick(&["null", "true", "0", "-1", "256", "1e308", "0.1"]).to_owned(),
            // A number that no Rust type holds.
            1 => format!(
                "{}.{}e{}",
                "9".repeat(self.below(300) + 1),
                "7".repeat(30),
                self.below(900)
            ),
            2 => json!(self.text()).to_string(),
            3 => {
                let depth = self.pick(&[1, 120, 127, 128, 129, 500, 2_000]);
                format!("{}{}", "[".repeat(depth), "]".repeat(depth))
            }
            4 => {
                let depth = self.pick(&[60, 128, 1_000]);
                format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))
            }
            5 => format!("[{}]", vec!["1"; self.below(3_000)].join(",")),
            6 => json!({ "n": 1, "text": self.text(), "list": [1, null] }).to_string(),
            7 => json!({ "n": 300, "text": self.text(), "list": [] }).to_string(),
            8 => json!({ "n": "1", self.text(): {}, "": [self.text()] }).to_string(),
            9 => json!({ "n": 7 }).to_string(),
            10 => json!("x".repeat(self.below(100_000))).to_string(),
            _ => self.below(300).to_string(),
        }
    }

    /// A text that Postgres can store, and that fits an index entry.
    fn text(&mut self) -> String {
        let text = self.pick(&[
            "",
            " ",
            "go",
            "end",
            "GO",
            "a'b\"c\\",
            "\u{1f980}\u{202e}\u{200b}",
            "\u{1}\u{1f}\n\r\t\u{7f}",
            "%s {} $1 --",
            "\u{e9}\u{301}\u{fffd}\u{10ffff}",
            "'; drop table gen_durable.instances; --",
            "poke",
            "\x1b[31mred",
        ]);
        text.repeat(self.pick(&[1, 1, 1, 20]))
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Poke {
    n: u8,
}

/// A machine that takes any state.
#[durable_fsm(state = Value, output = Value, signals(Poke))]
pub enum Loose {
    Go,
    End,
}

#[durable_fsm]
impl Loose {
    async fn go(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.attempt() > 0 || cx.take_signal::<Poke>()?.is_some() {
            return Ok(cx.next(Loose::End));
        }
        Ok(cx.replay(Duration::ZERO))
    }

    async fn end(cx: Context<Self>) -> Outcome<Self> {
        let state = cx.state.clone();
        cx.done(state)
    }
}

#[derive(Clone, Debug, DurableState)]
pub struct Exact {
    n: u8,
    text: String,
    list: Vec<Option<i64>>,
}

/// A machine that takes few states.
#[durable_fsm(state = Exact, output = (), signals(Poke))]
pub enum Strict {
    Go,
}

#[durable_fsm]
impl Strict {
    async fn go(mut cx: Context<Self>) -> StepResult<Self> {
        Ok(if cx.take_signal::<Poke>()?.is_some() || cx.timed_out() {
            cx.done(())
        } else {
            cx.await_signal_for::<Poke>(Duration::from_millis(5))
        })
    }
}

/// A machine whose rows are valid. It must not notice the hostile rows beside them.
#[durable_fsm(state = u32, output = u32, signals(Poke))]
pub enum Neighbour {
    Begin,
    Rest,
    End,
}

#[durable_fsm]
impl Neighbour {
    async fn begin(cx: Context<Self>) -> Outcome<Self> {
        cx.next_in(Neighbour::Rest, Duration::from_millis(1))
    }

    async fn rest(cx: Context<Self>) -> Outcome<Self> {
        if cx.timed_out() {
            return cx.next(Neighbour::End);
        }
        cx.await_signal_for::<Poke>(Duration::from_millis(1))
    }

    async fn end(cx: Context<Self>) -> Outcome<Self> {
        let n = cx.state;
        cx.done(n)
    }
}

/// The workers in whose names rows are executing. None of them exists.
const HOLDERS: &[&str] = &["-1", "0", "9223372036854775807"];

/// The columns that the statements compute with. Each has a list of SQL expressions, from which one
/// is picked for each row, with values that no engine writes.
const COLUMNS: &[(&str, &[&str])] = &[
    (
        "fsm",
        &[
            "'loose'",
            "'loose'",
            "'strict'",
            "'strict'",
            "'neighbour'",
            "''",
            "'unknown'",
            "E'\\x01\u{1f980}'",
        ],
    ),
    ("fsm_version", &["1", "1", "1", "1", "2", "2147483647"]),
    (
        "status",
        &["'runnable'", "'runnable'", "'executing'", "'awaiting_signal'", "'done'", "'failed'"],
    ),
    ("result", &["null", "null", "'[]'", "'{\"a\": [1e400]}'"]),
    ("last_error", &["null", "''", "E'\\x1b[31m'"]),
    (
        "awaits",
        &[
            "null",
            "'{}'",
            "'{poke}'",
            "'{poke,NULL}'",
            "'{NULL}'",
            "'{{a,b},{c,d}}'",
            "array[E'\\x1f', '']",
        ],
    ),
    ("queue", &["'default'", "'default'", "'default'", "''", "'elsewhere'"]),
    ("priority", &["0", "0", "1", "-32768", "32767"]),
    (
        "eligible_at",
        &[
            "now()",
            "now()",
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 BC'",
            "'294276-12-31'",
            "now() + interval '1 s'",
        ],
    ),
    ("attempt", &["0", "-1", "7", "2147483647", "2147483646", "-2147483648"]),
    ("crashes", &["0", "-1", "19", "2147483647", "2147483646", "-2147483648"]),
    (
        "revision",
        &["0", "-1", "9223372036854775807", "9223372036854775806", "-9223372036854775808"],
    ),
    ("partition_key", &["null", "null", "''", "'key'", "'neighbour 3'", "E'\\x01\u{1f980}'"]),
    ("blocked_by", &["0", "0", "0", "1"]),
    ("unique_key", &["null", "null", "''", "'one'"]),
    (
        "unique_scope",
        &[
            "null",
            "'{runnable,executing,awaiting_signal}'",
            "'{runnable,executing,awaiting_signal,NULL,\"\"}'",
        ],
    ),
    ("wake_at", &["null", "null", "now()", "'infinity'", "'-infinity'", "'294276-12-31'"]),
    ("updated_at", &["now()", "'infinity'", "'-infinity'"]),
    ("finished_at", &["null", "now()", "'infinity'", "'-infinity'", "'294276-12-31'"]),
];

/// Inserts a batch of rows, some of them with an inbox.
async fn insert_hostile(pool: &PgPool, random: &mut Random, rows: usize) {
    let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let (mut others, mut steps, mut states) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rows {
        let mut columns: Vec<&str> =
            COLUMNS.iter().map(|(_, choices)| random.pick(choices)).collect();
        let executing = columns.contains(&"'executing'");
        columns.push(if executing { random.pick(HOLDERS) } else { "null" });
        others.push(format!("('go', 'null', {})", columns.join(", ")));
        steps.push(match random.below(3) {
            0 => random.text(),
            1 => "end".to_owned(),
            _ => "go".to_owned(),
        });
        states.push(random.json());
    }
    // Rows that break a unique index are left out: a second executing row of a partition key, or a
    // second holder of a unique key.
    let statement = format!(
        "insert into gen_durable.instances (step, state, {}, locked_by) values {}
         on conflict do nothing returning id",
        names.join(", "),
        others.join(", ")
    );
    // The rows are written in one transaction, so that the engine sees them only when they are
    // complete.
    let mut transaction = pool.begin().await.unwrap();
    let statement = fitting(pool, &statement).await;
    fit(pool, &mut steps).await;
    fit(pool, &mut states).await;
    let ids: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(statement))
        .persistent(false)
        .fetch_all(&mut *transaction)
        .await
        .unwrap();
    sqlx::query(
        "update gen_durable.instances i set step = row.step, state = row.state::json
         from unnest($1::bigint[], $2::text[], $3::text[]) as row (id, step, state)
         where i.id = row.id",
    )
    .bind(&ids)
    .bind(&steps[..ids.len()])
    .bind(&states[..ids.len()])
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction.commit().await.unwrap();
    let inbox: Vec<_> = (0..ids.len() / 2)
        .map(|_| (random.pick(&ids), random.text(), random.json()))
        .chain(ids.iter().take(ids.len() / 4).map(|id| (*id, "poke".to_owned(), random_poke(*id))))
        .collect();
    let (mut names, mut payloads): (Vec<_>, Vec<_>) =
        inbox.iter().map(|signal| (signal.1.clone(), signal.2.clone())).unzip();
    fit(pool, &mut names).await;
    fit(pool, &mut payloads).await;
    sqlx::query(
        "insert into gen_durable.signals (target_id, name, payload)
         select * from unnest($1::bigint[], $2::text[], $3::text[]::json[])",
    )
    .bind(inbox.iter().map(|signal| signal.0).collect::<Vec<_>>())
    .bind(names)
    .bind(payloads)
    .execute(pool)
    .await
    .unwrap();
}

/// Replaces the characters of the texts that the database cannot store.
async fn fit(pool: &PgPool, texts: &mut [String]) {
    for text in texts {
        *text = fitting(pool, text).await;
    }
}

/// A payload that fits the signal's type for every second instance.
fn random_poke(id: i64) -> String {
    json!({ "n": if id % 2 == 0 { 1 } else { 300 } }).to_string()
}

/// Returns some rows that an engine of this process has to deal with, and has not dealt with.
async fn unfinished(pool: &PgPool) -> Vec<(i64, String)> {
    sqlx::query_as(
        "select i.id, to_jsonb(i)::text || ' ' || (i.state::text) from gen_durable.instances i
         where (i.fsm in ('loose', 'strict', 'neighbour') and i.fsm_version = 1
                and i.queue = 'default' and i.status = 'runnable' and i.eligible_at <= now()
                -- Such a row is in no index that the engine reads, and no statement writes one.
                and not (i.blocked_by = 1 and i.partition_key is null))
            or i.status = 'executing'
            or (i.status = 'awaiting_signal' and i.wake_at <= now())
         limit 5",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_rows_wedge_no_engine_and_hurt_no_neighbour() {
    const BATCH: usize = 2_500;
    let mut random = Random(number("FUZZ_SEED", 1));
    let databases = number("FUZZ_CASES", 20_000).div_ceil(2 * BATCH as u64);
    for _ in 0..databases {
        let db = database().await;
        insert_hostile(db.pool(), &mut random, BATCH).await;
        let engine = engine(&db)
            .machine::<Loose>()
            .machine::<Strict>()
            .machine::<Neighbour>()
            .poll_interval(Duration::from_millis(200))
            .start()
            .await
            .unwrap();
        let neighbours =
            (0..100).map(|n| Neighbour::insert(n).partition_key(format!("neighbour {}", n % 7)));
        let first = Neighbour::insert_many(neighbours).execute(&engine).await.unwrap();
        // More hostile rows come while the engine runs.
        insert_hostile(db.pool(), &mut random, BATCH).await;
        let second = Neighbour::insert_many(100..200).execute(&engine).await.unwrap();
        let ids: Vec<_> = first.into_iter().chain(second).map(Result::unwrap).collect();
        eventually("maintenance has nothing left to do", async || {
            engine.maintain().await.expect("no row fails the maintenance of all");
            unfinished(db.pool()).await.is_empty().then_some(())
        })
        .await;
        for (n, id) in (0..).zip(ids) {
            assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), n);
        }
        engine.shutdown().await.unwrap();
    }
}

/// Each row has one absurd value, so that a failure names the value.
#[tokio::test(flavor = "multi_thread")]
async fn no_single_absurd_value_stops_an_engine() {
    let db = database().await;
    let engine = engine(&db)
        .machine::<Loose>()
        .machine::<Neighbour>()
        .poll_interval(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    for (column, choices) in COLUMNS.iter().filter(|(column, _)| *column != "status") {
        for (value, status, holder) in choices.iter().flat_map(|value| {
            [("runnable", "null"), ("executing", "-1"), ("awaiting_signal", "null")]
                .map(|(status, holder)| (value, status, holder))
        }) {
            let (status, holder): (String, &str) = (format!("'{status}'"), holder);
            let row: [(&str, &str); 6] = [
                ("fsm", "'loose'"),
                ("fsm_version", "1"),
                ("step", "'go'"),
                ("state", "'1'"),
                ("status", &status),
                ("locked_by", holder),
            ];
            let (mut names, mut values): (Vec<&str>, Vec<&str>) =
                row.into_iter().filter(|(name, _)| name != column).unzip();
            names.push(*column);
            values.push(*value);
            let statement = format!(
                "delete from gen_durable.instances;
                 insert into gen_durable.instances ({}) values ({})",
                names.join(", "),
                values.join(", ")
            );
            let statement = fitting(db.pool(), &statement).await;
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(db.pool()).await.unwrap();
            let what = format!("{column} = {value}, {status}");
            engine.maintain().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let id = Neighbour::insert(1).execute(&engine).await.unwrap();
            let done = engine.wait(id, Duration::from_secs(20)).await;
            assert!(done.is_ok(), "{what}: {done:?}");
        }
    }
    engine.shutdown().await.unwrap();
}
