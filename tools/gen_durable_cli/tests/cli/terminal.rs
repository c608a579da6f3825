//! The program in a terminal: questions, colours, widths, interrupts; and readers that go away.

use std::{
    io::{Read, Write},
    process::{ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use gen_durable::{Client, Status};
use gen_durable_postgres::TestDb;
use pty_process::{Size, blocking};

use crate::support::{
    Import, PROGRAM, WAIT_MAX, database, engine, eventually, program, run, until,
};

/// The program in a terminal.
struct Terminal {
    child: std::process::Child,
    pty: std::sync::Arc<blocking::Pty>,
    heard: mpsc::Receiver<Vec<u8>>,
    said: String,
}

impl Terminal {
    fn start(db: &TestDb, arguments: &[&str], width: u16, variables: &[(&str, &str)]) -> Self {
        let (pty, pts) = blocking::open().expect("a terminal");
        pty.resize(Size::new(24, width)).expect("a size");
        let command = blocking::Command::new(PROGRAM).args(arguments).env_clear();
        let command = command.env("DATABASE_URL", db.url()).env("TERM", "xterm");
        let child = command.envs(variables.iter().copied()).spawn(pts).expect("the program");
        let pty = std::sync::Arc::new(pty);
        let (tell, heard) = mpsc::channel();
        let reader = std::sync::Arc::clone(&pty);
        // The thread ends with the program: nobody writes to its terminal then.
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count) = (&*reader).read(&mut bytes) {
                if count == 0 || tell.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, pty, heard, said: String::new() }
    }

    /// Waits until the program has printed a text.
    fn expect(&mut self, text: &str) {
        while !self.said.contains(text) {
            let bytes = self.heard.recv_timeout(WAIT_MAX);
            let bytes = bytes.unwrap_or_else(|_| panic!("`{text}` did not come: {}", self.said));
            self.said.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    fn write(&self, text: &str) {
        (&*self.pty).write_all(text.as_bytes()).expect("the terminal");
    }

    /// Waits until the program has ended. Returns all that it printed.
    fn end(mut self) -> (ExitStatus, String) {
        let ended = self.child.wait().expect("its end");
        while let Ok(bytes) = self.heard.recv_timeout(Duration::from_millis(500)) {
            self.said.push_str(&String::from_utf8_lossy(&bytes));
        }
        (ended, self.said)
    }
}

/// Failed imports 1 to `count`.
async fn failed(count: i64) -> (TestDb, Client) {
    let db = database().await;
    let engine = engine(&db).start().await.unwrap();
    let client = Client::new(db.pool().clone());
    for _ in 0..count {
        let id = Import::insert(0).execute(&client).await.unwrap();
        until(&client, id, Status::Failed).await;
    }
    engine.shutdown().await.unwrap();
    (db, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_asks_before_it_acts() {
    let (db, client) = failed(7).await;
    let retry = ["retry", "--machine", "import"];
    for (answer, code) in [("n\n", 130), ("\n", 130), ("\u{4}", 130), ("y\n", 0)] {
        let mut terminal = Terminal::start(&db, &retry, 100, &[]);
        terminal.expect("retry 7 instances? [y/N] ");
        assert_eq!(client.find(1).await.unwrap().unwrap().status, Status::Failed);
        terminal.write(answer);
        let (ended, said) = terminal.end();
        assert_eq!(ended.code(), Some(code), "{said}");
        assert_eq!(said.matches("nothing to import").count(), 5, "a preview: {said}");
        assert!(
            said.contains(if code == 0 { "retry: 7 done" } else { "nothing was done" }),
            "{said}"
        );
    }
    assert_eq!(client.find(7).await.unwrap().unwrap().status, Status::Runnable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_colours_and_a_width() {
    let (db, _) = failed(1).await;
    let (_, said) = Terminal::start(&db, &["ls"], 100, &[]).end();
    assert!(said.contains("\u{1b}[31mfailed\u{1b}[0m"), "{said}");
    assert!(said.contains("nothing to import"), "{said}");
    for width in [20, 50] {
        let (_, said) = Terminal::start(&db, &["ls"], width, &[("NO_COLOR", "1")]).end();
        assert!(!said.contains('\u{1b}'), "{said}");
        assert!(said.lines().all(|line| line.chars().count() <= width.into()), "{said}");
        assert!(said.contains('…'), "{said}");
    }
    let (_, said) = Terminal::start(&db, &["ls"], 100, &[("TERM", "dumb")]).end();
    assert!(!said.contains('\u{1b}'), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_a_wait() {
    let (db, client) = failed(1).await;
    run(&db, &["retry", "1"]).await.done();
    let terminal = Terminal::start(&db, &["wait", "1"], 80, &[]);
    // It waits once it has asked the database.
    eventually("it waits", async || {
        let asked: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity where datname = current_database()
             and application_name = 'gen-durable' and query like '%have come to%')",
        )
        .fetch_one(db.pool())
        .await
        .unwrap();
        asked.then_some(())
    })
    .await;
    terminal.write("\u{3}");
    let (ended, said) = terminal.end();
    assert_eq!(ended.code(), Some(130), "{said}");
    assert!(said.contains("interrupted; the instance goes on"), "{said}");
    assert_eq!(client.find(1).await.unwrap().unwrap().status, Status::Runnable);
}

/// Another transaction holds a lock for which the batch waits, so the first interrupt changes
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_interrupt_gives_a_batch_up() {
    let (db, client) = failed(2).await;
    let mut lock = db.pool().begin().await.unwrap();
    sqlx::query("lock table gen_durable.audit in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    let arguments = ["retry", "--status", "failed", "--yes"];
    let mut terminal = Terminal::start(&db, &arguments, 80, &[]);
    eventually("it waits for the lock", async || {
        let waits: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity where datname = current_database()
             and application_name = 'gen-durable' and wait_event_type = 'Lock')",
        )
        .fetch_one(db.pool())
        .await
        .unwrap();
        waits.then_some(())
    })
    .await;
    terminal.write("\u{3}");
    terminal.expect("stopping after this batch");
    terminal.write("\u{3}");
    let (ended, said) = terminal.end();
    assert_eq!(ended.code(), Some(130), "{said}");
    for text in ["given up; a batch takes effect", "retry: 0 done", "goes on with the rest"] {
        assert!(said.contains(text), "{text}: {said}");
    }
    lock.rollback().await.unwrap();
    assert_eq!(client.find(1).await.unwrap().unwrap().status, Status::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_panic() {
    let (db, _) = failed(1).await;
    for arguments in [&["ls"][..], &["migrate", "script"], &["get", "1", "--json"]] {
        let mut command = program(Some(db.url()));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let command = command.args(arguments).stdout(writer).stderr(Stdio::piped());
        let said = command.spawn().unwrap().wait_with_output().await.unwrap();
        assert_eq!(said.status.code(), Some(141), "{said:?}");
        assert_eq!(said.stderr, b"", "{said:?}");
    }
}

/// Asks a server on this machine for a page, and returns the answer.
fn page(address: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).expect("a server");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn p78_the_console_is_served_until_it_is_interrupted() {
    let db = database().await;
    let arguments = ["console", "--port", "0", "--write", "--by", "ada"];
    let mut terminal = Terminal::start(&db, &arguments, 100, &[]);
    terminal.expect("session?token=");
    let (_, said) = terminal.said.split_once("http://").expect("an address");
    let (address, _) = said.split_once('/').expect("a path");
    let address = address.to_owned();
    let looked = address.clone();
    let answer = tokio::task::spawn_blocking(move || page(&looked, "/")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The port is taken.
    let (_, port) = address.split_once(':').expect("a port");
    let second = run(&db, &["console", "--port", port]).await;
    assert_eq!(second.code, Some(1), "{}", second.err);
    assert!(second.err.contains("cannot listen on"), "{}", second.err);
    // Ctrl-C ends it, also beside a request that never comes to its end.
    let mut stalled = std::net::TcpStream::connect(&address).expect("a server");
    stalled.write_all(b"GET / HT").expect("half a request");
    terminal.write("\u{3}");
    let (ended, said) = terminal.end();
    assert!(ended.success(), "{ended:?}: {said}");
    drop(stalled);
}
