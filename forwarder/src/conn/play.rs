//! A player's side of the fan-out: its subscription and its deadlines.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::fanout::{Pace, Subscription};
use super::shard::{Counted, Shard};
use super::subscriber::{State, SubscriberOptions};
use super::taking::Taking;
use crate::config::{HttpRemux, Play};
use crate::hub::{Form, LOG_MSID, LagLimits, Stream, Target};

/// A player that is being served.
pub(super) struct Playing {
    subscription: Subscription,
    write_timeout: Duration,
    /// While it waits for a keyframe it is looked at more often.
    keyframe_look: Instant,
    taking: Taking,
    _counted: Counted,
}

impl Playing {
    pub(super) fn new(
        shard: &Rc<Shard>,
        stream: &Arc<Stream>,
        io: Rc<TcpStream>,
        msid: u32,
        play: &Play,
        lead: Vec<u8>,
    ) -> Self {
        let (form, chunk_size) = (Form::Chunks, stream.chunk_size());
        let target = Target { form, chunk_size, msid, publish: false };
        Self::begin(shard, stream, io, options(play, target), play, lead)
    }

    /// A player over HTTP, after `lead`, the head of the response.
    pub(super) fn over_http(
        shard: &Rc<Shard>,
        stream: &Arc<Stream>,
        io: Rc<TcpStream>,
        remux: &HttpRemux,
        play: &Play,
        lead: Vec<u8>,
    ) -> Self {
        let form = match remux.guess_has_av {
            true => Form::Tags { audio: true, video: true },
            false => Form::Tags { audio: remux.has_audio, video: remux.has_video },
        };
        let target = Target { form, chunk_size: 0, msid: LOG_MSID, publish: false };
        let options = SubscriberOptions { guess_av: remux.guess_has_av, ..options(play, target) };
        Self::begin(shard, stream, io, options, play, lead)
    }

    fn begin(
        shard: &Rc<Shard>,
        stream: &Arc<Stream>,
        io: Rc<TcpStream>,
        options: SubscriberOptions,
        play: &Play,
        lead: Vec<u8>,
    ) -> Self {
        let pace = Pace { floor: play.mw_latency, hold: play.audio_hold };
        Self {
            taking: Taking::new(Rc::clone(&io)),
            subscription: Subscription::new(shard, stream, io, options, pace, lead),
            write_timeout: play.write_timeout,
            keyframe_look: Instant::now() + play.keyframe_wait,
            _counted: Counted::new(shard.gauges(), |gauges| &gauges.players),
        }
    }

    /// Ends it; see [`Subscription::finish`].
    pub(super) fn finish(self) -> std::io::Result<Vec<u8>> {
        self.subscription.finish()
    }

    pub(super) fn state(&self) -> State {
        self.subscription.state()
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.subscription.blocked_since().is_some()
    }

    pub(super) fn send(&self, bytes: &[u8]) -> bool {
        self.subscription.send(bytes)
    }

    pub(super) fn on_writable(&self) {
        self.subscription.on_writable();
    }

    pub(super) fn on_timer(&self) {
        self.subscription.on_timer();
    }

    pub(super) fn pause(&self, paused: bool) {
        self.subscription.pause(paused);
    }

    pub(super) fn select(&self, audio: Option<bool>, video: Option<bool>) {
        self.subscription.select(audio, video);
    }

    pub(super) async fn changed(&self) {
        self.subscription.changed().await;
        // It may just have been blocked.
        self.nothing_since(Instant::now());
    }

    fn nothing_since(&self, now: Instant) -> Option<Instant> {
        self.taking.nothing_since(self.subscription.blocked_since(), now)
    }

    /// Whether it took nothing for too long.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        let since = self.nothing_since(now);
        since.is_some_and(|since| now >= since + self.write_timeout)
    }

    /// Whether it took anything since this was asked last.
    pub(super) fn is_moving(&self) -> bool {
        self.taking.is_moving()
    }

    /// When it is to be looked at if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let stuck = self.nothing_since(now).map(|since| {
            let look = now + self.write_timeout / LOOKS;
            look.min(since + self.write_timeout)
        });
        let look = (now < self.keyframe_look).then_some(self.keyframe_look);
        stuck.into_iter().chain(look).min()
    }
}

fn options(play: &Play, target: Target) -> SubscriberOptions {
    SubscriberOptions {
        lag: LagLimits { time: play.queue_length, bytes: play.queue_bytes },
        gop_cache: play.gop_cache,
        keyframe_wait: play.keyframe_wait,
        target,
        guess_av: false,
        player: true,
    }
}

/// A player whose socket is blocked is looked at so often within `write_timeout`.
const LOOKS: u32 = 4;

/// How often a player is pinged.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);

/// A player that said nothing for so long after a ping, and took nothing either, is gone.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(60);
