//! Links within the console.
//!
//! Invariant: whatever a name is, it stands percent-encoded in a query, and never in a path. A name
//! such as `..` or `a/b` would not survive there: browsers and proxies rewrite paths.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A query: names and values, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    #[expect(clippy::needless_pass_by_value, reason = "a number is given by value")]
    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.push((name, value.to_string()));
        self
    }

    pub(crate) fn maybe(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(crate) fn pairs(&self) -> &[(&'static str, String)] {
        &self.0
    }

    /// Returns the path with this query.
    pub(crate) fn on(&self, path: &str) -> String {
        let mut url = path.to_owned();
        for (index, (name, value)) in self.0.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            // Writing to a text cannot fail.
            let _ = write!(url, "{name}={}", utf8_percent_encode(value, KEPT));
        }
        url
    }
}

/// The names and values of a request's query or form, as they were decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(pub(crate) Vec<(String, String)>);

impl Params {
    /// Returns a value. An empty one counts as absent: a form sends one for each blank field.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(crate) fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// Returns a value that must be of this type, if it is given.
    pub(crate) fn read<T: std::str::FromStr>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, BadParam> {
        let read = |text: &str| text.trim().parse().map_err(|_| BadParam(name));
        self.get(name).map(read).transpose()
    }

    /// Returns a value that must be given.
    pub(crate) fn need(&self, name: &'static str) -> Result<String, BadParam> {
        self.owned(name).ok_or(BadParam(name))
    }
}

/// A value that is missing, or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address has no usable value for `{0}`")]
pub(crate) struct BadParam(pub(crate) &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_are_encoded() {
        let query = Query::new().with("name", "a/b?c=d&e \"<script>#é").with("id", i64::MAX);
        assert_eq!(
            query.on("/machine"),
            "/machine?name=a%2Fb%3Fc%3Dd%26e%20%22%3Cscript%3E%23%C3%A9&id=9223372036854775807"
        );
        assert_eq!(Query::new().maybe("none", None::<u8>).on("/x"), "/x");
    }

    #[test]
    fn an_empty_value_counts_as_not_given() {
        let params = Params(vec![("a".into(), String::new()), ("b".into(), "x".into())]);
        assert_eq!((params.get("a"), params.get("b")), (None, Some("x")));
        assert_eq!(params.read::<i64>("b"), Err(BadParam("b")));
        assert_eq!(params.read::<i64>("c"), Ok(None));
    }
}
