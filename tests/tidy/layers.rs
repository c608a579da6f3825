//! The layers of `gen_durable`: what each folder may name.
//!
//! ```text
//!   engine ──► client ──► machine ──► storage ──► the modules that all stand on
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::{File, check, files};

/// The layers from the lowest to the highest. Each may name those before it.
const LAYERS: [&str; 4] = ["storage", "machine", "client", "engine"];

/// The faces of the crate stand above all layers, and no layer names them.
const FACES: [&str; 5] = ["lib", "prelude", "guide", "testing", "__private"];

/// The top-level module that a file belongs to.
fn module(file: &File) -> String {
    let path = file.path.trim_start_matches("gen_durable/src/");
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs").to_owned()
}

/// The top-level modules that a file names after `crate::`, with the lines.
fn names(file: &File) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    let lines = file.text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join("\n");
    for (begin, path) in code.match_indices("crate::") {
        if code[..begin].ends_with(|letter: char| letter.is_alphanumeric() || "_$".contains(letter))
        {
            continue;
        }
        let number = code[..begin].lines().count().max(1);
        let rest = &code[begin + path.len()..];
        let inner = match rest.strip_prefix('{') {
            Some(group) => top_level(group),
            None => vec![rest],
        };
        for item in inner {
            let name: String = item
                .trim_start()
                .chars()
                .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                .collect();
            if !name.is_empty() {
                names.push((number, name));
            }
        }
    }
    names
}

/// The items of a group, up to its closing brace. Braces in an item do not divide it.
fn top_level(group: &str) -> Vec<&str> {
    let (mut items, mut depth, mut begin) = (Vec::new(), 0_usize, 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[begin..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    items
}

/// The place of a module among the layers, from zero for those that all stand on.
fn height(module: &str) -> usize {
    if FACES.contains(&module) {
        return LAYERS.len() + 1;
    }
    LAYERS.iter().position(|layer| *layer == module).map_or(0, |place| place + 1)
}

#[test]
fn each_layer_names_only_those_below() {
    let mut problems = Vec::new();
    let sources = files("gen_durable/src", "rs");
    let modules: BTreeSet<String> = sources.iter().map(module).collect();
    for file in sources {
        let own = module(&file);
        for (number, name) in names(&file) {
            // A layer names modules. A name that the root re-exports would hide its layer.
            if height(&own) <= LAYERS.len() && !modules.contains(&name) {
                problems.push(format!("{}:{number}: `crate::{name}` is no module", file.path));
            }
            if height(&name) > height(&own) {
                problems.push(format!("{}:{number}: `{own}` stands below `{name}`", file.path));
            }
        }
    }
    check(&problems);
}

/// These parts of the engine take what they need. They would form a circle with what owns them all.
#[test]
fn the_parts_of_an_engine_do_not_know_the_whole() {
    let parts = ["flusher", "listener", "unblock", "wake", "life", "lease", "slots"];
    let mut problems = Vec::new();
    for file in files("gen_durable/src/engine", "rs") {
        let path = file.path.trim_start_matches("gen_durable/src/engine/");
        let part = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
        for (number, line) in file.lines().filter(|_| parts.contains(&part)) {
            if line.split("//").next().unwrap_or_default().contains("Shared") {
                problems.push(format!("{}:{number}: `{part}` knows `Shared`", file.path));
            }
        }
    }
    check(&problems);
}

/// A circle of modules has no lowest one, so nobody can read it bottom up.
#[test]
fn no_modules_form_a_circle() {
    let sources = files("gen_durable/src", "rs");
    let modules: BTreeSet<String> = sources.iter().map(module).collect();
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in &sources {
        let own = module(file);
        let named = names(file).into_iter().map(|(_, name)| name);
        let others = named.filter(|name| *name != own && modules.contains(name));
        needs.entry(own.clone()).or_default().extend(others);
    }
    let engine = ["client", "machine", "storage"].map(str::to_owned);
    assert!(engine.iter().all(|layer| needs["engine"].contains(layer)), "names are found");
    // A module goes when all that it needs has gone; what is left at the end is a circle.
    loop {
        let free = needs.iter().find(|(_, needed)| needed.iter().all(|m| !needs.contains_key(m)));
        let Some((module, _)) = free else { break };
        let module = module.clone();
        needs.remove(&module);
    }
    let problems: Vec<String> =
        needs.iter().map(|(module, needed)| format!("{module} needs {needed:?}")).collect();
    check(&problems);
}

#[test]
fn the_names_after_crate_are_found() {
    let file = File {
        path: "gen_durable/src/client/mod.rs".to_owned(),
        text: "use crate::{\n    a::{B, C},\n    d,\n};\n// crate::e\nfn f() { crate::g::h() }\n\
               macro_rules! m { () => { $crate::k } }"
            .to_owned(),
    };
    assert_eq!(module(&file), "client");
    let found: Vec<String> = names(&file).into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, ["a", "d", "g"]);
}
