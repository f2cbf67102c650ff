//! Drives our own client session over a blocking socket.
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use forwarder::rtmp::Timestamp;
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::{ClientConfig, ClientEvent, ClientSession, Goal};
use forwarder::rtmp::url::RtmpUrl;
use nix::sys::socket::{MsgFlags, recv};

/// How long connecting, the handshake and the commands may take in all.
const DEADLINE: Duration = Duration::from_secs(10);

/// One message a packet, as encoders of our age send.
const CHUNK_SIZE: u32 = 60_000;

/// The first address of the host in `url`.
pub fn resolve(url: &RtmpUrl) -> Result<SocketAddr> {
    let found = (url.host.as_str(), url.port).to_socket_addrs();
    let found = found.with_context(|| format!("cannot resolve {}", url.host))?.next();
    found.with_context(|| format!("no address for {}", url.host))
}

/// A session for `url`, with its first bytes queued.
pub fn session(url: &RtmpUrl, goal: Goal, now: Instant) -> ClientSession {
    let config = ClientConfig {
        goal,
        tc_url: url.tc_url(),
        app: url.app.clone(),
        stream: url.stream.clone(),
        chunk_size: CHUNK_SIZE,
        digest: false,
        forwarder: None,
        deadline: DEADLINE,
    };
    let mut random = vec![0; 1528];
    rand::fill(&mut random[..]);
    ClientSession::new(config, random.into_boxed_slice(), now)
}

/// A connection to a server that we publish to or play from.
pub struct Connection {
    stream: TcpStream,
    session: ClientSession,
    buffer: Box<[u8]>,
}

impl Connection {
    /// Connects to `url`; the dialogue goes on with [`Self::poll`].
    pub fn open(url: &RtmpUrl, goal: Goal) -> Result<Self> {
        let address = resolve(url)?;
        let stream = TcpStream::connect_timeout(&address, DEADLINE)
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let session = session(url, goal, Instant::now());
        let mut connection = Self { stream, session, buffer: vec![0; 64 << 10].into_boxed_slice() };
        connection.flush()?;
        Ok(connection)
    }

    /// Connects and publishes; on return media may be sent.
    pub fn publish(url: &RtmpUrl) -> Result<Self> {
        let mut connection = Self::open(url, Goal::Publish)?;
        connection.poll_until(|event| matches!(event, ClientEvent::Publishing(_)))?;
        Ok(connection)
    }

    /// Connects and asks to play; on return the server has agreed or media has come.
    pub fn play(url: &RtmpUrl) -> Result<Self> {
        let mut connection = Self::open(url, Goal::Play)?;
        connection
            .poll_until(|event| matches!(event, ClientEvent::Playing(_) | ClientEvent::Media(_)))?;
        Ok(connection)
    }

    /// Reads what comes within `wait` (zero: what is there) and answers what must be answered.
    /// Gives whether anything came.
    pub fn poll(&mut self, wait: Duration, mut on: impl FnMut(ClientEvent<'_>)) -> Result<bool> {
        let now = Instant::now();
        self.session.handle_timeout(now)?;
        let read = self.receive(wait)?;
        let now = Instant::now();
        let mut input = &self.buffer[..read];
        loop {
            // A slice of its own each time, so that an event borrows the session for one round.
            let mut rest = input;
            let event = self.session.read(now, &mut rest)?;
            let left = rest.len();
            match event {
                Some(event) => on(event),
                None => break,
            }
            input = &input[input.len() - left..];
        }
        self.flush()?;
        Ok(read > 0)
    }

    /// Sends one message.
    pub fn send(&mut self, kind: MediaKind, timestamp: u32, payload: &[u8]) -> Result<()> {
        self.session.send_media(kind, Timestamp(timestamp), payload);
        self.flush()
    }

    /// Ends a publish or play politely.
    pub fn finish(mut self) -> Result<()> {
        self.session.finish();
        self.flush()
    }

    /// Socket and session, for who drives them otherwise.
    pub fn into_parts(self) -> (TcpStream, ClientSession) {
        (self.stream, self.session)
    }

    /// Our address, as the server shows it.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    fn poll_until(&mut self, mut done: impl FnMut(&ClientEvent<'_>) -> bool) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        let mut is_done = false;
        while !is_done {
            if Instant::now() > deadline {
                bail!("the server does not answer");
            }
            crate::process::check_interrupt()?;
            self.poll(Duration::from_millis(100), |event| is_done |= done(&event))?;
        }
        Ok(())
    }

    fn receive(&mut self, wait: Duration) -> Result<usize> {
        let received = if wait.is_zero() {
            recv(self.stream.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT)
                .map_err(std::io::Error::from)
        } else {
            self.stream.set_read_timeout(Some(wait))?;
            self.stream.read(&mut self.buffer)
        };
        match received {
            Ok(0) => Err(anyhow!("the server has closed the connection")),
            Ok(n) => Ok(n),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(0),
                _ => Err(error.into()),
            },
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.session.has_output() {
            self.stream.write_all(&self.session.take_output())?;
        }
        Ok(())
    }
}
