//! A Postgres cluster of our own.
//!
//! ```text
//!   initdb, or a copy of ──► postgres ──► ready ◄──► stopped (stop, start_again)
//!   another (a standby)         │          │
//!          └────────────────────┴──────────┴──► gone: dropped, or the process ended (watchdog)
//! ```
//!
//! Invariant: the server listens on a private Unix socket alone.

use std::{
    ffi::OsString,
    fs,
    io::Write,
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use crate::{
    Error,
    binaries::{Binaries, unprivileged},
    encoding,
    watchdog::Watchdog,
};

/// The longest time of a start. It includes the recovery after an immediate stop.
const START_TIMEOUT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(5);

/// The way in which a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Connections are terminated, and a checkpoint is written.
    Fast,
    /// Postgres stops as in a crash, and the next start recovers.
    Immediate,
}

/// Options of a server.
#[derive(Clone, Debug, Default)]
#[must_use = "a server runs after `.start()`"]
pub struct Builder {
    fast: bool,
    data: Option<PathBuf>,
    settings: Vec<(String, String)>,
    environment: Vec<(OsString, OsString)>,
}

/// A running server. When it is dropped, the server and its directory are gone.
#[derive(Debug)]
pub struct Server {
    binaries: Binaries,
    /// Our directory. It holds the socket, the log and, unless it is kept, the data.
    work: PathBuf,
    data: PathBuf,
    user: Option<(u32, u32)>,
    options: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    postgres: Option<Child>,
    // This field is dropped last, as it removes the directory.
    _watchdog: Watchdog,
}

impl Builder {
    /// Trades durability for speed, for tests whose subject is not durability.
    pub fn fast(mut self, fast: bool) -> Self {
        self.fast = fast;
        self
    }

    /// Keeps the data in this directory, and continues with data that an earlier server has left
    /// there.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data = Some(dir.into());
        self
    }

    /// Adds a setting, as in `postgresql.conf`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a variable to the environment of the server's processes.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    ///
    /// [`Error`] if there are no programs, or if the server did not start, with its log.
    pub fn start(self) -> Result<Server, Error> {
        let mut server = self.make()?;
        if !server.data.join("PG_VERSION").exists() {
            server.initdb(self.fast)?;
        }
        server.start_again()?;
        Ok(server)
    }

    /// Starts a standby that streams from the server whose socket is in `primary_dir`. It has this
    /// name in `synchronous_standby_names` and as its replication slot.
    ///
    /// # Errors
    ///
    /// [`Error`] if no copy could be made, or if the standby did not start, with its log.
    pub fn start_standby(self, primary_dir: &Path, name: &str) -> Result<Server, Error> {
        let primary =
            format!("host={} user=postgres application_name={name}", primary_dir.display());
        // The connection of the standby is set here too: the server may load another libpq than
        // `pg_basebackup`, and then it may not understand what -R writes.
        let mut server = self.setting("primary_conninfo", &primary).make()?;
        let mut command = server.command("pg_basebackup");
        command.arg("-D").arg(&server.data).args(["-d", &primary]);
        // The slot keeps the WAL that the standby has not got yet. -R makes the copy a standby.
        command.args(["-R", "-X", "stream", "-c", "fast", "-C", "-S", name]);
        server.run(command, "pg_basebackup")?;
        server.start_again()?;
        Ok(server)
    }

    /// Makes a server without its data.
    fn make(&self) -> Result<Server, Error> {
        let binaries = Binaries::find()?;
        let user = unprivileged()?;
        let work = work_dir(user)?;
        let data = match &self.data {
            Some(dir) => {
                std::path::absolute(dir).map_err(Error::io("resolve the data directory"))?
            }
            None => work.join("data"),
        };
        let watchdog = Watchdog::start(&data, &work)?;
        let options = self.options(&work);
        let environment = self.environment.clone();
        Ok(Server {
            binaries,
            work,
            data,
            user,
            options,
            environment,
            postgres: None,
            _watchdog: watchdog,
        })
    }

    fn options(&self, work: &Path) -> Vec<String> {
        let mut settings = vec![
            ("listen_addresses".to_owned(), String::new()),
            ("unix_socket_directories".to_owned(), work.display().to_string()),
            ("max_connections".to_owned(), "300".to_owned()),
            ("log_min_messages".to_owned(), "warning".to_owned()),
        ];
        if self.fast {
            for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
                settings.push((setting.to_owned(), "off".to_owned()));
            }
        }
        settings.extend(self.settings.iter().cloned());
        settings
            .into_iter()
            .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")])
            .collect()
    }
}

impl Server {
    /// Returns the options of a server. By default it has fsync on and Postgres's own settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns the URL of a database, for the superuser `postgres`.
    pub fn url(&self, database: &str) -> String {
        let socket = self.work.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{socket}/{database}")
    }

    /// Returns the directory of the socket.
    pub fn socket_dir(&self) -> &Path {
        &self.work
    }

    /// Returns the id of the server's process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.postgres.as_ref().map(Child::id)
    }

    /// Stops the server. Its data stays until it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the process could not be signalled.
    pub fn stop(&mut self, mode: Mode) -> Result<(), Error> {
        let Some(mut postgres) = self.postgres.take() else { return Ok(()) };
        let signal = match mode {
            Mode::Fast => "-INT",
            Mode::Immediate => "-QUIT",
        };
        // The shell has `kill` built in: not every system has a program of this name.
        Command::new("/bin/sh")
            .args(["-c", "kill \"$@\"", "kill", signal, &postgres.id().to_string()])
            .status()
            .map_err(Error::io("signal the server"))?;
        postgres.wait().map_err(Error::io("wait for the server"))?;
        Ok(())
    }

    /// Starts the server on the same data and the same socket.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`] with its log.
    pub fn start_again(&mut self) -> Result<(), Error> {
        let log = self.work.join("log");
        let file = fs::File::create(&log).map_err(Error::io("create the log"))?;
        let errors = file.try_clone().map_err(Error::io("create the log"))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.data).args(&self.options);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        // The server is not in the terminal's process group: Ctrl-C is for the program, and the
        // watchdog stops the server.
        command.process_group(0);
        let mut postgres = command.spawn().map_err(Error::io("start the server"))?;
        let read_log = || fs::read_to_string(&log).unwrap_or_default();
        let deadline = Instant::now() + START_TIMEOUT;
        while !is_ready(&self.data, postgres.id()) {
            if postgres.try_wait().map_err(Error::io("wait for the server"))?.is_some() {
                return Err(Error::NotStarted { log: read_log() });
            }
            if Instant::now() > deadline {
                let _ = postgres.kill();
                let _ = postgres.wait();
                return Err(Error::NotStarted { log: read_log() });
            }
            // A server does not report that it is ready, so it is asked again and again.
            std::thread::sleep(POLL);
        }
        self.postgres = Some(postgres);
        Ok(())
    }

    fn initdb(&self, fast: bool) -> Result<(), Error> {
        if !self.data.exists() {
            make_dir(&self.data, self.user)?;
        }
        let mut command = self.command("initdb");
        command.arg("-D").arg(&self.data);
        command.args(["-U", "postgres", "-E", &encoding::name()]);
        command.args(["--auth=trust", "--no-locale", "--no-instructions"]);
        if fast {
            command.arg("--no-sync");
        }
        self.run(command, "initdb")
    }

    /// Makes a standby a primary, and waits until it is one.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] if it is no standby, or takes more than a minute.
    pub fn promote(&self) -> Result<(), Error> {
        let mut command = self.command("pg_ctl");
        command.args(["promote", "-w", "-D"]).arg(&self.data);
        self.run(command, "pg_ctl promote")
    }

    /// Runs a program of the server to its end. Meanwhile the watchdog knows its process.
    fn run(&self, mut command: Command, name: &str) -> Result<(), Error> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = command.spawn().map_err(|error| Error::Command {
            command: name.to_owned(),
            output: format!("{}: {error}", command.get_program().display()),
        })?;
        let pid_file = self.work.join("program.pid");
        let mut file = fs::File::create(&pid_file).map_err(Error::io("write a pid file"))?;
        writeln!(file, "{}", child.id()).map_err(Error::io("write a pid file"))?;
        let output =
            child.wait_with_output().map_err(Error::io("wait for a program of the server's"))?;
        let _ = fs::remove_file(pid_file);
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(Error::Command {
            command: name.to_owned(),
            output: String::from_utf8_lossy(&said).into_owned(),
        })
    }

    fn command(&self, program: &str) -> Command {
        self.binaries.command(program, self.user)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Data that is kept needs a clean stop; data that is removed does not.
        let keep = !self.data.starts_with(&self.work);
        let _ = self.stop(if keep { Mode::Fast } else { Mode::Immediate });
    }
}

/// True if the postmaster says in its pid file that it is ready.
fn is_ready(data: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let mut lines = text.lines();
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid)
        && lines.nth(6).is_some_and(|status| status.trim() == "ready")
}

/// Makes a new directory of ours. A socket's path may have only about a hundred bytes. Therefore
/// this path is short even if the system's temporary directory is not.
fn work_dir(user: Option<(u32, u32)>) -> Result<PathBuf, Error> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let parent = std::env::temp_dir();
    // A server that runs as another user must be able to reach it.
    let parent = if parent.as_os_str().len() > 60 || user.is_some() {
        PathBuf::from("/tmp")
    } else {
        parent
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = parent.join(format!("gen_durable-{}-{count}", std::process::id()));
    // It may be left over from a process that had our id and was killed together with its watchdog.
    let _ = fs::remove_dir_all(&dir);
    make_dir(&dir, user)?;
    Ok(dir)
}

fn make_dir(dir: &Path, user: Option<(u32, u32)>) -> Result<(), Error> {
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(dir)
        .map_err(Error::io(format!("make the server's directory {}", dir.display())))?;
    if let Some((uid, gid)) = user {
        std::os::unix::fs::chown(dir, Some(uid), Some(gid))
            .map_err(Error::io("hand the directory to the server's user"))?;
    }
    Ok(())
}
