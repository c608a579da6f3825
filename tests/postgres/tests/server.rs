//! The throw-away server starts, answers, and is gone in every case.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use gen_durable_test_postgres::{Error, Mode, Server};
use sqlx::{Connection, PgConnection};

async fn ask(server: &Server, statement: &'static str) -> String {
    let mut connection = PgConnection::connect(&server.url("postgres")).await.expect("it answers");
    sqlx::query_scalar(statement).fetch_one(&mut connection).await.expect("the statement works")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

fn runs(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended.
    !status.is_empty() && !status.contains(") Z ")
}

#[tokio::test]
async fn starts_answers_and_is_gone_when_dropped() {
    let server = Server::builder().fast(true).start().expect("it starts");
    let (dir, pid) = (server.socket_dir().to_owned(), server.pid().expect("it runs"));
    assert_eq!(ask(&server, "show fsync").await, "off");
    assert_eq!(ask(&server, "show listen_addresses").await, "");
    drop(server);
    assert!(!dir.exists(), "the directory is gone");
    assert!(!runs(&pid.to_string()), "the process is gone");
}

#[tokio::test]
async fn keeps_fsync_on_and_recovers_from_an_immediate_stop() {
    let mut server = Server::builder().start().expect("it starts");
    assert_eq!(ask(&server, "show fsync").await, "on");
    let mut connection = PgConnection::connect(&server.url("postgres")).await.expect("it answers");
    sqlx::query("create table kept as select 42 as n")
        .execute(&mut connection)
        .await
        .expect("works");
    server.stop(Mode::Immediate).expect("it stops");
    server.start_again().expect("it starts again");
    assert_eq!(ask(&server, "select n::text from kept").await, "42");
}

fn killed(signal: &str) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hold_server"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let (dir, pid) = line.trim().split_once(' ').expect("a directory and a pid");
    assert!(Path::new(dir).exists() && runs(pid), "{line}");
    // The signal goes to the whole process group, as the terminal sends it on Ctrl-C.
    let group = format!("-{}", child.id());
    // The shell has `kill` built in: not every system has a program of this name.
    let arguments = ["-c", "kill \"$@\"", "kill", signal, &group];
    let status = Command::new("/bin/sh").args(arguments).status().expect("the shell runs");
    assert!(status.success(), "{status}");
    child.wait().expect("it ends");
    until("the server is gone", || !runs(pid));
    until("the directory is gone", || !Path::new(dir).exists());
}

#[test]
fn is_gone_when_the_process_is_killed() {
    killed("-KILL");
}

#[test]
fn is_gone_on_ctrl_c() {
    killed("-INT");
}

#[test]
fn an_ordinary_user_can_start_one() {
    // Root runs a copy of the program as another user, as the build directory may be closed to
    // others. An ordinary user runs the program itself.
    let program = Path::new(env!("CARGO_BIN_EXE_hold_server"));
    let copy = std::env::temp_dir().join(format!("hold_server-{}", std::process::id()));
    let is_root = Command::new("id").arg("-u").output().expect("id runs").stdout == b"0\n";
    let mut command = if is_root {
        // Another process makes the copy. Otherwise a child that another test forks meanwhile would
        // inherit our descriptor for writing, and a program that is open for writing cannot be run.
        let copied = Command::new("cp").arg(program).arg(&copy).status().expect("cp runs");
        assert!(copied.success(), "can be copied");
        let mut command = Command::new(&copy);
        command.uid(65534).gid(65534).current_dir("/");
        command
    } else {
        Command::new(program)
    };
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    let _ = std::fs::remove_file(&copy);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let dir = PathBuf::from(said.split(' ').next().expect("a directory"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!dir.exists(), "{} is gone", dir.display());
}

#[tokio::test]
async fn data_that_is_kept_is_taken_up_again() {
    let dir = std::env::temp_dir().join(format!("gen_durable-kept-{}", std::process::id()));
    let start = || Server::builder().data_dir(&dir).start().expect("it starts");
    let server = start();
    let mut connection = PgConnection::connect(&server.url("postgres")).await.expect("it answers");
    sqlx::query("create table kept as select 7 as n")
        .execute(&mut connection)
        .await
        .expect("works");
    let socket = server.socket_dir().to_owned();
    drop(server);
    assert!(!socket.exists() && dir.join("PG_VERSION").exists());
    let server = start();
    assert_eq!(ask(&server, "select n::text from kept").await, "7");
    drop(server);
    std::fs::remove_dir_all(&dir).expect("can be removed");
}

#[test]
fn a_failed_start_shows_the_servers_log() {
    let started = Server::builder().fast(true).setting("shared_buffers", "nonsense").start();
    match started {
        Err(Error::NotStarted { log }) => assert!(log.contains("shared_buffers"), "{log}"),
        other => panic!("{other:?}"),
    }
}
