//! Real bytes through real pairs on loopback, compared; skipped where BPF does not work.
mod walk;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forwarder_ebpf::OVER_HARD;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::program::{EventKind, Pair, PairLimits, SpliceProgram};
use super::reports::Reports;
use super::{WhyNot, socket};

/// How long anything may take.
const WITHIN: Duration = Duration::from_secs(20);

fn program() -> Option<SpliceProgram> {
    match SpliceProgram::load() {
        Ok(program) => Some(program),
        Err(why) => {
            println!("skipped: splice: {why}");
            None
        }
    }
}

/// A connection: the dialling and the accepted side.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    for socket in [&dialled, &accepted] {
        socket.set_nodelay(true).unwrap();
    }
    (dialled, accepted)
}

/// A sender's connection to us, and ours to a receiver.
struct Hop {
    sender: TcpStream,
    source: TcpStream,
    target: TcpStream,
    receiver: TcpStream,
}

impl Hop {
    fn new() -> Self {
        let (sender, source) = connection();
        let (target, receiver) = connection();
        receiver.set_read_timeout(Some(WITHIN)).unwrap();
        source.set_nonblocking(true).unwrap();
        Self { sender, source, target, receiver }
    }

    /// Carries what there is in user space until the source would block; whether it has ended.
    fn relay(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.source.read(&mut buffer) {
                Ok(0) => return true,
                Ok(n) => self.target.write_all(&buffer[..n]).unwrap(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn splice(&self, program: &SpliceProgram, limits: &PairLimits) -> Pair {
        self.try_splice(program, limits).unwrap()
    }

    fn try_splice(&self, program: &SpliceProgram, limits: &PairLimits) -> io::Result<Pair> {
        splice(program, [&self.source, &self.target], limits)
    }

    /// Back to user space; gives the bytes that the kernel carried.
    fn unsplice(&self, program: &SpliceProgram, pair: &Pair) -> u64 {
        program.remove_source(pair).unwrap();
        wait("drained", || program.is_drained(pair, self.target.as_fd()).unwrap());
        let stat = program.stat(pair).unwrap();
        program.remove_target(pair).unwrap();
        assert_eq!((stat.flags, stat.dropped), (0, 0));
        stat.redirected
    }
}

fn splice(
    program: &SpliceProgram,
    [source, target]: [&TcpStream; 2],
    limits: &PairLimits,
) -> io::Result<Pair> {
    let (source, target) = (source.as_fd(), target.as_fd());
    let pair = Pair::of(source, target)?;
    program.insert(&pair, source, target, limits, None)?;
    socket::kick(source).map(|()| pair)
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < WITHIN, "not {what} within {WITHIN:?}");
        thread::yield_now();
    }
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(1).fill_bytes(&mut bytes);
    bytes
}

/// Most bytes that a sender is ahead of its receiver.
const AHEAD: usize = 256 << 10;

/// Writes `bytes` in pieces of random sizes, not far ahead of what is `received`, and ends.
fn send(
    mut sender: TcpStream,
    bytes: Vec<u8>,
    received: Arc<AtomicUsize>,
) -> thread::JoinHandle<TcpStream> {
    let mut random = SmallRng::seed_from_u64(2);
    thread::spawn(move || {
        let mut sent = 0;
        while sent < bytes.len() {
            wait("read", || received.load(Ordering::Relaxed) + AHEAD > sent);
            let most = if random.random_ratio(1, 4) { 200_000 } else { 5_000 };
            let end = (sent + random.random_range(1..=most)).min(bytes.len());
            sender.write_all(&bytes[sent..end]).unwrap();
            sent = end;
        }
        sender.shutdown(Shutdown::Write).unwrap();
        sender
    })
}

/// Reads to the end, counting in `n_received`.
fn receive(mut receiver: TcpStream, n_received: Arc<AtomicUsize>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut received, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            match receiver.read(&mut buffer).unwrap() {
                0 => return received,
                n => received.extend_from_slice(&buffer[..n]),
            }
            n_received.store(received.len(), Ordering::Relaxed);
        }
    })
}

#[test]
fn bytes_are_whole_through_many_changes_between_kernel_and_user_space() {
    let Some(program) = program() else { return };
    let mut hop = Hop::new();
    let bytes = random_bytes(32 << 20);
    let received = Arc::new(AtomicUsize::new(0));
    let receiver = receive(hop.receiver.try_clone().unwrap(), received.clone());
    let sender = send(hop.sender.try_clone().unwrap(), bytes.clone(), received);
    let (mut by_kernel, mut cycles) = (0, 0);
    while !hop.relay() {
        let pair = match hop.try_splice(&program, &PairLimits::default()) {
            Ok(pair) => pair,
            // The sender has ended since the last look.
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(nix::libc::EOPNOTSUPP), "{error}");
                continue;
            }
        };
        wait("moving", || {
            sender.is_finished() || program.stat(&pair).unwrap().redirected > 1 << 20
        });
        by_kernel += hop.unsplice(&program, &pair);
        cycles += 1;
    }
    hop.target.shutdown(Shutdown::Write).unwrap();
    assert!(receiver.join().unwrap() == bytes, "other bytes came out than went in");
    assert!(cycles > 2 && by_kernel > 4 << 20, "{cycles} cycles, {by_kernel} bytes");
    sender.join().unwrap();
}

#[test]
fn what_is_queued_before_is_carried_once_and_in_order() {
    let Some(program) = program() else { return };
    let mut hop = Hop::new();
    // One segment of which user space reads a part: the kernel must begin behind it.
    hop.sender.write_all(b"0123456789").unwrap();
    let mut head = [0; 3];
    hop.source.set_nonblocking(false).unwrap();
    hop.source.read_exact(&mut head).unwrap();
    hop.target.write_all(&head).unwrap();
    let pair = hop.splice(&program, &PairLimits::default());
    let mut received = [0; 10];
    hop.receiver.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"0123456789");
    assert_eq!(hop.unsplice(&program, &pair), 7);
}

#[test]
fn a_reader_that_stops_is_reported_and_bounded() {
    let Some(program) = program() else { return };
    let mut events = program.take_events().unwrap();
    assert!(program.take_events().is_none(), "a second receiver");
    let mut hop = Hop::new();
    let limits = PairLimits { soft: 1 << 20, hard: 16 << 20 };
    let pair = hop.splice(&program, &limits);
    let bytes = random_bytes(24 << 20);
    hop.sender.write_all(&bytes).unwrap();
    wait("broken", || program.stat(&pair).unwrap().flags & OVER_HARD != 0);
    let kinds = [EventKind::OverSoft, EventKind::OverHard];
    for (kind, limit) in kinds.into_iter().zip([limits.soft, limits.hard]) {
        let event = events.poll().unwrap();
        assert_eq!((event.source, event.kind), (pair.source, kind));
        assert!(event.backlog > limit && event.backlog <= limit + (1 << 20), "{event:?}");
    }
    assert_eq!(events.poll(), None, "each crossing is reported once");
    wait("counted", || {
        let stat = program.stat(&pair).unwrap();
        stat.redirected + stat.dropped == bytes.len() as u64
    });
    let stat = program.stat(&pair).unwrap();
    assert!(stat.max_backlog <= limits.hard, "{stat:?}");
    // What was redirected before is all there.
    let mut received = vec![0; usize::try_from(stat.redirected).unwrap()];
    hop.receiver.read_exact(&mut received).unwrap();
    assert!(bytes.starts_with(&received));
    program.remove_source(&pair).unwrap();
    program.remove_target(&pair).unwrap();
}

#[test]
fn a_target_that_goes_is_reported() {
    let Some(program) = program() else { return };
    let mut events = program.take_events().unwrap();
    let mut hop = Hop::new();
    let pair = hop.splice(&program, &PairLimits::default());
    drop(hop.target);
    hop.sender.write_all(b"lost").unwrap();
    let mut event = None;
    wait("reported", || {
        event = events.poll();
        event.is_some()
    });
    let event = event.unwrap();
    assert_eq!((event.source, event.kind), (pair.source, EventKind::NoTarget));
    assert_eq!(program.stat(&pair).unwrap().dropped, 4);
    program.remove_source(&pair).unwrap();
    program.remove_target(&pair).unwrap();
}

#[test]
fn bytes_of_a_source_that_is_in_no_pair_are_reported_and_end_the_use_of_the_kernel() {
    let Some(program) = program() else { return };
    let mut events = program.take_events().unwrap();
    let mut hop = Hop::new();
    let pair = hop.splice(&program, &PairLimits::default());
    // In the wrong order.
    program.remove_target(&pair).unwrap();
    hop.sender.write_all(b"lost").unwrap();
    let mut event = None;
    wait("reported", || {
        event = events.poll();
        event.is_some()
    });
    let event = event.unwrap();
    assert_eq!((event.source, event.kind), (pair.source, EventKind::Unknown));
    let reports = Reports::default();
    assert_eq!(reports.revoked(), None);
    reports.take(&event);
    assert!(matches!(reports.revoked(), Some(WhyNot::Revoked(_))));
    program.remove_source(&pair).unwrap();
}

#[test]
fn a_socket_is_in_one_pair_and_a_refusal_changes_nothing() {
    let Some(program) = program() else { return };
    let (mut hop, other) = (Hop::new(), Hop::new());
    let limits = PairLimits::default();
    let pair = hop.splice(&program, &limits);
    for (source, target) in [(&hop.source, &other.target), (&other.source, &hop.target)] {
        let error = splice(&program, [source, target], &limits).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EEXIST), "{error}");
    }
    hop.sender.write_all(b"still there").unwrap();
    let mut received = [0; 11];
    hop.receiver.read_exact(&mut received).unwrap();
    hop.unsplice(&program, &pair);
    // Free again.
    let pair = hop.splice(&program, &limits);
    hop.unsplice(&program, &pair);
    let closed = hop.receiver;
    drop(closed);
    wait("closed by its peer", || {
        let spliced = splice(&program, [&other.source, &hop.target], &limits);
        if let Ok(pair) = &spliced {
            other.unsplice(&program, pair);
        }
        spliced.is_err()
    });
}
