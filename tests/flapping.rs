//! Destinations that fail in every way there is: publishers and other destinations do not notice.
mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::compare::{
    Start, assert_headers_once, assert_monotonic, assert_same_sequence, assert_whole_messages,
};
use common::flv::Tag;
use common::media::Synthetic;
use common::nginx::Nginx;
use common::peer::{End, Live, Peer};
use common::process::resident;
use common::raw;
use common::server::{Server, Setup};
use common::sink::{Received, Sink};
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::session::{ServerConfig, ServerEvent, ServerSession};
use forwarder::status::ForwardStatus;
use socket2::{Domain, Socket, Type};

/// A listener whose queue is full, so that who connects hears nothing.
struct Blackhole {
    address: SocketAddr,
    _listener: Socket,
    _waiting: Vec<Socket>,
}

impl Blackhole {
    fn start() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        listener.bind(&free_address().into()).expect("bind");
        listener.listen(0).expect("listen");
        let address = listener.local_addr().expect("bound").as_socket().expect("an address");
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            socket.set_nonblocking(true).expect("socket option");
            // It is in progress, or waits for ever.
            drop(socket.connect(&address.into()));
            socket
        };
        let waiting: Vec<Socket> = (0..4).map(|_| connect()).collect();
        wait_until("its queue is full", seconds(10), || {
            TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err()
        });
        Self { address, _listener: listener, _waiting: waiting }
    }
}

/// A server that does this with each connection, one after the other, until dropped.
struct Odd {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Odd {
    fn start(serve: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind(free_address()).expect("bind");
        listener.set_nonblocking(true).expect("socket option");
        let address = listener.local_addr().expect("bound");
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((socket, _)) => serve(socket),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn reset(socket: TcpStream) {
    Socket::from(socket).set_linger(Some(Duration::ZERO)).expect("socket option");
}

/// Takes a publish, and closes.
fn take_and_close(mut socket: TcpStream) {
    socket.set_nonblocking(false).expect("socket option");
    socket.set_read_timeout(Some(seconds(5))).expect("socket option");
    let config = ServerConfig { chunk_size: 4096, out_ack_size: 2_500_000, in_ack_size: 0 };
    let mut session = ServerSession::new(config, vec![0x5a; 1536].into(), Instant::now());
    let mut buffer = vec![0; 65_536];
    while let Ok(n @ 1..) = socket.read(&mut buffer) {
        let (mut input, mut taken) = (&buffer[..n], false);
        loop {
            let publish = match session.read(Instant::now(), &mut input) {
                Ok(Some(ServerEvent::Connect(_))) => None,
                Ok(Some(ServerEvent::Publish(request))) => Some(request.msid),
                Ok(Some(_)) => continue,
                Ok(None) => break,
                Err(_) => return,
            };
            match publish {
                None => session.accept_connect(),
                Some(msid) => session.accept_publish(msid, Instant::now()),
            }
            taken |= publish.is_some();
        }
        if socket.write_all(&session.take_output()).is_err() || taken {
            return;
        }
    }
}

/// Shakes hands, then says what is to be answered for as long as it is heard, and reads nothing.
fn ask_and_never_listen(mut socket: TcpStream) {
    socket.set_nonblocking(false).expect("socket option");
    socket.set_read_timeout(Some(seconds(5))).expect("socket option");
    socket.set_write_timeout(Some(seconds(20))).expect("socket option");
    let config = ServerConfig { chunk_size: 4096, out_ack_size: 2_500_000, in_ack_size: 0 };
    let mut session = ServerSession::new(config, vec![0x5a; 1536].into(), Instant::now());
    let mut buffer = vec![0; 65_536];
    while let Ok(n @ 1..) = socket.read(&mut buffer) {
        let mut input = &buffer[..n];
        let connects = loop {
            match session.read(Instant::now(), &mut input) {
                Ok(Some(ServerEvent::Connect(_))) => break true,
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => return,
            }
        };
        if socket.write_all(&session.take_output()).is_err() {
            return;
        }
        if connects {
            break;
        }
    }
    let asks = raw::message(3, 20, 0, b"\x02\0\x08onBWDone\0\0\0\0\0\0\0\0\0").repeat(1000);
    while socket.write_all(&asks).is_ok() {}
}

fn forwards(server: &Server, path: &str) -> Vec<ForwardStatus> {
    server.stream(path).map(|stream| stream.forwards).unwrap_or_default()
}

#[test]
fn destinations_that_fail_in_every_way_hurt_nobody() {
    let (good, blackhole) = (Sink::start(free_address()), Blackhole::start());
    let resets = Odd::start(reset);
    let wrong =
        Odd::start(|mut socket| drop(socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    // It is connected to, and never even accepts.
    let hung = TcpListener::bind(free_address()).expect("bind");
    let nginx_dir = tempfile::tempdir().expect("a folder");
    let nginx = Nginx::start(nginx_dir.path(), None);
    let mut taken = Peer::publish(nginx.address(), "live/taken");
    let refused = free_address();
    let table = [
        (refused.to_string(), "connect: Connection refused"),
        (blackhole.address.to_string(), "connect: no answer in time"),
        (resets.address.to_string(), "reset"),
        (wrong.address.to_string(), ""),
        (hung.local_addr().expect("bound").to_string(), "handshake not finished"),
        (format!("rtmp://{}/nowhere/a", nginx.address()), ""),
        (format!("rtmp://{}/live/taken", nginx.address()), "NetStream.Publish.BadName"),
        ("nobody.invalid".to_owned(), "look-up"),
    ];
    let list: Vec<String> = table.iter().map(|(to, _)| format!("\"{to}\"")).collect();
    let master = Setup::new()
        .forward(&format!(
            "connect_timeout = \"500ms\"\nhung_timeout = \"2s\"\ndestination = [{}, \"{}\"]",
            list.join(", "),
            good.address
        ))
        .start();
    let source = Synthetic::default();
    let live = Live::start(master.rtmp, "live/a", source);
    let mut told = Vec::new();
    let mut frames = (0..).flat_map(|n| source.frame(n));
    wait_until("each has failed", seconds(60), || {
        // nginx drops a publisher that is silent
        taken.send(&frames.next().unwrap()).expect("the other publisher");
        told = forwards(&master, "live/a");
        let failed = |it: &ForwardStatus| it.attempt > 0 && !it.last_error.is_empty();
        told.iter().filter(|it| failed(it)).count() == table.len()
    });
    assert_eq!(told.len(), table.len() + 1, "{told:?}");
    for ((to, why), status) in table.iter().zip(&told) {
        assert!(status.last_error.contains(why), "{to}: {status:?}");
        assert_eq!((status.connects, status.sent_bytes), (0, 0), "{to}: {status:?}");
    }
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    wait_until("unpublished", seconds(10), || good.received().iter().all(|it| it.unpublished));
    assert_eq!(good.received().len(), 1, "one connection for all of it");
    assert_same_sequence("the good one", &sent, &good.received()[0].tags, Start::First);
}

#[test]
fn destinations_that_take_little_or_nothing_skip_and_hurt_nobody() {
    let (good, slow) = (Sink::start(free_address()), Sink::start(free_address()));
    let stuck = Sink::start(free_address());
    slow.read_at_most(100_000);
    let master = Setup::new()
        .forward(&format!(
            "hung_timeout = \"2s\"\nqueue_length = \"1s\"\nqueue_bytes = \"256KiB\"\n\
             send_buffer = \"64KiB\"\ndestination = [\"{}\", \"{}\", \"{}\"]",
            good.address, slow.address, stuck.address
        ))
        .start();
    // 4 Mbit/s, of which the slow one reads a fifth
    let live = Live::start(
        master.rtmp,
        "live/a",
        Synthetic { frame_bytes: 20_000, ..Synthetic::default() },
    );
    wait_until("all forward", seconds(20), || {
        [&good, &slow, &stuck].iter().all(|sink| sink.count() > 3)
    });
    stuck.read_at_most(1);
    let of = |sink: &Sink| {
        let to = sink.address.to_string();
        forwards(&master, "live/a").into_iter().find(|it| it.destination == to).expect("a forward")
    };
    let mut most = (0, 0);
    wait_until("the slow one skips and the stuck one is left", seconds(60), || {
        let (slow, stuck) = (of(&slow), of(&stuck));
        most = (most.0.max(slow.queue_bytes), most.1.max(slow.lag_ms));
        let shown = most.0 > 0 && most.1 > 0;
        slow.skips > 1 && shown && stuck.last_error.contains("takes nothing")
    });
    // What is in the message it is in comes on top.
    assert!(most.0 <= (256 << 10) + 40_000, "{most:?}");
    assert_eq!(of(&slow).connects, 1, "slow is not hung");
    let page = common::server::http_get(master.api, "/metrics").expect("metrics");
    let name = "vhost=\"__defaultVhost__\",app=\"live\",stream=\"a\"";
    for family in ["forwarder_forward_skips_total", "forwarder_forward_queue_bytes"] {
        let series = format!("{family}{{{name},destination=\"{}\"}}", slow.address);
        assert!(page.contains(&series), "{series}");
    }
    let sent = live.stop(End::Polite);
    // What is on its way to it is seconds of its reading.
    slow.read_at_most(0);
    wait_until("unpublished", seconds(20), || good.is_done() && slow.is_done());
    assert_same_sequence("the good one", &sent, &good.received()[0].tags, Start::First);
    let got = &slow.received()[0].tags;
    assert!(assert_whole_messages("the slow one", &sent, got) > 0, "it skipped");
    assert_monotonic("the slow one", got);
}

#[test]
fn a_server_that_takes_each_publish_and_closes_is_not_dialled_in_a_loop() {
    let dials = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&dials);
    let closes = Odd::start(move |socket| {
        counted.fetch_add(1, Ordering::Relaxed);
        take_and_close(socket);
    });
    let master = Setup::new().forward_to(&[closes.address]).start();
    let paths = (0..12).map(|at| format!("live/{at}"));
    let lives: Vec<Live> =
        paths.map(|path| Live::start(master.rtmp, &path, Synthetic::default())).collect();
    let begin = Instant::now();
    lives[0].wait_more(200);
    let (dials, length) = (dials.load(Ordering::Relaxed), begin.elapsed().as_secs() as usize + 1);
    eprintln!("{dials} dials for {} streams in {length} s", lives.len());
    // At most two between pauses that double up to three seconds: one in its time, one more because
    // another got through.
    assert!(dials <= lives.len() * (12 + 2 * length), "{dials} dials in {length} s");
    assert!(dials >= lives.len() * 3, "{dials} dials");
}

#[test]
fn a_server_that_asks_much_and_reads_nothing_is_left() {
    let asks = Odd::start(ask_and_never_listen);
    let text = format!("send_buffer = \"64KiB\"\ndestination = [\"{}\"]", asks.address);
    let master = Setup::new().forward(&text).start();
    let live = Live::start(master.rtmp, "live/a", Synthetic::default());
    wait_until("it is left", seconds(30), || {
        let told = forwards(&master, "live/a");
        told.iter().any(|it| it.last_error.contains("does not read"))
    });
    drop(live);
}

/// A number from the environment, for longer and larger runs by hand.
fn asked(variable: &str, usual: u32) -> u32 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect(variable))
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").count()
}

/// A slave that is there for a second and away for a second, until stopped. What it got of each
/// connection, beginning with those of its first second.
struct Flapping {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Received>>,
}

impl Flapping {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let sink = Sink::start(address);
                std::thread::sleep(seconds(1));
                all.append(&mut sink.received());
                drop(sink);
                std::thread::sleep(seconds(1));
            }
            all
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<Received> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("its thread")
    }
}

/// `FLAP_STREAMS` streams to two destinations for `FLAP_SECONDS`.
#[test]
fn a_destination_that_flaps_costs_nobody_anything() {
    let (n, length) = (asked("FLAP_STREAMS", 12), asked("FLAP_SECONDS", 12));
    let (good, bad) = (Sink::start(free_address()), free_address());
    let master = Setup::new().forward_to(&[good.address, bad]).start();
    let pid = master.status().pid;
    let files = open_files(pid);
    let flapping = Flapping::start(bad);
    let source = Synthetic { fps: 10, gop: 10, frame_bytes: 600, ..Synthetic::default() };
    let paths: Vec<String> = (0..n).map(|at| format!("live/{at}")).collect();
    let lives: Vec<Live> =
        paths.iter().map(|path| Live::start(master.rtmp, path, source)).collect();
    wait_until("all are forwarded", seconds(60), || good.connections() == lives.len());

    let (begin, mut sizes) = (Instant::now(), Vec::new());
    let mut most_files = 0;
    wait_until("the time is over", seconds(u64::from(length) + 60), || {
        sizes.push(resident(pid));
        most_files = most_files.max(open_files(pid));
        std::thread::sleep(Duration::from_millis(200));
        begin.elapsed() >= seconds(length.into())
    });
    let streams = master.status().streams;
    let forwards = || streams.iter().flat_map(|stream| &stream.forwards);
    let of = |to: SocketAddr| forwards().filter(move |it| it.destination == to.to_string());
    assert!(of(good.address).all(|it| it.connects == 1 && it.skips == 0), "{streams:?}");
    let again = of(bad).map(|it| it.connects).sum::<u64>();
    assert!(again > u64::from(n), "it flapped: {again} connects");

    let sent: Vec<Vec<Tag>> = lives.into_iter().map(|live| live.stop(End::Polite)).collect();
    wait_until("all are unpublished", seconds(30), || good.is_done());
    let got = flapping.stop();
    let all = good.received();
    assert_eq!(all.len(), sent.len(), "one connection a stream");
    let source_of = |received: &Received| {
        let at: usize = received.stream.parse().expect("a number");
        &sent[at]
    };
    for received in &all {
        assert_same_sequence(&received.stream, source_of(received), &received.tags, Start::First);
    }
    let with_media = || got.iter().filter(|it| it.tags.iter().any(Tag::is_frame));
    for received in with_media() {
        let (sent, label) = (source_of(received), format!("{}, flapping", received.stream));
        assert_eq!(assert_whole_messages(&label, sent, &received.tags), 0, "{label}");
        assert!(
            received.tags.iter().find(|tag| tag.is_frame()).is_some_and(Tag::is_keyframe),
            "{label}"
        );
        assert_headers_once(&label, sent, &received.tags);
    }
    assert!(with_media().count() > sent.len(), "{} connections", got.len());

    wait_until("descriptors are closed", seconds(30), || open_files(pid) <= files);
    // The first part is for the allocator and for logs that fill.
    let (early, late) = sizes.split_at(sizes.len() / 2);
    let most = |sizes: &[u64]| sizes.iter().copied().max().unwrap_or_default() >> 10;
    let (early, late, end) = (most(early), most(late), resident(pid) >> 10);
    eprintln!(
        "{n} streams, {length} s: {again} connects to the one that flaps, {} with media; \
         files {files} before, {most_files} at most; resident KiB {early} in the first half at \
         most, {late} in the second, {end} after",
        with_media().count()
    );
    assert!(late <= early + (4 << 10) + u64::from(n) * 16, "it grows: {early}, {late} KiB");
    let lines = master.log().lines().count();
    let bound = 20 + 8 * n as usize + n as usize * length as usize;
    assert!(lines < bound, "{lines} lines in the log");
}
