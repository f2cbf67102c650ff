//! Subscribers over real sockets: whatever the publisher, the reader and the player do, what
//! arrives is whole messages, in order, gapless but for skips, under the right headers.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream as Reader};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpStream;

use super::broadcast::Broadcast;
use super::crowd::Crowd;
use super::subscriber::{Seat, Subscriber, SubscriberOptions};
use crate::hub::{
    Form, Hub, LagLimits, LogLimits, Publisher, Source, StreamOptions, Target, View, Wake,
};
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::{self, ChunkReader, Message};
use crate::rtmp::message::{MediaKind, MediaMessage, kind};
use crate::rtmp::url::StreamKey;

const CHUNK: u32 = 4096;
const PLAYERS: usize = 8;
const SEEDS: u64 = 6;
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
const ON_METADATA: &[u8] = b"\x02\x00\x0aonMetaData";

struct NoBell;

impl Wake for NoBell {
    fn wake(&self) {}
}

/// One message as it was published, and the headers in force with it.
#[derive(Clone, Debug)]
struct Published {
    kind: u8,
    timestamp: u32,
    payload: Vec<u8>,
    keyframe: bool,
    headers: Headers,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Headers {
    video: Vec<u8>,
    audio: Vec<u8>,
    metadata: Vec<u8>,
}

impl Headers {
    /// Whether `payload` is one; keeps it.
    fn keep(&mut self, message_kind: u8, payload: &[u8]) -> bool {
        let slot = match (message_kind, payload) {
            (kind::VIDEO, [0x17, 0, ..]) => &mut self.video,
            (kind::AUDIO, [0xaf, 0, ..]) => &mut self.audio,
            (kind::DATA_AMF0, _) if payload.starts_with(ON_METADATA) => &mut self.metadata,
            _ => return false,
        };
        *slot = payload.to_vec();
        true
    }
}

/// The publishing side and the shard's view.
struct Origin {
    hub: Hub,
    options: StreamOptions,
    publisher: Option<Publisher>,
    view: View,
    crowd: Crowd,
    broadcast: Broadcast,
    /// Passes that left several readers to be written to together.
    followed: usize,
    published: Vec<Published>,
    headers: Headers,
    audio_run: u32,
    now: Instant,
}

impl Origin {
    fn new(rng: &mut StdRng, io_uring: bool) -> Self {
        let gop_bytes = rng.random_range(50_000..2_000_000);
        let log = LogLimits { chunk_size: CHUNK, gop_bytes, gop_messages: 500 };
        let options = StreamOptions { log, grace: Duration::from_secs(10) };
        let (hub, now) = (Hub::new(), Instant::now());
        let view = hub.stream(&key(), options, now).view(Box::new(NoBell));
        let (published, headers) = (Vec::new(), Headers::default());
        let (crowd, broadcast) = (Crowd::default(), Broadcast::new(io_uring));
        let (publisher, audio_run, followed) = (None, 0, 0);
        Self {
            hub,
            options,
            publisher,
            view,
            crowd,
            broadcast,
            followed,
            published,
            headers,
            audio_run,
            now,
        }
    }

    fn put(&mut self, media_kind: MediaKind, payload: Vec<u8>) {
        let publisher = self.publisher.as_mut().unwrap();
        let timestamp = self.published.len() as u32 * 7 + 0x00ff_f000;
        let media = MediaMessage {
            kind: media_kind,
            timestamp: Timestamp(timestamp),
            msid: 1,
            payload: &payload,
        };
        publisher.append(&media, self.now).unwrap();
        publisher.flush();
        if payload.is_empty() {
            return;
        }
        let message_kind = media_kind.type_id();
        let is_header = self.headers.keep(message_kind, &payload);
        let keyframe = !is_header && media_kind == MediaKind::Video && payload[0] == 0x17;
        let timestamp = if payload.starts_with(ON_METADATA) { 0 } else { timestamp };
        let headers = self.headers.clone();
        let message = Published { kind: message_kind, timestamp, payload, keyframe, headers };
        self.published.push(message);
    }

    fn put_headers(&mut self, rng: &mut StdRng) {
        self.put(MediaKind::Data, [ON_METADATA, &body(rng, 300)].concat());
        self.put(MediaKind::Audio, [&[0xaf, 0, 0x12][..], &body(rng, 4)].concat());
        self.put(MediaKind::Video, [&[0x17, 0, 0, 0, 0, 1][..], &body(rng, 40)].concat());
        self.put(MediaKind::Video, [&[0x17, 1, 0, 0, 0][..], &body(rng, 5000)].concat());
    }

    /// Publishes one message, whatever kind comes up.
    fn step(&mut self, rng: &mut StdRng) {
        self.now += Duration::from_millis(rng.random_range(0..60));
        if self.publisher.is_none() || rng.random_ratio(1, 400) {
            self.publisher = None;
            let publisher =
                self.hub.publish(&key(), self.options, Source::default(), self.now).unwrap();
            self.publisher = Some(publisher);
            self.headers = Headers::default();
            return self.put_headers(rng);
        }
        let most = if rng.random_ratio(1, 10) { 100_000 } else { 3000 };
        match rng.random_range(0..100) {
            0..4 => {
                self.put(MediaKind::Video, [&[0x17, 1, 0, 0, 0][..], &body(rng, most)].concat())
            }
            4..6 => self.put_headers(rng),
            6..8 => self.put(MediaKind::Data, [&b"\x02\x00\x04cue!"[..], &body(rng, 50)].concat()),
            8..40 if self.audio_run < 50 => {
                self.audio_run += 1;
                self.put(MediaKind::Audio, [&[0xaf, 1][..], &body(rng, 500)].concat());
            }
            40..42 => self.put(MediaKind::Video, vec![0x27]),
            42..44 => self.put(MediaKind::Video, Vec::new()),
            _ => {
                self.audio_run = 0;
                self.put(MediaKind::Video, [&[0x27, 1, 0, 0, 0][..], &body(rng, most)].concat());
            }
        }
    }

    /// What a lane does when it is woken and its view is refreshed.
    fn pass(&mut self, players: &[Player]) {
        self.crowd.pass(&mut self.view, &mut self.broadcast, self.now);
        let follows =
            |player: &&Player| matches!(player.subscriber.seat.get(), Seat::Follower { .. });
        self.followed += usize::from(players.iter().filter(follows).count() >= 3);
    }
}

fn key() -> StreamKey {
    StreamKey::new("__defaultVhost__", "live", "a").unwrap()
}

fn body(rng: &mut StdRng, most: usize) -> Vec<u8> {
    let (len, seed) = (rng.random_range(0..=most), rng.random_range(0..=255u8));
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// One subscriber, the other end of its socket, and what arrived there.
struct Player {
    io: Rc<TcpStream>,
    options: SubscriberOptions,
    subscriber: Rc<Subscriber>,
    reader: Reader,
    /// Mostly does nothing but read, as most players do.
    calm: bool,
    stalled: bool,
    paused: bool,
    pushed: u32,
    /// Of subscribers before this one.
    skips: u64,
    /// Times it may go on elsewhere, for another reason than a skip.
    jumps: u64,
    got: Got,
}

/// The receiving end: decodes and judges.
struct Got {
    chunks: ChunkReader,
    target: Target,
    /// Index of the message that comes next, if there is no jump.
    next: Option<usize>,
    headers: Headers,
    pushed: u32,
    jumps: u64,
    /// It may go back: it joined again.
    rejoins: u64,
    /// Some media were not wanted at times.
    filtered: bool,
    /// It need not begin at a keyframe.
    live_edge: bool,
}

impl Player {
    fn new(rng: &mut StdRng, origin: &mut Origin) -> Self {
        let (io, reader) = sockets(rng);
        let calm = rng.random_ratio(2, 3);
        let msid = if !calm && rng.random_ratio(1, 3) { 2 } else { 1 };
        let live_edge = rng.random_ratio(1, 4);
        let wait = if live_edge { Duration::from_millis(300) } else { Duration::from_secs(3600) };
        let target =
            Target { form: Form::Chunks, chunk_size: CHUNK, msid, publish: rng.random_ratio(1, 4) };
        // Those who skip at the same limit may be written to together: nearly all here, two or three
        // beside them, and each of those that have one of their own.
        let other = rng.random_range(20_000..400_000);
        let alike = if rng.random_ratio(1, 4) { 150_000 } else { 100_000 };
        let bytes = if calm { alike } else { other };
        let options = SubscriberOptions {
            lag: LagLimits { time: Duration::from_secs(2), bytes },
            gop_cache: rng.random_ratio(3, 4),
            keyframe_wait: wait,
            target,
            guess_av: false,
            player: true,
        };
        let io = Rc::new(io);
        let mut lead = Vec::new();
        encode(kind::SET_CHUNK_SIZE, 2, &CHUNK.to_be_bytes(), &mut lead);
        let subscriber = Rc::new(Subscriber::new(Rc::clone(&io), options, lead));
        subscriber.join(&mut origin.view, origin.now);
        origin.crowd.insert(&subscriber);
        let got = Got {
            chunks: ChunkReader::new(),
            target,
            next: None,
            headers: Headers::default(),
            pushed: 0,
            jumps: 0,
            rejoins: 0,
            filtered: false,
            live_edge,
        };
        let (stalled, paused, pushed, skips, jumps) = (false, false, 0, 0, 1);
        Self { io, options, subscriber, reader, calm, stalled, paused, pushed, skips, jumps, got }
    }

    /// Does one thing a player, its peer or its connection may do.
    fn step(&mut self, rng: &mut StdRng, origin: &mut Origin) {
        let what = if self.calm && rng.random_ratio(9, 10) { 99 } else { rng.random_range(0..100) };
        match what {
            0..10 => self.stalled = !self.stalled,
            10..13 => self.push(rng.random_range(0..6000), origin),
            13..16 => self.pause(!self.paused, origin),
            16 if !self.calm && rng.random_ratio(1, 4) => {
                self.got.filtered = true;
                origin.crowd.part(&self.subscriber);
                let mut chosen = || rng.random_ratio(2, 3).then(|| rng.random_ratio(1, 2));
                self.subscriber.select(chosen(), chosen());
            }
            17 => self.rejoin(origin),
            // The calm do not stall for long.
            _ if self.calm && self.stalled && rng.random_ratio(1, 10) => self.stalled = false,
            _ if self.calm && self.paused => self.pause(false, origin),
            _ if !self.stalled => {
                let most = rng.random_range(1..40_000);
                self.read(most, &origin.published);
            }
            _ => {}
        }
        if matches!(self.subscriber.seat.get(), Seat::Other(_)) {
            self.subscriber.advance(&mut origin.view, origin.now);
        }
    }

    fn push(&mut self, len: usize, origin: &mut Origin) {
        origin.crowd.part(&self.subscriber);
        let mut payload = self.pushed.to_be_bytes().to_vec();
        payload.resize(4 + len, 0x55);
        let mut bytes = Vec::new();
        encode(kind::COMMAND_AMF0, 3, &payload, &mut bytes);
        self.pushed += 1;
        assert!(self.subscriber.push(&bytes));
    }

    fn pause(&mut self, paused: bool, origin: &mut Origin) {
        origin.crowd.part(&self.subscriber);
        self.paused = paused;
        self.jumps += 1;
        self.subscriber.pause(paused, &origin.view);
    }

    /// Stops and plays again on the same connection.
    fn rejoin(&mut self, origin: &mut Origin) {
        origin.crowd.part(&self.subscriber);
        let rest = self.subscriber.finish(&origin.view).unwrap();
        self.skips += self.subscriber.state(&origin.view, origin.now).skips;
        origin.crowd.remove(&self.subscriber);
        self.paused = false;
        self.got.rejoins += 1;
        self.subscriber = Rc::new(Subscriber::new(Rc::clone(&self.io), self.options, rest));
        self.subscriber.join(&mut origin.view, origin.now);
        origin.crowd.insert(&self.subscriber);
    }

    /// Reads up to `most` bytes, if there are any.
    fn read(&mut self, most: usize, published: &[Published]) -> usize {
        let mut bytes = vec![0; most];
        match self.reader.read(&mut bytes) {
            Ok(n) => {
                self.got.take(&bytes[..n], published);
                n
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    /// Lets its socket's readiness through, as the connection's task does.
    async fn turn(&self, origin: &mut Origin) {
        if self.subscriber.blocked_since().is_none() {
            return;
        }
        tokio::select! {
            biased;
            ready = self.io.writable() => {
                ready.unwrap();
                self.subscriber.unblock(&mut origin.view, origin.now);
            }
            () = tokio::task::yield_now() => {}
        }
    }

    fn check(&self, origin: &Origin) {
        origin.crowd.tell(&self.subscriber);
        let state = self.subscriber.state(&origin.view, origin.now);
        assert_eq!(state.failed, None);
        let may = self.skips + state.skips + self.jumps + self.got.rejoins;
        assert!(self.got.jumps <= may, "{} jumps of {may}", self.got.jumps);
    }
}

impl Got {
    fn take(&mut self, mut input: &[u8], published: &[Published]) {
        let mut chunks = std::mem::take(&mut self.chunks);
        while let Some(message) = chunks.read(&mut input).unwrap() {
            match message.kind {
                kind::SET_CHUNK_SIZE => {}
                kind::COMMAND_AMF0 => self.command(message.payload),
                _ => self.media(&message, published),
            }
        }
        self.chunks = chunks;
    }

    fn command(&mut self, payload: &[u8]) {
        assert_eq!(payload[..4], self.pushed.to_be_bytes(), "lost or out of order");
        assert!(payload[4..].iter().all(|byte| *byte == 0x55));
        self.pushed += 1;
    }

    fn media(&mut self, message: &Message<'_>, published: &[Published]) {
        assert_eq!(message.msid, self.target.msid);
        let stripped = message.payload.strip_prefix(SET_DATA_FRAME);
        assert!(stripped.is_none() || self.target.publish);
        let payload = stripped.unwrap_or(message.payload);
        let same = |p: &Published| {
            (p.kind, p.timestamp, &*p.payload) == (message.kind, message.timestamp.0, payload)
        };
        let unwanted = |p: &&Published| !same(p) && self.filtered && p.kind != kind::DATA_AMF0;
        let follows = self.next.and_then(|next| {
            let over = published[next..].iter().take_while(unwanted).count();
            published.get(next + over).filter(|p| same(p)).map(|_| next + over)
        });
        let is_header = self.headers.keep(message.kind, payload);
        let at = match follows {
            Some(at) => at,
            None if is_header => return,
            None => {
                let at = published.iter().position(same).expect("never published like that");
                let back = self.next.is_some_and(|next| at < next);
                assert!(!back || self.rejoins > 0, "{at} after {:?}", self.next);
                let begins = published[at].keyframe || self.live_edge || self.filtered;
                assert!(begins, "begins at {at}, no keyframe; expected {:?}", self.next);
                self.jumps += 1;
                at
            }
        };
        self.next = Some(at + 1);
        if !self.filtered && !is_header {
            assert!(self.headers == published[at].headers, "other headers than published at {at}");
        }
    }
}

fn encode(message_kind: u8, csid: u32, payload: &[u8], out: &mut Vec<u8>) {
    let timestamp = Timestamp(0);
    let message = Message { csid, timestamp, kind: message_kind, msid: 0, payload };
    // What is sent before the SetChunkSize is short enough for any chunk size.
    chunk::encode(&message, CHUNK, &mut |piece| out.extend_from_slice(piece));
}

/// Two ends of a connection with little room in it.
fn sockets(rng: &mut StdRng) -> (TcpStream, Reader) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let small = rng.random_range(4096..32_768);
    // An MSS as on a network: with that of loopback, small windows close for long.
    SockRef::from(&listener).set_tcp_mss(1400).unwrap();
    SockRef::from(&listener).set_recv_buffer_size(small).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let writer = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    writer.set_tcp_mss(1400).unwrap();
    writer.set_send_buffer_size(small).unwrap();
    writer.set_tcp_nodelay(true).unwrap();
    writer.connect(&address.into()).unwrap();
    writer.set_nonblocking(true).unwrap();
    let (reader, _) = listener.accept().unwrap();
    reader.set_nonblocking(true).unwrap();
    (TcpStream::from_std(writer.into()).unwrap(), reader)
}

async fn soak(seed: u64, io_uring: bool) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut origin = Origin::new(&mut rng, io_uring);
    let mut players: Vec<_> = (0..PLAYERS).map(|_| Player::new(&mut rng, &mut origin)).collect();
    for _ in 0..1000 {
        origin.step(&mut rng);
        if rng.random_ratio(2, 3) {
            origin.view.refresh();
            // A publisher on another shard goes on during a pass.
            if rng.random_ratio(1, 3) {
                origin.step(&mut rng);
            }
            origin.pass(&players);
        }
        for player in &mut players {
            player.step(&mut rng, &mut origin);
            player.turn(&mut origin).await;
        }
    }
    for player in &mut players {
        player.pause(true, &mut origin);
        player.pause(false, &mut origin);
        player.subscriber.select(Some(true), Some(true));
        player.push(10, &mut origin);
    }
    origin.put_headers(&mut rng);
    let all = |player: &Player, origin: &Origin| {
        player.got.next == Some(origin.published.len()) && player.got.pushed == player.pushed
    };
    for _ in 0..20_000 {
        origin.view.refresh();
        origin.pass(&players);
        for player in &mut players {
            player.read(100_000, &origin.published);
            player.turn(&mut origin).await;
        }
        if players.iter().all(|player| all(player, &origin)) {
            break;
        }
    }
    for (n, player) in players.iter().enumerate() {
        assert!(
            all(player, &origin),
            "seed {seed} player {n} stalled: at {:?} of {}, {} of {} commands, {:?}",
            player.got.next,
            origin.published.len(),
            player.got.pushed,
            player.pushed,
            player.subscriber,
        );
        player.check(&origin);
    }
    assert!(origin.followed > 50, "hardly ever written to together: {}", origin.followed);
}

#[test]
fn readers_get_whole_messages_in_order_under_the_right_headers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for seed in 0..SEEDS {
        runtime.block_on(soak(seed, seed % 2 == 0));
    }
}
