//! Encodes and decodes the values that a machine stores, and checks their stored form.
//!
//! Invariant: a value that [`encode`] accepts can be stored by Postgres as `json`, be cast to
//! `jsonb` by hand, and be read back by [`decode`]. Each value is read back at once. Some values
//! can be written by serde and not be read, though other values of their type can.

mod finite;

use serde::{Serialize, de::DeserializeOwned};

use self::finite::{Finite, NOT_FINITE, Path};
use crate::error::{DecodeError, EncodeError};

/// The most levels that arrays and objects may nest: the reader's own recursion limit.
const DEPTH_MAX: usize = 127;

/// JSON text that Postgres takes as `json`.
#[derive(Clone)]
pub(crate) struct Json(pub(crate) String);

impl Json {
    /// Refuses a value of more than `max` bytes.
    pub(crate) fn within(self, what: &'static str, max: usize) -> Result<Self, EncodeError> {
        let bytes = self.0.len();
        if bytes > max { Err(EncodeError::TooLarge { what, bytes, max }) } else { Ok(self) }
    }
}

/// Prints the length and no content, which may be confidential.
impl std::fmt::Debug for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Json({} bytes)", self.0.len())
    }
}

/// The most digits after the point of a number of `jsonb`.
const DECIMALS_MAX: i64 = 16_383;

/// The largest encoded value, in bytes, if no other limit is configured.
pub(crate) const VALUE_MAX: usize = 8 * 1024 * 1024;

/// Encodes a value and checks that it can be stored and read back.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(
    what: &'static str,
    value: &T,
    max: usize,
) -> Result<Json, EncodeError> {
    encode_and_read(what, value, max, 0).map(|(json, _)| json)
}

/// Encodes as [`encode`] does, and returns the value that was read back too. `likely` is the
/// expected length of the text in bytes, so that the text need not be moved as it grows.
pub(crate) fn encode_and_read<T: Serialize + DeserializeOwned>(
    what: &'static str,
    value: &T,
    max: usize,
    likely: usize,
) -> Result<(Json, T), EncodeError> {
    let text = write(what, value, max, likely)?;
    let read = read_back(what, &text)?;
    Ok((Json(text), read))
}

/// Encodes a value of a machine whose types are unknown here, and checks that it can be stored. It
/// may be JSON text (`serde_json::value::RawValue`), whose numbers keep all their digits.
pub(crate) fn encode_untyped<T: Serialize + ?Sized>(
    what: &'static str,
    value: &T,
    max: usize,
) -> Result<Json, EncodeError> {
    let text = write(what, value, max, 0)?;
    // The reader refuses numbers beyond the range of an `f64`. `jsonb` takes larger ones, and
    // refuses very small ones.
    read_back::<serde_json::Value>(what, &text)?;
    if decimals(&text) > DECIMALS_MAX {
        let reason = format!("a number has more than {DECIMALS_MAX} digits after its point");
        return Err(EncodeError::Unreadable { what, field: ".".to_owned(), reason });
    }
    Ok(Json(text))
}

/// Returns the most digits that a number of a JSON text has after its point, once its exponent is
/// written out: 1.5e-3 has four.
fn decimals(text: &str) -> i64 {
    let (mut most, mut rest) = (0, text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'"' => after_string(after),
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                let end = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
                most = most.max(decimals_of(&rest[..end]));
                &rest[end..]
            }
            _ => after,
        };
    }
    most
}

/// Returns what follows a string of JSON. Its first quote is not in `rest`.
fn after_string(mut rest: &[u8]) -> &[u8] {
    loop {
        rest = match rest {
            [b'"', after @ ..] => return after,
            [b'\\', _, after @ ..] | [_, after @ ..] => after,
            [] => return rest,
        }
    }
}

fn decimals_of(number: &[u8]) -> i64 {
    let exponent = number.iter().position(|byte| b"eE".contains(byte));
    let (digits, exponent) = number.split_at(exponent.unwrap_or(number.len()));
    let point = digits.iter().position(|&byte| byte == b'.').map_or(digits.len(), |at| at + 1);
    let fraction = i64::try_from(digits.len() - point).unwrap_or(i64::MAX);
    let exponent = match exponent {
        [] => Some(0),
        [_, exponent @ ..] => std::str::from_utf8(exponent).ok().and_then(|text| text.parse().ok()),
    };
    // An exponent that is no `i32` is too long for `jsonb` as well.
    exponent.map_or(i64::MAX, |exponent: i32| fraction - i64::from(exponent))
}

fn write<T: Serialize + ?Sized>(
    what: &'static str,
    value: &T,
    max: usize,
    likely: usize,
) -> Result<String, EncodeError> {
    let mut text = Vec::with_capacity(likely + likely / 8 + 128);
    let path = Path::default();
    let mut writer = serde_json::Serializer::new(&mut text);
    value.serialize(Finite::new(&mut writer, &path)).map_err(|error| {
        let (field, reason) = (path.to_string(), error.to_string());
        if reason == NOT_FINITE {
            EncodeError::NotFinite { what, field }
        } else {
            EncodeError::Serialize { what, reason: format!("field `{field}`: {reason}") }
        }
    })?;
    // JSON is always UTF-8, and the check is cheap.
    let text = String::from_utf8(text)
        .map_err(|source| EncodeError::Serialize { what, reason: source.to_string() })?;
    if text.len() > max {
        return Err(EncodeError::TooLarge { what, bytes: text.len(), max });
    }
    check_storable(what, &text)?;
    Ok(text)
}

fn read_back<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, EncodeError> {
    read(text).map_err(|Misfit { field, reason }| EncodeError::Unreadable { what, field, reason })
}

/// Refuses a text that a cast to `jsonb` or the reader would refuse later. It may hold a NUL
/// character, half of a surrogate pair (raw JSON text may have one), or nesting that is too deep.
fn check_storable(what: &'static str, text: &str) -> Result<(), EncodeError> {
    // Most texts have no escape, and fewer brackets than may nest. This check finds that out many
    // bytes at a time.
    if !text.contains('\\') && brackets(text) <= DEPTH_MAX {
        return Ok(());
    }
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut bytes = text.as_bytes().iter();
    while let Some(byte) = bytes.next() {
        match (in_string, byte) {
            // The escape's second byte is skipped, so `\\u0000` is not taken for a NUL.
            (true, b'\\') if bytes.next() == Some(&b'u') => match escaped(bytes.as_slice()) {
                Some(0) => return Err(EncodeError::Nul { what }),
                Some(0xd800..=0xdbff) => {
                    let low = bytes.as_slice()[4..].strip_prefix(b"\\u").and_then(escaped);
                    if !matches!(low, Some(0xdc00..=0xdfff)) {
                        return Err(EncodeError::Surrogate { what });
                    }
                    // The second half is skipped. By itself it would be refused.
                    bytes.nth(9);
                }
                Some(0xdc00..=0xdfff) => return Err(EncodeError::Surrogate { what }),
                _ => {}
            },
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(EncodeError::TooDeep { what, max: DEPTH_MAX });
                }
            }
            (false, b']' | b'}') => depth -= 1,
            _ => {}
        }
    }
    Ok(())
}

/// Reads the number of an escape `\u` from the bytes that follow it.
fn escaped(hex: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(hex.get(..4)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

/// Counts the brackets that open in a text, even those in strings.
fn brackets(text: &str) -> usize {
    // A chunk is so short that one byte holds its count. The compiler can then count many bytes at
    // once.
    let opens = |count: u8, byte: &u8| count + u8::from(matches!(byte, b'[' | b'{'));
    text.as_bytes().chunks(192).map(|chunk| usize::from(chunk.iter().fold(0, opens))).sum()
}

/// Decodes a stored value. An error names the field that does not fit.
pub(crate) fn decode<T: DeserializeOwned>(
    what: &str,
    machine: &'static str,
    version: u32,
    text: &str,
) -> Result<T, DecodeError> {
    read(text).map_err(|Misfit { field, reason }| DecodeError {
        what: what.to_owned(),
        machine,
        version,
        field,
        reason,
    })
}

/// The place and the reason for which a text does not fit a type.
struct Misfit {
    field: String,
    reason: String,
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Misfit> {
    // The fast reader does not track the path to a field. Only after an error the text is read
    // again, with the path.
    serde_json::from_str(text).map_err(|_| {
        let mut reader = serde_json::Deserializer::from_str(text);
        let (field, reason) = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            Err(error) => (error.path().to_string(), error.inner().to_string()),
            Ok(_) => (".".to_owned(), "trailing characters".to_owned()),
        };
        Misfit { field, reason: without_value(&reason) }
    })
}

/// Removes the value from serde's reason why it does not fit. Errors are logged, and stored values
/// may be confidential.
fn without_value(reason: &str) -> String {
    // The value may hold any text. The type's expectation comes last.
    let (found, expected) = match reason.rfind(", expected ") {
        Some(place) => reason.split_at(place),
        None => (reason, ""),
    };
    if found.starts_with("invalid type: ") || found.starts_with("invalid value: ") {
        let kind = found.split(['"', '`']).next().unwrap_or_default();
        format!("{}{expected}", kind.trim_end())
    } else if found.starts_with("unknown variant `") {
        format!("unknown variant{expected}")
    } else {
        reason.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), EncodeError> {
        check_storable("state", text)
    }

    #[test]
    fn nul_is_refused_and_an_escaped_backslash_is_not_mistaken_for_it() {
        assert!(matches!(check(r#"{"a":"\u0000"}"#), Err(EncodeError::Nul { .. })));
        assert!(matches!(check(r#"{"a\u0000":1}"#), Err(EncodeError::Nul { .. })));
        assert!(matches!(check(r#"["\\\u0000"]"#), Err(EncodeError::Nul { .. })));
        check(r#"{"a":"\\u0000"}"#).expect("a backslash and then u0000");
        check(r#"{"a":"\u0001 \" [[["}"#).expect("brackets in a string do not nest");
    }

    #[test]
    fn what_is_accepted_can_be_read_back() {
        let deepest = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        check(&deepest).expect("the deepest that is allowed");
        serde_json::from_str::<serde_json::Value>(&deepest).expect("can be read");
        let deeper = format!("[{deepest}]");
        assert!(matches!(check(&deeper), Err(EncodeError::TooDeep { .. })));
    }

    /// Brackets are counted a chunk at a time, so the lengths are near those of whole chunks too.
    #[test]
    fn brackets_are_counted_in_texts_of_any_length() {
        for len in [0, 1, 191, 192, 193, 255, 256, 257, 1000] {
            assert_eq!(brackets(&"[".repeat(len)), len);
            assert_eq!(brackets(&"]{a".repeat(len)), len);
        }
        // The nesting is deep, and begins far behind the beginning.
        let deeper =
            format!("[\"{}\",{}{}]", "a".repeat(500), "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        assert!(matches!(check(&deeper), Err(EncodeError::TooDeep { .. })));
    }

    /// The expected length of a text changes only how the text grows.
    #[test]
    fn a_text_may_be_shorter_or_longer_than_is_likely() {
        for likely in [0, 10, 5_000] {
            let text = "a".repeat(1_000);
            let (json, read) = encode_and_read("state", &text, 2_000, likely).expect("it fits");
            assert_eq!((json.0.len(), read), (1_002, text));
        }
        let error = encode("state", &"a".repeat(1_000), 1_000).expect_err("too large");
        assert!(matches!(error, EncodeError::TooLarge { bytes: 1_002, max: 1_000, .. }));
    }

    #[test]
    fn json_text_keeps_its_numbers() {
        let text = r#"{"n":18446744073709551617,"d":0.10000000000000000001,"e":1.50e-7}"#;
        let raw = serde_json::value::RawValue::from_string(text.to_owned()).expect("JSON");
        assert_eq!(encode_untyped("state", &raw, 100).expect("it can be stored").0, text);
        let value: serde_json::Value = serde_json::from_str("[1, null]").expect("JSON");
        assert_eq!(encode_untyped("state", &value, 100).expect("it can be stored").0, "[1,null]");
        let longest = format!("[0.{}, \"1e-9999999\", 5e-16383]", "1".repeat(16_383));
        let raw = serde_json::value::RawValue::from_string(longest.clone()).expect("JSON");
        assert_eq!(encode_untyped("state", &raw, 20_000).expect("it can be stored").0, longest);
        for (text, refused) in [
            ("[1e400]", "number out of range"),
            ("[1e-16384]", "16383 digits"),
            ("{\"a\\\"\":1.5E-16383}", "16383 digits"),
            ("[0e99999999999]", "16383 digits"),
            (r#"["\u0000"]"#, "NUL"),
            (r#"["\ud800"]"#, "surrogate"),
        ] {
            let raw = serde_json::value::RawValue::from_string(text.to_owned()).expect("JSON");
            let error = encode_untyped("state", &raw, 100).expect_err(text).to_string();
            assert!(error.contains(refused), "{error}");
        }
    }

    #[test]
    fn a_decode_error_names_the_field() {
        let error = decode::<Vec<Option<i64>>>("state", "m", 3, "[1, \"x\"]")
            .expect_err("a text is no number");
        assert_eq!(error.field, "[1]");
        assert!(error.to_string().contains("version 3"), "{error}");
        assert_eq!(error.reason, "invalid type: string, expected i64 at line 1 column 7");
    }

    #[test]
    fn a_reason_holds_no_value() {
        for (reason, kept) in [
            (
                "invalid type: string \"a, expected \\\"b\\\"\", expected u32",
                "invalid type: string, expected u32",
            ),
            ("invalid value: integer `300`, expected u8", "invalid value: integer, expected u8"),
            ("invalid type: null, expected a string", "invalid type: null, expected a string"),
            (
                "unknown variant `a`, expected b`, expected `X` or `Y`",
                "unknown variant, expected `X` or `Y`",
            ),
            ("unknown variant `a`, there are no variants", "unknown variant"),
            ("missing field `n`", "missing field `n`"),
        ] {
            assert_eq!(without_value(reason), kept);
        }
    }
}
