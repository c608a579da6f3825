//! The throw-away server starts, answers, and is gone in every case.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use gen_durable_postgres::{Error, Mode, Server};
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

/// If this variable is set, this program is the one that other tests kill.
const HOLD: &str = "GEN_DURABLE_POSTGRES_HOLD";
/// The line that gives the directory and the pid of a held server begins with this text.
const HELD: &str = "held server: ";

/// Starts a server and waits until its parent closes the pipe or kills it. Other tests run this
/// program with this test alone. In the run of all tests, it does nothing.
#[test]
fn hold_server() {
    if env::var_os(HOLD).is_none() {
        return;
    }
    let server = Server::builder().fast(true).start().expect("it starts");
    let pid = server.pid().expect("it runs");
    println!("\n{HELD}{} {pid}", server.socket_dir().display());
    std::io::stdin().read_to_end(&mut Vec::new()).expect("the pipe can be read");
}

/// Makes the command that holds a server by this program, or by a copy of it.
fn hold(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", "hold_server", "--nocapture"]).env(HOLD, "1");
    command
}

/// Reads the directory and the pid of a held server.
fn held(said: impl BufRead) -> (String, String) {
    let mut lines = said.lines().map_while(Result::ok);
    let line = lines.find_map(|line| line.strip_prefix(HELD).map(str::to_owned));
    let line = line.expect("the program starts a server");
    let (dir, pid) = line.split_once(' ').expect("a directory and a pid");
    (dir.to_owned(), pid.to_owned())
}

fn killed(signal: &str) {
    let mut child = hold(&env::current_exe().expect("a program"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("the program starts");
    let (dir, pid) = held(BufReader::new(child.stdout.take().expect("piped")));
    assert!(Path::new(&dir).exists() && runs(&pid), "{dir} {pid}");
    // The signal goes to the whole process group, as the terminal sends it on Ctrl-C.
    let group = format!("-{}", child.id());
    // The shell has `kill` built in: not every system has a program of this name.
    let arguments = ["-c", "kill \"$@\"", "kill", signal, &group];
    let status = Command::new("/bin/sh").args(arguments).status().expect("the shell runs");
    assert!(status.success(), "{status}");
    child.wait().expect("it ends");
    until("the server is gone", || !runs(&pid));
    until("the directory is gone", || !Path::new(&dir).exists());
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
    let program = env::current_exe().expect("a program");
    let copy = env::temp_dir().join(format!("hold_server-{}", std::process::id()));
    let is_root = Command::new("id").arg("-u").output().expect("id runs").stdout == b"0\n";
    let mut command = if is_root {
        // Another process makes the copy. Otherwise a child that another test forks meanwhile would
        // inherit our descriptor for writing, and a program that is open for writing cannot be run.
        let copied = Command::new("cp").arg(&program).arg(&copy).status().expect("cp runs");
        assert!(copied.success(), "can be copied");
        let mut command = hold(&copy);
        command.uid(65534).gid(65534).current_dir("/");
        command
    } else {
        hold(&program)
    };
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    let _ = std::fs::remove_file(&copy);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (dir, _) = held(&*output.stdout);
    assert!(!Path::new(&dir).exists(), "{dir} is gone");
}

#[tokio::test]
async fn data_that_is_kept_is_taken_up_again() {
    let dir = env::temp_dir().join(format!("gen_durable-kept-{}", std::process::id()));
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
