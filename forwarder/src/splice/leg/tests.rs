//! Everything a leg promises, on both paths.
mod kernel;

use std::future::Future;
use std::io::ErrorKind;
use std::sync::OnceLock;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::{Message, encode};
use crate::rtmp::golden::recordings;
use crate::rtmp::message::kind;
use crate::splice::soak::soak;
use crate::splice::{Mode, WhyNot};

/// Runs a test on the user-space path, and on the kernel path where it works.
fn on_both_paths<T: Future<Output = ()>>(test: impl Fn(Arc<Splice>) -> T) {
    on_user_path(&test);
    on_kernel_path(&test);
}

fn on_user_path<T: Future<Output = ()>>(test: impl Fn(Arc<Splice>) -> T) {
    block_on(test(user()));
}

fn on_kernel_path<T: Future<Output = ()>>(test: impl Fn(Arc<Splice>) -> T) {
    if let Some(splice) = kernel() {
        block_on(test(splice));
    }
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(WITHIN, test).await.expect("not within the time") });
}

fn user() -> Arc<Splice> {
    Arc::new(Splice::user(WhyNot::Disabled))
}

fn kernel() -> Option<Arc<Splice>> {
    static SPLICE: OnceLock<Arc<Splice>> = OnceLock::new();
    let splice = SPLICE.get_or_init(|| Arc::new(Splice::start(Mode::Always)));
    if let Some(why) = splice.why_not() {
        println!("skipped: {why}");
        return None;
    }
    Some(Arc::clone(splice))
}

/// A sender, a leg and a receiver.
struct Hop {
    sender: TcpStream,
    leg: Leg,
    receiver: TcpStream,
    target: Rc<TcpStream>,
    is_kernel: bool,
}

impl Hop {
    async fn new(splice: &Arc<Splice>, options: LegOptions) -> Self {
        let (sender, source) = connection().await;
        let (target, receiver) = connection().await;
        let target = Rc::new(target);
        let mut leg = Leg::new(splice, Rc::new(source), Rc::clone(&target), options);
        let is_kernel = splice.why_not().is_none();
        leg.arm();
        assert_eq!(leg.status().path == LegPath::Kernel, is_kernel);
        Self { sender, leg, receiver, target, is_kernel }
    }

    /// Writes while the leg runs.
    async fn send(&mut self, bytes: &[u8]) {
        tokio::select! {
            ended = self.leg.run() => panic!("{ended:?}"),
            written = self.sender.write_all(bytes) => written.unwrap(),
        }
    }

    /// As [`Self::send`]; `false` if the leg holds the sender up, then a part is written.
    async fn try_send(&mut self, bytes: &[u8]) -> bool {
        timeout(HELD_UP, self.send(bytes)).await.is_ok()
    }

    /// Reads while the leg runs.
    async fn expect(&mut self, bytes: &[u8]) {
        let mut received = vec![0; bytes.len()];
        tokio::select! {
            ended = self.leg.run() => panic!("{ended:?}"),
            read = self.receiver.read_exact(&mut received) => assert_eq!(read.unwrap(), bytes.len()),
        }
        assert!(received == bytes, "other bytes came out than went in");
    }
}

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    dialled.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (dialled, accepted)
}

fn options() -> LegOptions {
    LegOptions {
        chunk_size: 128,
        walk: false,
        soft_limit: 4 << 20,
        hard_limit: 64 << 20,
        write_timeout: WITHIN,
    }
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(1).fill_bytes(&mut bytes);
    bytes
}

/// How long a test may take.
const WITHIN: Duration = Duration::from_secs(60);
/// A write that is not done by then has met a closed window. Where this is wrong, on a host that
/// stood still, a test sees a sender held up that is not, and still passes.
const HELD_UP: Duration = Duration::from_millis(500);

#[test]
fn streams_arrive_byte_for_byte_through_stops_and_arms() {
    soak(4, 4 << 20, &user(), 1).unwrap();
    if let Some(kernel) = kernel() {
        let soaked = soak(6, 4 << 20, &kernel, 2).unwrap();
        assert!(soaked.unsplices > 6, "{soaked:?}");
    }
}

#[test]
fn a_slow_reader_gets_everything() {
    on_both_paths(async |splice| {
        let hop = Hop::new(&splice, LegOptions { soft_limit: 256 << 10, ..options() }).await;
        let bytes = random_bytes(3 << 20);
        let (mut sender, mut receiver, mut leg) = (hop.sender, hop.receiver, hop.leg);
        let send = async {
            for piece in bytes.chunks(5000) {
                sender.write_all(piece).await.unwrap();
            }
            sender.shutdown().await.unwrap();
        };
        let receive = async {
            let (mut received, mut buffer) = (Vec::new(), vec![0; 128 << 10]);
            while let n @ 1.. = receiver.read(&mut buffer).await.unwrap() {
                received.extend_from_slice(&buffer[..n]);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            received
        };
        let carry = async {
            assert!(matches!(leg.run().await, Ended::Source(None)));
            SockRef::from(&*hop.target).shutdown(std::net::Shutdown::Write).unwrap();
        };
        let (received, ..) = tokio::join!(receive, send, carry);
        assert!(received == bytes, "other bytes came out than went in");
    });
}

#[test]
fn a_reader_that_stops_holds_up_the_sender_and_loses_nothing() {
    on_both_paths(async |splice| {
        let mut hop = Hop::new(&splice, LegOptions { soft_limit: 1 << 20, ..options() }).await;
        let bytes = random_bytes(32 << 20);
        let mut sent = 0;
        for piece in bytes.chunks(1 << 20) {
            sent += piece.len();
            if !hop.try_send(piece).await {
                break;
            }
            // The report has to pass another thread.
            _ = timeout(Duration::from_millis(20), hop.leg.run()).await;
        }
        assert!(sent < bytes.len(), "32 MiB for a reader that does not read");
        // On both paths what the reader has not taken, of which user space holds little.
        let status = hop.leg.status();
        assert!(status.backlog > 256 << 10, "{status:?}");
        assert!(hop.leg.relay.pending() <= 128 << 10, "{status:?}");
        // The last piece was written in part: whatever of it was, comes, then the end.
        hop.sender.shutdown().await.unwrap();
        let mut received = Vec::new();
        let (mut leg, target) = (hop.leg, hop.target);
        let carry = async move {
            assert!(matches!(leg.run().await, Ended::Source(None)));
            assert_eq!(leg.status().unsplices > 0, hop.is_kernel);
            drop((leg, target));
        };
        let (read, ()) = tokio::join!(hop.receiver.read_to_end(&mut received), carry);
        read.unwrap();
        assert!(received.len() > sent - (1 << 20) && bytes.starts_with(&received));
    });
}

#[test]
fn the_hard_limit_ends_a_leg_in_the_kernel() {
    on_kernel_path(async |splice| {
        let limits = LegOptions { soft_limit: 0, hard_limit: 8 << 20, ..options() };
        let mut hop = Hop::new(&splice, limits).await;
        let bytes = random_bytes(24 << 20);
        // Nobody takes what is left when the leg has ended.
        let write = async {
            hop.sender.write_all(&bytes).await.unwrap();
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            ended = hop.leg.run() => ended,
            () = write => unreachable!("it waits for ever"),
        };
        assert!(matches!(ended, Ended::OverLimit), "{ended:?}");
        // What came before is right, as far as the target was given it: that may be little, as
        // the kernel writes to it when it finds the time.
        let status = hop.leg.status();
        assert_eq!(status.path, LegPath::User);
        drop((hop.leg, hop.target));
        let mut received = Vec::new();
        hop.receiver.read_to_end(&mut received).await.unwrap();
        assert!(received.len() as u64 <= status.bytes && bytes.starts_with(&received));
    });
}

#[test]
fn a_reader_that_never_reads_again_is_given_up() {
    on_both_paths(async |splice| {
        for soft_limit in [0, 1 << 20] {
            let write_timeout = Duration::from_millis(400);
            let mut hop =
                Hop::new(&splice, LegOptions { soft_limit, write_timeout, ..options() }).await;
            let bytes = random_bytes(16 << 20);
            let ended = tokio::select! {
                ended = hop.leg.run() => ended,
                _ = async {
                    _ = hop.sender.write_all(&bytes).await;
                    std::future::pending::<()>().await;
                } => unreachable!(),
            };
            assert!(matches!(ended, Ended::Stuck), "{ended:?}");
        }
    });
}

#[test]
fn an_end_comes_after_the_last_byte() {
    on_both_paths(async |splice| {
        let mut rng = SmallRng::seed_from_u64(3);
        for case in 0..60 {
            let mut hop = Hop::new(&splice, options()).await;
            let most = 1 << rng.random_range(1..22_u32);
            let len = rng.random_range(0..=most);
            let bytes = random_bytes(len);
            let first = len.min(rng.random_range(0..20_000));
            if rng.random() {
                hop.send(&bytes[..first]).await;
            } else {
                hop.sender.write_all(&bytes[..first]).await.unwrap();
            }
            let sender = &mut hop.sender;
            let write = async {
                sender.write_all(&bytes[first..]).await.unwrap();
                sender.shutdown().await.unwrap();
            };
            let mut received = vec![0; len];
            let read = hop.receiver.read_exact(&mut received);
            let ((), read, ended) = tokio::join!(write, read, hop.leg.run());
            read.unwrap();
            assert!(matches!(ended, Ended::Source(None)), "case {case}: {ended:?}");
            assert!(received == bytes, "case {case}: other bytes came out than went in");
            assert_eq!(hop.leg.status().bytes, len as u64, "case {case}");
            // Nothing more: the target is closed by who owns it.
            drop((hop.leg, hop.target));
            assert_eq!(hop.receiver.read(&mut [0]).await.unwrap(), 0);
        }
    });
}

#[test]
fn a_sender_that_resets_ends_the_leg_after_what_it_sent() {
    on_both_paths(async |splice| {
        for len in [1, 3000, 100_000] {
            let mut hop = Hop::new(&splice, options()).await;
            let bytes = random_bytes(len);
            hop.send(&bytes).await;
            hop.expect(&bytes).await;
            hop.sender.write_all(b"last words").await.unwrap();
            hop.sender.set_zero_linger().unwrap();
            drop(hop.sender);
            let ended = hop.leg.run().await;
            let Ended::Source(Some(error)) = ended else { panic!("{ended:?}") };
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            let mut received = [0; 10];
            hop.receiver.read_exact(&mut received).await.unwrap();
            assert_eq!(&received, b"last words");
        }
    });
}

#[test]
fn after_a_reset_the_chunks_stand_where_the_receiver_stands() {
    on_both_paths(async |splice| {
        for recording in recordings() {
            let chunks = recording.chunks();
            let bytes = &chunks[..chunks.len().min(5_001)];
            let mut hop = Hop::new(&splice, LegOptions { walk: true, ..options() }).await;
            hop.sender.write_all(bytes).await.unwrap();
            hop.sender.set_zero_linger().unwrap();
            drop(hop.sender);
            let ended = hop.leg.run().await;
            assert!(matches!(ended, Ended::Source(Some(_))), "{ended:?}");
            drop(hop.target);
            let len = usize::try_from(hop.leg.status().bytes).unwrap();
            let mut received = vec![0; len];
            hop.receiver.read_exact(&mut received).await.unwrap();
            assert!(received == bytes, "all that was there when the reset came");
            assert_same_walk(hop.leg.open(), &received, &recording.name);
        }
    });
}

#[test]
fn a_receiver_that_goes_ends_the_leg_with_bytes_under_way_or_without() {
    on_both_paths(async |splice| {
        for (len, reset) in [(0, false), (0, true), (3000, true), (12 << 20, true)] {
            let mut hop = Hop::new(&splice, options()).await;
            let bytes = random_bytes(len);
            hop.try_send(&bytes).await;
            if reset {
                hop.receiver.set_zero_linger().unwrap();
            }
            drop(hop.receiver);
            let ended = hop.leg.run().await;
            match ended {
                Ended::Target(None) if !reset => {}
                Ended::Target(Some(error)) if reset => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                }
                ended => panic!("{len} bytes, reset {reset}: {ended:?}"),
            }
        }
    });
}

#[test]
fn after_the_target_has_gone_the_source_goes_on_to_another_where_it_stands() {
    on_both_paths(async |splice| {
        let payload = random_bytes(20_000);
        let message =
            Message { csid: 6, timestamp: Timestamp(1), kind: 9, msid: 1, payload: &payload };
        let mut chunks = Vec::new();
        while chunks.len() < 32 << 20 {
            encode(&message, 128, &mut |piece| chunks.extend_from_slice(piece));
        }
        // In the kernel to the end.
        let limits = LegOptions { walk: true, soft_limit: 0, hard_limit: 0, ..options() };
        for _ in 0..10 {
            let mut hop = Hop::new(&splice, limits).await;
            let mut sender = hop.sender.into_std().unwrap();
            sender.set_nonblocking(false).unwrap();
            let (bytes, (may_end, ends)) = (chunks.clone(), std::sync::mpsc::channel());
            let sent = std::thread::spawn(move || {
                std::io::Write::write_all(&mut sender, &bytes).unwrap();
                // An end counts as a byte that has left the source.
                ends.recv()
            });
            let read = async {
                hop.receiver.read_exact(&mut vec![0; 100_000]).await.unwrap();
                hop.receiver.set_zero_linger().unwrap();
                drop(hop.receiver);
                std::future::pending::<()>().await;
            };
            let ended = tokio::select! {
                ended = hop.leg.run() => ended,
                () = read => unreachable!("it waits for ever"),
            };
            assert!(matches!(ended, Ended::Target(_)), "{ended:?}");
            let (walk, source) = (hop.leg.open().clone(), Rc::clone(&hop.leg.source));
            drop(hop.leg);
            let (target, mut receiver) = connection().await;
            let mut next =
                Leg::new(&splice, source, Rc::new(target), options()).following(walk.clone());
            let at = usize::try_from(next.consumed.unwrap()).unwrap();
            assert_same_walk(&walk, &chunks[..at], "the source");
            may_end.send(()).unwrap();
            next.arm();
            let mut received = vec![0; chunks.len() - at];
            let (read, ended) = tokio::join!(receiver.read_exact(&mut received), next.run());
            read.unwrap();
            assert!(matches!(ended, Ended::Source(None)), "{ended:?}");
            assert!(received == chunks[at..], "other bytes came out than went in");
            sent.join().unwrap().unwrap();
            assert_eq!(splice.why_not().is_none(), hop.is_kernel, "{}", splice.describe());
        }
    });
}

#[test]
fn urgent_data_is_carried_like_any_other() {
    on_user_path(async |splice| {
        let mut hop = Hop::new(&splice, options()).await;
        let sent = *b"one two three";
        hop.send(&sent).await;
        hop.expect(&sent).await;
        hop.leg.stop().await.unwrap();
        for _ in 0..2 {
            // What is behind the urgent byte may wait for what comes next.
            SockRef::from(&hop.sender).send_out_of_band(&sent).unwrap();
            hop.send(&sent).await;
        }
        hop.sender.shutdown().await.unwrap();
        let mut received = [0; 52];
        let (ended, read) = tokio::join!(hop.leg.run(), hop.receiver.read_exact(&mut received));
        read.unwrap();
        assert!(matches!(ended, Ended::Source(None)), "{ended:?}");
        assert_eq!(received, [sent; 4].concat()[..]);
        // The count that the use of the kernel depends on.
        assert_eq!(socket::consumed(hop.leg.source.as_fd()), Some(hop.leg.status().bytes + 1));
    });
}

#[test]
fn a_receiver_may_talk_while_the_leg_runs() {
    on_both_paths(async |splice| {
        let mut hop = Hop::new(&splice, options()).await;
        for round in 0..50 {
            let bytes = random_bytes(1000 + round);
            hop.receiver.write_all(&bytes).await.unwrap();
            hop.send(&bytes).await;
            hop.expect(&bytes).await;
            let mut heard = vec![0; bytes.len()];
            let mut at = 0;
            while at < heard.len() {
                hop.target.readable().await.unwrap();
                match hop.target.try_read(&mut heard[at..]) {
                    Ok(n) => at += n,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            assert!(heard == bytes);
        }
    });
}

#[test]
fn after_a_stop_the_chunks_stand_where_the_receiver_stands() {
    on_both_paths(async |splice| {
        let mut rng = SmallRng::seed_from_u64(6);
        for recording in recordings() {
            let chunks = recording.chunks();
            let mut hop = Hop::new(&splice, LegOptions { walk: true, ..options() }).await;
            let (mut sent, mut received) = (0, Vec::new());
            while sent < chunks.len() && sent < 40_000 {
                let most = 1 << rng.random_range(0..14_u32);
                let end = (sent + rng.random_range(1..=most)).min(chunks.len());
                hop.send(&chunks[sent..end]).await;
                sent = end;
                if rng.random_ratio(1, 4) {
                    hop.leg.stop().await.unwrap();
                    let len = usize::try_from(hop.leg.status().bytes).unwrap();
                    let mut more = vec![0; len - received.len()];
                    hop.receiver.read_exact(&mut more).await.unwrap();
                    received.extend(more);
                    assert_same_walk(hop.leg.open(), &received, &recording.name);
                    hop.leg.arm();
                }
            }
            assert_eq!(received, chunks[..received.len()], "{}", recording.name);
        }
    });
}

fn assert_same_walk(walk: &Walk, bytes: &[u8], name: &str) {
    let mut expected = Walk::new(128);
    expected.feed(bytes);
    let what = format!("{name} at {}", bytes.len());
    assert!(!walk.is_lost() && !expected.is_lost(), "{what}");
    assert_eq!(walk.is_at_border(), expected.is_at_border(), "{what}");
    assert_eq!(walk.chunk_size(), expected.chunk_size(), "{what}");
    let [mut left, mut right] = [Vec::new(), Vec::new()];
    assert_eq!(walk.pad(&mut left), expected.pad(&mut right), "{what}");
    // Of several messages the kernel would pad those with low chunk stream ids first.
    assert_eq!(left.len(), right.len(), "{what}");
    let mut opened = [walk, &expected].map(|walk| walk.open().collect::<Vec<_>>());
    opened.iter_mut().for_each(|open| open.sort_unstable());
    assert_eq!(opened[0], opened[1], "{what}");
    // The kernel does not keep what came of a window size.
    let is_window = |kind| matches!(kind, kind::WINDOW_ACK_SIZE | kind::SET_PEER_BANDWIDTH);
    if opened[0].len() <= 1 && !opened[0].iter().any(|&(_, kind, _)| is_window(kind)) {
        assert_eq!(left, right, "{what}");
    }
}

#[test]
fn what_others_read_from_a_source_while_its_leg_is_stopped_is_not_missed() {
    on_both_paths(async |splice| {
        let mut hop = Hop::new(&splice, options()).await;
        let bytes = random_bytes(30_000);
        hop.send(&bytes).await;
        hop.expect(&bytes).await;
        hop.leg.stop().await.unwrap();
        hop.sender.write_all(&bytes).await.unwrap();
        let (mut read, source) = (0, Rc::clone(&hop.leg.source));
        while read < bytes.len() {
            source.readable().await.unwrap();
            read += source.try_read(&mut vec![0; bytes.len() - read]).unwrap_or_default();
        }
        hop.leg.arm();
        hop.send(&bytes).await;
        hop.expect(&bytes).await;
        hop.sender.shutdown().await.unwrap();
        let ended = hop.leg.run().await;
        assert!(matches!(ended, Ended::Source(None)), "{ended:?}");
        assert_eq!(splice.why_not().is_none(), hop.is_kernel);
    });
}
