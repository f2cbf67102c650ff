//! A thread that connects clients and parses what they get, over epoll.
//!
//! All join here. Those that do not parse for good leave with the news that they are there.
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::guest::{Guest, Progress, Role, Target};
use super::link::Link;
use super::notes::{Joined, Seen};

/// Connections begun between two looks at those that go on.
const DIALS_AT_ONCE: usize = 32;
/// Events of one look.
const EVENTS: usize = 512;
/// Longest sleep, so that orders are noticed, milliseconds.
const NAP_MS: u64 = 5;
/// Time between two looks at the deadlines.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// Bytes of one read.
const READ: usize = 64 << 10;

/// An order to connect.
pub struct Dial {
    /// Who.
    pub slot: usize,
    /// What for.
    pub role: Role,
    /// Where to.
    pub target: Arc<Target>,
    /// When.
    pub due: Instant,
}

/// What became of one.
pub enum News {
    /// It publishes or plays; `link` is its connection, unless it stays here as a probe.
    There {
        /// Who.
        slot: usize,
        /// How that went.
        joined: Joined,
        /// To go on with.
        link: Option<Box<Link>>,
    },
    /// It was refused, or lost.
    Failed {
        /// Who.
        slot: usize,
        /// Why.
        error: Error,
    },
}

/// A running engine; dropped, it says goodbye for its probes and ends.
pub struct Engine {
    orders: Option<Sender<Dial>>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts one whose thread is called `name`.
    pub fn start(name: &str, news: Sender<News>) -> Result<Self> {
        let (orders, receiver) = channel();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut work = Work {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            orders: receiver,
            news,
            seen: Arc::clone(&seen),
            queue: BinaryHeap::new(),
            dials: HashMap::new(),
            guests: HashMap::new(),
            next: 0,
            buffer: vec![0; READ],
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work.run())?;
        Ok(Self { orders: Some(orders), seen, thread: Some(thread) })
    }

    /// Has somebody connected.
    pub fn dial(&self, dial: Dial) -> Result<()> {
        let orders = self.orders.as_ref().context("no orders are taken any more")?;
        orders.send(dial).ok().context("a thread that connects has ended")
    }

    /// What its probes saw so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what its probes saw.
    pub fn restart(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic of it has been shown.
            let _ = thread.join();
        }
    }
}

struct Work {
    epoll: Epoll,
    orders: Receiver<Dial>,
    news: Sender<News>,
    seen: Arc<Mutex<Seen>>,
    /// When each order is due.
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    dials: HashMap<u64, Dial>,
    guests: HashMap<u64, Guest>,
    /// Id of the next order; its guest has the same.
    next: u64,
    buffer: Vec<u8>,
}

impl Work {
    fn run(&mut self) {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut checked = Instant::now();
        while self.take_orders() {
            self.dial_due();
            let waits = match self.queue.peek() {
                Some(Reverse((due, _))) if *due <= Instant::now() => 0,
                _ => NAP_MS,
            };
            let timeout = EpollTimeout::try_from(Duration::from_millis(waits));
            match self.epoll.wait(&mut events, timeout.unwrap_or(EpollTimeout::ZERO)) {
                Ok(n) => self.look(events.get(..n).unwrap_or_default()),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    // There is nobody to tell but those who wait for their guests.
                    let ids: Vec<u64> = self.guests.keys().copied().collect();
                    ids.into_iter().for_each(|id| self.fail(id, Error::from(errno)));
                    return;
                }
            }
            if checked.elapsed() >= CHECK_EVERY {
                checked = Instant::now();
                let ids: Vec<u64> = self.guests.keys().copied().collect();
                ids.into_iter().for_each(|id| self.check(id, checked));
            }
        }
        for guest in self.guests.values_mut() {
            // Whoever does not hear it sees the connection end.
            let _ = guest.link.finish();
        }
    }

    /// False when there will be no more.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(dial) => {
                    self.queue.push(Reverse((dial.due, self.next)));
                    self.dials.insert(self.next, dial);
                    self.next += 1;
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        for _ in 0..DIALS_AT_ONCE {
            match self.queue.peek() {
                Some(Reverse((due, _))) if *due <= now => {}
                _ => return,
            }
            let Some(Reverse((_, id))) = self.queue.pop() else { return };
            let Some(dial) = self.dials.remove(&id) else { continue };
            match self.begin(id, &dial) {
                Ok(guest) => drop(self.guests.insert(id, guest)),
                Err(error) => self.tell(News::Failed { slot: dial.slot, error }),
            }
        }
    }

    fn begin(&self, id: u64, dial: &Dial) -> Result<Guest> {
        let guest = Guest::dial(dial.slot, dial.role, &dial.target)?;
        // Writable: connected, or failed to.
        self.epoll.add(&guest.link, EpollEvent::new(readable() | EpollFlags::EPOLLOUT, id))?;
        Ok(guest)
    }

    fn look(&mut self, events: &[EpollEvent]) {
        let now = Instant::now();
        for event in events {
            let id = event.data();
            match self.advance(id, event.events()) {
                Ok(()) => self.check(id, now),
                Err(error) => self.fail(id, error),
            }
        }
    }

    fn advance(&mut self, id: u64, flags: EpollFlags) -> Result<()> {
        let Some(guest) = self.guests.get_mut(&id) else { return Ok(()) };
        if flags.contains(EpollFlags::EPOLLOUT) {
            guest.link.connected()?;
            guest.link.flush()?;
        }
        if flags.intersects(readable() | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            guest.receive(&mut self.buffer, &mut seen)?;
        }
        let mut wanted = readable();
        wanted.set(EpollFlags::EPOLLOUT, guest.link.is_waiting());
        if wanted.contains(EpollFlags::EPOLLOUT) != flags.contains(EpollFlags::EPOLLOUT) {
            self.epoll.modify(&guest.link, &mut EpollEvent::new(wanted, id))?;
        }
        Ok(())
    }

    /// Lets go of a guest that is there or late.
    fn check(&mut self, id: u64, now: Instant) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        match guest.check(now) {
            Err(error) => self.fail(id, error),
            Ok(Progress::Joining) => {}
            Ok(Progress::There) => self.greet(id),
        }
    }

    fn greet(&mut self, id: u64) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let (slot, joined) = (guest.slot, guest.joined());
        if guest.role == Role::Probe {
            if !std::mem::replace(&mut guest.is_told, true) {
                self.tell(News::There { slot, joined, link: None });
            }
        } else if let Some(guest) = self.guests.remove(&id) {
            // Who is not in there needs no taking out.
            let _ = self.epoll.delete(&guest.link);
            self.tell(News::There { slot, joined, link: Some(Box::new(guest.link)) });
        }
    }

    fn fail(&mut self, id: u64, error: Error) {
        if let Some(guest) = self.guests.remove(&id) {
            self.tell(News::Failed { slot: guest.slot, error });
        }
    }

    fn tell(&self, news: News) {
        // Nobody listens when the load is being taken down.
        let _ = self.news.send(news);
    }
}

fn readable() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP
}
