//! Reads the list of mutations, one file for each statement in `lists/`, and applies them to the
//! statements' texts.
//!
//! An entry begins with `## ` and the property that the mutation takes away. A line with `- ` has
//! the text to find, and `+ ` its replacement; without `+ ` the text is removed. Each `= ` is a
//! filter of tests, of which at least one must fail. `= equivalent: …` gives the reason why no test
//! can fail. A blank in the text to find stands for any white space.

use std::{fmt, fs, ops::Range, path::Path};

/// The verdict that the list expects for a mutation.
#[derive(Debug, PartialEq)]
pub(crate) enum Expected {
    /// At least one of the tests that these filters select fails.
    Caught(Vec<String>),
    /// The statement does the same without the clause, for this reason.
    Equivalent(String),
}

/// A change of one clause of a statement, or its removal.
#[derive(Debug)]
pub(crate) struct Mutation {
    /// The statement's name, without the extension of its file.
    pub(crate) statement: String,
    /// The property that the statement has with its clause.
    pub(crate) clause: String,
    pub(crate) find: String,
    pub(crate) replacement: String,
    pub(crate) expected: Expected,
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.statement, self.clause)
    }
}

impl Mutation {
    /// Returns the text `statement` with the mutation, in equally many bytes. If the replacement is
    /// longer than the text to find, the statement's comments make space for it.
    ///
    /// # Errors
    ///
    /// Fails if the text to find is not there exactly once, or if the replacement is too long even
    /// without the comments.
    pub(crate) fn apply(&self, statement: &str) -> Result<String, String> {
        let found = occurrences(statement, &self.find);
        let [place] = &found[..] else {
            return Err(format!("{self}: `{}` is there {} times", self.find, found.len()));
        };
        let (before, after) = (&statement[..place.start], &statement[place.end..]);
        let mut mutated = format!("{before}{}{after}", self.replacement);
        if mutated.len() > statement.len() {
            let code = mutated.lines().filter(|line| !line.trim_start().starts_with("--"));
            mutated = code.collect::<Vec<_>>().join("\n");
        }
        let Some(spare) = statement.len().checked_sub(mutated.len()) else {
            return Err(format!("{self}: the replacement is too long"));
        };
        mutated.push_str(&" ".repeat(spare));
        Ok(mutated)
    }
}

/// Returns the places of `find` in `text`. White space of any kind and length counts as the same.
fn occurrences(text: &str, find: &str) -> Vec<Range<usize>> {
    let words: Vec<&str> = find.split_whitespace().collect();
    let Some(first) = words.first() else { return Vec::new() };
    let ends = |begin: usize| {
        let mut rest = &text[begin..];
        for (index, word) in words.iter().enumerate() {
            let trimmed = rest.trim_start();
            if index > 0 && trimmed.len() == rest.len() {
                return None;
            }
            rest = trimmed.strip_prefix(word)?;
        }
        Some(begin..text.len() - rest.len())
    };
    text.match_indices(first).filter_map(|(begin, _)| ends(begin)).collect()
}

/// Reads the text of a statement.
pub(crate) fn statement(root: &Path, name: &str) -> Result<String, String> {
    let path = root.join("gen_durable/src/storage/sql").join(name).with_extension("sql");
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads all mutations, in the order of their statements' names.
pub(crate) fn load(root: &Path) -> Result<Vec<Mutation>, String> {
    let folder = root.join("tools/mutations/lists");
    let unreadable = |error| format!("{}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    let mut mutations = Vec::new();
    for path in paths {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let text = fs::read_to_string(&path).map_err(unreadable)?;
        mutations.extend(parse(name, &text)?);
    }
    Ok(mutations)
}

fn parse(statement: &str, list: &str) -> Result<Vec<Mutation>, String> {
    let mut mutations = Vec::new();
    for entry in format!("\n{list}").split("\n## ").skip(1) {
        let (clause, lines) = entry.split_once('\n').unwrap_or((entry, ""));
        let wrong = |what: &str| format!("{statement}: {clause}: {what}");
        let all = |sign: &str| -> Vec<String> {
            lines.lines().filter_map(|line| line.strip_prefix(sign)).map(str::to_owned).collect()
        };
        let mut tests = all("= ");
        let expected = match &tests[..] {
            [] => return Err(wrong("name a test, or say why it is equivalent")),
            [only] if only.starts_with("equivalent: ") => {
                Expected::Equivalent(tests.remove(0)["equivalent: ".len()..].to_owned())
            }
            _ => Expected::Caught(tests),
        };
        mutations.push(Mutation {
            statement: statement.to_owned(),
            clause: clause.to_owned(),
            find: all("- ").join("\n"),
            replacement: all("+ ").join("\n"),
            expected,
        });
    }
    Ok(mutations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_changes_its_statement_at_one_place() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mutations = load(&root).expect("the lists can be read");
        assert!(mutations.len() > 100, "{} mutations", mutations.len());
        let problems: Vec<String> = mutations
            .iter()
            .filter_map(|mutation| {
                let text = statement(&root, &mutation.statement).expect("the statement is there");
                match mutation.apply(&text) {
                    Err(error) => Some(error),
                    Ok(mutated) if mutated == text => Some(format!("{mutation}: changes nothing")),
                    Ok(_) => None,
                }
            })
            .collect();
        assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
    }

    #[test]
    fn a_blank_stands_for_any_white_space_and_the_length_stays() {
        let text = "-- about\nselect a\n  from b\nwhere c and cc";
        let mutation = |find: &str, replacement: &str| Mutation {
            statement: "s".to_owned(),
            clause: "c".to_owned(),
            find: find.to_owned(),
            replacement: replacement.to_owned(),
            expected: Expected::Equivalent(String::new()),
        };
        let mutated = mutation("a from b where", "").apply(text).expect("it is there once");
        assert_eq!(mutated.trim_end(), "-- about\nselect  c and cc");
        assert_eq!(mutated.len(), text.len());
        let longer = mutation("from b", "from bbbbbb").apply(text).expect("the comment gives way");
        assert_eq!(longer.trim_end(), "select a\n  from bbbbbb\nwhere c and cc");
        assert!(mutation("c", "").apply(text).is_err(), "it is there several times");
        assert!(mutation("z", "").apply(text).is_err(), "it is not there");
        assert!(mutation("a", &"a".repeat(99)).apply(text).is_err(), "the replacement is too long");
    }
}
