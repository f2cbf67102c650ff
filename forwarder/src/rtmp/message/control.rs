//! Control messages (RTMP 1.0 section 5.4 and 7.1.7).

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
    /// Parses a control message of type `kind`; `None` when the body is too short (ignored by rule).
    pub fn parse(_kind: u8, _body: &[u8]) -> Option<Self> {
        todo!()
    }
    /// Appends the whole message (csid 2, msid 0, time 0) as chunks to `out`.
    pub fn encode(&self, _out: &mut Vec<u8>) {
        todo!()
    }
}
