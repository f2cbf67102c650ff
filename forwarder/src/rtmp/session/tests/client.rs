//! A client and servers with habits of their own.

use super::*;

/// The events, each by its start, or the start of the error.
type Expected = Result<&'static [&'static str], &'static str>;

fn check<const N: usize>(cases: [(&str, Script, Expected); N]) {
    for (name, script, expected) in cases {
        let now = Instant::now();
        let mut session = client(Goal::Play, now);
        let mut lines = Vec::new();
        let result = read_client(&mut session, now, &script.0, &mut lines);
        match (result, expected) {
            (Ok(()), Ok(expected)) => {
                assert_eq!(lines.len(), expected.len(), "{name}: {lines:?}");
                for (line, start) in lines.iter().zip(expected) {
                    assert!(line.starts_with(start), "{name}: {line}");
                }
            }
            (Err(error), Err(start)) => {
                assert!(error.to_string().starts_with(start), "{name}: {error}");
            }
            (result, _) => panic!("{name}: {result:?} {lines:?}"),
        }
    }
}

fn result(script: Script, transaction: f64, value: Value) -> Script {
    script.command(0, "_result", transaction, vec![Value::Null, value])
}

fn status(script: Script, msid: u32, level: &str, code: &str) -> Script {
    let info = texts(&[("level", level), ("code", code)]);
    script.command(msid, "onStatus", 0.0, vec![Value::Null, info])
}

/// A server that has answered `connect`, then `createStream`, then `play`.
fn connected() -> Script {
    result(Script::shaken(), 1.0, texts(&[("level", "status")]))
}

fn created() -> Script {
    result(connected(), 2.0, Value::Number(1.0))
}

fn playing() -> Script {
    status(created(), 1, "status", "NetStream.Play.Start")
}

#[test]
fn one_that_holds_says_play_when_it_is_told_to() {
    let now = Instant::now();
    let mut session = client(Goal::Play, now);
    session.hold();
    let mut lines = Vec::new();
    let server = created().control(&Control::SetChunkSize(777));
    read_client(&mut session, now, &server.0, &mut lines).expect("no error");
    assert_eq!(lines, ["Ready(1)"]);
    assert_eq!((session.is_at_border(), session.received_chunk_size()), (true, 777));
    assert_eq!(session.poll_timeout(), None);
    let before = session.take_output().len();
    session.play();
    let mut play = vec![0; HANDSHAKE_LEN];
    play.append(&mut session.take_output());
    assert!(before > HANDSHAKE_LEN);
    let said = decode(&play);
    assert!(said[0].starts_with("5/1 20 \"play\", 3, null") && said.len() == 2, "{said:?}");
    read_client(&mut session, now, b"\x04\0", &mut lines).expect("no error");
    assert!(!session.is_at_border());
}

#[test]
fn strange_answers_to_calls() {
    let number = Value::Number;
    let no_id = || Err("protocol: createStream gave no message stream id");
    check([
        ("_result of no call", result(Script::shaken(), 7.0, number(1.0)), Ok(&[])),
        ("createStream gives 0", result(connected(), 2.0, number(0.0)), no_id()),
        ("createStream gives NaN", result(connected(), 2.0, number(f64::NAN)), no_id()),
        ("createStream gives 2^32", result(connected(), 2.0, number(4_294_967_296.0)), no_id()),
        ("createStream gives nothing", connected().command(0, "_result", 2.0, vec![]), no_id()),
        ("_error of createStream", connected().command(0, "_error", 2.0, vec![]), Err("refused: ")),
        ("_error of _checkbw", playing().command(0, "_error", 4.0, vec![]), Ok(&["Playing(1)"])),
        (
            "connect's result is an error",
            result(Script::shaken(), 1.0, texts(&[("level", "error"), ("code", "No")])),
            Err("refused: No"),
        ),
        ("an unreadable command", playing().message(20, 0, b"\x05"), Err("command: ")),
        ("an empty command", playing().message(20, 0, b""), Ok(&["Playing(1)"])),
    ]);
}

#[test]
fn statuses_and_media() {
    let start = "NetStream.Play.Start";
    let over = |script| status(script, 1, "status", "NetStream.Play.Stop");
    let failed = |msid| status(playing(), msid, "error", "NetStream.Failed");
    let sample_access = b"\x02\x00\x11|RtmpSampleAccess\x01\x01";
    check([
        ("status on stream 0", status(created(), 0, "status", start), Ok(&["Playing(1)"][..])),
        ("status on another stream", status(created(), 2, "status", start), Ok(&[])),
        ("media before Play.Start", created().message(9, 1, b"\x17"), Ok(&["Playing(1)", "Video"])),
        ("media of another stream", playing().message(9, 2, b"\x17"), Ok(&["Playing(1)"])),
        ("error while playing", failed(1), Err("refused: NetStream.Failed")),
        ("error about another stream", failed(2), Ok(&["Playing(1)"])),
        ("close", playing().call(0, "close", &[]), Err("refused: close")),
        (
            "over, and over again, then the next publish",
            over(over(playing())).message(8, 1, b"\xaf\x01"),
            Ok(&["Playing(1)", "Finished", "Audio"]),
        ),
        (
            "data addressed to the player",
            playing().message(18, 1, sample_access).message(18, 1, b"\x02\x00\x08onStatus"),
            Ok(&["Playing(1)"]),
        ),
    ]);
}

#[test]
fn client_acknowledges_and_answers_bandwidth_once() {
    let now = Instant::now();
    let mut session = client(Goal::Play, now);
    let script = Script::shaken()
        .control(&Control::WindowAckSize(100_000))
        .control(&Control::SetPeerBandwidth(5_000_000, 2))
        .control(&Control::SetPeerBandwidth(5_000_000, 2))
        .times(60, |s| s.message(9, 1, &[0; 1000]));
    read_client(&mut session, now, &script.0, &mut Vec::new()).unwrap();
    let lines = decode(&session.take_output());
    let of = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(of("WindowAckSize(5000000)"), 1);
    assert_eq!(of("Acknowledgement"), 1);
}
