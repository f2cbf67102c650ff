//! One connection to an origin, from which a stream is pulled.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::sleep_until;

use super::pull::Pull;
use super::{Edges, REMOVED};
use crate::config::{Destination, Edge, bracketed};
use crate::conn::{Shard, read_some};
use crate::forward::{Failure, dial};
use crate::rtmp::session::{ClientConfig, ClientEvent, ClientSession, Goal};
use crate::rtmp::url::{DEFAULT_VHOST, StreamKey};

/// An origin that acknowledges nothing of ours at TCP level for so long is gone.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// Reads of the socket before others get their turn.
const READS_PER_TURN: usize = 8;

const HANDSHAKE_RANDOM: usize = 1536;

/// Why a connection to an origin is over.
#[derive(Debug)]
pub(super) enum Lost {
    /// Somebody publishes the stream here.
    Taken,
    /// Nothing came for too long, and there are other origins.
    Silent,
    /// The origin said that the stream is over. Others may have it still: this one may be stopping.
    Ended,
    /// The origin is about to stop, and asked us to connect again: there if it is an origin of
    /// this vhost.
    Moved(Option<String>),
    /// It failed, or the origin ended it.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Lost {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

pub(super) struct Feed<'a> {
    pull: &'a Pull,
    edges: &'a Edges,
    shard: &'a Rc<Shard>,
    pub(super) origin: Destination,
    io: TcpStream,
    session: ClientSession,
    /// What the socket did not take yet.
    out: Vec<u8>,
    /// When media came last, or the play began.
    heard: Instant,
    /// [`Lost::Moved`] was told: this goes on until another origin brings media.
    leaving: bool,
}

impl<'a> Feed<'a> {
    /// Connects to `origin`.
    pub(super) async fn open(
        pull: &'a Pull,
        edges: &'a Edges,
        shard: &'a Rc<Shard>,
        origin: &Destination,
    ) -> Result<Self, Lost> {
        let io = dial(shard, origin, pull.vhost.edge.connect_timeout, DEAD_AFTER).await?;
        let (session, origin) = (session(pull, shard, origin), origin.clone());
        let (out, heard, leaving) = (Vec::new(), Instant::now(), false);
        Ok(Self { pull, edges, shard, origin, io, session, out, heard, leaving })
    }

    /// Pulls until that is over. After [`Lost::Moved`] it may be called again. Cancel safe.
    pub(super) async fn run(&mut self) -> Lost {
        let (edges, pull, origin) = (self.edges, self.pull, self.origin.clone());
        let driven = tokio::select! {
            biased;
            driven = self.drive() => driven,
            () = edges.removed(&pull.vhost, &origin) => Err(Failure::new(REMOVED).into()),
        };
        match driven {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn drive(&mut self) -> Result<std::convert::Infallible, Lost> {
        loop {
            self.send()?;
            let idle = self.heard + self.pull.vhost.edge.idle_timeout;
            let due = self.session.poll_timeout().map_or(idle, |due| due.min(idle));
            tokio::select! {
                ready = self.io.readable() => {
                    ready?;
                    self.on_readable()?;
                }
                ready = self.io.writable(), if !self.out.is_empty() => ready?,
                () = sleep_until(due.into()) => self.on_timer()?,
            }
        }
    }

    fn on_readable(&mut self) -> Result<(), Lost> {
        for _ in 0..READS_PER_TURN {
            let mut scratch = self.shard.scratch();
            let n = match read_some(&self.io, &mut scratch) {
                Ok(0) => return Err(Failure::new("closed by the origin").into()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            let taken = self.take(scratch.get(..n).unwrap_or_default());
            self.pull.flush();
            taken?;
            if n < scratch.len() {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, mut input: &[u8]) -> Result<(), Lost> {
        let now = Instant::now();
        let bytes = input.len() as u64;
        self.pull.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.shard.count_received(bytes);
        let mut moved = None;
        while let Some(event) = self.session.read(now, &mut input)? {
            match event {
                ClientEvent::Playing(_) => {
                    self.heard = now;
                    self.edges.origins.works(&self.pull.vhost.name, &self.origin);
                    self.pull.connected(&self.origin);
                }
                ClientEvent::Media(media) => {
                    self.heard = now;
                    if self.leaving && !self.pull.comes_from(&self.origin) {
                        return Err(Lost::Taken);
                    }
                    self.pull.append((self.edges, self.shard), &self.origin, &media, now)?;
                }
                ClientEvent::Finished => return Err(Lost::Ended),
                ClientEvent::Reconnect(tc_url) => moved = Some(tc_url),
                _ => {}
            }
        }
        // What came behind it is media like any other.
        match moved {
            Some(tc_url) if !std::mem::replace(&mut self.leaving, true) => Err(Lost::Moved(tc_url)),
            _ => Ok(()),
        }
    }

    fn on_timer(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        self.session.handle_timeout(now)?;
        if now >= self.heard + self.pull.vhost.edge.idle_timeout {
            // With nobody else to ask, the stream may as well come back here.
            if self.edges.has_others(&self.pull.vhost, &self.origin) {
                return Err(Lost::Silent);
            }
            self.pull.mark_lost();
            self.heard = now;
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        self.out.append(&mut self.session.take_output());
        while !self.out.is_empty() {
            match self.io.try_write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn session(pull: &Pull, shard: &Shard, origin: &Destination) -> ClientSession {
    let (edge, chunk_size) = (&pull.vhost.edge, pull.vhost.chunk_size);
    let ask = (&pull.key, &*pull.param, &*pull.path);
    let config = client_config(edge, chunk_size, ask, shard, origin);
    let random: [u8; HANDSHAKE_RANDOM] = rand::random();
    let mut session = ClientSession::new(config, Box::new(random), Instant::now());
    session.reconnect();
    session
}

/// How a stream with parameters is named to an origin that knows its vhost and app from `connect`.
pub(super) fn stream_name(key: &StreamKey, param: &str) -> String {
    match param {
        "" => key.stream().to_owned(),
        param => format!("{}?{param}", key.stream()),
    }
}

/// How to play the stream with this name, parameters and loop guard from `origin`.
pub(super) fn client_config(
    edge: &Edge,
    chunk_size: u32,
    (key, param, path): (&StreamKey, &str, &[String]),
    shard: &Shard,
    origin: &Destination,
) -> ClientConfig {
    let vhost = edge.origin_vhost(key.vhost());
    let host = bracketed(if vhost == DEFAULT_VHOST { &origin.host } else { &vhost });
    let stream = stream_name(key, param);
    let mut path = path.to_vec();
    path.push(shard.context().instance.clone());
    let hops = u32::try_from(path.len()).unwrap_or(u32::MAX);
    ClientConfig {
        goal: Goal::Play,
        tc_url: format!("{}://{host}:{}/{}", origin.scheme(), origin.port, key.app()),
        app: key.app().to_owned(),
        stream,
        chunk_size,
        digest: true,
        forwarder: Some((path.join(","), hops)),
        deadline: edge.connect_timeout,
    }
}
