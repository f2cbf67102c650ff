//! Tests of both sessions: scripted peers, recordings, and a pair joined by a simulated link.

mod client;
mod deadlines;
mod golden;
mod hostile;
mod pair;
mod server;

use std::time::Instant;

use super::*;
use crate::rtmp::Timestamp;
use crate::rtmp::amf0::{Reader, Value};
use crate::rtmp::chunk::{self, ChunkReader, Message};
use crate::rtmp::message::{Command, Control, MediaMessage};

/// C0 C1 C2, or S0 S1 S2.
const HANDSHAKE_LEN: usize = 1 + 2 * 1536;

fn random() -> Box<[u8]> {
    vec![7; 1536].into()
}

fn server(now: Instant) -> ServerSession {
    let config = ServerConfig { chunk_size: 4096, out_ack_size: 2_500_000, in_ack_size: 0 };
    ServerSession::new(config, random(), now)
}

fn client(goal: Goal, now: Instant) -> ClientSession {
    let config = ClientConfig {
        goal,
        tc_url: "rtmp://slave.example/live".to_owned(),
        app: "live".to_owned(),
        stream: "a?token=x".to_owned(),
        chunk_size: 60_000,
        digest: false,
        forwarder: Some(("master".to_owned(), 1)),
        deadline: std::time::Duration::from_secs(10),
    };
    ClientSession::new(config, random(), now)
}

/// An event as text, media by kind, time, length and a sum over the payload.
fn line(event: &dyn std::fmt::Debug, media: Option<&MediaMessage<'_>>) -> String {
    let Some(media) = media else {
        return format!("{event:?}");
    };
    let sum = media.payload.iter().fold(0_u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
    let (kind, msid, ms) = (media.kind, media.msid, media.timestamp.0);
    format!("{kind:?} msid={msid} ms={ms} len={} sum={sum:08x}", media.payload.len())
}

fn server_line(event: &ServerEvent<'_>) -> String {
    match event {
        ServerEvent::Media(media) => line(event, Some(media)),
        _ => line(event, None),
    }
}

fn client_line(event: &ClientEvent<'_>) -> String {
    match event {
        ClientEvent::Media(media) => line(event, Some(media)),
        _ => line(event, None),
    }
}

/// A question that needs an answer before the next read.
enum Question {
    Connect,
    Publish(u32),
    Play(PlayRequest),
}

impl Question {
    fn of(event: &ServerEvent<'_>) -> Option<Self> {
        match event {
            ServerEvent::Connect(_) => Some(Self::Connect),
            ServerEvent::Publish(request) => Some(Self::Publish(request.msid)),
            ServerEvent::Play(request) => Some(Self::Play(request.clone())),
            _ => None,
        }
    }

    fn accept(self, session: &mut ServerSession, now: Instant) {
        match self {
            Self::Connect => session.accept_connect(),
            Self::Publish(msid) => session.accept_publish(msid, now),
            Self::Play(request) => session.accept_play(&request, now),
        }
    }
}

/// Reads all of `bytes`, saying yes to everything; events as lines, without Progress.
fn read_server(
    session: &mut ServerSession,
    now: Instant,
    mut bytes: &[u8],
    lines: &mut Vec<String>,
) -> Result<(), SessionError> {
    loop {
        let question = match session.read(now, &mut bytes)? {
            None => return Ok(()),
            Some(ServerEvent::Progress) => continue,
            Some(event) => {
                lines.push(server_line(&event));
                Question::of(&event)
            }
        };
        if let Some(question) = question {
            question.accept(session, now);
        }
    }
}

/// Reads all of `bytes`; events as lines, without Progress.
fn read_client(
    session: &mut ClientSession,
    now: Instant,
    mut bytes: &[u8],
    lines: &mut Vec<String>,
) -> Result<(), SessionError> {
    while let Some(event) = session.read(now, &mut bytes)? {
        if event != ClientEvent::Progress {
            lines.push(client_line(&event));
        }
    }
    Ok(())
}

/// What a peer sends, put together by hand.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    /// A plain handshake.
    fn shaken() -> Self {
        let mut bytes = vec![3];
        bytes.resize(HANDSHAKE_LEN, 0);
        Self(bytes)
    }

    /// As [`Script::shaken`], then `connect`.
    fn connected() -> Self {
        let object = [("app", "live"), ("tcUrl", "rtmp://h/live")];
        Self::shaken().command(0, "connect", 1.0, vec![texts(&object)])
    }

    /// As [`Script::connected`], then `createStream`.
    fn created() -> Self {
        Self::connected().call(0, "createStream", &[])
    }

    /// As [`Script::created`], then `publish` of "a".
    fn publishing() -> Self {
        Self::created().call(1, "publish", &["a", "live"])
    }

    /// As [`Script::created`], then `play` of "a".
    fn playing() -> Self {
        Self::created().call(1, "play", &["a"])
    }

    fn message(mut self, kind: u8, msid: u32, payload: &[u8]) -> Self {
        let message = Message { csid: 3, timestamp: Timestamp(40), kind, msid, payload };
        chunk::encode(&message, 128, &mut |bytes| self.0.extend_from_slice(bytes));
        self
    }

    fn command(mut self, msid: u32, name: &str, transaction: f64, args: Vec<Value>) -> Self {
        let name = name.to_owned();
        Command { name, transaction, args }.encode(3, msid, 128, &mut self.0);
        self
    }

    /// A command with transaction 9, a null object and strings.
    fn call(self, msid: u32, name: &str, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| Value::string(*arg));
        let args = std::iter::once(Value::Null).chain(args).collect();
        self.command(msid, name, 9.0, args)
    }

    fn control(mut self, control: &Control) -> Self {
        control.encode(&mut self.0);
        self
    }

    /// `step` so many times.
    fn times(self, count: usize, step: impl Fn(Self) -> Self) -> Self {
        (0..count).fold(self, |script, _| step(script))
    }

    /// Plays the script to a server that says yes to everything, all at once.
    fn run(&self) -> Outcome {
        let now = Instant::now();
        let mut session = server(now);
        let mut events = Vec::new();
        let error = read_server(&mut session, now, &self.0, &mut events).err();
        let output = session.take_output();
        Outcome { events, output: decode(&output), error, session, now }
    }
}

/// What came of a [`Script`].
struct Outcome {
    events: Vec<String>,
    /// What the server sent, see [`decode`].
    output: Vec<String>,
    error: Option<SessionError>,
    session: ServerSession,
    now: Instant,
}

impl Outcome {
    /// How many messages sent contain `text`.
    fn sent(&self, text: &str) -> usize {
        self.output.iter().filter(|line| line.contains(text)).count()
    }

    /// How many events begin with `text`.
    fn saw(&self, text: &str) -> usize {
        self.events.iter().filter(|line| line.starts_with(text)).count()
    }
}

/// An object of strings.
fn texts(pairs: &[(&str, &str)]) -> Value {
    Value::object(pairs.iter().map(|(key, value)| (*key, Value::string(*value))))
}

/// The messages behind the handshake, one a line: `csid/msid` and the content.
fn decode(bytes: &[u8]) -> Vec<String> {
    let mut rest = bytes.get(HANDSHAKE_LEN..).unwrap_or_default();
    let mut reader = ChunkReader::new();
    let mut lines = Vec::new();
    while let Some(message) = reader.read(&mut rest).expect("sound chunks") {
        let (csid, msid) = (message.csid, message.msid);
        let content = match message.kind {
            1..=6 => format!("{:?}", Control::parse(message.kind, message.payload).unwrap()),
            kind => format!("{kind} {}", values(message.payload)),
        };
        lines.push(format!("{csid}/{msid} {content}"));
    }
    assert!(!reader.is_mid_message(), "output ends inside a message");
    lines
}

/// AMF0 values in short: `[1, "a", {key: true}]`.
fn values(body: &[u8]) -> String {
    fn short(value: &Value) -> String {
        let pairs = |pairs: &Vec<(String, Value)>| {
            let pairs: Vec<_> = pairs.iter().map(|(k, v)| format!("{k}: {}", short(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        };
        match value {
            Value::Number(n) => n.to_string(),
            Value::Boolean(b) => b.to_string(),
            Value::String(s) => format!("{s:?}"),
            Value::Null => "null".to_owned(),
            Value::Object(object) | Value::EcmaArray(object) => pairs(object),
            Value::StrictArray(items) => items.iter().map(short).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        }
    }
    let mut reader = Reader::new(body);
    let mut all = Vec::new();
    while let Ok(Some(value)) = reader.read() {
        all.push(short(&value));
    }
    all.join(", ")
}

/// The next of a fixed sequence of numbers that look random (Knuth's multiplier).
fn next_number(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    usize::try_from(*state >> 40).unwrap()
}
