//! Who is connected, as the API shows it.
//!
//! A shard knows its connections by descriptor, and how far its players are is asked of their lanes
//! when somebody wants to see it: nothing is counted for the API while media goes out.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::shard::{Shard, Shards};
use super::subscriber::State;
use crate::hub::Stream;
use crate::rtmp::session::ConnectRequest;

/// The connections of one shard.
#[derive(Debug, Default)]
pub(super) struct Clients(RefCell<HashMap<RawFd, Rc<Facts>>>);

#[derive(Debug)]
struct Facts {
    id: u64,
    speaks: Speaks,
    peer: SocketAddr,
    since: Instant,
    connect: RefCell<Option<Arc<ConnectRequest>>>,
    /// Of the stream it asked for last.
    vhost: RefCell<String>,
    /// Cancelled when its vhost is served no more.
    dismissed: CancellationToken,
    received: Cell<u64>,
    sent: Cell<u64>,
    rate: Cell<Rate>,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// RTMP.
    Rtmp,
    /// HTTP: it plays FLV.
    Http,
}

/// A connection's place among the clients of its shard, until dropped.
#[derive(Debug)]
pub(super) struct Client {
    shard: Rc<Shard>,
    fd: RawFd,
    facts: Rc<Facts>,
}

/// Bytes at some moment, and what they were a second up to then.
#[derive(Clone, Copy, Debug)]
struct Rate {
    at: Instant,
    received: u64,
    sent: u64,
    bps: Option<Bps>,
}

/// Bits a second in both directions, from and to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bps {
    /// From it.
    pub received: u64,
    /// To it.
    pub sent: u64,
}

/// One connection at the moment it was looked at.
#[derive(Debug)]
pub struct ClientState {
    /// Counts connections from the start of the process: nobody else ever has it.
    pub id: u64,
    /// What it speaks.
    pub speaks: Speaks,
    /// Its address.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub since: Instant,
    /// What it said in `connect`, or its request in those words; `None` until then.
    pub connect: Option<Arc<ConnectRequest>>,
    /// Bytes received, without those that a leg took from it.
    pub received: u64,
    /// Bytes sent, without those of a leg that is at it.
    pub sent: u64,
    /// Over the last 30 s or so, or since it came.
    pub bps: Bps,
    /// What it plays of the streams here, and how far it is.
    pub playing: Option<(Arc<Stream>, State)>,
}

impl Client {
    /// Enters the connection of `io`.
    pub(super) fn enter(
        shard: &Rc<Shard>,
        io: &TcpStream,
        peer: SocketAddr,
        speaks: Speaks,
        now: Instant,
    ) -> Self {
        let facts = Rc::new(Facts {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            speaks,
            peer,
            since: now,
            connect: RefCell::default(),
            vhost: RefCell::default(),
            dismissed: CancellationToken::new(),
            received: Cell::default(),
            sent: Cell::default(),
            rate: Cell::new(Rate { at: now, received: 0, sent: 0, bps: None }),
        });
        let fd = io.as_raw_fd();
        shard.clients().0.borrow_mut().insert(fd, Rc::clone(&facts));
        Self { shard: Rc::clone(shard), fd, facts }
    }

    /// Its number.
    pub(super) fn id(&self) -> u64 {
        self.facts.id
    }

    /// What it said in `connect`.
    pub(super) fn connected(&self, request: &Arc<ConnectRequest>) {
        *self.facts.connect.borrow_mut() = Some(Arc::clone(request));
    }

    /// It asked for a stream of `vhost`.
    pub(super) fn asks(&self, vhost: &str) {
        vhost.clone_into(&mut self.facts.vhost.borrow_mut());
    }

    /// Cancelled when its vhost is served no more.
    pub(super) fn dismissed(&self) -> &CancellationToken {
        &self.facts.dismissed
    }

    /// So many bytes came from it in all.
    pub(super) fn received(&self, bytes: u64) {
        self.facts.received.set(bytes);
    }

    /// Bytes sent, those of a stream that it still plays left out.
    pub(super) fn sent(&self) -> u64 {
        self.facts.sent.get()
    }

    /// So many more bytes were sent.
    pub(super) fn add_sent(&self, bytes: u64) {
        self.facts.sent.set(self.sent() + bytes);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut clients = self.shard.clients().0.borrow_mut();
        // The descriptor is still ours: the socket is closed after this.
        clients.remove(&self.fd);
    }
}

impl Clients {
    /// All of them now, in no order.
    fn list(&self, shard: &Shard, now: Instant) -> Vec<ClientState> {
        let clients = self.0.borrow();
        let mut all: HashMap<RawFd, ClientState> =
            clients.iter().map(|(fd, facts)| (*fd, facts.state())).collect();
        shard.fanout().each(now, |fd, stream, state| {
            if let Some(client) = all.get_mut(&fd) {
                client.sent += state.sent_bytes;
                client.playing = Some((Arc::clone(stream), state));
            }
        });
        for (fd, client) in &mut all {
            if let Some(facts) = clients.get(fd) {
                client.bps = facts.rate(now, client.received, client.sent);
            }
        }
        all.into_values().collect()
    }
}

impl Facts {
    fn state(&self) -> ClientState {
        ClientState {
            id: self.id,
            speaks: self.speaks,
            peer: self.peer,
            since: self.since,
            connect: self.connect.borrow().clone(),
            received: self.received.get(),
            sent: self.sent.get(),
            bps: Bps::default(),
            playing: None,
        }
    }

    fn rate(&self, now: Instant, received: u64, sent: u64) -> Bps {
        let (rate, bps) = self.rate.get().moved(now, received, sent);
        self.rate.set(rate);
        bps
    }
}

impl Rate {
    fn moved(self, now: Instant, received: u64, sent: u64) -> (Self, Bps) {
        let elapsed = now.saturating_duration_since(self.at);
        let bps = |bytes: u64, before: u64| {
            let bits = bytes.saturating_sub(before) as f64 * 8.0;
            (bits / elapsed.as_secs_f64().max(1.0)) as u64
        };
        let moved = Bps { received: bps(received, self.received), sent: bps(sent, self.sent) };
        if elapsed < RATE_WINDOW {
            return (self, self.bps.unwrap_or(moved));
        }
        (Self { at: now, received, sent, bps: Some(moved) }, moved)
    }
}

impl Shards {
    /// Disconnects a client. False: there is none with this id, or its shard did not answer
    /// `within` the time.
    pub async fn kick(&self, id: u64, within: Duration) -> bool {
        let (answers, _) = self.ask(within, move |shard| leave(shard, id)).await;
        answers.contains(&true)
    }

    /// Has all leave that asked for streams of these `vhosts`, which are not served any more.
    pub async fn dismiss(&self, vhosts: &[String]) {
        for handle in self.handles() {
            let vhosts = vhosts.to_vec();
            handle.run(move |shard| dismiss(&shard, &vhosts)).await;
        }
    }

    /// Everybody who is connected, in the order in which they came, and how many shards did not
    /// answer `within` the time.
    pub async fn clients(&self, within: Duration) -> (Vec<ClientState>, usize) {
        let (answers, silent) =
            self.ask(within, |shard| shard.clients().list(shard, Instant::now())).await;
        let mut all: Vec<ClientState> = answers.into_iter().flatten().collect();
        all.sort_unstable_by_key(|client| client.id);
        (all, silent)
    }

    /// What each shard answers to `job`, and how many did not `within` the time.
    async fn ask<T: Send + 'static>(
        &self,
        within: Duration,
        job: impl Fn(&Shard) -> T + Clone + Send + 'static,
    ) -> (Vec<T>, usize) {
        let deadline = tokio::time::Instant::now() + within;
        let mut answers = Vec::new();
        for handle in self.handles() {
            let (reply, answer) = oneshot::channel();
            let job = job.clone();
            // Whoever asked may have gone.
            let job = move |shard: Rc<Shard>| _ = reply.send(job(&shard));
            let asked = tokio::time::timeout_at(deadline, handle.run(job)).await;
            answers.push(asked.is_ok().then_some(answer));
        }
        let (mut all, mut silent) = (Vec::new(), 0);
        for answer in answers {
            let answer = match answer {
                Some(answer) => tokio::time::timeout_at(deadline, answer).await.ok(),
                None => None,
            };
            match answer {
                Some(Ok(answer)) => all.push(answer),
                _ => silent += 1,
            }
        }
        (all, silent)
    }
}

/// Has the client with this id leave: its connection reads its end. False: there is none here.
fn leave(shard: &Shard, id: u64) -> bool {
    let clients = shard.clients().0.borrow();
    let Some((fd, facts)) = clients.iter().find(|(_, facts)| facts.id == id) else { return false };
    info!(peer = %facts.peer, id, "client disconnected by the API");
    // An error means that it is closed already.
    _ = shutdown(*fd, Shutdown::Both);
    true
}

fn dismiss(shard: &Shard, vhosts: &[String]) {
    let clients = shard.clients().0.borrow();
    for facts in clients.values().filter(|facts| vhosts.contains(&facts.vhost.borrow())) {
        facts.dismissed.cancel();
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Rates are taken over so long, if somebody looks as often.
pub const RATE_WINDOW: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_window_once_there_was_one() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let rate = Rate { at: begin, received: 0, sent: 0, bps: None };
        let (rate, bps) = rate.moved(at(10), 10, 10_000);
        assert_eq!(bps, Bps { received: 8, sent: 8_000 }, "since it came");
        let (rate, bps) = rate.moved(at(40), 40, 80_000);
        assert_eq!(bps, Bps { received: 8, sent: 16_000 });
        let (rate, bps) = rate.moved(at(50), 50, 80_000);
        assert_eq!(bps, Bps { received: 8, sent: 16_000 }, "of the window before");
        assert_eq!(rate.moved(at(80), 40, 80_000).1, Bps::default());
    }
}
