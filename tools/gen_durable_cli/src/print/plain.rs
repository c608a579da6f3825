//! Makes text harmless for a terminal.
//!
//! Invariant: the result has no control character, and nothing that changes the direction of the
//! text around it.

use std::borrow::Cow;

/// Replaces control characters by their escapes, as Rust writes them: `\n`, `\u{1b}`.
///
/// A name or an error could otherwise move the cursor, change the terminal's title, or hide what
/// stands beside it.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_harmful(letter) {
            escaped.extend(letter.escape_default());
        } else {
            escaped.push(letter);
        }
    }
    Cow::Owned(escaped)
}

/// True for a character that a terminal obeys instead of printing it, and for one that turns or
/// breaks the line around it.
pub(super) fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(plain("order 42 – größer"), "order 42 – größer");
        assert_eq!(plain("a\nb\tc"), r"a\nb\tc");
        assert_eq!(plain("\u{1b}[31mred\u{9b}0m\u{7}"), r"\u{1b}[31mred\u{9b}0m\u{7}");
        assert_eq!(plain("left\u{202e}thgir"), r"left\u{202e}thgir");
    }
}
