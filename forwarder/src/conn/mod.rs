//! Sockets: the listeners, the shards that own every connection, and the drivers of the sessions.
//!
//! A shard is a thread with a runtime of its own and a share of the sockets. A connection lives its
//! whole life on one shard; what shards share is the hub and counters.

mod admission;
mod attention;
mod broadcast;
mod client;
mod connection;
mod crowd;
mod encoder;
mod end;
mod fanout;
mod flv;
mod lane;
mod leaving;
mod legged;
mod listener;
mod play;
mod read;
mod refusals;
#[expect(unsafe_code, reason = "the kernel is given the address of what it shall send")]
mod ring;
mod secure;
mod shard;
mod socket;
mod subscriber;
mod taking;
#[cfg(test)]
mod tests;
mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

pub use client::{Bps, ClientState, RATE_WINDOW, Speaks};
pub use encoder::{Encoder, EncoderLaunch, EncoderNews, Handover, Learned, Missing, OwnedMedia};
pub use fanout::{Pace, Subscription};
pub use leaving::Leaving;
pub use legged::{Launch, LeggedPlayer, News, Order, Wish};
pub use listener::{Acceptor, Serves, bind};
pub use read::read_some;
pub use refusals::Refusals;
pub use shard::{Gauges, Shard, ShardHandle, Shards};
pub use socket::{SendBounds, tune_outgoing, warn_of_send_bounds};
pub use subscriber::{State as SubscriberState, SubscriberOptions};
pub use taking::Taking;
pub use upstream::{
    Ask, Grant, Interest, Interests, PlayAsk, PublishAsk, PublishGrant, Refusal, Relayed, Upstream,
};

use crate::config::{Config, Live, Second, Vhost};
use crate::hooks::{Held, Hooks};
use crate::hub::{self, Hub, LogLimits, StreamOptions};
use crate::look_ups::LookUps;
use crate::splice::{Splice, WhyNot};
use crate::status::srs::Identity;
use crate::telemetry::Noise;
use crate::tls::Tls;

/// What every part of the process shares.
#[derive(Debug)]
pub struct Context {
    /// The configuration, which may be replaced at any time; see [`Context::config`].
    pub live: Arc<Live>,
    /// The streams.
    pub hub: Arc<Hub>,
    /// Publishers that may be sent away after they were accepted.
    pub refusals: Refusals,
    /// Asks the system for names of servers.
    pub look_ups: LookUps,
    /// Whom connections to an edge ask for origins.
    pub upstream: Upstream,
    /// How legs are carried.
    pub splice: Arc<Splice>,
    /// The certificates.
    pub tls: Arc<Tls>,
    /// Our name for the loop guard: random, new at each start.
    pub instance: String,
    /// Our names for others, as SRS has them.
    pub identity: Identity,
    /// Calls the backends that are asked for clients.
    pub hooks: Arc<Hooks>,
    /// Counters since start.
    pub totals: Totals,
    /// Cancelled when the process shall stop gracefully.
    pub stop: CancellationToken,
    /// Who is asked to go before that.
    pub leaving: Leaving,
    /// When the process started.
    pub started: Instant,
    noise: Noise,
}

/// Counters of the process. What is received is counted by shards ([`Gauges`]).
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "see crate::status::Totals")]
pub struct Totals {
    pub open: AtomicUsize,
    pub connections: AtomicU64,
    pub refused: AtomicU64,
    pub denied: AtomicU64,
    pub errors: AtomicU64,
    pub tls_connections: AtomicU64,
    pub tls_failures: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub skips: AtomicU64,
}

impl Context {
    /// A context for `config`, with legs in user space.
    pub fn new(config: Config) -> Self {
        Self::with_splice(config, Splice::user(WhyNot::Disabled))
    }

    /// A context for `config`.
    pub fn with_splice(config: Config, splice: Splice) -> Self {
        let identity = Identity::draw();
        let stop = CancellationToken::new();
        Self {
            hooks: Arc::new(Hooks::new(identity.clone())),
            identity,
            splice: Arc::new(splice),
            live: Arc::new(Live::new(config)),
            hub: Arc::default(),
            refusals: Refusals::default(),
            look_ups: LookUps::default(),
            upstream: Upstream::default(),
            tls: Arc::default(),
            instance: format!("{:016x}", rand::random::<u64>()),
            totals: Totals::default(),
            leaving: Leaving::before(&stop),
            stop,
            started: Instant::now(),
            noise: Noise::default(),
        }
    }

    /// The configuration in force. Nobody keeps it for longer than what it was asked for.
    pub fn config(&self) -> Arc<Config> {
        self.live.now()
    }

    /// What backends with TLS are held to.
    pub fn held(&self) -> Held {
        Held { tls: Arc::clone(&self.tls), live: Arc::clone(&self.live) }
    }

    /// Whether one more line about a misbehaving peer may be logged this second. A flood of bad
    /// connections must not become a flood of lines; `Some(n)`: n lines were left out before this.
    pub(crate) fn may_complain(&self, now: Instant) -> Option<u32> {
        self.noise.may_make(now)
    }
}

impl Totals {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// What a stream of `vhost` is made with.
pub fn stream_options(vhost: &Vhost) -> StreamOptions {
    let log = LogLimits {
        chunk_size: vhost.chunk_size,
        gop_bytes: vhost.play.gop_cache_max_bytes,
        gop_messages: vhost.play.gop_cache_max_frames,
    };
    StreamOptions { log, grace: vhost.publish.grace }
}

/// What holds for several publishers of one stream of `vhost`.
fn publish_rules(vhost: &Vhost) -> hub::Rules {
    let publish = &vhost.publish;
    let second = match publish.second {
        Second::Refuse => hub::Second::Refuse,
        Second::TakeOver => hub::Second::TakeOver,
        Second::StandBy => hub::Second::StandBy,
    };
    hub::Rules { second, standbys: publish.standbys, switch_after: publish.switch_after }
}
