//! What decoding a model would take, counted before it is decoded.
//!
//! A decoder gives each empty message of two bytes some hundreds in memory. So the file is walked first, by the wire
//! format alone (protocol buffers, "Encoding"): messages and other fields are counted, and what this program has no use
//! for in any case (graphs within nodes, functions, training) ends the walk. Nothing is allocated, and no message lies
//! deeper than the table below.

/// Fails when the decoded model would take more memory than a model of this size should.
pub(super) fn check(onnx: &[u8]) -> Result<(), String> {
    let mut spent = Spent::default();
    spent.walk(Message::Model, onnx)
}

/// Messages that decode to structures of hundreds of bytes.
const MAX_MESSAGES: usize = 32 * 1024;
/// Fields that decode to a number: a dozen for each node of trees is the most that exports have.
const MAX_FIELDS: usize = 16 << 20;
/// Fields that decode to text or bytes: one for each node of trees.
const MAX_TEXTS: usize = 1 << 20;
/// What packed numbers decode to, in bytes: a file of them at its longest, and whole numbers of one byte that become
/// eight for all nodes of trees.
const MAX_NUMBERS: usize = 96 << 20;

#[derive(Default)]
struct Spent {
    messages: usize,
    fields: usize,
    texts: usize,
    numbers: usize,
}

/// The messages of onnx.proto that a model of the supported kinds is made of.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    /// Without messages of their own.
    Flat,
}

impl Message {
    /// What a length-delimited field of this message holds.
    fn holds(self, field: u64) -> Holds {
        use Holds::{Bytes, Numbers, Refused, Within};
        match (self, field) {
            (Self::Model, 7) => Within(Self::Graph),
            (Self::Model, 8 | 14) => Within(Self::Flat),
            (Self::Model, 20) => Refused("it is made for training"),
            (Self::Model, 25) => Refused("it defines functions of its own"),
            (Self::Graph, 1) => Within(Self::Node),
            (Self::Graph, 5) => Within(Self::Tensor),
            (Self::Graph, 11..=13) => Within(Self::ValueInfo),
            (Self::Graph, 14) => Refused("it is quantized"),
            (Self::Graph, 15) => Refused("it has sparse weights"),
            (Self::Node, 5) => Within(Self::Attribute),
            (Self::Attribute, 5 | 10) => Within(Self::Tensor),
            (Self::Attribute, 6 | 11) => Refused("a node holds a graph"),
            (Self::Attribute, 15 | 22 | 23) => Refused("an attribute is of no known type"),
            (Self::Attribute, 7) | (Self::Tensor, 4 | 10) => Numbers(Packed::Fixed),
            (Self::Attribute, 8) | (Self::Tensor, 1 | 5 | 7 | 11) => Numbers(Packed::Varints),
            (Self::Tensor, 3 | 13) => Within(Self::Flat),
            (Self::ValueInfo, 2) => Within(Self::Type),
            (Self::Type, 1) => Within(Self::TensorType),
            (Self::TensorType, 2) => Within(Self::Shape),
            (Self::Shape, 1) => Within(Self::Flat),
            _ => Bytes,
        }
    }
}

enum Holds {
    Within(Message),
    Refused(&'static str),
    Numbers(Packed),
    /// A string, bytes, or a field that the decoder skips.
    Bytes,
}

/// How numbers lie in a field.
enum Packed {
    /// As they are decoded.
    Fixed,
    /// Of one byte or more, each decoded to eight.
    Varints,
}

impl Spent {
    fn walk(&mut self, message: Message, mut bytes: &[u8]) -> Result<(), String> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return Err(format!("it is made of more than {MAX_MESSAGES} messages"));
        }
        while !bytes.is_empty() {
            self.fields += 1;
            if self.fields > MAX_FIELDS {
                return Err(format!("it has more than {MAX_FIELDS} fields"));
            }
            let key = varint(&mut bytes)?;
            match key & 7 {
                VARINT => {
                    varint(&mut bytes)?;
                }
                FIXED_64 => {
                    take(&mut bytes, 8)?;
                }
                FIXED_32 => {
                    take(&mut bytes, 4)?;
                }
                LENGTH_DELIMITED => {
                    let length = varint(&mut bytes)?;
                    let content = take(&mut bytes, length)?;
                    match message.holds(key >> 3) {
                        Holds::Within(inner) => self.walk(inner, content)?,
                        Holds::Refused(why) => return Err(why.to_owned()),
                        Holds::Bytes => self.text()?,
                        Holds::Numbers(Packed::Fixed) => self.numbers(content.len())?,
                        Holds::Numbers(Packed::Varints) => {
                            let ends = content.iter().filter(|byte| **byte & 0x80 == 0);
                            self.numbers(ends.count() * size_of::<i64>())?;
                        }
                    }
                }
                _ => return Err(NOT_ONNX.to_owned()),
            }
        }
        Ok(())
    }

    fn numbers(&mut self, bytes: usize) -> Result<(), String> {
        self.text()?;
        self.numbers += bytes;
        if self.numbers > MAX_NUMBERS {
            return Err(format!(
                "its numbers take more than {MAX_NUMBERS} bytes; weights take the least as raw data"
            ));
        }
        Ok(())
    }

    fn text(&mut self) -> Result<(), String> {
        self.texts += 1;
        if self.texts > MAX_TEXTS {
            return Err(format!("it has more than {MAX_TEXTS} texts"));
        }
        Ok(())
    }
}

pub(super) const NOT_ONNX: &str = "it is not an ONNX file";

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(NOT_ONNX)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(NOT_ONNX.to_owned())
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], String> {
    let taken = usize::try_from(length)
        .ok()
        .and_then(|length| bytes.split_at_checked(length));
    let (taken, rest) = taken.ok_or(NOT_ONNX)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited field.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            field.push(length as u8 | 0x80);
            length >>= 7;
        }
        field.push(length as u8);
        field.extend_from_slice(content);
        field
    }

    #[test]
    fn shipped_model_is_too_much() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/fraud/model.onnx");
        check(&std::fs::read(path).unwrap()).unwrap();
    }

    #[test]
    fn empty_messages_become_gigabytes() {
        for number in [1, 5, 11, 12, 13] {
            let graph = field(number, b"").repeat(MAX_MESSAGES);
            let error = check(&field(7, &graph)).unwrap_err();
            assert!(error.contains("messages"), "{number}: {error}");
        }
        let shape = field(1, b"").repeat(MAX_MESSAGES);
        let tensor = field(1, &field(2, &shape));
        let input = field(11, &field(2, &tensor));
        assert!(check(&field(7, &input)).unwrap_err().contains("messages"));
        let node = field(5, b"").repeat(MAX_MESSAGES);
        assert!(
            check(&field(7, &field(1, &node)))
                .unwrap_err()
                .contains("messages")
        );
    }

    #[test]
    fn empty_strings_become_gigabytes() {
        let attribute = field(9, b"").repeat(MAX_TEXTS);
        let node = field(1, &field(5, &attribute));
        check(&field(7, &node)).unwrap();
        let attribute = field(9, b"").repeat(MAX_TEXTS + 1);
        let node = field(1, &field(5, &attribute));
        assert!(check(&field(7, &node)).unwrap_err().contains("texts"));
        let tensor = field(5, &field(6, b"").repeat(MAX_TEXTS + 1));
        assert!(check(&field(7, &tensor)).unwrap_err().contains("texts"));
    }

    #[test]
    fn numbers_without_end() {
        let numbers = [8 << 3, 0].repeat(MAX_FIELDS);
        let node = field(1, &field(5, &numbers));
        assert!(check(&field(7, &node)).unwrap_err().contains("fields"));
    }

    #[test]
    fn numbers_of_one_byte_become_gigabytes() {
        let whole = vec![1; MAX_NUMBERS / 8 + 1];
        for (message, number) in [(5, 7), (5, 5), (5, 1)] {
            let tensor = field(message, &field(number, &whole));
            assert!(
                check(&field(7, &tensor))
                    .unwrap_err()
                    .contains("numbers take")
            );
            let tensor = field(message, &field(number, &whole[1..]));
            check(&field(7, &tensor)).unwrap();
        }
        let node = field(1, &field(5, &field(8, &whole)));
        assert!(
            check(&field(7, &node))
                .unwrap_err()
                .contains("numbers take")
        );
    }

    #[test]
    fn graph_within_a_graph_without_end() {
        let mut graph = Vec::new();
        for _ in 0..1000 {
            graph = field(1, &field(5, &field(6, &graph)));
        }
        assert_eq!(
            check(&field(7, &graph)).unwrap_err(),
            "a node holds a graph"
        );
    }

    #[test]
    fn length_beyond_the_end() {
        for bytes in [
            &b"\x3a\x05\x0a"[..],
            b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x3a",
            b"\x09\x00",
            b"\x0d\x00",
            b"\x3b\x3c",
            b"{}",
        ] {
            assert_eq!(check(bytes).unwrap_err(), NOT_ONNX, "{bytes:?}");
        }
        check(b"").unwrap();
    }

    #[test]
    fn function_or_training_is_decoded() {
        // Field numbers from 16 on take two bytes.
        assert!(check(b"\xca\x01\x00").unwrap_err().contains("functions"));
        assert!(check(b"\xa2\x01\x00").unwrap_err().contains("training"));
    }
}
