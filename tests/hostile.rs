//! Bad input over real sockets: the sender is closed or told, the log says who and why, and a
//! player on the same server loses nothing.
mod common;

use std::time::Instant;

use common::cases::{Stage, Want, case, run};
use common::raw::{Raw, chunk, control, message};
use common::seconds;
use common::server::Setup;
use forwarder::rtmp::amf0::Value;

/// C0 and a C1 of plain zeros.
fn hello(version: u8) -> Vec<u8> {
    let mut bytes = vec![0; 1537];
    bytes[0] = version;
    bytes
}

#[test]
fn bad_handshakes() {
    use Stage::Fresh;
    run(&[
        case("version 6, RTMPE", Fresh, Want::Closed, |raw| raw.send(&hello(6))),
        case("version 0", Fresh, Want::Closed, |raw| raw.send(&hello(0))),
        case("an HTTP request", Fresh, Want::Closed, |raw| {
            raw.send(b"GET /live/a.flv HTTP/1.1\r\nHost: a\r\n\r\n");
        }),
        case("a TLS hello", Fresh, Want::Closed, |raw| {
            raw.send(b"\x16\x03\x01\x02\0\x01\0\x01\xfc")
        }),
        case("closed before a byte", Fresh, Want::Left, |raw| raw.half_close()),
        case("closed behind C1", Fresh, Want::Left, |raw| {
            raw.send(&hello(3));
            raw.half_close();
        }),
        case("C2 of other bytes than S1", Fresh, Want::Ignored, |raw| {
            raw.send(&hello(3));
            raw.send(&[0xa5; 1536]);
            raw.connect_app("live", "rtmp://127.0.0.1/live");
        }),
        case("a digest that is none", Fresh, Want::Ignored, |raw| {
            let mut c1 = vec![0x7f; 1536];
            c1[..8].copy_from_slice(&[0, 0, 0, 0, 9, 0, 124, 2]);
            raw.send(&[3]);
            raw.send(&c1);
            raw.send(&c1);
            raw.connect_app("live", "rtmp://127.0.0.1/live");
        }),
        case("all at once", Fresh, Want::Ignored, |raw| {
            // a C1 and a C2 and the connect in one write
            let mut all = hello(3);
            all.extend_from_slice(&[0; 1536]);
            all.extend(common::raw::connect_command("live", "rtmp://127.0.0.1/live"));
            raw.send(&all);
        }),
    ]);
}

#[test]
fn bad_chunk_sizes() {
    use Stage::Ready;
    run(&[
        case("chunk size 0", Ready, Want::Closed, |raw| raw.send(&control(1, &[0; 4]))),
        case("chunk size with the top bit", Ready, Want::Closed, |raw| {
            raw.send(&control(1, &[0x80, 0, 0, 1]));
        }),
        case("chunk size 1", Ready, Want::Closed, |raw| raw.send(&control(1, &[0, 0, 0, 1]))),
        case("a chunk size of two bytes", Ready, Want::Closed, |raw| {
            raw.send(&control(1, &[1, 0]))
        }),
        case("chunk size 2^31-1", Ready, Want::Ignored, |raw| {
            raw.send(&control(1, &[0x7f, 0xff, 0xff, 0xff]));
        }),
        case("a storm of chunk sizes", Ready, Want::Closed, |raw| {
            raw.send(&control(1, &[0, 0, 0, 128]).repeat(1000));
        }),
    ]);
}

#[test]
fn bad_chunk_headers() {
    use Stage::{Handshaken, Publishing, Ready};
    run(&[
        case("a storm of chunk streams", Ready, Want::Closed, |raw| {
            for csid in 0..200 {
                let first = chunk(0, 0, 1000, 9, 1, &[0; 128]);
                raw.send(&[0, csid]);
                raw.send(&first[1..]);
            }
        }),
        case("format 3 on an unknown chunk stream", Handshaken, Want::Closed, |raw| {
            raw.send(&[0xc0 | 7, 1, 2, 3]);
        }),
        case("format 2 on an unknown chunk stream", Handshaken, Want::Closed, |raw| {
            raw.send(&[0x80 | 7, 0, 0, 1, 4]);
        }),
        case("format 1 on an unknown chunk stream", Ready, Want::Ignored, |raw| {
            raw.send(&[0x40 | 17, 0, 0, 1, 0, 0, 2, 8, 0xaf, 1]);
        }),
        case("format 0 inside a message", Publishing, Want::Closed, |raw| {
            raw.send(&chunk(6, 0, 500, 9, 1, &[0x27; 128]));
            raw.send(&chunk(6, 40, 500, 9, 1, &[0x27; 128]));
        }),
        case("another length inside a message", Publishing, Want::Closed, |raw| {
            raw.send(&chunk(6, 0, 500, 9, 1, &[0x27; 128]));
            raw.send(&[0x40 | 6, 0, 0, 40, 0, 0, 9, 9]);
        }),
        case("16 MB announced", Publishing, Want::Closed, |raw| {
            raw.send(&chunk(6, 0, 0xff_ffff, 9, 1, &[0x27; 128]));
        }),
        case("a command of 70 kB", Ready, Want::Closed, |raw| {
            raw.send(&message(3, 20, 0, &[0; 70_000]));
        }),
        case("closed inside a message", Publishing, Want::Left, |raw| {
            raw.send(&chunk(6, 0, 500, 9, 1, &[0x27; 100]));
            raw.half_close();
        }),
        case("the same chunk stream spelled in three ways", Ready, Want::Ignored, |raw| {
            // 70 in two bytes, goes on in three
            raw.send(&[0, 6]);
            raw.send(&chunk(0, 0, 200, 8, 1, &[0xaf; 128])[1..]);
            raw.send(&[0xc1, 6, 0]);
            raw.send(&[0xaf; 72]);
        }),
    ]);
}

#[test]
fn bad_control_messages() {
    use Stage::Ready;
    run(&[
        case("unknown types", Ready, Want::Ignored, |raw| {
            for kind in [7, 10, 14, 23, 200, 255] {
                raw.send(&message(5, kind, 1, &[1; 40]));
            }
        }),
        case("Abort of an unknown chunk stream", Ready, Want::Ignored, |raw| {
            raw.send(&control(2, &[0, 0, 0, 60]));
        }),
        case("media that nobody publishes", Ready, Want::Ignored, |raw| {
            raw.send(&message(6, 9, 1, &[0x17; 300]));
            raw.send(&message(6, 9, u32::MAX, &[0x17; 300]));
            raw.send(&message(6, 9, 0, &[0x17; 300]));
        }),
        case("much media that nobody publishes", Ready, Want::Closed, |raw| {
            raw.send(&message(6, 9, 1, &[0x17; 20]).repeat(3000));
        }),
        case("acknowledgement windows of 0 and 1", Ready, Want::Ignored, |raw| {
            raw.send(&control(5, &[0; 4]));
            raw.send(&control(5, &[0, 0, 0, 1]));
        }),
        case("user control messages cut short", Ready, Want::Ignored, |raw| {
            for body in [&[][..], &[0], &[0, 6], &[0, 6, 1], &[0, 3, 0, 0, 0, 1], &[9, 9]] {
                raw.send(&control(4, body));
            }
        }),
        case("an endless buffer length", Ready, Want::Ignored, |raw| {
            raw.send(&control(4, b"\0\x03\0\0\0\x01\xff\xff\xff\xff"));
        }),
        case("a storm of pings", Ready, Want::Closed, |raw| {
            raw.send(&control(4, &[0, 6, 0, 0, 0, 1]).repeat(10_000));
        }),
        case("a storm of acknowledgements", Ready, Want::Closed, |raw| {
            raw.send(&control(3, &[0, 0, 0, 1]).repeat(10_000));
        }),
    ]);
}

#[test]
fn bad_media() {
    use Stage::Publishing;
    run(&[
        case("video of 0 to 5 bytes", Publishing, Want::Ignored, |raw| {
            for len in 0..5 {
                raw.send(&message(6, 9, 1, &[0x17, 0, 0, 0, 0][..len]));
                raw.send(&message(6, 9, 1, &[0x90, b'h', b'v', b'c', b'1'][..len]));
                raw.send(&message(4, 8, 1, &[0xaf, 0, 0, 0, 0][..len]));
            }
        }),
        case("data that does not begin with a string", Publishing, Want::Ignored, |raw| {
            raw.send(&message(5, 18, 1, &[0, 1, 2, 3, 4, 5, 6, 7, 8]));
            raw.send(&message(5, 18, 1, &[]));
        }),
        case("times that jump by 2^31", Publishing, Want::Ignored, |raw| {
            for n in 0..50_u32 {
                let time = if n % 2 == 0 { 0xff_fffe } else { 5 };
                raw.send(&chunk(6, time, 6, 9, 1, &[0x17, 1, 0, 0, 0, 0]));
                raw.send(&[0x40 | 6, 0xff, 0xff, 0xff, 0, 0, 6, 9, 0x80, 0, 0, 0]);
                raw.send(&[0x27, 1, 0, 0, 0, 0]);
            }
        }),
        case("a sequence header in each message", Publishing, Want::Ignored, |raw| {
            for n in 0..200 {
                raw.send(&message(6, 9, 1, &[0x17, 0, 0, 0, 0, n]));
            }
        }),
        case("aggregates inside an aggregate", Publishing, Want::Ignored, |raw| {
            let mut body = vec![22, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0];
            body.extend_from_slice(&[22, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9]);
            raw.send(&message(6, 22, 1, &body));
            raw.send(&message(6, 22, 1, &[9, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1]));
        }),
    ]);
}

const REJECTED: &str = "NetConnection.Connect.Rejected";

/// A command body: `call`, transaction 5, and then `rest`.
fn call(rest: &[u8]) -> Vec<u8> {
    let mut body = b"\x02\0\x04call\0".to_vec();
    body.extend_from_slice(&5_f64.to_be_bytes());
    body.extend_from_slice(rest);
    message(3, 20, 0, &body)
}

#[test]
fn bad_amf() {
    use Stage::Ready;
    run(&[
        case("objects 10,000 deep", Ready, Want::Closed, |raw| {
            raw.send(&call(&b"\x03\0\x01a".repeat(10_000)));
        }),
        case("arrays 10,000 deep", Ready, Want::Closed, |raw| {
            raw.send(&call(&b"\x0a\0\0\0\x01".repeat(10_000)));
        }),
        case("an array of 2^32-1", Ready, Want::Closed, |raw| {
            raw.send(&call(b"\x0a\xff\xff\xff\xff\x05\x05"));
        }),
        case("a string longer than its message", Ready, Want::Closed, |raw| {
            raw.send(&call(b"\x02\xff\xffabc"));
        }),
        case("a long string of 2^32-1", Ready, Want::Closed, |raw| {
            raw.send(&call(b"\x0c\xff\xff\xff\xffabc"));
        }),
        case("5,000 keys", Ready, Want::Closed, |raw| {
            let mut object = b"\x03".to_vec();
            object.extend(b"\0\x01a\x05".repeat(5000));
            object.extend_from_slice(b"\0\0\x09");
            raw.send(&call(&object));
        }),
        case("a wrong count of an ECMA array", Ready, Want::Ignored, |raw| {
            raw.send(&call(b"\x08\xff\xff\xff\xff\0\x01a\x05\0\0\x09"));
            raw.expect("_result");
        }),
        case("a transaction that is no number", Ready, Want::Ignored, |raw| {
            raw.command(0, "call", f64::NAN, vec![Value::Null]);
            raw.command(0, "call", f64::INFINITY, vec![Value::Null]);
            raw.command(0, "call", -1.0, vec![Value::Null]);
        }),
        case("empty commands of type 17", Ready, Want::Ignored, |raw| {
            raw.send(&message(3, 17, 0, &[]));
            raw.send(&message(3, 17, 0, &[0]));
        }),
    ]);
}

#[test]
fn commands_out_of_turn() {
    use Stage::{Handshaken, Ready};
    run(&[
        case("play before connect", Handshaken, Want::Closed, |raw| raw.play("healthy")),
        case("publish before connect", Handshaken, Want::Closed, |raw| raw.publish("a")),
        case("createStream before connect", Handshaken, Want::Closed, |raw| {
            raw.command(0, "createStream", 2.0, vec![Value::Null]);
        }),
        case("a second connect", Ready, Want::Closed, |raw| {
            raw.connect_app("live", "rtmp://127.0.0.1/live");
        }),
    ]);
}

#[test]
fn bad_names() {
    use Stage::{Handshaken, Ready};
    run(&[
        case("connect without app and tcUrl", Handshaken, Want::Told(REJECTED), |raw| {
            raw.command(0, "connect", 1.0, vec![Value::object([("type", Value::string("a"))])]);
        }),
        case("a tcUrl of 60 kB", Handshaken, Want::Closed, |raw| {
            raw.connect_app("live", &format!("rtmp://127.0.0.1/{}", "a".repeat(60_000)));
        }),
        case("a tcUrl with line ends and escapes", Handshaken, Want::Told(REJECTED), |raw| {
            raw.connect_app("live", "rtmp://h/live\r\nFORGED \x1b[31mline\r\n");
        }),
        case("publish in an app that climbs", Handshaken, Want::Told("error"), |raw| {
            raw.connect_app("../../etc", "rtmp://127.0.0.1/../../etc");
            raw.command(0, "createStream", 2.0, vec![Value::Null]);
            raw.publish("passwd");
        }),
        case("publish to a name that climbs", Ready, Want::Told("error"), |raw| raw.publish("..")),
        case("publish to an empty name", Ready, Want::Told("error"), |raw| raw.publish("")),
        case("publish to a name of 300 bytes", Ready, Want::Told("error"), |raw| {
            raw.publish(&"a".repeat(300));
        }),
        case("publish to a name with NUL", Ready, Want::Told("error"), |raw| raw.publish("a\0b")),
        case("play a name with control bytes", Ready, Want::Told("error"), |raw| {
            raw.play("a\r\nFORGED line");
        }),
        case("play an empty name", Ready, Want::Told("error"), |raw| raw.play("")),
    ]);
}

#[test]
fn bad_use_of_a_message_stream() {
    use Stage::{Publishing, Ready};
    run(&[
        case("publish twice", Publishing, Want::Told("error"), |raw| raw.publish("other")),
        case(
            "play what is published on the same message stream",
            Publishing,
            Want::Told("error"),
            |raw| {
                raw.play("healthy");
            },
        ),
        case("10,000 times createStream", Ready, Want::Closed, |raw| {
            for _ in 0..10_000 {
                raw.command(0, "createStream", 2.0, vec![Value::Null]);
            }
        }),
        case("a storm of calls", Ready, Want::Closed, |raw| {
            for _ in 0..20_000 {
                raw.command(0, "call", 9.0, vec![Value::Null]);
            }
        }),
        case("deleteStream of a string", Ready, Want::Ignored, |raw| {
            raw.command(0, "deleteStream", 0.0, vec![Value::Null, Value::string("a")]);
        }),
        case("half-closed when ready", Ready, Want::Left, |raw| raw.half_close()),
        case("half-closed while publishing", Publishing, Want::Left, |raw| raw.half_close()),
    ]);
}

#[test]
fn what_a_peer_says_cannot_forge_log_lines() {
    let server = Setup::new().start();
    let mut raw = Raw::connect(server.rtmp);
    raw.handshake();
    raw.connect_app("live", "rtmp://h/live\r\nFORGED \x1b[31mline\r\n");
    raw.expect("NetConnection.Connect.Rejected");
    let mut raw = Raw::connect(server.rtmp);
    raw.ready();
    raw.play("a\r\nFORGED \x1b[31mline");
    raw.expect("error");
    let log = server.log();
    assert!(!log.contains("\nFORGED"), "{log}");
    assert!(!log.contains("\x1b[31mline"), "{log}");
}

#[test]
fn a_peer_that_says_nothing_is_closed() {
    let server = Setup::new().start();
    let (mut silent, mut slow) = (Raw::connect(server.rtmp), Raw::connect(server.rtmp));
    slow.send(&hello(3)[..700]);
    let start = Instant::now();
    assert!(silent.is_closed_within(seconds(12)), "a silent peer stays");
    assert!(slow.is_closed_within(seconds(12)), "half a handshake stays");
    assert!(start.elapsed() < seconds(12), "closed after {:?}", start.elapsed());
    assert!(start.elapsed() > seconds(2), "closed after {:?} already", start.elapsed());
}
