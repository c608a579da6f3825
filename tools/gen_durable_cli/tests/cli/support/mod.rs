//! Shared by all tests: a database for each, machines, and the program's output.
//!
//! Invariant: a test waits for the condition that it expects. It never waits for a fixed time.

mod machines;

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use gen_durable::{Client, Status, operate::Details};
use gen_durable_postgres::{Cluster, Template, TestDb};
use tokio::{io::AsyncWriteExt, process::Command, sync::OnceCell};

pub(crate) use machines::{Cart, Import, Order, engine};

/// The longest time that a condition may take. It is generous, as the machine may be slow and busy.
pub(crate) const WAIT_MAX: Duration = Duration::from_mins(1);
/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_gen-durable");

struct Shared {
    template: Template,
    // The field keeps the server for the life of the process; the watchdog removes the server then.
    _cluster: Cluster,
}

async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let cluster = Cluster::from_env_or_throwaway(true).expect("a Postgres server");
            let template =
                Template::create(&cluster, async |pool| gen_durable_migrate::up(&pool).await);
            let template = template.await.expect("a migrated template");
            Shared { template, _cluster: cluster }
        })
        .await
}

/// A migrated database of the test's own.
pub(crate) async fn database() -> TestDb {
    shared().await.template.database().await.expect("a copy of the template")
}

/// An empty database of the test's own.
pub(crate) async fn empty_database() -> TestDb {
    shared().await.template.empty_database().await.expect("an empty database")
}

/// The output and the exit code of the program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Returns the output of a command that succeeded.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// Returns the one line of a command that failed with this code.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        self.err
    }
}

/// The program, in an environment without variables of libpq. It acts in the name of `ada`.
pub(crate) fn program(url: Option<&str>) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(url.map(|url| ("DATABASE_URL", url))).stdin(Stdio::null());
    command.kill_on_drop(true);
    command
}

/// Runs the program on a database.
pub(crate) async fn run(db: &TestDb, arguments: &[&str]) -> Said {
    run_with(db, arguments, "").await
}

/// Runs the program with a text on its standard input.
pub(crate) async fn run_with(db: &TestDb, arguments: &[&str], input: &str) -> Said {
    let mut command = program(Some(db.url()));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A program that reads nothing closes the pipe.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    Said::of(child.wait_with_output().await.expect("its output"))
}

/// Returns the output of a table, with ` | ` between cells and `…` for each time, which differ from
/// run to run.
pub(crate) fn steady(text: &str) -> String {
    text.lines().map(|line| steady_line(line) + "\n").collect()
}

fn steady_line(line: &str) -> String {
    let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
    let cells = cells.map(|cell| if is_time(cell) { "…" } else { cell });
    cells.collect::<Vec<_>>().join(" | ")
}

fn is_time(cell: &str) -> bool {
    let is_rough = |text: &str| {
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
        let unit = &text[digits.len()..];
        digits.parse::<u64>().is_ok() && ["ms", "s", "m", "h", "d"].contains(&unit)
    };
    let is_stamp = cell.len() > 20 && cell.as_bytes()[4] == b'-' && cell.as_bytes()[10] == b'T';
    let relative = cell.strip_suffix(" ago").or_else(|| cell.strip_prefix("in "));
    cell == "now" || is_rough(cell) || is_stamp || relative.is_some_and(is_rough)
}

/// Calls `look` every 5 ms until it returns a value, and returns that value. Panics after
/// [`WAIT_MAX`].
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let looked = tokio::time::timeout(WAIT_MAX, async {
        loop {
            ticks.tick().await;
            if let Some(seen) = look().await {
                return seen;
            }
        }
    });
    looked.await.unwrap_or_else(|_elapsed| panic!("waited in vain until {what}"))
}

/// Waits until an instance has a status.
pub(crate) async fn until(client: &Client, id: impl Into<i64>, status: Status) -> Details {
    let id = id.into();
    eventually(&format!("instance {id} is {status}"), async || {
        let details = client.instance_by_id(id).get().await.expect("the instance exists");
        (details.status == status).then_some(details)
    })
    .await
}
