//! One client's connection: drives its session, publishes into the hub, plays from it.

mod admission;
mod asking;
mod dismissed;
mod encoder;
mod leaving;
mod legged;
mod naming;
mod publishing;
mod role;
mod time;
mod vhost;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use admission::Entry;
use role::{Change, Role};
use tokio::net::TcpStream;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};
use vhost::{announced, carries_publishers, names_vhost};

use super::admission::Tickets;
use super::attention::Attention;
use super::client::{Client, Speaks};
use super::end::End;
use super::leaving::{Movable, Stage};
use super::legged::Wish;
use super::play::{self, Playing};
use super::read::read_some;
use super::shard::Counted;
use super::socket::{WRITE_TIMEOUT, abandon, tune_accepted, tune_player};
use super::upstream::Interest;
use super::{Shard, Totals, stream_options};
use crate::config::Vhost;
use crate::rtmp::session::{ConnectRequest, PlayRequest, ServerEvent, ServerSession};
use crate::rtmp::url::{DEFAULT_VHOST, Request, StreamKey, escaped};
use crate::splice;

/// Serves one accepted socket to its end, and says in one line what it was.
pub(super) async fn serve(shard: Rc<Shard>, io: TcpStream, peer: SocketAddr) {
    let began = Instant::now();
    let mut connection = Connection::new(shard, io, peer, began);
    let end = match connection.run().await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    connection.finish(&end, began);
}

enum Never {}

/// What a connection waits for. All but the first come rarely.
enum Event {
    Readable(io::Result<()>),
    Writable(io::Result<()>),
    /// By a peer that is not read from.
    Closed,
    Role(Change),
    Timer,
    /// The process is about to stop.
    Stage,
    /// Its vhost is not served any more.
    Dismissed,
}

struct Connection {
    client: Client,
    shard: Rc<Shard>,
    io: Rc<TcpStream>,
    peer: SocketAddr,
    session: ServerSession,
    connect: Option<Arc<ConnectRequest>>,
    /// If it can be asked to go elsewhere.
    movable: Option<Movable>,
    role: Role,
    tickets: Tickets,
    /// Bytes of the session that the socket did not take yet.
    out: Vec<u8>,
    /// More of them than this, and the peer is closed.
    most_out: usize,
    out_blocked_since: Option<Instant>,
    /// Bytes that came while an origin was asked.
    unread: Vec<u8>,
    /// Close at this time, once what was said is on its way.
    close_at: Option<Instant>,
    next_ping: Option<Instant>,
    /// Nothing but media came since it was woken by anything else.
    is_settled: bool,
    /// What it was, for the line at its end.
    did: Option<(&'static str, StreamKey)>,
    _counted: Counted,
}

impl Connection {
    fn new(shard: Rc<Shard>, io: TcpStream, peer: SocketAddr, now: Instant) -> Self {
        // The vhost is not known yet: `connect` names it, and these are not sent before.
        let server = announced(shard.context().config().vhost(DEFAULT_VHOST));
        let random: [u8; HANDSHAKE_RANDOM] = rand::random();
        let session = ServerSession::new(server, Box::new(random), now);
        Self {
            client: Client::enter(&shard, &io, peer, Speaks::Rtmp, now),
            _counted: Counted::new(shard.gauges(), |gauges| &gauges.connections),
            shard,
            io: Rc::new(io),
            peer,
            session,
            connect: None,
            movable: None,
            role: Role::None,
            tickets: Tickets::default(),
            out: Vec::new(),
            most_out: MAX_OUT,
            out_blocked_since: None,
            unread: Vec::new(),
            close_at: None,
            next_ping: None,
            is_settled: false,
            did: None,
        }
    }

    async fn run(&mut self) -> Result<Never, End> {
        tune_accepted(&self.io, WRITE_TIMEOUT).map_err(End::Io)?;
        let shard = Rc::clone(&self.shard);
        let mut stage = Some(Stage::Players);
        let mut next_stage = pin!(Stage::Players.token(&shard).cancelled());
        let dismissed = self.client.dismissed().clone();
        let (mut dismissed, mut is_dismissed) = (pin!(dismissed.cancelled()), false);
        let mut timer = pin!(sleep_until(self.deadline().into()));
        let mut attention = Attention::new();
        loop {
            self.leave();
            self.send()?;
            // A publisher waits for its next message, and has asked for all the rest.
            if self.sooner(timer.as_mut()) || !self.is_steady() {
                attention.want();
            }
            let io = Rc::clone(&self.io);
            let reads = !self.role.is_asking();
            let (is_blocked, is_waiting) = (self.is_blocked(), self.role.is_waiting());
            let event = {
                let mut rare = pin!(async {
                    tokio::select! {
                        // Polled for: a waiter each time costs more than what it waits for.
                        ready = poll_fn(|cx| io.poll_write_ready(cx)), if is_blocked => {
                            Event::Writable(ready)
                        }
                        () = splice::closed(&io), if is_waiting => Event::Closed,
                        change = self.role.changed() => Event::Role(change),
                        () = timer.as_mut() => Event::Timer,
                        () = next_stage.as_mut(), if stage.is_some() => Event::Stage,
                        () = dismissed.as_mut(), if !is_dismissed => Event::Dismissed,
                    }
                });
                poll_fn(|cx| {
                    // First, or a publisher that never pauses would be all there is.
                    if let Some(mut cx) = attention.take(cx)
                        && let Poll::Ready(event) = rare.as_mut().poll(&mut cx)
                    {
                        return Poll::Ready(event);
                    }
                    if reads { io.poll_read_ready(cx).map(Event::Readable) } else { Poll::Pending }
                })
                .await
            };
            if !matches!(event, Event::Readable(_)) {
                attention.want();
            }
            match event {
                Event::Readable(ready) => {
                    ready.map_err(End::Io)?;
                    self.on_readable()?;
                }
                Event::Writable(ready) => {
                    ready.map_err(End::Io)?;
                    self.on_writable();
                }
                Event::Closed => return Err(End::Closed("closed by peer")),
                Event::Role(change) => self.on_role_change(change)?,
                Event::Timer => {
                    if reads {
                        // After the process stood still all is late: what came meanwhile is heard first.
                        tokio::task::yield_now().await;
                        self.on_readable()?;
                    }
                    self.on_timer()?;
                    timer.as_mut().reset(self.deadline().into());
                }
                Event::Stage => {
                    stage = stage.map_or(Ok(None), |stage| self.on_stage(stage))?;
                    if let Some(next) = stage {
                        next_stage.set(next.token(&shard).cancelled());
                    }
                }
                Event::Dismissed => {
                    is_dismissed = true;
                    self.on_dismissed()?;
                }
            }
            if stage.is_none() {
                self.on_stop();
            }
        }
    }

    // Bytes in.

    fn on_readable(&mut self) -> Result<(), End> {
        let now = Instant::now();
        for _ in 0..READS_PER_TURN {
            let shard = Rc::clone(&self.shard);
            let mut scratch = shard.scratch();
            match read_some(&self.io, &mut scratch) {
                Ok(0) => return Err(End::Closed("closed by peer")),
                Ok(n) => {
                    shard.count_received(n as u64);
                    self.take(&scratch[..n], now)?;
                    if n < scratch.len() || self.role.is_asking() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(End::Io(error)),
            }
        }
        self.client.received(self.session.bytes_received());
        self.flush();
        if let Role::Publishing { publisher, .. } = &self.role {
            publisher.alive(now);
        }
        Ok(())
    }

    fn flush(&mut self) {
        if let Role::Publishing { publisher, .. } = &mut self.role {
            self.shard.fanout().flush(publisher);
        }
    }

    fn take(&mut self, mut input: &[u8], now: Instant) -> Result<(), End> {
        if let Role::Playing { last_heard, .. } = &mut self.role {
            *last_heard = now;
        }
        while let Some(event) = self.session.read(now, &mut input)? {
            let is_media = matches!(event, ServerEvent::Media(_));
            self.is_settled = self.is_settled && is_media;
            match event {
                ServerEvent::Media(media) => self.role.append(&media, now)?,
                ServerEvent::Connect(request) => self.on_connect(request, now),
                ServerEvent::Publish(request) => self.on_publish(&request, now)?,
                ServerEvent::Play(request) => self.on_play(&request, now)?,
                ServerEvent::Unpublish(msid) | ServerEvent::StopPlay(msid) => {
                    self.on_stop_role(msid)?;
                }
                ServerEvent::Pause(_, paused) => self.wish(Wish::Pause(paused))?,
                ServerEvent::ReceiveAudio(_, wanted) => self.wish(Wish::Audio(wanted))?,
                ServerEvent::ReceiveVideo(_, wanted) => self.wish(Wish::Video(wanted))?,
                _ => {}
            }
            if self.role.is_asking() {
                self.unread.extend_from_slice(input);
                break;
            }
        }
        Ok(())
    }

    fn on_connect(&mut self, request: ConnectRequest, now: Instant) {
        let config = self.shard.context().config();
        let resolved = Request::resolve(&request.tc_url, &request.app, "")
            .or_else(|_| Request::resolve(&request.tc_url, &request.app, "_"));
        // Whether the names are any good shows when a stream is asked for, and the stream may still
        // name its vhost; one that is named here has to be there.
        let vhost = resolved.map_or(DEFAULT_VHOST.to_owned(), |request| request.vhost);
        let named = [&request.tc_url, &request.app].iter().any(|part| names_vhost(part));
        let served = config.vhost(&vhost);
        if served.is_none() && named {
            self.session.reject_connect("no such vhost");
            return self.close_soon(now);
        }
        self.session.configure(announced(served.or_else(|| config.vhost(DEFAULT_VHOST))));
        self.session.accept_connect();
        // The stream may still name another vhost.
        if !config.vhosts.iter().any(carries_publishers) {
            drop(self.session.take_transcript());
        }
        self.note_movable(&request);
        let request = Arc::new(request);
        self.client.connected(&request);
        self.connect = Some(request);
    }

    // Publishing: see `publishing`.

    // Playing.

    fn on_play(&mut self, request: &PlayRequest, now: Instant) -> Result<(), End> {
        if self.close_at.is_some() {
            return Ok(());
        }
        if matches!(self.role, Role::Publishing { .. }) {
            let why = "this connection publishes";
            self.refuse(request.msid, PLAY_FAILED, why, now);
            return Ok(());
        }
        // A player may ask again, as with a playlist.
        self.stop_playing()?;
        match self.resolve(&request.stream) {
            Ok((key, param, vhost)) => {
                self.admit(Entry::Play { key, param, vhost, request: request.clone() }, now)
            }
            Err(why) => {
                self.refuse(request.msid, PLAY_FAILED, &why, now);
                Ok(())
            }
        }
    }

    fn begin_play(
        &mut self,
        request: &PlayRequest,
        key: StreamKey,
        vhost: &Vhost,
        interest: Option<Interest>,
        now: Instant,
    ) -> Result<(), End> {
        let hub = &self.shard.context().hub;
        let stream = hub.stream(&key, stream_options(vhost), now);
        self.session.set_chunk_size(stream.chunk_size());
        self.session.accept_play(request, now);
        // What is not sent yet goes out in front of the headers, in one write with them.
        let mut lead = std::mem::take(&mut self.out);
        lead.append(&mut self.session.take_output());
        self.out_blocked_since = None;
        tune_player(&self.io, vhost).map_err(End::Io)?;
        debug!(peer = %self.peer, stream = %key, "play");
        let io = Rc::clone(&self.io);
        let playing = Playing::new(&self.shard, &stream, io, request.msid, &vhost.play, lead);
        self.did = Some(("play", key));
        self.next_ping = Some(now + play::PING_INTERVAL);
        self.role =
            Role::Playing { playing, msid: request.msid, last_heard: now, _interest: interest };
        Ok(())
    }

    fn with_playing(&mut self, what: impl FnOnce(&Playing)) {
        if let Role::Playing { playing, .. } = &self.role {
            what(playing);
        }
    }

    // Ends.

    fn on_stop_role(&mut self, ended: u32) -> Result<(), End> {
        match &self.role {
            Role::Publishing { msid, .. } if *msid == ended => self.role = Role::None,
            Role::Playing { msid, .. } if *msid == ended => self.stop_playing()?,
            Role::Legged { asked, .. } if asked.request.msid == ended => self.leave_leg()?,
            _ => {}
        }
        Ok(())
    }

    /// Ends the playing, if it plays. The rest of what is half sent stays to be sent first: replies
    /// in the middle of a message would be the end of the connection.
    fn stop_playing(&mut self) -> Result<(), End> {
        if !matches!(self.role, Role::Playing { .. }) {
            return Ok(());
        }
        self.next_ping = None;
        if let Role::Playing { playing, .. } = std::mem::replace(&mut self.role, Role::None) {
            self.client.add_sent(playing.state().sent_bytes);
            self.out = playing.finish().map_err(End::Io)?;
            self.most_out = MAX_OUT + self.out.len();
        }
        Ok(())
    }

    fn refuse(&mut self, msid: u32, code: &str, description: &str, now: Instant) {
        let refused = self.shard.context().may_complain(now);
        if let Some(unsaid) = refused {
            let description = escaped(description);
            warn!(peer = %self.peer, code, %description, unsaid, "refused");
        }
        self.turn_away(msid, code, description, now);
    }

    fn turn_away(&mut self, msid: u32, code: &str, description: &str, now: Instant) {
        // Its clock may stand where the peer was heard last; what is late shows when the timer fires.
        _ = self.session.handle_timeout(now);
        self.session.reject(msid, code, description);
        // What this connection published before goes on.
        if matches!(self.role, Role::None) {
            self.close_soon(now);
        }
    }

    fn close_soon(&mut self, now: Instant) {
        self.close_at = Some(now + REFUSED_LINGER);
    }

    /// The process stops: a publisher's stream ends at once, players get what is left of theirs.
    fn on_stop(&mut self) {
        let ends_itself =
            matches!(self.role, Role::Playing { .. } | Role::Legged { .. } | Role::Carried { .. });
        if !ends_itself && self.close_at.is_none() {
            self.role = Role::None;
            self.close_at = Some(Instant::now());
        }
    }

    fn on_change(&mut self) -> Result<(), End> {
        let Role::Playing { playing, msid, .. } = &self.role else { return Ok(()) };
        let state = playing.state();
        if let Some(error) = state.failed {
            return Err(End::Io(io::Error::other(error)));
        }
        if state.ended && state.drained && self.close_at.is_none() {
            self.session.finish_play(*msid);
            self.close_at = Some(Instant::now() + END_LINGER);
        }
        Ok(())
    }

    // Bytes out.

    /// Sends what the session has to say.
    fn send(&mut self) -> Result<(), End> {
        if matches!(self.role, Role::Legged { .. }) {
            return self.pass_on();
        }
        if self.session.has_output() {
            let mut output = self.session.take_output();
            if let Role::Playing { playing, .. } = &self.role {
                return if playing.send(&output) { Ok(()) } else { Err(End::Stuck) };
            }
            if self.out.is_empty() {
                self.out = output;
            } else {
                self.out.append(&mut output);
            }
        }
        if self.out.len() > self.most_out {
            return Err(End::Stuck);
        }
        while !self.out.is_empty() {
            match self.io.try_write(&self.out) {
                Ok(n) => {
                    self.out.drain(..n);
                    self.client.add_sent(n as u64);
                    self.out_blocked_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.out_blocked_since.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Err(error) => return Err(End::Io(error)),
            }
        }
        self.out = Vec::new();
        Ok(())
    }

    /// Whether it waits for the same as when it waited last. Who publishes does, as long as nothing but
    /// media comes; what others wait for is forgotten when they are woken.
    fn is_steady(&mut self) -> bool {
        let was_settled = std::mem::replace(&mut self.is_settled, true);
        was_settled && matches!(self.role, Role::Publishing { .. }) && !self.is_blocked()
    }

    fn is_blocked(&self) -> bool {
        match &self.role {
            Role::Playing { playing, .. } => playing.is_blocked(),
            _ => !self.out.is_empty(),
        }
    }

    fn on_writable(&mut self) {
        if let Role::Playing { playing, .. } = &self.role {
            playing.on_writable();
        }
    }

    fn finish(mut self, end: &End, began: Instant) {
        if let Role::Playing { playing, .. } = &self.role {
            self.client.add_sent(playing.state().sent_bytes);
        }
        // A last word, such as why a connect was refused, if the socket takes it at once. Not into
        // a player's stream, which may stand in the middle of a message.
        let others_write = matches!(self.role, Role::Playing { .. } | Role::Legged { .. });
        if !matches!(end, End::Io(_) | End::Stuck) && !others_write {
            self.out.append(&mut self.session.take_output());
            _ = self.io.try_write(&self.out);
        }
        if end.is_stuck() {
            abandon(&self.io);
        }
        self.count_moved();
        self.role = Role::None;
        self.leave();
        self.log(end, began);
    }

    fn log(&self, end: &End, began: Instant) {
        let (did, stream) = match &self.did {
            Some((did, stream)) => (*did, stream.to_string()),
            None => ("none", String::new()),
        };
        let peer = self.peer;
        let (received, sent) = (self.session.bytes_received(), self.client.sent());
        let ms = began.elapsed().as_millis() as u64;
        let reason = end.reason();
        if !matches!(end, End::Peer(_) | End::Stuck | End::Local(_)) {
            return info!(%peer, did, stream, received, sent, ms, reason, "connection closed");
        }
        let context = self.shard.context();
        Totals::add(&context.totals.errors, 1);
        if let Some(unsaid) = context.may_complain(Instant::now()) {
            warn!(%peer, did, stream, received, sent, ms, reason, unsaid, "connection ended");
        }
    }
}

const BAD_NAME: &str = "NetStream.Publish.BadName";
const PLAY_FAILED: &str = "NetStream.Play.Failed";

/// Random bytes a handshake wants.
const HANDSHAKE_RANDOM: usize = 1536;

/// Reads of one socket before the others get their turn.
const READS_PER_TURN: usize = 8;

/// Most bytes of replies that wait for a peer that does not read.
const MAX_OUT: usize = 256 << 10;

/// A refused client gets so long to read why: librtmp ignores the status and must be closed.
const REFUSED_LINGER: Duration = Duration::from_secs(2);

/// A player whose stream ended gets so long to read that.
const END_LINGER: Duration = Duration::from_millis(500);
