//! RTMP clients made of the library's own session, a blocking socket and a thread.
use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forwarder::rtmp::Timestamp;
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::{ClientConfig, ClientEvent, ClientSession, Goal, SessionError};
use socket2::{Domain, SockRef, Socket, Type};

use super::flv::{AUDIO, Tag, VIDEO};
use super::media::Synthetic;
use super::{seconds, wait_until};

/// What a peer was told.
#[derive(Debug, PartialEq)]
pub enum Seen {
    /// Publish.Start or Play.Start.
    Started,
    /// Audio, video or data.
    Media(Tag),
    /// The stream is over.
    Finished,
    /// To connect again, and where.
    Reconnect(Option<String>),
    /// Another status.
    Status(String),
    /// The session failed or was refused.
    Failed(SessionError),
    /// The server closed the connection.
    Closed,
}

/// A client connection.
pub struct Peer {
    socket: TcpStream,
    session: ClientSession,
    inbox: VecDeque<Seen>,
    closed: bool,
}

impl Peer {
    /// Connects and says hello, but does not wait for an answer. `path` is `app/stream[?params]`.
    pub fn open(address: SocketAddr, goal: Goal, path: &str) -> Self {
        Self::open_at(address, &address.to_string(), goal, path)
    }

    /// As `open`, naming another host in the tcUrl.
    pub fn open_at(address: SocketAddr, host: &str, goal: Goal, path: &str) -> Self {
        let socket = TcpStream::connect(address).expect("connect");
        Self::on(socket, host, goal, path)
    }

    /// As `open`, and says that it can be asked to connect again.
    pub fn movable(address: SocketAddr, goal: Goal, path: &str) -> Self {
        Self::open(address, goal, path).moves()
    }

    /// Says that it can be asked to connect again.
    pub fn moves(mut self) -> Self {
        self.session.reconnect();
        self
    }

    /// As `open_at`, on a socket that is connected.
    pub fn on(socket: TcpStream, host: &str, goal: Goal, path: &str) -> Self {
        let (app, stream) = path.rsplit_once('/').expect("app/stream");
        socket.set_nodelay(true).expect("socket option");
        let config = ClientConfig {
            goal,
            tc_url: format!("rtmp://{host}/{app}"),
            app: app.to_owned(),
            stream: stream.to_owned(),
            chunk_size: 4096,
            digest: goal == Goal::Play,
            forwarder: None,
            deadline: seconds(10),
        };
        let random: Vec<u8> = (0..1536_u32).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        let session = ClientSession::new(config, random.into(), Instant::now());
        Self { socket, session, inbox: VecDeque::new(), closed: false }
    }

    /// Publishes `path`; returns when the server said Publish.Start.
    #[track_caller]
    pub fn publish(address: SocketAddr, path: &str) -> Self {
        Self::open(address, Goal::Publish, path).started()
    }

    /// Plays `path`; returns when the server said Play.Start.
    #[track_caller]
    pub fn play(address: SocketAddr, path: &str) -> Self {
        Self::open(address, Goal::Play, path).started()
    }

    /// Waits for the start.
    #[track_caller]
    pub fn started(mut self) -> Self {
        let mut seen = self.next(seconds(10));
        if seen == Some(Seen::Status("NetStream.Play.Reset".to_owned())) {
            seen = self.next(seconds(10));
        }
        assert_eq!(seen, Some(Seen::Started), "wanted a start");
        self
    }

    /// Our address, as the server logs it.
    pub fn local(&self) -> SocketAddr {
        self.socket.local_addr().expect("address")
    }

    /// The next thing we are told, if one comes `within` the time. `Closed` again and again at the end.
    pub fn next(&mut self, within: Duration) -> Option<Seen> {
        let end = Instant::now() + within;
        loop {
            if let Some(seen) = self.inbox.pop_front() {
                return Some(seen);
            }
            if self.closed {
                return Some(Seen::Closed);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.pump(left);
        }
    }

    /// Waits for the server to close; gives what it said until then, media left out.
    #[track_caller]
    pub fn until_closed(&mut self, within: Duration) -> Vec<Seen> {
        let end = Instant::now() + within;
        let mut all = Vec::new();
        loop {
            match self.next(end.saturating_duration_since(Instant::now())) {
                Some(Seen::Closed) => return all,
                Some(Seen::Media(_)) => {}
                Some(seen) => all.push(seen),
                None => panic!("still open after {within:?}; said {all:?}"),
            }
        }
    }

    /// Reads until the server closes, at most `within` the time.
    fn drain(&mut self, within: Duration) {
        let end = Instant::now() + within;
        while !self.closed && Instant::now() < end {
            self.pump(Duration::from_millis(50));
        }
    }

    /// Sends one message.
    pub fn send(&mut self, tag: &Tag) -> std::io::Result<()> {
        let kind = match tag.kind {
            AUDIO => MediaKind::Audio,
            VIDEO => MediaKind::Video,
            _ => MediaKind::Data,
        };
        self.session.send_media(kind, Timestamp(tag.timestamp), &tag.body);
        self.flush()
    }

    /// Says that the publish or play is over.
    pub fn finish(&mut self) {
        self.session.finish();
        drop(self.flush());
    }

    /// Reads what is there, without waiting longer than `wait`.
    pub fn pump(&mut self, wait: Duration) {
        if let Err(error) = self.flush() {
            return self.lost(&error);
        }
        let wait = wait.clamp(Duration::from_millis(1), seconds(1));
        self.socket.set_read_timeout(Some(wait)).expect("socket option");
        let mut buffer = vec![0; 65_536];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.closed = true,
            Ok(n) => self.feed(&buffer[..n]),
            Err(e) if super::nothing_yet(&e) => {}
            Err(error) => self.lost(&error),
        }
    }

    fn lost(&mut self, error: &std::io::Error) {
        eprintln!("{:?} lost its connection: {error}", self.socket.local_addr());
        self.closed = true;
    }

    fn feed(&mut self, input: &[u8]) {
        let mut rest = input.len();
        loop {
            let mut piece = &input[input.len() - rest..];
            match self.session.read(Instant::now(), &mut piece) {
                Ok(Some(event)) => self.inbox.extend(seen(event)),
                Ok(None) => break,
                Err(error) => {
                    self.inbox.push_back(Seen::Failed(error));
                    self.closed = true;
                    break;
                }
            }
            rest = piece.len();
        }
        drop(self.flush());
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.session.has_output() {
            self.socket.write_all(&self.session.take_output())?;
        }
        Ok(())
    }
}

fn seen(event: ClientEvent<'_>) -> Option<Seen> {
    Some(match event {
        ClientEvent::Publishing(_) | ClientEvent::Playing(_) => Seen::Started,
        ClientEvent::Media(m) => Seen::Media(Tag {
            kind: m.kind.type_id(),
            timestamp: m.timestamp.0,
            body: m.payload.to_vec(),
        }),
        ClientEvent::Finished => Seen::Finished,
        ClientEvent::Reconnect(tc_url) => Seen::Reconnect(tc_url),
        ClientEvent::Status(code) => Seen::Status(code),
        _ => return None,
    })
}

/// A connection that takes little before the server feels it.
#[track_caller]
pub fn little_room(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.set_recv_buffer_size(64 << 10).expect("socket");
    socket.connect(&address.into()).expect("socket");
    socket.into()
}

/// A player in a thread that keeps all it gets.
pub struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    tags: Mutex<Vec<Tag>>,
    other: Mutex<Vec<Seen>>,
    paused: AtomicBool,
    /// Bytes of bodies a second; 0: as they come.
    pace: AtomicU64,
    stop: AtomicBool,
    ended: AtomicBool,
}

impl Recorder {
    /// Plays `path`; returns when the server said Play.Start.
    #[track_caller]
    pub fn start(address: SocketAddr, path: &str) -> Self {
        Self::of(Peer::play(address, path))
    }

    /// As `start`, for a player whose kernel takes little before the server feels it, and how the
    /// server logs it.
    #[track_caller]
    pub fn with_little_room(address: SocketAddr, path: &str) -> (SocketAddr, Self) {
        let socket = little_room(address);
        let peer = Peer::on(socket, &address.to_string(), Goal::Play, path).started();
        (peer.local(), Self::of(peer))
    }

    /// Records what `peer` gets.
    pub fn of(mut peer: Peer) -> Self {
        let shared = Arc::new(Shared::default());
        let in_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let shared = in_thread;
            while !shared.stop.load(Ordering::Relaxed) {
                if shared.paused.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                match peer.next(Duration::from_millis(50)) {
                    Some(Seen::Media(tag)) => {
                        let length = tag.body.len() as u64;
                        shared.tags.lock().unwrap().push(tag);
                        let pace = shared.pace.load(Ordering::Relaxed);
                        let pause = (length * 1000).checked_div(pace).unwrap_or_default();
                        std::thread::sleep(Duration::from_millis(pause));
                    }
                    Some(Seen::Closed) => break,
                    Some(seen) => shared.other.lock().unwrap().push(seen),
                    None => {}
                }
            }
            shared.ended.store(true, Ordering::Relaxed);
        });
        Self { shared, thread: Some(thread) }
    }

    /// What came so far.
    pub fn tags(&self) -> Vec<Tag> {
        self.shared.tags.lock().unwrap().clone()
    }

    /// How many messages came so far.
    pub fn count(&self) -> usize {
        self.shared.tags.lock().unwrap().len()
    }

    /// Whether `tag` came.
    pub fn has(&self, tag: &Tag) -> bool {
        self.shared.tags.lock().unwrap().iter().rev().any(|t| t == tag)
    }

    /// Stops or goes on reading from the socket.
    pub fn pause(&self, paused: bool) {
        self.shared.paused.store(paused, Ordering::Relaxed);
    }

    /// Reads so many bytes a second of what is sent from now on; 0: all.
    pub fn read_at_most(&self, bytes_per_second: u64) {
        self.shared.pace.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Whether the server closed the connection.
    pub fn ended(&self) -> bool {
        self.shared.ended.load(Ordering::Relaxed)
    }

    /// Whether the server said that the stream is over.
    pub fn finished(&self) -> bool {
        self.shared.other.lock().unwrap().contains(&Seen::Finished)
    }

    /// Waits until the last frame of `published` is there, and leaves with all that came.
    #[track_caller]
    pub fn until_last(self, published: &[Tag], within: Duration) -> Vec<Tag> {
        let last = published.iter().rfind(|t| t.is_frame()).expect("frames");
        wait_until("the last frame arrives", within, || self.has(last) || self.ended());
        self.tags()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A publisher of a synthetic stream in real time, in a thread.
pub struct Live {
    sent: Arc<Mutex<Vec<Tag>>>,
    end: Arc<Mutex<Option<End>>>,
    silent: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

/// How a publisher leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FCUnpublish, deleteStream, close.
    Polite,
    /// Gone without a word.
    Abrupt,
    /// As [`End::Abrupt`], with a reset.
    Reset,
}

impl Live {
    /// Publishes `path` until stopped, beginning with frame 0.
    #[track_caller]
    pub fn start(address: SocketAddr, path: &str, source: Synthetic) -> Self {
        Self::of(Peer::publish(address, path), source, 0)
    }

    /// Publishes on `peer`, beginning with frame `first`, which must be a keyframe.
    pub fn of(mut peer: Peer, source: Synthetic, first: u32) -> Self {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let end = Arc::new(Mutex::new(None));
        let (in_sent, in_end) = (Arc::clone(&sent), Arc::clone(&end));
        let silent = Arc::new(AtomicBool::new(false));
        let in_silent = Arc::clone(&silent);
        let thread = std::thread::spawn(move || {
            let send = |peer: &mut Peer, tag: Tag| {
                let result = peer.send(&tag);
                in_sent.lock().unwrap().push(tag);
                result
            };
            for tag in source.preamble() {
                send(&mut peer, tag)?;
            }
            let begin = Instant::now();
            let mut n = first;
            loop {
                let due = u64::from(source.offset(n) - source.offset(first));
                let early = Duration::from_millis(due).saturating_sub(begin.elapsed());
                std::thread::sleep(early);
                let end = *in_end.lock().unwrap();
                match end {
                    Some(End::Polite) => {
                        peer.finish();
                        break;
                    }
                    Some(End::Abrupt) => break,
                    Some(End::Reset) => {
                        let socket = SockRef::from(&peer.socket);
                        return socket.set_linger(Some(Duration::ZERO));
                    }
                    None => {}
                }
                if in_silent.load(Ordering::Relaxed) {
                    peer.pump(Duration::from_millis(5));
                    if peer.closed {
                        return Err(ErrorKind::ConnectionAborted.into());
                    }
                    continue;
                }
                for tag in source.frame(n) {
                    send(&mut peer, tag)?;
                }
                if n.is_multiple_of(source.fps) {
                    peer.pump(Duration::from_millis(1));
                }
                n += 1;
            }
            // what was sent is to arrive: no reset by closing on unread bytes
            drop(peer.socket.shutdown(Shutdown::Write));
            peer.drain(seconds(1));
            Ok(())
        });
        Self { sent, end, silent, thread: Some(thread) }
    }

    /// Says nothing any more, and stays; or goes on, and catches up.
    pub fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// What was sent so far.
    pub fn sent(&self) -> Vec<Tag> {
        self.sent.lock().unwrap().clone()
    }

    /// The newest time sent.
    pub fn edge(&self) -> u32 {
        self.sent.lock().unwrap().last().map_or(0, |t| t.timestamp)
    }

    /// How many messages were sent so far.
    pub fn count(&self) -> usize {
        self.sent.lock().unwrap().len()
    }

    /// Waits until `n` more messages were sent.
    #[track_caller]
    pub fn wait_more(&self, n: usize) {
        let goal = self.count() + n;
        wait_until("the publisher goes on", seconds(60), || self.count() >= goal || self.is_over());
        assert!(!self.is_over(), "the publisher was disturbed");
    }

    /// Whether the server ended it.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it and gives all that was sent. Panics if it had been disturbed.
    #[track_caller]
    pub fn stop(mut self, end: End) -> Vec<Tag> {
        *self.end.lock().unwrap() = Some(end);
        let result = self.thread.take().expect("thread").join().expect("publisher's thread");
        result.expect("the publisher was disturbed");
        self.sent()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        *self.end.lock().unwrap() = Some(End::Abrupt);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
