//! Types that the kernel program and user space share.
//!
//! The sockmap program splices one established socket to another so that the bytes of a 1:1 leg
//! (edge player <- slave, edge publisher -> master) move inside the kernel. This crate is its home:
//! this library holds the `repr(C)` values of its maps, `src/main.rs` the programs.
//!
//! All maps are keyed by a socket's cookie (`SO_COOKIE`, never used twice while a kernel runs).
//! What user space writes ([`Control`]) and what the program writes ([`Stat`], [`Walk`]) are
//! separate maps, because an update replaces a whole value.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

/// Most pairs at a time; what a map holds.
pub const MAX_PAIRS: u32 = 65_536;

/// Bytes of the ring buffer for events: a power of two and whole pages.
pub const EVENT_BYTES: u32 = 1 << 16;

/// Chunk streams whose state a [`Walk`] keeps: ids with a basic header of one byte.
pub const CHUNK_STREAMS: usize = 64;

/// A flag of [`Control::flags`]: follow the RTMP chunks in [`Walk`].
pub const WALK: u32 = 1;

/// A flag of [`Stat::flags`]: over the soft limit now; its event was sent.
pub const OVER_SOFT: u32 = 1;
/// A flag of [`Stat::flags`]: was over the hard limit, all since is dropped: the leg is broken.
pub const OVER_HARD: u32 = 2;
/// A flag of [`Stat::flags`]: the target was not there; bytes were dropped: the leg is broken.
pub const NO_TARGET: u32 = 4;

/// What user space tells the program about a source. Written before the source is inserted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Cookie of the socket that gets the bytes.
    pub target: u64,
    /// Bytes written to the target, acknowledged or not, before the first was redirected.
    pub base: u64,
    /// Backlog in bytes above which an event is sent, once for each crossing; 0 is none.
    pub soft_limit: u64,
    /// Backlog in bytes that is never exceeded: what would is dropped; 0 is none.
    pub hard_limit: u64,
    /// [`WALK`].
    pub flags: u32,
    /// Zero.
    pub padding: u32,
}

/// What the program counts of a source. One writer: a source's verdicts run under its lock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Bytes handed to the target.
    pub redirected: u64,
    /// Bytes lost, which breaks the leg: over the hard limit, or without a target.
    pub dropped: u64,
    /// Segments seen (GRO or loopback segments, up to 64 KiB each).
    pub segments: u64,
    /// Backlog with the last segment: bytes redirected and not acknowledged by the target's peer.
    pub backlog: u64,
    /// Largest backlog seen.
    pub max_backlog: u64,
    /// [`OVER_SOFT`], [`OVER_HARD`], [`NO_TARGET`].
    pub flags: u32,
    /// Zero.
    pub padding: u32,
}

/// A flag of [`Walk::flags`]: an audio message that [`is_header`] has begun, or an aggregate.
pub const AUDIO_HEADER_PASSED: u32 = 1;
/// The same of video.
pub const VIDEO_HEADER_PASSED: u32 = 2;

/// Why an [`Event`] was sent.
pub mod kind {
    /// The backlog crossed the soft limit: unsplice.
    pub const OVER_SOFT: u32 = 1;
    /// The backlog reached the hard limit: bytes are lost, close the target.
    pub const OVER_HARD: u32 = 2;
    /// The target has left its map: bytes are lost.
    pub const NO_TARGET: u32 = 3;
    /// A source without [`Control`](super::Control) or [`Stat`](super::Stat): bytes are lost.
    pub const UNKNOWN: u32 = 4;
}

/// What the program reports through the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Cookie of the source.
    pub source: u64,
    /// Bytes redirected and not acknowledged at that moment.
    pub backlog: u64,
    /// One of [`kind`].
    pub kind: u32,
    /// Zero.
    pub padding: u32,
}

/// Where in RTMP's chunks a source stands after the last redirected byte.
///
/// User space starts it at a chunk border (`header_len` and `chunk_left` are 0) with the chunk size
/// and the state of the chunk streams in force there; the program carries it on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Payload bytes in a chunk, as the last Set Chunk Size said.
    pub chunk_size: u32,
    /// Payload bytes left of the open chunk.
    pub chunk_left: u32,
    /// Chunk stream of the open, else of the last chunk.
    pub csid: u32,
    /// Bytes of a chunk header that is not complete, in `header`; 0 outside of headers.
    pub header_len: u32,
    /// The header's bytes, basic header first, extended timestamp last.
    pub header: [u8; 16],
    /// Bytes of an open Set Chunk Size or Abort that are still to come.
    pub control_left: u32,
    /// The part of it that has come.
    pub control_value: u32,
    /// Why the walk has ended, one of [`punt`]; 0 while it goes on. Bytes are redirected all the
    /// same, but nothing else here is true any more.
    pub punt: u32,
    /// [`AUDIO_HEADER_PASSED`], [`VIDEO_HEADER_PASSED`].
    pub flags: u32,
    /// Of the first two bytes of an open audio or video message: how many are still to come.
    pub peek_left: u32,
    /// The part of them that has come.
    pub peek: u32,
    /// Messages whose first chunk has begun.
    pub messages: u64,
    /// By chunk stream id; 0 and 1 are not used.
    pub streams: [ChunkStream; CHUNK_STREAMS],
}

/// One chunk stream of a [`Walk`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkStream {
    /// Length of its last message.
    pub length: u32,
    /// Payload bytes of its open message that come in later chunks; 0 if none is open.
    pub later: u32,
    /// Message type of its last message.
    pub kind: u32,
    /// The extended timestamp of its last header, which type 3 chunks then repeat; 0 for none.
    pub extended: u32,
    /// Absolute time of its last message, milliseconds modulo 2^32.
    pub timestamp: u32,
    /// What a type 3 header that begins a message adds to `timestamp`.
    pub delta: u32,
    /// Message stream id of its last message.
    pub msid: u32,
    /// Zero.
    pub padding: u32,
}

/// Why a [`Walk`] has ended.
pub mod punt {
    /// A basic header of two or three bytes (chunk stream id 64 and above).
    pub const CSID: u32 = 1;
    /// A Set Chunk Size or Abort that is not 4 bytes, or whose value is out of range.
    pub const CONTROL: u32 = 2;
    /// A header of type 0, 1 or 2 inside of a message.
    pub const HEADER: u32 = 3;
    /// An extended timestamp that need not be one, or that a type 3 chunk does not repeat.
    pub const EXTENDED: u32 = 4;
    /// The bytes could not be read.
    pub const UNREADABLE: u32 = 5;
}

/// A type 0 timestamp, as the delta of the type 3 messages behind it (RTMP 1.0 section 5.3.1.2.4).
///
/// FFmpeg and GStreamer write it so. Old librtmp and nginx-rtmp mean "same timestamp"; a large one
/// can only be the latter.
pub const fn first_delta(timestamp: u32) -> u32 {
    if timestamp < MAX_FIRST_DELTA { timestamp } else { 0 }
}

/// Type 0 timestamps from here on are not believed to be a delta as well, milliseconds.
const MAX_FIRST_DELTA: u32 = 10_000;

/// Whether a message of type `kind` that begins with these two bytes changes how what follows is
/// decoded: a sequence header, legacy (FLV annex E.4) or enhanced (Enhanced RTMP v2), also of a
/// multitrack message. One behind a `ModEx` prefix is not seen.
pub const fn is_header(kind: u32, first: u8, second: u8) -> bool {
    let track = second & 0x0f;
    match kind {
        AUDIO => match (first >> 4, first & 0x0f) {
            (10, _) => second == 0,
            (9, 5) => track == 0,
            (9, packet) => packet == 0,
            _ => false,
        },
        VIDEO if first & 0x80 != 0 => match first & 0x0f {
            6 => track == 0 || track == 5,
            packet => packet == 0 || packet == 5,
        },
        // AVC, and HEVC as some write it; not a command frame
        VIDEO => matches!(first & 0x0f, 7 | 12) && first >> 4 != 5 && second == 0,
        _ => false,
    }
}

/// The flags of [`Walk::flags`] that a header in a message of type `kind` sets.
pub const fn header_passed(kind: u32) -> u32 {
    match kind {
        AUDIO => AUDIO_HEADER_PASSED,
        VIDEO => VIDEO_HEADER_PASSED,
        AGGREGATE => AUDIO_HEADER_PASSED | VIDEO_HEADER_PASSED,
        _ => 0,
    }
}

/// Message types that [`is_header`] knows.
pub const AUDIO: u32 = 8;
/// As [`AUDIO`].
pub const VIDEO: u32 = 9;
/// Several messages in one; nobody looks into it here, so it may hold a header.
pub const AGGREGATE: u32 = 22;

// === impl Walk ===

impl Walk {
    /// A connection's first chunk, or any chunk border where no chunk stream has state.
    pub const fn new(chunk_size: u32) -> Self {
        const UNUSED: ChunkStream = ChunkStream {
            length: 0,
            later: 0,
            kind: 0,
            extended: 0,
            timestamp: 0,
            delta: 0,
            msid: 0,
            padding: 0,
        };
        Self {
            chunk_size,
            chunk_left: 0,
            csid: 0,
            header_len: 0,
            header: [0; 16],
            control_left: 0,
            control_value: 0,
            punt: 0,
            flags: 0,
            peek_left: 0,
            peek: 0,
            messages: 0,
            streams: [UNUSED; CHUNK_STREAMS],
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    use super::{Control, Event, Stat, Walk};

    // SAFETY: `repr(C)` of integers with explicit padding: every bit pattern is a value.
    unsafe impl aya::Pod for Control {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Event {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Stat {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Walk {}
}
