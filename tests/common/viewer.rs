//! A player over HTTP that keeps every tag it gets.
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::flv::Tag;
use super::{seconds, wait_until};

/// Asks for `target`, with more header fields, and reads no more than the head of the response.
#[track_caller]
pub fn ask(address: SocketAddr, request: &str) -> Page {
    Page::on(TcpStream::connect(address).expect("connect"), request)
}

/// A response whose head has been read.
pub struct Page {
    /// HTTP's.
    pub status: u16,
    /// Its lines.
    pub head: String,
    socket: TcpStream,
    /// What came of the body with the head.
    begun: Vec<u8>,
}

impl Page {
    #[track_caller]
    fn on(mut socket: TcpStream, request: &str) -> Self {
        socket.set_read_timeout(Some(seconds(20))).expect("socket option");
        // One that is refused at once may be closed before it has said all.
        drop(socket.write_all(request.as_bytes()));
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            let mut buffer = [0; 2048];
            let n = socket.read(&mut buffer).expect("a response");
            assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&buffer[..n]);
        };
        let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no response: {head}"));
        Self { status, head, socket, begun: bytes[end + 4..].to_vec() }
    }

    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The whole body.
    #[track_caller]
    pub fn body(mut self) -> Vec<u8> {
        self.socket.read_to_end(&mut self.begun).expect("a body");
        self.begun
    }
}

/// A player in a thread.
pub struct Viewer {
    /// Its address, as the server logs it.
    pub local: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    tags: Mutex<Vec<Tag>>,
    /// The byte of an FLV header that says what there is.
    kinds: AtomicU32,
    paused: AtomicBool,
    stop: AtomicBool,
    ended: AtomicBool,
}

impl Viewer {
    /// Plays `path`, such as `/live/a.flv`; returns when the server has said that it may.
    #[track_caller]
    pub fn start(address: SocketAddr, path: &str) -> Self {
        Self::on(TcpStream::connect(address).expect("connect"), path)
    }

    /// As `start`, for one whose kernel takes little before the server feels it.
    #[track_caller]
    pub fn with_little_room(address: SocketAddr, path: &str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_recv_buffer_size(64 << 10).expect("socket");
        socket.connect(&address.into()).expect("socket");
        Self::on(socket.into(), path)
    }

    #[track_caller]
    fn on(socket: TcpStream, path: &str) -> Self {
        let local = socket.local_addr().expect("address");
        let page = Page::on(socket, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"));
        assert_eq!(page.status, 200, "{}", page.head);
        assert_eq!(page.field("content-type"), Some("video/x-flv"));
        let shared = Arc::new(Shared::default());
        let in_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || record(page, &in_thread));
        Self { local, shared, thread: Some(thread) }
    }

    /// What came so far.
    pub fn tags(&self) -> Vec<Tag> {
        self.shared.tags.lock().unwrap().clone()
    }

    /// How many tags came so far.
    pub fn count(&self) -> usize {
        self.shared.tags.lock().unwrap().len()
    }

    /// What the FLV header says there is: 4 audio, 1 video.
    pub fn kinds(&self) -> u32 {
        self.shared.kinds.load(Ordering::Relaxed)
    }

    /// Stops or goes on reading from the socket.
    pub fn pause(&self, paused: bool) {
        self.shared.paused.store(paused, Ordering::Relaxed);
    }

    /// Whether the server closed the connection.
    pub fn ended(&self) -> bool {
        self.shared.ended.load(Ordering::Relaxed)
    }

    /// Waits until the last frame of `published` is there, and leaves with all that came.
    #[track_caller]
    pub fn until_last(self, published: &[Tag], within: Duration) -> Vec<Tag> {
        let last = published.iter().rfind(|t| t.is_frame()).expect("frames");
        let has = || self.shared.tags.lock().unwrap().iter().rev().any(|tag| tag == last);
        wait_until("the last frame arrives", within, || has() || self.ended());
        self.tags()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn record(page: Page, shared: &Shared) {
    let Page { mut socket, begun: mut bytes, .. } = page;
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("socket option");
    let mut begun = false;
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.paused.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        begun = begun || take_header(&mut bytes, shared);
        if begun {
            let mut taken = 0;
            while let Some((tag, len)) = tag(&bytes[taken..]) {
                shared.tags.lock().unwrap().push(tag);
                taken += len;
            }
            bytes.drain(..taken);
        }
        let mut buffer = [0; 65_536];
        match socket.read(&mut buffer) {
            Ok(0) => {
                assert!(bytes.is_empty(), "{} bytes of a tag at the end", bytes.len());
                break;
            }
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(e) if super::nothing_yet(&e) => {}
            Err(_) => break,
        }
    }
    shared.ended.store(true, Ordering::Relaxed);
}

fn take_header(bytes: &mut Vec<u8>, shared: &Shared) -> bool {
    if bytes.len() < 13 {
        return false;
    }
    assert_eq!(bytes[..4], *b"FLV\x01");
    assert_eq!(bytes[5..13], [0, 0, 0, 9, 0, 0, 0, 0]);
    shared.kinds.store(bytes[4].into(), Ordering::Relaxed);
    bytes.drain(..13);
    true
}

/// The first tag and its length, once it is whole.
fn tag(bytes: &[u8]) -> Option<(Tag, usize)> {
    let (head, rest) = bytes.split_first_chunk::<11>()?;
    let len = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
    let (body, rest) = rest.split_at_checked(len)?;
    let size = rest.first_chunk::<4>()?;
    assert_eq!(u32::from_be_bytes(*size) as usize, len + 11, "size of a tag");
    assert_eq!(head[8..], [0, 0, 0], "stream id of a tag");
    let timestamp = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
    Some((Tag { kind: head[0], timestamp, body: body.to_vec() }, len + 15))
}
