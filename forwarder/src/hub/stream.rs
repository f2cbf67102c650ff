//! One stream: its log, its publisher's state, its counters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::headers::Headers;
use super::log::{Appended, Log, LogLimits, Tail, Wake};
use super::pool::Pool;
use super::view::View;
use crate::rtmp::flv::Codec;
use crate::rtmp::message::MediaMessage;
use crate::rtmp::url::StreamKey;

/// What a stream is told when it comes into being; the same for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Bounds of its log.
    pub log: LogLimits,
    /// How long its readers wait for a publisher to come back.
    pub grace: Duration,
}

/// Whether a stream has a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It never had one; its readers wait.
    Waiting,
    /// It has one.
    Live,
    /// It had one; its readers wait until then.
    Grace(Instant),
    /// It is over. A new publisher makes a new stream.
    Ended,
}

/// Who publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Address of the publisher, for display.
    pub peer: String,
    /// Its id, for display; empty: it is no client of ours.
    pub client: String,
    /// tcUrl of its `connect`; may be empty.
    pub tc_url: String,
    /// Parameters after the stream's name, without the `?`; may be empty.
    pub param: String,
    /// Ids of the servers the stream came through, ours not among them: the loop guard.
    pub path: Vec<String>,
}

/// Counters of a stream since it came into being.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub received_bytes: AtomicU64,
    pub messages: AtomicU64,
    pub frames: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub skips: AtomicU64,
    pub players: AtomicUsize,
}

/// What is behind the stream's lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) log: Log,
    source: Source,
    video: Codec,
    audio: Codec,
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    key: StreamKey,
    options: StreamOptions,
    born: Instant,
    state: Mutex<State>,
    /// Counters, updated without the lock.
    pub counters: Counters,
}

impl Stream {
    pub(super) fn new(
        key: StreamKey,
        options: StreamOptions,
        pool: &Arc<Pool>,
        now: Instant,
    ) -> Self {
        let state = State {
            phase: Phase::Waiting,
            log: Log::new(options.log, Arc::clone(pool)),
            source: Source::default(),
            video: Codec::default(),
            audio: Codec::default(),
        };
        let counters = Counters::default();
        Self { key, options, born: now, state: Mutex::new(state), counters }
    }

    /// Its name.
    pub fn key(&self) -> &StreamKey {
        &self.key
    }

    /// Chunk size of its log, bytes.
    pub fn chunk_size(&self) -> u32 {
        self.options.log.chunk_size
    }

    /// Registers a reader; `wake` is called when there is more to read or the phase changed.
    pub fn view(self: &Arc<Self>, wake: Box<dyn Wake>) -> View {
        let tail = {
            let mut state = self.lock();
            let tail = Arc::new(Tail::new(wake, state.log.head));
            state.log.tails.push(Arc::clone(&tail));
            tail
        };
        View::new(Arc::clone(self), tail)
    }

    /// Its phase now.
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Who publishes, or published last.
    pub fn source(&self) -> Source {
        self.lock().source.clone()
    }

    /// Video and audio codec seen last.
    pub fn codecs(&self) -> (Codec, Codec) {
        let state = self.lock();
        (state.video, state.audio)
    }

    /// Metadata and sequence headers in force.
    pub fn headers(&self) -> Arc<Headers> {
        Arc::clone(&self.lock().log.headers)
    }

    /// Bytes its log holds, without what slow shards hold beside it.
    pub fn log_bytes(&self) -> u64 {
        self.lock().log.held_bytes()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it was `age_ms` milliseconds old.
    pub(super) fn time_at(&self, age_ms: u64) -> Instant {
        self.born + Duration::from_millis(age_ms)
    }

    pub(super) fn age_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_millis().try_into().unwrap_or(u64::MAX)
    }

    pub(super) fn detach(&self, tail: &Arc<Tail>) {
        self.lock().log.tails.retain(|other| !Arc::ptr_eq(other, tail));
    }

    /// Takes the one place of a publisher; false if it is taken.
    pub(super) fn begin(&self, source: Source) -> Option<bool> {
        let mut state = self.lock();
        match state.phase {
            Phase::Live => return Some(false),
            Phase::Ended => return None,
            Phase::Waiting | Phase::Grace(_) => state.phase = Phase::Live,
        }
        state.source = source;
        state.log.notify();
        Some(true)
    }

    /// Ends it if its grace time is over, or at once if there is no publisher and `now` is `None`.
    pub(super) fn expire(&self, now: Option<Instant>) -> bool {
        let mut state = self.lock();
        let over = match (state.phase, now) {
            (Phase::Grace(until), Some(now)) => now >= until,
            (Phase::Grace(_) | Phase::Waiting, None) => true,
            (Phase::Ended, _) => return true,
            _ => false,
        };
        if over {
            state.phase = Phase::Ended;
            state.log.notify();
        }
        over
    }

    fn end_of_publish(&self, now: Instant) {
        let mut state = self.lock();
        let grace = self.options.grace;
        state.phase = if grace.is_zero() { Phase::Ended } else { Phase::Grace(now + grace) };
        state.log.end_of_publish();
        state.log.notify();
    }
}

/// What was appended since the readers were woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Unsaid {
    #[default]
    Nothing,
    LittleAudio,
    More,
}

/// The right to append to a stream. Dropping it is the end of the publish.
#[derive(Debug)]
pub struct Publisher {
    stream: Arc<Stream>,
    unsaid: Unsaid,
    on_change: Arc<super::Changes>,
}

impl Publisher {
    pub(super) fn new(stream: Arc<Stream>, on_change: Arc<super::Changes>) -> Self {
        on_change.bump();
        Self { stream, unsaid: Unsaid::default(), on_change }
    }

    /// Appends a message; readers learn of it at the next [`Self::flush`]. A message without a
    /// body is dropped: it says nothing and some players stop at it.
    ///
    /// Errors: no memory for the log; the publish must end.
    pub fn append(&mut self, media: &MediaMessage<'_>, now: Instant) -> std::io::Result<()> {
        if media.payload.is_empty() {
            return Ok(());
        }
        let now_ms = self.stream.age_ms(now);
        let mut state = self.stream.lock();
        let Appended { video, audio, frame, little_audio } = state.log.append(media, now_ms)?;
        if video != Codec::Unknown {
            state.video = video;
        }
        if audio != Codec::Unknown {
            state.audio = audio;
        }
        drop(state);
        let unsaid = if little_audio { Unsaid::LittleAudio } else { Unsaid::More };
        self.unsaid = self.unsaid.max(unsaid);
        let counters = &self.stream.counters;
        counters.received_bytes.fetch_add(media.payload.len() as u64, Ordering::Relaxed);
        counters.messages.fetch_add(1, Ordering::Relaxed);
        if frame {
            counters.frames.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Wakes the readers, if there is something new for them.
    pub fn flush(&mut self) {
        match std::mem::take(&mut self.unsaid) {
            Unsaid::Nothing => {}
            Unsaid::LittleAudio => self.stream.lock().log.notify_of_little_audio(),
            Unsaid::More => self.stream.lock().log.notify(),
        }
    }

    /// Says that the messages come from somebody else now, who goes on with the same stream.
    pub fn set_source(&mut self, source: Source) {
        self.stream.lock().source = source;
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stream.end_of_publish(Instant::now());
        self.on_change.bump();
    }
}
