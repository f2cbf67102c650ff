//! One forward from the stream's begin to its end: dial, forward, dial again.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

use super::backoff::{Backoff, Health};
use super::dial::{dial, dial_at};
use super::leg::{Failure, LOOK, Leg, Route};
use super::place::Place;
use super::status::{Entry, State};
use crate::config::Forward;
use crate::conn::{SendBounds, Shard};
use crate::hub::Phase;
use crate::rtmp::url::escaped;

/// A destination that stays away is reported again after so long.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The whole life of a forward.
pub(super) struct Task {
    pub(super) entry: Arc<Entry>,
    pub(super) place: Place,
    pub(super) forward: Forward,
    pub(super) health: Arc<Health>,
    /// Rung when this is over.
    pub(super) over: Arc<Notify>,
}

impl Task {
    pub(super) async fn run(self, shard: Rc<Shard>) {
        let health = Arc::clone(&self.health);
        let mut backoff = Backoff::between(&health, self.forward.retry_min, self.forward.retry_max);
        let mut reported = None;
        while self.is_wanted(&shard) {
            let path = self.entry.stream.source().path;
            self.entry.set(State::Connecting);
            self.entry.attempt.fetch_add(1, Ordering::Relaxed);
            let Err(failure) = self.attempt(&shard).await else { break };
            if failure.forwarded.is_some_and(|time| backoff.forwarded(time)) {
                reported = None;
            }
            self.entry.failed(&failure.why);
            self.report(&failure, &mut reported);
            let now = Instant::now();
            let told_no = failure.refusal.is_some();
            let pause = if told_no {
                backoff.after_refusal(self.forward.retry_refused)
            } else {
                backoff.after_failure(failure.refused, now)
            };
            self.entry.set(State::Waiting(now + pause));
            tokio::select! {
                // That others get through says nothing of a stream that was refused.
                () = backoff.rest(pause, !told_no) => {}
                () = self.comes_by_another(&path), if told_no => {}
                () = shard.context().stop.cancelled() => {}
                () = self.entry.drain.cancelled() => {}
            }
        }
        self.entry.set(State::Stopped);
        self.entry.done.store(true, Ordering::Relaxed);
        self.over.notify_one();
    }

    /// Waits until the stream comes by another way than `path`: who refused it as a loop may take it.
    async fn comes_by_another(&self, path: &[String]) {
        while self.entry.stream.source().path == path {
            sleep(LOOK).await;
        }
    }

    fn is_wanted(&self, shard: &Shard) -> bool {
        let ended = self.entry.stream.phase() == Phase::Ended;
        !ended && !shard.context().stop.is_cancelled() && !self.entry.drain.is_cancelled()
    }

    async fn attempt(&self, shard: &Rc<Shard>) -> Result<(), Failure> {
        let (source, key) = (self.entry.stream.source(), self.entry.stream.key());
        let names = self.place.names(key, &source.param);
        let names = names.map_err(|error| Failure::new(format!("its URL: {error}")))?;
        let io = tokio::select! {
            dialled = self.dial(shard) => dialled?,
            () = shard.context().stop.cancelled() => return Err(Failure::new("stopping")),
            () = self.entry.drain.cancelled() => return Ok(()),
        };
        SendBounds::from(&self.forward).apply(&io)?;
        let told = names.clone();
        let drain = self.entry.drain.clone();
        let route = Route { drain, ..Route::new(names, source) };
        let leg = Leg::new(shard, io, &self.entry, &self.forward, route);
        leg.run(|| {
            self.health.works();
            self.entry.set(State::Forwarding);
            self.entry.attempt.store(0, Ordering::Relaxed);
            let connects = self.entry.connects.fetch_add(1, Ordering::Relaxed) + 1;
            let (stream, to) = (self.entry.stream.key(), &self.entry.destination);
            info!(%stream, %to, connects, "forward connected");
            Ok(())
        })
        .await
        .map_err(|failure| Failure { why: told.without_secrets(&failure.why), ..failure })
    }

    async fn dial(&self, shard: &Shard) -> Result<TcpStream, Failure> {
        let (to, address) = self.place.dialled();
        let Forward { connect_timeout, hung_timeout, .. } = self.forward;
        match address {
            Some(address) => dial_at(shard, &to, address, connect_timeout, hung_timeout).await,
            None => dial(shard, &to, connect_timeout, hung_timeout).await,
        }
    }

    /// Says that it failed, once and then at intervals.
    fn report(&self, failure: &Failure, reported: &mut Option<Instant>) {
        if failure.moved.is_some() {
            let (stream, to) = (self.entry.stream.key(), &self.entry.destination);
            return info!(%stream, %to, "forward is asked to connect again");
        }
        let now = Instant::now();
        if reported.is_some_and(|last| now.saturating_duration_since(last) < REPORT_INTERVAL) {
            return;
        }
        *reported = Some(now);
        let (stream, to) = (self.entry.stream.key(), &self.entry.destination);
        let attempt = self.entry.attempt.load(Ordering::Relaxed);
        warn!(%stream, %to, attempt, reason = %escaped(&failure.why), "forward failed");
    }
}
