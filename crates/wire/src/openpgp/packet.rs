//! Packets (RFC 9580, section 4) and ASCII armor (section 6): telling bytes apart, under caps.

use super::OpenPgpError;
use crate::b64;

/// What a packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Tag(pub(super) u8);

impl Tag {
    pub(super) const SIGNATURE: Self = Self(2);
    pub(super) const ONE_PASS: Self = Self(4);
    pub(super) const SECRET_KEY: Self = Self(5);
    pub(super) const PUBLIC_KEY: Self = Self(6);
    pub(super) const SECRET_SUBKEY: Self = Self(7);
    pub(super) const COMPRESSED: Self = Self(8);
    pub(super) const MARKER: Self = Self(10);
    pub(super) const LITERAL: Self = Self(11);
    pub(super) const USER_ID: Self = Self(13);
    pub(super) const PUBLIC_SUBKEY: Self = Self(14);
    pub(super) const USER_ATTRIBUTE: Self = Self(17);
}

/// Reads packets; ends after the first error.
pub(super) struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Packets<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], OpenPgpError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, length: usize) -> Result<usize, OpenPgpError> {
        let bytes = self.take(length)?;
        Ok(bytes
            .iter()
            .fold(0, |all, byte| all << 8 | usize::from(*byte)))
    }

    fn packet(&mut self) -> Result<(Tag, Vec<u8>), OpenPgpError> {
        let head = self.number(1)?;
        if head & 0x80 == 0 {
            return Err(OpenPgpError::Malformed("it does not begin with a packet"));
        }
        if head & 0x40 == 0 {
            let tag = Tag(u8::try_from((head >> 2) & 0x0f).unwrap_or_default());
            let length = match head & 0x03 {
                0 => self.number(1)?,
                1 => self.number(2)?,
                2 => self.number(4)?,
                // Of no stated length: everything that follows.
                _ => self.rest.len(),
            };
            return Ok((tag, self.take(length)?.to_vec()));
        }
        let tag = Tag(u8::try_from(head & 0x3f).unwrap_or_default());
        let mut body = Vec::new();
        loop {
            let first = self.number(1)?;
            let (length, is_last) = match first {
                0..192 => (first, true),
                192..224 => (((first - 192) << 8) + self.number(1)? + 192, true),
                255 => (self.number(4)?, true),
                partial => (1 << (partial & 0x1f), false),
            };
            body.extend_from_slice(self.take(length)?);
            if is_last {
                return Ok((tag, body));
            }
        }
    }
}

impl Iterator for Packets<'_> {
    type Item = Result<(Tag, Vec<u8>), OpenPgpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let packet = self.packet();
        if packet.is_err() {
            self.rest = &[];
        }
        Some(packet)
    }
}

/// A reader of what is in a packet.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], OpenPgpError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, OpenPgpError> {
        self.take(1)?.first().copied().ok_or(CUT)
    }

    pub(super) fn u16(&mut self) -> Result<usize, OpenPgpError> {
        let bytes = self.take(2)?;
        Ok(bytes
            .iter()
            .fold(0, |all, byte| all << 8 | usize::from(*byte)))
    }

    pub(super) fn u32(&mut self) -> Result<u64, OpenPgpError> {
        let bytes = self.take(4)?;
        Ok(bytes
            .iter()
            .fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }

    /// A multiprecision integer, without leading zeros.
    pub(super) fn integer(&mut self) -> Result<&'a [u8], OpenPgpError> {
        let bits = self.u16()?;
        let bytes = self.take(bits.div_ceil(8))?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok(bytes.get(zeros..).unwrap_or_default())
    }
}

/// The bytes in ASCII armor; `None` when there is none.
pub(super) fn armored(bytes: &[u8], limit: usize) -> Result<Option<Vec<u8>>, OpenPgpError> {
    const BAD: OpenPgpError = OpenPgpError::Malformed("the ASCII armor is damaged");
    let Some(text) = bytes
        .starts_with(b"-----BEGIN PGP ")
        .then_some(bytes)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
    else {
        return Ok(None);
    };
    if text.len() > limit.saturating_mul(2) {
        return Err(OpenPgpError::TooLong);
    }
    let mut lines = text.lines().map(str::trim_end);
    let title = lines.next().unwrap_or_default();
    if title.contains("PRIVATE") {
        return Err(PRIVATE);
    }
    let end = title.replacen("BEGIN", "END", 1);
    let mut lines = lines.skip_while(|line| !line.is_empty());
    // The empty line itself.
    lines.next();
    let mut body = String::new();
    for line in lines {
        if line == end {
            return b64::std_decode(&body).map(Some).map_err(|_| BAD);
        }
        // A checksum, which proves nothing that the signature does not.
        if !line.starts_with('=') {
            body.push_str(line);
        }
    }
    Err(BAD)
}

pub(super) const CUT: OpenPgpError = OpenPgpError::Malformed("it ends too early");
pub(super) const PRIVATE: OpenPgpError =
    OpenPgpError::Malformed("it holds private keys: give the public ones (gpg --export)");
