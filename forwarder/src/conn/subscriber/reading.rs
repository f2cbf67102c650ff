//! What a subscriber is at: its place in the log, its own bytes, and what it writes next.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Instant;

use super::{Sent, SubscriberOptions};
use crate::hub::{Entry, EntryKind, Form, LOG_MSID, LagLimits, Start, Target, View, Wish};
use crate::rtmp::flv;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) position: Position,
    /// The offset of `position` may lie inside a message.
    pub(super) mid_message: bool,
    pub(super) private: Private,
    pub(super) blocked_since: Option<Instant>,
    pub(super) paused: bool,
    /// It gets no more than up to this border.
    pub(super) until: Option<u64>,
    pub(super) audio: bool,
    pub(super) video: Video,
    /// It started in the past and may be that much further behind until it has caught up.
    pub(super) slack: Option<LagLimits>,
    pub(super) failed: Option<io::Error>,
    pub(super) sent: Sent,
    pub(super) counted: Sent,
}

/// Whether a subscriber gets video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Video {
    Unwanted,
    /// From the next keyframe on: it has missed what the frames before that lean on.
    AtKeyframe,
    Wanted,
}

/// Bytes for this subscriber alone. They go out at message borders only.
#[derive(Debug, Default)]
pub(super) struct Private {
    pub(super) bytes: VecDeque<u8>,
    /// Its first message is partly written, so nothing may come before the rest.
    pub(super) started: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Position {
    /// Reads on at this offset.
    At(u64),
    /// Has not joined: what an FLV stream begins with is not known yet.
    Opening { since: Instant },
    /// Waits for a keyframe behind `after`.
    Keyframe { after: u64, since: Instant },
    /// Skips, as soon as its private bytes (the rest of the message it was in) are out.
    Leaving { from: u64, epoch: u32, limit: u64 },
}

/// What one write consists of: a part of the log, private bytes, another part of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) before: (u64, u64),
    pub(super) private: usize,
    pub(super) after: (u64, u64),
}

impl Plan {
    pub(super) fn fill<'a>(
        &self,
        own: &'a Private,
        view: &'a View,
        out: &mut [IoSlice<'a>],
    ) -> usize {
        let mut n = view.slices(self.before.0, self.before.1, out);
        if self.private > 0 {
            let (front, back) = own.bytes.as_slices();
            for part in [front, back] {
                if !part.is_empty() && n < out.len() {
                    out[n] = IoSlice::new(part);
                    n += 1;
                }
            }
        }
        n + view.slices(self.after.0, self.after.1, &mut out[n..])
    }
}

impl Inner {
    /// What stands in front of all it reads, of the kinds of media that `form` has.
    pub(super) fn open(&mut self, form: Form) {
        if let Form::Tags { audio, video } = form {
            self.private.bytes.extend(flv::file_header(audio, video));
        }
    }

    /// Takes its place in the log.
    pub(super) fn join(&mut self, view: &mut View, options: &SubscriberOptions, now: Instant) {
        let start = view.start(Wish::Join { gop_cache: options.gop_cache });
        if let Start::At { offset, .. } = &start {
            let behind = view.head().saturating_sub(*offset);
            let time = options.lag.time + view.lag(*offset, now);
            let bytes = options.lag.bytes.saturating_add(usize::try_from(behind).unwrap_or(0));
            self.slack = (behind > 0).then_some(LagLimits { time, bytes });
        }
        self.begin(start, options.target, now);
    }

    pub(super) fn begin(&mut self, start: Start, target: Target, now: Instant) {
        self.mid_message = false;
        self.position = match start {
            Start::At { offset, headers } => {
                if let Some((headers, timestamp)) = headers {
                    let mut bytes = Vec::new();
                    headers.encode(timestamp, target, &mut bytes);
                    self.private.bytes.extend(bytes);
                }
                Position::At(offset)
            }
            Start::Keyframe { after } => {
                let since = match self.position {
                    Position::Keyframe { since, .. } => since,
                    _ => now,
                };
                Position::Keyframe { after, since }
            }
        };
    }

    /// Turns a wait or a skip into an offset if its time has come.
    pub(super) fn settle(&mut self, view: &mut View, options: &SubscriberOptions, now: Instant) {
        let start = match self.position {
            Position::At(_) => return,
            Position::Opening { since } => {
                let (seen, timeout) = (view.seen(), now >= since + options.keyframe_wait);
                if seen.sure || timeout {
                    let any = seen.audio || seen.video;
                    let seen = Form::Tags { audio: seen.audio, video: seen.video };
                    self.open(if any { seen } else { options.target.form });
                    self.join(view, options, now);
                }
                return;
            }
            Position::Keyframe { .. } | Position::Leaving { .. }
                if self.paused || self.until.is_some() =>
            {
                return;
            }
            Position::Keyframe { after, .. } if view.has_keyframe(after) => {
                view.start(Wish::Keyframe { after })
            }
            Position::Keyframe { since, .. } if now >= since + options.keyframe_wait => {
                view.start(Wish::LiveEdge)
            }
            Position::Keyframe { .. } => return,
            Position::Leaving { .. } if !self.private.bytes.is_empty() => return,
            Position::Leaving { from, epoch, limit } => {
                view.start(Wish::Skip { from, epoch, limit })
            }
        };
        self.begin(start, options.target, now);
    }

    pub(super) fn leave_if_behind(&mut self, view: &View, lag: &LagLimits, now: Instant) {
        let Position::At(offset) = self.position else { return };
        if offset >= self.end(view) {
            self.slack = None;
            return;
        }
        let limit = view.limit(self.slack.as_ref().unwrap_or(lag), now);
        if offset < limit && self.leave(view, limit, limit) {
            self.sent.skips += 1;
        }
    }

    /// Leaves the log after the message it is in, if that ends before `border`.
    pub(super) fn leave(&mut self, view: &View, limit: u64, border: u64) -> bool {
        let Position::At(offset) = self.position else { return false };
        let end = self.border(view, offset);
        if end.is_some_and(|end| end >= border || end == view.head()) {
            return false;
        }
        let rest = end.and_then(|end| Some((end, copied(view, offset, end)?)));
        let Some((end, rest)) = rest else {
            self.failed = Some(rest_lost());
            return false;
        };
        self.private.started |= !rest.is_empty();
        let mut rest = VecDeque::from(rest);
        rest.append(&mut self.private.bytes);
        self.private.bytes = rest;
        self.mid_message = false;
        self.slack = None;
        let epoch = view.epoch_at(end).unwrap_or(u32::MAX);
        self.position = Position::Leaving { from: end, epoch, limit };
        true
    }

    /// Where what it may get ends for now.
    pub(super) fn end(&self, view: &View) -> u64 {
        self.until.map_or(view.head(), |until| until.min(view.head()))
    }

    /// The next message border at or behind `offset`, where it stands.
    pub(super) fn border(&self, view: &View, offset: u64) -> Option<u64> {
        if self.mid_message { view.message_end(offset) } else { Some(offset) }
    }

    pub(super) fn wants_copy(&self, options: &SubscriberOptions) -> bool {
        !self.audio || self.video != Video::Wanted || options.target.msid != LOG_MSID
    }

    /// Copies messages out of the log into the private bytes, for a reader that does not want all
    /// of them or not under the log's message stream id.
    pub(super) fn copy(&mut self, view: &View, options: &SubscriberOptions) {
        while let Position::At(offset) = self.position {
            self.mid_message = self.mid_message && self.border(view, offset) != Some(offset);
            let full = self.private.bytes.len() >= COPY_AT_ONCE;
            if full || self.paused || self.mid_message || offset >= self.end(view) {
                return;
            }
            if self.video == Video::AtKeyframe
                && let Some((headers, timestamp)) = view.gop_at(offset)
            {
                self.video = Video::Wanted;
                let mut bytes = Vec::new();
                headers.encode(timestamp, options.target, &mut bytes);
                self.private.bytes.extend(bytes);
            }
            if !self.wants_copy(options) {
                return;
            }
            let Some(entry) = view.entry(offset) else { return };
            if self.wants(&entry) {
                self.copy_message(view, &entry, options.target.msid);
            }
            self.position = Position::At(entry.end());
        }
    }

    pub(super) fn wants(&self, entry: &Entry) -> bool {
        match entry.kind {
            EntryKind::Audio => self.audio,
            EntryKind::Video => self.video == Video::Wanted,
            EntryKind::Data => true,
        }
    }

    pub(super) fn copy_message(&mut self, view: &View, entry: &Entry, msid: u32) {
        let Some(mut bytes) = copied(view, entry.offset, entry.end()) else { return };
        // Of chunks. RTMP 1.0 section 5.3.1.2.1: in a format 0 header behind a one-byte basic header the
        // message stream id stands at 8..12, little endian.
        if let Some(field) = bytes.get_mut(8..12) {
            field.copy_from_slice(&msid.to_le_bytes());
        }
        self.private.bytes.extend(bytes);
    }

    pub(super) fn plan(&self, view: &View, options: &SubscriberOptions) -> Plan {
        let private = self.private.bytes.len();
        let Position::At(offset) = self.position else {
            return Plan { before: (0, 0), private, after: (0, 0) };
        };
        let end = self.end(view);
        let open_end = || view.message_end(offset).unwrap_or(offset);
        let head = if self.wants_copy(options) || self.paused {
            if self.mid_message { open_end() } else { offset }
        } else {
            end.max(offset)
        };
        let first = if private > 0 && self.mid_message && !self.private.started {
            open_end()
        } else {
            offset
        };
        Plan { before: (offset, first), private, after: (first, head) }
    }

    pub(super) fn advance_by(&mut self, plan: &Plan, written: u64) {
        self.sent.bytes += written;
        let before = written.min(plan.before.1 - plan.before.0);
        let private = (written - before).min(plan.private as u64);
        let after = written - before - private;
        if private > 0 {
            self.private.bytes.drain(..private as usize);
            self.private.started = !self.private.bytes.is_empty();
            if self.private.bytes.is_empty() {
                self.private.bytes.shrink_to(KEEP_PRIVATE);
            }
        }
        if let Position::At(offset) = &mut self.position {
            *offset += before + after;
            if before + after > 0 {
                // Both parts of a plan end at message borders, the first one only if something
                // is to go in between.
                let at_border = plan.private > 0 && *offset == plan.before.1;
                self.mid_message = !at_border && *offset != plan.after.1;
            }
        }
    }

    pub(super) fn has_more(&self, view: &View) -> bool {
        match self.position {
            Position::At(offset) => !self.paused && offset < self.end(view),
            Position::Leaving { .. } => self.until.is_none(),
            Position::Opening { .. } | Position::Keyframe { .. } => false,
        }
    }
}

/// The bytes of `from..to`; `None` if the view does not hold all of them.
pub(super) fn copied(view: &View, from: u64, to: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(to.checked_sub(from)?).ok()?);
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let mut at = from;
    while at < to {
        let n = view.slices(at, to, &mut slices);
        if n == 0 {
            return None;
        }
        for slice in &slices[..n] {
            bytes.extend_from_slice(slice);
            at += slice.len() as u64;
        }
    }
    Some(bytes)
}

pub(super) fn rest_lost() -> io::Error {
    io::Error::other("the rest of a message was lost")
}

/// Slices of one write: more than a pass ever has unless a reader is megabytes behind.
pub(super) const MAX_SLICES: usize = 16;

/// How much is copied ahead for a reader that needs a copy.
pub(super) const COPY_AT_ONCE: usize = 64 << 10;

/// Capacity an idle subscriber keeps for private bytes.
pub(super) const KEEP_PRIVATE: usize = 256;
