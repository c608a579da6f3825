//! JSON objects, with their fields in the order in which they are written.
//!
//! Invariant: an object is one line, and no control character in it is raw.

use std::{fmt::Write, time::SystemTime};

use serde_json::Value;

use super::plain::is_harmful;
use crate::when;

/// A JSON object.
#[derive(Clone, Debug)]
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Self(String::new())
    }

    /// Adds a field.
    pub(crate) fn with(self, name: &str, value: impl Into<Value>) -> Self {
        let value: Value = value.into();
        self.raw(name, &value.to_string())
    }

    /// Adds a time, or null.
    pub(crate) fn time(self, name: &str, time: impl Into<Option<SystemTime>>) -> Self {
        self.with(name, time.into().map(when::stamp))
    }

    /// Adds a value that is JSON already, such as a stored state.
    pub(crate) fn raw(mut self, name: &str, json: &str) -> Self {
        let comma = if self.0.is_empty() { "" } else { "," };
        let name = Value::from(name);
        let _ = write!(self.0, "{comma}{name}:{json}");
        self
    }

    /// Adds an object, or null.
    pub(crate) fn object(self, name: &str, object: Option<Self>) -> Self {
        let text = object.map_or_else(|| "null".to_owned(), |object| object.text());
        self.raw(name, &text)
    }

    /// Adds an array of objects.
    pub(crate) fn objects(self, name: &str, objects: impl IntoIterator<Item = Self>) -> Self {
        let texts: Vec<String> = objects.into_iter().map(|object| object.text()).collect();
        self.raw(name, &format!("[{}]", texts.join(",")))
    }

    fn text(&self) -> String {
        format!("{{{}}}", self.0)
    }

    /// Returns the object as a line.
    pub(crate) fn line(&self) -> String {
        let text = self.text();
        let mut line = String::with_capacity(text.len() + 1);
        for letter in text.chars() {
            match letter {
                // Outside of strings it is white space, and strings have none that is raw.
                '\n' | '\r' | '\t' => line.push(' '),
                // Inside of a string, where alone it can be, this is the same character.
                letter if is_harmful(letter) => {
                    let mut units = [0; 2];
                    for unit in letter.encode_utf16(&mut units) {
                        let _ = write!(line, "\\u{unit:04x}");
                    }
                }
                letter => line.push(letter),
            }
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_one_line_of_json() {
        let object = Object::new()
            .with("id", 7)
            .with("key", Some("a\u{1b}\"\u{9b}\u{202e}"))
            .raw("state", "{\n\t\"n\": 12345678901234567890123}")
            .time("at", None)
            .object("worker", Some(Object::new().with("id", 1)))
            .objects("pauses", []);
        let line = object.line();
        assert_eq!(
            line,
            "{\"id\":7,\"key\":\"a\\u001b\\\"\\u009b\\u202e\",\
             \"state\":{  \"n\": 12345678901234567890123},\"at\":null,\"worker\":{\"id\":1},\
             \"pauses\":[]}\n"
        );
        let read: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["key"], "a\u{1b}\"\u{9b}\u{202e}");
    }
}
