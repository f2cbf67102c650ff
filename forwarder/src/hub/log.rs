//! The media log: each message of a stream once, already as its readers get it.
//!
//! An append-only sequence of bytes in segments. Every message is contiguous and leans on none before
//! it (chunks begin with a format 0 header), so any message border is a legal place to start reading,
//! and every reader gets the same bytes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::form::Form;
use super::headers::{Headers, Slot, is_metadata};
use super::index::{Entry, EntryKind};
use super::pool::Pool;
use super::segment::{SEGMENT_BYTES, Segment, SegmentWriter};
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::Message;
use crate::rtmp::flv::{self, Codec, Groups, Tracks};
use crate::rtmp::message::{MediaKind, MediaMessage};

/// Audio messages in a row after which a stream counts as audio only; SRS guesses with the same
/// number (about 2.5 s of AAC).
pub(super) const AUDIO_ONLY_AFTER: u32 = 115;

/// Longest GOP that is kept for late joiners, by arrival.
pub(super) const MAX_GOP_MS: u64 = 30_000;

/// A log may always hold so much for readers that have not looked yet: two of the largest
/// messages, so that no bound in the configuration keeps a large keyframe from everybody.
const LEAST_BOUND: usize = 16 << 20;

/// A little audio: at most so many bytes, two segments as networks carry them.
pub(super) const LITTLE: u64 = 2800;

/// The message stream id in every log. Our server answers the first createStream with it.
pub const LOG_MSID: u32 = 1;

/// Bounds of one stream's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Chunk size of the log for its whole life, bytes.
    pub chunk_size: u32,
    /// A GOP of more bytes is not kept.
    pub gop_bytes: usize,
    /// A GOP of more messages is not kept.
    pub gop_messages: usize,
}

/// Where the newest GOP begins.
#[derive(Clone, Debug)]
pub struct Gop {
    /// Offset of its keyframe.
    pub offset: u64,
    /// Timestamp of its keyframe.
    pub timestamp: Timestamp,
    /// Header epoch at its keyframe.
    pub epoch: u32,
    /// Headers in force at its keyframe.
    pub headers: Arc<Headers>,
    sequence: u64,
    arrived_ms: u64,
}

/// Something to call when there is more to read. Must be cheap and must not block.
pub trait Wake: Send + Sync {
    /// There is more.
    fn wake(&self);
}

/// One reader's (a shard's) registration with a log.
pub struct Tail {
    wake: Box<dyn Wake>,
    pending: AtomicBool,
    /// It looks by itself in time for a little audio.
    patient: AtomicBool,
    fetched: AtomicU64,
}

impl Tail {
    pub(super) fn new(wake: Box<dyn Wake>, at: u64) -> Self {
        let [pending, patient] = [false; 2].map(AtomicBool::new);
        Self { wake, pending, patient, fetched: AtomicU64::new(at) }
    }

    /// Wakes the reader once until it looks again.
    pub(super) fn notify(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.wake.wake();
        }
    }

    pub(super) fn looked(&self) {
        self.pending.store(false, Ordering::Release);
    }

    pub(super) fn set_patient(&self, patient: bool) {
        self.patient.store(patient, Ordering::Release);
    }

    pub(super) fn fetched(&self, head: u64) {
        self.fetched.store(head, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("fetched", &self.fetched).finish_non_exhaustive()
    }
}

/// What an append was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Video codec seen, if this was video.
    pub video: Codec,
    /// Audio codec seen, if this was audio.
    pub audio: Codec,
    /// It is a video frame.
    pub frame: bool,
    /// It is audio, and a little audio of a stream with video is all that came since all readers were
    /// woken.
    pub little_audio: bool,
}

/// The log itself; its stream holds it behind a mutex.
#[derive(Debug)]
pub struct Log {
    pub(super) form: Form,
    pub(super) limits: LogLimits,
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) head: u64,
    pub(super) sequence: u64,
    pub(super) epoch: u32,
    /// Of the last message.
    last_epoch: u32,
    pub(super) headers: Arc<Headers>,
    pub(super) gop: Option<Gop>,
    groups: Groups,
    /// Of the last frame of audio and of video.
    codecs: [Codec; 2],
    pub(super) last_timestamp: Timestamp,
    pub(super) tails: Vec<Arc<Tail>>,
    writer: Option<SegmentWriter>,
    pool: Arc<Pool>,
    video_seen: bool,
    audio_seen: bool,
    audio_run: u32,
    /// Bytes since all readers were woken, if they are a little audio.
    little: u64,
}

/// Kinds of media that a stream has, as far as they have been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// There is audio, or a header for it.
    pub audio: bool,
    /// There is video, or a header for it.
    pub video: bool,
    /// What has not been seen by now is not there: headers come before the first frame.
    pub sure: bool,
}

impl Log {
    pub(super) fn new(form: Form, limits: LogLimits, pool: Arc<Pool>) -> Self {
        Self {
            form,
            limits,
            segments: VecDeque::new(),
            head: 0,
            sequence: 0,
            epoch: 0,
            last_epoch: 0,
            headers: Arc::default(),
            gop: None,
            groups: Groups::default(),
            codecs: [Codec::default(); 2],
            last_timestamp: Timestamp::default(),
            tails: Vec::new(),
            writer: None,
            pool,
            video_seen: false,
            audio_seen: false,
            audio_run: 0,
            little: 0,
        }
    }

    /// An empty log of another form, with the headers of this one's newest GOP.
    pub(super) fn begin_as(&self, form: Form) -> Self {
        let mut log = Self::new(form, self.limits, Arc::clone(&self.pool));
        if let Some(gop) = &self.gop {
            log.headers = Arc::new(gop.headers.only(form));
        }
        log
    }

    /// Whether readers begin at keyframes.
    pub(super) fn gop_is_wanted(&self) -> bool {
        self.form.has(MediaKind::Video)
    }

    /// Takes over what `other` knows of the stream, after the messages that the two have in common.
    pub(super) fn catch_up_with(&mut self, other: &Self) {
        let headers = other.headers.only(self.form);
        if *self.headers != headers {
            self.new_epoch(headers);
        }
        self.last_timestamp = other.last_timestamp;
        self.codecs = other.codecs;
        self.audio_seen = other.audio_seen && self.form.has(MediaKind::Audio);
        self.video_seen = other.video_seen && self.form.has(MediaKind::Video);
        self.audio_run = if self.form.has(MediaKind::Audio) { other.audio_run } else { 0 };
    }

    /// Appends one message that arrived at `now_ms`, if it is of a kind that the log has. Errors: no
    /// memory for another segment; the log is then whole up to the message before.
    pub(super) fn append(&mut self, media: &MediaMessage<'_>, now_ms: u64) -> io::Result<Appended> {
        if !self.form.has(media.kind) {
            return Ok(Appended::default());
        }
        let (mut seen, begins_group) = self.classify(media);
        let (kind, timestamp) = match media.kind {
            MediaKind::Audio => (EntryKind::Audio, media.timestamp),
            MediaKind::Video => (EntryKind::Video, media.timestamp),
            MediaKind::Data if is_metadata(media.payload) => (EntryKind::Data, Timestamp(0)),
            MediaKind::Data => (EntryKind::Data, media.timestamp),
        };
        let offset = self.head;
        let home = self.write(media, timestamp)?;
        let len = u32::try_from(self.head - offset).unwrap_or(u32::MAX);
        let entry = Entry { offset, len, arrived_ms: now_ms, epoch: self.epoch, kind };
        home.entries().push(entry);
        self.last_epoch = self.epoch;
        if media.kind != MediaKind::Data {
            self.last_timestamp = media.timestamp;
        }
        if begins_group {
            self.gop = Some(Gop {
                offset,
                timestamp: media.timestamp,
                epoch: self.epoch,
                headers: Arc::clone(&self.headers),
                sequence: self.sequence,
                arrived_ms: now_ms,
            });
        }
        self.little += u64::from(len);
        seen.little_audio &= self.has_video() && self.little <= LITTLE;
        self.sequence += 1;
        self.bound_gop(now_ms);
        self.reclaim();
        Ok(seen)
    }

    /// Tells every reader that there is more.
    pub(super) fn notify(&mut self) {
        self.little = 0;
        for tail in &self.tails {
            tail.notify();
        }
    }

    /// Tells every reader that there is a little audio more, but those that look in time by themselves.
    pub(super) fn notify_of_little_audio(&self) {
        for tail in self.tails.iter().filter(|tail| !tail.patient.load(Ordering::Acquire)) {
            tail.notify();
        }
    }

    /// Forgets what belonged to a publisher that is gone: its GOP and headers. Readers keep what
    /// they have not read yet.
    pub(super) fn end_of_publish(&mut self) {
        self.forget_gop();
        self.headers = Arc::default();
        self.epoch = self.epoch.wrapping_add(1);
        self.video_seen = false;
        self.audio_seen = false;
        self.audio_run = 0;
        self.reclaim();
    }

    /// Whether there is video to wait for.
    pub(super) fn has_video(&self) -> bool {
        let recent = self.video_seen && self.audio_run < AUDIO_ONLY_AFTER;
        recent || (self.headers.has_video() && self.audio_run == 0)
    }

    /// What has been seen of it.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            audio: self.audio_seen,
            video: self.video_seen || self.headers.has_video(),
            sure: self.video_seen || self.audio_run >= AUDIO_ONLY_AFTER,
        }
    }

    /// Bytes held.
    pub(super) fn held_bytes(&self) -> u64 {
        self.segments.front().map_or(0, |first| self.head - first.base())
    }

    fn write(
        &mut self,
        media: &MediaMessage<'_>,
        timestamp: Timestamp,
    ) -> io::Result<Arc<Segment>> {
        let chunk_size = self.limits.chunk_size;
        let (csid, kind) = (media.kind.csid(), media.kind.type_id());
        let message = Message { csid, timestamp, kind, msid: LOG_MSID, payload: media.payload };
        let form = self.form;
        let end = self.head + form.encoded_len(&message, chunk_size) as u64;
        let mut home = None;
        let (mut at, mut failure) = (self.head, None);
        form.encode(&message, chunk_size, &mut |mut piece| {
            while !piece.is_empty() && failure.is_none() {
                let put = self.writer.as_mut().map_or(0, |writer| writer.put(piece));
                if put > 0 && home.is_none() {
                    home = self.segments.back().cloned();
                }
                piece = &piece[put..];
                at += put as u64;
                if !piece.is_empty() {
                    failure = self.roll(at, if home.is_some() { end } else { at }).err();
                }
            }
        });
        match (failure, home) {
            (None, Some(home)) => {
                self.head = at;
                Ok(home)
            }
            (failure, _) => {
                // What was written of this message lies beyond `head`; nobody has read it, and the
                // publisher is closed. Its successor starts on a segment of its own.
                self.writer = None;
                self.segments.retain(|segment| segment.base() < self.head);
                if let Some(last) = self.segments.back() {
                    last.truncate(self.head);
                }
                Err(failure.unwrap_or_else(|| io::ErrorKind::OutOfMemory.into()))
            }
        }
    }

    fn roll(&mut self, base: u64, lead_end: u64) -> io::Result<()> {
        let open = lead_end > base;
        let epoch = if open { self.epoch } else { self.last_epoch };
        let sequence = self.sequence + u64::from(open);
        let writer = SegmentWriter::new(&self.pool, base, lead_end, epoch, sequence)?;
        self.segments.push_back(Arc::clone(writer.segment()));
        self.writer = Some(writer);
        Ok(())
    }

    /// Keeps headers, and says what was seen and whether this begins a group of pictures.
    fn classify(&mut self, media: &MediaMessage<'_>) -> (Appended, bool) {
        let mut seen = Appended::default();
        match media.kind {
            MediaKind::Video => {
                let tag = flv::video(media.payload);
                seen.video = tag.codec;
                if let Some(kind) = tag.header {
                    let slot = Slot::new(MediaKind::Video, tag.tracks, kind, tag.codec);
                    self.keep(slot, media.payload);
                } else if !tag.transient {
                    self.note_codec(MediaKind::Video, tag.tracks, tag.codec);
                    seen.frame = true;
                    self.video_seen = true;
                    self.audio_run = 0;
                }
                return (seen, tag.keyframe && self.groups.begins(tag.tracks));
            }
            MediaKind::Audio => {
                let tag = flv::audio(media.payload);
                seen.audio = tag.codec;
                self.audio_seen = true;
                if let Some(kind) = tag.header {
                    let slot = Slot::new(MediaKind::Audio, tag.tracks, kind, tag.codec);
                    self.keep(slot, media.payload);
                } else if !tag.transient {
                    seen.little_audio = true;
                    self.note_codec(MediaKind::Audio, tag.tracks, tag.codec);
                    self.audio_run = self.audio_run.saturating_add(1);
                    if self.audio_run == AUDIO_ONLY_AFTER {
                        self.forget_gop();
                    }
                }
            }
            MediaKind::Data if is_metadata(media.payload) => {
                let mut headers = Headers::clone(&self.headers);
                if headers.set_metadata(media.payload) {
                    self.new_epoch(headers);
                }
            }
            MediaKind::Data => {}
        }
        (seen, false)
    }

    fn keep(&mut self, slot: Slot, payload: &[u8]) {
        let mut headers = Headers::clone(&self.headers);
        if headers.set(slot, payload) {
            self.new_epoch(headers);
        }
    }

    /// Takes note of the codec of a frame, so that no late joiner gets the header of another one.
    ///
    /// Only where a FourCC names it: one byte of a message that means nothing is no reason to be
    /// without headers.
    fn note_codec(&mut self, medium: MediaKind, tracks: Tracks, codec: Codec) {
        let last = &mut self.codecs[usize::from(medium == MediaKind::Video)];
        let changed = std::mem::replace(last, codec) != codec;
        if changed
            && matches!(codec, Codec::FourCc(_))
            && self.headers.has_outdated(medium, tracks, codec)
        {
            let mut headers = Headers::clone(&self.headers);
            headers.drop_outdated(medium, tracks, codec);
            self.new_epoch(headers);
        }
    }

    fn new_epoch(&mut self, headers: Headers) {
        self.headers = Arc::new(headers);
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// The next keyframe begins a group of pictures, of whatever track it is.
    pub(super) fn begin_group(&mut self) {
        self.groups.forget();
    }

    /// Makes `headers` those in force, and gives those before. Readers learn of it when what has
    /// changed is appended.
    pub(super) fn replace_headers(&mut self, headers: &Headers) -> Arc<Headers> {
        let before = Arc::clone(&self.headers);
        if *before != *headers {
            self.new_epoch(headers.clone());
        }
        before
    }

    fn bound_gop(&mut self, now_ms: u64) {
        let over = self.gop.as_ref().is_some_and(|gop| {
            self.head - gop.offset > self.limits.gop_bytes as u64
                || self.sequence - gop.sequence > self.limits.gop_messages as u64
                || now_ms.saturating_sub(gop.arrived_ms) > MAX_GOP_MS
        });
        if over {
            self.forget_gop();
        }
    }

    fn forget_gop(&mut self) {
        self.gop = None;
        self.groups.forget();
    }

    /// Drops the segments that neither the GOP nor a reader needs, and the oldest ones whoever
    /// needs them when the log is over its bound: a reader that slow skips anyway.
    fn reclaim(&mut self) {
        let gop = self.gop.as_ref().map_or(self.head, |gop| gop.offset);
        let fetched = self.tails.iter().map(|tail| tail.fetched.load(Ordering::Relaxed));
        let floor = fetched.fold(gop, u64::min);
        let most = self.limits.gop_bytes.max(LEAST_BOUND) as u64 + SEGMENT_BYTES as u64;
        while let Some(first) = self.segments.front() {
            let unused = first.end() <= floor && self.segments.len() > 1;
            if !unused && self.head - first.base() <= most {
                return;
            }
            self.segments.pop_front();
        }
    }
}
