//! A client made of bytes, for what no well-behaved client would send.
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use forwarder::rtmp::amf0::Value;
use forwarder::rtmp::chunk::ChunkReader;
use forwarder::rtmp::message::{Command, Control, kind};

use super::seconds;

/// Connection to the server, with what it says decoded.
pub struct Raw {
    socket: TcpStream,
    reader: ChunkReader,
    handshake_left: usize,
    /// Commands received: name and every string in it, in order.
    pub commands: Vec<Vec<String>>,
    /// Control messages received.
    pub controls: Vec<Control>,
    /// Audio and video received: kind, and the first byte of the body.
    pub media: Vec<(u8, u8)>,
}

impl Raw {
    /// Connects and sends nothing.
    pub fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("connect");
        socket.set_nodelay(true).expect("socket option");
        Self {
            socket,
            reader: ChunkReader::new(),
            handshake_left: 3073,
            commands: Vec::new(),
            controls: Vec::new(),
            media: Vec::new(),
        }
    }

    /// Our address, as the server logs it.
    pub fn local(&self) -> SocketAddr {
        self.socket.local_addr().expect("address")
    }

    /// Sends bytes. A server that has closed already is not an error here.
    pub fn send(&mut self, bytes: &[u8]) {
        drop(self.socket.write_all(bytes));
    }

    /// Does the plain handshake.
    #[track_caller]
    pub fn handshake(&mut self) {
        let mut hello = vec![3];
        hello.extend_from_slice(&[0; 8]);
        hello.extend((0..1528_u32).map(|i| u8::try_from(i * 11 % 253).unwrap()));
        self.send(&hello);
        let mut reply = vec![0; 3073];
        self.socket.set_read_timeout(Some(seconds(5))).expect("socket option");
        self.socket.read_exact(&mut reply).expect("S0 S1 S2");
        self.handshake_left = 0;
        let echo = reply[1..1537].to_vec();
        self.send(&echo);
    }

    /// Sends a command.
    pub fn command(&mut self, msid: u32, name: &str, transaction: f64, args: Vec<Value>) {
        let mut out = Vec::new();
        let command = Command { name: name.to_owned(), transaction, args };
        command.encode(3, msid, 128, &mut out);
        self.send(&out);
    }

    /// Connects to `app`.
    #[track_caller]
    pub fn connect_app(&mut self, app: &str, tc_url: &str) {
        self.send(&connect_command(app, tc_url));
    }

    /// Handshake, connect, createStream, all answered.
    #[track_caller]
    pub fn ready(&mut self) {
        self.handshake();
        self.connect_app("live", "rtmp://127.0.0.1/live");
        self.expect("_result");
        self.command(0, "createStream", 2.0, vec![Value::Null]);
        self.expect("_result");
    }

    /// As `ready`, then publishes `name` and waits for the start.
    #[track_caller]
    pub fn publishing(&mut self, name: &str) {
        self.ready();
        self.publish(name);
        self.expect("NetStream.Publish.Start");
    }

    /// Asks to publish.
    pub fn publish(&mut self, name: &str) {
        let args = vec![Value::Null, Value::string(name), Value::string("live")];
        self.command(1, "publish", 3.0, args);
    }

    /// Asks to play.
    pub fn play(&mut self, name: &str) {
        self.command(1, "play", 4.0, vec![Value::Null, Value::string(name)]);
    }

    /// Ends our direction.
    pub fn half_close(&self) {
        drop(self.socket.shutdown(Shutdown::Write));
    }

    /// Waits for a command that holds the string `what`, its name or a code.
    #[track_caller]
    pub fn expect(&mut self, what: &str) {
        self.expect_in("a well-behaved client", what);
    }

    /// As `expect`, in the test case `label`.
    #[track_caller]
    pub fn expect_in(&mut self, label: &str, what: &str) {
        let (closed, found) = self.read_until(seconds(5), what);
        assert!(found, "{label}: no {what} (closed: {closed}); said {:?}", self.commands);
    }

    /// Whether the server closes `within` the time; commands go to `commands`.
    pub fn is_closed_within(&mut self, within: Duration) -> bool {
        self.read_until(within, "\0").0
    }

    /// Reads on until the newest `n` messages of audio and video satisfy `are`.
    #[track_caller]
    pub fn expect_media(&mut self, what: &str, n: usize, are: impl Fn(&[(u8, u8)]) -> bool) {
        let end = Instant::now() + seconds(10);
        self.media.clear();
        while self.media.len() < n || !are(&self.media[self.media.len() - n..]) {
            let closed = self.read_until(Duration::from_millis(20), "\0").0;
            assert!(!closed && Instant::now() < end, "{what} (closed: {closed}): {:?}", self.media);
        }
    }

    /// First bytes of the messages of one kind that [`Self::expect_media`] has seen.
    pub fn media_of(&self, kind: u8) -> impl Iterator<Item = u8> {
        self.media.iter().filter(move |(is, _)| *is == kind).map(|(_, first)| *first)
    }

    /// Whether it was closed, and whether `what` was seen. Each sight counts once.
    fn read_until(&mut self, within: Duration, what: &str) -> (bool, bool) {
        let end = Instant::now() + within;
        loop {
            let found = self.commands.iter().position(|c| c.iter().any(|s| s == what));
            if let Some(at) = found {
                self.commands.drain(..=at);
                return (false, true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (false, false);
            }
            let mut buffer = [0; 4096];
            self.socket.set_read_timeout(Some(left)).expect("socket option");
            match self.socket.read(&mut buffer) {
                Ok(0) => return (true, false),
                Ok(n) => self.take(&buffer[..n]),
                Err(e) if super::nothing_yet(&e) => {}
                Err(_) => return (true, false),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let skip = self.handshake_left.min(bytes.len());
        self.handshake_left -= skip;
        let mut rest = bytes.len() - skip;
        loop {
            let mut piece = &bytes[bytes.len() - rest..];
            let message = self.reader.read(&mut piece).expect("the server's chunks");
            let Some(message) = message else { break };
            rest = piece.len();
            self.controls.extend(Control::parse(message.kind, message.payload));
            if matches!(message.kind, kind::AUDIO | kind::VIDEO) {
                let first = message.payload.first().copied().unwrap_or_default();
                self.media.push((message.kind, first));
            }
            if message.kind == kind::COMMAND_AMF0 {
                let command = Command::parse(message.kind, message.payload).expect("command");
                let command = command.expect("command");
                let mut words = vec![command.name];
                command.args.iter().for_each(|v| strings(v, &mut words));
                self.commands.push(words);
            }
        }
    }
}

fn strings(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(s) => out.push(s.clone()),
        Value::Object(pairs) | Value::EcmaArray(pairs) => {
            pairs.iter().for_each(|(_, v)| strings(v, out));
        }
        _ => {}
    }
}

/// `connect` as FFmpeg sends it, in chunks of 128 bytes.
pub fn connect_command(app: &str, tc_url: &str) -> Vec<u8> {
    let object = Value::object([
        ("app", Value::string(app)),
        ("type", Value::string("nonprivate")),
        ("flashVer", Value::string("FMLE/3.0 (compatible; test)")),
        ("tcUrl", Value::string(tc_url)),
    ]);
    let command = Command { name: "connect".to_owned(), transaction: 1.0, args: vec![object] };
    let mut out = Vec::new();
    command.encode(3, 0, 128, &mut out);
    out
}

/// A whole message in chunks of 128 bytes, at time 0.
pub fn message(csid: u8, kind: u8, msid: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    let mut pieces = body.chunks(128);
    let mut out = chunk(csid, 0, len, kind, msid, pieces.next().unwrap_or_default());
    for piece in pieces {
        out.push(0xc0 | csid);
        out.extend_from_slice(piece);
    }
    out
}

/// One chunk with a format 0 header: the whole of `body`, or its first piece.
pub fn chunk(csid: u8, timestamp: u32, len: u32, kind: u8, msid: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![csid];
    out.extend_from_slice(&timestamp.to_be_bytes()[1..]);
    out.extend_from_slice(&len.to_be_bytes()[1..]);
    out.push(kind);
    out.extend_from_slice(&msid.to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// A whole control message.
pub fn control(kind: u8, body: &[u8]) -> Vec<u8> {
    chunk(2, 0, u32::try_from(body.len()).unwrap(), kind, 0, body)
}
