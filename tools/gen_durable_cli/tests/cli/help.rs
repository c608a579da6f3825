//! The help: each command's has an example, and the examples are right.

use std::process::Stdio;

use crate::support::{Said, program};

/// Returns the paths of all commands: `limits set`, say.
fn commands(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let path = [path, &[sub.get_name().to_owned()]].concat();
        commands(sub, &path, found);
        found.push(path);
    }
}

/// Returns the words of a line, as a shell would, and nothing after a redirection.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, false);
    for letter in line.chars() {
        match letter {
            '\'' => {
                quote = !quote;
                word.get_or_insert_default();
            }
            ' ' if !quote => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    let end = words.iter().position(|word| [">", "<"].contains(&&**word));
    words.truncate(end.unwrap_or(words.len()));
    words
}

/// Checks the examples of a help text. Returns their number.
fn check_examples(help: &str) -> usize {
    let (_, examples) = help.split_once("Example:\n").expect("an example");
    let lines = examples.lines().take_while(|line| line.starts_with("  "));
    let mut count = 0;
    for line in lines {
        assert!(line.trim().starts_with("gen-durable "), "{line}");
        for part in line.trim().split(" | ").filter(|part| part.contains("gen-durable")) {
            let mut words = words(part.trim());
            if words[0] == "xargs" {
                words = words.into_iter().skip_while(|word| word != "gen-durable").collect();
                words.push("42".to_owned());
            }
            assert_eq!(words[0], "gen-durable", "{line}");
            let read = gen_durable_cli::command().try_get_matches_from(&words);
            assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
            count += 1;
        }
    }
    count
}

async fn help(path: &[String]) -> String {
    let mut command = program(None);
    command.args(path).arg("--help").stdout(Stdio::piped());
    Said::of(command.output().await.unwrap()).done()
}

#[tokio::test]
async fn each_command_has_help_with_an_example_that_is_right() {
    gen_durable_cli::command().debug_assert();
    let mut all = vec![Vec::new()];
    commands(&gen_durable_cli::command(), &[], &mut all);
    assert!(all.len() > 30, "{all:?}");
    for path in &all {
        let text = help(path).await;
        assert!(check_examples(&text) > 0, "{path:?}: {text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{path:?}: {text}");
    }
}

#[tokio::test]
async fn the_help_lists_exit_codes_and_says_how_to_connect() {
    let text = help(&[]).await;
    for part in ["Exit codes:", "  124  the awaited", "PGSERVICE", "PGPASSFILE", "NO_COLOR"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn wrong_arguments_are_a_usage_error() {
    for arguments in [
        &["frobnicate"][..],
        &["ls", "--status", "broken"],
        &["limits", "set", "carrier", "--per", "5"],
        &["retry", "42", "--json", "-o", "ids"],
        &["pause", "42", "--until", "yesterday"],
        &["insert", "order", "{nope}"],
        &[],
    ] {
        let mut command = program(None);
        let said = Said::of(command.args(arguments).output().await.unwrap());
        assert_eq!(said.code, Some(2), "{said:?}");
        assert_eq!(said.out, "");
        assert!(!said.err.is_empty());
    }
}

#[tokio::test]
async fn shells_complete_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut command = program(None);
        let said = Said::of(command.args(["completions", shell]).output().await.unwrap());
        let script = said.done();
        for command in ["run-now", "buckets", "--changed-since"] {
            assert!(script.contains(command.trim_start_matches('-')), "{shell}");
        }
    }
}

const GUIDE: &str = include_str!("../../../../gen_durable/src/guide/cli.md");

#[test]
fn the_commands_in_the_documents_are_right() {
    let documents = [
        (include_str!("../../../../README.md"), 2),
        (include_str!("../../README.md"), 4),
        (GUIDE, 4),
    ];
    for (text, least) in documents {
        let lines = text.lines().map(|line| line.trim_start_matches("$ "));
        let lines: Vec<&str> = lines.filter(|line| line.starts_with("gen-durable ")).collect();
        assert!(lines.len() >= least, "{lines:?}");
        check_examples(&format!("Example:\n  {}\n", lines.join("\n  ")));
    }
}

#[test]
fn the_guide_lists_all_commands_and_exit_codes() {
    for command in gen_durable_cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(name == "help" || GUIDE.contains(&format!("`{name}`")), "{name}");
    }
    let help = gen_durable_cli::command().render_long_help().to_string();
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    for line in codes.lines() {
        let (code, meaning) = line.trim().split_once(' ').unwrap();
        let row = format!("| {code} | {} |", meaning.trim());
        assert!(GUIDE.contains(&row), "{row}");
    }
}
