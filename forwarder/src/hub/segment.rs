//! One fixed piece of a media log: memory that one thread appends to and every thread reads.
//!
//! This is one of the few modules with `unsafe`: bytes below `written` are never changed again, so
//! they may be read through a shared reference while the writer goes on behind them.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{MmapMut, MmapRaw};

use super::index::Entry;
use super::pool::Pool;

/// Bytes in a segment. Small, because each stream holds up to two that are partly of use: the one
/// its GOP begins in and the one that is being written. Large enough that a pass rarely meets a
/// border.
pub const SEGMENT_BYTES: usize = 64 << 10;

/// A piece of a log. Offsets are the log's own: bytes since the stream began.
///
/// Its memory goes to another segment when it is dropped. So whoever has the kernel read from it
/// beyond the end of a call holds the `Arc` for as long.
#[derive(Debug)]
pub struct Segment {
    /// Only taken by `drop`.
    map: Option<MmapRaw>,
    pool: Arc<Pool>,
    base: u64,
    /// Where the message ends that began in an earlier segment; `base` if none did.
    lead_end: u64,
    /// Header epoch of the message before this segment's first entry.
    lead_epoch: u32,
    /// Messages of the log before this segment's first entry.
    first_sequence: u64,
    /// Bytes that are valid: `0 <= written <= SEGMENT_BYTES`, only ever grows.
    written: AtomicUsize,
    entries: Mutex<Vec<Entry>>,
}

impl Segment {
    /// Offset of the first byte.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Offset one past the last byte that may be read.
    pub fn end(&self) -> u64 {
        self.base + self.written.load(Ordering::Acquire) as u64
    }

    /// Where the message ends that was open at `base`.
    pub fn lead_end(&self) -> u64 {
        self.lead_end
    }

    /// Header epoch of the message before the first that begins here: the one that was open at
    /// `base`, if one was.
    pub fn lead_epoch(&self) -> u32 {
        self.lead_epoch
    }

    /// Number, counted from the stream's first, of the first message that begins here.
    pub fn first_sequence(&self) -> u64 {
        self.first_sequence
    }

    /// Gives back what lies behind `end`: a message that could not be written to its end. Only for
    /// a segment whose writer is gone; nobody has read what lies there.
    pub fn truncate(&self, end: u64) {
        let len = usize::try_from(end.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.written.fetch_min(len, Ordering::AcqRel);
    }

    /// The messages that begin in this segment.
    pub fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of `from..to` that lies in this segment and is written.
    pub fn slice(&self, from: u64, to: u64) -> &[u8] {
        let end = self.end();
        let from = from.clamp(self.base, end);
        let to = to.clamp(from, end);
        let (start, len) = ((from - self.base) as usize, (to - from) as usize);
        let Some(map) = &self.map else { return &[] };
        // SAFETY: `start + len <= written <= SEGMENT_BYTES`, so the range lies in the mapping, which
        // is this segment's as long as `self` is borrowed: it leaves in `drop` only, by `&mut self`.
        // The Acquire load in `end` pairs with the Release store in `SegmentWriter::put`: these
        // bytes were stored before, and no one stores to them again while the segment has them.
        unsafe { std::slice::from_raw_parts(map.as_ptr().add(start), len) }
    }
}

impl Drop for Segment {
    /// Nobody else has the segment: neither a reader nor its writer, for those hold the `Arc`.
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            self.pool.put(map);
        }
    }
}

/// The one writer of a segment.
#[derive(Debug)]
pub struct SegmentWriter {
    segment: Arc<Segment>,
}

impl SegmentWriter {
    /// A new segment at `base`, of memory from `pool` or from the kernel, whose errors these are (out
    /// of memory, too many mappings).
    pub(super) fn new(
        pool: &Arc<Pool>,
        base: u64,
        lead_end: u64,
        lead_epoch: u32,
        first_sequence: u64,
    ) -> io::Result<Self> {
        let fresh = || Ok(MmapRaw::from(MmapMut::map_anon(SEGMENT_BYTES)?));
        let map = pool.take().map_or_else(fresh, io::Result::Ok)?;
        let segment = Segment {
            map: Some(map),
            pool: Arc::clone(pool),
            base,
            lead_end,
            lead_epoch,
            first_sequence,
            written: AtomicUsize::new(0),
            entries: Mutex::new(Vec::new()),
        };
        Ok(Self { segment: Arc::new(segment) })
    }

    /// The segment, for readers.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Appends as much of `bytes` as there is room for, and says how much that was.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let written = self.segment.written.load(Ordering::Relaxed);
        let len = bytes.len().min(SEGMENT_BYTES - written);
        let Some(map) = &self.segment.map else { return 0 };
        // SAFETY: `written + len <= SEGMENT_BYTES`, the length of the mapping. This range lies at
        // and above `written`, which no reader looks at, and `&mut self` on the segment's only
        // writer (not `Clone`, made with the segment) keeps other stores away. `bytes` cannot
        // overlap it: shared slices only ever show what is below `written`.
        unsafe {
            let target = map.as_mut_ptr().add(written);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, len);
        }
        self.segment.written.store(written + len, Ordering::Release);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_only_what_was_written() {
        let mut writer = SegmentWriter::new(&Pool::new(), 1000, 1000, 0, 0).unwrap();
        assert_eq!(writer.put(b"hello"), 5);
        let segment = Arc::clone(writer.segment());
        assert_eq!(segment.slice(0, u64::MAX), b"hello");
        assert_eq!(segment.slice(1002, 1004), b"ll");
        assert_eq!(segment.slice(2000, 3000), b"");
        assert_eq!(writer.put(b" world"), 6);
        assert_eq!(segment.slice(1000, 1011), b"hello world");
    }

    #[test]
    fn stops_at_its_end() {
        let mut writer = SegmentWriter::new(&Pool::new(), 0, 0, 0, 0).unwrap();
        assert_eq!(writer.put(&vec![7; SEGMENT_BYTES - 2]), SEGMENT_BYTES - 2);
        assert_eq!(writer.put(b"abc"), 2);
        assert_eq!(writer.put(b"c"), 0);
        assert_eq!(writer.segment().end(), SEGMENT_BYTES as u64);
    }

    #[test]
    fn memory_is_used_again_only_when_the_last_one_is_gone() {
        let pool = Pool::new();
        let mut writer = SegmentWriter::new(&pool, 0, 0, 0, 0).unwrap();
        writer.put(&[1; 1000]);
        let (one, other) = (Arc::clone(writer.segment()), Arc::clone(writer.segment()));
        drop((writer, one));
        assert_eq!(pool.len(), 0, "one has it still");
        let place = other.slice(0, 1).as_ptr();
        let mut next = SegmentWriter::new(&pool, 0, 0, 0, 0).unwrap();
        next.put(&[2; SEGMENT_BYTES]);
        assert!(other.slice(0, u64::MAX).iter().all(|&byte| byte == 1));
        drop(other);
        assert_eq!(pool.len(), 1);

        let mut again = SegmentWriter::new(&pool, 5000, 5000, 0, 7).unwrap();
        assert_eq!(pool.len(), 0);
        assert_eq!(again.segment().slice(0, u64::MAX), b"", "what another wrote is not shown");
        assert!(again.segment().entries().is_empty());
        again.put(b"abc");
        assert_eq!(again.segment().slice(0, u64::MAX), b"abc");
        assert_eq!(again.segment().slice(5000, 5001).as_ptr(), place, "it is another one");
    }

    #[test]
    fn a_pool_gives_back_what_is_not_needed() {
        let pool = Pool::new();
        let some: Vec<_> =
            (0..64).map(|_| SegmentWriter::new(&pool, 0, 0, 0, 0).unwrap()).collect();
        drop(some);
        assert_eq!(pool.len(), 64);
        pool.trim();
        assert_eq!(pool.len(), 64, "they just came");
        for _ in 0..10 {
            let busy: Vec<_> =
                (0..64).map(|_| SegmentWriter::new(&pool, 0, 0, 0, 0).unwrap()).collect();
            drop(busy);
            pool.trim();
        }
        assert_eq!(pool.len(), 64, "all are needed now and then");
        for _ in 0..100 {
            pool.trim();
        }
        assert_eq!(pool.len(), 0);
        drop((0..1000).map(|_| SegmentWriter::new(&pool, 0, 0, 0, 0).unwrap()).collect::<Vec<_>>());
        assert!(pool.len() < 1000, "it has a bound");
    }

    #[test]
    fn another_thread_reads_while_one_writes() {
        let mut writer = SegmentWriter::new(&Pool::new(), 0, 0, 0, 0).unwrap();
        let segment = Arc::clone(writer.segment());
        let reader = std::thread::spawn(move || {
            loop {
                let seen = segment.slice(0, u64::MAX);
                assert!(seen.iter().enumerate().all(|(i, b)| *b == (i % 251) as u8));
                if seen.len() == SEGMENT_BYTES {
                    return;
                }
                std::thread::yield_now();
            }
        });
        let all: Vec<u8> = (0..SEGMENT_BYTES).map(|i| (i % 251) as u8).collect();
        for part in all.chunks(1777) {
            writer.put(part);
        }
        reader.join().unwrap();
    }
}
