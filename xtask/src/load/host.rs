//! The other end of an RTMP connection: says what the protocol demands, and no more.
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use anyhow::{Result, bail};
use forwarder::rtmp::message::MediaMessage;
use forwarder::rtmp::session::{ServerConfig, ServerEvent, ServerSession};

/// One message a packet, as [`crate::client`] sends.
pub const CHUNK_SIZE: u32 = 60_000;

/// A connection that came to us; its socket does not block.
pub struct Caller {
    stream: TcpStream,
    session: ServerSession,
    received: u64,
}

/// What it is about.
pub enum Said<'a> {
    /// It publishes a stream of that name, and was told to go on.
    Publish(&'a str),
    /// It plays a stream of that name, and was told that media follows.
    Play(&'a str),
    /// A message of what it publishes.
    Media(MediaMessage<'a>),
}

impl Caller {
    /// Of a connection just accepted.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut random = vec![0; 1536];
        rand::fill(&mut random[..]);
        let config =
            ServerConfig { chunk_size: CHUNK_SIZE, out_ack_size: 2_500_000, in_ack_size: 0 };
        let session = ServerSession::new(config, random.into_boxed_slice(), Instant::now());
        Ok(Self { stream, session, received: 0 })
    }

    /// Reads what is there, agrees to all, and hands on what that is, with the bytes received up to its
    /// end.
    ///
    /// Errors: the connection is over, or what comes is no RTMP.
    pub fn receive(&mut self, buffer: &mut [u8], mut on: impl FnMut(Said<'_>, u64)) -> Result<()> {
        let read = match self.stream.read(buffer) {
            Ok(0) => bail!("closed"),
            Ok(read) => read,
            Err(error) if is_no_failure(&error) => return Ok(()),
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
            let wire = self.received - left as u64;
            match event {
                Some(ServerEvent::Connect(_)) => self.session.accept_connect(),
                Some(ServerEvent::Publish(asked)) => {
                    self.session.accept_publish(asked.msid, now);
                    on(Said::Publish(&asked.stream), wire);
                }
                Some(ServerEvent::Play(asked)) => {
                    self.session.accept_play(&asked, now);
                    on(Said::Play(&asked.stream), wire);
                }
                Some(ServerEvent::Media(message)) => on(Said::Media(message), wire),
                Some(_) => {}
                None => break,
            }
            input = input.get(input.len() - left..).unwrap_or_default();
        }
        if self.session.has_output() {
            // What a dialogue says fits any socket.
            self.stream.write_all(&self.session.take_output())?;
        }
        Ok(())
    }

    /// Bytes received, handshake included.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The bare socket, for who goes on without parsing.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_no_failure(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
