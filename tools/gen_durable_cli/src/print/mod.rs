//! The output: tables for people, JSON for programs, ids for pipes.
//!
//! Invariant: text that a database stores passes [`plain`], or JSON's escapes, before it is
//! printed.

mod json;
mod plain;
mod table;

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    time::SystemTime,
};

pub(crate) use self::{
    json::Object,
    plain::plain,
    table::{Cell, Style, Table, left, maybe, right},
};
use crate::{failure::Failure, when};

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    // No documentation comments: they would take ten lines of each command's help.
    Table,
    Json,
    Ids,
}

/// Standard output.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) format: Format,
    pub(crate) now: SystemTime,
    look: Look,
    stdout: BufWriter<io::Stdout>,
}

/// The abilities of the place to which a table is printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) colour: bool,
    /// The width of the terminal, in columns; none if it is no terminal.
    pub(crate) width: Option<usize>,
}

impl Look {
    /// The look of something that is or is not a terminal.
    fn of(terminal: bool, size: Option<(terminal_size::Width, terminal_size::Height)>) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: terminal && !dumb && set("NO_COLOR").is_none(),
            width: size.filter(|_| terminal).map(|(width, _)| width.0.into()),
        }
    }

    pub(crate) fn stdout() -> Self {
        Self::of(io::stdout().is_terminal(), terminal_size::terminal_size_of(io::stdout()))
    }

    pub(crate) fn stderr() -> Self {
        Self::of(io::stderr().is_terminal(), terminal_size::terminal_size_of(io::stderr()))
    }
}

impl Out {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            now: SystemTime::now(),
            look: Look::stdout(),
            stdout: BufWriter::new(io::stdout()),
        }
    }

    /// Prints a line as it is.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.stdout, "{text}")?;
        // A reader of a pipe sees each line as soon as it is there.
        Ok(self.stdout.flush()?)
    }

    /// Prints text as it is: a script or a diagram.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.stdout.write_all(text.as_bytes())?;
        Ok(self.stdout.flush()?)
    }

    /// Prints a table.
    pub(crate) fn table(&mut self, table: &Table) -> Result<(), Failure> {
        let text = table.render(self.look);
        self.text(&text)
    }

    /// Prints things: in the table, as JSON lines, or the ids alone.
    pub(crate) fn things<T>(
        &mut self,
        things: &[T],
        mut table: Table,
        row: impl Fn(&T) -> Vec<Cell>,
        json: impl Fn(&T) -> Object,
        id: impl Fn(&T) -> Option<i64>,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => {
                for thing in things {
                    table.row(row(thing));
                }
                self.table(&table)
            }
            Format::Json => {
                let lines: String = things.iter().map(|thing| json(thing).line()).collect();
                self.text(&lines)
            }
            Format::Ids => {
                for id in things.iter().filter_map(id) {
                    writeln!(self.stdout, "{id}")?;
                }
                Ok(self.stdout.flush()?)
            }
        }
    }

    /// Prints one answer: a sentence, a JSON line, or an id.
    pub(crate) fn answer(
        &mut self,
        said: &str,
        json: impl FnOnce() -> Object,
        id: Option<i64>,
    ) -> Result<(), Failure> {
        match (self.format, id) {
            (Format::Table, _) => self.line(&plain(said)),
            (Format::Json, _) => self.text(&json().line()),
            (Format::Ids, Some(id)) => self.line(&id.to_string()),
            (Format::Ids, None) => Ok(()),
        }
    }

    /// Refuses `-o ids` for a command whose answer has none.
    pub(crate) fn no_ids(&self, command: &str) -> Result<(), Failure> {
        match self.format {
            Format::Ids => Err(Failure::usage(format!(
                "`{command}` shows no instances, so `-o ids` would print nothing; use `--json`"
            ))),
            _ => Ok(()),
        }
    }

    /// Returns a text in its colour, if the output has colours. The text must be harmless.
    pub(crate) fn styled(&self, text: &str, style: Style) -> String {
        style.on(text, self.look)
    }

    /// Prints a time for people.
    pub(crate) fn ago(&self, time: SystemTime) -> Cell {
        Cell::plain(when::relative(time, self.now))
    }

    /// The same, of a time that may be missing.
    pub(crate) fn ago_or_not(&self, time: Option<SystemTime>) -> Cell {
        time.map_or_else(Cell::empty, |time| self.ago(time))
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Says something beside the output, on standard error.
pub(crate) fn note(text: &str) {
    // Nobody reads it if standard error is gone.
    let _ = writeln!(io::stderr(), "{}", plain(text));
}
