//! The raw floor: what it costs to write a stream to many sockets in a plain loop, and nothing else.
//!
//! It takes publishers and players and publishes to slaves, so that the load is the same as for servers,
//! byte for byte and on the same clock. It knows no queue but a copy of what a socket did not take, no
//! group of pictures, no limits, and it never connects again.
use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::mem;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use forwarder::rtmp::chunk::{self, Message};
use forwarder::rtmp::flv;
use forwarder::rtmp::message::{MediaKind, MediaMessage};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::client::Connection;
use crate::load::host::{CHUNK_SIZE, Caller, Said};
use crate::{net, process};

/// The listener's place among the connections.
const LISTENER: u64 = 0;
const EVENTS: usize = 512;
const READ: usize = 256 << 10;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Time between two tries to send what a socket did not take, or two looks at an interrupt.
const NAP: Duration = Duration::from_millis(5);
const LONG_NAP: Duration = Duration::from_millis(100);
/// A player that has more waiting is hung up on, bytes.
const MAX_WAITING: usize = 8 << 20;

/// How the floor writes.
#[derive(clap::Args)]
pub struct Args {
    /// Where it listens on loopback.
    #[arg(long)]
    port: u16,
    /// Let the kernel merge small writes.
    #[arg(long)]
    nagle: bool,
    /// Keep audio for the next frame of video: one write a frame.
    #[arg(long)]
    merge: bool,
    /// Publish each stream to this port on loopback too.
    #[arg(long, value_name = "PORT")]
    forward: Vec<u16>,
    /// Write at most so often, milliseconds.
    #[arg(long, default_value_t = 0)]
    every_ms: u64,
    /// Leave out each Nth message, to see who notices; 0: none.
    #[arg(long, default_value_t = 0)]
    lose: u64,
}

/// Runs until it is interrupted.
pub fn run(args: &Args) -> Result<()> {
    process::catch_interrupt()?;
    process::raise_open_files()?;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&net::loopback(args.port).into()).context("cannot listen")?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut floor = Floor {
        args,
        epoll,
        listener,
        callers: HashMap::new(),
        next: LISTENER + 1,
        feeds: Vec::new(),
        names: HashMap::new(),
    };
    floor.serve()
}

struct Floor<'a> {
    args: &'a Args,
    epoll: Epoll,
    listener: TcpListener,
    /// Who speaks: newcomers and publishers.
    callers: HashMap<u64, Speaker>,
    next: u64,
    feeds: Vec<Feed>,
    /// The feed of each stream that was published or asked for.
    names: HashMap<String, usize>,
}

struct Speaker {
    caller: Caller,
    /// Which feed it publishes.
    feed: Option<usize>,
}

/// A stream.
struct Feed {
    /// Sequence headers as they go to each newcomer.
    headers: Vec<u8>,
    batch: Batch,
    players: Vec<Player>,
    /// Some player has not taken all.
    lags: bool,
}

/// Who is only written to.
struct Player {
    socket: TcpStream,
    /// What the socket did not take.
    waiting: Vec<u8>,
    /// Begins with the next keyframe.
    is_new: bool,
}

impl Floor<'_> {
    fn serve(&mut self) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut buffer = vec![0; READ];
        while !process::interrupted() {
            let lags = self.feeds.iter().any(|feed| feed.lags);
            let timeout = EpollTimeout::try_from(if lags { NAP } else { LONG_NAP });
            let n = match self.epoll.wait(&mut events, timeout.unwrap_or(EpollTimeout::ZERO)) {
                Ok(n) => n,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error).context("epoll"),
            };
            for event in events.iter().take(n) {
                match event.data() {
                    LISTENER => self.accept()?,
                    id => self.hear(id, &mut buffer)?,
                }
            }
            for feed in &mut self.feeds {
                if n == 0 && !lags {
                    // The stream has stopped: what was kept for more of it is all there will be.
                    feed.write();
                }
                if feed.lags {
                    feed.each(|player| player.waiting.is_empty() || player.write(&[]));
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            let caller = Caller::new(stream)?;
            self.epoll.add(&caller, EpollEvent::new(EpollFlags::EPOLLIN, self.next))?;
            self.callers.insert(self.next, Speaker { caller, feed: None });
            self.next += 1;
        }
        Ok(())
    }

    /// Errors: a slave does not take a stream.
    fn hear(&mut self, id: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(Speaker { caller, feed }) = self.callers.get_mut(&id) else { return Ok(()) };
        let (feeds, names, args) = (&mut self.feeds, &mut self.names, self.args);
        let (mut plays, mut failed) = (None, None);
        let heard = caller.receive(buffer, |said, _| match said {
            Said::Play(stream) => plays = Some(stream.to_owned()),
            Said::Publish(stream) => {
                let at = place(stream, feeds, names, args);
                *feed = Some(at);
                if let Some(feed) = feeds.get_mut(at) {
                    failed = feed.forward(stream, args).err();
                }
            }
            Said::Media(message) => {
                if let Some(feed) = feed.and_then(|at| feeds.get_mut(at)) {
                    feed.take(&message);
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if heard.is_err() {
            self.callers.remove(&id);
        } else if let Some(stream) = plays {
            self.begin(id, &stream);
        }
        Ok(())
    }

    /// From now on nobody listens to what this player says.
    fn begin(&mut self, id: u64, stream: &str) {
        let Some(Speaker { caller, .. }) = self.callers.remove(&id) else { return };
        // Who is not in there needs no taking out.
        let _ = self.epoll.delete(&caller);
        let at = place(stream, &mut self.feeds, &mut self.names, self.args);
        if let Some(feed) = self.feeds.get_mut(at) {
            feed.join(caller.into_stream(), self.args);
        }
    }
}

/// The feed of that name, made if there is none.
fn place(
    stream: &str,
    feeds: &mut Vec<Feed>,
    names: &mut HashMap<String, usize>,
    args: &Args,
) -> usize {
    *names.entry(stream.to_owned()).or_insert_with(|| {
        let batch = Batch::new(args);
        feeds.push(Feed { headers: Vec::new(), batch, players: Vec::new(), lags: false });
        feeds.len() - 1
    })
}

impl Feed {
    /// Publishes to all slaves from now on.
    fn forward(&mut self, stream: &str, args: &Args) -> Result<()> {
        for port in &args.forward {
            let url = format!("rtmp://127.0.0.1:{port}/live/{stream}").parse()?;
            let (socket, _) = Connection::publish(&url).context("a slave")?.into_parts();
            socket.set_nonblocking(true)?;
            self.join(socket, args);
        }
        Ok(())
    }

    fn join(&mut self, socket: TcpStream, args: &Args) {
        let mut player = Player { socket, waiting: Vec::new(), is_new: true };
        let is_set = player.socket.set_nodelay(!args.nagle).is_ok();
        if is_set && player.write(&self.headers) {
            self.players.push(player);
        }
    }

    fn take(&mut self, message: &MediaMessage<'_>) {
        if is_header(message) {
            let mut bytes = Vec::new();
            put(message, &mut bytes);
            self.headers.extend_from_slice(&bytes);
            self.each(|player| player.write(&bytes));
        } else if self.batch.take(message) {
            self.write();
        }
    }

    fn write(&mut self) {
        let Batch { bytes, keyframe, .. } = &mut self.batch;
        if !bytes.is_empty() {
            let (bytes, keyframe) = (mem::take(bytes), *keyframe);
            self.each(|player| player.feed(&bytes, keyframe));
            self.batch.clear(bytes);
        }
    }

    /// Those of whom `write` says that they are gone are.
    fn each(&mut self, mut write: impl FnMut(&mut Player) -> bool) {
        self.lags = false;
        self.players.retain_mut(|player| {
            let is_there = write(player);
            self.lags |= is_there && !player.waiting.is_empty();
            is_there
        });
    }
}

impl Player {
    /// Writes `bytes`, or what there is of them from the keyframe on if nothing came before; false when
    /// the player is gone.
    fn feed(&mut self, bytes: &[u8], keyframe: Option<usize>) -> bool {
        let from = match keyframe {
            Some(keyframe) if self.is_new => keyframe,
            _ if self.is_new => return true,
            _ => 0,
        };
        self.is_new = false;
        self.write(bytes.get(from..).unwrap_or_default())
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        for part in [mem::take(&mut self.waiting).as_slice(), bytes] {
            let mut rest = part;
            // Behind what was not taken nothing is sent.
            while !rest.is_empty() && self.waiting.is_empty() {
                match self.socket.write(rest) {
                    Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return false,
                }
            }
            self.waiting.extend_from_slice(rest);
        }
        self.waiting.len() <= MAX_WAITING
    }
}

/// What is to be written next.
struct Batch {
    merge: bool,
    every: Duration,
    lose: u64,
    bytes: Vec<u8>,
    /// Where the first keyframe in it begins.
    keyframe: Option<usize>,
    count: u64,
    written: Instant,
}

impl Batch {
    fn new(args: &Args) -> Self {
        Self {
            merge: args.merge,
            every: Duration::from_millis(args.every_ms),
            lose: args.lose,
            bytes: Vec::new(),
            keyframe: None,
            count: 0,
            written: Instant::now(),
        }
    }

    /// Adds a message; whether it is time to write.
    fn take(&mut self, message: &MediaMessage<'_>) -> bool {
        let is_video = message.kind == MediaKind::Video;
        let is_keyframe = is_video && flv::video(message.payload).keyframe;
        self.count += 1;
        // Without their keyframes nobody would join.
        if self.lose > 0 && self.count.is_multiple_of(self.lose) && !is_keyframe {
            return false;
        }
        if is_keyframe {
            self.keyframe.get_or_insert(self.bytes.len());
        }
        put(message, &mut self.bytes);
        (is_video || !self.merge) && self.written.elapsed() >= self.every
    }

    /// Goes on empty, in the memory of `written`.
    fn clear(&mut self, mut written: Vec<u8>) {
        written.clear();
        self.bytes = written;
        self.keyframe = None;
        self.written = Instant::now();
    }
}

fn is_header(message: &MediaMessage<'_>) -> bool {
    match message.kind {
        MediaKind::Video => flv::video(message.payload).header.is_some(),
        MediaKind::Audio => flv::audio(message.payload).header.is_some(),
        MediaKind::Data => false,
    }
}

/// Appends `message` as it goes over the wire.
fn put(message: &MediaMessage<'_>, out: &mut Vec<u8>) {
    let MediaMessage { kind, timestamp, payload, .. } = *message;
    // What all clients of ours play on, and servers of this protocol give first.
    let (csid, msid, kind) = (kind.csid(), 1, kind.type_id());
    let message = Message { csid, timestamp, kind, msid, payload };
    chunk::encode(&message, CHUNK_SIZE, &mut |bytes| out.extend_from_slice(bytes));
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use forwarder::rtmp::Timestamp;

    use super::*;

    fn args(merge: bool, every_ms: u64, lose: u64) -> Args {
        Args { port: 0, nagle: false, merge, forward: Vec::new(), every_ms, lose }
    }

    fn message(kind: MediaKind, payload: &[u8]) -> MediaMessage<'_> {
        MediaMessage { kind, timestamp: Timestamp(0), msid: 1, payload }
    }

    #[test]
    fn audio_waits_for_video_and_newcomers_begin_at_the_keyframe() {
        let mut batch = Batch::new(&args(true, 0, 0));
        let sound = message(MediaKind::Audio, b"\xaf\x01a");
        assert!(!batch.take(&sound) && !batch.take(&sound));
        let before = batch.bytes.len();
        assert!(batch.take(&message(MediaKind::Video, b"\x17\x01\0\0\0key")));
        assert_eq!(batch.keyframe, Some(before));
        batch.clear(Vec::new());
        assert!(batch.take(&message(MediaKind::Video, b"\x27\x01\0\0\0p")));
        assert_eq!(batch.keyframe, None);

        let mut each = Batch::new(&args(false, 0, 0));
        assert!(each.take(&sound));
        let mut rare = Batch::new(&args(false, 3_600_000, 0));
        assert!(!rare.take(&sound));
    }

    #[test]
    fn what_is_to_be_lost_is_and_keyframes_are_not() {
        let mut batch = Batch::new(&args(false, 0, 2));
        let sound = message(MediaKind::Audio, b"\xaf\x01a");
        assert!(batch.take(&sound));
        let before = batch.bytes.len();
        assert!(!batch.take(&sound));
        assert_eq!(batch.bytes.len(), before);
        assert!(batch.take(&sound));
        assert!(batch.take(&message(MediaKind::Video, b"\x17\x01\0\0\0key")));
    }

    #[test]
    fn what_a_socket_does_not_take_follows_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.set_nonblocking(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut player = Player { socket, waiting: Vec::new(), is_new: true };
        assert!(player.feed(b"before", None));
        let mut expected = Vec::new();
        for n in 0..40_u8 {
            let piece = vec![n; 200_000];
            assert!(player.feed(&piece, Some(0)));
            expected.extend(piece);
        }
        assert!(!player.waiting.is_empty());
        let (mut got, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
        while got.len() < expected.len() {
            match far.read(&mut buffer) {
                Ok(n) => got.extend_from_slice(&buffer[..n]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            assert!(player.write(&[]));
        }
        assert!(got == expected);
    }
}
