//! What a publisher of an edge sends, published at an origin.
//!
//! An origin is asked first, and the publisher is accepted when that has accepted us. Then the
//! relay is a forward with one destination at a time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Edges, REMOVED, REPORT_INTERVAL, refusal};
use crate::config::{Destination, Names, Vhost};
use crate::conn::{PublishGrant, Refusal, Relayed, SendBounds, Shard, stream_options};
use crate::forward::{Backoff, Entry, Failure, Leg, Route, State, dial};
use crate::hub::{Phase, Source, Stream};
use crate::rtmp::url::{StreamKey, escaped};

/// How long a publisher waits for the last one of its stream to take leave of the origin.
const LEAVE: Duration = Duration::from_secs(3);

const BAD_NAME: &str = "NetStream.Publish.BadName";

/// Whom the publisher's connection hears from.
pub(super) type Reply = oneshot::Sender<Result<PublishGrant, Refusal>>;

pub(super) struct Relay {
    edges: Arc<Edges>,
    vhost: Vhost,
    key: StreamKey,
    source: Source,
    /// Until the publisher is accepted.
    reply: RefCell<Option<Reply>>,
    /// Since then.
    lost: Cell<Option<oneshot::Sender<Refusal>>>,
    /// Cancelled when the publisher is gone.
    leave: CancellationToken,
}

impl Relay {
    pub(super) fn new(
        edges: Arc<Edges>,
        vhost: &Vhost,
        (key, source): (StreamKey, Source),
        leave: CancellationToken,
        reply: Reply,
    ) -> Self {
        Self {
            edges,
            vhost: vhost.clone(),
            key,
            source,
            reply: RefCell::new(Some(reply)),
            lost: Cell::new(None),
            leave,
        }
    }

    /// Relays until the publisher is gone.
    pub(super) async fn run(self, shard: Rc<Shard>) {
        let edges = Arc::clone(&self.edges);
        let entered = tokio::select! {
            entered = edges.relays.enter(&self.key, &self.leave, By::Relay) => entered,
            () = self.leave.cancelled() => return,
        };
        match entered {
            Some(place) => self.run_at(place, &shard).await,
            None => self.refuse(already_published()),
        }
    }

    /// As [`Self::run`], for a publisher who has the place.
    pub(super) async fn run_at(self, mut place: Place<'_>, shard: &Rc<Shard>) {
        place.relayed();
        if let Some(refusal) = self.work(shard).await {
            self.refuse(refusal);
        }
        drop(place);
    }

    /// As [`Self::run_at`], for one who has been told that it publishes: it goes on at once, and an
    /// origin is looked for meanwhile.
    pub(super) async fn resume_at(self, mut place: Place<'_>, shard: &Rc<Shard>) {
        place.relayed();
        let options = stream_options(&self.vhost);
        let stream = shard.context().hub.stream(&self.key, options, Instant::now());
        match self.begin(shard, &stream) {
            Ok(relayed) => self.accept(relayed),
            Err(failure) => {
                return self.refuse(failure.refusal.unwrap_or_else(already_published));
            }
        }
        self.run_at(place, shard).await;
    }

    fn accept(&self, relayed: Relayed) {
        if let Some(reply) = self.reply.take() {
            // It may be gone.
            _ = reply.send(Ok(PublishGrant::Relayed(relayed)));
        }
    }

    /// Tells the publisher, in whatever state it is.
    fn refuse(&self, refusal: Refusal) {
        // It may be gone.
        if let Some(reply) = self.reply.take() {
            _ = reply.send(Err(refusal));
        } else if let Some(lost) = self.lost.take() {
            _ = lost.send(refusal);
        }
    }

    /// `None`: the publisher is gone.
    async fn work(&self, shard: &Rc<Shard>) -> Option<Refusal> {
        let hub = &shard.context().hub;
        let options = stream_options(&self.vhost);
        let search = self.edges.origins.search(&self.vhost.name);
        let edge = &self.vhost.edge;
        let mut backoff = Backoff::new(&search, edge.retry_max);
        let (mut failing, mut reported) = (None, None);
        let mut first = None;
        let mut stream = hub.stream(&self.key, options, Instant::now());
        while !self.leave.is_cancelled() {
            if !self.is_accepted() && stream.phase() == Phase::Ended {
                stream = hub.stream(&self.key, options, Instant::now());
            }
            let order = self.edges.order(&self.vhost, &self.key);
            let origin = first.take().or_else(|| order.into_iter().next())?;
            let Err(failure) = self.attempt(shard, &stream, &origin).await else { return None };
            if failure.forwarded.is_some_and(|time| backoff.forwarded(time)) {
                (failing, reported) = (None, None);
            }
            self.report(&origin, &failure, &mut reported);
            let now = Instant::now();
            let patience =
                if self.is_accepted() { self.vhost.publish.grace } else { edge.failover_timeout };
            let out_of_time = now >= *failing.get_or_insert(now) + patience;
            match &failure.refusal {
                Some(told) if out_of_time || !self.is_accepted() => {
                    return Some(refusal::of_publish(told));
                }
                _ if out_of_time => {
                    return Some(Refusal::new("NetStream.Failed", "no origin answers"));
                }
                Some(_) => {}
                None if let Some(tc_url) = &failure.moved => {
                    self.edges.origins.ended(&origin, now);
                    first = self.edges.named(&self.vhost, tc_url.as_deref());
                }
                None => self.edges.origins.failed(&origin, now),
            }
            let pause = self.pause(&mut backoff, &failure);
            tokio::select! {
                () = sleep(pause) => {}
                () = search.recovered() => {}
                () = self.leave.cancelled() => {}
                () = shard.context().stop.cancelled() => return None,
            }
        }
        None
    }

    /// No pause as long as there is an origin that did not fail lately.
    fn pause(&self, backoff: &mut Backoff<'_>, failure: &Failure) -> Duration {
        let now = Instant::now();
        let order = self.edges.order(&self.vhost, &self.key);
        if failure.refusal.is_none()
            && order.first().is_some_and(|next| !self.edges.origins.rests(next, now))
        {
            return Duration::ZERO;
        }
        backoff.after_failure(failure.refused, now)
    }

    async fn attempt(
        &self,
        shard: &Rc<Shard>,
        stream: &Arc<Stream>,
        origin: &Destination,
    ) -> Result<(), Failure> {
        let (within, hung) = (self.vhost.edge.connect_timeout, self.vhost.forward.hung_timeout);
        let io = tokio::select! {
            dialled = dial(shard, origin, within, hung) => dialled?,
            () = self.leave.cancelled() => return Ok(()),
            () = shard.context().stop.cancelled() => return Err(Failure::new("stopping")),
        };
        SendBounds::from(&self.vhost.forward).apply(&io)?;
        let entry = Arc::new(Entry::new(stream, origin));
        self.edges.forwards.add(&entry);
        let vhost = self.vhost.edge.origin_vhost(self.key.vhost());
        let names = Names::same(origin, &vhost, &self.key, &self.source.param);
        let route = Route {
            leave: self.leave.clone(),
            deadline: self.vhost.edge.connect_timeout,
            ..Route::new(names, self.source.clone())
        };
        let leg = Leg::new(shard, io, &entry, &self.vhost.forward, route);
        let result = tokio::select! {
            biased;
            result = leg.run(|| self.on_connected(shard, stream, &entry, origin)) => result,
            () = self.edges.removed(&self.vhost, origin) => Err(Failure::new(REMOVED)),
        };
        entry.set(State::Stopped);
        entry.done.store(true, Ordering::Relaxed);
        result
    }

    /// The origin takes the stream: so do we, the first time.
    fn on_connected(
        &self,
        shard: &Rc<Shard>,
        stream: &Arc<Stream>,
        entry: &Entry,
        origin: &Destination,
    ) -> Result<(), Failure> {
        if !self.is_accepted() {
            self.accept(self.begin(shard, stream)?);
        }
        self.edges.origins.works(&self.vhost.name, origin);
        entry.set(State::Forwarding);
        entry.connects.fetch_add(1, Ordering::Relaxed);
        info!(stream = %self.key, %origin, "relay connected");
        Ok(())
    }

    /// Makes the stream ours.
    fn begin(&self, shard: &Shard, stream: &Arc<Stream>) -> Result<Relayed, Failure> {
        self.edges.pulls.give_way(&self.key);
        let hub = &shard.context().hub;
        let options = stream_options(&self.vhost);
        let publisher = hub.publish(&self.key, options, self.source.clone(), Instant::now());
        let publisher = publisher.map_err(|busy| Failure {
            refusal: Some(Refusal::new(BAD_NAME, busy.to_string())),
            ..Failure::new(busy.to_string())
        })?;
        if !Arc::ptr_eq(publisher.stream(), stream) {
            return Err(Failure::new("the stream ended while the origin was asked"));
        }
        let (lost, lost_rx) = oneshot::channel();
        self.lost.set(Some(lost));
        Ok(Relayed { publisher, lost: lost_rx })
    }

    fn is_accepted(&self) -> bool {
        self.reply.borrow().is_none()
    }

    /// Says that it failed, once and then at intervals.
    fn report(&self, origin: &Destination, failure: &Failure, reported: &mut Option<Instant>) {
        if failure.moved.is_some() {
            return info!(stream = %self.key, %origin, "relay is asked to go elsewhere");
        }
        let now = Instant::now();
        let lately = |last: Instant| now.saturating_duration_since(last) < REPORT_INTERVAL;
        if reported.is_some_and(lately) {
            return;
        }
        *reported = Some(now);
        let reason = escaped(&failure.why);
        warn!(stream = %self.key, %origin, %reason, "relay failed");
    }
}

pub(super) fn already_published() -> Refusal {
    Refusal::new(BAD_NAME, "the stream is being published already")
}

/// The streams that are published through this edge, or about to be.
#[derive(Debug)]
pub(super) struct Relays {
    entered: Mutex<HashMap<StreamKey, Entered>>,
    changes: watch::Sender<()>,
}

#[derive(Debug)]
struct Entered {
    /// Cancelled when the publisher is gone.
    leave: CancellationToken,
    by: By,
}

/// How a published stream gets to its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Through the hub, so that it is played from here.
    Relay,
    /// By a leg: nobody here has it.
    Leg,
}

impl Default for Relays {
    fn default() -> Self {
        Self { entered: Mutex::default(), changes: watch::Sender::new(()) }
    }
}

/// The one place of a stream's publisher; given back on drop.
pub(super) struct Place<'a> {
    relays: &'a Relays,
    key: StreamKey,
}

impl Relays {
    /// Takes the place of `key`; `None` if it has a publisher that is not leaving.
    pub(super) async fn enter<'a>(
        &'a self,
        key: &StreamKey,
        leave: &CancellationToken,
        by: By,
    ) -> Option<Place<'a>> {
        let mut changes = self.changes();
        let free = async {
            loop {
                changes.mark_unchanged();
                {
                    let mut entered = self.lock();
                    match entered.get(key) {
                        None => {
                            entered.insert(key.clone(), Entered { leave: leave.clone(), by });
                            return true;
                        }
                        Some(other) if !other.leave.is_cancelled() => return false,
                        Some(_) => {}
                    }
                }
                if changes.changed().await.is_err() {
                    return false;
                }
            }
        };
        // Made only if it is free: one that is dropped gives back the place of another.
        timeout(LEAVE, free)
            .await
            .unwrap_or(false)
            .then(|| Place { relays: self, key: key.clone() })
    }

    /// Whether `key` is published into the hub here, or about to be.
    pub(super) fn has(&self, key: &StreamKey) -> bool {
        self.lock().get(key).is_some_and(|entered| entered.by == By::Relay)
    }

    /// Tells of each that ends.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamKey, Entered>> {
        self.entered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// From now on the stream goes through the hub.
    fn relayed(&mut self) {
        if let Some(own) = self.relays.lock().get_mut(&self.key) {
            own.by = By::Relay;
        }
        self.relays.changes.send_replace(());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.relays.lock().remove(&self.key);
        self.relays.changes.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_publisher_that_is_refused_leaves_the_place_to_who_has_it() {
        let (relays, key) = (Relays::default(), StreamKey::new("v", "live", "a").expect("a name"));
        let leave = CancellationToken::new();
        let place = relays.enter(&key, &leave, By::Relay).await.expect("free");
        for _ in 0..2 {
            assert!(relays.enter(&key, &CancellationToken::new(), By::Relay).await.is_none());
            assert!(relays.has(&key));
        }
        leave.cancel();
        drop(place);
        assert!(!relays.has(&key));
        let mut place = relays.enter(&key, &CancellationToken::new(), By::Leg).await.expect("free");
        assert!(!relays.has(&key), "nobody here has what a leg carries");
        assert!(relays.enter(&key, &CancellationToken::new(), By::Leg).await.is_none());
        place.relayed();
        assert!(relays.has(&key));
        drop(place);
        assert!(relays.enter(&key, &CancellationToken::new(), By::Relay).await.is_some());
    }
}
