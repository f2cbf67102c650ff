//! Slaves that only count: a server forwards to them, and they are fed like players.
//!
//! All connections are parsed here up to their first keyframe, and go to the fleet then. Few stay, and
//! are parsed for good: they tell latency, as probes do.
use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::host::{Caller, Said};
use super::notes::{Mark, Notes, Seen};
use crate::net;

/// Longest sleep, so that the end is noticed, milliseconds.
const NAP_MS: u8 = 50;
const EVENTS: usize = 256;
const READ: usize = 64 << 10;

/// A connection that has its first keyframe.
pub struct Came {
    /// Name of the stream.
    pub stream: String,
    /// Bytes received so far.
    pub received: u64,
    /// Where its first keyframe ended.
    pub mark: Mark,
    /// To go on with; none: it stays to be parsed.
    pub socket: Option<TcpStream>,
}

/// The slaves; they hang up when dropped.
pub struct Sinks {
    ports: Vec<u16>,
    came: Receiver<Came>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sinks {
    /// `n` of them on loopback. `samples`: which connections to parse for good, by slave and stream.
    pub fn start(n: usize, samples: Vec<(usize, String)>) -> Result<Self> {
        let listeners = (0..n).map(|_| TcpListener::bind(net::loopback(0)).context("a port"));
        let listeners = listeners.collect::<Result<Vec<_>>>()?;
        let ports = listeners.iter().map(|one| Ok(one.local_addr()?.port()));
        let ports = ports.collect::<Result<_>>()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (at, listener) in (0..).zip(&listeners) {
            listener.set_nonblocking(true)?;
            epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, at))?;
        }
        let (news, came) = channel();
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let mut work = Work {
            epoll,
            next: n as u64,
            listeners,
            samples,
            news,
            seen: Arc::clone(&seen),
            guests: HashMap::new(),
            buffer: vec![0; READ],
        };
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("sink".to_owned());
        let thread = thread.spawn(move || work.run(&stopped))?;
        Ok(Self { ports, came, seen, stop, thread: Some(thread) })
    }

    /// Where they listen.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Who has come since the last call.
    pub fn came(&self) -> Vec<Came> {
        self.came.try_iter().collect()
    }

    /// What those that are parsed for good saw.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what they saw.
    pub fn restart(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic of it has been shown.
            let _ = thread.join();
        }
    }
}

struct Guest {
    slave: usize,
    caller: Caller,
    begun: Instant,
    /// Once it publishes.
    feed: Option<Feed>,
}

struct Feed {
    stream: String,
    notes: Notes,
    is_sample: bool,
    is_told: bool,
}

struct Work {
    epoll: Epoll,
    /// Id of the next connection; those below the number of listeners are theirs.
    next: u64,
    listeners: Vec<TcpListener>,
    samples: Vec<(usize, String)>,
    news: Sender<Came>,
    seen: Arc<Mutex<Seen>>,
    guests: HashMap<u64, Guest>,
    buffer: Vec<u8>,
}

impl Work {
    fn run(&mut self, stopped: &AtomicBool) {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        while !stopped.load(Ordering::Relaxed) {
            let n = match self.epoll.wait(&mut events, NAP_MS) {
                Ok(n) => n,
                Err(Errno::EINTR) => 0,
                // Who waits for connections sees that none come.
                Err(_) => return,
            };
            for event in events.iter().take(n) {
                let id = event.data();
                if usize::try_from(id).is_ok_and(|at| at < self.listeners.len()) {
                    self.accept(id);
                } else if self.advance(id).is_err() {
                    self.guests.remove(&id);
                }
            }
        }
    }

    fn accept(&mut self, at: u64) {
        let slave = usize::try_from(at).unwrap_or_default();
        while let Some(Ok((stream, _))) = self.listeners.get(slave).map(TcpListener::accept) {
            let id = self.next;
            self.next += 1;
            let Ok(caller) = Caller::new(stream) else { continue };
            if self.epoll.add(&caller, EpollEvent::new(EpollFlags::EPOLLIN, id)).is_ok() {
                let guest = Guest { slave, caller, begun: Instant::now(), feed: None };
                self.guests.insert(id, guest);
            }
        }
    }

    /// An error when the connection is over.
    fn advance(&mut self, id: u64) -> Result<()> {
        let Some(guest) = self.guests.get_mut(&id) else { return Ok(()) };
        let (slave, begun, feed, samples) =
            (guest.slave, guest.begun, &mut guest.feed, &self.samples);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        guest.caller.receive(&mut self.buffer, |said, wire| match said {
            Said::Publish(stream) => {
                let is_sample = samples.iter().any(|(at, name)| *at == slave && name == stream);
                let notes = Notes::new(begun, stream);
                *feed = Some(Feed { stream: stream.to_owned(), notes, is_sample, is_told: false });
            }
            Said::Media(message) => {
                if let Some(feed) = feed {
                    let seen = feed.is_sample.then_some(&mut *seen);
                    feed.notes.take(&message, wire, seen);
                }
            }
            Said::Play(_) => {}
        })?;
        drop(seen);
        let Some(feed) = feed else { return Ok(()) };
        let Some(mark) = feed.notes.joined().mark.filter(|_| !feed.is_told) else { return Ok(()) };
        feed.is_told = true;
        let (stream, received) = (feed.stream.clone(), guest.caller.received());
        let socket = if feed.is_sample {
            None
        } else {
            let guest = self.guests.remove(&id).context("it was there")?;
            self.epoll.delete(&guest.caller)?;
            Some(guest.caller.into_stream())
        };
        // Nobody listens when the load is being taken down.
        let _ = self.news.send(Came { stream, received, mark, socket });
        Ok(())
    }
}
