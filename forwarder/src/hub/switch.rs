//! A message of a publisher on its way into the log, or into its reserve; and the switch from one
//! publisher to another.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::headers::Headers;
use super::log::Appended;
use super::recent::fingerprint;
use super::reserve::Reserve;
use super::seats::{Second, Why};
use super::stream::{Phase, State};
use crate::rtmp::Timestamp;
use crate::rtmp::flv::{self, Codec};
use crate::rtmp::message::{MediaKind, MediaMessage};

/// What became of a message.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Appended to the log: messages, video frames and bytes of payload.
    pub(super) messages: u64,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    /// Not all of that is a little audio, for which readers look by themselves.
    pub(super) more: bool,
    pub(super) switch: Option<Switch>,
}

/// That another publisher goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Switch {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) why: Why,
    /// There was nobody, and nobody stood by: the stream had ended, and comes back.
    pub(super) is_return: bool,
    /// How long the readers had got nothing.
    pub(super) gap: Duration,
    /// Messages of the new one that came before the switch and were put in.
    pub(super) put_in: u64,
    /// Milliseconds added to its times, modulo 2^32.
    pub(super) offset_ms: u32,
}

impl State {
    /// Takes a message of the publisher with this id. Errors: no memory for the log.
    pub(super) fn take(
        &mut self,
        id: u64,
        media: &MediaMessage<'_>,
        now_ms: u64,
    ) -> io::Result<Taken> {
        let mut taken = Taken::default();
        let (rules, limits) = (self.seats.rules(), self.log.chunks().limits);
        let Some((seat, is_active)) = self.seats.find(id) else { return Ok(taken) };
        seat.speak(media, rules, now_ms);
        if is_active {
            self.pass(media, now_ms, &mut taken)?;
            return Ok(taken);
        }
        seat.reserve.keep(media, &limits, now_ms);
        let why = self.seats.turn_of(id, self.log.chunks().has_video(), now_ms);
        if let Some(why) = why.filter(|_| self.phase != Phase::Ended) {
            self.switch(id, why, now_ms, &mut taken)?;
        }
        Ok(taken)
    }

    /// The publisher with this id is gone. If another one goes on, says so; if nobody is left the
    /// caller ends the publish.
    pub(super) fn leave(&mut self, id: u64, now_ms: u64) -> Left {
        if !self.seats.leave(id) {
            return Left::Standby;
        }
        let heir = self.seats.heir(self.log.chunks().has_video(), now_ms);
        let Some(heir) = heir.filter(|_| self.phase != Phase::Ended) else { return Left::Nobody };
        let mut taken = Taken::default();
        if self.switch(heir, Why::Ended, now_ms, &mut taken).is_err() {
            // It has lost its seat, and its connection ends with that.
            self.seats.leave(heir);
            return Left::Nobody;
        }
        Left::Heir(taken)
    }

    /// Appends a message of who publishes, unless the readers have it from another one.
    fn pass(&mut self, media: &MediaMessage<'_>, now_ms: u64, taken: &mut Taken) -> io::Result<()> {
        let moved = MediaMessage { timestamp: self.timeline.map(media.timestamp), ..*media };
        if self.resuming {
            let is_header = Headers::default().keep(media);
            let mut headers = Headers::clone(&self.log.chunks().headers);
            let known = if is_header { !headers.keep(media) } else { self.recent.has(&moved) };
            if known {
                return Ok(());
            }
            // A header that is new says nothing about the frames behind it.
            self.resuming = is_header;
        }
        let Appended { video, audio, frame, little_audio } = self.log.append(&moved, now_ms)?;
        if video != Codec::Unknown {
            self.video = video;
        }
        if audio != Codec::Unknown {
            self.audio = audio;
        }
        taken.messages += 1;
        taken.more |= !little_audio;
        taken.frames += u64::from(frame);
        taken.bytes += media.payload.len() as u64;
        if media.kind == MediaKind::Data {
            return Ok(());
        }
        self.clock.note(frame, moved.timestamp, now_ms);
        // Not only while somebody stands by: one who comes brings what was before it.
        if self.seats.rules().second != Second::Refuse {
            self.recent.note(&moved);
        }
        Ok(())
    }

    /// Has `id` publish from now on, beginning with what is kept of it.
    fn switch(&mut self, id: u64, why: Why, now_ms: u64, taken: &mut Taken) -> io::Result<()> {
        let headers = Arc::clone(&self.log.chunks().headers);
        let Some((seat, _)) = self.seats.find(id) else { return Ok(()) };
        let reserve = std::mem::take(&mut seat.reserve);
        let is_return = !std::mem::replace(&mut seat.is_second, true);
        let from = std::mem::replace(&mut self.source, seat.source.clone()).peer;
        self.seats.activate(id, &headers);
        self.phase = Phase::Live;
        let gap = Duration::from_millis(now_ms.saturating_sub(self.clock.arrived_ms));
        let skipped = self.recognised(&reserve);
        let offset_ms = match (skipped, reserve.messages().next(), reserve.messages().next_back()) {
            (0, Some(first), Some(last)) => {
                self.timeline.join(&self.clock, now_ms, first.timestamp, last.timestamp)
            }
            _ => self.timeline.moved(Timestamp(0)).0,
        };
        self.resuming = false;
        if skipped == 0 {
            self.log.begin_group();
        }
        let first = reserve.messages().nth(skipped).or_else(|| reserve.messages().next_back());
        let first = first.map_or(Timestamp(0), |first| first.timestamp);
        self.put_headers(reserve.headers(skipped > 0), first, now_ms, taken)?;
        let before = taken.messages;
        for media in reserve.messages().skip(skipped) {
            self.pass(&media, now_ms, taken)?;
        }
        // It is behind, and brings the rest of what is there.
        self.resuming = skipped > 0 && skipped == reserve.len();
        let (to, put_in) = (self.source.peer.clone(), taken.messages - before);
        taken.switch = Some(Switch { from, to, why, is_return, gap, put_in, offset_ms });
        Ok(())
    }

    /// How many messages of `reserve` the readers have, because it is the same stream at the same
    /// times: all up to the last one that they know.
    fn recognised(&self, reserve: &Reserve) -> usize {
        let known = self.recent.set();
        let wanted = if reserve.has_keyframe() { MediaKind::Video } else { MediaKind::Audio };
        let is_known = |media: &MediaMessage<'_>| {
            let moved = MediaMessage { timestamp: self.timeline.moved(media.timestamp), ..*media };
            known.contains(&fingerprint(&moved, true))
        };
        // Audio alone, such as silence, may look the same in streams that are not.
        let same = |media: &MediaMessage<'_>| {
            let frame =
                media.kind == MediaKind::Video && flv::video(media.payload).header.is_none();
            (frame || wanted == MediaKind::Audio) && media.kind == wanted && is_known(media)
        };
        if !reserve.messages().any(|media| same(&media)) {
            return 0;
        }
        let last = reserve.messages().enumerate().filter(|(_, media)| is_known(media)).last();
        last.map_or(0, |(at, _)| at + 1)
    }

    /// Brings the readers' headers to `wanted`: what is different goes into the log.
    fn put_headers(
        &mut self,
        wanted: &Headers,
        first: Timestamp,
        now_ms: u64,
        taken: &mut Taken,
    ) -> io::Result<()> {
        let before = self.log.replace_headers(wanted);
        for (kind, payload) in wanted.beyond(&before) {
            let media =
                MediaMessage { kind, timestamp: first, msid: super::LOG_MSID, payload: &payload };
            self.pass(&media, now_ms, taken)?;
        }
        Ok(())
    }
}

/// What is left behind by a publisher that is gone.
#[derive(Debug)]
pub(super) enum Left {
    /// Who publishes is still there.
    Standby,
    /// Another one goes on.
    Heir(Taken),
    /// Nobody publishes.
    Nobody,
}
