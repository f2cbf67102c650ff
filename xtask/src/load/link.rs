//! One end of an RTMP connection on a socket that never blocks.
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use forwarder::rtmp::Timestamp;
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::{ClientEvent, ClientSession, Goal};
use forwarder::rtmp::url::RtmpUrl;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client;

/// Most bytes that may wait for the server to take them: many seconds of any stream.
const MAX_WAITING: usize = 8 << 20;

/// A connection; see the module.
pub struct Link {
    stream: TcpStream,
    session: ClientSession,
    /// What the socket did not take yet.
    waiting: Vec<u8>,
    /// How much of that it has taken.
    taken: usize,
    received: u64,
}

impl Link {
    /// Begins to connect to `address`, which is that of `url`. `receive_buffer`, bytes: for a
    /// socket that is to hold little, so that the server feels how slow its player is.
    pub fn dial(
        address: SocketAddr,
        url: &RtmpUrl,
        goal: Goal,
        receive_buffer: Option<usize>,
    ) -> Result<Self> {
        let kind = Type::STREAM.nonblocking();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))
            .context("cannot open a socket")?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                return Err(error).with_context(|| format!("cannot connect to {address}"));
            }
            _ => {}
        }
        Ok(Self::new(socket.into(), client::session(url, goal, Instant::now())))
    }

    /// Goes on with a connection that was made elsewhere and does not block.
    pub fn new(stream: TcpStream, session: ClientSession) -> Self {
        Self { stream, session, waiting: Vec::new(), taken: 0, received: 0 }
    }

    /// Why the socket failed to connect, once it is writable.
    pub fn connected(&self) -> Result<()> {
        match self.stream.take_error()? {
            Some(error) => Err(error).context("cannot connect"),
            None => Ok(()),
        }
    }

    /// An error when a deadline of the dialogue is over.
    pub fn check(&mut self, now: Instant) -> Result<()> {
        Ok(self.session.handle_timeout(now)?)
    }

    /// Reads what is there, answers what must be answered, and hands each event to `on`, with the
    /// bytes received up to its end. Gives the bytes read.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        mut on: impl FnMut(ClientEvent<'_>, u64),
    ) -> Result<usize> {
        let read = match self.stream.read(buffer) {
            Ok(0) => bail!("the server has closed the connection"),
            Ok(read) => read,
            Err(error) if is_no_failure(&error) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        self.received += read as u64;
        let now = Instant::now();
        let mut input = buffer.get(..read).unwrap_or_default();
        loop {
            // A slice of its own each time, so that an event borrows the session for one round.
            let mut rest = input;
            let event = self.session.read(now, &mut rest)?;
            let left = rest.len();
            match event {
                Some(event) => on(event, self.received - left as u64),
                None => break,
            }
            input = input.get(input.len() - left..).unwrap_or_default();
        }
        self.flush()?;
        Ok(read)
    }

    /// Sends one message, or as much of it as the socket takes.
    pub fn send(&mut self, kind: MediaKind, timestamp: u32, payload: &[u8]) -> Result<()> {
        self.session.send_media(kind, Timestamp(timestamp), payload);
        self.flush()
    }

    /// Queues the polite end and sends what the socket takes of it.
    pub fn finish(&mut self) -> Result<()> {
        self.session.finish();
        self.flush()
    }

    /// Sends what waits, as much as the socket takes.
    pub fn flush(&mut self) -> Result<()> {
        if self.session.has_output() {
            let more = self.session.take_output();
            if self.waiting.is_empty() {
                self.waiting = more;
            } else {
                self.waiting.drain(..self.taken);
                self.taken = 0;
                self.waiting.extend(more);
            }
        }
        while let Some(rest) = self.waiting.get(self.taken..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(taken) => self.taken += taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.taken == self.waiting.len() {
            self.waiting.clear();
            self.taken = 0;
        } else if self.waiting.len() - self.taken > MAX_WAITING {
            bail!("the server does not take what is sent: {MAX_WAITING} bytes wait");
        }
        Ok(())
    }

    /// Whether something waits for the socket to take it.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes received, handshake included.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The bare socket, for who reads on without parsing.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_no_failure(error: &io::Error) -> bool {
    // A socket that is still connecting is not connected.
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}
