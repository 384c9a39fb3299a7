//! As much of Protocol Buffers as ttRPC's messages use: varints, and fields with a length (protobuf's "Encoding" guide).
//!
//! What is written may be a secret, so it is wiped, and never moved to a larger piece of memory.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

/// The fields of a message, in its order.
#[derive(Debug)]
pub(crate) struct Fields<'a>(Vec<(u32, Value<'a>)>);

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of 32 or 64 bits, which no message here has.
    Fixed,
}

/// Why bytes are no message, or not the one that is expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Malformed {
    /// The end comes too early.
    #[error("the message ends in the middle of a field")]
    Cut,
    /// A varint of more than 64 bits, or a field without a number or of a type that is not used any more.
    #[error("a field has no proper number or type")]
    Tag,
    /// More fields than any message has a use for.
    #[error("the message has more than {MAX_FIELDS} fields")]
    Many,
    /// A field has another type.
    #[error("field {0} has another type than the interface gives it")]
    Type(u32),
    /// A text that is none.
    #[error("field {0} is not UTF-8")]
    Text(u32),
}

impl<'a> Fields<'a> {
    pub(crate) fn parse(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            if fields.len() >= MAX_FIELDS {
                return Err(Malformed::Many);
            }
            let tag = u32::try_from(varint(&mut bytes)?).map_err(|_| Malformed::Tag)?;
            let value = match tag & 7 {
                0 => Value::Number(varint(&mut bytes)?),
                1 => fixed(&mut bytes, 8)?,
                2 => {
                    let length = varint(&mut bytes)?;
                    let length = usize::try_from(length).map_err(|_| Malformed::Cut)?;
                    let (value, rest) = bytes.split_at_checked(length).ok_or(Malformed::Cut)?;
                    bytes = rest;
                    Value::Bytes(value)
                }
                5 => fixed(&mut bytes, 4)?,
                _ => return Err(Malformed::Tag),
            };
            match tag >> 3 {
                0 => return Err(Malformed::Tag),
                number => fields.push((number, value)),
            }
        }
        Ok(Self(fields))
    }

    /// The last value counts, as the format has it; what is not there is empty.
    pub(crate) fn bytes(&self, number: u32) -> Result<&'a [u8], Malformed> {
        self.all(number).last().unwrap_or(Ok(&[]))
    }

    pub(crate) fn text(&self, number: u32) -> Result<&'a str, Malformed> {
        text(number, self.bytes(number)?)
    }

    pub(crate) fn number(&self, number: u32) -> Result<Option<u64>, Malformed> {
        self.values(number)
            .map(|value| match value {
                Value::Number(value) => Ok(value),
                _ => Err(Malformed::Type(number)),
            })
            .last()
            .transpose()
    }

    pub(crate) fn texts(&self, number: u32) -> Result<Vec<&'a str>, Malformed> {
        self.all(number).map(|value| text(number, value?)).collect()
    }

    /// A `map<string, string>`.
    pub(crate) fn map(&self, number: u32) -> Result<BTreeMap<&'a str, &'a str>, Malformed> {
        self.all(number)
            .map(|entry| {
                let entry = Fields::parse(entry?)?;
                Ok((entry.text(1)?, entry.text(2)?))
            })
            .collect()
    }

    fn values(&self, number: u32) -> impl Iterator<Item = Value<'a>> {
        self.0
            .iter()
            .filter_map(move |(found, value)| (*found == number).then_some(*value))
    }

    fn all(&self, number: u32) -> impl Iterator<Item = Result<&'a [u8], Malformed>> {
        self.values(number).map(move |value| match value {
            Value::Bytes(value) => Ok(value),
            _ => Err(Malformed::Type(number)),
        })
    }
}

/// A message that is written.
#[derive(Default)]
pub(crate) struct Message(Zeroizing<Vec<u8>>);

impl Message {
    /// A message after so many bytes of something else.
    pub(crate) fn after(prefix: &[u8], room: usize) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(prefix.len().saturating_add(room)));
        bytes.extend_from_slice(prefix);
        Self(bytes)
    }

    #[must_use]
    pub(crate) fn bytes(mut self, number: u32, value: &[u8]) -> Self {
        self.make_room(value.len().saturating_add(MAX_HEAD));
        self.varint(u64::from(number) << 3 | 2);
        self.varint(u64::try_from(value.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(value);
        self
    }

    #[must_use]
    pub(crate) fn text(self, number: u32, value: &str) -> Self {
        self.bytes(number, value.as_bytes())
    }

    #[must_use]
    pub(crate) fn number(mut self, number: u32, value: u64) -> Self {
        self.make_room(MAX_HEAD);
        self.varint(u64::from(number) << 3);
        self.varint(value);
        self
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0
                .push(0x80 | u8::try_from(value & 0x7f).unwrap_or_default());
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or_default());
    }

    /// A vector that grows leaves its bytes behind.
    fn make_room(&mut self, more: usize) {
        if self.0.capacity().saturating_sub(self.0.len()) < more {
            let mut larger = Zeroizing::new(Vec::with_capacity(self.0.len().saturating_add(more)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
    }
}

fn text(number: u32, bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::Text(number))
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Malformed::Cut)?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::Tag)
}

fn fixed<'a>(bytes: &mut &'a [u8], length: usize) -> Result<Value<'a>, Malformed> {
    let (_, rest) = bytes.split_at_checked(length).ok_or(Malformed::Cut)?;
    *bytes = rest;
    Ok(Value::Fixed)
}

const MAX_FIELDS: usize = 4096;
/// Two varints of 64 bits.
const MAX_HEAD: usize = 20;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn message_is_not_read_as_it_was_written() {
        let entry = Message::default().text(1, "key").text(2, "value");
        let long = [7; 300];
        let message = Message::default()
            .text(1, "kbs:///a/b/c")
            .number(4, u64::MAX)
            .bytes(5, &long)
            .bytes(2, entry.as_bytes())
            .text(3, "one")
            .text(3, "two");
        let fields = Fields::parse(message.as_bytes()).unwrap();
        assert_eq!(fields.text(1), Ok("kbs:///a/b/c"));
        assert_eq!(fields.number(4), Ok(Some(u64::MAX)));
        assert_eq!(fields.bytes(5), Ok(long.as_slice()));
        assert_eq!(fields.map(2).unwrap().get("key"), Some(&"value"));
        assert_eq!(fields.texts(3).unwrap(), ["one", "two"]);
        assert_eq!((fields.text(9), fields.number(9)), (Ok(""), Ok(None)));
    }

    #[test]
    fn bytes_are_not_those_of_the_encoding_guide() {
        let message = Message::default().number(1, 150).text(2, "testing");
        assert_eq!(message.as_bytes(), b"\x08\x96\x01\x12\x07testing");
    }

    #[test]
    fn field_that_is_cut_or_has_no_number_is_taken() {
        for (bad, error) in [
            (b"\x0a".as_slice(), Malformed::Cut),
            (b"\x0a\x05abc", Malformed::Cut),
            (
                b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                Malformed::Cut,
            ),
            (
                b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
                Malformed::Tag,
            ),
            (
                b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                Malformed::Tag,
            ),
            (b"\x02\x00", Malformed::Tag),
            (b"\x0b\x0c", Malformed::Tag),
            (b"\x0d\x00", Malformed::Cut),
        ] {
            assert_eq!(Fields::parse(bad).unwrap_err(), error, "{bad:?}");
        }
        assert_eq!(
            Fields::parse(&[8, 0].repeat(MAX_FIELDS + 1)).unwrap_err(),
            Malformed::Many
        );
    }

    #[test]
    fn number_is_taken_for_a_text_or_bytes_for_one() {
        let message = Message::default().number(1, 1).bytes(2, b"\xff");
        let fields = Fields::parse(message.as_bytes()).unwrap();
        assert_eq!(fields.text(1), Err(Malformed::Type(1)));
        assert_eq!(fields.text(2), Err(Malformed::Text(2)));
        assert_eq!(fields.number(2), Err(Malformed::Type(2)));
    }
}
