//! A shard's view of one log: the bytes its subscribers may still need, held alive by the shard.
//!
//! The view is refreshed once a pass, under the log's lock; between two refreshes it does not
//! change, and everything below is read from it without a lock.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::form::Form;
use super::headers::Headers;
use super::index::{Entry, EntryKind};
use super::log::{Gop, LITTLE, Log, Seen, Tail};
use super::segment::Segment;
use super::stream::{Phase, Stream};
use crate::rtmp::Timestamp;

/// Most messages a reader may be behind. Bounds the index where bytes and time do not: a flood of
/// tiny messages.
const MAX_LAG_MESSAGES: u64 = 50_000;

/// How far a reader may be behind before it skips to the newest keyframe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagLimits {
    /// By arrival, not by timestamps: a publisher with odd ones must not defeat the bound.
    pub time: Duration,
    /// Bytes.
    pub bytes: usize,
}

/// Where a subscriber starts, or goes on after a skip.
#[derive(Clone, Debug)]
pub enum Start {
    /// At this offset, after these headers at this time; none when the log itself has them next.
    At {
        /// Offset of a message.
        offset: u64,
        /// Headers that must be sent first.
        headers: Option<(Arc<Headers>, Timestamp)>,
    },
    /// There is video, but no keyframe to start at yet: wait for one behind this offset.
    Keyframe {
        /// The head when the wait began.
        after: u64,
    },
}

/// What a subscriber asks of [`View::start`].
#[derive(Clone, Copy, Debug)]
pub enum Wish {
    /// To begin. `gop_cache` off: never in the past.
    Join {
        /// Whether to begin at the newest keyframe.
        gop_cache: bool,
    },
    /// To begin at a keyframe behind `after`, if one has come.
    Keyframe {
        /// As in [`Start::Keyframe`].
        after: u64,
    },
    /// To begin at the head whatever is there: no keyframe came in time.
    LiveEdge,
    /// To go on after leaving the log at `from`, a message border, because of a lag.
    Skip {
        /// Where the reader stopped.
        from: u64,
        /// Header epoch it has.
        epoch: u32,
        /// A keyframe behind this is too old to go on at.
        limit: u64,
    },
}

/// The reading end of a stream, for one shard.
#[derive(Debug)]
pub struct View {
    stream: Arc<Stream>,
    form: Form,
    tail: Arc<Tail>,
    /// In order of their bases, and without gaps from `floor` on.
    segments: VecDeque<Arc<Segment>>,
    /// Where the log went on after this shard was too slow to see all of it; else 0.
    floor: u64,
    head: u64,
    sequence: u64,
    gop: Option<Gop>,
    headers: Arc<Headers>,
    last_timestamp: Timestamp,
    has_video: bool,
    seen: Seen,
    phase: Phase,
    /// The limit found last, since the last refresh: a pass asks for each of its subscribers.
    limit_found: Cell<Option<(LagLimits, u64)>>,
}

impl View {
    pub(super) fn new(stream: Arc<Stream>, form: Form, tail: Arc<Tail>) -> Self {
        let mut view = Self {
            stream,
            form,
            tail,
            segments: VecDeque::new(),
            floor: 0,
            head: 0,
            sequence: 0,
            gop: None,
            headers: Arc::default(),
            last_timestamp: Timestamp::default(),
            has_video: false,
            seen: Seen::default(),
            phase: Phase::Waiting,
            limit_found: Cell::new(None),
        };
        view.refresh();
        view.trim(view.head);
        view.floor = 0;
        view
    }

    /// Whether a little audio ([`Self::is_little_audio`]) wakes nobody here: who says so looks by
    /// itself in time. What was appended before, the next refresh shows.
    pub fn set_patient(&self, patient: bool) {
        self.tail.set_patient(patient);
    }

    /// Takes over what the log has now.
    pub fn refresh(&mut self) {
        self.take_over(false);
    }

    /// Where a subscriber begins or goes on; what it then reads is held.
    pub fn start(&mut self, wish: Wish) -> Start {
        self.take_over(true);
        match wish {
            Wish::Join { gop_cache } => self.join(gop_cache),
            Wish::Keyframe { after } => match &self.gop {
                Some(gop) if gop.offset >= after => at_gop(gop),
                _ if self.has_video => Start::Keyframe { after },
                _ => self.live_edge(),
            },
            Wish::LiveEdge => self.live_edge(),
            Wish::Skip { from, epoch, limit } => match &self.gop {
                Some(gop) if gop.offset >= from && gop.offset >= limit => {
                    let changed = gop.epoch != epoch;
                    let headers = changed.then(|| (Arc::clone(&gop.headers), gop.timestamp));
                    Start::At { offset: gop.offset, headers }
                }
                _ if self.has_video => Start::Keyframe { after: self.head },
                _ => self.live_edge(),
            },
        }
    }

    /// Headers and time of the newest GOP, if it begins at `offset`.
    pub fn gop_at(&self, offset: u64) -> Option<(&Headers, Timestamp)> {
        let gop = self.gop.as_ref().filter(|gop| gop.offset == offset)?;
        Some((&gop.headers, gop.timestamp))
    }

    /// Whether [`Self::start`] with [`Wish::Keyframe`] would end the wait, as far as is known.
    pub fn has_keyframe(&self, after: u64) -> bool {
        !self.has_video || self.gop.as_ref().is_some_and(|gop| gop.offset >= after)
    }

    fn take_over(&mut self, with_gop: bool) {
        self.tail.looked();
        self.limit_found.set(None);
        let stream = Arc::clone(&self.stream);
        let state = stream.lock();
        self.phase = state.phase;
        // It is there as long as this view is.
        let Some(log) = state.log.of(self.form) else { return };
        let from = match self.segments.back() {
            Some(last) => log.segments.partition_point(|segment| segment.base() <= last.base()),
            None => log.segments.partition_point(|segment| segment.end() <= self.head),
        };
        if let Some(next) = log.segments.get(from) {
            let held = self.segments.back().map_or(self.head, |last| last.end());
            if next.base() > held {
                self.floor = next.base();
            }
        }
        self.segments.extend(log.segments.range(from..).cloned());
        if let Some(gop) = log.gop.as_ref().filter(|_| with_gop) {
            self.reach_back(log, gop.offset);
        }
        self.head = log.head;
        self.sequence = log.sequence;
        self.gop.clone_from(&log.gop);
        self.headers = Arc::clone(&log.headers);
        self.last_timestamp = log.last_timestamp;
        self.has_video = log.has_video();
        self.seen = log.seen();
        self.tail.fetched(log.head);
    }

    /// Takes segments back from the log so that all from `offset` on is held.
    fn reach_back(&mut self, log: &Log, offset: u64) {
        let upto = self.segments.front().map_or(u64::MAX, |first| first.base());
        let older = log.segments.iter().filter(|s| s.base() < upto && s.end() > offset);
        for (at, segment) in older.enumerate() {
            self.segments.insert(at, Arc::clone(segment));
        }
    }

    fn join(&self, gop_cache: bool) -> Start {
        match (&self.gop, self.phase) {
            (Some(gop), Phase::Live) if gop_cache => at_gop(gop),
            (_, Phase::Live) if self.has_video => Start::Keyframe { after: self.head },
            (_, Phase::Live) => self.live_edge(),
            // What comes next is a publisher's beginning, and that brings its headers.
            _ => Start::At { offset: self.head, headers: None },
        }
    }

    fn live_edge(&self) -> Start {
        let headers = Some((Arc::clone(&self.headers), self.last_timestamp));
        Start::At { offset: self.head, headers }
    }

    /// The oldest offset a reader may stand at, as of the last refresh.
    pub fn limit(&self, limits: &LagLimits, now: Instant) -> u64 {
        if let Some((_, limit)) = self.limit_found.get().filter(|(of, _)| of == limits) {
            return limit;
        }
        let limit = self.find_limit(limits, now);
        self.limit_found.set(Some((*limits, limit)));
        limit
    }

    fn find_limit(&self, limits: &LagLimits, now: Instant) -> u64 {
        let time = limits.time.as_millis().try_into().unwrap_or(u64::MAX);
        let horizon = self.stream.age_ms(now).saturating_sub(time);
        let least = self.sequence.saturating_sub(MAX_LAG_MESSAGES);
        let young = self.segments.iter().find_map(|segment| {
            let entries = segment.entries();
            let old = entries.partition_point(|entry| entry.arrived_ms < horizon);
            let many = least.saturating_sub(segment.first_sequence());
            let at = old.max(usize::try_from(many).unwrap_or(usize::MAX));
            entries.get(at).map(|entry| entry.offset)
        });
        let bytes = self.head.saturating_sub(limits.bytes as u64);
        young.unwrap_or(self.head).min(self.head).max(bytes).max(self.floor)
    }

    /// Lets go of what lies before `floor`, the least offset any subscriber needs.
    pub fn trim(&mut self, floor: u64) {
        while self.segments.len() > 1 && self.segment_end(0, &self.segments[0]) <= floor {
            self.segments.pop_front();
        }
    }

    /// Bytes of the log that this view keeps alive.
    pub fn held(&self) -> u64 {
        self.segments.front().map_or(0, |first| self.head.saturating_sub(first.base()))
    }

    /// The bytes of `from..to`, as many slices as fit into `out`; says how many were set.
    pub fn slices<'a>(&'a self, from: u64, to: u64, out: &mut [IoSlice<'a>]) -> usize {
        let (mut n, mut next) = (0, from);
        let first = self.segments.partition_point(|segment| segment.base() <= from);
        for at in first.saturating_sub(1)..self.segments.len() {
            if n == out.len() || self.segments[at].base() >= to {
                break;
            }
            let segment = &self.segments[at];
            if segment.base() > next {
                break;
            }
            let end = self.segment_end(at, segment).min(to);
            let slice = segment.slice(next, end);
            if !slice.is_empty() {
                out[n] = IoSlice::new(slice);
                n += 1;
                next = end;
            }
        }
        n
    }

    /// The end of the message that `offset` lies in; `offset` itself if a message begins there.
    /// `None`: that part of the log is not held.
    pub fn message_end(&self, offset: u64) -> Option<u64> {
        if offset == self.head {
            return Some(offset);
        }
        let segment = self.segment_at(offset)?;
        if offset <= segment.lead_end() {
            return Some(segment.lead_end());
        }
        let entries = segment.entries();
        let after = entries.partition_point(|entry| entry.offset < offset);
        let before = entries.get(after.checked_sub(1)?)?;
        Some(before.end())
    }

    /// The message that begins at `offset`.
    pub fn entry(&self, offset: u64) -> Option<Entry> {
        let segment = self.segment_at(offset)?;
        let entries = segment.entries();
        let at = entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        Some(entries[at])
    }

    /// Header epoch of a reader that has read up to `offset`, a message border.
    pub fn epoch_at(&self, offset: u64) -> Option<u32> {
        let upto = self.segments.partition_point(|segment| segment.base() < offset);
        let segment = match upto.checked_sub(1) {
            Some(last) => &self.segments[last],
            None => self.segments.front().filter(|first| first.base() == offset)?,
        };
        let entries = segment.entries();
        let after = entries.partition_point(|entry| entry.offset < offset);
        // What was read last may have begun before this segment, in one that is let go of.
        let read = after.checked_sub(1).and_then(|at| entries.get(at));
        Some(read.map_or(segment.lead_epoch(), |entry| entry.epoch))
    }

    /// How long ago the message at or before `offset` arrived; zero at the head.
    pub fn lag(&self, offset: u64, now: Instant) -> Duration {
        let arrived = || {
            let segment = self.segment_at(offset)?;
            let entries = segment.entries();
            let after = entries.partition_point(|entry| entry.offset <= offset);
            Some(entries.get(after.saturating_sub(1))?.arrived_ms)
        };
        match arrived() {
            Some(at) if offset < self.head => {
                Duration::from_millis(self.stream.age_ms(now).saturating_sub(at))
            }
            _ => Duration::ZERO,
        }
    }

    /// When the message that begins at `offset` arrived, to the millisecond.
    pub fn arrived(&self, offset: u64) -> Option<Instant> {
        self.entry(offset).map(|entry| self.stream.time_at(entry.arrived_ms))
    }

    /// Whether the stream has video that audio may wait for.
    pub fn has_video(&self) -> bool {
        self.has_video
    }

    /// Whether all there is from `offset` on, a message border, is a little audio of a stream that
    /// has video.
    pub fn is_little_audio(&self, offset: u64) -> bool {
        if !self.has_video || offset >= self.head || self.head - offset > LITTLE {
            return false;
        }
        let mut next = offset;
        while next < self.head {
            match self.entry(next) {
                Some(entry) if entry.kind == EntryKind::Audio => next = entry.end(),
                _ => return false,
            }
        }
        true
    }

    /// Offset one past the last message.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Which kinds of media it has, as of the last refresh.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// The stream's phase at the last refresh.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    fn segment_at(&self, offset: u64) -> Option<&Arc<Segment>> {
        let after = self.segments.partition_point(|segment| segment.base() <= offset);
        self.segments.get(after.checked_sub(1)?)
    }

    /// A segment's end as far as it is part of the log: a failed append may have left bytes behind.
    fn segment_end(&self, at: usize, segment: &Segment) -> u64 {
        let next = self.segments.get(at + 1).map_or(self.head, |next| next.base());
        segment.end().min(next)
    }
}

fn at_gop(gop: &Gop) -> Start {
    let headers = Some((Arc::clone(&gop.headers), gop.timestamp));
    Start::At { offset: gop.offset, headers }
}

impl Drop for View {
    fn drop(&mut self) {
        self.stream.detach(&self.tail);
    }
}
