//! Two hosts, and a link between them that is as bad as a test wants it.
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tappers::linux::Tun;

use super::netns::Netns;

/// What a link does to packets, in each direction. None of it if not said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// How long a packet is on its way.
    pub delay: Duration,
    /// Share of packets that are lost.
    pub loss: f64,
    /// Share of packets that come twice.
    pub duplicates: f64,
    /// Share of packets that are late by up to [`LATE`], so that others overtake them.
    pub reorder: f64,
    /// Bytes a second; what would wait longer than [`QUEUE`] is lost.
    pub rate: Option<u32>,
    /// All is lost.
    pub cut: bool,
}

impl Faults {
    /// A long way over networks of others: 30 ms, 2 % lost, 2 % late, 1 % twice.
    pub fn far() -> Self {
        let delay = Duration::from_millis(30);
        Self { delay, loss: 0.02, duplicates: 0.01, reorder: 0.02, ..Self::default() }
    }
}

/// What became of the packets of both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// Delivered, twice counted twice.
    pub delivered: u64,
    /// Lost as [`Faults`] say.
    pub lost: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Delivered late.
    pub late: u64,
}

/// The link, with its hosts.
pub struct Link {
    /// [`NEAR`] and [`NEAR6`].
    pub near: Netns,
    /// [`FAR`] and [`FAR6`].
    pub far: Netns,
    shared: Arc<Shared>,
    /// Closed to end the thread.
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    faults: Mutex<Faults>,
    carried: Mutex<Carried>,
}

impl Link {
    /// Two new hosts; `None` is said on standard output as a skipped test.
    pub fn new(seed: u64, faults: Faults) -> Option<Self> {
        let (near, far) = (Netns::new()?, Netns::new()?);
        let ends = [
            near.tun(&[&format!("{NEAR}/24"), &format!("{NEAR6}/64")]),
            far.tun(&[&format!("{FAR}/24"), &format!("{FAR6}/64")]),
        ];
        let shared = Arc::new(Shared { faults: Mutex::new(faults), ..Shared::default() });
        let (ended, stop) = io::pipe().expect("a pipe");
        let shuttle = Shuttle {
            ends,
            shared: Arc::clone(&shared),
            rng: SmallRng::seed_from_u64(seed),
            free: [Instant::now(); 2],
            under_way: BinaryHeap::new(),
            number: 0,
        };
        let thread = thread::spawn(move || shuttle.run(&ended));
        Some(Self { near, far, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// From the next packet on.
    pub fn set(&self, faults: Faults) {
        *self.shared.faults.lock().unwrap() = faults;
    }

    /// Since the beginning.
    pub fn carried(&self) -> Carried {
        *self.shared.carried.lock().unwrap()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop = None;
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "the link failed");
    }
}

/// Carries the packets.
struct Shuttle {
    ends: [Tun; 2],
    shared: Arc<Shared>,
    rng: SmallRng,
    /// When each direction has room for the next packet.
    free: [Instant; 2],
    under_way: BinaryHeap<Reverse<Packet>>,
    number: u64,
}

/// Ordered by when it is due, then by when it was sent.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Instant,
    number: u64,
    /// Index of the end it goes to.
    to: usize,
    bytes: Vec<u8>,
}

impl Shuttle {
    fn run(mut self, ended: &io::PipeReader) {
        let mut buffer = vec![0; 65_536];
        loop {
            for from in 0..2 {
                self.take(from, &mut buffer);
            }
            self.deliver();
            let next = self.under_way.peek().map(|Reverse(packet)| packet.due);
            let wait = next.map_or(PollTimeout::NONE, |due| {
                // Rounded up: a packet is never early.
                let left = due.saturating_duration_since(Instant::now()).as_millis() + 1;
                PollTimeout::try_from(left).expect("a delay")
            });
            let mut watched = [
                PollFd::new(self.ends[0].as_fd(), PollFlags::POLLIN),
                PollFd::new(self.ends[1].as_fd(), PollFlags::POLLIN),
                PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut watched, wait).expect("poll");
            if watched[2].any().unwrap_or(true) {
                return;
            }
        }
    }

    /// Reads what one end sends, but not so long that the other waits.
    fn take(&mut self, from: usize, buffer: &mut [u8]) {
        for _ in 0..64 {
            match self.ends[from].recv(buffer) {
                Ok(n) => self.send(from, &buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a TUN device: {error}"),
            }
        }
    }

    fn send(&mut self, from: usize, bytes: &[u8]) {
        let (now, faults) = (Instant::now(), *self.shared.faults.lock().unwrap());
        let mut due = now;
        if let Some(rate) = faults.rate {
            let takes = Duration::from_secs_f64(bytes.len() as f64 / f64::from(rate));
            due = self.free[from].max(now) + takes;
        }
        let mut carried = self.shared.carried.lock().unwrap();
        if faults.cut || self.rng.random_bool(faults.loss) || due > now + QUEUE {
            carried.lost += 1;
            return;
        }
        self.free[from] = due;
        due += faults.delay;
        if self.rng.random_bool(faults.reorder) {
            due += LATE.mul_f64(self.rng.random());
            carried.late += 1;
        }
        let twice = self.rng.random_bool(faults.duplicates);
        carried.duplicated += u64::from(twice);
        for n in 0..=u32::from(twice) {
            self.number += 1;
            let (due, number) = (due + n * LATE / 2, self.number);
            self.under_way.push(Reverse(Packet { due, number, to: 1 - from, bytes: bytes.into() }));
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while self.under_way.peek().is_some_and(|Reverse(packet)| packet.due <= now) {
            let Some(Reverse(packet)) = self.under_way.pop() else { return };
            let sent = self.ends[packet.to].send(&packet.bytes).expect("a TUN device");
            assert_eq!(sent, packet.bytes.len(), "a packet was cut");
            self.shared.carried.lock().unwrap().delivered += 1;
        }
    }
}

/// Addresses of the near host.
pub const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// Of IPv6.
pub const NEAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));
/// Addresses of the far host.
pub const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
/// Of IPv6.
pub const FAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));
/// Most that a packet is late. Some twenty others overtake it in that time.
pub const LATE: Duration = Duration::from_millis(8);
/// What a slow link keeps waiting.
pub const QUEUE: Duration = Duration::from_millis(250);
