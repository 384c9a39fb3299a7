//! Thrift's compact protocol, as far as Parquet's structures need it: fields are found, numbers and
//! bytes read, everything else walked over. Nothing is allocated, nothing recurses deeper than
//! [`MAX_DEPTH`], and no count is believed that the bytes left could not hold
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>).

/// Reads from the front of a buffer.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// What the bytes are not: Thrift's compact protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// What a field or an element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    True,
    False,
    Byte,
    I16,
    I32,
    I64,
    Double,
    Binary,
    List,
    Set,
    Map,
    Struct,
    Uuid,
}

impl Kind {
    fn from_nibble(nibble: u8) -> Result<Self, Malformed> {
        Ok(match nibble {
            1 => Self::True,
            2 => Self::False,
            3 => Self::Byte,
            4 => Self::I16,
            5 => Self::I32,
            6 => Self::I64,
            7 => Self::Double,
            8 => Self::Binary,
            9 => Self::List,
            10 => Self::Set,
            11 => Self::Map,
            12 => Self::Struct,
            13 => Self::Uuid,
            _ => return Err(Malformed),
        })
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Walks a structure: `visit` is called for each field and must read it or leave it, in which
    /// case it returns false and the field is walked over. Fields come in rising order, each once.
    pub(super) fn structure(
        &mut self,
        mut visit: impl FnMut(&mut Self, i16, Kind) -> Result<bool, Malformed>,
    ) -> Result<(), Malformed> {
        let mut last = 0_i16;
        while let Some((id, kind)) = self.field(last)? {
            if !visit(self, id, kind)? {
                self.skip(kind, 0)?;
            }
            last = id;
        }
        Ok(())
    }

    /// Walks a list of structures.
    pub(super) fn structures(
        &mut self,
        kind: Kind,
        mut visit: impl FnMut(&mut Self) -> Result<(), Malformed>,
    ) -> Result<usize, Malformed> {
        let (element, count) = self.list(kind)?;
        if element != Kind::Struct && count > 0 {
            return Err(Malformed);
        }
        for _ in 0..count {
            visit(self)?;
        }
        Ok(count)
    }

    /// The head of a list: what it holds and how many.
    pub(super) fn list(&mut self, kind: Kind) -> Result<(Kind, usize), Malformed> {
        if kind != Kind::List {
            return Err(Malformed);
        }
        self.list_head()
    }

    /// A number of any width.
    pub(super) fn number(&mut self, kind: Kind) -> Result<i64, Malformed> {
        match kind {
            Kind::Byte => Ok(i64::from(self.byte()?.cast_signed())),
            Kind::I16 | Kind::I32 | Kind::I64 => {
                let coded = self.varint()?;
                let number = (coded >> 1).cast_signed() ^ -((coded & 1).cast_signed());
                let fits = match kind {
                    Kind::I16 => i16::try_from(number).is_ok(),
                    Kind::I32 => i32::try_from(number).is_ok(),
                    _ => true,
                };
                if fits { Ok(number) } else { Err(Malformed) }
            }
            _ => Err(Malformed),
        }
    }

    /// Bytes or text.
    pub(super) fn binary(&mut self, kind: Kind) -> Result<&'a [u8], Malformed> {
        if kind != Kind::Binary {
            return Err(Malformed);
        }
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    fn field(&mut self, last: i16) -> Result<Option<(i16, Kind)>, Malformed> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        let kind = Kind::from_nibble(head & 0x0f)?;
        let id = match head >> 4 {
            0 => self.number(Kind::I16)? as i16,
            step => last.checked_add(i16::from(step)).ok_or(Malformed)?,
        };
        // Another order is legal and nobody's; two readers may not differ in which field counts.
        if id <= last {
            return Err(Malformed);
        }
        Ok(Some((id, kind)))
    }

    fn list_head(&mut self) -> Result<(Kind, usize), Malformed> {
        let head = self.byte()?;
        let kind = Kind::from_nibble(head & 0x0f)?;
        let count = match head >> 4 {
            15 => usize::try_from(self.varint()?).map_err(|_| Malformed)?,
            count => usize::from(count),
        };
        // Each element has a byte at least.
        if count > self.rest.len() {
            return Err(Malformed);
        }
        Ok((kind, count))
    }

    fn skip(&mut self, kind: Kind, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed);
        }
        match kind {
            Kind::True | Kind::False => Ok(()),
            Kind::Byte | Kind::I16 | Kind::I32 | Kind::I64 => self.number(kind).map(drop),
            Kind::Double => self.take(8).map(drop),
            Kind::Uuid => self.take(16).map(drop),
            Kind::Binary => self.binary(kind).map(drop),
            Kind::List | Kind::Set => {
                let (element, count) = self.list_head()?;
                for _ in 0..count {
                    self.skip_element(element, depth + 1)?;
                }
                Ok(())
            }
            Kind::Map => {
                let count = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                let (key, value) = (
                    Kind::from_nibble(kinds >> 4)?,
                    Kind::from_nibble(kinds & 0x0f)?,
                );
                if count > self.rest.len() {
                    return Err(Malformed);
                }
                for _ in 0..count {
                    self.skip_element(key, depth + 1)?;
                    self.skip_element(value, depth + 1)?;
                }
                Ok(())
            }
            Kind::Struct => {
                let mut last = 0;
                while let Some((id, kind)) = self.field(last)? {
                    self.skip(kind, depth + 1)?;
                    last = id;
                }
                Ok(())
            }
        }
    }

    /// A boolean in a list has a byte of its own; in a field it is the field's kind.
    fn skip_element(&mut self, kind: Kind, depth: usize) -> Result<(), Malformed> {
        match kind {
            Kind::True | Kind::False => self.byte().map(drop),
            kind => self.skip(kind, depth),
        }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(byte)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Parquet's own structures nest five deep.
const MAX_DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number and every byte string of a structure, by field.
    fn read(bytes: &[u8]) -> Result<Vec<(i16, String)>, Malformed> {
        let mut found = Vec::new();
        Reader::new(bytes).structure(|reader, id, kind| {
            let text = match kind {
                Kind::I32 | Kind::I64 | Kind::I16 => reader.number(kind)?.to_string(),
                Kind::Binary => String::from_utf8_lossy(reader.binary(kind)?).into_owned(),
                _ => return Ok(false),
            };
            found.push((id, text));
            Ok(true)
        })?;
        Ok(found)
    }

    #[test]
    fn fields_are_read_wrongly() {
        // 1: i32 -3, 2: true, 3: "ab", 20 (long form): i64 64, stop.
        let bytes = b"\x15\x05\x11\x18\x02ab\x06\x28\x80\x01\x00";
        let expected = [(1, "-3"), (3, "ab"), (20, "64")];
        let found = read(bytes).unwrap();
        assert_eq!(found.len(), expected.len());
        for ((id, text), expected) in found.iter().zip(expected) {
            assert_eq!((*id, text.as_str()), expected);
        }
    }

    #[test]
    fn cut_anywhere_is_read() {
        // A list of two structures, a map and a double before the number.
        let bytes = b"\x19\x2c\x15\x02\x00\x15\x04\x00\x1b\x01\x88\x01k\x01v\x17\0\0\0\0\0\0\0\0\x15\x08\x00";
        assert_eq!(read(bytes).unwrap(), [(4, "4".to_owned())]);
        for kept in 0..bytes.len() {
            assert_eq!(read(&bytes[..kept]), Err(Malformed), "{kept}");
        }
    }

    #[test]
    fn field_that_comes_twice_or_backwards_is_read() {
        for bytes in [
            &b"\x15\x02\x05\x02\x04\x00"[..],
            b"\x25\x02\x05\x02\x04\x00",
        ] {
            assert_eq!(read(bytes), Err(Malformed));
        }
    }

    #[test]
    fn count_larger_than_the_bytes_left_is_believed() {
        // A list of 2^31 structures; a map of as many; a byte string of as many bytes.
        for bytes in [
            &b"\x19\xfc\xff\xff\xff\xff\x07\x00"[..],
            b"\x1b\xff\xff\xff\xff\x07\x88\x00",
            b"\x18\xff\xff\xff\xff\x07\x00",
        ] {
            assert_eq!(read(bytes), Err(Malformed));
        }
    }

    #[test]
    fn nesting_without_end_overflows_the_stack() {
        assert_eq!(read(&[0x1c; 1 << 20]), Err(Malformed));
        assert_eq!(read(&[0x19; 1 << 20]), Err(Malformed));
    }

    #[test]
    fn number_of_another_width_is_read() {
        // An i32 of 2^40, and a varint of eleven bytes.
        assert_eq!(read(b"\x15\x80\x80\x80\x80\x80\x40\x00"), Err(Malformed));
        let long = [&b"\x16"[..], &[0xff; 10], b"\x01\x00"].concat();
        assert_eq!(read(&long), Err(Malformed));
    }
}
