//! Messages of type `sample`: a JSON map from name to value, in which each name occurs once.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::{Extracted, ReferenceValueError, malformed, shorten};

pub(super) fn extract(payload: &[u8]) -> Result<Extracted, ReferenceValueError> {
    let Entries(entries) = serde_json::from_slice(payload)
        .map_err(|e| malformed(format!("payload is not a JSON map: {e}")))?;
    let mut values = Extracted::new();
    for (name, value) in entries {
        if values.contains_key(&name) {
            return Err(ReferenceValueError::Duplicate {
                name: shorten(&name),
            });
        }
        values.insert(name, value);
    }
    Ok(values)
}

/// The members in their order: a map would let the last of one name win.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from name to value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            if entries.len() >= MAX_ENTRIES {
                return Err(A::Error::custom("too many members"));
            }
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

/// More than a message may have: how many there are is said by whoever counts the values.
const MAX_ENTRIES: usize = 10_000;
