//! The words of the project: those of `docs/glossary.md`, and none that were given up.

use super::{File, check, files, read, sources};

/// Texts that speak of the words themselves.
const ABOUT_WORDS: [&str; 2] = ["docs/glossary.md", "tests/tidy/words.rs"];

/// The words that the glossary gives up, and the phrases by which a machine can tell them from
/// other meanings: "turns run-ahead off" is no claim lock. A word with one meaning stands for
/// itself.
const GIVEN_UP: [(&str, &[&str]); 13] = [
    ("turn", &["out of turn", "turn to claim", "claims take turns", "whose turn"]),
    ("mark", &["from marks", "the marks", "from a mark", "its mark", "marks::marks"]),
    ("pace", &["pace::", "pace.rs", "`pace`"]),
    ("alarm", &["alarm"]),
    ("gate", &["gate"]),
    ("freeing", &["freeing"]),
    ("orphan", &["orphans.rs", "suspect orphans", "engine/orphans"]),
    ("announcer", &["announcer"]),
    ("notify", &["engine/notify", "notify.rs"]),
    ("island", &["island"]),
    ("walk", &["walk.rs", "attr::walk"]),
    ("patience", &["patience", "patient"]),
    ("upkeep", &["upkeep"]),
];

/// The line in lower case, with the words of each identifier apart.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut before = ' ';
    for letter in line.chars() {
        if letter.is_uppercase() && before.is_lowercase() {
            plain.push(' ');
        }
        plain.extend(letter.to_lowercase().map(|letter| if letter == '_' { ' ' } else { letter }));
        before = letter;
    }
    plain
}

/// True if the phrase stands in the line as whole words, also in the plural.
fn has(line: &str, phrase: &str) -> bool {
    line.match_indices(phrase).any(|(begin, found)| {
        let letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
        let after = &line[begin + found.len()..];
        let after = after.strip_prefix('s').unwrap_or(after);
        let ends = phrase.ends_with("::") || !letter(after.chars().next());
        ends && !letter(line[..begin].chars().next_back())
    })
}

/// The rows of the glossary's last table: a word that was given up, and what to write instead.
fn given_up(glossary: &str) -> Vec<(&str, &str)> {
    let table = glossary.split("## Words that were given up").nth(1).unwrap_or_default();
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| given"));
    rows.filter_map(|line| {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let word = cells.next()?.split(',').next()?;
        Some((word, cells.next()?))
    })
    .collect()
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
    let glossary = read("docs/glossary.md");
    let given_up = given_up(&glossary);
    let known: Vec<&str> = given_up.iter().map(|(word, _)| *word).collect();
    assert_eq!(known, GIVEN_UP.map(|(word, _)| word), "the glossary and this test differ");
    let mut problems = Vec::new();
    for file in texts() {
        for (number, line) in file.lines() {
            let line = plain(line);
            for ((word, phrases), (_, instead)) in GIVEN_UP.iter().zip(&given_up) {
                for phrase in phrases.iter().filter(|phrase| has(&line, phrase)) {
                    problems.push(format!(
                        "{}:{number}: `{phrase}`: {word} was given up; write: {instead}",
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
    for line in ["let old_gate = x;", "The Gates open.", "FlushGate::new()", "GateKeeper", "GATE"] {
        assert!(has(&plain(line), "gate"), "{line}");
    }
    for line in ["it is aggregated", "let surrogate = 1;", "DelegateTo"] {
        assert!(!has(&plain(line), "gate"), "{line}");
    }
    assert!(has(&plain("Pace::default()"), "pace::") && !has(&plain("space::x"), "pace::"));
}

/// Comments end where a reader's second column begins.
#[test]
fn comments_are_at_most_100_columns_wide() {
    let mut problems = Vec::new();
    let mut texts = sources();
    texts.extend(files(".", "sql"));
    for file in &texts {
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
