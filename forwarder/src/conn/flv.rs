//! A player over HTTP: one request, and then the FLV stream until it ends.
//!
//! What it gets is a log of its own form (see [`Form`](crate::hub::Form)), read by the same lanes as
//! the log of RTMP players.

mod admission;
mod answer;
mod request;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, info, warn};

use self::answer::Answers;
use self::request::{MAX_HEAD, Method, Refused, Request, decoded, parse};
use super::admission::Tickets;
use super::client::{Client, Speaks};
use super::end::{DISMISSED, End};
use super::play::Playing;
use super::shard::Counted;
use super::socket::{WRITE_TIMEOUT, abandon, tune_accepted, tune_player};
use super::upstream::{Ask, Grant, Interest, PlayAsk};
use super::{Shard, Totals, stream_options};
use crate::config::Vhost;
use crate::hub::{Phase, Stream};
use crate::rtmp::session::ConnectRequest;
use crate::rtmp::url::{self, StreamKey, escaped};
use crate::splice;

/// Serves one accepted socket to its end, and says in one line what it was.
pub(super) async fn serve(shard: Rc<Shard>, io: TcpStream, peer: SocketAddr) {
    let began = Instant::now();
    let mut visitor = Visitor::new(shard, io, peer, began);
    let stop = visitor.shard.stop().clone();
    let outcome = tokio::select! {
        outcome = Box::pin(visitor.begin()) => outcome,
        () = stop.cancelled() => Err(End::Closed("the server stops").into()),
    };
    let end = match outcome {
        // To its end also while the server stops: it gets what is left of its stream.
        Ok(_interest) => match visitor.play().await {
            Ok(never) => match never {},
            Err(end) => end,
        },
        Err(No::End(end)) => end,
        Err(No::Refused(refused)) => visitor.refuse(&refused).await,
    };
    visitor.finish(&end, began);
}

/// Why nothing is played.
enum No {
    Refused(Refused),
    End(End),
}

impl From<Refused> for No {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<End> for No {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

/// What a request means.
struct Wanted {
    key: StreamKey,
    /// Parameters without the `?`.
    param: String,
    vhost: Vhost,
    /// The request in the words of RTMP.
    connect: ConnectRequest,
}

struct Visitor {
    client: Client,
    shard: Rc<Shard>,
    io: Rc<TcpStream>,
    peer: SocketAddr,
    answers: Answers,
    method: Method,
    playing: Option<Playing>,
    received: u64,
    did: Option<StreamKey>,
    tickets: Tickets,
    _counted: Counted,
}

impl Visitor {
    fn new(shard: Rc<Shard>, io: TcpStream, peer: SocketAddr, now: Instant) -> Self {
        let crossdomain = shard.context().config().http_server.crossdomain;
        Self {
            client: Client::enter(&shard, &io, peer, Speaks::Http, now),
            _counted: Counted::new(shard.gauges(), |gauges| &gauges.connections),
            shard,
            io: Rc::new(io),
            peer,
            answers: Answers { crossdomain },
            method: Method::Get,
            playing: None,
            received: 0,
            did: None,
            tickets: Tickets::default(),
        }
    }

    /// Up to the head of the stream. Gives what keeps the pull of an edge going.
    async fn begin(&mut self) -> Result<Option<Interest>, No> {
        tune_accepted(&self.io, WRITE_TIMEOUT).map_err(End::Io)?;
        let request = timeout(REQUEST_TIMEOUT, self.request()).await;
        let request = request.map_err(|_| Refused::new(408, "no request in time"))??;
        self.method = request.method;
        if request.method == Method::Options {
            self.say(&self.answers.options()).await?;
            return Err(End::Closed("answered").into());
        }
        let wanted = self.resolve(&request)?;
        self.client.connected(&Arc::new(wanted.connect.clone()));
        self.admit(&wanted).await?;
        let (stream, interest) = self.find(&wanted).await?;
        let head = self.answers.stream();
        if request.method == Method::Head {
            self.say(&head).await?;
            return Err(End::Closed("answered").into());
        }
        let vhost = &wanted.vhost;
        tune_player(&self.io, vhost).map_err(End::Io)?;
        debug!(peer = %self.peer, stream = %wanted.key, "play");
        let (io, remux) = (Rc::clone(&self.io), &vhost.http_remux);
        self.playing = Some(Playing::over_http(&self.shard, &stream, io, remux, &vhost.play, head));
        self.did = Some(wanted.key);
        Ok(interest)
    }

    /// Reads a request.
    async fn request(&mut self) -> Result<Request, No> {
        let mut head = Vec::new();
        loop {
            self.io.readable().await.map_err(End::Io)?;
            let mut scratch = [0; MAX_HEAD];
            let room = scratch.len() - head.len();
            match self.io.try_read(&mut scratch[..room]) {
                Ok(0) => return Err(End::Closed("closed by peer").into()),
                Ok(n) => {
                    self.hear(n);
                    head.extend_from_slice(&scratch[..n]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(End::Io(error).into()),
            }
            if let Some(request) = parse(&head)? {
                return Ok(request);
            }
        }
    }

    fn hear(&mut self, bytes: usize) {
        self.received += bytes as u64;
        self.client.received(self.received);
    }

    /// The stream that is asked for, in a vhost that is served over HTTP.
    fn resolve(&self, request: &Request) -> Result<Wanted, Refused> {
        let Some((app, name)) = request.stream() else {
            return Err(Refused::new(404, "streams are at /app/stream.flv, and nothing else is"));
        };
        let context = self.shard.context();
        // Browsers encode names; publishers may have called a stream by an encoded one.
        let wanted = self.resolve_names(request, &decoded(app), &decoded(name))?;
        if wanted.key.app() != app || wanted.key.stream() != name {
            let encoded = self.resolve_names(request, app, name);
            if let Ok(encoded) = encoded
                && context.hub.find(&encoded.key).is_some()
            {
                return Ok(encoded);
            }
        }
        Ok(wanted)
    }

    fn resolve_names(&self, request: &Request, app: &str, name: &str) -> Result<Wanted, Refused> {
        let host = &request.host;
        let (tc_url, stream) =
            (format!("rtmp://{host}/{app}"), format!("{name}?{}", request.query));
        let bad = |error: url::UrlError| Refused::new(400, error.to_string());
        let named = url::Request::resolve(&tc_url, app, &stream).map_err(bad)?;
        let config = self.shard.context().config();
        let vhost = config.vhost(&named.vhost).filter(|vhost| vhost.http_remux.enabled);
        let vhost = vhost.ok_or_else(|| Refused::new(404, "no vhost that is served over HTTP"))?;
        self.client.asks(&vhost.name);
        let key = StreamKey::new(&vhost.name, &named.app, &named.stream).map_err(bad)?;
        let connect = ConnectRequest {
            tc_url: format!("rtmp://{}/{}", named.vhost, named.app),
            app: named.app,
            page_url: request.referer.clone(),
            swf_url: String::new(),
            flash_ver: request.agent.clone(),
            enhanced: true,
            reconnects: false,
            unread: false,
            args: None,
            forwarder: None,
        };
        Ok(Wanted { key, param: named.param, vhost: vhost.clone(), connect })
    }

    /// The stream, once it has a publisher, and what keeps the pull of an edge going.
    async fn find(&self, wanted: &Wanted) -> Result<(Arc<Stream>, Option<Interest>), No> {
        let hub = &self.shard.context().hub;
        let absent = || Refused::new(404, "nobody publishes this stream");
        let has_publisher =
            |stream: &Arc<Stream>| matches!(stream.phase(), Phase::Live | Phase::Grace(_));
        if !wanted.vhost.edge.enabled {
            let stream = hub.find(&wanted.key).filter(has_publisher);
            return Ok((stream.ok_or_else(absent)?, None));
        }
        let interest = self.pull(wanted).await?;
        // An origin may accept a player of a stream that it does not have.
        let mut changes = hub.changes();
        let options = stream_options(&wanted.vhost);
        let live = async {
            loop {
                changes.mark_unchanged();
                let stream = hub.stream(&wanted.key, options, Instant::now());
                if has_publisher(&stream) {
                    return Some(stream);
                }
                changes.changed().await.ok()?;
            }
        };
        let stream = tokio::select! {
            stream = timeout(wanted.vhost.edge.failover_timeout, live) => stream.ok().flatten(),
            () = splice::closed(&self.io) => return Err(End::Closed("closed by peer").into()),
        };
        Ok((stream.ok_or_else(absent)?, Some(interest)))
    }

    /// Has the stream pulled from an origin.
    async fn pull(&self, wanted: &Wanted) -> Result<Interest, No> {
        let (reply, answer) = oneshot::channel();
        let connect = wanted.vhost.edge.token_traverse.then(|| Box::new(wanted.connect.clone()));
        let ask = PlayAsk {
            key: wanted.key.clone(),
            connect,
            param: wanted.param.clone(),
            path: Vec::new(),
            shared: true,
            reply,
        };
        self.shard.context().upstream.ask(Ask::Play(ask));
        let answer = tokio::select! {
            answer = answer => answer,
            () = splice::closed(&self.io) => return Err(End::Closed("closed by peer").into()),
        };
        match answer {
            Ok(Ok(Grant::Shared(interest))) => Ok(interest),
            Ok(Err(refusal)) => Err(Refused::new(404, refusal.description).into()),
            // A leg was not asked for; the rest is a queue that is full.
            Ok(Ok(Grant::Own(_))) | Err(_) => {
                Err(Refused::new(503, "the edge is too busy, or stops").into())
            }
        }
    }

    /// The stream, until it ends or the player leaves.
    async fn play(&mut self) -> Result<Infallible, End> {
        let io = Rc::clone(&self.io);
        let dismissed = self.client.dismissed().clone();
        let mut dismissed = pin!(dismissed.cancelled());
        loop {
            let Some(playing) = &self.playing else { return Err(End::Closed("nothing to play")) };
            let state = playing.state();
            if let Some(error) = state.failed {
                return Err(End::Io(io::Error::other(error)));
            }
            if state.ended && state.drained {
                return Err(End::Closed("the stream is over"));
            }
            let deadline = playing.deadline().unwrap_or_else(|| Instant::now() + IDLE_LOOK);
            tokio::select! {
                ready = poll_fn(|cx| io.poll_read_ready(cx)) => {
                    ready.map_err(End::Io)?;
                    self.pass_over()?;
                }
                ready = poll_fn(|cx| io.poll_write_ready(cx)), if playing.is_blocked() => {
                    ready.map_err(End::Io)?;
                    playing.on_writable();
                }
                () = playing.changed() => {}
                () = dismissed.as_mut() => return Err(End::Closed(DISMISSED)),
                () = sleep_until(deadline.into()) => {
                    playing.on_timer();
                    if playing.is_stuck(Instant::now()) {
                        return Err(End::Stuck);
                    }
                }
            }
        }
    }

    /// What a player says behind its request says nothing.
    fn pass_over(&mut self) -> Result<(), End> {
        let mut scratch = [0; 1024];
        match self.io.try_read(&mut scratch) {
            Ok(0) => return Err(End::Closed("closed by peer")),
            Ok(n) => self.hear(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(End::Io(error)),
        }
        if self.received > MAX_RECEIVED {
            return Err(End::Closed("it sends instead of playing"));
        }
        Ok(())
    }

    /// Says no, and waits until the player has read that or left: what is unread when a socket is
    /// closed makes the kernel drop what is unsent.
    async fn refuse(&mut self, refused: &Refused) -> End {
        let context = self.shard.context();
        if !matches!(refused.status, 403 | 404 | 503) {
            Totals::add(&context.totals.errors, 1);
        }
        if let Some(unsaid) = context.may_complain(Instant::now()) {
            let (peer, status, why) = (self.peer, refused.status, escaped(&refused.why));
            warn!(%peer, status, %why, unsaid, "refused over HTTP");
        }
        let answer = self.answers.refusal(refused, self.method != Method::Head);
        if let Err(end) = self.say(&answer).await {
            return end;
        }
        // An error means that the player has left.
        _ = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&*self.io),
            nix::sys::socket::Shutdown::Write,
        );
        let left = async { while self.io.readable().await.is_ok() && self.pass_over().is_ok() {} };
        _ = timeout(REFUSED_LINGER, left).await;
        End::Closed("refused")
    }

    /// Sends a short answer.
    async fn say(&self, mut answer: &[u8]) -> Result<(), End> {
        let all = async {
            while !answer.is_empty() {
                self.io.writable().await?;
                match self.io.try_write(answer) {
                    Ok(n) => {
                        self.client.add_sent(n as u64);
                        answer = answer.get(n..).unwrap_or_default();
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        match timeout(WRITE_TIMEOUT, all).await {
            Ok(said) => said.map_err(End::Io),
            Err(_) => Err(End::Stuck),
        }
    }

    fn finish(mut self, end: &End, began: Instant) {
        if let Some(playing) = self.playing.take() {
            self.client.add_sent(playing.state().sent_bytes);
        }
        if end.is_stuck() {
            abandon(&self.io);
        }
        self.tickets.moved(self.client.sent(), self.received);
        let stream = self.did.as_ref().map(ToString::to_string).unwrap_or_default();
        let did = if self.did.is_some() { "flv-play" } else { "none" };
        let (peer, received, sent) = (self.peer, self.received, self.client.sent());
        let ms = began.elapsed().as_millis() as u64;
        let reason = end.reason();
        if !matches!(end, End::Stuck) {
            return info!(%peer, did, stream, received, sent, ms, reason, "connection closed");
        }
        let context = self.shard.context();
        Totals::add(&context.totals.errors, 1);
        if let Some(unsaid) = context.may_complain(Instant::now()) {
            warn!(%peer, did, stream, received, sent, ms, reason, unsaid, "connection ended");
        }
    }
}

/// A request has to be whole so soon.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a player, request included.
const MAX_RECEIVED: u64 = 64 << 10;

/// A refused player gets so long to read why.
const REFUSED_LINGER: Duration = Duration::from_secs(2);

/// Without any deadline a player is looked at so often.
const IDLE_LOOK: Duration = Duration::from_secs(30);
