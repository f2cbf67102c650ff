//! Everyone on a lane: those who have read all there was, and the others.
//!
//! Nearly all readers of a live stream stand at the end of its log. They have one offset in common,
//! and get the same bytes: a pass writes to their sockets without a look at any of them. Who cannot
//! take all of it, or is to be treated differently, goes to the others until it has caught up.

use std::io::IoSlice;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Instant;

use super::broadcast::Broadcast;
use super::subscriber::{Seat, Sent, Subscriber};
use crate::hub::{LagLimits, Phase, View};

/// Parts of the log that one write takes: the ends of two segments, and a few between.
const PARTS: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// Those who stand at `offset`, as of the last pass.
    groups: Vec<Group>,
    offset: u64,
    others: Vec<Rc<Subscriber>>,
}

/// Followers who skip alike: players of a vhost, forwards to destinations with the same limits.
#[derive(Debug)]
struct Group {
    lag: LagLimits,
    followers: Vec<Rc<Subscriber>>,
    /// The sockets of `followers`, in their order.
    sockets: Vec<RawFd>,
}

impl Crowd {
    /// One more, with a position of its own.
    pub(super) fn insert(&mut self, subscriber: &Rc<Subscriber>) {
        subscriber.seat.set(Seat::Other(self.others.len()));
        self.others.push(Rc::clone(subscriber));
    }

    /// The goodbye of one that was inserted.
    pub(super) fn remove(&mut self, subscriber: &Subscriber) {
        match subscriber.seat.get() {
            Seat::Follower { group, at } => drop(self.take_follower(group, at)),
            Seat::Other(at) => drop(self.take_other(at)),
        }
    }

    /// Gives one a position of its own.
    pub(super) fn part(&mut self, subscriber: &Rc<Subscriber>) {
        if let Seat::Follower { group, at } = subscriber.seat.get() {
            subscriber.catch_up(self.offset);
            drop(self.take_follower(group, at));
            self.insert(subscriber);
        }
    }

    /// Everyone, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rc<Subscriber>> {
        self.groups.iter().flat_map(|group| &group.followers).chain(&self.others)
    }

    /// Tells one how far it is, if it is told only when somebody asks.
    pub(super) fn tell(&self, subscriber: &Subscriber) {
        if let Seat::Follower { .. } = subscriber.seat.get() {
            subscriber.catch_up(self.offset);
        }
    }

    /// Writes to all what there is in `view` for them; says what they were sent.
    pub(super) fn pass(
        &mut self,
        view: &mut View,
        broadcast: &mut Broadcast,
        now: Instant,
    ) -> Sent {
        let mut sent = Sent::default();
        for group in 0..self.groups.len() {
            sent += self.write_followers(group, view, broadcast, now);
        }
        self.offset = view.head();
        let mut floor = view.head();
        // From behind, as one that begins to follow gives its seat to the last.
        for at in (0..self.others.len()).rev() {
            let subscriber = &self.others[at];
            subscriber.advance(view, now);
            sent += subscriber.take_sent();
            if view.phase() != Phase::Live {
                subscriber.bell.notify_one();
            }
            floor = floor.min(subscriber.floor().unwrap_or(u64::MAX));
            if self.may_follow(&self.others[at], view) {
                self.follow(at);
            }
        }
        view.trim(floor);
        sent
    }

    /// To a group all from its offset to the head. Who does not take it is one of the others
    /// afterwards; so are all if there is more to it than a write.
    fn write_followers(
        &mut self,
        group: usize,
        view: &View,
        broadcast: &mut Broadcast,
        now: Instant,
    ) -> Sent {
        let (from, to) = (self.offset, view.head());
        let Some(Group { lag, followers, sockets }) = self.groups.get(group) else {
            return Sent::default();
        };
        if followers.is_empty() {
            return Sent::default();
        }
        let mut slices = [IoSlice::new(&[]); PARTS];
        let parts = view.slices(from, to, &mut slices);
        let parts = &slices[..parts];
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if bytes != to - from || view.phase() != Phase::Live || from < view.limit(lag, now) {
            self.scatter(group);
            return Sent::default();
        }
        if bytes == 0 {
            return Sent::default();
        }
        let short = broadcast.send(sockets, parts);
        let took_all = followers.len() - short.len();
        for (at, result) in short {
            if let Some(subscriber) = self.take_follower(group, at) {
                subscriber.catch_up(from);
                subscriber.took(to, result);
                self.insert(&subscriber);
            }
        }
        Sent { bytes: bytes * took_all as u64, skips: 0 }
    }

    /// Gives each of a group a position of its own.
    fn scatter(&mut self, group: usize) {
        let Some(group) = self.groups.get_mut(group) else { return };
        group.sockets.clear();
        for subscriber in std::mem::take(&mut group.followers) {
            subscriber.catch_up(self.offset);
            self.insert(&subscriber);
        }
    }

    /// Whether it stands at `offset` too. That need not be the view's head any more: a reader that
    /// begins or skips in this pass has refreshed the view.
    fn may_follow(&self, subscriber: &Subscriber, view: &View) -> bool {
        view.phase() == Phase::Live && subscriber.may_follow(self.offset)
    }

    fn follow(&mut self, other: usize) {
        let Some(subscriber) = self.take_other(other) else { return };
        let lag = subscriber.options().lag;
        let at = self.place(lag);
        let Some(group) = self.groups.get_mut(at) else { return };
        subscriber.seat.set(Seat::Follower { group: at, at: group.followers.len() });
        group.sockets.push(subscriber.socket());
        group.followers.push(subscriber);
    }

    /// The group that skips so. One that all have left may be another one from then on.
    fn place(&mut self, lag: LagLimits) -> usize {
        if let Some(at) = self.groups.iter().position(|group| group.lag == lag) {
            return at;
        }
        match self.groups.iter_mut().enumerate().find(|(_, group)| group.followers.is_empty()) {
            Some((at, empty)) => {
                empty.lag = lag;
                at
            }
            None => {
                let (followers, sockets) = (Vec::new(), Vec::new());
                self.groups.push(Group { lag, followers, sockets });
                self.groups.len() - 1
            }
        }
    }

    fn take_follower(&mut self, group: usize, at: usize) -> Option<Rc<Subscriber>> {
        let Group { followers, sockets, .. } = self.groups.get_mut(group)?;
        if at >= followers.len() {
            return None;
        }
        sockets.swap_remove(at);
        let subscriber = followers.swap_remove(at);
        if let Some(moved) = followers.get(at) {
            moved.seat.set(Seat::Follower { group, at });
        }
        Some(subscriber)
    }

    fn take_other(&mut self, at: usize) -> Option<Rc<Subscriber>> {
        if at >= self.others.len() {
            return None;
        }
        let subscriber = self.others.swap_remove(at);
        if let Some(moved) = self.others.get(at) {
            moved.seat.set(Seat::Other(at));
        }
        Some(subscriber)
    }
}
