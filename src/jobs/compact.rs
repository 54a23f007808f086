//! A JSON object on one line in our own spelling, written while it is read.

use std::borrow::Cow;
use std::fmt;

use serde::de::DeserializeSeed;
use serde::de::Deserializer;
use serde::de::Error;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;

use crate::jobs::plain::is_plain_object;

/// Keys of one object that are compared with each other; an object with more goes the long way.
pub(super) const KEYS_MAX: usize = 16;

/// A JSON object on one line; `None` when it is none, is too large, or holds what JSON can't carry on.
///
/// Serialised again rather than passed through: line breaks between tokens would end an SSE frame early, and lone
/// surrogates or numbers beyond a double would break readers further down.
#[must_use]
pub fn compact_object(text: &str, bytes_max: usize) -> Option<Cow<'_, str>> {
    let line = if is_plain_object(text) { Cow::Borrowed(text) } else { Cow::Owned(rewritten(text)?) };
    (line.len() <= bytes_max).then_some(line)
}

fn rewritten(text: &str) -> Option<String> {
    let mut line = Vec::with_capacity(text.len());
    let mut reader = serde_json::Deserializer::from_str(text);
    let written = Line(&mut line).deserialize(&mut reader).and_then(|()| reader.end());
    match written {
        Ok(()) if line.first() == Some(&b'{') => String::from_utf8(line).ok(),
        Ok(()) => None,
        // Also what is no JSON at all; the long way says so again.
        Err(_) => by_value(text),
    }
}

/// The last of several equal keys counts, in the place of the first.
fn by_value(text: &str) -> Option<String> {
    let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    serde_json::to_string(&value).ok()
}

/// Writes the value that it is shown.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn write<E: Error>(self, value: impl serde::Serialize) -> Result<(), E> {
        serde_json::to_writer(self.0, &value).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Line<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Line<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.write(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.write(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.write(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.push(b'[');
        let first = self.0.len();
        loop {
            let comma = self.0.len();
            if comma > first {
                self.0.push(b',');
            }
            if items.next_element_seed(Line(&mut *self.0))?.is_none() {
                self.0.truncate(comma);
                self.0.push(b']');
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.push(b'{');
        let (first, mut keys, mut count) = (self.0.len(), [(0, 0); KEYS_MAX], 0);
        loop {
            let comma = self.0.len();
            if comma > first {
                self.0.push(b',');
            }
            let from = self.0.len();
            if items.next_key_seed(Line(&mut *self.0))?.is_none() {
                self.0.truncate(comma);
                self.0.push(b'}');
                return Ok(());
            }
            let key = (from, self.0.len());
            let text = |(from, to): (usize, usize)| self.0.get(from..to);
            if keys.iter().take(count).any(|other| text(*other) == text(key)) {
                return Err(A::Error::custom("a key twice"));
            }
            *keys.get_mut(count).ok_or_else(|| A::Error::custom("many keys"))? = key;
            count += 1;
            self.0.push(b':');
            items.next_value_seed(Line(&mut *self.0))?;
        }
    }
}
