//! Tables for people: aligned by what a terminal shows, and cut to its width.
//!
//! Invariant: no line is wider than the terminal.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Look, plain};

/// The width below which a column is not cut while another one is wider.
const WIDTH_MIN: usize = 6;
/// The space between two columns.
const GAP: &str = "  ";

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    right: bool,
    /// It is left out if all its cells are empty.
    optional: bool,
}

/// A column of text.
pub(crate) fn left(title: &'static str) -> Column {
    Column { title, right: false, optional: false }
}

/// A column of numbers.
pub(crate) fn right(title: &'static str) -> Column {
    Column { title, right: true, optional: false }
}

/// A column of text that is left out if all its cells are empty.
pub(crate) fn maybe(title: &'static str) -> Column {
    Column { title, right: false, optional: true }
}

/// The colour of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Good,
    Bad,
    Warning,
    Busy,
    Title,
}

impl Style {
    /// Returns a text in this style, if the place has colours.
    pub(super) fn on(self, text: &str, look: Look) -> String {
        match self.code() {
            code if look.colour && !code.is_empty() => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            _ => text.to_owned(),
        }
    }

    /// Returns the parameter of the escape sequence that begins the style.
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Warning => "33",
            Self::Busy => "36",
            Self::Title => "1",
        }
    }
}

/// A cell of a table. Its text is harmless for a terminal.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn plain(text: impl AsRef<str>) -> Self {
        Self::styled(text, Style::Plain)
    }

    pub(crate) fn empty() -> Self {
        Self::plain("")
    }

    pub(crate) fn maybe(text: Option<impl AsRef<str>>) -> Self {
        text.map_or_else(Self::empty, Self::plain)
    }

    pub(crate) fn number(number: impl std::fmt::Display + Copy) -> Self {
        Self::plain(number.to_string())
    }

    pub(crate) fn styled(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: plain(text.as_ref()).into_owned(), style }
    }
}

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    has_titles: bool,
}

impl Table {
    pub(crate) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new(), has_titles: true }
    }

    /// A table of names and values, without titles.
    pub(crate) fn of_fields() -> Self {
        Self { has_titles: false, ..Self::new([left(""), left("")]) }
    }

    /// Adds a row, which has a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Adds a name and its value.
    pub(crate) fn field(&mut self, name: &str, value: Cell) {
        self.row(vec![Cell::styled(name, Style::Title), value]);
    }

    /// Prints the table, with its titles and one line for each row. A table without rows has only
    /// its titles.
    pub(crate) fn render(&self, look: Look) -> String {
        let shown: Vec<usize> = (0..self.columns.len()).filter(|at| self.is_shown(*at)).collect();
        let widths = self.widths(&shown, look.width);
        let mut text = String::new();
        if self.has_titles {
            let titles = self.columns.iter().map(|column| Cell::styled(column.title, Style::Title));
            self.line(&titles.collect::<Vec<_>>(), &shown, &widths, look, &mut text);
        }
        for row in &self.rows {
            self.line(row, &shown, &widths, look, &mut text);
        }
        text
    }

    fn is_shown(&self, at: usize) -> bool {
        !self.columns[at].optional || self.rows.iter().any(|row| !row[at].text.is_empty())
    }

    /// Returns the widths of the shown columns. Together they fit the terminal.
    fn widths(&self, shown: &[usize], max: Option<usize>) -> Vec<usize> {
        let of_column = |at: &usize| {
            let cells = self.rows.iter().map(|row| row[*at].text.width());
            let title = self.columns[*at].title.width();
            cells.max().unwrap_or(0).max(title)
        };
        let mut widths: Vec<usize> = shown.iter().map(of_column).collect();
        let Some(max) = max else { return widths };
        let room = max.saturating_sub(GAP.len() * widths.len().saturating_sub(1));
        // The widest column is cut first, as it loses least.
        while widths.iter().sum::<usize>() > room {
            let Some(widest) = widths.iter_mut().max() else { break };
            if *widest <= WIDTH_MIN {
                break;
            }
            *widest -= 1;
        }
        widths
    }

    fn line(
        &self,
        cells: &[Cell],
        shown: &[usize],
        widths: &[usize],
        look: Look,
        text: &mut String,
    ) {
        let mut left = look.width.unwrap_or(usize::MAX);
        for (place, (at, width)) in shown.iter().zip(widths).enumerate() {
            if place > 0 {
                if left <= GAP.len() {
                    break;
                }
                text.push_str(GAP);
                left -= GAP.len();
            }
            let (cell, width) = (&cells[*at], (*width).min(left));
            left -= width;
            let shown_text = cut(&cell.text, width);
            let pad = " ".repeat(width.saturating_sub(shown_text.width()));
            let is_last = place + 1 == shown.len();
            if self.columns[*at].right {
                text.push_str(&pad);
            }
            text.push_str(&cell.style.on(&shown_text, look));
            if !self.columns[*at].right && !is_last {
                text.push_str(&pad);
            }
        }
        text.push('\n');
    }
}

/// Cuts a text to a width, and marks the place with an ellipsis.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return Cow::Borrowed(text);
    }
    let mut left = width.saturating_sub(1);
    let kept = text.chars().take_while(|letter| {
        let wide = letter.width().unwrap_or(0);
        let fits = wide <= left;
        left = left.saturating_sub(wide);
        fits
    });
    let mut kept: String = kept.collect();
    if width > 0 {
        kept.push('…');
    }
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([right("ID"), left("KEY"), maybe("NOTE"), maybe("ERROR")]);
        let style = Cell::styled("bad\u{1b}", Style::Bad);
        table.row(vec![Cell::number(7), Cell::plain("注文 42"), Cell::empty(), style]);
        let long = Cell::plain("a long error that says a lot");
        table.row(vec![Cell::number(1234), Cell::plain("é"), Cell::empty(), long]);
        table
    }

    #[test]
    fn columns_are_aligned_by_what_a_terminal_shows() {
        let look = Look { colour: false, width: None };
        assert_eq!(
            table().render(look),
            "  ID  KEY      ERROR\n   7  注文 42  bad\\u{1b}\n1234  é        a long error that says a lot\n"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in 1..60 {
            let text = table().render(Look { colour: false, width: Some(width) });
            for line in text.lines() {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
        let text = table().render(Look { colour: false, width: Some(30) });
        assert!(text.contains("1234  é        a long error t…"), "{text}");
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let text = table().render(Look { colour: true, width: Some(30) });
        assert!(text.contains("\u{1b}[31mbad\\u{1b}\u{1b}[0m"), "{text}");
    }
}
