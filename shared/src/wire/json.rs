//! A JSON object from outside, read field by field, so that every error names its field.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::wire::error::{ErrorKind, Invalid};

/// The fields of one JSON object, each still as it was sent. Unknown fields are ignored, and a field that is
/// `null` counts as absent.
#[derive(Debug)]
pub struct Object<'a> {
    /// Where the object stands in the body: empty for the body itself, else `outer.` .
    prefix: String,
    fields: HashMap<String, &'a RawValue>,
}

/// UTF-8's byte order mark, which some editors and shells write before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How every body begins that gzip compressed.
pub(super) const GZIP: &[u8] = b"\x1f\x8b";

/// What a body is that is not JSON: most of those that arrive are one of these.
fn not_json(body: &[u8], error: &serde_json::Error) -> ErrorKind {
    let problem: Cow<'static, str> = match body {
        body if body.starts_with(GZIP) => {
            return ErrorKind::UnsupportedMediaType("compressed bodies are not read");
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [_, 0, ..] | [0, _, ..] => {
            "must be JSON in UTF-8, not UTF-16".into()
        }
        _ if std::str::from_utf8(body).is_err() => "must be JSON in UTF-8".into(),
        [first, ..] if first.is_ascii_alphabetic() && body.contains(&b'=') => {
            "must be JSON: a form is not read, send JSON".into()
        }
        _ => format!("must be JSON: {error}").into(),
    };
    Invalid::new("body", problem).into()
}

/// A body that is JSON, or empty; whether it is what the route wants is still to be seen.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(Option<&'a RawValue>);

impl<'a> Json<'a> {
    /// Reads a body's syntax alone. A byte order mark before it is skipped.
    ///
    /// # Errors
    /// The body is neither empty nor JSON: it says what it looks like, and where it ends to be JSON.
    pub fn parse(body: &'a [u8]) -> Result<Self, ErrorKind> {
        let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        if body.is_empty() {
            return Ok(Self(None));
        }
        serde_json::from_slice(body).map(|value| Self(Some(value))).map_err(|error| not_json(body, &error))
    }

    /// The body as an object. An empty one is read as an object without fields.
    ///
    /// # Errors
    /// The body is another JSON value.
    pub fn object(self) -> Result<Object<'a>, Invalid> {
        let fields = match self.0 {
            None => HashMap::new(),
            Some(value) => serde_json::from_str(value.get())
                .map_err(|_| Invalid::new("body", "must be a JSON object"))?,
        };
        Ok(Object { prefix: String::new(), fields })
    }
}

impl<'a> Object<'a> {
    /// Reads a whole body. An empty one is read as an object without fields.
    ///
    /// # Errors
    /// The body is not a JSON object.
    pub fn parse(body: &'a [u8]) -> Result<Self, ErrorKind> {
        Ok(Json::parse(body)?.object()?)
    }

    /// Reads a value that is JSON already.
    ///
    /// # Errors
    /// It is another value than an object.
    pub fn of(value: &'a RawValue) -> Result<Self, Invalid> {
        Json(Some(value)).object()
    }

    /// Refuses fields that the other contract spells otherwise: they would be ignored, and missed. Each pair is the
    /// spelling that is not read here, and the one that is.
    ///
    /// # Errors
    /// Names the field, and its spelling here.
    pub fn refuse_spellings(&self, spellings: &[(&str, &str)]) -> Result<(), Invalid> {
        let found =
            spellings.iter().find(|(wrong, _)| self.raw(wrong).is_some_and(|raw| raw.get() != "null"));
        match found {
            Some((wrong, right)) => Err(self.invalid(wrong, format!("is not read here: send {right}"))),
            None => Ok(()),
        }
    }

    /// The name of a field as errors give it: with the names of the objects around it.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// An error about one of this object's fields.
    #[must_use]
    pub fn invalid(&self, name: &str, problem: impl Into<Cow<'static, str>>) -> Invalid {
        Invalid::new(self.path(name), problem)
    }

    /// The field as it was sent, `null` included.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.fields.get(name).copied()
    }

    /// Whether the field is there, `null` included.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    fn read<T: Deserialize<'a>>(&self, name: &str, expected: &'static str) -> Result<Option<T>, Invalid> {
        match self.raw(name) {
            None => Ok(None),
            Some(raw) => serde_json::from_str(raw.get()).map_err(|_| self.invalid(name, expected)),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// The field is something else.
    pub fn string(&self, name: &str) -> Result<Option<String>, Invalid> {
        self.read(name, "must be a string")
    }

    /// A whole number of at least zero, also if it is written with a fraction of nothing: `60.0`.
    ///
    /// # Errors
    /// The field is something else.
    pub fn whole_number(&self, name: &str) -> Result<Option<u64>, Invalid> {
        match self.read(name, EXPECTS_WHOLE_NUMBER) {
            Err(invalid) => match self.number(name) {
                Ok(Some(number)) => whole(number).map(Some).ok_or(invalid),
                _ => Err(invalid),
            },
            read => read,
        }
    }

    /// A number. JSON knows larger ones than a float does: they count as the largest.
    ///
    /// # Errors
    /// The field is something else.
    pub fn number(&self, name: &str) -> Result<Option<f64>, Invalid> {
        let Some(raw) = self.raw(name).map(RawValue::get).filter(|raw| *raw != "null") else {
            return Ok(None);
        };
        let number: f64 = raw.parse().map_err(|_| self.invalid(name, "must be a number"))?;
        Ok(Some(number.clamp(f64::MIN, f64::MAX)))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// The field is something else.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, Invalid> {
        self.read(name, "must be true or false")
    }

    /// A UUID, as a string.
    ///
    /// # Errors
    /// The field is something else.
    pub fn uuid(&self, name: &str) -> Result<Option<Uuid>, Invalid> {
        const EXPECTED: &str = "must be a UUID";
        let text: Option<String> = self.read(name, EXPECTED)?;
        text.map(|text| Uuid::parse_str(&text).map_err(|_| self.invalid(name, EXPECTED))).transpose()
    }

    /// An object in the object.
    ///
    /// # Errors
    /// The field is something else.
    pub fn object(&self, name: &str) -> Result<Option<Self>, Invalid> {
        let fields = self.read(name, "must be a JSON object")?;
        Ok(fields.map(|fields| Self { prefix: format!("{}.", self.path(name)), fields }))
    }

    /// A list, each element still as it was sent.
    ///
    /// # Errors
    /// The field is something else.
    pub fn list(&self, name: &str) -> Result<Option<Vec<&'a RawValue>>, Invalid> {
        self.read(name, "must be a list")
    }

    /// One element of a list, as an object.
    ///
    /// # Errors
    /// The element is something else.
    pub fn element(&self, name: &str, index: usize, raw: &'a RawValue) -> Result<Self, Invalid> {
        let path = self.path(&format!("{name}[{index}]"));
        match serde_json::from_str(raw.get()) {
            Ok(fields) => Ok(Self { prefix: format!("{path}."), fields }),
            Err(_) => Err(Invalid::new(path, "must be a JSON object")),
        }
    }
}

const EXPECTS_WHOLE_NUMBER: &str = "must be a whole number";

/// The largest number below which a float holds every whole number.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// A number as a whole one, if it is one.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is whole, and within the bounds"
)]
pub fn whole(number: f64) -> Option<u64> {
    (number.fract() == 0.0 && (0.0..LARGEST_EXACT).contains(&number)).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_field_with_the_objects_around_it() {
        let body = br#"{"heartbeatConfig": {"intervalSeconds": "60"}, "events": [1]}"#;
        let object = Object::parse(body).unwrap();
        let config = object.object("heartbeatConfig").unwrap().unwrap();
        let error = config.whole_number("intervalSeconds").unwrap_err();
        assert_eq!(error.to_string(), "heartbeatConfig.intervalSeconds: must be a whole number");
        let events = object.list("events").unwrap().unwrap();
        let error = object.element("events", 0, events[0]).unwrap_err();
        assert_eq!(error.to_string(), "events[0]: must be a JSON object");
    }

    #[test]
    fn null_counts_as_absent() {
        let object = Object::parse(br#"{"name": null}"#).unwrap();
        assert_eq!(object.string("name").unwrap(), None);
    }

    #[test]
    fn a_body_that_is_no_object_is_refused() {
        for body in [&b"[]"[..], b"1", b"null", b"{", b"\xff", b"{} {}"] {
            assert!(Object::parse(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn whole_numbers_are_not_rounded_or_wrapped() {
        let read = |number: &str| {
            let body = format!(r#"{{"n": {number}}}"#);
            Object::parse(body.as_bytes()).unwrap().whole_number("n").ok()
        };
        for number in ["-1", "1.5", "1e300", "18446744073709551616", "true", "\"1\""] {
            assert_eq!(read(number), None, "{number}");
        }
        for (number, whole) in [("60.0", 60), ("1e3", 1_000), ("-0.0", 0), ("18446744073709551615", u64::MAX)]
        {
            assert_eq!(read(number), Some(Some(whole)), "{number}");
        }
    }
}
