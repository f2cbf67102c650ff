//! Peers that go wrong, by accident or on purpose.

use std::time::Duration;

use super::*;
use crate::rtmp::message::UserControl;

/// What is to happen.
enum Reaction {
    /// Nothing: no event, no error.
    Ignored,
    Protocol,
    Limit,
    Rejected,
    Amf0,
}
use Reaction::{Amf0, Ignored, Limit, Protocol, Rejected};

fn check(name: &str, script: &Script, events: usize, reaction: &Reaction) -> Outcome {
    let outcome = script.run();
    let as_expected = match reaction {
        Ignored => outcome.error.is_none(),
        Protocol => matches!(outcome.error, Some(SessionError::Protocol(_))),
        Limit => matches!(outcome.error, Some(SessionError::Limit(_))),
        Rejected => matches!(outcome.error, Some(SessionError::Rejected(_))),
        Amf0 => matches!(outcome.error, Some(SessionError::Amf0(_))),
    };
    assert!(as_expected, "{name}: {:?}", outcome.error);
    assert_eq!(outcome.events.len(), events, "{name}: {:?}", outcome.events);
    outcome
}

fn check_all<const N: usize>(cases: [(&str, Script, usize, Reaction); N]) {
    for (name, script, events, reaction) in cases {
        check(name, &script, events, &reaction);
    }
}

#[test]
fn connects_that_are_wrong() {
    let connect =
        |pairs: &[(&str, &str)]| Script::shaken().command(0, "connect", 1.0, vec![texts(pairs)]);
    let long = "x".repeat(5000);
    let live = ("app", "live");
    check_all([
        ("second", Script::connected().call(0, "connect", &[]), 1, Protocol),
        ("without object", Script::shaken().call(0, "connect", &[]), 0, Rejected),
        ("without app", connect(&[("tcUrl", "rtmp://h/live")]), 0, Rejected),
        ("without tcUrl", connect(&[live]), 0, Rejected),
        ("tcUrl too long", connect(&[live, ("tcUrl", &long)]), 0, Limit),
        ("line feed in tcUrl", connect(&[live, ("tcUrl", "rtmp://h/a\r\nb")]), 0, Rejected),
        ("escape in app", connect(&[("app", "\x1b[2J"), ("tcUrl", "rtmp://h")]), 0, Rejected),
    ]);
}

#[test]
fn commands_that_are_wrong() {
    let shaken = Script::shaken;
    let created = Script::created;
    let create = |script: Script| script.call(0, "createStream", &[]);
    let nine = Script::connected().times(9, create);
    let storm = Script::connected().times(101, |s| s.call(0, "x", &[]));
    check_all([
        ("publish before connect", shaken().call(1, "publish", &["a"]), 0, Protocol),
        ("play before connect", shaken().call(1, "play", &["a"]), 0, Protocol),
        ("createStream before connect", create(shaken()), 0, Protocol),
        ("NUL in publish", created().call(1, "publish", &["a\0b"]), 1, Rejected),
        ("delete in play", created().call(1, "play", &["a\x7f"]), 1, Rejected),
        ("name not UTF-8", created().message(20, 1, b"\x02\x00\x01\xff"), 1, Amf0),
        ("cut off", created().message(20, 1, b"\x02\x00\x07pub"), 1, Amf0),
        ("no name", created().message(20, 1, b"\x05"), 1, Amf0),
        ("empty", created().message(20, 1, b""), 1, Ignored),
        ("empty, type 17", created().message(17, 1, b""), 1, Ignored),
        ("only the selector, type 17", created().message(17, 1, b"\0"), 1, Ignored),
        ("too many createStream", nine, 1, Limit),
        ("storm of calls", storm, 1, Limit),
    ]);
}

#[test]
fn refusals_are_told_before_the_end() {
    let cases = [
        (
            "connect",
            Script::shaken().call(0, "connect", &[]),
            "\"_error\", 9, null, {level: \"error\", code: \"NetConnection.Connect.Rejected\"",
        ),
        (
            "publish",
            Script::created().call(1, "publish", &["\0"]),
            "onStatus\", 0, null, {level: \"error\", code: \"NetStream.Publish.BadName\"",
        ),
        (
            "play",
            Script::created().call(1, "play", &["\0"]),
            "onStatus\", 0, null, {level: \"error\", code: \"NetStream.Play.Failed\"",
        ),
        (
            "name not UTF-8",
            Script::created().message(20, 1, b"\x02\x00\x01\xff"),
            "onStatus\", 0, null, {level: \"error\", code: \"NetStream.Failed\"",
        ),
    ];
    for (name, script, text) in cases {
        let outcome = script.run();
        assert!(outcome.error.is_some(), "{name}");
        assert!(outcome.output.last().unwrap().contains(text), "{name}: {:?}", outcome.output);
    }
}

#[test]
fn second_use_of_a_message_stream_leaves_the_first_alone() {
    let publish = |s: Script| s.call(1, "publish", &["b"]);
    let play = |s: Script| s.call(1, "play", &["b"]);
    let cases = [
        ("publish twice", publish(Script::publishing()), "Publish.BadName", "Audio"),
        ("play while publishing", play(Script::publishing()), "Play.Failed", "Audio"),
        ("publish while playing", publish(Script::playing()), "Publish.BadName", ""),
        ("play twice", play(Script::playing()), "Play.Failed", ""),
        (
            "publish on no stream",
            Script::publishing().call(7, "publish", &["b"]),
            "BadName",
            "Audio",
        ),
    ];
    for (name, script, code, media) in cases {
        let outcome = script.message(8, 1, b"\xaf\x01").run();
        assert_eq!(outcome.error, None, "{name}");
        assert_eq!(outcome.sent(code), 1, "{name}: {:?}", outcome.output);
        assert_eq!(outcome.events.len(), 2 + usize::from(!media.is_empty()), "{name}");
        assert_eq!(outcome.saw("Audio"), usize::from(!media.is_empty()), "{name}");
        assert_eq!(outcome.session.poll_timeout(), None, "{name}: the connection stays");
    }
}

#[test]
fn ends_of_what_is_not_ours_are_ignored() {
    let number = |n: f64| vec![Value::Null, Value::Number(n)];
    let start = || Script::publishing();
    let cases = [
        ("deleteStream of another id", start().command(0, "deleteStream", 2.0, number(2.0))),
        ("deleteStream of NaN", start().command(0, "deleteStream", 2.0, number(f64::NAN))),
        ("deleteStream of a fraction", start().command(0, "deleteStream", 2.0, number(1.5))),
        ("deleteStream below zero", start().command(0, "deleteStream", 2.0, number(-1.0))),
        ("deleteStream of 1e300", start().command(0, "deleteStream", 2.0, number(1e300))),
        ("closeStream of another id", start().call(3, "closeStream", &[])),
        ("FCUnpublish of another name", start().call(0, "FCUnpublish", &["b"])),
        ("releaseStream of the live name", start().call(0, "releaseStream", &["a"])),
        ("pause of a publisher", start().call(1, "pause", &[])),
        ("onStatus from a client", start().call(1, "onStatus", &[])),
    ];
    for (name, script) in cases {
        check(name, &script.message(8, 1, b"\xaf\x01"), 3, &Ignored);
    }
}

#[test]
fn any_publish_type_is_live() {
    for kind in ["live", "record", "append", "LIVE", "", "appendWithGap"] {
        let outcome = Script::created().call(1, "publish", &["a", kind]).run();
        assert_eq!(outcome.saw("Publish"), 1, "{kind}");
        assert_eq!(outcome.sent("Publish.Start"), 1, "{kind}");
    }
}

#[test]
fn strange_controls_are_ignored() {
    let user = |event| Control::User(event);
    let cases = [
        ("WindowAckSize 0", Control::WindowAckSize(0)),
        ("acknowledgement ahead", Control::Acknowledgement(u32::MAX)),
        ("acknowledgement back", Control::Acknowledgement(0)),
        ("abort of an unknown chunk stream", Control::Abort(60_000)),
        ("huge buffer", user(UserControl::SetBufferLength { msid: 1, ms: u32::MAX })),
        ("StreamBegin from a client", user(UserControl::StreamBegin(1))),
        ("bandwidth 0", Control::SetPeerBandwidth(0, 9)),
        ("chunk size over any message", Control::SetChunkSize(0x7fff_ffff)),
    ];
    for (name, control) in cases {
        let script = Script::playing().control(&control);
        let outcome = check(name, &script, 2, &Ignored);
        assert_eq!(outcome.output.len(), 9, "{name}: {:?}", outcome.output);
    }
    let bodies: [(&str, u8, &[u8]); 5] = [
        ("user control without event", 4, b"\0"),
        ("ping without stamp", 4, b"\0\x06\0"),
        ("buffer length cut off", 4, b"\0\x03\0\0\0\x01"),
        ("SWF verification", 4, b"\0\x1a\x01"),
        ("acknowledgement cut off", 3, b"\0\0"),
    ];
    for (name, kind, body) in bodies {
        check(name, &Script::playing().message(kind, 0, body), 2, &Ignored);
    }
}

#[test]
fn unknown_message_types_are_ignored() {
    let kinds = [7, 10, 11, 12, 13, 14, 16, 19, 21].into_iter().chain(23..=255);
    let script = kinds.fold(Script::publishing(), |s, kind| s.message(kind, 1, b"\x02body"));
    check("unknown types", &script, 2, &Ignored);
}

#[test]
fn floods_end_the_connection() {
    type Step = fn(Script) -> Script;
    let ack: Step = |s| s.control(&Control::Acknowledgement(1));
    let size: Step = |s| s.control(&Control::SetChunkSize(128));
    let abort: Step = |s| s.control(&Control::Abort(3));
    let ping: Step = |s| s.control(&Control::User(UserControl::PingRequest(1)));
    let stray: Step = |s| s.message(8, u32::MAX, b"\xaf\x01");
    let zero: Step = |s| s.message(9, 0, b"\x27\x01");
    let cases = [
        ("acknowledgements", ack, 1000),
        ("SetChunkSize", size, 100),
        ("Abort", abort, 100),
        ("pings", ping, 1000),
        ("media on a message stream never made", stray, 1000),
        ("media on message stream 0", zero, 1000),
    ];
    for (name, step, limit) in cases {
        check(name, &Script::connected().times(limit, step), 1, &Ignored);
        check(name, &Script::connected().times(limit + 1, step), 1, &Limit);
    }
}

#[test]
fn flood_limits_are_per_second() {
    let mut outcome = Script::connected().times(99, |s| s.call(0, "x", &[])).run();
    for second in 1..5 {
        let now = outcome.now + Duration::from_secs(second);
        let script = Script::default().times(100, |s| s.call(0, "x", &[]));
        read_server(&mut outcome.session, now, &script.0, &mut outcome.events).unwrap();
    }
}

#[test]
fn pings_are_answered_ten_times_a_second() {
    let ping = |s: Script| s.control(&Control::User(UserControl::PingRequest(9)));
    let mut outcome = Script::connected().times(50, ping).run();
    assert_eq!(outcome.sent("PingResponse(9)"), 10);
    let later = outcome.now + Duration::from_secs(1);
    let script = Script::default().times(50, ping);
    read_server(&mut outcome.session, later, &script.0, &mut outcome.events).unwrap();
    // 18 bytes: a header of type 0 and six bytes
    assert_eq!(outcome.session.take_output().len(), 10 * 18);
}

#[test]
fn tiny_ack_window_costs_little() {
    let mut outcome = Script::publishing().control(&Control::WindowAckSize(1)).run();
    let megabyte = Script::default().times(1000, |s| s.message(8, 1, &[0xaf; 1000]));
    let mut events = Vec::new();
    read_server(&mut outcome.session, outcome.now, &megabyte.0, &mut events).unwrap();
    assert_eq!(events.len(), 1000);
    // ten of 32 KiB and then one each 64 KiB, each 16 bytes, though a megabyte came
    assert_eq!(outcome.session.take_output().len(), (10 + 10) * 16);
}

/// A peer that stops at a window without acknowledgement would stop for ever.
#[test]
fn no_window_goes_without_an_acknowledgement() {
    const WINDOW: u64 = 100_000;
    let window = Control::WindowAckSize(100_000);
    let mut outcome = Script::publishing().control(&window).run();
    let mut acknowledged = outcome.session.bytes_received();
    let message = Script::default().message(8, 1, &[0xaf; 1000]);
    for _ in 0..5000 {
        let mut events = Vec::new();
        read_server(&mut outcome.session, outcome.now, &message.0, &mut events).unwrap();
        if let [.., a, b, c, d] = outcome.session.take_output()[..] {
            acknowledged = u64::from(u32::from_be_bytes([a, b, c, d]));
        }
        let open = outcome.session.bytes_received() - acknowledged;
        assert!(open < WINDOW, "{open} bytes open, all within one second");
    }
}

#[test]
fn acknowledges_each_half_window() {
    let mut outcome = Script::publishing().control(&Control::WindowAckSize(200_000)).run();
    let mut acks = Vec::new();
    for step in 1..=50 {
        let now = outcome.now + Duration::from_millis(200 * step);
        let script = Script::default().times(10, |s| s.message(8, 1, &[0xaf; 1000]));
        let mut events = Vec::new();
        read_server(&mut outcome.session, now, &script.0, &mut events).unwrap();
        let output = outcome.session.take_output();
        if let [.., a, b, c, d] = output[..] {
            let total = u64::from(u32::from_be_bytes([a, b, c, d]));
            assert!(total <= outcome.session.bytes_received());
            acks.push(total);
        }
    }
    assert_eq!(acks.len(), 5, "{acks:?}");
    assert!(acks.windows(2).all(|pair| (100_000..120_000).contains(&(pair[1] - pair[0]))));
}

#[test]
fn configured_ack_size_overrides_the_peer() {
    let config = ServerConfig { chunk_size: 4096, out_ack_size: 2_500_000, in_ack_size: 80_000 };
    let now = Instant::now();
    let mut session = ServerSession::new(config, random(), now);
    let start = Script::publishing().control(&Control::WindowAckSize(50_000_000));
    let media = Script::default().times(50, |s| s.message(8, 1, &[0xaf; 1000]));
    let mut events = Vec::new();
    read_server(&mut session, now, &start.0, &mut events).unwrap();
    session.take_output();
    read_server(&mut session, now, &media.0, &mut events).unwrap();
    assert_eq!(session.take_output().len(), 16);
}
