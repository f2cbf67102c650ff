//! A slave that only writes down what is forwarded to it.
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forwarder::rtmp::session::{ServerConfig, ServerEvent, ServerSession};

use super::flv::Tag;

/// What one connection brought.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// tcUrl of its `connect`.
    pub tc_url: String,
    /// App of its `connect`.
    pub app: String,
    /// Stream name of its `publish`, with parameters.
    pub stream: String,
    /// Its media.
    pub tags: Vec<Tag>,
    /// Its answers to our pings.
    pub pongs: Vec<u32>,
    /// It said that the publish is over.
    pub unpublished: bool,
    /// It is closed.
    pub closed: bool,
}

/// The slave; stops listening and closes all on drop.
pub struct Sink {
    /// Where it listens.
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    stop: Arc<AtomicBool>,
    /// Asked of each connection, once for each change; 0: nothing.
    ping: Arc<AtomicU32>,
    /// Bytes that each connection reads in a second; 0: all there is.
    pace: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Listens on `address`.
    pub fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("bind");
        listener.set_nonblocking(true).expect("socket option");
        let received = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let ping = Arc::new(AtomicU32::new(0));
        let pace = Arc::new(AtomicU64::new(0));
        let (all, stopped, asked) = (Arc::clone(&received), Arc::clone(&stop), Arc::clone(&ping));
        let paced = Arc::clone(&pace);
        let thread = std::thread::spawn(move || {
            let mut threads = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((socket, _)) => {
                        let (all, stopped, asked) =
                            (Arc::clone(&all), Arc::clone(&stopped), Arc::clone(&asked));
                        let paced = Arc::clone(&paced);
                        threads.push(std::thread::spawn(move || {
                            serve(socket, &all, &stopped, &asked, &paced);
                        }));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
            threads.into_iter().for_each(|t| drop(t.join()));
        });
        Self { address, received, stop, ping, pace, thread: Some(thread) }
    }

    /// Sends a PingRequest with this stamp to all who are connected.
    pub fn ping(&self, stamp: u32) {
        self.ping.store(stamp, Ordering::Relaxed);
    }

    /// Reads so many bytes a second of each connection from now on; 0: all there is.
    pub fn read_at_most(&self, bytes_per_second: u64) {
        self.pace.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    /// Whether each said that its publish is over.
    pub fn is_done(&self) -> bool {
        self.received.lock().unwrap().iter().all(|received| received.unpublished)
    }

    /// What came so far, by connection.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// How many messages the newest connection brought.
    pub fn count(&self) -> usize {
        self.received.lock().unwrap().last().map_or(0, |r| r.tags.len())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(
    mut socket: TcpStream,
    all: &Mutex<Vec<Received>>,
    stop: &AtomicBool,
    ping: &AtomicU32,
    pace: &AtomicU64,
) {
    let index = {
        let mut all = all.lock().unwrap();
        all.push(Received::default());
        all.len() - 1
    };
    socket.set_nonblocking(false).expect("socket option");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("socket option");
    let config = ServerConfig { chunk_size: 4096, out_ack_size: 2_500_000, in_ack_size: 0 };
    let random = vec![0x5a; 1536].into();
    let mut session = ServerSession::new(config, random, Instant::now());
    let mut buffer = vec![0; 65_536];
    let mut pinged = 0;
    while !stop.load(Ordering::Relaxed) {
        let asked = ping.load(Ordering::Relaxed);
        if asked != pinged {
            session.ping(asked);
            pinged = asked;
        }
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                rest(n, pace, stop);
                if !feed(&mut session, &buffer[..n], all, index) {
                    break;
                }
            }
            Err(e) if super::nothing_yet(&e) => {}
            Err(_) => break,
        }
        if session.has_output() && socket.write_all(&session.take_output()).is_err() {
            break;
        }
    }
    all.lock().unwrap()[index].closed = true;
}

/// Waits for as long as `n` bytes take.
fn rest(n: usize, pace: &AtomicU64, stop: &AtomicBool) {
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let pause = (n as u64 * 1000).checked_div(pace.load(Ordering::Relaxed));
        if begin.elapsed() >= Duration::from_millis(pause.unwrap_or_default()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the connection may go on.
fn feed(
    session: &mut ServerSession,
    input: &[u8],
    all: &Mutex<Vec<Received>>,
    index: usize,
) -> bool {
    enum Answer {
        None,
        Connect,
        Publish(u32),
    }
    let mut rest = input.len();
    loop {
        let mut all = all.lock().unwrap();
        let received = &mut all[index];
        let mut piece = &input[input.len() - rest..];
        let answer = match session.read(Instant::now(), &mut piece) {
            Ok(Some(ServerEvent::Connect(request))) => {
                (received.tc_url, received.app) = (request.tc_url, request.app);
                Answer::Connect
            }
            Ok(Some(ServerEvent::Publish(request))) => {
                received.stream = request.stream;
                Answer::Publish(request.msid)
            }
            Ok(Some(ServerEvent::Media(m))) => {
                let (kind, timestamp) = (m.kind.type_id(), m.timestamp.0);
                received.tags.push(Tag { kind, timestamp, body: m.payload.to_vec() });
                Answer::None
            }
            Ok(Some(ServerEvent::Pong(stamp))) => {
                received.pongs.push(stamp);
                Answer::None
            }
            Ok(Some(ServerEvent::Unpublish(_))) => {
                received.unpublished = true;
                Answer::None
            }
            Ok(Some(_)) => Answer::None,
            Ok(None) => return true,
            Err(_) => return false,
        };
        rest = piece.len();
        match answer {
            Answer::None => {}
            Answer::Connect => session.accept_connect(),
            Answer::Publish(msid) => session.accept_publish(msid, Instant::now()),
        }
    }
}
