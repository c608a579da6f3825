//! Removes the clauses of the statements, one at a time, and prints the test that notices.
//!
//! `cargo run -p gen_durable_mutations` tries all mutations of [`list`], and fails if one survives.
//! Words on the command line select mutations whose statement or clause contains one of them.
//! `--tests FILTER` runs these tests instead of those in the list, also for equivalent mutations.
//! `--binary PATH` uses a test binary that is already built.
//!
//! The binary of the integration tests contains the text of each statement unchanged. One build
//! therefore serves all mutations: the program overwrites the statement in a copy of the binary,
//! with equally many bytes. The tests share a throw-away server, unless `DATABASE_URL` names one.

mod list;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use gen_durable_postgres::Server;
use list::{Expected, Mutation};

/// The tests of a mutation count as failed after this time. A test gives up after a minute, and a
/// mutation may have several.
const TRIAL_MAX: Duration = Duration::from_mins(4);

/// The number of trials that share a server. A stopped test leaves databases of about 8 MB each.
const TRIALS_OF_A_SERVER: usize = 25;

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Tries the mutations. Returns the number that survive.
fn run() -> Result<usize> {
    let mut words = Vec::new();
    let mut tests = Vec::new();
    let mut built = None;
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--tests" {
            tests.push(arguments.next().ok_or("`--tests` takes a filter of tests")?);
        } else if argument == "--binary" {
            built = Some(arguments.next().ok_or("`--binary` takes a path")?);
        } else {
            words.push(argument);
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut mutations = list::load(&root)?;
    mutations.retain(|mutation| {
        let name = mutation.to_string();
        words.is_empty() || words.iter().any(|word| name.contains(word))
    });
    if !tests.is_empty() {
        for mutation in &mut mutations {
            mutation.expected = Expected::Caught(tests.clone());
        }
    }
    let built = match built {
        Some(path) => fs::canonicalize(&path).map_err(|error| format!("{path}: {error}"))?,
        None => build(&root)?,
    };
    let mut binary = Binary::copy(&built, root.join("tests"))?;
    // A test that fails without a mutation would seem to catch all of them.
    let filters: BTreeSet<&str> = mutations
        .iter()
        .flat_map(|mutation| match &mutation.expected {
            Expected::Caught(filters) => filters.iter().map(String::as_str).collect(),
            Expected::Equivalent(_) => Vec::new(),
        })
        .collect();
    if !filters.is_empty()
        && let Some(failure) = binary.test(filters)?
    {
        return Err(format!("{failure} fails without a mutation"));
    }
    let (mut caught, mut equivalent, mut survived) = (0, 0, 0);
    for mutation in &mutations {
        match try_one(mutation, &root, &mut binary)? {
            Verdict::Equivalent(reason) => {
                equivalent += 1;
                println!("equivalent  {mutation}: {reason}");
            }
            Verdict::Caught(by) => {
                caught += 1;
                println!("caught      {mutation}: by {by}");
            }
            Verdict::Survived => {
                survived += 1;
                println!("SURVIVED    {mutation}");
            }
        }
    }
    println!("{caught} caught, {equivalent} equivalent, {survived} survived");
    Ok(survived)
}

enum Verdict {
    Caught(String),
    Equivalent(String),
    Survived,
}

fn try_one(mutation: &Mutation, root: &Path, binary: &mut Binary) -> Result<Verdict> {
    let statement = list::statement(root, &mutation.statement)?;
    let mutated = mutation.apply(&statement)?;
    let filters = match &mutation.expected {
        Expected::Equivalent(reason) => return Ok(Verdict::Equivalent(reason.clone())),
        Expected::Caught(filters) => filters,
    };
    let places = binary.places_of(&mutation.statement, &statement);
    if places.is_empty() {
        return Err(format!("{mutation}: the tests' binary does not have the statement"));
    }
    binary.write(&places, &mutated)?;
    let failed = binary.test(filters.iter().map(String::as_str));
    binary.write(&places, &statement)?;
    Ok(failed?.map_or(Verdict::Survived, Verdict::Caught))
}

/// Builds the integration tests. Returns the path of their binary.
fn build(root: &Path) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--package", "gen_durable_tests", "--test", "it", "--no-run"])
        .current_dir(root)
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("could not run cargo: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let path = said.lines().rev().find_map(|line| {
        line.trim().strip_prefix("Executable ")?.split_once('(')?.1.strip_suffix(')')
    });
    match path {
        Some(path) if output.status.success() => Ok(root.join(path)),
        _ => Err(format!("could not build the tests: {said}")),
    }
}

/// A copy of the tests' binary, in the same folder.
struct Binary {
    bytes: Vec<u8>,
    /// The places of each statement that was searched for, as offsets into the binary.
    places: BTreeMap<String, Vec<u64>>,
    copy: PathBuf,
    /// The tests' working directory.
    directory: PathBuf,
    /// The server of the tests, and the number of trials on it. It stays `None` if `DATABASE_URL`
    /// names a server.
    server: Option<(Server, usize)>,
}

impl Binary {
    fn copy(original: &Path, directory: PathBuf) -> Result<Self> {
        let failed = |error| format!("{}: {error}", original.display());
        let mut bytes = Vec::new();
        let mut file = File::open(original).map_err(failed)?;
        file.read_to_end(&mut bytes).map_err(failed)?;
        let copy = original.with_file_name(format!("mutated-{}", std::process::id()));
        fs::copy(original, &copy).map_err(failed)?;
        Ok(Self { bytes, places: BTreeMap::new(), copy, directory, server: None })
    }

    /// Returns the offsets of a statement: one for each copy that the linker has kept.
    fn places_of(&mut self, name: &str, statement: &str) -> Vec<u64> {
        if let Some(places) = self.places.get(name) {
            return places.clone();
        }
        let windows = self.bytes.windows(statement.len()).enumerate();
        let places: Vec<u64> = windows
            .filter(|(_, window)| *window == statement.as_bytes())
            .map(|(place, _)| place as u64)
            .collect();
        self.places.insert(name.to_owned(), places.clone());
        places
    }

    fn write(&self, places: &[u64], text: &str) -> Result<()> {
        let failed = |error| format!("{}: {error}", self.copy.display());
        let mut file = OpenOptions::new().write(true).open(&self.copy).map_err(failed)?;
        for place in places {
            file.seek(SeekFrom::Start(*place)).map_err(failed)?;
            file.write_all(text.as_bytes()).map_err(failed)?;
        }
        Ok(())
    }

    /// Returns the URL of the server, or of a new one after [`TRIALS_OF_A_SERVER`] trials.
    fn server(&mut self) -> Result<String> {
        let server = match self.server.take() {
            Some((server, trials)) if trials < TRIALS_OF_A_SERVER => (server, trials + 1),
            _ => {
                let server = Server::builder().fast(true).start();
                (server.map_err(|error| format!("no server: {error}"))?, 1)
            }
        };
        let url = server.0.url("postgres");
        self.server = Some(server);
        Ok(url)
    }

    /// Runs these tests until one fails. Returns its name, or `None` if all pass. Tests that do not
    /// end within [`TRIAL_MAX`] have failed.
    fn test<'a>(&mut self, filters: impl IntoIterator<Item = &'a str>) -> Result<Option<String>> {
        let path = self.copy.display().to_string();
        let failed = |error| format!("{path}: {error}");
        let log = self.copy.with_extension("log");
        let mut command = Command::new(&self.copy);
        if env::var_os("DATABASE_URL").is_none() {
            command.env("DATABASE_URL", self.server()?);
        }
        let mut child = command
            .args(filters)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(File::create(&log).map_err(failed)?)
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let begun = Instant::now();
        loop {
            let ended = child.try_wait().map_err(failed)?;
            let said = fs::read_to_string(&log).map_err(failed)?;
            if said.contains("running 0 tests") {
                return Err("no test has a name that the filters select".to_owned());
            }
            let first = said
                .lines()
                .find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
                .map(str::to_owned);
            let failure = match ended {
                Some(status) if status.success() => return Ok(None),
                Some(status) => first.unwrap_or_else(|| format!("the tests' end: {status}")),
                None if begun.elapsed() > TRIAL_MAX => "tests that do not end".to_owned(),
                None => {
                    let Some(first) = first else {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    first
                }
            };
            // One failure is enough, so the other tests are stopped.
            let _ = child.kill();
            child.wait().map_err(failed)?;
            return Ok(Some(failure));
        }
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.copy.with_extension("log"));
        let _ = fs::remove_file(&self.copy);
    }
}
