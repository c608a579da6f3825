//! Habits of SQL: it stands in files, and depends on nothing in the database but the schema.

use super::{PUBLISHED, check, files};

#[test]
fn sql_stands_in_its_files_alone() {
    let phrases = ["select ", "insert into ", "delete from ", "gen_durable.", "pg_", "lock table "];
    let mut problems = Vec::new();
    for krate in ["gen_durable/src", "gen_durable_macros/src"] {
        // The doctor tells people what to run, and runs none of it.
        let exempt = ["/snapshots/", "/client/doctor/"];
        let files = files(krate, "rs");
        let own = files.iter().filter(|file| !exempt.iter().any(|dir| file.path.contains(dir)));
        for file in own {
            for (number, line) in file.lines() {
                let code = line.split("//").next().unwrap_or_default().to_lowercase();
                for phrase in phrases.iter().filter(|phrase| code.contains(**phrase)) {
                    problems
                        .push(format!("{}:{number}: `{phrase}` belongs in storage/sql", file.path));
                }
            }
        }
    }
    check(&problems);
}

/// Each function that runs SQL gets a constant or a literal. No statement is put together, and none
/// is declared safe. The crate of the test server is no part of a running machine. It gives
/// databases their names, which no parameter can.
#[test]
fn no_statement_is_built_from_strings() {
    let calls =
        ["query(", "query_as(", "query_scalar(", "raw_sql(", "begin_with(", "AssertSqlSafe("];
    let mut problems = Vec::new();
    let crates = PUBLISHED.iter().filter(|krate| **krate != "tools/gen_durable_postgres");
    for file in crates.flat_map(|krate| files(&format!("{krate}/src"), "rs")) {
        for builder in ["QueryBuilder", "Box::leak", ".leak()"] {
            if file.text.contains(builder) {
                problems
                    .push(format!("{}: `{builder}` can make a statement of anything", file.path));
            }
        }
        for call in calls {
            for (begin, _) in file.text.match_indices(call) {
                let number = file.text[..begin].lines().count();
                let argument = file.text[begin + call.len()..].trim_start();
                let name: String = argument
                    .chars()
                    .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                    .collect();
                let constant = name.len() > 1
                    && name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_');
                if !constant && !argument.starts_with('"') {
                    problems.push(format!("{}:{number}: `{call}` takes a constant", file.path));
                }
            }
        }
    }
    check(&problems);
}

#[test]
fn a_statement_is_described_and_has_a_constant_of_its_name() {
    let storage = files("gen_durable/src/storage", "rs");
    let mut problems = Vec::new();
    for statement in files("gen_durable/src/storage/sql", "sql") {
        let (stem, path) = (statement.stem(), &statement.path);
        if !statement.text.starts_with("-- ") {
            problems.push(format!("{path}: begin with a comment that says what it does"));
        }
        let constant = stem.to_uppercase();
        let definition = format!("const {constant}: &str = include_str!(\"sql/{stem}.sql\");");
        let owners: Vec<_> =
            storage.iter().filter(|file| file.text.contains(&definition)).collect();
        match owners[..] {
            [owner] if owner.text.contains(&format!("({constant})")) => {}
            [owner] => problems.push(format!("{}: `{constant}` is not used", owner.path)),
            _ => problems.push(format!("{path}: must be in one file as `{definition}`")),
        }
    }
    check(&problems);
}

/// A database may have another encoding than UTF-8, functions of any name in its search path, and
/// the clock of a test. No statement may depend on them.
#[test]
fn statements_depend_on_nothing_in_the_database_but_the_schema() {
    // These words are syntax. The parser itself qualifies `unnest` of several arrays.
    let syntax = [
        "all",
        "and",
        "any",
        "array",
        "as",
        "case",
        "coalesce",
        "conflict",
        "exists",
        "extract",
        "filter",
        "from",
        "greatest",
        "in",
        "join",
        "key",
        "lateral",
        "least",
        "materialized",
        "not",
        "nullif",
        "on",
        "or",
        "over",
        "row",
        "select",
        "table",
        "then",
        "trigger",
        "unnest",
        "values",
        "when",
        "where",
    ];
    let mut problems = Vec::new();
    let statements = files("gen_durable/src/storage/sql", "sql");
    let migrations = files("gen_durable_migrate", "sql");
    for (file, is_statement) in statements
        .iter()
        .map(|file| (file, true))
        .chain(migrations.iter().map(|file| (file, false)))
    {
        for (number, line) in file.lines() {
            if !line.is_ascii() {
                problems.push(format!("{}:{number}: not ASCII", file.path));
            }
        }
        if !is_statement {
            continue;
        }
        let text: String = file
            .lines()
            .map(|(_, line)| line.split("--").next().unwrap_or_default().to_owned() + "\n")
            .collect();
        for (end, _) in text.match_indices('(') {
            let before = text[..end].trim_end();
            let begin = before
                .rfind(|c: char| !(c.is_alphanumeric() || "_.".contains(c)))
                .map_or(0, |place| place + 1);
            let name = &before[begin..];
            let plain = !name.is_empty()
                && !name.contains('.')
                && !syntax.contains(&name)
                && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            let direct = text[..end].ends_with(name);
            if plain && direct {
                problems.push(format!("{}: call `pg_catalog.{name}`", file.path));
            }
            if ["pg_catalog.now", "pg_catalog.clock_timestamp"].contains(&name) {
                problems.push(format!("{}: the time is `gen_durable.now()`", file.path));
            }
        }
    }
    check(&problems);
}
