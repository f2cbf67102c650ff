//! One stream from an origin, for all its players here.

use std::convert::Infallible;
use std::future::pending;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tracing::{info, warn};

use super::feed::{Feed, Lost};
use super::seam::Seam;
use super::{Edges, REPORT_INTERVAL, refusal};
use crate::config::{Destination, Vhost};
use crate::conn::{Interests, PlayAsk, Refusal, Shard, stream_options};
use crate::forward::{Backoff, Failure};
use crate::hub::{Phase, Publisher, Source};
use crate::rtmp::message::MediaMessage;
use crate::rtmp::url::{StreamKey, escaped};
use crate::status::PullStatus;

/// How long a pull goes on without a player: one that reloads finds the stream running.
const LINGER: Duration = Duration::from_secs(2);

/// What a player that asks is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Not known yet.
    Open,
    /// An origin plays the stream.
    Playing,
    /// The origins said no, or there is none.
    Refused(Refusal),
}

/// A pull, as everybody sees it.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) key: StreamKey,
    pub(super) vhost: Vhost,
    /// Parameters and loop guard of the player that came first.
    pub(super) param: String,
    pub(super) path: Vec<String>,
    pub(super) interests: Interests,
    pub(super) outcome: watch::Sender<Outcome>,
    /// Since when the readers of the stream wait for another origin.
    lost: watch::Sender<Option<Instant>>,
    flow: Mutex<Flow>,
    report: Mutex<Report>,
    pub(super) received_bytes: AtomicU64,
}

/// What flows into the log.
#[derive(Debug, Default)]
struct Flow {
    /// There while the stream is ours.
    publisher: Option<Publisher>,
    /// Where its messages come from, and since when.
    from: Option<(Destination, Instant)>,
    seam: Seam,
}

#[derive(Debug, Default)]
struct Report {
    state: &'static str,
    origin: String,
    attempt: u32,
    connects: u64,
    last_error: String,
    warned: Option<Instant>,
}

impl Pull {
    pub(super) fn new(ask: &PlayAsk, vhost: &Vhost) -> Self {
        Self {
            key: ask.key.clone(),
            vhost: vhost.clone(),
            param: ask.param.clone(),
            path: ask.path.clone(),
            interests: Interests::default(),
            outcome: watch::Sender::new(Outcome::Open),
            lost: watch::Sender::new(None),
            flow: Mutex::default(),
            report: Mutex::default(),
            received_bytes: AtomicU64::new(0),
        }
    }

    /// Pulls until nobody wants the stream any more.
    pub(super) async fn run(self: Arc<Self>, edges: Arc<Edges>, shard: Rc<Shard>) {
        let stop = shard.context().stop.clone();
        tokio::select! {
            () = self.work(&edges, &shard) => {}
            () = self.expire() => {}
            () = self.unwanted(&edges) => {}
            () = edges.ended(&self.vhost) => edges.pulls.remove(&self.key),
            () = stop.cancelled() => edges.pulls.remove(&self.key),
        }
        self.release();
        info!(stream = %self.key, received = self.received_bytes.load(Ordering::Relaxed), "pull ended");
    }

    /// Waits until the last player is gone for good.
    async fn unwanted(&self, edges: &Edges) {
        loop {
            self.interests.none().await;
            sleep(LINGER).await;
            if edges.pulls.remove_unwanted(&self.key) {
                return;
            }
        }
    }

    /// Gives the stream up whenever no origin was found in time to go on with it.
    async fn expire(&self) {
        let mut lost = self.lost.subscribe();
        loop {
            // These cannot fail while the sender is here.
            let Ok(Some(since)) = lost.wait_for(Option::is_some).await.map(|since| *since) else {
                return;
            };
            let until = since + self.vhost.edge.failover_timeout;
            tokio::select! {
                () = sleep_until(until.into()) => {
                    self.release();
                    self.outcome.send_replace(Outcome::Open);
                    self.lost.send_replace(None);
                }
                _ = lost.wait_for(Option::is_none) => {}
            }
        }
    }

    async fn work<'a>(&'a self, edges: &'a Edges, shard: &'a Rc<Shard>) {
        let search = edges.origins.search(&self.vhost.name);
        let mut backoff = Backoff::new(&search, self.vhost.edge.retry_max);
        let mut moving = Moving::default();
        loop {
            self.wait_for_turn(edges, shard).await;
            let now = Instant::now();
            let pause = match self.round(edges, shard, &mut moving).await {
                // Somebody publishes the stream here: that is no failure.
                Round::Taken => {
                    moving.from = None;
                    Duration::ZERO
                }
                Round::Silent => {
                    self.vhost.edge.retry_max.mul_f64(rand::rng().random_range(0.5..1.0))
                }
                Round::Served(time) if backoff.forwarded(time) => Duration::ZERO,
                Round::Served(_) => backoff.after_failure(false, now),
                Round::Failed { closed } => backoff.after_failure(closed, now),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = search.recovered() => {}
                never = self.linger(&mut moving.from) => match never {},
            }
        }
    }

    /// Has the connection that is to be left go on, to its end.
    async fn linger(&self, from: &mut Option<Feed<'_>>) -> Infallible {
        if let Some(feed) = from {
            _ = feed.run().await;
            self.lose(&feed.origin);
        }
        *from = None;
        pending().await
    }

    /// Pulls from `origin` until that is over; from the one that is to be left until this brings
    /// media.
    async fn feed<'a>(
        &'a self,
        (edges, shard): (&'a Edges, &'a Rc<Shard>),
        origin: &Destination,
        from: &mut Option<Feed<'a>>,
    ) -> (Lost, Option<Feed<'a>>) {
        let pulled = async {
            match Feed::open(self, edges, shard, origin).await {
                Ok(mut feed) => (feed.run().await, Some(feed)),
                Err(lost) => (lost, None),
            }
        };
        tokio::select! {
            over = pulled => over,
            never = self.linger(from) => match never {},
        }
    }

    /// Waits while the stream is published here by somebody else.
    async fn wait_for_turn(&self, edges: &Edges, shard: &Rc<Shard>) {
        let mut changes = shard.context().hub.changes();
        let mut relays = edges.relays.changes();
        loop {
            changes.mark_unchanged();
            relays.mark_unchanged();
            let stream = shard.context().hub.find(&self.key);
            let live = stream.is_some_and(|stream| stream.phase() == Phase::Live);
            if !edges.relays.has(&self.key) && (!live || self.flow().publisher.is_some()) {
                return;
            }
            self.report().state = "published here";
            self.outcome.send_replace(Outcome::Playing);
            tokio::select! {
                _ = changes.changed() => {}
                _ = relays.changed() => {}
            }
        }
    }

    /// Asks each origin once, or until one served; first the one that we were sent to, if any.
    async fn round<'a>(
        &'a self,
        edges: &'a Edges,
        shard: &'a Rc<Shard>,
        moving: &mut Moving<'a>,
    ) -> Round {
        let (mut closed, mut silent, mut refused) = (true, false, None);
        let mut order = edges.order(&self.vhost, &self.key);
        if let Some(to) = moving.to.take() {
            order.sort_by_key(|origin| *origin != to);
        }
        for origin in order {
            if moving.from.as_ref().is_some_and(|feed| feed.origin == origin) {
                if edges.has_others(&self.vhost, &origin) {
                    continue;
                }
                // Two connections to one origin could not be told apart.
                self.lose(&origin);
                moving.from = None;
            }
            {
                let mut report = self.report();
                (report.state, report.origin) = ("connecting", origin.to_string());
                report.attempt += 1;
            }
            let (lost, feed) = self.feed((edges, shard), &origin, &mut moving.from).await;
            match &lost {
                Lost::Taken => return Round::Taken,
                Lost::Silent => (closed, silent) = (false, true),
                Lost::Ended => {
                    closed = false;
                    edges.origins.ended(&origin, Instant::now());
                    self.complain(&origin, &Failure::new("the stream ended there"));
                }
                Lost::Moved(tc_url) => {
                    closed = false;
                    edges.origins.ended(&origin, Instant::now());
                    info!(stream = %self.key, %origin, "pull is asked to go elsewhere");
                    moving.to = edges.named(&self.vhost, tc_url.as_deref());
                    if let Some(since) = self.since(&origin) {
                        moving.from = feed;
                        return Round::Served(since.elapsed());
                    }
                }
                Lost::Failed(failure) => {
                    closed &= failure.refused;
                    refused = failure.refusal.as_ref().map(refusal::of_play).or(refused);
                    if failure.refusal.is_none() {
                        edges.origins.failed(&origin, Instant::now());
                    }
                    self.complain(&origin, failure);
                }
            }
            if let Some(since) = self.lose(&origin) {
                return Round::Served(since.elapsed());
            }
            // It played nothing: the next player is not to wait for that.
            if self.flow().publisher.is_none() && !edges.relays.has(&self.key) {
                self.doubt();
            }
        }
        self.report().state = "waiting";
        if let Some(refusal) = refused.filter(|_| !silent) {
            self.outcome.send_replace(Outcome::Refused(refusal));
        }
        if silent { Round::Silent } else { Round::Failed { closed } }
    }

    /// Whether the stream comes from `origin` now.
    pub(super) fn comes_from(&self, origin: &Destination) -> bool {
        self.since(origin).is_some()
    }

    fn since(&self, origin: &Destination) -> Option<Instant> {
        let flow = self.flow();
        flow.from.as_ref().filter(|(from, _)| from == origin).map(|(_, since)| *since)
    }

    /// The connection to `origin` is over; since when the stream came from there, if it did.
    fn lose(&self, origin: &Destination) -> Option<Instant> {
        let (_, since) = self.flow().from.take_if(|(from, _)| from == origin)?;
        self.mark_lost();
        Some(since)
    }

    /// Whether the stream is to be had is not known any more.
    fn doubt(&self) {
        self.outcome.send_if_modified(|outcome| {
            let known = *outcome == Outcome::Playing;
            if known {
                *outcome = Outcome::Open;
            }
            known
        });
    }

    /// From now on another origin is to be found in time.
    pub(super) fn mark_lost(&self) {
        if self.flow().publisher.is_some() {
            self.lost
                .send_if_modified(|lost| lost.is_none() && lost.replace(Instant::now()).is_none());
        }
    }

    /// `origin` plays the stream.
    pub(super) fn connected(&self, origin: &Destination) {
        let mut report = self.report();
        report.state = "pulling";
        report.attempt = 0;
        report.connects += 1;
        info!(stream = %self.key, %origin, connects = report.connects, "pull connected");
        self.outcome.send_replace(Outcome::Playing);
    }

    /// Appends a message of `origin`. Errors: somebody else has the stream, or no memory.
    pub(super) fn append(
        &self,
        (edges, shard): (&Edges, &Shard),
        origin: &Destination,
        media: &MediaMessage<'_>,
        now: Instant,
    ) -> Result<(), Lost> {
        let flow = &mut *self.flow();
        if flow.from.as_ref().is_none_or(|(from, _)| from != origin) {
            let source = Source { peer: origin.to_string(), ..Source::default() };
            match &mut flow.publisher {
                Some(publisher) => {
                    publisher.set_source(source);
                    flow.seam.resume();
                }
                // One who publishes the stream here is about to take it over.
                None if edges.relays.has(&self.key) => return Err(Lost::Taken),
                None => {
                    let (hub, options) = (&shard.context().hub, stream_options(&self.vhost));
                    let publisher = hub.publish(&self.key, options, source, now);
                    flow.publisher = Some(publisher.map_err(|_| Lost::Taken)?);
                    flow.seam.forget();
                }
            }
            flow.from = Some((origin.clone(), now));
            // It may have been given up while the origin was silent.
            self.outcome.send_replace(Outcome::Playing);
        }
        self.lost.send_if_modified(|lost| lost.take().is_some());
        let Some(publisher) = &mut flow.publisher else { return Err(Lost::Taken) };
        if flow.seam.take(media) {
            let appended = publisher.append(media, now);
            appended.map_err(|error| Lost::Failed(Failure::new(error.to_string())))?;
        }
        Ok(())
    }

    /// Wakes the readers.
    pub(super) fn flush(&self) {
        if let Some(publisher) = &mut self.flow().publisher {
            publisher.flush();
        }
    }

    /// Gives the stream to whoever publishes it here, or up.
    pub(super) fn release(&self) {
        let mut flow = self.flow();
        flow.from = None;
        flow.publisher = None;
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that it failed, once and then at intervals.
    fn complain(&self, origin: &Destination, failure: &Failure) {
        let mut report = self.report();
        report.last_error.clone_from(&failure.why);
        let now = Instant::now();
        let lately = |last: Instant| now.saturating_duration_since(last) < REPORT_INTERVAL;
        if !report.warned.is_some_and(lately) {
            report.warned = Some(now);
            let reason = escaped(&failure.why);
            warn!(stream = %self.key, %origin, attempt = report.attempt, %reason, "pull failed");
        }
    }

    pub(super) fn status(&self) -> PullStatus {
        let repeated = self.flow().seam.repeated;
        let report = self.report();
        PullStatus {
            vhost: self.key.vhost().into(),
            app: self.key.app().into(),
            stream: self.key.stream().into(),
            origin: report.origin.clone(),
            state: report.state.into(),
            players: self.interests.count(),
            attempt: report.attempt,
            connects: report.connects,
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            repeated,
            last_error: report.last_error.clone(),
        }
    }
}

/// From an origin that is about to stop to the next one.
#[derive(Default)]
struct Moving<'a> {
    /// The connection that is to be left, which has the stream until another brings media.
    from: Option<Feed<'a>>,
    /// Where the origin sent us.
    to: Option<Destination>,
}

/// How a round ended.
enum Round {
    /// An origin served for so long.
    Served(Duration),
    /// The stream is published here.
    Taken,
    /// At least one has the stream's name and nothing to send.
    Silent,
    /// No origin serves it. `closed`: nothing listens at any of them.
    Failed { closed: bool },
}
