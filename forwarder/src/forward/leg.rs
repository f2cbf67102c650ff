//! One connection to a destination, from the handshake to the goodbye.

use std::future::pending;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::status::Entry;
use crate::config::{Forward, Names};
use crate::conn::{Pace, Refusal, Shard, SubscriberOptions, Subscription, Taking};
use crate::hub::{Form, LagLimits, Source, Target};
use crate::rtmp::session::{ClientConfig, ClientEvent, ClientSession, Goal, SessionError};

/// Handshake and commands together may take so long.
const DIALOGUE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a running leg looks at its lag, for a hung destination and whence its stream comes.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// A destination that has acknowledged nothing for so long is shown as stalled. Audio alone is some
/// messages a second.
const STALLED: Duration = Duration::from_secs(2);

/// How long a destination waits for a first keyframe before it gets what there is.
const KEYFRAME_WAIT: Duration = Duration::from_secs(3);

/// How long the goodbye may take: what is left of the stream, and the peer's close.
const GOODBYE: Duration = Duration::from_secs(2);

const HANDSHAKE_RANDOM: usize = 1536;

/// Most bytes that wait for a destination before it gets a stream: it may say much that is to be
/// answered, and take none of the answers.
const MAX_OUT: usize = 64 << 10;

/// Why a leg is down.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) why: String,
    /// The host answered that nothing listens there.
    pub(crate) refused: bool,
    /// The server there said no.
    pub(crate) refusal: Option<Refusal>,
    /// How long it had forwarded before; `None`: it had not.
    pub(crate) forwarded: Option<Duration>,
    /// The server there is about to stop, and asked us to connect again: where, if it said so.
    pub(crate) moved: Option<Option<String>>,
}

impl Failure {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), refused: false, refusal: None, forwarded: None, moved: None }
    }

    pub(super) fn connect(error: &io::Error) -> Self {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        Self { refused, ..Self::new(format!("connect: {error}")) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        let why = error.to_string();
        let refusal = match error {
            SessionError::Refused { code, description } => Some(Refusal { code, description }),
            _ => None,
        };
        Self { refusal, ..Self::new(why) }
    }
}

/// What a leg says of itself, and how long it goes on.
pub(crate) struct Route {
    /// What it names.
    pub(crate) names: Names,
    /// Who publishes.
    pub(crate) source: Source,
    /// When this is cancelled the leg goes as soon as the stream has no publisher, instead of
    /// waiting for the next one; at once if it does not forward yet.
    pub(crate) leave: CancellationToken,
    /// When this is cancelled the destination gets what is in its queue, and the end of the stream.
    pub(crate) drain: CancellationToken,
    /// How long handshake and commands may take together.
    pub(crate) deadline: Duration,
}

impl Route {
    /// To publish as `names` for `source`.
    pub(crate) fn new(names: Names, source: Source) -> Self {
        let (leave, drain) = (CancellationToken::new(), CancellationToken::new());
        Self { names, source, leave, drain, deadline: DIALOGUE_TIMEOUT }
    }
}

pub(crate) struct Leg {
    shard: Rc<Shard>,
    io: Rc<TcpStream>,
    taking: Taking,
    session: ClientSession,
    entry: Arc<Entry>,
    forward: Forward,
    /// The servers that were named to the destination, we among them.
    path: Vec<String>,
    leave: CancellationToken,
    /// `leave` is cancelled, and this was noticed.
    leaving: bool,
    drain: CancellationToken,
    /// As `leaving`, of `drain`.
    draining: bool,
    /// Before it forwards: what the socket did not take yet.
    out: Vec<u8>,
    subscription: Option<Subscription>,
    forwards_since: Option<Instant>,
    /// When the destination was last looked at, and last seen to acknowledge something.
    moved: (Instant, Instant),
    /// Bytes and skips of this leg that the entry has counted.
    counted: (u64, u64),
    leave_at: Option<Instant>,
}

impl Leg {
    pub(crate) fn new(
        shard: &Rc<Shard>,
        io: TcpStream,
        entry: &Arc<Entry>,
        forward: &Forward,
        route: Route,
    ) -> Self {
        let Route { names, source, leave, drain, deadline } = route;
        let mut path = source.path;
        path.push(shard.context().instance.clone());
        let hops = u32::try_from(path.len()).unwrap_or(u32::MAX);
        let config = ClientConfig {
            goal: Goal::Publish,
            tc_url: names.tc_url,
            app: names.app,
            stream: names.stream,
            chunk_size: entry.stream.chunk_size(),
            digest: true,
            forwarder: Some((path.join(","), hops)),
            deadline,
        };
        let random: [u8; HANDSHAKE_RANDOM] = rand::random();
        let io = Rc::new(io);
        let mut session = ClientSession::new(config, Box::new(random), Instant::now());
        session.reconnect();
        Self {
            shard: Rc::clone(shard),
            taking: Taking::new(Rc::clone(&io)),
            io,
            session,
            entry: Arc::clone(entry),
            forward: forward.clone(),
            path,
            leave,
            leaving: false,
            drain,
            draining: false,
            out: Vec::new(),
            subscription: None,
            forwards_since: None,
            moved: (Instant::now(), Instant::now()),
            counted: (0, 0),
            leave_at: None,
        }
    }

    /// Runs until the stream is over (`Ok`) or the leg fails; calls `connected` before it forwards.
    pub(crate) async fn run(
        mut self,
        connected: impl Fn() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let result = self.drive(&connected).await;
        self.account();
        self.entry.lag_ms.store(0, Ordering::Relaxed);
        self.entry.queue_bytes.store(0, Ordering::Relaxed);
        let forwarded = self.forwards_since.map(|since| since.elapsed());
        result.map_err(|failure| Failure { forwarded, ..failure })
    }

    async fn drive(&mut self, connected: &impl Fn() -> Result<(), Failure>) -> Result<(), Failure> {
        let stop = self.shard.context().stop.clone();
        loop {
            self.send()?;
            let io = Rc::clone(&self.io);
            let deadline = self.deadline();
            tokio::select! {
                ready = io.readable() => {
                    ready?;
                    if self.on_readable(connected)? {
                        return Ok(());
                    }
                }
                ready = io.writable(), if self.is_blocked() => {
                    ready?;
                    if let Some(subscription) = &self.subscription {
                        subscription.on_writable();
                    }
                }
                () = changed(self.subscription.as_ref()) => {}
                () = self.leave.cancelled(), if !self.leaving => self.leaving = true,
                () = self.drain.cancelled(), if !self.draining => self.begin_draining(),
                // Once it forwards it goes on to the end of the stream.
                () = stop.cancelled(), if self.subscription.is_none() => {
                    return Err(Failure::new("stopping"));
                }
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            if self.look()? {
                return Ok(());
            }
        }
    }

    /// True: the destination answered our goodbye, or closed after it.
    fn on_readable(
        &mut self,
        connected: &impl Fn() -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let shard = Rc::clone(&self.shard);
        let mut scratch = shard.scratch();
        let n = match self.io.try_read(&mut scratch) {
            Ok(0) if self.leave_at.is_some() => return Ok(true),
            Ok(0) => return Err(Failure::new("closed by the destination")),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(_) if self.leave_at.is_some() => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let mut input = &scratch[..n];
        let mut publishing = None;
        while let Some(event) = self.session.read(Instant::now(), &mut input)? {
            match event {
                ClientEvent::Publishing(msid) => publishing = Some(msid),
                ClientEvent::Finished if self.leave_at.is_some() => return Ok(true),
                ClientEvent::Finished => {
                    return Err(Failure::new("the destination ended the publish"));
                }
                ClientEvent::Reconnect(_) if self.leave_at.is_some() => {}
                ClientEvent::Reconnect(tc_url) => {
                    let why = "asked to connect again";
                    return Err(Failure { moved: Some(tc_url), ..Failure::new(why) });
                }
                _ => {}
            }
        }
        if let (Some(msid), None) = (publishing, &self.subscription) {
            connected()?;
            self.subscribe(msid);
        }
        Ok(false)
    }

    /// Hands the socket to the fan-out.
    fn subscribe(&mut self, msid: u32) {
        let stream = &self.entry.stream;
        let options = SubscriberOptions {
            lag: LagLimits { time: self.forward.queue_length, bytes: self.forward.queue_bytes },
            gop_cache: true,
            keyframe_wait: KEYFRAME_WAIT,
            target: Target {
                form: Form::Chunks,
                chunk_size: stream.chunk_size(),
                msid,
                publish: true,
            },
            guess_av: false,
            player: false,
        };
        let mut lead = std::mem::take(&mut self.out);
        lead.append(&mut self.session.take_output());
        let io = Rc::clone(&self.io);
        let config = self.shard.context().config();
        let vhost = config.vhost(stream.key().vhost());
        let hold = vhost.map_or(Duration::ZERO, |vhost| vhost.play.audio_hold);
        let pace = Pace { floor: Duration::ZERO, hold };
        let subscription = Subscription::new(&self.shard, stream, io, options, pace, lead);
        self.subscription = Some(subscription);
        let now = Instant::now();
        self.forwards_since = Some(now);
        self.moved = (now, now);
        self.entry.stalled.store(false, Ordering::Relaxed);
    }

    /// Sends what the session has to say.
    fn send(&mut self) -> Result<(), Failure> {
        let mut output = self.session.take_output();
        if let Some(subscription) = &self.subscription {
            if !output.is_empty() && !subscription.send(&output) {
                return Err(Failure::new("the destination does not read"));
            }
            return Ok(());
        }
        self.out.append(&mut output);
        while !self.out.is_empty() {
            match self.io.try_write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        if self.out.len() > MAX_OUT {
            return Err(Failure::new("the destination does not read"));
        }
        Ok(())
    }

    /// Looks at deadlines, a hung destination and the end of the stream. True: all is said.
    fn look(&mut self) -> Result<bool, Failure> {
        let now = Instant::now();
        self.session.handle_timeout(now)?;
        if self.leave_at.is_some_and(|at| now >= at) {
            return Ok(true);
        }
        // Nothing was promised to the destination yet.
        let Some(subscription) = &self.subscription else {
            return Ok(self.leaving || self.draining);
        };
        let state = subscription.state();
        self.entry.lag_ms.store(state.lag.as_millis() as u64, Ordering::Relaxed);
        self.entry.queue_bytes.store(state.queued, Ordering::Relaxed);
        self.account();
        if let Some(error) = state.failed {
            return Err(Failure::new(error));
        }
        self.look_around(now)?;
        let nothing_since = self.taking.nothing_since(state.blocked_since, now);
        if nothing_since.is_some_and(|since| now >= since + self.forward.hung_timeout) {
            return Err(Failure::new("the destination takes nothing"));
        }
        let over = state.ended || self.draining || (self.leaving && !state.live);
        if over && state.drained && self.leave_at.is_none() {
            self.session.finish();
            self.leave_at = Some(now + GOODBYE);
        }
        Ok(false)
    }

    /// No more than what is in the queue now is to go there.
    fn begin_draining(&mut self) {
        self.draining = true;
        if let Some(subscription) = &self.subscription {
            subscription.end_here();
        }
    }

    /// Says whether anything gets there. Errors: the stream has another publisher by now, who comes
    /// through servers that were not named. The destination may be one of them, and finds that out if
    /// it is told.
    fn look_around(&mut self, now: Instant) -> Result<(), Failure> {
        let (looked, moved) = &mut self.moved;
        if now < *looked + LOOK {
            return Ok(());
        }
        *looked = now;
        if self.taking.is_moving() {
            *moved = now;
        }
        self.entry.stalled.store(now >= *moved + STALLED, Ordering::Relaxed);
        let path = self.entry.stream.source().path;
        if path.iter().any(|id| !self.path.contains(id)) && self.leave_at.is_none() {
            return Err(Failure::new("the stream comes by another way now"));
        }
        Ok(())
    }

    fn account(&mut self) {
        let Some(subscription) = &self.subscription else { return };
        let state = subscription.state();
        let (sent, skips) = std::mem::replace(&mut self.counted, (state.sent_bytes, state.skips));
        self.entry.sent_bytes.fetch_add(state.sent_bytes - sent, Ordering::Relaxed);
        self.entry.skips.fetch_add(state.skips - skips, Ordering::Relaxed);
    }

    fn is_blocked(&self) -> bool {
        match &self.subscription {
            Some(subscription) => subscription.blocked_since().is_some(),
            None => !self.out.is_empty(),
        }
    }

    fn deadline(&self) -> Instant {
        let look = Instant::now() + LOOK;
        let due = [self.session.poll_timeout(), self.leave_at].into_iter().flatten();
        due.fold(look, Instant::min)
    }
}

async fn changed(subscription: Option<&Subscription>) {
    match subscription {
        Some(subscription) => subscription.changed().await,
        None => pending().await,
    }
}
