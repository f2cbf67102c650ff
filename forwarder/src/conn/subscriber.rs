//! A subscriber: one socket that reads a log, as an offset and a few private bytes.

mod reading;

use std::cell::{Cell, RefCell, RefMut};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use self::reading::{Inner, MAX_SLICES, Plan, Position, Private, Video, copied, rest_lost};
use crate::hub::{Form, LagLimits, Phase, Target, View};

/// How a subscriber wants to be served.
#[derive(Clone, Copy, Debug)]
pub struct SubscriberOptions {
    /// When it skips.
    pub lag: LagLimits,
    /// Whether it may start in the past.
    pub gop_cache: bool,
    /// How long it waits for a first keyframe.
    pub keyframe_wait: Duration,
    /// What it reads, and how its own headers are encoded.
    pub target: Target,
    /// Of an FLV stream: what it begins with names the kinds of media that are there, and waits until
    /// that is known, at most `keyframe_wait`; else it names those that the form has.
    pub guess_av: bool,
    /// Counts as a player.
    pub player: bool,
}

/// How far a subscriber is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Its socket takes nothing at the moment; since then nothing was written.
    pub blocked_since: Option<Instant>,
    /// All it was to get has been written.
    pub drained: bool,
    /// Its socket failed.
    pub failed: Option<String>,
    /// Bytes written.
    pub sent_bytes: u64,
    /// Times it skipped.
    pub skips: u64,
    /// How long it has been behind.
    pub lag: Duration,
    /// How many bytes, its own ones too.
    pub queued: u64,
    /// Its stream has a publisher.
    pub live: bool,
    /// Its stream is over.
    pub ended: bool,
}

/// One reader of a log.
#[derive(Debug)]
pub(super) struct Subscriber {
    io: Rc<TcpStream>,
    /// Of `io`, which keeps it open.
    fd: RawFd,
    options: SubscriberOptions,
    inner: RefCell<Inner>,
    /// Where its lane has it.
    pub(super) seat: Cell<Seat>,
    /// Rung when its owner should look at its state.
    pub(super) bell: Notify,
}

/// A subscriber's place on its lane.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seat {
    /// Among those who stand at the end of the log together, and skip alike.
    Follower { group: usize, at: usize },
    /// Among those with a position of their own.
    Other(usize),
}

/// What a subscriber was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) bytes: u64,
    pub(super) skips: u64,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.skips += more.skips;
    }
}

enum Written {
    All,
    Some,
    Blocked,
}

impl Subscriber {
    /// A subscriber that sends `lead` first.
    pub(super) fn new(io: Rc<TcpStream>, options: SubscriberOptions, lead: Vec<u8>) -> Self {
        let inner = Inner {
            position: Position::At(0),
            mid_message: false,
            private: Private { bytes: lead.into(), started: false },
            blocked_since: None,
            paused: false,
            until: None,
            audio: true,
            video: Video::Wanted,
            slack: None,
            failed: None,
            sent: Sent::default(),
            counted: Sent::default(),
        };
        let (inner, seat) = (RefCell::new(inner), Cell::new(Seat::Other(0)));
        Self { fd: io.as_raw_fd(), io, options, inner, seat, bell: Notify::new() }
    }

    /// Its socket.
    pub(super) fn socket(&self) -> RawFd {
        self.fd
    }

    /// Whether it has got all up to `head` and has nothing of its own to get, so that what comes
    /// next goes to it as it is.
    pub(super) fn may_follow(&self, head: u64) -> bool {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let at_head = matches!(inner.position, Position::At(offset) if offset == head);
        let idle = inner.private.bytes.is_empty() && !inner.mid_message && !inner.paused;
        let open = inner.blocked_since.is_none() && inner.failed.is_none();
        // What comes next is not for one that ends here.
        let goes_on = inner.until.is_none() && !inner.wants_copy(&self.options);
        let follows = at_head && idle && open && goes_on;
        if follows {
            inner.slack = None;
        }
        follows
    }

    /// It was sent all up to `offset`, and that has been counted.
    pub(super) fn catch_up(&self, offset: u64) {
        let inner = &mut *self.inner.borrow_mut();
        if let Position::At(at) = &mut inner.position {
            let bytes = offset.saturating_sub(*at);
            inner.sent.bytes += bytes;
            inner.counted.bytes += bytes;
            *at = offset;
        }
    }

    /// What came of a write of all from where it is to `head`.
    pub(super) fn took(&self, head: u64, result: io::Result<usize>) {
        let inner = &mut *self.inner.borrow_mut();
        let Position::At(offset) = inner.position else { return };
        let plan = Plan { before: (offset, offset), private: 0, after: (offset, head) };
        match result {
            Ok(written) => inner.advance_by(&plan, written as u64),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                inner.failed = Some(error);
                self.bell.notify_one();
            }
        }
    }

    pub(super) fn options(&self) -> &SubscriberOptions {
        &self.options
    }

    /// Takes its place in the log.
    pub(super) fn join(&self, view: &mut View, now: Instant) {
        let mut inner = self.inner.borrow_mut();
        match self.options.target.form {
            Form::Tags { .. } if self.options.guess_av => {
                inner.position = Position::Opening { since: now };
            }
            form => {
                inner.open(form);
                inner.join(view, &self.options, now);
            }
        }
    }

    /// The least offset it still needs; `None`: nothing of the log.
    pub(super) fn floor(&self) -> Option<u64> {
        match self.inner.borrow().position {
            Position::At(offset) => Some(offset),
            _ => None,
        }
    }

    /// Writes what there is for it, until all is out or its socket blocks.
    pub(super) fn advance(&self, view: &mut View, now: Instant) {
        let mut inner = self.inner.borrow_mut();
        if inner.failed.is_some() {
            return;
        }
        inner.leave_if_behind(view, &self.options.lag, now);
        if inner.blocked_since.is_some() && inner.failed.is_none() {
            return;
        }
        while inner.failed.is_none() {
            inner.settle(view, &self.options, now);
            match self.write(&mut inner, view) {
                Ok(Written::Some) => {}
                // The end of the stream, or its own, is to be looked at once all is out.
                Ok(Written::All) if view.phase() == Phase::Ended || inner.until.is_some() => break,
                Ok(Written::All) => return,
                Ok(Written::Blocked) => {
                    inner.blocked_since = Some(now);
                    break;
                }
                Err(error) => inner.failed = Some(error),
            }
        }
        self.bell.notify_one();
    }

    /// Its socket takes bytes again.
    pub(super) fn unblock(&self, view: &mut View, now: Instant) {
        let since = self.inner.borrow_mut().blocked_since.take();
        let before = self.inner.borrow().sent.bytes;
        self.advance(view, now);
        let mut inner = self.inner.borrow_mut();
        if inner.sent.bytes == before && inner.blocked_since.is_some() {
            inner.blocked_since = since;
        }
    }

    /// Queues bytes of its own, whole messages. False: too many are queued already.
    pub(super) fn push(&self, bytes: &[u8]) -> bool {
        let private = &mut self.inner.borrow_mut().private;
        private.bytes.extend(bytes);
        private.bytes.len() <= MAX_PRIVATE
    }

    /// Ends it where the log ends now: what is in its queue is what it still gets, or less if that
    /// grows too old.
    pub(super) fn end_here(&self, view: &View) {
        let mut inner = self.inner.borrow_mut();
        inner.until.get_or_insert(view.head());
    }

    /// Stops reading the log, or goes on at the newest keyframe.
    pub(super) fn pause(&self, paused: bool, view: &View) {
        let mut inner = self.inner.borrow_mut();
        let was = std::mem::replace(&mut inner.paused, paused);
        if was && !paused {
            // Not a skip that anyone counts: the player asked for it.
            inner.leave(view, 0, u64::MAX);
        }
    }

    /// Chooses what it gets. Video that is wanted again begins at the next keyframe, the rest goes
    /// on meanwhile.
    pub(super) fn select(&self, audio: Option<bool>, video: Option<bool>) {
        let mut inner = self.inner.borrow_mut();
        inner.audio = audio.unwrap_or(inner.audio);
        inner.video = match (inner.video, video) {
            (before, None) => before,
            (_, Some(false)) => Video::Unwanted,
            (Video::Unwanted, Some(true)) => Video::AtKeyframe,
            (before, Some(true)) => before,
        };
    }

    /// Ends it, and gives what must be sent before anything else on its socket: the rest of the
    /// message it is in and its private bytes. Errors: that rest is not held any more.
    pub(super) fn finish(&self, view: &View) -> io::Result<Vec<u8>> {
        let mut inner = self.inner.borrow_mut();
        let mut bytes = Vec::new();
        if let Position::At(offset) = inner.position {
            let end = inner.border(view, offset).ok_or_else(rest_lost)?;
            bytes = copied(view, offset, end).ok_or_else(rest_lost)?;
        }
        bytes.extend(std::mem::take(&mut inner.private.bytes));
        Ok(bytes)
    }

    /// What it was sent since this was asked last.
    pub(super) fn take_sent(&self) -> Sent {
        let mut inner = self.inner.borrow_mut();
        let sent = inner.sent;
        let before = std::mem::replace(&mut inner.counted, sent);
        Sent { bytes: sent.bytes - before.bytes, skips: sent.skips - before.skips }
    }

    /// Since when its socket takes nothing.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.inner.borrow().blocked_since
    }

    /// How far it is.
    pub(super) fn state(&self, view: &View, now: Instant) -> State {
        let inner = self.inner.borrow();
        // A paused reader gets no more than the message it is in.
        let (at_end, lag) = match inner.position {
            Position::At(offset) => {
                let paused_here = || inner.paused && inner.border(view, offset) == Some(offset);
                (offset >= inner.end(view) || paused_here(), view.lag(offset, now))
            }
            Position::Opening { .. } | Position::Keyframe { .. } => (true, Duration::ZERO),
            Position::Leaving { from, .. } => {
                (inner.paused || inner.until.is_some(), view.lag(from, now))
            }
        };
        let behind = match inner.position {
            Position::At(offset) => inner.end(view).saturating_sub(offset),
            _ => 0,
        };
        let drained = at_end && inner.private.bytes.is_empty();
        State {
            blocked_since: inner.blocked_since,
            drained,
            failed: inner.failed.as_ref().map(ToString::to_string),
            sent_bytes: inner.sent.bytes,
            skips: inner.sent.skips,
            lag,
            queued: behind + inner.private.bytes.len() as u64,
            live: view.phase() == Phase::Live,
            ended: view.phase() == Phase::Ended,
        }
    }

    fn write(&self, inner: &mut RefMut<'_, Inner>, view: &View) -> io::Result<Written> {
        if inner.wants_copy(&self.options) {
            inner.copy(view, &self.options);
        }
        let plan = inner.plan(view, &self.options);
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let n = plan.fill(&inner.private, view, &mut slices);
        if n == 0 {
            return Ok(Written::All);
        }
        let wanted: usize = slices[..n].iter().map(|slice| slice.len()).sum();
        match self.write_slices(&slices[..n]) {
            Ok(written) => {
                inner.advance_by(&plan, written as u64);
                let whole = written == wanted && n < MAX_SLICES && !inner.has_more(view);
                Ok(if whole { Written::All } else { Written::Some })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Written::Blocked),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Written::Some),
            Err(error) => Err(error),
        }
    }
}

impl Subscriber {
    /// One slice is what there nearly always is, and a socket that takes it needs neither an array
    /// of slices nor tokio's leave; both cost a tenth of a send. The runtime has to be told of one
    /// that takes nothing, and by a call of its own, or it may miss that it takes something again.
    fn write_slices(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [slice] = slices {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.fd, slice, flags) {
                Err(Errno::EAGAIN) => {}
                result => return Ok(result?),
            }
        }
        self.io.try_write_vectored(slices)
    }
}

/// Most private bytes: a largest message and what a session may say beside it.
const MAX_PRIVATE: usize = (8 << 20) + (256 << 10);

#[cfg(test)]
mod tests;
