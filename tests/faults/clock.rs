//! Clocks that are wrong, and that jump: the wall clock of a process, by way of libfaketime.
//!
//! The library is preloaded into the process and reads its offset from a file at each look at the
//! clock. The monotonic clock is left alone, as a wrong wall clock and NTP leave it alone.
//!
//! Invariant: without the library there is no `Clock`, and whoever wanted one says that it goes
//! without.

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
    /// A clock that is right, for a program with one thread per process; none without the library.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if its file cannot be written.
    pub fn new() -> io::Result<Option<Self>> {
        Self::with("libfaketime.so.1")
    }

    /// A clock that is right, for a program with threads; none without the library.
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

    /// Lets it jump: so many seconds ahead of the right time from now on, or behind it.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if its file cannot be written.
    pub fn set(&self, seconds: i64) -> io::Result<()> {
        // Replaced as a whole: a process may look at any moment.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n"))?;
        // The server runs as another user.
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
        fs::rename(new, &self.file)
    }

    /// What a process has to have in its environment for its clock to be this one.
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

/// Where Debian has it: in `/usr/lib/<architecture>/faketime`.
fn find(library: &str) -> Option<PathBuf> {
    let entries = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    entries.map(|entry| entry.path().join("faketime").join(library)).find(|path| path.exists())
}
