//! One stream: its log, its publisher's state, its counters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::info;

use super::Busy;
use super::form::Form;
use super::headers::Headers;
use super::log::{LogLimits, Tail, Wake};
use super::logs::Logs;
use super::pool::Pool;
use super::recent::Recent;
use super::seats::{Pulse, Rules, Seats, Second, Ticket};
use super::switch::{Left, Switch, Taken};
use super::timeline::{Clock, Timeline};
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
    pub switches: AtomicU64,
    pub players: AtomicUsize,
}

/// A publisher that stands by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Who it is.
    pub source: Source,
    /// It could go on now.
    pub ready: bool,
    /// How long nothing came from it, milliseconds.
    pub silent_ms: u64,
    /// Bytes of payload that are kept of it.
    pub held_bytes: u64,
}

/// What is behind the stream's lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) log: Logs,
    pub(super) seats: Seats,
    pub(super) timeline: Timeline,
    pub(super) clock: Clock,
    /// What the readers got last, kept where there may be more than one publisher.
    pub(super) recent: Recent,
    /// Who publishes brings what the readers have already.
    pub(super) resuming: bool,
    /// Of who publishes, or did so last.
    pub(super) source: Source,
    pub(super) video: Codec,
    pub(super) audio: Codec,
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
            log: Logs::new(options.log, pool),
            seats: Seats::default(),
            timeline: Timeline::default(),
            clock: Clock::default(),
            recent: Recent::default(),
            resuming: false,
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
        self.view_as(Form::Chunks, wake)
    }

    /// As [`Self::view`], of the messages in another form. The first who reads them so has them
    /// written again from the newest keyframe on; their log stays for some seconds after the last.
    pub fn view_as(self: &Arc<Self>, form: Form, wake: Box<dyn Wake>) -> View {
        let tail = self.lock().log.attach(form, wake);
        View::new(Arc::clone(self), form, tail)
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
        Arc::clone(&self.lock().log.chunks().headers)
    }

    /// Bytes its logs hold, without what slow shards hold beside it.
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
        self.lock().log.detach(tail);
    }

    /// Lets go of logs that nobody has read for a while.
    pub(super) fn trim(&self, now: Instant) {
        self.lock().log.trim(now);
    }

    /// Takes a place of a publisher; without rules only if nobody has one. `None`: it is over.
    pub(super) fn begin(
        &self,
        source: &Source,
        rules: Option<Rules>,
        now: Instant,
    ) -> Option<Result<Ticket, Busy>> {
        let now_ms = self.age_ms(now);
        let state = &mut *self.lock();
        match (state.phase, rules) {
            (Phase::Ended, _) => return None,
            (Phase::Live, None) => return Some(Err(Busy)),
            _ => {}
        }
        let rules = rules.unwrap_or_default();
        let Some(is_vacated) = state.seats.admit(rules, now_ms) else { return Some(Err(Busy)) };
        if is_vacated {
            state.end_of_publish();
        }
        let ticket = state.seats.take(source.clone(), now_ms);
        // Who comes back to a stream that shall go on has its times moved as one who stood by.
        if state.phase == Phase::Waiting || rules.second == Second::Refuse {
            state.seats.activate(ticket.id, &Headers::default());
            state.phase = Phase::Live;
            state.source = source.clone();
            (state.timeline, state.clock) = (Timeline::default(), Clock::default());
        }
        state.log.notify();
        Some(Ok(ticket))
    }

    /// Publishers that stand by, in the order in which they would go on.
    pub fn standbys(&self, now: Instant) -> Vec<Standby> {
        let now_ms = self.age_ms(now);
        let state = self.lock();
        let active = state.seats.active().map(|seat| seat.id);
        let others = state.seats.all.iter().filter(|seat| Some(seat.id) != active);
        let standby = others.map(|seat| Standby {
            source: seat.source.clone(),
            ready: seat.reserve.can_start(state.log.chunks().has_video()),
            silent_ms: now_ms.saturating_sub(seat.pulse.last_ms()),
            held_bytes: seat.reserve.held_bytes() as u64,
        });
        standby.collect()
    }

    /// Ends it if its grace time is over, or at once if there is no publisher and `now` is `None`.
    pub(super) fn expire(&self, now: Option<Instant>) -> bool {
        let mut state = self.lock();
        let over = match (state.phase, now) {
            // One who stands by may go on yet.
            (Phase::Grace(until), Some(now)) => now >= until && state.seats.all.is_empty(),
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

    /// The publisher with this id is gone.
    fn leave(&self, id: u64, now: Instant) -> Option<Switch> {
        let mut state = self.lock();
        let switch = match state.leave(id, self.age_ms(now)) {
            Left::Standby => return None,
            Left::Heir(taken) => self.count(taken),
            Left::Nobody => {
                let grace = self.options.grace;
                let over = grace.is_zero() && state.seats.all.is_empty();
                state.phase = if over { Phase::Ended } else { Phase::Grace(now + grace) };
                state.end_of_publish();
                None
            }
        };
        state.log.notify();
        switch
    }

    fn count(&self, taken: Taken) -> Option<Switch> {
        let counters = &self.counters;
        counters.received_bytes.fetch_add(taken.bytes, Ordering::Relaxed);
        counters.messages.fetch_add(taken.messages, Ordering::Relaxed);
        if taken.frames > 0 {
            counters.frames.fetch_add(taken.frames, Ordering::Relaxed);
        }
        taken.switch
    }
}

impl State {
    /// Forgets what belonged to a publisher after whom nobody goes on.
    fn end_of_publish(&mut self) {
        self.log.end_of_publish();
        self.recent.clear();
        self.resuming = false;
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

/// The right to append to a stream, or to stand by for it. Dropping it is the end of the publish.
#[derive(Debug)]
pub struct Publisher {
    stream: Arc<Stream>,
    id: u64,
    pulse: Arc<Pulse>,
    /// Fails when the right is lost; `None`: it has failed.
    place: Option<oneshot::Receiver<()>>,
    /// Something was appended since the readers were woken.
    unsaid: Unsaid,
    on_change: Arc<super::Changes>,
}

impl Publisher {
    pub(super) fn new(stream: Arc<Stream>, ticket: Ticket, on_change: Arc<super::Changes>) -> Self {
        on_change.bump();
        let Ticket { id, pulse, place } = ticket;
        Self { stream, id, pulse, place: Some(place), unsaid: Unsaid::default(), on_change }
    }

    /// Appends a message; readers learn of it at the next [`Self::flush`]. A message without a
    /// body is dropped: it says nothing and some players stop at it. Of one who stands by it is
    /// kept, or makes it go on.
    ///
    /// Errors: no memory for the log; the publish must end.
    pub fn append(&mut self, media: &MediaMessage<'_>, now: Instant) -> std::io::Result<()> {
        if media.payload.is_empty() {
            return Ok(());
        }
        let now_ms = self.stream.age_ms(now);
        let taken = self.stream.lock().take(self.id, media, now_ms)?;
        if taken.messages == 0 && taken.switch.is_none() {
            return Ok(());
        }
        self.unsaid = self.unsaid.max(if taken.more { Unsaid::More } else { Unsaid::LittleAudio });
        if let Some(switch) = self.stream.count(taken) {
            self.tell(&switch);
        }
        Ok(())
    }

    /// Something came from the publisher, perhaps not a whole message yet.
    pub fn alive(&self, now: Instant) {
        self.pulse.beat(self.stream.age_ms(now));
    }

    /// Waits until another publisher has its place.
    pub async fn ousted(&mut self) {
        if let Some(place) = &mut self.place {
            // Nothing is ever sent.
            _ = place.await;
            self.place = None;
        }
    }

    /// Whether another one publishes.
    pub fn stands_by(&self) -> bool {
        self.stream.lock().seats.active().is_some_and(|seat| seat.id != self.id)
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

    fn tell(&self, switch: &Switch) {
        let Switch { from, to, why, is_return, gap, put_in, offset_ms } = switch;
        let (stream, why, ms) = (self.stream.key(), why.word(), gap.as_millis() as u64);
        if *is_return {
            info!(%stream, from, to, ms, put_in, offset_ms, "publish goes on");
        } else {
            self.stream.counters.switches.fetch_add(1, Ordering::Relaxed);
            self.on_change.count_switch();
            info!(%stream, from, to, why, ms, put_in, offset_ms, "publisher switched");
        }
        self.on_change.bump();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(switch) = self.stream.leave(self.id, Instant::now()) {
            self.tell(&switch);
        }
        self.on_change.bump();
    }
}
