//! The habits of the code that a machine can check.
//!
//! Each test checks one habit and lists every place that breaks it. Files are read as text: a rule
//! that would need to understand Rust is not worth having here.

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/statements.rs"]
mod statements;
#[path = "tidy/words.rs"]
mod words;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The most lines of a source file. A file of more than three hundred already deserves a second
/// look.
const LINES_MAX: usize = 500;

/// The folders of the crates that are published.
const PUBLISHED: [&str; 6] = [
    "gen_durable",
    "gen_durable_macros",
    "gen_durable_migrate",
    "tools/gen_durable_cli",
    "tools/gen_durable_console",
    "tools/gen_durable_postgres",
];

/// A file of the repository.
struct File {
    /// Its path from the root.
    path: String,
    text: String,
}

impl File {
    fn stem(&self) -> &str {
        Path::new(&self.path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }

    /// Returns its lines, with their numbers as an editor shows them.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns all files below a directory with this extension, in a fixed order.
fn files(dir: &str, extension: &str) -> Vec<File> {
    let mut found = Vec::new();
    let entries = fs::read_dir(root().join(dir)).unwrap_or_else(|error| panic!("{dir}: {error}"));
    for entry in entries {
        let entry = entry.expect("the directory can be read");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let path = if dir == "." { name.clone() } else { format!("{dir}/{name}") };
        if entry.path().is_dir() {
            if name != "target" && !name.starts_with('.') {
                found.extend(files(&path, extension));
            }
        } else if name.ends_with(&format!(".{extension}")) {
            found.push(File { text: read(&path), path });
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    found
}

/// Returns the Rust files that people write, without expansions and without cases of wrong use.
fn sources() -> Vec<File> {
    let mut sources = files(".", "rs");
    sources.retain(|file| {
        let cases = ["tests/ui/", "tests/renamed/fail/"];
        let wrong_use =
            cases.iter().any(|dir| file.path.starts_with(dir)) && file.path != "tests/ui/main.rs";
        !wrong_use && !file.path.contains("/snapshots/")
    });
    sources
}

fn check(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Returns the words between backticks at the beginning of a table's rows: `.queue(name)` gives
/// `queue`.
fn rows(text: &str, table: &str) -> BTreeSet<String> {
    let begin = text.find(table).unwrap_or_else(|| panic!("no table begins with {table}"));
    text[begin..]
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| `"))
        .map(|row| {
            let row = row.trim_start_matches('.');
            let end = row.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
            row[..end.unwrap_or(row.len())].to_owned()
        })
        .collect()
}

/// Returns the names of the public functions of an impl block.
fn methods(path: &str, block: &str) -> BTreeSet<String> {
    let text = read(path);
    let begin = text.find(block).unwrap_or_else(|| panic!("{path} has no `{block}`"));
    let end = text[begin..].find("\n}").expect("the block ends") + begin;
    text[begin..end]
        .lines()
        .filter_map(|line| {
            let line = line.trim_start();
            let rest = line.strip_prefix("pub fn ").or(line.strip_prefix("pub async fn "))?;
            Some(rest[..rest.find(['(', '<'])?].to_owned())
        })
        .filter(|name| name != "new")
        .collect()
}

#[test]
fn a_source_file_opens_with_what_it_owns() {
    let silent = sources().into_iter().filter(|file| !file.text.starts_with("//! "));
    check(&silent.map(|file| format!("{}: begin with `//!`", file.path)).collect::<Vec<_>>());
}

#[test]
fn source_files_are_short() {
    let mut problems = Vec::new();
    for file in sources().into_iter().filter(|file| file.path.contains("src/")) {
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!("{}: {lines} lines; split it", file.path));
        }
    }
    check(&problems);
}

#[test]
fn modules_are_named_after_what_they_own() {
    let vague = ["utils", "util", "common", "types", "helpers", "misc"];
    let found = sources().into_iter().filter(|file| {
        file.path.split(['/', '.']).any(|part| vague.contains(&part))
            || vague.contains(&file.stem())
    });
    check(&found.map(|file| format!("{}: name what it owns", file.path)).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_half_done() {
    let marks = ["todo!", "unimplemented!", "dbg!", "#[ignore", "TODO", "FIXME", "XXX"];
    let mut problems = Vec::new();
    for file in sources().into_iter().filter(|file| file.path != "tests/tidy.rs") {
        for (number, line) in file.lines() {
            for mark in marks.iter().filter(|mark| line.contains(**mark)) {
                problems.push(format!("{}:{number}: `{mark}`", file.path));
            }
        }
    }
    check(&problems);
}

#[test]
fn an_exception_from_a_lint_has_its_reason() {
    let mut problems = Vec::new();
    // The code that `expand` quotes is generated.
    for file in sources().into_iter().filter(|file| !file.path.contains("/expand/")) {
        for attribute in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
            for (begin, _) in file.text.match_indices(attribute) {
                let number = file.text[..begin].lines().count() + 1;
                let rest = &file.text[begin..];
                // In this file the attribute stands in a string.
                let quoted = file.text[..begin].ends_with('"');
                let end = rest.find(")]").unwrap_or(rest.len());
                if !quoted && !rest[..end].contains("reason = ") {
                    problems.push(format!("{}:{number}: add `reason = \"…\"`", file.path));
                }
            }
        }
    }
    check(&problems);
}

#[test]
fn tests_wait_for_a_condition_and_not_for_a_time() {
    let mut problems = Vec::new();
    for file in files("tests/it", "rs") {
        let mut before = "";
        for (number, line) in file.lines() {
            let explained =
                [line, before].iter().any(|text| text.contains("//") || text.contains("-- "));
            if line.contains("sleep(") && !explained {
                problems.push(format!(
                    "{}:{number}: wait for a condition, or say above why it must be a time",
                    file.path
                ));
            }
            before = line;
        }
    }
    check(&problems);
}

#[test]
fn numbered_properties_are_listed_with_their_tests() {
    let properties = read("docs/properties.md");
    let mut problems = Vec::new();
    for file in files("tests/it", "rs") {
        for (number, line) in file.lines() {
            let Some((_, name)) = line.split_once("fn p") else { continue };
            let Some(Ok(property)) = name.get(..2).map(str::parse::<u32>) else { continue };
            let row = format!("| {property} | ");
            let listed = properties
                .lines()
                .any(|line| line.starts_with(&row) && line.contains(&format!("`{}`", file.stem())));
            if !listed {
                problems.push(format!(
                    "{}:{number}: docs/properties.md needs a row `{row}… | `{}` |`",
                    file.path,
                    file.stem()
                ));
            }
        }
    }
    check(&problems);
}

/// `docs/reliability.md` names a test as `module::name`, or as the beginning of a name and `…`. It
/// may also name a module that has tests of its own, such as `engine::flusher`. Each of them must
/// exist.
#[test]
fn the_tests_that_the_promises_name_exist() {
    let sources = sources();
    let modules = |path: &str| {
        let path = path.trim_end_matches("::tests").replace("::", "/");
        // A module's tests may have a file of their own.
        let ends = ["", "/mod", "/tests"].map(|end| format!("/{path}{end}.rs"));
        sources.iter().filter(move |file| ends.iter().any(|end| file.path.ends_with(end)))
    };
    let tests = |file: &File, begin: &str| {
        let lines: Vec<&str> = file.text.lines().map(str::trim_start).collect();
        lines.windows(2).any(|pair| {
            let function = pair[1].trim_start_matches("async ");
            pair[0].starts_with("#[") && pair[0].contains("test") && function.starts_with(begin)
        })
    };
    let mut problems = Vec::new();
    let reliability = read("docs/reliability.md");
    for name in reliability.split('`').skip(1).step_by(2).filter(|name| name.contains("::")) {
        let (module, test) = name.rsplit_once("::").expect("it contains one");
        let begin = test.strip_suffix('…').map_or_else(|| format!("{test}("), str::to_owned);
        let named = modules(module).any(|file| tests(file, &format!("fn {begin}")));
        if !named && !modules(name).any(|file| tests(file, "fn ")) {
            problems.push(format!("docs/reliability.md: there is no test `{name}`"));
        }
    }
    check(&problems);
}

#[test]
fn the_code_map_is_short_and_names_every_module() {
    let architecture = read("ARCHITECTURE.md");
    let mut problems = Vec::new();
    if architecture.lines().count() >= 250 {
        problems.push("ARCHITECTURE.md: keep it under 250 lines".to_owned());
    }
    for file in PUBLISHED.iter().flat_map(|krate| files(&format!("{krate}/src"), "rs")) {
        let known = ["lib", "main", "mod", "prelude", "tests"].contains(&file.stem());
        if !known && !file.path.contains("/snapshots/") && !architecture.contains(file.stem()) {
            problems.push(format!("ARCHITECTURE.md: the code map misses {}", file.path));
        }
    }
    check(&problems);
}

#[test]
fn the_documentation_lists_every_option() {
    let docs = |path| read(path).replace("/// ", "");
    let table = |path| rows(&docs(path), "| option | meaning | default |");
    let builder = "gen_durable/src/engine/builder.rs";
    assert_eq!(table(builder), methods(builder, "impl EngineBuilder {"));
    let (insert, block) = ("gen_durable/src/machine/insert.rs", "impl<M: Machine> Insert<M> {");
    let executes = methods("gen_durable/src/client/execute.rs", block);
    assert_eq!(table(insert), methods(insert, block).union(&executes).cloned().collect());
    let macros = docs("gen_durable_macros/src/lib.rs");
    for (list, table) in [
        ("MACHINE", "| option | meaning | default |"),
        ("JOB", "| option of a job |"),
        ("STEP", "| `#[step(…)]` on a step |"),
        ("RETRY", "| `retry(…)` |"),
        ("LIMIT", "| `limit(\"stripe\", …)` |"),
        ("TEST", "| option of a test |"),
    ] {
        assert_eq!(rows(&macros, table), options(list));
    }
}

/// Returns the names in a list of options that the macros know.
fn options(list: &str) -> BTreeSet<String> {
    let attr = read("gen_durable_macros/src/attr.rs");
    let begin = format!("const {list}: Known = &[");
    let (_, list) = attr.split_once(&begin).expect("the list of options");
    let (list, _) = list.split_once("];").expect("the end of the list");
    // Each entry begins with the option's name: ("version", "version = 1").
    let entries = list.split("(\"").skip(1);
    entries.filter_map(|entry| entry.split('"').next().map(str::to_owned)).collect()
}

#[test]
fn every_example_is_registered_and_in_their_readme() {
    let readme = read("examples/README.md");
    let listed = rows(&readme, "| `cargo run --example` |");
    let manifest = read("examples/Cargo.toml");
    let mut problems = Vec::new();
    for file in files("examples", "rs").iter().filter(|file| file.stem() != "session") {
        // An example is a file, or a folder with a file `main.rs`.
        let path = file.path.strip_prefix("examples/").expect("it lies there");
        let (name, is_main) = match path.split_once('/') {
            Some((folder, inner)) => (folder, inner == "main.rs"),
            None => (file.stem(), true),
        };
        if !listed.contains(name) {
            problems.push(format!("examples/README.md: the table misses `{name}`"));
        }
        if is_main && !manifest.contains(&format!("name = \"{name}\"\npath = \"{path}\"")) {
            problems.push(format!("examples/Cargo.toml: `{name}` is not registered"));
        }
    }
    check(&problems);
}

#[test]
fn versions_agree() {
    let workspace = read("Cargo.toml");
    let value = |text: &str, key: &str| {
        let (_, rest) = text.split_once(&format!("{key} = \"")).expect(key);
        rest.split('"').next().expect("a value").to_owned()
    };
    let version = value(&workspace, "\nversion");
    let mut problems = Vec::new();
    for krate in PUBLISHED {
        // Generated code calls functions of exactly one version of the runtime.
        let exact = if krate == "gen_durable_macros" { "=" } else { "" };
        let name = krate.trim_start_matches("tools/");
        let dependency =
            format!("{name} = {{ version = \"{exact}{version}\", path = \"{krate}\" }}");
        if !workspace.contains(&dependency) {
            problems.push(format!("Cargo.toml: expected `{dependency}`"));
        }
        for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
            if read(license) != read(&format!("{krate}/{license}")) {
                problems.push(format!("{krate}/{license}: must be the same as the root's"));
            }
        }
    }
    let manifests = files(".", "toml").into_iter().filter(|file| file.stem() == "Cargo");
    for file in manifests.filter(|file| file.path != "Cargo.toml") {
        if !file.text.contains("\nversion.workspace = true\n") {
            problems.push(format!("{}: take the workspace's version", file.path));
        }
    }
    let rust = value(&workspace, "\nrust-version");
    if !value(&read("rust-toolchain.toml"), "channel").starts_with(&rust) {
        problems.push(format!("rust-toolchain.toml: expected Rust {rust}"));
    }
    if !read("README.md").contains(&format!("Rust {rust}")) {
        problems.push(format!("README.md: expected `Rust {rust}`"));
    }
    check(&problems);
}
