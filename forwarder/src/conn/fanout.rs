//! The fan-out of one shard: for each stream a lane, and in it everyone on this shard who reads it.
//!
//! An append wakes each shard that reads the stream, once until it looks; on its own the publisher
//! goes on with the pass. That writes to every subscriber all from its offset to the head in one
//! call. While a pass runs, messages pile up in the sockets and the log and the next one carries
//! more: batches appear when the shard is busy, and only then.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::os::fd::RawFd;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::Context;
use super::broadcast::Broadcast;
use super::lane::{Lane, Turn};
use super::shard::Shard;
use super::subscriber::{Seat, State, Subscriber, SubscriberOptions};
use crate::hub::{Form, Publisher, Stream, View, Wake};

/// Which lanes have something to read; the one part of a fan-out that other threads touch.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    ready: Mutex<Vec<LaneId>>,
    /// Its shard is about to take what is in it, and need not be woken for that.
    attended: AtomicBool,
    bell: Notify,
}

/// A lane of a shard: its stream's address, what is read of it, and its pace. A lane keeps its stream alive, so no
/// other stream has this address while it lives.
type LaneId = (usize, Form, Pace);

/// How the passes of a lane follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pace {
    /// Least time between two passes (`mw_latency`); zero: none.
    pub floor: Duration,
    /// How long a little audio waits for video (`audio_hold`); zero: not at all.
    pub hold: Duration,
}

impl Inbox {
    pub(super) fn take(&self) -> Vec<LaneId> {
        std::mem::take(&mut self.ready.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_empty(&self) -> bool {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

struct LaneWake {
    inbox: Arc<Inbox>,
    lane: LaneId,
}

impl Wake for LaneWake {
    fn wake(&self) {
        let mut ready = self.inbox.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.push(self.lane);
        // With the lock held: who is not seen to be about to take it may have taken what was there.
        let attended = self.inbox.attended.load(Ordering::Relaxed);
        drop(ready);
        if !attended {
            self.inbox.bell.notify_one();
        }
    }
}

/// What [`Fanout::run`] does.
#[derive(Clone, Copy, Debug, Default)]
enum Rest {
    /// It is about to look at what is planned.
    #[default]
    Awake,
    /// It waits to be woken, or until this planned turn.
    Until(Option<Instant>),
}

/// The lanes of one shard.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    pub(super) inbox: Arc<Inbox>,
    lanes: RefCell<HashMap<LaneId, Weak<Lane>>>,
    /// Turns that lanes have planned, one of each at most.
    planned: RefCell<BTreeSet<(Instant, LaneId)>>,
    rest: Cell<Rest>,
    broadcast: Rc<RefCell<Broadcast>>,
}

impl Fanout {
    /// Without lanes. Must be called on its shard's thread.
    pub(super) fn new(context: &Context) -> Self {
        let broadcast = Broadcast::new(context.config().io_uring);
        Self { broadcast: Rc::new(RefCell::new(broadcast)), ..Self::default() }
    }

    /// The lane of `stream` in this form with this pace, made if this shard has none.
    pub(super) fn lane(
        &self,
        context: &Arc<Context>,
        stream: &Arc<Stream>,
        form: Form,
        pace: Pace,
    ) -> Rc<Lane> {
        let id = (Arc::as_ptr(stream) as usize, form, pace);
        let mut lanes = self.lanes.borrow_mut();
        if let Some(lane) = lanes.get(&id).and_then(Weak::upgrade) {
            return lane;
        }
        lanes.retain(|_, lane| lane.strong_count() > 0);
        self.planned.borrow_mut().retain(|(_, id)| lanes.contains_key(id));
        let wake = LaneWake { inbox: Arc::clone(&self.inbox), lane: id };
        let view = stream.view_as(form, Box::new(wake));
        let lane = Rc::new(Lane::new(context, view, pace, &self.broadcast));
        lanes.insert(id, Rc::downgrade(&lane));
        lane
    }

    /// Shows `look` every subscriber: its socket, its stream, and how far it is.
    pub(super) fn each(&self, now: Instant, mut look: impl FnMut(RawFd, &Arc<Stream>, State)) {
        for lane in self.lanes.borrow().values().filter_map(Weak::upgrade) {
            let (view, crowd) = (lane.view.borrow(), lane.crowd.borrow());
            for subscriber in crowd.all() {
                crowd.tell(subscriber);
                look(subscriber.socket(), view.stream(), subscriber.state(&view, now));
            }
        }
    }

    fn find(&self, id: LaneId) -> Option<Rc<Lane>> {
        self.lanes.borrow().get(&id).and_then(Weak::upgrade)
    }

    /// Passes over lanes whenever they have something, for ever.
    pub(super) async fn run(self: Rc<Self>) {
        let mut timer = pin!(sleep_until(Instant::now().into()));
        loop {
            let next = self.next_planned().map(|(due, _)| due);
            if let Some(due) = next.map(Into::into).filter(|due| *due != timer.deadline()) {
                timer.as_mut().reset(due);
            }
            self.rest.set(Rest::Until(next));
            tokio::select! {
                () = self.inbox.bell.notified() => {}
                () = timer.as_mut(), if next.is_some() => {}
            }
            self.rest.set(Rest::Awake);
            self.take_turns();
            // What another shard appended meanwhile waits until the sockets had their turn: what they
            // bring makes the next pass larger.
            if !self.inbox.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The next turn that is planned.
    fn next_planned(&self) -> Option<(Instant, LaneId)> {
        self.planned.borrow().first().copied()
    }

    /// Wakes the readers of `publisher`'s stream. Those on this shard are passed over at once: what came
    /// is at hand still, and nothing else that came since goes before it.
    pub(super) fn flush(&self, publisher: &mut Publisher) {
        self.inbox.attended.store(true, Ordering::Relaxed);
        publisher.flush();
        self.inbox.attended.store(false, Ordering::Relaxed);
        if !self.inbox.is_empty() {
            self.take_turns();
        }
    }

    /// Passes over the lanes that have something. Also before a single subscriber is sent what may be
    /// much: a thousand that join would else write a group of pictures each in front of the frame
    /// that all others wait for.
    fn take_turns(&self) {
        for id in self.inbox.take() {
            self.take_turn(id, |lane| lane.turn(Instant::now()));
        }
        let now = Instant::now();
        while let Some((_, id)) = self.next_planned().filter(|(due, _)| *due <= now) {
            // It is not there any more if its lane is not.
            self.planned.borrow_mut().pop_first();
            self.take_turn(id, |lane| lane.planned_turn(now));
        }
        if let (Rest::Until(until), Some((due, _))) = (self.rest.get(), self.next_planned())
            && until.is_none_or(|until| due < until)
        {
            self.inbox.bell.notify_one();
        }
    }

    fn take_turn(&self, id: LaneId, turn: impl FnOnce(&Lane) -> Turn) {
        let Some(lane) = self.find(id) else { return };
        let before = lane.planned();
        if turn(&lane) == Turn::Pass {
            lane.pass();
        }
        let after = lane.planned();
        let mut planned = self.planned.borrow_mut();
        if let Some(before) = before.filter(|before| after != Some(*before)) {
            planned.remove(&(before, id));
        }
        planned.extend(after.map(|after| (after, id)));
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
    /// Begins to send `stream` to `io`, after `lead` (whole messages, or what HTTP has in front).
    pub fn new(
        shard: &Rc<Shard>,
        stream: &Arc<Stream>,
        io: Rc<TcpStream>,
        options: SubscriberOptions,
        pace: Pace,
        lead: Vec<u8>,
    ) -> Self {
        shard.fanout().take_turns();
        let lane = shard.fanout().lane(shard.context(), stream, options.target.form, pace);
        let subscriber = Rc::new(Subscriber::new(io, options, lead));
        subscriber.join(&mut lane.view.borrow_mut(), Instant::now());
        if options.player {
            stream.counters.players.fetch_add(1, Ordering::Relaxed);
        }
        lane.crowd.borrow_mut().insert(&subscriber);
        let fanout = Rc::clone(shard.fanout());
        let subscription = Self { fanout, lane, subscriber };
        subscription.advance(Subscriber::advance);
        subscription
    }

    /// Queues whole messages for this subscriber alone and sends them at the next message border.
    /// False: it reads nothing and the queue is full; it must be closed.
    pub fn send(&self, bytes: &[u8]) -> bool {
        self.part();
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

    fn part(&self) {
        self.lane.crowd.borrow_mut().part(&self.subscriber);
    }

    /// The goodbye on a socket that is used on: gives the bytes that must go out before any other.
    /// Errors: they are not held any more.
    pub fn finish(self) -> std::io::Result<Vec<u8>> {
        self.part();
        self.subscriber.finish(&self.lane.view.borrow())
    }

    /// Stops or goes on, as the player asked.
    pub fn pause(&self, paused: bool) {
        self.part();
        self.subscriber.pause(paused, &self.lane.view.borrow());
        self.advance(Subscriber::advance);
    }

    /// Sends no more than what there is now; [`State::drained`] says when that is out.
    pub fn end_here(&self) {
        self.part();
        self.subscriber.end_here(&self.lane.view.borrow());
        self.advance(Subscriber::advance);
    }

    /// Chooses what is sent: `None` leaves it as it was.
    pub fn select(&self, audio: Option<bool>, video: Option<bool>) {
        self.part();
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
        self.lane.crowd.borrow().tell(&self.subscriber);
        self.subscriber.state(&self.lane.view.borrow(), Instant::now())
    }

    /// The stream.
    pub fn stream(&self) -> Arc<Stream> {
        Arc::clone(self.lane.view.borrow().stream())
    }

    /// A follower has all there was at the last pass, and gets the rest at the next.
    fn advance(&self, how: impl FnOnce(&Subscriber, &mut View, Instant)) {
        if matches!(self.subscriber.seat.get(), Seat::Follower { .. }) {
            return;
        }
        let mut view = self.lane.view.borrow_mut();
        how(&self.subscriber, &mut view, Instant::now());
        self.lane.count(&view, self.subscriber.take_sent());
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.lane.crowd.borrow_mut().remove(&self.subscriber);
        if self.subscriber.options().player {
            let view = self.lane.view.borrow();
            view.stream().counters.players.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{self, Waker};

    use super::*;
    use crate::config::Config;
    use crate::conn::stream_options;
    use crate::hub::Source;
    use crate::rtmp::Timestamp;
    use crate::rtmp::message::{MediaKind, MediaMessage};
    use crate::rtmp::url::{DEFAULT_VHOST, StreamKey};

    const HOLD: Duration = Duration::from_secs(3600);

    struct Bench {
        fanout: Fanout,
        lane: Rc<Lane>,
        publisher: Publisher,
    }

    impl Bench {
        fn new() -> Self {
            let (context, fanout) = (Arc::new(Context::new(Config::default())), Fanout::default());
            let options = stream_options(context.config().vhost(DEFAULT_VHOST).unwrap());
            let key = StreamKey::new(DEFAULT_VHOST, "live", "a").unwrap();
            let publisher = context.hub.publish(&key, options, Source::default(), Instant::now());
            let publisher = publisher.unwrap();
            let pace = Pace { floor: Duration::ZERO, hold: HOLD };
            let lane = fanout.lane(&context, publisher.stream(), Form::Chunks, pace);
            let mut bench = Self { fanout, lane, publisher };
            bench.append();
            bench.publisher.flush();
            bench.fanout.take_turns();
            assert!(bench.rang(), "nobody said it would take that");
            bench
        }

        fn append(&mut self) {
            let payload = [&[0x17, 1][..], &[0; 2000]].concat();
            let media = MediaMessage {
                kind: MediaKind::Video,
                timestamp: Timestamp(0),
                msid: 1,
                payload: &payload,
            };
            self.publisher.append(&media, Instant::now()).unwrap();
        }

        /// Since it was last asked.
        fn rang(&self) -> bool {
            let mut cx = task::Context::from_waker(Waker::noop());
            pin!(self.fanout.inbox.bell.notified()).poll(&mut cx).is_ready()
        }
    }

    #[test]
    fn what_a_publisher_of_this_shard_brings_is_passed_over_at_once() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            let before = bench.lane.planned().unwrap();
            bench.append();
            bench.fanout.flush(&mut bench.publisher);
            assert!(bench.lane.planned().unwrap() > before, "that of the pass before it");
            assert!(bench.fanout.inbox.is_empty() && !bench.rang());
        }
        bench.fanout.flush(&mut bench.publisher);
        assert!(!bench.rang(), "there is nothing");
        // As one of another shard does.
        bench.append();
        bench.publisher.flush();
        assert!(bench.rang() && !bench.fanout.inbox.is_empty());
    }

    #[test]
    fn a_turn_that_is_planned_meanwhile_is_waited_for() {
        let mut bench = Bench::new();
        let mut rings = |until: Option<Instant>| {
            bench.fanout.rest.set(Rest::Until(until));
            bench.append();
            bench.fanout.flush(&mut bench.publisher);
            bench.rang()
        };
        assert!(rings(None), "it waited for none");
        assert!(rings(Some(Instant::now() + 2 * HOLD)), "it waited for a later one");
        assert!(!rings(Some(Instant::now())), "it looks before that");
    }
}
