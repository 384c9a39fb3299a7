//! ttRPC's frames (containerd/ttrpc, PROTOCOL.md): ten bytes of header, then a protobuf message.

use std::time::Duration;

use zeroize::Zeroizing;

use super::Code;
use super::protobuf::{Fields, Malformed, Message};

/// What a frame begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) stream: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
}

impl Header {
    pub(crate) fn parse(bytes: [u8; LENGTH]) -> Self {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = bytes;
        Self {
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            kind,
            flags,
        }
    }

    /// Streams that a client begins have odd numbers.
    pub(crate) fn is_of_client(self) -> bool {
        self.stream % 2 == 1
    }

    fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let (length, rest) = bytes.split_at_mut(4);
        let (stream, rest) = rest.split_at_mut(4);
        length.copy_from_slice(&self.length.to_be_bytes());
        stream.copy_from_slice(&self.stream.to_be_bytes());
        rest.copy_from_slice(&[self.kind, self.flags]);
        bytes
    }
}

/// What a client calls.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) service: &'a str,
    pub(crate) method: &'a str,
    pub(crate) request: Fields<'a>,
    /// How long the client waits.
    pub(crate) timeout: Option<Duration>,
}

impl<'a> Call<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let call = Fields::parse(bytes)?;
        // A negative number is a large one here, and both mean that no time was named.
        let nanoseconds = call
            .number(4)?
            .filter(|n| *n > 0 && i64::try_from(*n).is_ok());
        Ok(Self {
            service: call.text(1)?,
            method: call.text(2)?,
            request: Fields::parse(call.bytes(3)?)?,
            timeout: nanoseconds.map(Duration::from_nanos),
        })
    }
}

/// The frame of an answer; `None` when it is larger than a frame may be.
pub(crate) fn answer(stream: u32, message: &Message) -> Option<Zeroizing<Vec<u8>>> {
    let payload = message.as_bytes();
    // An empty status: all is well.
    frame(stream, b"", payload)
}

/// The frame of a refusal.
pub(crate) fn refusal(stream: u32, code: Code, text: &str) -> Zeroizing<Vec<u8>> {
    let text: String = text.chars().take(MAX_TEXT).collect();
    let status = Message::default()
        .number(1, u64::from(code.number()))
        .text(2, &text);
    frame(stream, status.as_bytes(), b"").expect("a short text fits into a frame")
}

fn frame(stream: u32, status: &[u8], payload: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let room = status
        .len()
        .saturating_add(payload.len())
        .saturating_add(64);
    let mut message = Message::after(&[0; LENGTH], room).bytes(1, status);
    if !payload.is_empty() {
        message = message.bytes(2, payload);
    }
    let mut bytes = message.into_bytes();
    let length = u32::try_from(bytes.len().saturating_sub(LENGTH)).ok()?;
    if length > MAX_MESSAGE {
        return None;
    }
    let header = Header {
        length,
        stream,
        kind: RESPONSE,
        flags: 0,
    };
    bytes.get_mut(..LENGTH)?.copy_from_slice(&header.to_bytes());
    Some(bytes)
}

pub(crate) const LENGTH: usize = 10;
/// What every implementation takes.
pub(crate) const MAX_MESSAGE: u32 = 4 * 1024 * 1024;
pub(crate) const REQUEST: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;
pub(crate) const DATA: u8 = 3;
/// The client will send more: a streaming call.
pub(crate) const REMOTE_OPEN: u8 = 2;
const MAX_TEXT: usize = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn header_is_read_in_another_order() {
        let header = Header::parse([0, 0, 1, 2, 0, 0, 0, 7, 1, 3]);
        assert_eq!((header.length, header.stream), (258, 7));
        assert_eq!((header.kind, header.flags), (1, 3));
        assert_eq!(Header::parse(header.to_bytes()), header);
        assert!(header.is_of_client());
    }

    #[test]
    fn refusal_is_no_refusal_to_the_client() {
        let bytes = refusal(9, Code::NotFound, "not there");
        let (head, body) = bytes.split_first_chunk().unwrap();
        let header = Header::parse(*head);
        assert_eq!((header.stream, header.kind), (9, RESPONSE));
        assert_eq!(usize::try_from(header.length).unwrap(), body.len());
        let status = Fields::parse(Fields::parse(body).unwrap().bytes(1).unwrap()).unwrap();
        assert_eq!(status.number(1), Ok(Some(5)));
        assert_eq!(status.text(2), Ok("not there"));
    }

    #[test]
    fn answer_that_no_client_takes_is_sent() {
        let large = vec![0; usize::try_from(MAX_MESSAGE).unwrap()];
        assert!(answer(1, &Message::default().bytes(1, &large)).is_none());
        assert!(answer(1, &Message::default().bytes(1, &large[64..])).is_some());
    }

    #[test]
    fn call_that_names_a_negative_time_ends_at_once() {
        let call = Message::default().text(1, "s").number(4, u64::MAX);
        assert_eq!(Call::parse(call.as_bytes()).unwrap().timeout, None);
    }
}
