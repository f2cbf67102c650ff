//! Legs alone, between sockets whose packets are late, lost, repeated, or overlap on purpose.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]
mod common;

use std::future::Future;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use common::link::{FAR, FAR6, Faults, Link, NEAR, NEAR6};
use common::netns::Netns;
use common::seconds;
use common::segments::Handmade;
use forwarder::splice::{Ended, Leg, LegOptions, LegPath, Mode, Splice, WhyNot};
use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use socket2::SockRef;
use tokio::net::TcpStream as AsyncStream;
use tokio::time::timeout;

/// User space, and the kernel where it works.
fn paths() -> Vec<(Arc<Splice>, LegPath)> {
    static KERNEL: OnceLock<Arc<Splice>> = OnceLock::new();
    let kernel = KERNEL.get_or_init(|| Arc::new(Splice::start(Mode::Always)));
    let user = (Arc::new(Splice::user(WhyNot::Disabled)), LegPath::User);
    if let Some(why) = kernel.why_not() {
        println!("skipped: {why}");
        return vec![user];
    }
    vec![user, (Arc::clone(kernel), LegPath::Kernel)]
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(WITHIN, future).await.expect("not within the time") })
}

fn random_bytes(len: usize, rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// A leg, and its target; must be called inside a runtime.
fn leg(
    splice: &Arc<Splice>,
    source: TcpStream,
    target: TcpStream,
    soft_limit: usize,
) -> (Leg, Rc<AsyncStream>) {
    let [source, target] = [source, target].map(|socket| {
        socket.set_nonblocking(true).unwrap();
        Rc::new(AsyncStream::from_std(socket).unwrap())
    });
    let options = LegOptions {
        chunk_size: 128,
        walk: false,
        soft_limit,
        hard_limit: 0,
        write_timeout: WITHIN,
    };
    (Leg::new(splice, source, Rc::clone(&target), options), target)
}

// === over a bad link ===

#[test]
fn streams_over_a_bad_link_are_whole_while_legs_come_and_go() {
    let faults = Faults { delay: Duration::from_millis(5), ..Faults::far() };
    let Some(link) = Link::new(7, faults) else { return };
    for (splice, path) in paths() {
        let unsplices: Vec<u64> = thread::scope(|scope| {
            let families = [(NEAR, FAR), (NEAR6, FAR6), (NEAR, FAR6), (NEAR6, FAR)];
            let legs = (0..).zip(families).map(|(seed, (from, to))| {
                let (link, splice) = (&link, &splice);
                scope.spawn(move || stream(link, splice, path, [from, to], seed))
            });
            let legs: Vec<_> = legs.collect();
            legs.into_iter().map(|leg| leg.join().expect("a leg")).collect()
        });
        println!("{path:?}: came back {unsplices:?} times; {:?}", link.carried());
        assert_eq!(unsplices.iter().sum::<u64>() > 20, path == LegPath::Kernel, "{unsplices:?}");
        assert_eq!(splice.why_not().is_none(), path == LegPath::Kernel, "{}", splice.describe());
    }
    let carried = link.carried();
    assert!(carried.lost > 100 && carried.late > 100 && carried.duplicated > 50, "{carried:?}");
}

/// Sends a stream from the far host to the near one's leg, and back to the far one; gives how often
/// the leg came back from the kernel.
fn stream(
    link: &Link,
    splice: &Arc<Splice>,
    path: LegPath,
    [source, target]: [IpAddr; 2],
    seed: u64,
) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let bytes = Arc::new(random_bytes(3 << 20, &mut rng));
    let listener = link.near.run(|| TcpListener::bind((source, 0))).unwrap();
    let mut sender = link.far.run(|| TcpStream::connect(listener.local_addr().unwrap())).unwrap();
    let (source, _) = listener.accept().unwrap();
    let listener = link.far.run(|| TcpListener::bind((target, 0))).unwrap();
    let target = link.near.run(|| TcpStream::connect(listener.local_addr().unwrap())).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(WITHIN)).unwrap();
    let (to_send, mut pieces) = (Arc::clone(&bytes), SmallRng::seed_from_u64(seed));
    let sending = thread::spawn(move || {
        let mut rest = &to_send[..];
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(pieces.random_range(1..=rest.len().min(100_000)));
            sender.write_all(piece).unwrap();
            rest = later;
        }
        sender.shutdown(Shutdown::Write).unwrap();
        sender
    });
    let receiving = thread::spawn(move || {
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).map(|_| received)
    });
    let unsplices = block_on(carry(splice, path, source, target, bytes.len(), &mut rng));
    let received = receiving.join().unwrap().unwrap();
    assert_eq!(received.len(), bytes.len(), "length of stream {seed}");
    assert!(received == *bytes, "other bytes came out of stream {seed} than went in");
    sending.join().unwrap();
    unsplices
}

/// Carries a stream of `len` bytes by a leg that is stopped and armed at random moments.
async fn carry(
    splice: &Arc<Splice>,
    path: LegPath,
    source: TcpStream,
    target: TcpStream,
    len: usize,
    rng: &mut SmallRng,
) -> u64 {
    // Every other leg comes back by itself too.
    let soft_limit = if rng.random() { 256 << 10 } else { 0 };
    let (mut leg, target) = leg(splice, source, target, soft_limit);
    leg.arm();
    assert_eq!(leg.status().path, path);
    let ended = loop {
        let pause = Duration::from_micros(1 << rng.random_range(0..18_u32));
        if let Ok(ended) = timeout(pause, leg.run()).await {
            break ended;
        }
        if rng.random_ratio(2, 3) {
            leg.stop().await.expect("stop");
            if rng.random() {
                leg.arm();
            }
        }
    };
    assert!(matches!(ended, Ended::Source(None)), "{ended:?}");
    SockRef::from(&*target).shutdown(Shutdown::Write).unwrap();
    assert_eq!(leg.status().bytes, len as u64);
    leg.status().unsplices
}

// === overlapping segments ===

/// What the far end and the leg do.
#[derive(Clone, Debug)]
enum Do {
    /// A segment of these bytes comes.
    Send(Range<usize>),
    /// The leg goes to the kernel, if it has one, with what lies unread.
    Arm,
    /// It comes back to user space, and leaves unread what comes.
    Stop,
    /// It runs until the receiver has all that has come without a gap.
    Carry,
}

use Do::{Arm, Carry, Send, Stop};

#[test]
fn what_does_not_leave_the_host_at_first_is_not_taken_for_bytes_too_many() {
    for (splice, path) in paths() {
        let Some(netns) = Netns::new() else { return };
        let (mut sender, source) = connection();
        let (target, mut receiver) = netns.run(connection);
        receiver.set_read_timeout(Some(WITHIN)).unwrap();
        let bytes = random_bytes(3000, &mut SmallRng::seed_from_u64(4));
        block_on(async {
            let (mut leg, _target) = leg(&splice, source, target, 0);
            leg.arm();
            sender.write_all(&bytes[..1000]).unwrap();
            run_until(&mut leg, |leg| leg.status().bytes == 1000).await;
            assert_eq!(leg.status().path, path);
            receiver.read_exact(&mut [0; 1000]).unwrap();
            for route in ["127.0.0.1", "127.0.0.0/8"] {
                netns.ip(&format!("route del local {route} dev lo table local"));
            }
            // The kernel tries to send it, and counts it, and tries again later.
            sender.write_all(&bytes[1000..]).unwrap();
            run_until(&mut leg, |leg| leg.status().backlog == 2000).await;
            leg.stop().await.unwrap();
            netns.ip("route add local 127.0.0.0/8 dev lo table local");
            assert_eq!(leg.status().bytes, 3000);
            let mut received = [0; 2000];
            receiver.read_exact(&mut received).unwrap();
            assert!(received == bytes[1000..], "other bytes came out than went in");
        });
        assert_eq!(splice.why_not().is_none(), path == LegPath::Kernel, "{}", splice.describe());
    }
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (dialled, listener.accept().unwrap().0)
}

async fn run_until(leg: &mut Leg, is_so: impl Fn(&Leg) -> bool) {
    while !is_so(leg) {
        if let Ok(ended) = timeout(Duration::from_millis(5), leg.run()).await {
            panic!("{ended:?}");
        }
    }
}

#[test]
fn overlapping_segments_are_carried_once() {
    let layouts: &[(&str, &[Do])] = &[
        ("a part again", &[Arm, Send(0..1000), Send(500..1500), Carry, Send(1..1501)]),
        ("all again", &[Arm, Send(0..1000), Send(0..1000), Carry, Send(0..1000), Send(1000..1400)]),
        (
            "early, then what is between, and more",
            &[Arm, Send(0..1000), Send(2000..3000), Send(900..2500), Carry, Send(2900..4000)],
        ),
        (
            "early ones inside each other",
            &[Arm, Send(1500..2500), Send(1200..2600), Send(1300..1400), Send(0..1250)],
        ),
        (
            "one over many early ones",
            &[Arm, Send(100..200), Send(300..400), Send(500..600), Send(50..1450), Send(0..120)],
        ),
        ("queued before it goes", &[Send(0..1000), Send(500..1500), Send(400..1800), Arm]),
        (
            "early before it goes, whole after",
            &[Send(0..1000), Send(2000..3000), Arm, Send(500..1500), Send(1400..2500)],
        ),
        (
            "over the moments it goes and comes back",
            &[
                Send(0..1000),
                Carry,
                Stop,
                Arm,
                Send(500..1500),
                Stop,
                Send(1200..2000),
                Arm,
                Send(1100..2100),
                Carry,
                Stop,
                Send(2000..2500),
                Send(1900..3000),
                Arm,
                Send(2999..3001),
            ],
        ),
        (
            "early while it is in the kernel, whole when it is not",
            &[Arm, Send(0..500), Send(1000..2000), Stop, Send(400..1100), Carry, Send(0..2001)],
        ),
    ];
    for (splice, path) in paths() {
        for (name, layout) in layouts {
            if !play(name, layout, &splice, path) {
                return;
            }
        }
    }
}

#[test]
fn segments_at_random_places_are_carried_once() {
    for seed in 0..12 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut layout, mut end) = (Vec::new(), 0_usize);
        while end < 100_000 {
            layout.push(match rng.random_range(0..40) {
                0 => Carry,
                1..4 => Stop,
                4..7 => Arm,
                _ => {
                    // From far behind what came last to a gap behind it.
                    let start = (end + rng.random_range(0..1500)).saturating_sub(1200);
                    Send(start..start + rng.random_range(1..1400))
                }
            });
            if let Some(Send(range)) = layout.last() {
                end = end.max(range.end);
            }
        }
        for (splice, path) in paths() {
            if !play(&format!("seed {seed}"), &layout, &splice, path) {
                return;
            }
        }
    }
}

/// Whether it could be tried.
fn play(name: &str, layout: &[Do], splice: &Arc<Splice>, path: LegPath) -> bool {
    let bytes = random_bytes(110_000, &mut SmallRng::seed_from_u64(8));
    let Some((mut peer, source)) = Handmade::connect(bytes) else { return false };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (receiver, _) = listener.accept().unwrap();
    let mut receiver = Receiver::new(format!("{name}, {path:?}"), receiver);
    block_on(async {
        let (mut leg, target) = leg(splice, source, target, 0);
        for step in layout {
            match step {
                Send(range) => peer.send(range.clone()),
                Stop => leg.stop().await.expect("stop"),
                Arm => {
                    leg.arm();
                    assert_eq!(leg.status().path, path);
                }
                Carry => receiver.wait(&mut leg, &mut peer).await,
            }
        }
        peer.fill_gaps();
        receiver.wait(&mut leg, &mut peer).await;
        peer.finish();
        let ended = leg.run().await;
        assert!(matches!(ended, Ended::Source(None)), "{ended:?}");
        assert_eq!(leg.status().bytes, peer.whole().len() as u64);
        SockRef::from(&*target).shutdown(Shutdown::Write).unwrap();
    });
    receiver.socket.set_nonblocking(false).unwrap();
    receiver.socket.read_to_end(&mut receiver.received).unwrap();
    assert!(receiver.received == peer.whole(), "{}: bytes behind the end", receiver.label);
    assert_eq!(splice.why_not().is_none(), path == LegPath::Kernel, "{}", splice.describe());
    true
}

/// Behind the target.
struct Receiver {
    /// Which stream this is.
    label: String,
    socket: TcpStream,
    received: Vec<u8>,
}

impl Receiver {
    fn new(label: String, socket: TcpStream) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self { label, socket, received: Vec::new() }
    }

    /// Runs the leg until all is there that `peer` has sent without a gap.
    async fn wait(&mut self, leg: &mut Leg, peer: &mut Handmade) {
        let (begin, label) = (Instant::now(), &self.label);
        loop {
            match self.socket.read_to_end(&mut self.received) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                ended => panic!("{label}: the target: {ended:?}"),
            }
            let (n, expected) = (self.received.len(), peer.whole());
            assert!(expected.starts_with(&self.received), "{label}: wrong before byte {n}");
            if n == expected.len() {
                return;
            }
            assert!(begin.elapsed() < WITHIN / 3, "{label}: {n} bytes of {}", expected.len());
            if let Ok(ended) = timeout(Duration::from_millis(1), leg.run()).await {
                panic!("{label}: the leg ended: {ended:?}");
            }
            if begin.elapsed() > PATIENCE {
                peer.repeat();
            }
        }
    }
}

/// After which a peer sends again.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long anything may take.
const WITHIN: Duration = seconds(60);
