//! A connection to an origin for one player, taken to right before `play`.
//!
//! Between its answer to `createStream` and `play` a server says nothing. In that silence the
//! player's socket is handed to a leg: nothing is under way, and what the origin says from then on
//! is a chunk stream from its beginning.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Destination;
use crate::conn::Shard;
use crate::forward::{Failure, dial};
use crate::rtmp::chunk::{Position, StreamPosition};
use crate::rtmp::message::Control;
use crate::rtmp::session::{ClientConfig, ClientEvent, ClientSession};

/// An origin that acknowledges nothing of ours at TCP level for so long is gone.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// Most bytes that may wait for an origin that does not read.
const MAX_OUT: usize = 64 << 10;

const HANDSHAKE_RANDOM: usize = 1536;

/// One such connection.
pub(super) struct Uplink {
    pub(super) io: Rc<TcpStream>,
    pub(super) origin: Destination,
    /// The message stream that the origin gave.
    pub(super) msid: u32,
    session: ClientSession,
    /// What the socket did not take yet.
    out: Vec<u8>,
    /// Bytes acknowledged.
    acknowledged: u64,
    /// What legs had moved to its player before it was asked to play.
    moved_before: u64,
}

impl Uplink {
    /// Talks to `origin` until there is only `play` left to say.
    pub(super) async fn open(
        origin: &Destination,
        config: ClientConfig,
        shard: &Shard,
    ) -> Result<Self, Failure> {
        let within = config.deadline;
        let io = dial(shard, origin, within, DEAD_AFTER).await?;
        let random: [u8; HANDSHAKE_RANDOM] = rand::random();
        let mut session = ClientSession::new(config, Box::new(random), Instant::now());
        session.hold();
        let origin = origin.clone();
        let mut uplink = Self {
            io: Rc::new(io),
            origin,
            msid: 0,
            session,
            out: Vec::new(),
            acknowledged: 0,
            moved_before: 0,
        };
        let ready = timeout(within, uplink.converse(shard)).await;
        ready.unwrap_or_else(|_| Err(Failure::new("no answer in time")))?;
        Ok(uplink)
    }

    async fn converse(&mut self, shard: &Shard) -> Result<(), Failure> {
        loop {
            let read = self.read(shard)?;
            let said = self.session.take_output();
            self.say(&said)?;
            while !self.out.is_empty() {
                self.io.writable().await?;
                self.flush()?;
            }
            if !read && self.msid != 0 && self.session.is_at_border() {
                return Ok(());
            }
            if !read {
                self.io.readable().await?;
            }
        }
    }

    /// Whether there was anything.
    fn read(&mut self, shard: &Shard) -> Result<bool, Failure> {
        let mut scratch = shard.scratch();
        let n = match self.io.try_read(&mut scratch) {
            Ok(0) => return Err(Failure::new("closed by the origin")),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut input = scratch.get(..n).unwrap_or_default();
        while let Some(event) = self.session.read(Instant::now(), &mut input)? {
            if let ClientEvent::Ready(msid) = event {
                self.msid = msid;
            }
        }
        Ok(true)
    }

    /// Chunk size in which the origin speaks, bytes.
    pub(super) fn chunk_size(&self) -> u32 {
        self.session.received_chunk_size()
    }

    /// Where the reader of what the origin says stands.
    pub(super) fn position(&self) -> Option<Position> {
        self.session.position()
    }

    /// What a player has to be told so that it reads on as a reader of the origin would, if it has
    /// `heard` this; `None` if nothing does that. An origin may write each header in relation to
    /// its last one on that chunk stream; one that does has shown it by now, as it has said at least
    /// two results and some bandwidths and sizes.
    pub(super) fn mirror(&self, heard: &[StreamPosition]) -> Option<&[u8]> {
        if !self.session.leans() {
            return Some(&[]);
        }
        let control = self.session.last_control();
        let mut missing: &[u8] = &[];
        for stream in &self.position()?.streams {
            if heard.contains(stream) {
                continue;
            }
            if StreamPosition::after(control).as_ref() != Some(stream) {
                return None;
            }
            missing = control;
        }
        Some(missing)
    }

    /// Asks for the stream. `moved`: by legs to the player so far, bytes.
    pub(super) fn play(&mut self, moved: u64) -> Result<(), Failure> {
        self.acknowledged = self.session.bytes_received();
        self.moved_before = moved;
        self.ask(ClientSession::play)
    }

    /// Sends what `what` has the session say.
    pub(super) fn ask(&mut self, what: impl FnOnce(&mut ClientSession)) -> Result<(), Failure> {
        what(&mut self.session);
        let said = self.session.take_output();
        self.say(&said)
    }

    /// Reads what the origin sends while no leg does; 0: it has closed.
    pub(super) async fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            self.io.readable().await?;
            match self.io.try_read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// Acknowledges what legs have moved to the player by now, each half window.
    pub(super) fn acknowledge(&mut self, moved: u64) -> Result<(), Failure> {
        let window = u64::from(self.session.ack_window());
        let received = self.session.bytes_received() + moved.saturating_sub(self.moved_before);
        if window == 0 || received - self.acknowledged < window / 2 {
            return Ok(());
        }
        self.acknowledged = received;
        // RTMP 1.0 section 5.4.3 has 32 bits; the count goes on modulo 2^32.
        let [.., a, b, c, d] = received.to_be_bytes();
        let mut message = Vec::new();
        Control::Acknowledgement(u32::from_be_bytes([a, b, c, d])).encode(&mut message);
        self.say(&message)
    }

    /// Sends whole messages.
    pub(super) fn say(&mut self, messages: &[u8]) -> Result<(), Failure> {
        if self.out.len() + messages.len() > MAX_OUT {
            return Err(Failure::new("the origin does not read"));
        }
        self.out.extend_from_slice(messages);
        self.flush()
    }

    /// Whether something waits to be sent.
    pub(super) fn is_blocked(&self) -> bool {
        !self.out.is_empty()
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        while !self.out.is_empty() {
            match self.io.try_write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
