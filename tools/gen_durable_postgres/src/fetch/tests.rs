//! Tests of fetching, with scripts that make a small fake of a server.
//!
//! Each test has a cache of its own below the system's temporary directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Means, allowed, cached, fetch, open_cache};
use crate::Error;

/// A script that makes a server which runs, and counts its calls.
///
/// If the cache has a file `wait`, the script waits for the file `go`.
const GOOD: &str = "
    set -eu
    if [ -e ../wait ]; then until [ -e ../go ]; do sleep 0.02; done; fi
    echo called >>../calls
    mkdir -p server/bin
    printf '#!/bin/sh\\n' >server/bin/initdb
    printf '#!/bin/sh\\necho UTC\\n' >server/bin/postgres
    chmod +x server/bin/*
";
/// A cache that is removed with its test.
#[derive(Debug)]
struct Cache(PathBuf);

impl Cache {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gen_durable-fetch-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        open_cache(&dir).expect("a cache can be made");
        Self(dir)
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.0.join("calls")).unwrap_or_default().lines().count()
    }

    /// Returns the names in it, except the lock and the notes of the fake scripts.
    fn names(&self) -> Vec<String> {
        let entries = self.0.read_dir().expect("the cache is there").map(|entry| {
            entry.expect("the cache can be read").file_name().to_string_lossy().into_owned()
        });
        entries.filter(|name| !["lock", "calls", "wait", "go"].contains(&name.as_str())).collect()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn means(name: &'static str, script: &'static str) -> Means {
    Means { name, programs: &["sh"], script }
}

/// Fetches into a cache. Returns the result, and all that was printed.
fn fetch_into(cache: &Path, means: &[Means]) -> (Result<PathBuf, String>, String) {
    let mut out = Vec::new();
    let fetched = fetch(means, cache, &mut out).map(|binaries| binaries.bin().to_owned());
    (fetched, String::from_utf8(out).expect("a text"))
}

#[test]
fn p58_the_first_means_with_its_programs_is_taken() {
    let cache = Cache::new();
    let absent = Means { programs: &["sh", "gen_durable-absent"], ..means("absent", GOOD) };
    let all = [absent, means("first", GOOD), means("second", GOOD)];
    let (fetched, out) = fetch_into(&cache.0, &all);
    let first = all[1].place(&cache.0);
    assert_eq!(fetched, Ok(first.join("bin")));
    assert_eq!(cache.calls(), 1, "{out}");
    assert!(out.contains("fetching one with first"), "it is announced: {out}");
    assert!(out.contains(&first.display().to_string()), "with its place: {out}");
    assert!(!out.contains("absent"), "what cannot be tried is not announced: {out}");

    // The second time the server is there already: nothing is fetched, and nothing is printed.
    let (again, out) = fetch_into(&cache.0, &all);
    assert_eq!((again, out.as_str()), (Ok(first.join("bin")), ""));
    assert_eq!(cache.calls(), 1);
}

#[test]
fn p58_a_means_that_fails_gives_way_to_the_next() {
    let cache = Cache::new();
    let all = [means("broken", "exit 3"), means("good", GOOD)];
    let (fetched, out) = fetch_into(&cache.0, &all);
    assert_eq!(fetched, Ok(all[1].place(&cache.0).join("bin")));
    assert!(out.contains("could not be fetched"), "{out}");
}

#[test]
fn p58_a_server_that_is_half_made_is_not_taken() {
    let halves = [
        ("mkdir -p server/bin; echo >server/bin/initdb", "no `initdb` and `postgres`"),
        (
            "mkdir -p server/bin; touch server/bin/initdb server/bin/postgres
             echo the checksum differs; exit 4",
            "the checksum differs",
        ),
        (
            "mkdir -p server/bin; touch server/bin/initdb
             printf '#!/bin/sh\necho libx.so is not there >&2; exit 127\n' >server/bin/postgres
             chmod +x server/bin/postgres",
            "does not run here: libx.so is not there",
        ),
    ];
    for (script, reason) in halves {
        let cache = Cache::new();
        let half = [means("half", script)];
        let (fetched, _) = fetch_into(&cache.0, &half);
        let why = fetched.expect_err("it is not taken");
        assert!(why.contains(reason), "{why}");
        assert_eq!(cache.names(), [""; 0], "nothing is left");
        assert_eq!(cached(&half, &cache.0), None);
    }
}

#[test]
fn p58_what_a_killed_fetch_left_is_removed() {
    let cache = Cache::new();
    let left = cache.0.join("unfinished-good-1/server/bin");
    fs::create_dir_all(&left).expect("works");
    fs::write(left.join("initdb"), "half").expect("works");
    let good = [means("good", GOOD)];
    let place = good[0].place(&cache.0);
    let (fetched, _) = fetch_into(&cache.0, &good);
    assert_eq!(fetched, Ok(place.join("bin")));
    let name = place.file_name().expect("it has a name").to_string_lossy().into_owned();
    assert_eq!(cache.names(), [name]);
}

#[test]
fn p58_a_fetched_server_that_no_longer_runs_is_fetched_again() {
    let cache = Cache::new();
    let good = [means("good", GOOD)];
    let (fetched, _) = fetch_into(&cache.0, &good);
    let postgres = fetched.expect("it is fetched").join("postgres");
    fs::write(&postgres, "#!/bin/sh\nexit 1\n").expect("works");
    assert_eq!(cached(&good, &cache.0), None);
    let (fetched, out) = fetch_into(&cache.0, &good);
    assert!(fetched.is_ok(), "{out}");
    assert_eq!(cache.calls(), 2);
    assert!(cached(&good, &cache.0).is_some());
}

#[test]
fn p58_of_two_that_fetch_at_once_one_waits() {
    /// Lets the first fetch end as soon as the second one prints that it waits.
    struct LetGo<'a>(&'a Path, Vec<u8>);

    impl io::Write for LetGo<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            fs::write(self.0.join("go"), "")?;
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let cache = Cache::new();
    fs::write(cache.0.join("wait"), "").expect("works");
    let good = [means("good", GOOD)];
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fetch_into(&cache.0, &good).0);
        while cache.names().is_empty() {
            std::thread::yield_now();
        }
        let mut out = LetGo(&cache.0, Vec::new());
        let second = fetch(&good, &cache.0, &mut out).map(|binaries| binaries.bin().to_owned());
        let said = String::from_utf8(out.1).expect("a text");
        assert_eq!(said, "another process fetches a Postgres server; waiting for it\n");
        assert_eq!(first.join().expect("it does not panic"), second);
        assert!(second.is_ok());
    });
    assert_eq!(cache.calls(), 1);
}

#[test]
fn p58_nothing_is_fetched_in_ci_unless_asked() {
    let with = |ci: Option<&str>, switch: Option<&str>| {
        allowed(|name| match name {
            "CI" => ci.map(str::to_owned),
            "GEN_DURABLE_FETCH_POSTGRES" => switch.map(str::to_owned),
            _ => None,
        })
    };
    for ci in [None, Some(""), Some("0"), Some("false")] {
        assert_eq!(with(ci, None), Ok(()), "{ci:?} is no CI");
    }
    let why = with(Some("true"), None).expect_err("it is a surprise in CI");
    assert!(why.contains("CI is set; GEN_DURABLE_FETCH_POSTGRES=1 allows it"), "{why}");
    assert_eq!(with(Some("true"), Some("1")), Ok(()));
    for (ci, switch) in [(None, "0"), (Some("true"), "0"), (None, ""), (None, "no")] {
        let why = with(ci, Some(switch)).expect_err("it is forbidden");
        assert!(why.contains(&format!("GEN_DURABLE_FETCH_POSTGRES is `{switch}`")), "{why}");
    }
}

#[test]
fn p58_if_all_means_fail_the_message_says_why_and_what_to_do() {
    let cache = Cache::new();
    let absent = Means { programs: &["gen_durable-absent"], ..means("absent", GOOD) };
    let noisy = "for line in 1 2 3 4 5 6 7; do echo line $line; done; echo no network >&2; exit 5";
    let (fetched, _) = fetch_into(&cache.0, &[absent, means("noisy", noisy)]);
    let why = fetched.expect_err("all fail");
    assert!(why.contains("absent: there is no `gen_durable-absent` here"), "{why}");
    assert!(why.contains("noisy: failed (exit status: 5):\n    line 3\n"), "the end of it: {why}");
    assert!(why.ends_with("no network"), "{why}");

    let error = Error::NoServer { why };
    let text = error.to_string();
    for way in ["install the system's package", "set PG_BIN_DIR", "set DATABASE_URL"] {
        assert!(text.contains(way), "{text}");
    }
    assert_eq!(format!("{error:?}"), text, "`expect` and `main` print the same");
}

#[test]
fn p58_a_cache_that_cannot_be_used_is_named() {
    let cache = Cache::new();
    let file = cache.0.join("file");
    fs::write(&file, "").expect("works");
    let (fetched, _) = fetch_into(&file, &[means("good", GOOD)]);
    let why = fetched.expect_err("a file is no directory");
    assert!(why.contains(&file.display().to_string()) && why.contains("XDG_CACHE_HOME"), "{why}");
}

#[test]
fn p58_a_fetched_server_can_be_run_by_another_user() {
    use std::os::unix::fs::PermissionsExt;

    let cache = Cache::new();
    // The script makes its files with root's umask, and the cache is closed to other users.
    let closed = [means(
        "closed",
        "umask 077; mkdir -p server/bin
         printf '#!/bin/sh\\n' >server/bin/postgres; chmod 700 server/bin/postgres
         cp server/bin/postgres server/bin/initdb",
    )];
    fs::set_permissions(&cache.0, fs::Permissions::from_mode(0o700)).expect("works");
    let (fetched, out) = fetch_into(&cache.0, &closed);
    let bin = fetched.expect(&out);
    for path in [&cache.0, &closed[0].place(&cache.0), &bin, &bin.join("postgres")] {
        let mode = path.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o005, 0o005, "{} is {mode:o}", path.display());
    }
}
