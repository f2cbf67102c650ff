//! Which path carries a leg: the kernel where it pays, user space where it does not.
//!
//! For bursts of 2.5 KB the kernel path costs what a copy costs, for bursts of 100 KB a fifth. So
//! the path follows from the bytes that come at a time, with a wide gap between going and coming
//! back, and a pause after each return.

use std::time::Duration;

use tokio::time::Instant;

use super::Mode;

/// When a leg may go to the kernel.
#[derive(Debug)]
pub(super) struct Choice {
    mode: Mode,
    /// Reads since the leg came to user space.
    reads: u32,
    /// Not before.
    earliest: Option<Instant>,
    /// After the next return that the target's slowness causes.
    pause: Duration,
    /// The kernel does not take these sockets.
    refused: bool,
    /// Segments and bytes at the last look.
    seen: (u64, u64),
}

impl Choice {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, reads: 0, earliest: None, pause: FIRST_PAUSE, refused: false, seen: (0, 0) }
    }

    /// A leg that is in user space has read something.
    pub(super) fn saw_read(&mut self) {
        self.reads = self.reads.saturating_add(1);
    }

    /// Whether to go to the kernel now; `average`: bytes of a read.
    pub(super) fn wants_kernel(&self, average: usize) -> bool {
        let pays = match self.mode {
            Mode::Always => true,
            Mode::Auto => self.reads >= READS && average >= LARGE,
            Mode::Never => false,
        };
        pays && !self.refused && self.earliest.is_none_or(|earliest| Instant::now() >= earliest)
    }

    /// Whether to come back: what comes is small. `segments` and `bytes` since it went.
    pub(super) fn wants_user(&mut self, segments: u64, bytes: u64) -> bool {
        let (last_segments, last_bytes) = self.seen;
        let (segments_now, bytes_now) = (segments - last_segments, bytes - last_bytes);
        if self.mode != Mode::Auto || segments_now < SEGMENTS {
            return false;
        }
        self.seen = (segments, bytes);
        bytes_now / segments_now < SMALL
    }

    /// The leg is in the kernel.
    pub(super) fn went(&mut self) {
        self.seen = (0, 0);
    }

    /// It is back, because what came was small, or it was asked to.
    pub(super) fn came_back(&mut self) {
        self.reads = 0;
    }

    /// It is back because the target is slow: each time it stays longer.
    pub(super) fn was_slow(&mut self) {
        self.reads = 0;
        self.earliest = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }

    /// The kernel had no room, for this pair or for any.
    pub(super) fn was_busy(&mut self) {
        self.reads = 0;
        self.earliest = Some(Instant::now() + FIRST_PAUSE);
    }

    /// The kernel does not take the sockets: never ask again.
    pub(super) fn was_refused(&mut self) {
        self.refused = true;
    }
}

/// Bytes of a read from which on the kernel pays.
const LARGE: usize = 32 << 10;
/// Reads before that is believed.
const READS: u32 = 32;
/// Bytes of a segment under which it does not. Network cards deliver a large burst in pieces.
const SMALL: u64 = 4 << 10;
/// Segments before that is believed.
const SEGMENTS: u64 = 256;
/// How long a leg stays in user space after its target was slow, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
