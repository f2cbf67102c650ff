//! An origin may write each chunk header in relation to its last one, and a player with a leg
//! understands it although it has heard the beginning from the edge.
mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use common::legs::paths;
use common::peer::{Peer, Seen};
use common::raw;
use common::server::Setup;
use common::{seconds, wait_until};
use forwarder::rtmp::amf0::Value;
use forwarder::rtmp::chunk::ChunkReader;
use forwarder::rtmp::message::{Command, kind};

/// How the fake origin ends what it says on chunk stream 2 before `play`.
#[derive(Clone, Copy, Debug)]
enum Last {
    /// With a bandwidth: the edge itself ends with a chunk size.
    Bandwidth,
    /// With a StreamBegin, which nobody can be told twice.
    StreamBegin,
}

const KEYFRAME: &[u8] = &[0x17, 1, 0, 0, 0, 9, 9, 9];
const FRAME: &[u8] = &[0x27, 1, 0, 0, 0, 9, 9, 9];

/// The body of a command.
fn body(name: &str, transaction: f64, args: Vec<Value>) -> Vec<u8> {
    let mut wire = Vec::new();
    let command = Command { name: name.to_owned(), transaction, args };
    command.encode(3, 0, 65_536, &mut wire);
    wire.split_off(12)
}

fn on_status(code: &str) -> Vec<u8> {
    let info = Value::object([("level", Value::string("status")), ("code", Value::string(code))]);
    body("onStatus", 0.0, vec![Value::Null, info])
}

/// A message in one chunk with a header of type 1, 2 or 3.
fn lean(format: u8, csid: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, len @ ..] = u32::try_from(body.len()).expect("a short body").to_be_bytes();
    let fields = match format {
        1 => [&[0, 0, 0][..], &len, &[kind]].concat(),
        2 => vec![0, 0, 0],
        _ => Vec::new(),
    };
    [&[format << 6 | csid][..], &fields, body].concat()
}

fn answer(command: &Command, last: Last) -> Vec<u8> {
    let bandwidth = [0, 0x4c, 0x4b, 0x40, 2];
    let result = |value: Value| body("_result", command.transaction, vec![Value::Null, value]);
    match command.name.as_str() {
        "connect" => {
            let info = Value::object([("code", Value::string("NetConnection.Connect.Success"))]);
            [
                raw::control(kind::SET_CHUNK_SIZE, &4096_u32.to_be_bytes()),
                raw::control(kind::WINDOW_ACK_SIZE, &5_000_000_u32.to_be_bytes()),
                lean(1, 2, kind::SET_PEER_BANDWIDTH, &bandwidth),
                raw::message(3, kind::COMMAND_AMF0, 0, &result(info)),
            ]
            .concat()
        }
        "createStream" => {
            let end = match last {
                Last::Bandwidth => Vec::new(),
                Last::StreamBegin => lean(1, 2, kind::USER_CONTROL, &[0, 0, 0, 0, 0, 1]),
            };
            [end, lean(1, 3, kind::COMMAND_AMF0, &result(Value::Number(1.0)))].concat()
        }
        "play" => {
            // As before on chunk stream 2, whatever that was.
            let again = match last {
                Last::Bandwidth => lean(3, 2, 0, &bandwidth),
                Last::StreamBegin => lean(3, 2, 0, &[0, 0, 0, 0, 0, 1]),
            };
            let mut out = again;
            // A call of its own in the length of the last answer.
            out.extend(lean(2, 3, 0, &body("onBWDon", 0.0, vec![Value::Null, Value::Number(0.0)])));
            out.extend(lean(1, 3, kind::COMMAND_AMF0, &on_status("NetStream.Play.Start")));
            out.extend(lean(3, 3, 0, &on_status("NetStream.Data.Start")));
            out.extend(raw::chunk(6, 40, 8, kind::VIDEO, 1, KEYFRAME));
            for _ in 0..3 {
                out.extend(lean(2, 6, 0, FRAME));
            }
            out
        }
        _ => Vec::new(),
    }
}

fn serve(mut socket: TcpStream, last: Last) -> Option<()> {
    let mut hello = vec![0; 1537];
    socket.read_exact(&mut hello).ok()?;
    let mut reply = vec![3];
    reply.extend([0; 8]);
    reply.extend([5; 1528]);
    reply.extend(&hello[1..]);
    socket.write_all(&reply).ok()?;
    socket.read_exact(&mut [0; 1536]).ok()?;
    let (mut reader, mut buffer) = (ChunkReader::new(), vec![0; 4096]);
    loop {
        let n = socket.read(&mut buffer).ok().filter(|n| *n > 0)?;
        let mut rest = &buffer[..n];
        while let Some(message) = reader.read(&mut rest).ok()? {
            if !message.is_command() {
                continue;
            }
            let command = Command::parse(message.kind, message.payload).ok()??;
            socket.write_all(&answer(&command, last)).ok()?;
        }
    }
}

fn origin(last: Last) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    // Ends with the test's process.
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || serve(socket, last));
        }
    });
    address
}

#[test]
fn a_player_reads_on_as_a_reader_of_its_origin_would() {
    for (kernel, path) in paths() {
        for last in [Last::Bandwidth, Last::StreamBegin] {
            let kernel = format!("kernel = \"{kernel}\"");
            let edge =
                Setup::new().global(&kernel).edge_of(&[origin(last)]).splice("always").start();
            let mut player = Peer::play(edge.rtmp, "live/a");
            let mut frames = Vec::new();
            wait_until("media", seconds(5), || {
                if let Some(Seen::Media(tag)) = player.next(seconds(1)) {
                    frames.push(tag.body);
                }
                frames.len() == 4
            });
            assert_eq!(frames, [KEYFRAME, FRAME, FRAME, FRAME]);
            let status = edge.status();
            match last {
                Last::Bandwidth => {
                    assert_eq!(status.legs.len(), 1, "{path}");
                    assert_eq!(status.legs[0].path, path);
                }
                // Nothing makes the player's reader that of the origin: it shares a pull.
                Last::StreamBegin => {
                    assert_eq!((status.legs.len(), status.pulls.len()), (0, 1), "{path}");
                }
            }
        }
    }
}
