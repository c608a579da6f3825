//! The macros' messages about wrong use, and the code that they accept.
//!
//! Each file in `ui/fail` holds one mistake (or several, to show that all are reported), beside the
//! messages that it must give, in a `.stderr` file of its name. Each file in `ui/pass` must compile
//! and run. After a change of a message, `TRYBUILD=overwrite cargo test --test ui` writes the
//! `.stderr` files anew: read the difference.
//!
//! Invariant: the messages depend on the pinned toolchain alone, not on where it or a dependency is
//! installed.

use std::{fs, path::Path};

#[test]
fn wrong_use_is_reported_and_right_use_compiles() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/**/*.rs");
    cases.compile_fail("ui/fail/**/*.rs");
}

#[test]
fn no_message_shows_a_path_outside_the_workspace() {
    let messages = messages(&Path::new(env!("CARGO_MANIFEST_DIR")).join("ui/fail"));
    assert!(messages.len() > 30, "only {} cases were found", messages.len());
    for (file, text) in messages {
        for foreign in ["$CARGO", "$RUST", "/rustc/", "library/", ".cargo"] {
            assert!(!text.contains(foreign), "{file} shows a path with `{foreign}`");
        }
    }
}

/// The `.stderr` files in a directory and below it.
fn messages(directory: &Path) -> Vec<(String, String)> {
    let mut messages = Vec::new();
    for entry in fs::read_dir(directory).expect("the directory of the cases can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            messages.extend(self::messages(&path));
        } else if path.extension().is_some_and(|extension| extension == "stderr") {
            let text = fs::read_to_string(&path).expect("a `.stderr` file is text");
            messages.push((path.display().to_string(), text));
        }
    }
    messages
}
