//! Memory of segments that nobody reads any more, for the next ones.
//!
//! A fresh mapping costs a page fault for every 4 KiB that is written to it, several times what the
//! copy into it costs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapRaw;

/// Most pieces that are kept, 16 MiB: what a few streams of many Mbit/s give back at each keyframe.
const MOST: usize = 256;

/// Pieces for all logs of a hub.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// The last is the one that was given back last: likely still in a cache.
    pieces: Vec<MmapRaw>,
    /// How few there were at a time since the last [`Pool::trim`].
    least: usize,
}

impl Pool {
    /// An empty pool.
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A piece whose bytes are those of somebody else, if there is one.
    pub(super) fn take(&self) -> Option<MmapRaw> {
        let mut free = self.lock();
        let piece = free.pieces.pop();
        free.least = free.least.min(free.pieces.len());
        piece
    }

    /// Gets a piece back.
    pub(super) fn put(&self, piece: MmapRaw) {
        let mut free = self.lock();
        if free.pieces.len() < MOST {
            free.pieces.push(piece);
        }
    }

    /// Gives an eighth of what was not needed since the last time back to the system.
    pub(super) fn trim(&self) {
        let mut free = self.lock();
        let idle = free.least.div_ceil(8);
        // Unmapped when the lock is open again.
        let gone: Vec<MmapRaw> = free.pieces.drain(..idle).collect();
        free.least = free.pieces.len();
        drop(free);
        drop(gone);
    }

    /// Pieces in it.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().pieces.len()
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
