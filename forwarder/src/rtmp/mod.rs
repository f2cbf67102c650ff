//! RTMP 1.0, both roles, without a socket, a clock or a source of randomness.
//!
//! Bytes go in, events come out; time and random bytes are arguments. Everything here is total:
//! no input from a peer panics, and nothing is allocated from an announced length.
#![forbid(unsafe_code)]

pub mod amf0;
pub mod chunk;
pub mod flv;
pub mod handshake;
pub mod message;
pub mod session;
pub mod url;

#[cfg(test)]
pub(crate) mod golden;

/// A 32-bit millisecond timestamp that wraps every 49.7 days (RTMP 1.0 section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timestamp(pub u32);

impl Timestamp {
    /// Signed milliseconds from `earlier` to `self`, modulo 2^32.
    pub fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// This timestamp moved on by `delta` milliseconds, modulo 2^32.
    pub fn advanced(self, delta: u32) -> Self {
        Self(self.0.wrapping_add(delta))
    }
}
