//! The file of golden samples: one machine, an entry for each version.
//!
//! Invariant: the file is locked from reading to writing, so tests that share it add to it one
//! after another.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shape;

/// The samples of a version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) steps: Vec<String>,
    pub(super) states: Vec<Sample>,
    pub(super) signals: BTreeMap<String, Vec<Value>>,
    pub(super) outputs: Vec<Value>,
}

/// A state, and the step at which an instance has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sample {
    pub(super) step: String,
    pub(super) state: Value,
}

impl Entry {
    /// Adds those of today's samples whose shape the entry does not have.
    pub(super) fn extended(mut self, today: &Self) -> Self {
        if self.steps.is_empty() {
            self.steps.clone_from(&today.steps);
        }
        for sample in &today.states {
            let known = |other: &Sample| {
                other.step == sample.step && shape::of(&other.state) == shape::of(&sample.state)
            };
            if !self.states.iter().any(known) {
                self.states.push(sample.clone());
            }
        }
        for (name, payloads) in &today.signals {
            extend(self.signals.entry(name.clone()).or_default(), payloads);
        }
        extend(&mut self.outputs, &today.outputs);
        self
    }
}

fn extend(known: &mut Vec<Value>, today: &[Value]) {
    for value in today {
        if !known.iter().any(|other| shape::of(other) == shape::of(value)) {
            known.push(value.clone());
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    machine: String,
    versions: BTreeMap<u32, Entry>,
}

/// The file, open and locked.
#[derive(Debug)]
pub(super) struct Recorded {
    path: PathBuf,
    file: File,
    contents: Contents,
}

impl Recorded {
    /// Opens the file. If `writable` is true, it may be created.
    pub(super) fn open(path: &Path, machine: &str, writable: bool) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        if writable && let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let opened =
            File::options().read(true).write(writable).create(writable).truncate(false).open(path);
        let mut file = match opened {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!(
                    "machine `{machine}`: the file of golden samples is missing: {}\n\
                     Run this test where the variable `CI` is not set: it writes the file. Then commit it.",
                    path.display()
                ));
            }
            opened => opened.map_err(failed)?,
        };
        file.lock().map_err(failed)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let contents = if text.is_empty() {
            Contents { machine: machine.to_owned(), versions: BTreeMap::new() }
        } else {
            serde_json::from_str(&text).map_err(|error| {
                format!("{} is no file of golden samples: {error}", path.display())
            })?
        };
        if contents.machine != machine {
            return Err(format!(
                "{} has the samples of the machine `{}`; give `{machine}` a file of its own",
                path.display(),
                contents.machine
            ));
        }
        Ok(Self { path: path.to_owned(), file, contents })
    }

    pub(super) fn version(&self, version: u32) -> Option<&Entry> {
        self.contents.versions.get(&version)
    }

    /// Writes the file with this entry.
    pub(super) fn write(mut self, version: u32, entry: Entry) -> Result<(), String> {
        self.contents.versions.insert(version, entry);
        let mut text = serde_json::to_string_pretty(&self.contents)
            .map_err(|error| format!("{}: {error}", self.path.display()))?;
        text.push('\n');
        let mut write = || {
            self.file.rewind()?;
            self.file.set_len(0)?;
            self.file.write_all(text.as_bytes())
        };
        write().map_err(|error| format!("{}: {error}", self.path.display()))
    }
}
