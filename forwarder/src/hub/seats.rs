//! Who publishes a stream, who stands by for that, and when somebody else's turn has come.
//!
//! Decisions alone: time comes in as milliseconds since the stream came into being.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::headers::Headers;
use super::reserve::Reserve;
use super::stream::Source;
use crate::rtmp::Timestamp;
use crate::rtmp::message::{MediaKind, MediaMessage};

/// A publisher of whom nothing came for so long does not keep a new one away: more often than not
/// the two are the same encoder, and the first is what is left of a connection that broke.
const STALE_MS: u64 = 3000;

/// How many messages the longest pause between frames is taken of, at least.
const CADENCE: u32 = 64;

/// Steps of time beyond this are no cadence but a jump, milliseconds.
const MAX_STEP_MS: i32 = 10_000;

/// What a second publisher of a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Second {
    /// Refused, as long as the first one is there.
    #[default]
    Refuse,
    /// The publisher, from its first keyframe on; the first one is sent away then.
    TakeOver,
    /// Kept in reserve: it goes on when the first one ends or falls silent.
    StandBy,
}

/// What holds for several publishers of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What a second one is.
    pub second: Second,
    /// How many may stand by.
    pub standbys: usize,
    /// How long the publisher may be silent before a standby goes on; longer for a stream whose
    /// frames are further apart.
    pub switch_after: Duration,
}

/// Why another publisher goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The one before has left, or its connection ended.
    Ended,
    /// Nothing came from it.
    Silent,
    /// The new one takes the stream over.
    TakenOver,
}

impl Why {
    /// For the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Silent => "silent",
            Self::TakenOver => "taken over",
        }
    }
}

/// When something came last of a publisher; it says so itself, without the stream's lock.
#[derive(Debug)]
pub(super) struct Pulse(AtomicU64);

impl Pulse {
    pub(super) fn beat(&self, now_ms: u64) {
        self.0.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn last_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The place of one publisher.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) id: u64,
    pub(super) source: Source,
    pub(super) pulse: Arc<Pulse>,
    /// What came of it since it stands by; nothing of who publishes.
    pub(super) reserve: Reserve,
    /// There was a publisher when it came, or it stands by for one since.
    pub(super) is_second: bool,
    /// Dropped unused when the place is taken from it.
    _place: oneshot::Sender<()>,
    cadence: Cadence,
    /// Last message, and since when there was no pause.
    spoke_ms: u64,
    steady_ms: u64,
}

/// What a publisher holds of its seat.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) id: u64,
    pub(super) pulse: Arc<Pulse>,
    /// Fails when the seat is lost.
    pub(super) place: oneshot::Receiver<()>,
}

/// All places of a stream, in the order in which they were taken.
#[derive(Debug, Default)]
pub(super) struct Seats {
    pub(super) all: Vec<Seat>,
    /// Who publishes.
    active: Option<u64>,
    rules: Rules,
    next: u64,
}

impl Seats {
    /// Whether one more publisher may come; makes room for it where somebody does not need its seat.
    /// `Some(true)`: the one who publishes has lost its seat.
    pub(super) fn admit(&mut self, rules: Rules, now_ms: u64) -> Option<bool> {
        self.rules = rules;
        match rules.second {
            Second::Refuse => {
                let busy = |seat: &Seat| Some(seat.id) == self.active && !seat.is_stale(now_ms);
                if self.all.iter().any(busy) {
                    return None;
                }
                self.all.clear();
                Some(self.active.take().is_some())
            }
            Second::TakeOver => {
                let active = self.active;
                self.all.retain(|seat| Some(seat.id) == active);
                Some(false)
            }
            Second::StandBy => {
                if self.all.len() > rules.standbys {
                    let active = self.active;
                    self.all.retain(|seat| Some(seat.id) == active || !seat.is_stale(now_ms));
                }
                (self.all.len() <= rules.standbys).then_some(false)
            }
        }
    }

    /// Takes a seat; whoever has it stands by until [`Self::activate`].
    pub(super) fn take(&mut self, source: Source, now_ms: u64) -> Ticket {
        let (place, lost) = oneshot::channel();
        let pulse = Arc::new(Pulse(AtomicU64::new(now_ms)));
        let id = self.next;
        self.next += 1;
        self.all.push(Seat {
            id,
            source,
            pulse: Arc::clone(&pulse),
            reserve: Reserve::default(),
            is_second: self.active.is_some(),
            _place: place,
            cadence: Cadence::default(),
            spoke_ms: now_ms,
            steady_ms: now_ms,
        });
        Ticket { id, pulse, place: lost }
    }

    /// Gives a seat up. True: it was that of who publishes.
    pub(super) fn leave(&mut self, id: u64) -> bool {
        self.all.retain(|seat| seat.id != id);
        self.active.take_if(|active| *active == id).is_some()
    }

    /// Who publishes.
    pub(super) fn active(&self) -> Option<&Seat> {
        self.all.iter().find(|seat| Some(seat.id) == self.active)
    }

    /// Where the one with this id sits, and whether it publishes.
    pub(super) fn find(&mut self, id: u64) -> Option<(&mut Seat, bool)> {
        let is_active = self.active == Some(id);
        self.all.iter_mut().find(|seat| seat.id == id).map(|seat| (seat, is_active))
    }

    /// Why it is the turn of `id`, who stands by and has just said something.
    pub(super) fn turn_of(&self, id: u64, with_video: bool, now_ms: u64) -> Option<Why> {
        let seat = self.all.iter().find(|seat| seat.id == id)?;
        if !seat.reserve.can_start(with_video) {
            return None;
        }
        let Some(active) = self.active() else { return Some(Why::Ended) };
        if self.rules.second == Second::TakeOver {
            return Some(Why::TakenOver);
        }
        // Silence that both share, such as a stall of this host, says nothing about one of them.
        let heard_ms = active.pulse.last_ms().max(seat.steady_ms);
        let silent = now_ms >= heard_ms + active.patience_ms(self.rules.switch_after);
        silent.then_some(Why::Silent)
    }

    /// Who goes on now that nobody publishes: the first that can, and speaks.
    pub(super) fn heir(&self, with_video: bool, now_ms: u64) -> Option<u64> {
        let switch_after = self.rules.switch_after;
        let speaks = |seat: &&Seat| {
            seat.reserve.can_start(with_video)
                && now_ms < seat.pulse.last_ms() + seat.patience_ms(switch_after)
        };
        self.all.iter().find(speaks).map(|seat| seat.id)
    }

    /// Has `id` publish. Who did so until now stands by, with these headers; or leaves, if it was
    /// taken over.
    pub(super) fn activate(&mut self, id: u64, headers: &Headers) {
        let before = self.active.replace(id).filter(|before| *before != id);
        let Some(before) = before else { return };
        if self.rules.second == Second::StandBy {
            if let Some((seat, _)) = self.find(before) {
                seat.is_second = true;
                seat.reserve = Reserve::with_headers(headers);
            }
        } else {
            self.all.retain(|seat| seat.id != before);
        }
    }
}

impl Seat {
    /// Notes that a message came.
    pub(super) fn speak(&mut self, media: &MediaMessage<'_>, rules: Rules, now_ms: u64) {
        if now_ms >= self.spoke_ms + self.patience_ms(rules.switch_after) {
            self.steady_ms = now_ms;
        }
        self.spoke_ms = now_ms;
        self.pulse.beat(now_ms);
        if media.kind != MediaKind::Data {
            self.cadence.note(media.timestamp);
        }
    }

    /// How long it may be silent.
    fn patience_ms(&self, switch_after: Duration) -> u64 {
        let least = switch_after.as_millis().try_into().unwrap_or(u64::MAX);
        least.max(2 * u64::from(self.cadence.longest_ms()))
    }

    fn is_stale(&self, now_ms: u64) -> bool {
        now_ms >= self.pulse.last_ms() + STALE_MS.max(2 * u64::from(self.cadence.longest_ms()))
    }
}

impl Seats {
    /// What holds here.
    pub(super) fn rules(&self) -> Rules {
        self.rules
    }
}

/// How far the times of a publisher's messages are apart: what it says, not when it came.
#[derive(Debug, Default)]
struct Cadence {
    last: Option<Timestamp>,
    /// Longest step of the messages that are counted, and of those before.
    longest: (u32, u32),
    counted: u32,
}

impl Cadence {
    fn note(&mut self, time: Timestamp) {
        let step = self.last.replace(time).map_or(0, |last| time.since(last));
        if (0..=MAX_STEP_MS).contains(&step) {
            self.longest.0 = self.longest.0.max(step.unsigned_abs());
        }
        self.counted += 1;
        if self.counted >= CADENCE {
            self.counted = 0;
            self.longest = (0, self.longest.0);
        }
    }

    fn longest_ms(&self) -> u32 {
        self.longest.0.max(self.longest.1)
    }
}
