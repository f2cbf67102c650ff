//! A connection to an origin for one encoder: what the encoder has said here was said again there.
//!
//! An encoder may write each header in relation to its last one on that chunk stream, so the
//! origin's reader has to know of each chunk stream what the encoder believes to have said. That is
//! proved before anything is published: the origin's reader is played with the bytes it gets, and
//! compared with ours.

use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Destination;
use crate::conn::{Refusal, Shard};
use crate::forward::{Failure, dial};
use crate::rtmp::amf0::Value;
use crate::rtmp::chunk::{ChunkReader, Message, Position};
use crate::rtmp::message::{Command, Control, UserControl, kind};
use crate::rtmp::session::{ClientConfig, ClientEvent, ClientSession, Transcript, refusal};

/// How long an origin may take to close after our end.
const GOODBYE: Duration = Duration::from_secs(2);

/// C0, C1 and C2.
const HANDSHAKE: usize = 1 + 2 * 1536;

const HANDSHAKE_RANDOM: usize = 1536;

/// One such connection, on which the origin said Publish.Start.
pub(super) struct Outlet {
    pub(super) io: Rc<TcpStream>,
    pub(super) origin: Destination,
    reader: ChunkReader,
    /// Bytes of the origin that were not read yet, from `at` on.
    input: Vec<u8>,
    at: usize,
}

/// What an encoder has said and where that left it.
pub(super) struct Words {
    pub(super) transcript: Transcript,
    /// Where the reader of the encoder stands.
    pub(super) position: Position,
    /// The message stream the encoder was given.
    pub(super) msid: u32,
}

/// Why there is no [`Outlet`].
#[derive(Debug)]
pub(super) enum NoOutlet {
    Failed(Failure),
    /// This encoder's bytes would mean something else there.
    Unfit(&'static str),
}

/// What the origin says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// A PingRequest or a PingResponse.
    Ping(UserControl),
    /// A command, and its message: type, message stream id, body.
    Command(Command, (u8, u32, Vec<u8>)),
}

impl<E: Into<Failure>> From<E> for NoOutlet {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Outlet {
    /// Says `words` to `origin` until it has said Publish.Start. `dead_after`: it is given up when
    /// it acknowledges nothing at TCP level for so long.
    pub(super) async fn open(
        origin: &Destination,
        config: ClientConfig,
        words: &Words,
        dead_after: Duration,
        shard: &Shard,
    ) -> Result<Self, NoOutlet> {
        let within = config.deadline;
        let io = Rc::new(dial(shard, origin, within, dead_after).await?);
        let said = timeout(within, converse(io, origin, config, words, shard)).await;
        said.unwrap_or_else(|_| Err(Failure::new("no answer in time").into()))
    }

    /// The next thing the origin says. Cancel safe.
    pub(super) async fn hear(&mut self, shard: &Shard) -> Result<Said, Failure> {
        loop {
            let mut rest = self.input.get(self.at..).unwrap_or_default();
            let before = rest.len();
            let message = self.reader.read(&mut rest);
            let said = message.map(|message| message.map(|message| Said::of(&message)));
            self.at += before - rest.len();
            match said {
                Ok(Some(Some(said))) => return Ok(said),
                // Something that is about this connection only.
                Ok(Some(None)) => continue,
                Ok(None) => (self.input, self.at) = (Vec::new(), 0),
                Err(error) => return Err(Failure::new(format!("the origin's chunks: {error}"))),
            }
            self.io.readable().await?;
            let mut scratch = shard.scratch();
            match self.io.try_read(&mut scratch) {
                Ok(0) => return Err(Failure::new("closed by the origin")),
                Ok(n) => self.input.extend_from_slice(scratch.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends our direction, and waits a moment for the origin to end its own: a close with unread
    /// bytes would be a reset, which may overtake what was sent.
    pub(super) async fn leave(mut self, shard: &Shard) {
        if SockRef::from(&*self.io).shutdown(Shutdown::Write).is_err() {
            return;
        }
        let ended = async { while self.hear(shard).await.is_ok() {} };
        _ = timeout(GOODBYE, ended).await;
    }

    /// Writes all of `bytes`.
    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        write(&self.io, bytes).await
    }

    /// Waits for Publish.Start, after `createStream` was answered as wanted.
    async fn ask(&mut self, words: &Words, shard: &Shard) -> Result<(), NoOutlet> {
        let Some(create) = words.transcript.create_stream() else {
            return Err(NoOutlet::Unfit("createStream was not said once"));
        };
        let (first, publish) = words.transcript.parts();
        self.write(first).await?;
        loop {
            let Said::Command(command, _) = self.hear(shard).await? else { continue };
            check(&command)?;
            if command.transaction != create {
                continue;
            }
            match (&*command.name, command.args.get(1).and_then(Value::as_number)) {
                ("_result", Some(msid)) if msid == f64::from(words.msid) => break,
                ("_result", _) => return Err(NoOutlet::Unfit("the message stream has another id")),
                _ => return Err(Failure::new("createStream was refused").into()),
            }
        }
        self.write(publish).await?;
        loop {
            let Said::Command(command, _) = self.hear(shard).await? else { continue };
            check(&command)?;
            if status(&command) == Some("NetStream.Publish.Start") {
                return Ok(());
            }
        }
    }
}

impl Said {
    fn of(message: &Message<'_>) -> Option<Self> {
        if message.kind == kind::USER_CONTROL {
            return match Control::parse(message.kind, message.payload) {
                Some(Control::User(
                    ping @ (UserControl::PingRequest(_) | UserControl::PingResponse(_)),
                )) => Some(Self::Ping(ping)),
                _ => None,
            };
        }
        if !message.is_command() {
            return None;
        }
        let command = Command::parse(message.kind, message.payload).ok().flatten()?;
        Some(Self::Command(command, (message.kind, message.msid, message.payload.to_vec())))
    }
}

/// The code of an `onStatus`.
pub(super) fn status(command: &Command) -> Option<&str> {
    let info = command.args.get(1).filter(|_| command.name == "onStatus")?;
    info.get("code").and_then(Value::as_str)
}

/// Errors: the origin says no.
pub(super) fn check(command: &Command) -> Result<(), Failure> {
    let refused = match &*command.name {
        "onStatus" => command.args.get(1).and_then(refusal),
        "close" => {
            let why = "the origin asked us to close";
            return Err(Failure { refusal: Some(Refusal::new("close", why)), ..Failure::new(why) });
        }
        _ => None,
    };
    refused.map_or(Ok(()), |error| Err(error.into()))
}

/// Handshake, `connect`, and the encoder's words.
async fn converse(
    io: Rc<TcpStream>,
    origin: &Destination,
    config: ClientConfig,
    words: &Words,
    shard: &Shard,
) -> Result<Outlet, NoOutlet> {
    let random: [u8; HANDSHAKE_RANDOM] = rand::random();
    let mut session = ClientSession::new(config, Box::new(random), Instant::now());
    session.reconnect();
    let mut sent = Vec::new();
    let input = loop {
        let said = session.take_output();
        write(&io, &said).await?;
        sent.extend(said);
        io.readable().await?;
        let mut scratch = shard.scratch();
        let n = match io.try_read(&mut scratch) {
            Ok(0) => return Err(Failure::new("closed by the origin").into()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let mut input = scratch.get(..n).unwrap_or_default();
        let mut connected = false;
        while !connected && let Some(event) = session.read(Instant::now(), &mut input)? {
            connected = event == ClientEvent::Connected;
        }
        if connected {
            break input.to_vec();
        }
    };
    let said = session.take_output();
    write(&io, &said).await?;
    sent.extend(said);
    if !mirrors(sent.get(HANDSHAKE..).unwrap_or_default(), words) {
        return Err(NoOutlet::Unfit("its headers lean on what it said before"));
    }
    let origin = origin.clone();
    let mut outlet = Outlet { io, origin, reader: session.into_reader(), input, at: 0 };
    outlet.ask(words, shard).await?;
    Ok(outlet)
}

/// Whether a reader of `sent` and then the encoder's words reads on as the encoder's own would.
fn mirrors(sent: &[u8], words: &Words) -> bool {
    let mut reader = ChunkReader::new();
    let (first, publish) = words.transcript.parts();
    for mut bytes in [sent, first, publish] {
        while let Ok(Some(_)) = reader.read(&mut bytes) {}
        if !bytes.is_empty() {
            return false;
        }
    }
    reader.position().is_some_and(|there| {
        let here = &words.position;
        there.chunk_size == here.chunk_size
            && here.streams.iter().all(|stream| there.stream(stream.csid) == Some(stream))
    })
}

async fn write(io: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match io.try_write(rest) {
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => io.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtmp::Timestamp;
    use crate::rtmp::chunk::encode;
    use crate::rtmp::golden::recordings;
    use crate::rtmp::session::{ServerConfig, ServerEvent, ServerSession};

    /// What is said after `connect` by a client of which `bytes` are a recording.
    fn words(mut bytes: &[u8]) -> Option<Words> {
        let config = ServerConfig { chunk_size: 4096, out_ack_size: 2_500_000, in_ack_size: 0 };
        let now = Instant::now();
        let mut session = ServerSession::new(config, vec![7; HANDSHAKE_RANDOM].into(), now);
        loop {
            match session.read(now, &mut bytes).ok()?? {
                ServerEvent::Connect(_) => session.accept_connect(),
                ServerEvent::Publish(request) => {
                    let transcript = session.take_transcript()?;
                    let position = session.lend_reader().position()?;
                    return Some(Words { transcript, position, msid: request.msid });
                }
                _ => {}
            }
        }
    }

    /// Our own `connect`.
    fn connect() -> Vec<u8> {
        let args = vec![Value::object([("app", Value::string("live"))])];
        let mut sent = Vec::new();
        let command = Command { name: "connect".to_owned(), transaction: 1.0, args };
        command.encode(3, 0, 128, &mut sent);
        sent
    }

    #[test]
    fn encoders_can_be_spoken_for() {
        let mut encoders = 0;
        for recording in recordings() {
            let name = &recording.name;
            if !name.ends_with(".c2s") || !(name.starts_with("pub") || name.starts_with("fwd")) {
                continue;
            }
            let words = words(&recording.bytes).unwrap_or_else(|| panic!("{name}: too much"));
            assert!(mirrors(&connect(), &words), "{name}: {:?}", words.position);
            assert!(words.transcript.create_stream().is_some(), "{name}");
            encoders += 1;
        }
        assert!(encoders > 10);
    }

    /// The chunks of an encoder up to `publish`, with `before` said in front of that.
    fn dialogue(before: &[u8]) -> Vec<u8> {
        let mut out = vec![3];
        out.extend([0; 2 * 1536]);
        let call = |name: &str, transaction: f64, args: Vec<Value>, msid: u32| {
            let (mut bytes, name) = (Vec::new(), name.to_owned());
            Command { name, transaction, args }.encode(3, msid, 128, &mut bytes);
            bytes
        };
        let url = Value::string("rtmp://a/live");
        let object = Value::object([("app", Value::string("live")), ("tcUrl", url)]);
        out.extend(call("connect", 1.0, vec![object], 0));
        out.extend(call("createStream", 2.0, vec![Value::Null], 0));
        out.extend(before);
        out.extend(call("publish", 3.0, vec![Value::Null, Value::string("a")], 1));
        out
    }

    #[test]
    fn an_encoder_whose_state_cannot_be_had_is_not_spoken_for() {
        let fits = |before: &[u8]| {
            let words = words(&dialogue(before));
            words.is_some_and(|words| mirrors(&connect(), &words))
        };
        let on = |csid: u32, timestamp: u32| {
            let payload = &[0, 0, 16, 0];
            let timestamp = Timestamp(timestamp);
            let message =
                Message { csid, timestamp, kind: kind::WINDOW_ACK_SIZE, msid: 0, payload };
            let mut bytes = Vec::new();
            encode(&message, 128, &mut |piece| bytes.extend_from_slice(piece));
            bytes
        };
        assert!(fits(&[]));
        assert!(fits(&on(2, 5)));
        // a delta that is not the time itself
        assert!(!fits(&[&on(2, 5)[..], &[0x82, 0, 0, 3, 0, 0, 16, 0]].concat()));
        // half a message on another chunk stream
        assert!(!fits(&on(2, 5)[..14]));
        // a chunk stream whose id takes two bytes
        assert!(!fits(&[&[0, 9], &on(2, 5)[1..]].concat()));
        // too much
        assert!(fits(&on(2, 0).repeat(60)));
        assert!(!fits(&on(2, 0).repeat(70)));
    }
}
