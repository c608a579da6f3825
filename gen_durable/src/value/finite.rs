//! A serialiser that refuses numbers which JSON cannot hold: NaN and the infinities.
//!
//! `serde_json` writes them as `null`, and reads that back as another value or not at all. Nothing
//! in the text tells such a `null` from another, so they are refused while the value is written.
//! After any error, the path to its place is known.
//!
//! Invariant: everything but floats passes through unchanged.

use std::{cell::RefCell, fmt};

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// The text of the error, which tells it from those of a type's own `Serialize`.
pub(super) const NOT_FINITE: &str = "a float is NaN or infinite";

/// The path to an error, from the innermost field outwards. It is empty while there is no error.
#[derive(Default)]
pub(super) struct Path(RefCell<Vec<Part>>);

enum Part {
    Name(&'static str),
    Key(String),
    Index(usize),
}

impl Path {
    fn add(&self, part: Part) {
        self.0.borrow_mut().push(part);
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.borrow();
        if parts.is_empty() {
            return f.write_str(".");
        }
        for (index, part) in parts.iter().rev().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            match part {
                Part::Name(name) => write!(f, "{dot}{name}")?,
                Part::Key(key) => write!(f, "{dot}{key}")?,
                Part::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A serialiser that wraps another one.
pub(super) struct Finite<'p, S> {
    to: S,
    path: &'p Path,
}

impl<'p, S> Finite<'p, S> {
    pub(super) fn new(to: S, path: &'p Path) -> Self {
        Self { to, path }
    }

    fn within<'v, T: ?Sized>(&self, value: &'v T) -> Within<'v, 'p, T> {
        Within { value, path: self.path }
    }

    fn finite<E: Error>(is_finite: bool) -> Result<(), E> {
        if is_finite { Ok(()) } else { Err(E::custom(NOT_FINITE)) }
    }
}

/// A value inside of another one, which is serialised by the same rule.
struct Within<'v, 'p, T: ?Sized> {
    value: &'v T,
    path: &'p Path,
}

impl<T: Serialize + ?Sized> Serialize for Within<'_, '_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Finite::new(serializer, self.path))
    }
}

/// The serialiser of the values inside of a sequence, a tuple, a map or a struct.
pub(super) struct Elements<'p, S> {
    to: S,
    path: &'p Path,
    index: usize,
}

macro_rules! passes {
    ($($function:ident($($name:ident: $value:ty),*))*) => {$(
        fn $function(self $(, $name: $value)*) -> Result<S::Ok, S::Error> {
            self.to.$function($($name),*)
        }
    )*};
}

macro_rules! opens {
    ($($function:ident($($name:ident: $value:ty),*) -> $kind:ident;)*) => {$(
        fn $function(self $(, $name: $value)*) -> Result<Self::$kind, S::Error> {
            Ok(Elements { to: self.to.$function($($name),*)?, path: self.path, index: 0 })
        }
    )*};
}

impl<'p, S: Serializer> Serializer for Finite<'p, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Elements<'p, S::SerializeSeq>;
    type SerializeTuple = Elements<'p, S::SerializeTuple>;
    type SerializeTupleStruct = Elements<'p, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Elements<'p, S::SerializeTupleVariant>;
    type SerializeMap = Elements<'p, S::SerializeMap>;
    type SerializeStruct = Elements<'p, S::SerializeStruct>;
    type SerializeStructVariant = Elements<'p, S::SerializeStructVariant>;

    passes! {
        serialize_bool(v: bool) serialize_char(v: char) serialize_str(v: &str)
        serialize_bytes(v: &[u8]) serialize_i8(v: i8) serialize_i16(v: i16) serialize_i32(v: i32)
        serialize_i64(v: i64) serialize_i128(v: i128) serialize_u8(v: u8) serialize_u16(v: u16)
        serialize_u32(v: u32) serialize_u64(v: u64) serialize_u128(v: u128) serialize_none()
        serialize_unit() serialize_unit_struct(name: &'static str)
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str)
    }

    opens! {
        serialize_seq(len: Option<usize>) -> SerializeSeq;
        serialize_tuple(len: usize) -> SerializeTuple;
        serialize_tuple_struct(name: &'static str, len: usize) -> SerializeTupleStruct;
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, len: usize)
            -> SerializeTupleVariant;
        serialize_map(len: Option<usize>) -> SerializeMap;
        serialize_struct(name: &'static str, len: usize) -> SerializeStruct;
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, len: usize)
            -> SerializeStructVariant;
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        Self::finite(value.is_finite())?;
        self.to.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        Self::finite(value.is_finite())?;
        self.to.serialize_f64(value)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let value = self.within(value);
        self.to.serialize_some(&value)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = self.within(value);
        self.to.serialize_newtype_struct(name, &value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = self.within(value);
        self.to
            .serialize_newtype_variant(name, index, variant, &value)
            .inspect_err(|_| self.path.add(Part::Name(variant)))
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.to.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.to.is_human_readable()
    }
}

macro_rules! elements {
    ($($kind:ident: $function:ident)*) => {$(
        impl<S: $kind> $kind for Elements<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn $function<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                let index = self.index;
                self.index += 1;
                self.to
                    .$function(&Within { value, path: self.path })
                    .inspect_err(|_| self.path.add(Part::Index(index)))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.to.end()
            }
        }
    )*};
}

elements! {
    SerializeSeq: serialize_element
    SerializeTuple: serialize_element
    SerializeTupleStruct: serialize_field
    SerializeTupleVariant: serialize_field
}

macro_rules! fields {
    ($($kind:ident)*) => {$(
        impl<S: $kind> $kind for Elements<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), S::Error> {
                self.to
                    .serialize_field(key, &Within { value, path: self.path })
                    .inspect_err(|_| self.path.add(Part::Name(key)))
            }

            fn skip_field(&mut self, key: &'static str) -> Result<(), S::Error> {
                self.to.skip_field(key)
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.to.end()
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

impl<S: SerializeMap> SerializeMap for Elements<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.to.serialize_key(&Within { value: key, path: self.path })
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let index = self.index;
        self.index += 1;
        self.to
            .serialize_value(&Within { value, path: self.path })
            .inspect_err(|_| self.path.add(Part::Index(index)))
    }

    fn serialize_entry<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &V,
    ) -> Result<(), S::Error> {
        let path = self.path;
        self.to
            .serialize_entry(&Within { value: key, path }, &Within { value, path })
            .inspect_err(|_| path.add(Part::Key(text(key))))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.to.end()
    }
}

/// Returns a map's key as it stands in a path.
fn text<K: Serialize + ?Sized>(key: &K) -> String {
    let text = serde_json::to_string(key).unwrap_or_else(|_| "?".to_owned());
    text.trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(serde::Serialize)]
    enum Kind {
        Pair(f64, Option<f64>),
        Named { at: BTreeMap<u8, Vec<f32>> },
        One(f64),
    }

    fn path(value: &impl Serialize) -> String {
        let path = Path::default();
        let mut writer = serde_json::Serializer::new(Vec::new());
        match value.serialize(Finite::new(&mut writer, &path)) {
            Ok(()) => "written".to_owned(),
            Err(error) => {
                assert_eq!(error.to_string(), NOT_FINITE);
                path.to_string()
            }
        }
    }

    #[test]
    fn the_path_leads_to_the_number() {
        let nan = f64::NAN;
        assert_eq!(path(&nan), ".");
        assert_eq!(path(&(1, [Some(1.0), Some(nan)])), "[1][1]");
        assert_eq!(path(&Kind::Pair(1.0, Some(nan))), "[1]");
        let at = [(1, vec![1.0]), (2, vec![1.0, f32::INFINITY])].into();
        assert_eq!(path(&Some(Kind::Named { at })), "at.2[1]");
        assert_eq!(path(&Kind::One(nan)), "One");
        assert_eq!(path(&Kind::Pair(1.0, None)), "written");
    }
}
