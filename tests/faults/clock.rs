//! Wrong clocks that jump: libfaketime changes the wall clock of a process.
//!
//! The library is preloaded into the process, and reads its offset from a file at each look at the
//! clock. It does not change the monotonic clock, as a wrong wall clock and NTP do not change it
//! either.
//!
//! Invariant: without the library there is no `Clock`, and the program that wanted one reports that
//! it goes without.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// The wall clock of one process, or of a server with all its processes.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// Makes a right clock for a program with one thread per process, or none without the library.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if its file cannot be written.
    pub fn new() -> io::Result<Option<Self>> {
        Self::with("libfaketime.so.1")
    }

    /// Makes a right clock for a program with threads, or none without the library.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if its file cannot be written.
    pub fn threaded() -> io::Result<Option<Self>> {
        Self::with("libfaketimeMT.so.1")
    }

    fn with(library: &str) -> io::Result<Option<Self>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(library) = find(library) else { return Ok(None) };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let file =
            std::env::temp_dir().join(format!("gen_durable-clock-{}-{count}", process::id()));
        let clock = Self { library, file };
        clock.set(0)?;
        Ok(Some(clock))
    }

    /// Lets the clock jump. It is this many seconds ahead of the right time from now on, or behind
    /// if negative.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if its file cannot be written.
    pub fn set(&self, seconds: i64) -> io::Result<()> {
        // The file is replaced as a whole, as a process may read it at any moment.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n"))?;
        // The server runs as another user.
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
        fs::rename(new, &self.file)
    }

    /// Returns the environment that a process needs for its clock to be this one.
    pub fn environment(&self) -> [(&'static str, &Path); 5] {
        [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", &self.file),
            ("FAKETIME_NO_CACHE", Path::new("1")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
            ("NO_FAKE_STAT", Path::new("1")),
        ]
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// Finds the library where Debian installs it: in `/usr/lib/<architecture>/faketime`.
fn find(library: &str) -> Option<PathBuf> {
    let entries = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    entries.map(|entry| entry.path().join("faketime").join(library)).find(|path| path.exists())
}
