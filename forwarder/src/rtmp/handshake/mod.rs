//! The RTMP handshake (RTMP 1.0 section 5.2), simple and with digests, both roles.

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// C0 or S0 was not 3.
    #[error("version {0} instead of 3")]
    Version(u8),
}

/// The server's half. Takes bytes, appends what to send to `out`.
#[derive(Debug)]
pub struct ServerHandshake {}

impl ServerHandshake {
    /// `random`: 1,528 or more bytes for S1 and the tail of S2; `uptime_ms`: our time field.
    pub fn new(_random: Box<[u8]>, _uptime_ms: u32) -> Self {
        todo!()
    }
    /// Takes bytes from the front of `input`. `Ok(true)`: done, what is left of `input` is chunks.
    pub fn read(&mut self, _input: &mut &[u8], _out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        todo!()
    }
}

/// The client's half.
#[derive(Debug)]
pub struct ClientHandshake {}

impl ClientHandshake {
    /// `digest`: send a C1 with a digest (scheme 1, as FFmpeg and SRS), else a plain one.
    pub fn new(_random: Box<[u8]>, _uptime_ms: u32, _digest: bool) -> Self {
        todo!()
    }
    /// Appends C0 and C1 to `out`; once, at first.
    pub fn start(&mut self, _out: &mut Vec<u8>) {
        todo!()
    }
    /// As [`ServerHandshake::read`]; C2 is appended to `out` when S1 is there.
    pub fn read(&mut self, _input: &mut &[u8], _out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        todo!()
    }
}
