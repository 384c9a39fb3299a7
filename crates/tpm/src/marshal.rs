//! The encoding of Part 2: big-endian numbers without padding, and `TPM2B_*` with a length of two bytes.

use zeroize::Zeroizing;

use crate::error::TpmError;

/// Puts fields one after the other. Its buffer is zeroed when dropped, for some of what is sent is secret.
#[derive(Default)]
pub(crate) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// Room for a whole command, so that no reallocation leaves a copy of a secret behind.
    pub(crate) fn new() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(MAX_MESSAGE)))
    }

    pub(crate) fn u8(mut self, number: u8) -> Self {
        self.0.push(number);
        self
    }

    pub(crate) fn u16(self, number: u16) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    pub(crate) fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `TPM2B_*`. What is too long for its length is cut: [`Self::finish`] then refuses the whole.
    pub(crate) fn sized(self, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(length).bytes(bytes)
    }

    /// What was written so far.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What was written, unless it is longer than any command may be.
    pub(crate) fn finish(self, command: &'static str) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        match self.0.len() <= MAX_MESSAGE {
            true => Ok(self.0),
            false => Err(TpmError::argument(
                command,
                format!(
                    "it would have {} bytes, at most {MAX_MESSAGE}",
                    self.0.len()
                ),
            )),
        }
    }
}

/// Takes fields off the front of a slice.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(
        &mut self,
        field: &'static str,
        length: usize,
    ) -> Result<&'a [u8], Unmarshalling> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Unmarshalling::Short {
                field,
                wanted: length,
                actual: self.0.len(),
            })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Unmarshalling> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(field, N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Unmarshalling> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, Unmarshalling> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Unmarshalling> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// A count of what follows, of which there are at most `limit`.
    pub(crate) fn count(&mut self, field: &'static str, limit: u32) -> Result<u32, Unmarshalling> {
        let count = self.u32(field)?;
        match count <= limit {
            true => Ok(count),
            false => Err(Unmarshalling::Length {
                field,
                limit: limit.into(),
                actual: count.into(),
            }),
        }
    }

    /// `TPM2B_*`: a length of two bytes, then as many.
    pub(crate) fn sized(
        &mut self,
        field: &'static str,
        limit: u16,
    ) -> Result<&'a [u8], Unmarshalling> {
        let length = self.u16(field)?;
        if length > limit {
            return Err(Unmarshalling::Length {
                field,
                limit: limit.into(),
                actual: length.into(),
            });
        }
        self.bytes(field, length.into())
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn end(&self, field: &'static str) -> Result<(), Unmarshalling> {
        match self.0.len() {
            0 => Ok(()),
            count => Err(Unmarshalling::Trailing { field, count }),
        }
    }
}

/// Why bytes are not the structure that they should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Unmarshalling {
    #[error("{field} is cut short: {wanted} bytes wanted, {actual} left")]
    Short {
        field: &'static str,
        wanted: usize,
        actual: usize,
    },
    #[error("{field} has the length {actual}, at most {limit}")]
    Length {
        field: &'static str,
        limit: u64,
        actual: u64,
    },
    #[error("{field} is {actual:#06x}, wanted {wanted}")]
    Value {
        field: &'static str,
        wanted: &'static str,
        actual: u64,
    },
    #[error("{count} bytes follow {field}")]
    Trailing { field: &'static str, count: usize },
}

/// Commands and answers of every TPM of the PC Client profile fit.
pub(crate) const MAX_MESSAGE: usize = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn number_that_is_cut_short_is_refused() {
        for length in 0..4 {
            let refused = Reader(&[0; 4][..length]).u32("field").unwrap_err();
            assert!(matches!(refused, Unmarshalling::Short { .. }));
        }
    }

    #[test]
    fn length_beyond_its_limit_is_refused_before_its_bytes_are_looked_at() {
        let mut reader = Reader(&[0, 3, 1, 2]);
        let refused = reader.sized("field", 2).unwrap_err();
        assert!(matches!(refused, Unmarshalling::Length { actual: 3, .. }));
        let refused = Reader(&[0, 3, 1, 2]).sized("field", 3).unwrap_err();
        assert!(matches!(refused, Unmarshalling::Short { .. }));
    }

    #[test]
    fn command_longer_than_any_is_refused() {
        let long = vec![0; 70_000];
        assert!(Writer::new().sized(&long).finish("test").is_err());
        assert_eq!(
            *Writer::new().u8(1).sized(b"ab").finish("test").unwrap(),
            [1, 0, 2, b'a', b'b']
        );
    }
}
