//! Worker processes that can be killed, stopped and continued.
//!
//! Invariant: no process is left behind, however this one ends. A shell is told of each process
//! that starts and ends. When its pipe closes, it kills those that are left. A process that is
//! stopped could not notice by itself.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::JoinHandle,
};

use crate::clock::Clock;

const SCRIPT: &str = r#"
trap '' HUP INT TERM
pids=" "
while read -r change pid; do
    case "$change" in
        +) pids="$pids$pid " ;;
        -) pids=$(printf '%s' "$pids" | sed "s/ $pid / /") ;;
    esac
done
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
"#;

/// Tells the shell that a process has started (`+`) or ended (`-`).
pub(crate) fn note(change: char, pid: u32) -> io::Result<()> {
    static KEEPER: OnceLock<io::Result<Mutex<ChildStdin>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "gen_durable-keeper"])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        shell.stdin.take().map(Mutex::new).ok_or_else(|| io::Error::other("no pipe"))
    });
    match keeper {
        Ok(pipe) => {
            writeln!(lock(pipe), "{change} {pid}")
        }
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

/// A worker process.
#[derive(Debug)]
pub struct Worker {
    child: Option<Child>,
    pid: u32,
    stopped: bool,
    said: Arc<Mutex<Vec<String>>>,
    hearing: Option<JoinHandle<()>>,
}

/// The end of a worker.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// All lines that it printed to stdout.
    pub said: Vec<String>,
}

impl Ended {
    /// True if its status is success.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Returns how many outcomes it lost.
    pub fn lost_commits(&self) -> u64 {
        lost_commits(&self.said)
    }

    /// Returns the panics that it reported, except those on purpose.
    pub fn panics(&self) -> impl Iterator<Item = &str> {
        self.said.iter().filter_map(|line| line.strip_prefix("panic "))
    }
}

impl Worker {
    /// Starts `program worker` on a database, with further arguments, and with a clock of its own.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if it cannot be started.
    pub fn start(
        program: &Path,
        url: &str,
        lease_millis: u64,
        arguments: &[&str],
        clock: Option<&Clock>,
    ) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(["worker", "--url", url, "--lease", &lease_millis.to_string()])
            .args(arguments)
            .envs(clock.map(Clock::environment).into_iter().flatten())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let pid = child.id();
        note('+', pid)?;
        let said = Arc::default();
        let hearing = child.stdout.take().map(|stdout| {
            let said = Arc::clone(&said);
            std::thread::spawn(move || hear(stdout, &said))
        });
        Ok(Self { child: Some(child), pid, stopped: false, said, hearing })
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Stops it (SIGSTOP).
    ///
    /// # Errors
    ///
    /// [`io::Error`] if `kill` cannot be run.
    pub fn stop(&mut self) -> io::Result<()> {
        self.stopped = true;
        self.signal("-STOP")
    }

    /// Continues it (SIGCONT).
    ///
    /// # Errors
    ///
    /// [`io::Error`] if `kill` cannot be run.
    pub fn go_on(&mut self) -> io::Result<()> {
        self.stopped = false;
        self.signal("-CONT")
    }

    /// Writes a line to its stdin.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if it has ended.
    pub fn tell(&mut self, line: &str) -> io::Result<()> {
        let stdin = self.child.as_mut().and_then(|child| child.stdin.as_mut());
        writeln!(stdin.ok_or_else(|| io::Error::other("it has ended"))?, "{line}")
    }

    /// Returns the lines that it has printed to stdout so far.
    pub fn said(&self) -> Vec<String> {
        lock(&self.said).clone()
    }

    /// Returns how many outcomes it has lost so far.
    pub fn lost_commits(&self) -> u64 {
        lost_commits(&lock(&self.said))
    }

    /// Returns how many bytes of memory it uses, or none if it has ended.
    pub fn memory(&self) -> Option<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid)).ok()?;
        let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
        Some(pages * 4096)
    }

    /// Returns how many sockets it has open, or none if it has ended.
    pub fn sockets(&self) -> Option<usize> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?;
        let targets = open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        Some(targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count())
    }

    /// True if it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// True if it is stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Kills it (SIGKILL), and waits until it is gone.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the process cannot be waited for.
    pub fn kill(mut self) -> io::Result<Ended> {
        if let Some(child) = &mut self.child {
            child.kill()?;
        }
        self.end()
    }

    /// Closes its stdin, so that it shuts down, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the process cannot be waited for.
    pub fn shut_down(mut self) -> io::Result<Ended> {
        self.end()
    }

    fn signal(&self, signal: &str) -> io::Result<()> {
        // The shell has `kill` built in: not every system has a program of this name.
        let arguments = ["-c", "kill \"$@\"", "kill", signal, &self.pid.to_string()];
        Command::new("/bin/sh").args(arguments).status()?;
        Ok(())
    }

    fn end(&mut self) -> io::Result<Ended> {
        let Some(mut child) = self.child.take() else {
            return Err(io::Error::other("it has ended"));
        };
        drop(child.stdin.take());
        let status = child.wait();
        note('-', self.pid)?;
        // Its last lines may still be in the pipe.
        let _ = self.hearing.take().map(JoinHandle::join);
        Ok(Ended { status: status?, said: lock(&self.said).clone() })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = self.end();
        }
    }
}

fn lost_commits(said: &[String]) -> u64 {
    let counts = said.iter().filter_map(|line| line.strip_prefix("lost ")?.parse().ok());
    counts.max().unwrap_or(0)
}

fn hear(stdout: ChildStdout, said: &Mutex<Vec<String>>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        lock(said).push(line);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
