//! The fan-out of one shard: for each stream a lane, and in it everyone on this shard who reads it.
//!
//! An append wakes each shard that reads the stream, once until it looks. A pass then writes to
//! every subscriber all from its offset to the head in one call. While a pass runs, messages pile
//! up in the log and the next pass carries more: batches appear when the shard is busy, and only
//! then.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::shard::Shard;
use super::subscriber::{Sent, State, Subscriber, SubscriberOptions};
use super::{Context, Totals};
use crate::hub::{Phase, Stream, View, Wake};

/// Which lanes have something to read; the one part of a fan-out that other threads touch.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    ready: Mutex<Vec<LaneId>>,
    bell: Notify,
}

/// A lane of a shard: its stream's address and its pace. A lane keeps its stream alive, so no
/// other stream has this address while it lives.
type LaneId = (usize, Pace);

/// How the passes of a lane follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pace {
    /// Least time between two passes (`mw_latency`); zero: none.
    pub floor: Duration,
    /// How long a little audio waits for video (`audio_hold`); zero: not at all.
    pub hold: Duration,
}

impl Inbox {
    fn take(&self) -> Vec<LaneId> {
        std::mem::take(&mut self.ready.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct LaneWake {
    inbox: Arc<Inbox>,
    lane: LaneId,
}

impl Wake for LaneWake {
    fn wake(&self) {
        self.inbox.ready.lock().unwrap_or_else(PoisonError::into_inner).push(self.lane);
        self.inbox.bell.notify_one();
    }
}

/// The lanes of one shard.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    inbox: Arc<Inbox>,
    lanes: RefCell<HashMap<LaneId, Weak<Lane>>>,
}

impl Fanout {
    /// The lane of `stream` with this pace, made if this shard has none.
    fn lane(&self, context: &Arc<Context>, stream: &Arc<Stream>, pace: Pace) -> Rc<Lane> {
        let id = (Arc::as_ptr(stream) as usize, pace);
        let mut lanes = self.lanes.borrow_mut();
        if let Some(lane) = lanes.get(&id).and_then(Weak::upgrade) {
            return lane;
        }
        lanes.retain(|_, lane| lane.strong_count() > 0);
        let wake = LaneWake { inbox: Arc::clone(&self.inbox), lane: id };
        let lane = Rc::new(Lane {
            context: Arc::clone(context),
            view: RefCell::new(stream.view(Box::new(wake))),
            subscribers: RefCell::default(),
            pace,
            last_pass: Cell::new(None),
            passed: Cell::new(u64::MAX),
            held_since: Cell::new(None),
            owes: Cell::new(false),
            planned: Cell::new(None),
        });
        lanes.insert(id, Rc::downgrade(&lane));
        lane
    }

    /// Shows `look` every subscriber: its socket, its stream, and how far it is.
    pub(super) fn each(&self, now: Instant, mut look: impl FnMut(RawFd, &Arc<Stream>, State)) {
        for lane in self.lanes.borrow().values().filter_map(Weak::upgrade) {
            let view = lane.view.borrow();
            for subscriber in lane.subscribers.borrow().iter() {
                look(subscriber.fd(), view.stream(), subscriber.state(&view, now));
            }
        }
    }

    /// Passes over lanes whenever they have something, for ever.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            self.inbox.bell.notified().await;
            self.take_turns();
            // The sockets get their turn: what they bring makes the next pass larger.
            tokio::task::yield_now().await;
        }
    }

    /// Passes over the lanes that have something. Also before a single subscriber is sent what may be
    /// much: a thousand that join would else write a group of pictures each in front of the frame
    /// that all others wait for.
    fn take_turns(&self) {
        for id in self.inbox.take() {
            let lane = self.lanes.borrow().get(&id).and_then(Weak::upgrade);
            let Some(lane) = lane else { continue };
            match lane.turn(Instant::now()) {
                Turn::Pass => lane.pass(),
                Turn::Later(due) => self.pass_later(id, &lane, due),
                Turn::Planned => {}
            }
        }
    }

    fn pass_later(&self, id: LaneId, lane: &Rc<Lane>, due: Instant) {
        let wake = LaneWake { inbox: Arc::clone(&self.inbox), lane: id };
        let lane = Rc::downgrade(lane);
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(due.into()).await;
            if let Some(lane) = lane.upgrade() {
                lane.planned.set(None);
                // Video may have come meanwhile, and taken everything with it.
                if lane.owes.get() {
                    wake.wake();
                }
            }
        });
    }
}

/// One stream on one shard.
#[derive(Debug)]
pub(super) struct Lane {
    context: Arc<Context>,
    view: RefCell<View>,
    subscribers: RefCell<Vec<Rc<Subscriber>>>,
    pace: Pace,
    last_pass: Cell<Option<Instant>>,
    /// The head at the last pass; before that, no offset.
    passed: Cell<u64>,
    /// Since when a little audio waits for video.
    held_since: Cell<Option<Instant>>,
    /// There is something that no pass has taken yet.
    owes: Cell<bool>,
    /// Another turn is to come then; one is enough, however often the lane is woken.
    planned: Cell<Option<Instant>>,
}

/// What a lane does when it is woken.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Pass,
    Later(Instant),
    Planned,
}

impl Lane {
    fn turn(&self, now: Instant) -> Turn {
        let last = self.last_pass.get().filter(|_| !self.pace.floor.is_zero());
        let floor = last.map(|last| last + self.pace.floor);
        let Some(due) = floor.max(self.held_until(now)).filter(|due| *due > now) else {
            return Turn::Pass;
        };
        self.owes.set(true);
        if self.planned.get().is_some_and(|planned| planned <= due) {
            return Turn::Planned;
        }
        self.planned.set(Some(due));
        Turn::Later(due)
    }

    /// Until when what there is may wait; `None`: it may not.
    fn held_until(&self, now: Instant) -> Option<Instant> {
        if self.pace.hold.is_zero() {
            return None;
        }
        let mut view = self.view.borrow_mut();
        view.refresh();
        if view.phase() != Phase::Live || !view.is_little_audio(self.passed.get()) {
            return None;
        }
        let since = self.held_since.get().unwrap_or(now);
        self.held_since.set(Some(since));
        Some(since + self.pace.hold)
    }

    fn pass(&self) {
        let now = Instant::now();
        self.last_pass.set(Some(now));
        self.held_since.set(None);
        self.owes.set(false);
        let mut view = self.view.borrow_mut();
        view.refresh();
        self.passed.set(view.head());
        let mut floor = u64::MAX;
        let mut sent = Sent::default();
        for subscriber in self.subscribers.borrow().iter() {
            subscriber.advance(&mut view, now);
            sent += subscriber.take_sent();
            floor = floor.min(subscriber.floor().unwrap_or(u64::MAX));
            if view.phase() != Phase::Live {
                subscriber.bell.notify_one();
            }
        }
        let floor = floor.min(view.head());
        view.trim(floor);
        self.count(&view, sent);
    }

    fn count(&self, view: &View, sent: Sent) {
        let (stream, process) = (&view.stream().counters, &self.context.totals);
        if sent.bytes > 0 {
            Totals::add(&stream.sent_bytes, sent.bytes);
            Totals::add(&process.sent_bytes, sent.bytes);
        }
        if sent.skips > 0 {
            Totals::add(&stream.skips, sent.skips);
            Totals::add(&process.skips, sent.skips);
        }
    }
}

/// A socket's place in a lane. Dropping it is the goodbye.
#[derive(Debug)]
pub struct Subscription {
    fanout: Rc<Fanout>,
    lane: Rc<Lane>,
    subscriber: Rc<Subscriber>,
}

impl Subscription {
    /// Begins to send `stream` to `io`, after `lead` (whole messages).
    pub fn new(
        shard: &Rc<Shard>,
        stream: &Arc<Stream>,
        io: Rc<TcpStream>,
        options: SubscriberOptions,
        pace: Pace,
        lead: Vec<u8>,
    ) -> Self {
        shard.fanout().take_turns();
        let lane = shard.fanout().lane(shard.context(), stream, pace);
        let subscriber = Rc::new(Subscriber::new(io, options, lead));
        subscriber.join(&mut lane.view.borrow_mut(), Instant::now());
        if options.player {
            stream.counters.players.fetch_add(1, Ordering::Relaxed);
        }
        lane.subscribers.borrow_mut().push(Rc::clone(&subscriber));
        let fanout = Rc::clone(shard.fanout());
        let subscription = Self { fanout, lane, subscriber };
        subscription.advance(Subscriber::advance);
        subscription
    }

    /// Queues whole messages for this subscriber alone and sends them at the next message border.
    /// False: it reads nothing and the queue is full; it must be closed.
    pub fn send(&self, bytes: &[u8]) -> bool {
        let fits = self.subscriber.push(bytes);
        self.advance(Subscriber::advance);
        fits
    }

    /// The socket is writable again.
    pub fn on_writable(&self) {
        self.fanout.take_turns();
        self.advance(Subscriber::unblock);
    }

    /// Looks at waits whose time may be over.
    pub fn on_timer(&self) {
        self.advance(Subscriber::advance);
    }

    /// The goodbye on a socket that is used on: gives the bytes that must go out before any other.
    /// Errors: they are not held any more.
    pub fn finish(self) -> std::io::Result<Vec<u8>> {
        self.subscriber.finish(&self.lane.view.borrow())
    }

    /// Stops or goes on, as the player asked.
    pub fn pause(&self, paused: bool) {
        self.subscriber.pause(paused, &self.lane.view.borrow());
        self.advance(Subscriber::advance);
    }

    /// Chooses what is sent: `None` leaves it as it was.
    pub fn select(&self, audio: Option<bool>, video: Option<bool>) {
        self.subscriber.select(audio, video);
        self.advance(Subscriber::advance);
    }

    /// Waits until [`Self::state`] is worth a look: blocked, failed or without a publisher.
    pub async fn changed(&self) {
        self.subscriber.bell.notified().await;
    }

    /// Since when its socket takes nothing.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.subscriber.blocked_since()
    }

    /// How far it is.
    pub fn state(&self) -> State {
        self.subscriber.state(&self.lane.view.borrow(), Instant::now())
    }

    /// The stream.
    pub fn stream(&self) -> Arc<Stream> {
        Arc::clone(self.lane.view.borrow().stream())
    }

    fn advance(&self, how: impl FnOnce(&Subscriber, &mut View, Instant)) {
        let mut view = self.lane.view.borrow_mut();
        how(&self.subscriber, &mut view, Instant::now());
        self.lane.count(&view, self.subscriber.take_sent());
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = self.lane.subscribers.borrow_mut();
        subscribers.retain(|other| !Rc::ptr_eq(other, &self.subscriber));
        if self.subscriber.options().player {
            let view = self.lane.view.borrow();
            view.stream().counters.players.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::conn::stream_options;
    use crate::hub::{Publisher, Source};
    use crate::rtmp::Timestamp;
    use crate::rtmp::message::{MediaKind, MediaMessage};
    use crate::rtmp::url::{DEFAULT_VHOST, StreamKey};

    fn lane(pace: Pace) -> (Rc<Lane>, Publisher) {
        let context = Arc::new(Context::new(Config::default()));
        let options = stream_options(context.config.vhost(DEFAULT_VHOST).unwrap());
        let key = StreamKey::new(DEFAULT_VHOST, "live", "a").unwrap();
        let publisher = context.hub.publish(&key, options, Source::default(), Instant::now());
        let publisher = publisher.unwrap();
        (Fanout::default().lane(&context, publisher.stream(), pace), publisher)
    }

    fn put(publisher: &mut Publisher, kind: MediaKind, len: usize) {
        let payload = [&[0x17, 1][..], &vec![0; len]].concat();
        let media = MediaMessage { kind, timestamp: Timestamp(0), msid: 1, payload: &payload };
        publisher.append(&media, Instant::now()).unwrap();
        publisher.flush();
    }

    #[test]
    fn a_lane_woken_often_within_its_floor_plans_one_pass() {
        let floor = Duration::from_secs(3600);
        let (lane, _publisher) = lane(Pace { floor, hold: Duration::ZERO });
        let now = Instant::now();
        assert_eq!(lane.turn(now), Turn::Pass);
        lane.pass();
        assert_eq!(lane.turn(now), Turn::Later(lane.last_pass.get().unwrap() + floor));
        assert_eq!(lane.turn(now), Turn::Planned);
    }

    #[test]
    fn a_little_audio_waits_for_video_and_for_nothing_else() {
        let hold = Duration::from_millis(40);
        let (lane, mut publisher) = lane(Pace { floor: Duration::ZERO, hold });
        let now = Instant::now();
        assert_eq!(lane.turn(now), Turn::Pass);
        lane.pass();
        put(&mut publisher, MediaKind::Audio, 200);
        assert_eq!(lane.turn(now), Turn::Pass, "there is no video");
        put(&mut publisher, MediaKind::Video, 2000);
        lane.pass();
        put(&mut publisher, MediaKind::Audio, 200);
        assert_eq!(lane.turn(now), Turn::Later(now + hold));
        put(&mut publisher, MediaKind::Audio, 200);
        assert_eq!(lane.turn(now + hold / 2), Turn::Planned);
        assert_eq!(lane.turn(now + hold), Turn::Pass, "it has waited long enough");
        put(&mut publisher, MediaKind::Video, 2000);
        assert_eq!(lane.turn(now), Turn::Pass, "here is the video");
        lane.pass();
        put(&mut publisher, MediaKind::Audio, 4000);
        assert_eq!(lane.turn(now), Turn::Pass, "that is not a little");
        lane.pass();
        put(&mut publisher, MediaKind::Audio, 200);
        drop(publisher);
        assert_eq!(lane.turn(now), Turn::Pass, "nobody publishes");
    }
}
