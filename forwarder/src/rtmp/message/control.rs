//! Control messages (RTMP 1.0 section 5.4 and 7.1.7).
use super::{csid, kind};
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::{self, DEFAULT_CHUNK_SIZE, Message};

/// A control message, types 1 to 6.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Type 1, bytes.
    SetChunkSize(u32),
    /// Type 2, chunk stream id.
    Abort(u32),
    /// Type 3, bytes received modulo 2^32.
    Acknowledgement(u32),
    /// Type 4.
    User(UserControl),
    /// Type 5, bytes.
    WindowAckSize(u32),
    /// Type 6: bytes, and limit type 0 hard, 1 soft, 2 dynamic.
    SetPeerBandwidth(u32, u8),
}

/// A user control event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum UserControl {
    StreamBegin(u32),
    StreamEof(u32),
    StreamDry(u32),
    SetBufferLength {
        msid: u32,
        ms: u32,
    },
    StreamIsRecorded(u32),
    PingRequest(u32),
    PingResponse(u32),
    /// Any other event.
    Unknown(u16),
}

impl Control {
    /// Parses a control message of type `kind`; `None` when the body is too short, or `kind` is
    /// none of 1 to 6. Bytes beyond the body's fields are ignored.
    pub fn parse(kind: u8, body: &[u8]) -> Option<Self> {
        if kind == kind::USER_CONTROL {
            return UserControl::parse(body).map(Self::User);
        }
        let (&word, rest) = body.split_first_chunk()?;
        let word = u32::from_be_bytes(word);
        match kind {
            kind::SET_CHUNK_SIZE => Some(Self::SetChunkSize(word)),
            kind::ABORT => Some(Self::Abort(word)),
            kind::ACKNOWLEDGEMENT => Some(Self::Acknowledgement(word)),
            kind::WINDOW_ACK_SIZE => Some(Self::WindowAckSize(word)),
            // Some peers leave the limit type out; dynamic is the one that demands nothing.
            kind::SET_PEER_BANDWIDTH => {
                Some(Self::SetPeerBandwidth(word, rest.first().copied().unwrap_or(2)))
            }
            _ => None,
        }
    }

    /// Appends the whole message (csid 2, msid 0, time 0) as one chunk to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(10);
        let kind = match self {
            Self::SetChunkSize(size) => word(kind::SET_CHUNK_SIZE, *size, &mut body),
            Self::Abort(csid) => word(kind::ABORT, *csid, &mut body),
            Self::Acknowledgement(total) => word(kind::ACKNOWLEDGEMENT, *total, &mut body),
            Self::User(event) => {
                event.write(&mut body);
                kind::USER_CONTROL
            }
            Self::WindowAckSize(size) => word(kind::WINDOW_ACK_SIZE, *size, &mut body),
            Self::SetPeerBandwidth(size, limit) => {
                let kind = word(kind::SET_PEER_BANDWIDTH, *size, &mut body);
                body.push(*limit);
                kind
            }
        };
        let message =
            Message { csid: csid::CONTROL, timestamp: Timestamp(0), kind, msid: 0, payload: &body };
        // Ten bytes at most: one chunk, whatever chunk size was agreed on.
        chunk::encode(&message, DEFAULT_CHUNK_SIZE, &mut |bytes| out.extend_from_slice(bytes));
    }
}

impl UserControl {
    fn parse(body: &[u8]) -> Option<Self> {
        let (&event, data) = body.split_first_chunk()?;
        let word = |at: usize| {
            data.get(at..).and_then(<[u8]>::first_chunk).map(|&word| u32::from_be_bytes(word))
        };
        Some(match u16::from_be_bytes(event) {
            event::STREAM_BEGIN => Self::StreamBegin(word(0)?),
            event::STREAM_EOF => Self::StreamEof(word(0)?),
            event::STREAM_DRY => Self::StreamDry(word(0)?),
            event::SET_BUFFER_LENGTH => Self::SetBufferLength { msid: word(0)?, ms: word(4)? },
            event::STREAM_IS_RECORDED => Self::StreamIsRecorded(word(0)?),
            event::PING_REQUEST => Self::PingRequest(word(0)?),
            event::PING_RESPONSE => Self::PingResponse(word(0)?),
            other => Self::Unknown(other),
        })
    }

    fn write(&self, body: &mut Vec<u8>) {
        let (event, first, second) = match *self {
            Self::StreamBegin(msid) => (event::STREAM_BEGIN, Some(msid), None),
            Self::StreamEof(msid) => (event::STREAM_EOF, Some(msid), None),
            Self::StreamDry(msid) => (event::STREAM_DRY, Some(msid), None),
            Self::SetBufferLength { msid, ms } => (event::SET_BUFFER_LENGTH, Some(msid), Some(ms)),
            Self::StreamIsRecorded(msid) => (event::STREAM_IS_RECORDED, Some(msid), None),
            Self::PingRequest(ms) => (event::PING_REQUEST, Some(ms), None),
            Self::PingResponse(ms) => (event::PING_RESPONSE, Some(ms), None),
            Self::Unknown(event) => (event, None, None),
        };
        body.extend_from_slice(&event.to_be_bytes());
        for word in [first, second].into_iter().flatten() {
            body.extend_from_slice(&word.to_be_bytes());
        }
    }
}

/// Writes a body of one word and returns `kind`.
fn word(kind: u8, value: u32, body: &mut Vec<u8>) -> u8 {
    body.extend_from_slice(&value.to_be_bytes());
    kind
}

/// User control event types (RTMP 1.0 section 7.1.7).
mod event {
    pub(super) const STREAM_BEGIN: u16 = 0;
    pub(super) const STREAM_EOF: u16 = 1;
    pub(super) const STREAM_DRY: u16 = 2;
    pub(super) const SET_BUFFER_LENGTH: u16 = 3;
    pub(super) const STREAM_IS_RECORDED: u16 = 4;
    pub(super) const PING_REQUEST: u16 = 6;
    pub(super) const PING_RESPONSE: u16 = 7;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtmp::chunk::ChunkReader;

    #[test]
    fn encoded_messages_are_read_back() {
        let messages = [
            Control::SetChunkSize(4096),
            Control::Abort(6),
            Control::Acknowledgement(u32::MAX),
            Control::User(UserControl::StreamBegin(1)),
            Control::User(UserControl::StreamEof(1)),
            Control::User(UserControl::StreamDry(1)),
            Control::User(UserControl::SetBufferLength { msid: 1, ms: 3000 }),
            Control::User(UserControl::StreamIsRecorded(1)),
            Control::User(UserControl::PingRequest(77)),
            Control::User(UserControl::PingResponse(77)),
            Control::User(UserControl::Unknown(31)),
            Control::WindowAckSize(2_500_000),
            Control::SetPeerBandwidth(2_500_000, 1),
        ];
        let mut wire = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut wire));
        let (mut reader, mut input) = (ChunkReader::new(), &wire[..]);
        for expected in messages {
            let message = reader.read(&mut input).unwrap().unwrap();
            assert_eq!((message.csid, message.msid, message.timestamp.0), (2, 0, 0));
            assert_eq!(Control::parse(message.kind, message.payload), Some(expected));
        }
        assert!(input.is_empty());
    }

    #[test]
    fn bytes_on_the_wire() {
        let mut wire = Vec::new();
        Control::User(UserControl::StreamBegin(1)).encode(&mut wire);
        assert_eq!(wire, b"\x02\0\0\0\0\0\x06\x04\0\0\0\0\0\0\0\0\0\x01");
    }

    #[test]
    fn short_long_and_foreign_bodies() {
        let user = |event| Some(Control::User(event));
        let cases: [(&str, u8, &[u8], Option<Control>); 18] = [
            ("SetChunkSize without a body", 1, b"", None),
            ("SetChunkSize of 3 bytes", 1, b"\0\0\x10", None),
            ("SetChunkSize of 5 bytes", 1, b"\0\0\x10\0\x07", Some(Control::SetChunkSize(4096))),
            ("Abort of 3 bytes", 2, b"\0\0\x06", None),
            ("Acknowledgement of 3 bytes", 3, b"\0\0\x06", None),
            ("WindowAckSize of 0", 5, b"\0\0\0\0", Some(Control::WindowAckSize(0))),
            ("WindowAckSize of 3 bytes", 5, b"\0\0\0", None),
            ("SetPeerBandwidth of 4 bytes", 6, b"\0\0\0\x01", {
                Some(Control::SetPeerBandwidth(1, 2))
            }),
            ("SetPeerBandwidth of 5 bytes", 6, b"\0\0\0\x01\0", {
                Some(Control::SetPeerBandwidth(1, 0))
            }),
            ("SetPeerBandwidth of 3 bytes", 6, b"\0\0\0", None),
            ("user control without a body", 4, b"", None),
            ("user control of 1 byte", 4, b"\0", None),
            ("ping of 5 bytes", 4, b"\0\x06\0\0\0", None),
            ("ping of 10 bytes", 4, b"\0\x06\0\0\0\x09\0\0\0\0", {
                user(UserControl::PingRequest(9))
            }),
            ("SetBufferLength of 9 bytes", 4, b"\0\x03\0\0\0\x01\0\0\0", None),
            ("SetBufferLength of all bits", 4, b"\0\x03\0\0\0\x01\xff\xff\xff\xff", {
                user(UserControl::SetBufferLength { msid: 1, ms: u32::MAX })
            }),
            ("SWF verification", 4, b"\0\x1a\x01", user(UserControl::Unknown(26))),
            ("audio", 8, b"\0\0\0\0\0", None),
        ];
        for (name, kind, body, expected) in cases {
            assert_eq!(Control::parse(kind, body), expected, "{name}");
        }
    }
}
