//! The RTMP handshake (RTMP 1.0 section 5.2), simple and with digests, both roles.
//!
//! Each side sends a version byte, a block of 1,536 bytes (C1, S1) and a second block that answers
//! the other side's first (C2, S2). What came to be called the complex handshake hides an HMAC in
//! each block; Flash Player and FFmpeg check it, so a server that finds one answers with one. The
//! second blocks of peers are read and dropped: what stands in them differs between products, and
//! nothing depends on it.

mod digest;
mod simple;
#[cfg(test)]
mod tests;

/// Bytes of C1, C2, S1 and S2 (RTMP 1.0 sections 5.2.3 and 5.2.4).
const BLOCK_LEN: usize = 1536;
/// Random bytes in C1 and S1.
const RANDOM_LEN: usize = 1528;
/// The only version of plain RTMP (RTMP 1.0 section 5.2.2).
const VERSION: u8 = 3;

/// C1, C2, S1 or S2.
type Block = [u8; BLOCK_LEN];

/// Why a handshake failed. Always final, and nothing is to be sent in reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// C0 or S0 was not 3.
    #[error("version {0} instead of 3{hint}", hint = looks_like(*.0))]
    Version(u8),
}

/// What speaks, by its first byte, where RTMP's version was expected.
fn looks_like(first: u8) -> &'static str {
    match first {
        6 | 8 | 9 => ", this is RTMPE, which is not supported",
        0x0d => ", this looks like the PROXY protocol",
        0x16 => ", this looks like TLS",
        b'A'..=b'Z' => ", this looks like HTTP",
        _ => "",
    }
}

/// The server's half. Takes bytes, appends what to send to `out`.
///
/// S0, S1 and S2 go out as soon as C1 is whole. C1 with a valid digest is answered with digests in
/// the same scheme; any other, also one whose digest is wrong, with the simple handshake.
#[derive(Debug)]
pub struct ServerHandshake {
    state: State,
    random: Box<[u8]>,
    uptime_ms: u32,
}

impl ServerHandshake {
    /// `random`: 1,528 or more bytes for S1 (zeros stand in for what is missing); `uptime_ms`: our
    /// time field.
    pub fn new(random: Box<[u8]>, uptime_ms: u32) -> Self {
        Self { state: State::Version, random, uptime_ms }
    }

    /// Takes bytes from the front of `input`. `Ok(true)`: done, what is left of `input` is chunks.
    ///
    /// # Errors
    /// [`HandshakeError::Version`] at the first byte.
    pub fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        if let Some(c1) = self.state.read(input)? {
            let random = std::mem::take(&mut self.random);
            let s1 = simple::first_block(&random, self.uptime_ms);
            out.reserve(1 + 2 * BLOCK_LEN);
            out.push(VERSION);
            match digest::find(&c1, digest::Role::Client) {
                Some(found) => {
                    let s1 = digest::signed(s1, digest::Role::Server, found.scheme);
                    out.extend_from_slice(&s1[..]);
                    out.extend_from_slice(&digest::answer(c1, digest::Role::Server, &found)[..]);
                }
                None => {
                    out.extend_from_slice(&s1[..]);
                    out.extend_from_slice(&simple::answer(c1)[..]);
                }
            }
            self.state.drain(input);
        }
        Ok(self.state.is_done())
    }
}

/// The client's half.
#[derive(Debug)]
pub struct ClientHandshake {
    state: State,
    random: Box<[u8]>,
    uptime_ms: u32,
    digest: bool,
}

impl ClientHandshake {
    /// `random`: 1,528 or more bytes for C1 (zeros stand in for what is missing). `digest`: send a
    /// C1 with a digest (scheme 1, as FFmpeg and SRS), else a plain one.
    pub fn new(random: Box<[u8]>, uptime_ms: u32, digest: bool) -> Self {
        Self { state: State::Version, random, uptime_ms, digest }
    }

    /// Appends C0 and C1 to `out`; once, at first.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        let random = std::mem::take(&mut self.random);
        let mut c1 = simple::first_block(&random, self.uptime_ms);
        if self.digest {
            c1 = digest::signed(c1, digest::Role::Client, digest::Scheme::DigestFirst);
        }
        out.reserve(1 + BLOCK_LEN);
        out.push(VERSION);
        out.extend_from_slice(&c1[..]);
    }

    /// As [`ServerHandshake::read`]; C2 is appended to `out` when S1 is there.
    ///
    /// # Errors
    /// [`HandshakeError::Version`] at the first byte. A strange S1 or S2 is none: servers differ,
    /// and players of all kinds take what they get.
    pub fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        if let Some(s1) = self.state.read(input)? {
            let found = if self.digest { digest::find(&s1, digest::Role::Server) } else { None };
            let c2 = match found {
                Some(found) => digest::answer(s1, digest::Role::Client, &found),
                None => simple::answer(s1),
            };
            out.extend_from_slice(&c2[..]);
            self.state.drain(input);
        }
        Ok(self.state.is_done())
    }
}

/// How far the peer's three parts have been read.
#[derive(Debug)]
enum State {
    /// Its C0 or S0 is next.
    Version,
    /// Its first block, and how many bytes of it are there.
    First(Box<Block>, usize),
    /// Its second block, of which so many bytes are still to come; none of them is kept.
    Second(usize),
}

impl State {
    /// Takes from `input` what belongs to the handshake and returns the first block when it is
    /// whole; the caller answers it and goes on with [`State::drain`].
    fn read(&mut self, input: &mut &[u8]) -> Result<Option<Box<Block>>, HandshakeError> {
        if let Self::Version = self {
            match input.split_first() {
                None => return Ok(None),
                Some((&VERSION, rest)) => *input = rest,
                Some((&other, _)) => return Err(HandshakeError::Version(other)),
            }
            *self = Self::First(Box::new([0; BLOCK_LEN]), 0);
        }
        if let Self::First(block, filled) = self {
            let missing = &mut block[*filled..];
            let n = missing.len().min(input.len());
            let (taken, rest) = input.split_at(n);
            missing[..n].copy_from_slice(taken);
            *input = rest;
            *filled += n;
            if *filled < BLOCK_LEN {
                return Ok(None);
            }
            if let Self::First(block, _) = std::mem::replace(self, Self::Second(BLOCK_LEN)) {
                return Ok(Some(block));
            }
        }
        self.drain(input);
        Ok(None)
    }

    /// Drops from `input` what it has of the second block.
    fn drain(&mut self, input: &mut &[u8]) {
        if let Self::Second(left) = self {
            let n = (*left).min(input.len());
            *input = &input[n..];
            *left -= n;
        }
    }

    fn is_done(&self) -> bool {
        matches!(self, Self::Second(0))
    }
}
