//! Finds the programs of a server, and the user that may run them.
//!
//! Invariant: `PG_BIN_DIR` is used, or is an error if it holds no server. Without it, the newest
//! installed version is used. A server is fetched only if none is installed.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, fetch};

/// The programs of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binaries {
    /// The directory that holds `initdb` and `postgres`.
    bin: PathBuf,
    /// The libraries that the system lacks. Only a fetched server has them.
    libraries: Option<PathBuf>,
}

impl Binaries {
    /// Finds the server that tests and examples run on.
    pub(crate) fn find() -> Result<Self, Error> {
        if let Some(dir) = env::var_os("PG_BIN_DIR") {
            let dir = PathBuf::from(dir);
            return Self::installed_in(&dir).ok_or(Error::WrongBinDir(dir));
        }
        installed().or_else(on_path).map_or_else(fetch::server, Ok)
    }

    fn installed_in(bin: &Path) -> Option<Self> {
        let complete = bin.join("initdb").is_file() && bin.join("postgres").is_file();
        complete.then(|| Self { bin: bin.to_owned(), libraries: None })
    }

    /// Returns the server that was fetched into a directory, if it is complete.
    pub(crate) fn fetched_into(dir: &Path) -> Option<Self> {
        let libraries = Some(dir.join("libraries")).filter(|libraries| libraries.is_dir());
        Some(Self { libraries, ..Self::installed_in(&dir.join("bin"))? })
    }

    /// Returns the directory of its programs.
    #[cfg(test)]
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Makes a command for a program of the server, to be run as this user.
    pub(crate) fn command(&self, program: &str, user: Option<(u32, u32)>) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.bin.join(program));
        command.current_dir("/").env_remove("PGDATA").env("LC_ALL", "C");
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Returns what the server lacks to run here, or none if it runs. The server looks for its
    /// libraries and its time zones before it looks at its data. Therefore it needs no data to be
    /// asked for a setting.
    pub(crate) fn lacks(&self) -> Option<String> {
        let mut command = match unprivileged() {
            Ok(user) => self.command("postgres", user),
            Err(error) => return Some(error.to_string()),
        };
        command.args(["-D", "/", "-c", "config_file=/dev/null"]);
        // Every connection of sqlx asks for this time zone.
        command.args(["-C", "TimeZone", "-c", "TimeZone=UTC"]);
        match command.output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(format!("{}: {error}", self.bin.join("postgres").display())),
        }
    }
}

/// Finds the newest server in the versioned directories of the usual packages.
fn installed() -> Option<Binaries> {
    let families = [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/lib64", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ];
    families
        .iter()
        .flat_map(|(parent, prefix, bin)| versions(Path::new(parent), prefix, bin))
        .filter_map(|(major, dir)| Some((major, Binaries::installed_in(&dir)?)))
        .max_by_key(|(major, _)| *major)
        .map(|(_, binaries)| binaries)
}

fn versions(parent: &Path, prefix: &str, bin: &str) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = parent.read_dir() else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?;
            let major = version.split('.').next()?.parse().ok()?;
            Some((major, entry.path().join(bin)))
        })
        .collect()
}

fn on_path() -> Option<Binaries> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).find_map(|dir| Binaries::installed_in(&dir))
}

/// True if the machine has a program of this name.
pub(crate) fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Returns the user and group that a server runs as if we are root, as it refuses to run as root.
///
/// # Errors
///
/// [`Error::Io`] if `id` cannot be run.
pub fn unprivileged() -> Result<Option<(u32, u32)>, Error> {
    if id(&["-u"])? != Some(0) {
        return Ok(None);
    }
    for user in ["postgres", "nobody"] {
        if let (Some(uid), Some(gid)) = (id(&["-u", user])?, id(&["-g", user])?) {
            return Ok(Some((uid, gid)));
        }
    }
    Ok(Some((65534, 65534)))
}

fn id(arguments: &[&str]) -> Result<Option<u32>, Error> {
    let output = Command::new("id").args(arguments).output().map_err(Error::io("run `id`"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
}
