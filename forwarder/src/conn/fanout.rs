//! The fan-out of one shard: for each stream a lane, and in it everyone on this shard who reads it.
//!
//! An append wakes each shard that reads the stream, once until it looks. A pass then writes to
//! every subscriber all from its offset to the head in one call. While a pass runs, messages pile
//! up in the log and the next pass carries more: batches appear when the shard is busy, and only
//! then.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::os::fd::RawFd;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;
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
use crate::hub::{Form, Stream, View, Wake};

/// Which lanes have something to read; the one part of a fan-out that other threads touch.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    ready: Mutex<Vec<LaneId>>,
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
        self.inbox.ready.lock().unwrap_or_else(PoisonError::into_inner).push(self.lane);
        self.inbox.bell.notify_one();
    }
}

/// The lanes of one shard.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    pub(super) inbox: Arc<Inbox>,
    lanes: RefCell<HashMap<LaneId, Weak<Lane>>>,
    /// Turns that lanes have planned, one of each at most.
    planned: RefCell<BTreeSet<(Instant, LaneId)>>,
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
            tokio::select! {
                () = self.inbox.bell.notified() => {}
                () = timer.as_mut(), if next.is_some() => {}
            }
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
