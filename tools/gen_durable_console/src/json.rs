//! JSON, laid out to be read.
//!
//! Invariant: every number and every text stays as it is stored, digit by digit. A parser would
//! round numbers beyond 2^53 and forget the order of keys.

/// The most bytes of a value that a page shows.
pub(crate) const SHOWN_MAX: usize = 64 * 1024;

/// Returns the text with a line for each element, and whether it was cut.
pub(crate) fn lay_out(json: &str) -> (String, bool) {
    let end = json.floor_char_boundary(SHOWN_MAX);
    let mut out = String::with_capacity(end + end / 4);
    let mut depth = 0_usize;
    let mut letters = json[..end].chars().peekable();
    let mut cut = end < json.len();
    while let Some(letter) = letters.next() {
        if out.len() > 4 * SHOWN_MAX {
            cut = true;
            break;
        }
        match letter {
            '"' => {
                out.push(letter);
                while let Some(inside) = letters.next() {
                    out.push(inside);
                    match inside {
                        '\\' => out.extend(letters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(letter);
                while letters.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(closing) = letters.next_if(|&next| next == '}' || next == ']') {
                    out.push(closing);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(letter);
            }
            ',' => {
                out.push(letter);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ if letter.is_ascii_whitespace() => {}
            _ => out.push(letter),
        }
    }
    (out, cut)
}

/// Begins a line. Deep values are not indented further: a hostile one would fill the memory.
fn line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth.min(16)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_as_they_are_stored() {
        let json =
            r#"{"n":9007199254740993,"e":1.50e-7,"t":"a \"{,}\" \\","l":[1, 2],"o":{},"x":[ ]}"#;
        let expected = "{
  \"n\": 9007199254740993,
  \"e\": 1.50e-7,
  \"t\": \"a \\\"{,}\\\" \\\\\",
  \"l\": [
    1,
    2
  ],
  \"o\": {},
  \"x\": []
}";
        assert_eq!(lay_out(json), (expected.to_owned(), false));
        assert_eq!(lay_out("null"), ("null".to_owned(), false));
    }

    #[test]
    fn long_and_deep_values_are_bounded() {
        let (shown, cut) = lay_out(&format!("\"{}\"", "é".repeat(SHOWN_MAX)));
        assert!(cut && shown.len() <= SHOWN_MAX);
        let (shown, cut) = lay_out(&"[".repeat(SHOWN_MAX + 1));
        assert!(cut && shown.len() < 6 * SHOWN_MAX);
    }
}
