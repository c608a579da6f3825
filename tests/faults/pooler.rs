//! A transaction pooler (`PgBouncer`) between workers and Postgres, on Unix sockets.
//!
//! Invariant: it has the settings that the guide gives. It is gone when it is dropped or this
//! process ends.

use std::{
    env, fs, io,
    os::unix::{fs::chown, net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use gen_durable_postgres::unprivileged;

use crate::process::note;

/// The first version that supports prepared statements in transaction mode.
const VERSION_MIN: (u32, u32) = (1, 21);
const START_TIMEOUT: Duration = Duration::from_secs(30);
const SOCKET: &str = ".s.PGSQL.5432";

/// The settings that the guide gives.
const DOCUMENTED: &str = "\
pool_mode = transaction
max_prepared_statements = 200
ignore_startup_parameters = extra_float_digits
";

/// A running `PgBouncer`.
#[derive(Debug)]
pub struct Pooler {
    program: PathBuf,
    user: Option<(u32, u32)>,
    dir: PathBuf,
    child: Option<Child>,
}

/// Returns the program to use: the one in `PGBOUNCER`, or one on the path that is new enough.
///
/// # Errors
///
/// A message for the person who runs the tests.
pub fn find() -> Result<PathBuf, String> {
    if let Some(program) = env::var_os("PGBOUNCER") {
        return Ok(PathBuf::from(program));
    }
    let (major, minor) = VERSION_MIN;
    let wanted = format!(
        "PgBouncer {major}.{minor} or newer; `bash tools/gen_durable_postgres/fetch_pgbouncer.sh DIR` makes \
         one, and PGBOUNCER names the program"
    );
    let output = Command::new("pgbouncer").arg("--version").output();
    let output = output.map_err(|_missing| format!("there is no {wanted}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(1).unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < VERSION_MIN {
        return Err(format!("PgBouncer {version} is too old; there is no {wanted}"));
    }
    Ok(PathBuf::from("pgbouncer"))
}

impl Pooler {
    /// Starts a pooler in front of the server whose socket is in `server_dir`, with at most this
    /// many connections to each database.
    ///
    /// # Errors
    ///
    /// [`io::Error`] with the pooler's log if it does not start.
    pub fn start(program: &Path, server_dir: &Path, connections: usize) -> io::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // A socket's path may have only about a hundred bytes.
        let dir = PathBuf::from(format!("/tmp/gen_durable-pooler-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir)?;
        // It refuses to run as root, as Postgres does.
        let user = unprivileged().map_err(io::Error::other)?;
        if let Some((uid, gid)) = user {
            chown(&dir, Some(uid), Some(gid))?;
        }
        fs::write(dir.join("users"), "\"postgres\" \"\"\n")?;
        let (here, there) = (dir.display(), server_dir.display());
        let settings = format!(
            "[databases]\n* = host={there} port=5432\n\n[pgbouncer]\n{DOCUMENTED}\
             default_pool_size = {connections}\n\
             max_client_conn = 200\n\
             listen_port = 5432\n\
             unix_socket_dir = {here}\n\
             auth_type = trust\n\
             auth_file = {here}/users\n"
        );
        fs::write(dir.join("settings"), settings)?;
        let mut pooler = Self { program: program.to_owned(), user, dir, child: None };
        pooler.start_again()?;
        Ok(pooler)
    }

    /// The URL of a database through the pooler.
    pub fn url(&self, database: &str) -> String {
        let host = self.dir.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{host}/{database}")
    }

    /// Kills it, so that all of its connections end.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the process cannot be waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        note('-', child.id())?;
        // A socket that is left over would look like another pooler that runs.
        fs::remove_file(self.dir.join(SOCKET))
    }

    /// Starts it with the same settings on the same socket.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start).
    pub fn start_again(&mut self) -> io::Result<()> {
        let log = self.dir.join("log");
        let file = fs::File::create(&log)?;
        let mut command = Command::new(&self.program);
        command.arg(self.dir.join("settings")).current_dir("/");
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let mut child = command.process_group(0).spawn()?;
        note('+', child.id())?;
        let deadline = Instant::now() + START_TIMEOUT;
        while UnixStream::connect(self.dir.join(SOCKET)).is_err() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let _ = child.kill();
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(io::Error::other(format!("PgBouncer did not start: {said}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
        Ok(())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
