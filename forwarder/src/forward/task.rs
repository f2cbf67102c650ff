//! One forward from the stream's begin to its end: dial, forward, dial again.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tracing::{info, warn};

use super::backoff::{Backoff, Health};
use super::leg::{Failure, Leg};
use super::status::{Entry, State};
use crate::config::Forward;
use crate::conn::{Shard, tune_outgoing};
use crate::hub::Phase;
use crate::rtmp::url::escaped;

/// A destination that stays away is reported again after so long.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The whole life of a forward.
pub(super) struct Task {
    pub(super) entry: Arc<Entry>,
    pub(super) forward: Forward,
    pub(super) health: Arc<Health>,
}

impl Task {
    pub(super) async fn run(self, shard: Rc<Shard>) {
        let health = Arc::clone(&self.health);
        let mut backoff = Backoff::new(&health, self.forward.retry_max);
        let mut reported = None;
        while self.is_wanted(&shard) {
            self.entry.set(State::Connecting);
            self.entry.attempt.fetch_add(1, Ordering::Relaxed);
            let Err(failure) = self.attempt(&shard).await else { break };
            if failure.forwarded.is_some_and(|time| backoff.forwarded(time)) {
                reported = None;
            }
            self.entry.failed(&failure.why);
            self.report(&failure, &mut reported);
            let now = Instant::now();
            let pause = backoff.after_failure(failure.refused, now);
            self.entry.set(State::Waiting(now + pause));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = health.recovered() => {}
                () = shard.context().stop.cancelled() => {}
            }
        }
        self.entry.set(State::Stopped);
        self.entry.done.store(true, Ordering::Relaxed);
    }

    fn is_wanted(&self, shard: &Shard) -> bool {
        let ended = self.entry.stream.phase() == Phase::Ended;
        !ended && !shard.context().stop.is_cancelled()
    }

    async fn attempt(&self, shard: &Rc<Shard>) -> Result<(), Failure> {
        let io = tokio::select! {
            dialled = self.dial() => dialled?,
            () = shard.context().stop.cancelled() => return Err(Failure::new("stopping")),
        };
        tune_outgoing(&io, self.forward.hung_timeout)?;
        let leg = Leg::new(shard, io, &self.entry, &self.forward);
        leg.run(|| {
            self.health.works();
            self.entry.set(State::Forwarding);
            self.entry.attempt.store(0, Ordering::Relaxed);
            let connects = self.entry.connects.fetch_add(1, Ordering::Relaxed) + 1;
            let (stream, to) = (self.entry.stream.key(), &self.entry.destination);
            info!(%stream, %to, connects, "forward connected");
        })
        .await
    }

    /// Connects to the first address of the destination that takes us.
    async fn dial(&self) -> Result<TcpStream, Failure> {
        let to = &self.entry.destination;
        let timeout = self.forward.connect_timeout;
        let lookup = tokio::time::timeout(timeout, tokio::net::lookup_host((&*to.host, to.port)));
        let addresses: Vec<SocketAddr> = match lookup.await {
            Ok(found) => {
                found.map_err(|error| Failure::new(format!("look-up: {error}")))?.collect()
            }
            Err(_) => return Err(Failure::new("look-up: no answer in time")),
        };
        let mut last = Failure::new("look-up: no address");
        for address in addresses {
            match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
                Ok(Ok(io)) => return Ok(io),
                Ok(Err(error)) => last = Failure::connect(&error),
                Err(_) => last = Failure::new("connect: no answer in time"),
            }
        }
        Err(last)
    }

    /// Says that it failed, once and then at intervals.
    fn report(&self, failure: &Failure, reported: &mut Option<Instant>) {
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
