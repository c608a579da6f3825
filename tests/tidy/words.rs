//! The words of the project: those of `docs/glossary.md`, and none that were given up.

use super::{File, check, files, read, sources};

/// Texts that speak of the words themselves.
const ABOUT_WORDS: [&str; 2] = ["docs/glossary.md", "tests/tidy/words.rs"];

/// Words that were given up, as parts of identifiers and in prose, and what to write instead. Those
/// with a second, common meaning stand with the words that tell the meanings apart.
const GIVEN_UP: [(&str, &[&str]); 12] = [
    ("claim lock", &["out of turn", "turn to claim", "claims take turns", "Turns::"]),
    ("watermark", &["from marks", "the marks", "from a mark", "its mark"]),
    ("prefetch", &["Pace::", "pace.rs", "`pace`"]),
    ("wake backoff", &["alarm"]),
    ("latch, or in tests breakpoint", &["gate"]),
    ("unblock", &["freeing"]),
    ("notifier", &["announcer"]),
    ("unreachable step", &["island"]),
    ("option list", &["walk.rs", "attr::walk"]),
    ("answer timeout, lock timeout or the bound's name", &["patience", "patient"]),
    ("capacity", &["rooms"]),
    ("maintenance", &["upkeep"]),
];

/// True if the phrase stands in the line as whole words. The parts of an identifier are words.
fn has(line: &str, phrase: &str) -> bool {
    let cased = phrase.chars().any(char::is_uppercase);
    let line = if cased { line.to_owned() } else { line.to_lowercase() };
    line.match_indices(phrase).any(|(begin, found)| {
        let letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
        let after = &line[begin + found.len()..];
        let after = if cased { after } else { after.strip_prefix('s').unwrap_or(after) };
        let open = cased && phrase.ends_with(':');
        !letter(line[..begin].chars().next_back()) && (open || !letter(after.chars().next()))
    })
}

fn texts() -> Vec<File> {
    let mut texts = sources();
    for extension in ["md", "sql", "txt"] {
        texts.extend(files(".", extension));
    }
    // The history keeps its words.
    texts.retain(|file| !ABOUT_WORDS.contains(&&*file.path) && file.path != "CHANGELOG.md");
    texts
}

#[test]
fn words_that_were_given_up_are_not_used() {
    let mut problems = Vec::new();
    for file in texts() {
        for (number, line) in file.lines() {
            for (instead, phrases) in GIVEN_UP {
                for phrase in phrases.iter().filter(|phrase| has(line, phrase)) {
                    problems.push(format!(
                        "{}:{number}: `{phrase}` was given up; write: {instead}",
                        file.path
                    ));
                }
            }
        }
    }
    check(&problems);
}

/// A term that is explained twice may come to have two meanings.
#[test]
fn each_term_of_the_glossary_is_explained_once() {
    let glossary = read("docs/glossary.md");
    let explained = glossary.split("## Words that were given up").next().unwrap_or_default();
    let mut terms: Vec<&str> = explained
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| word"))
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .collect();
    assert!(terms.len() >= 40, "{} terms", terms.len());
    terms.sort_unstable();
    let twice = terms.windows(2).filter(|pair| pair[0] == pair[1]);
    check(&twice.map(|pair| format!("`{}` is explained twice", pair[0])).collect::<Vec<_>>());
}

#[test]
fn a_word_is_found_whole_and_in_identifiers() {
    assert!(has("let old_gate = Gate::new();", "gate"));
    assert!(has("The Gates open.", "gate"));
    assert!(!has("it is aggregated", "gate"));
    assert!(has("Turns::default()", "Turns::") && !has("returns::x", "Turns::"));
}

/// Comments end where a reader's second column begins.
#[test]
fn comments_are_at_most_100_columns_wide() {
    let mut problems = Vec::new();
    let mut texts = sources();
    texts.extend(files(".", "sql"));
    for file in texts.iter().filter(|file| !file.path.starts_with("tests/ui/")) {
        let mut in_code = false;
        for (number, line) in file.lines() {
            let comment = line.trim_start();
            if !["//", "--"].iter().any(|begin| comment.starts_with(begin)) {
                in_code = false;
                continue;
            }
            let text = comment.trim_start_matches(['/', '!', '-', ' ']);
            if text.starts_with("```") {
                in_code = !in_code;
            } else if !in_code && !text.starts_with('|') && line.chars().count() > 100 {
                problems.push(format!("{}:{number}: wider than 100 columns", file.path));
            }
        }
    }
    check(&problems);
}
