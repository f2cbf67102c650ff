//! What the server says in whole dialogues, and to the less common commands.

use super::*;
use crate::rtmp::message::UserControl;

#[test]
fn publish_dialogue() {
    let outcome = Script::connected()
        .call(0, "releaseStream", &["a"])
        .call(0, "FCPublish", &["a"])
        .call(0, "createStream", &[])
        .call(0, "_checkbw", &[])
        .call(1, "publish", &["a?k=v", "live"])
        .message(9, 1, b"\x17\x00video")
        .call(0, "FCUnpublish", &["a"])
        .command(0, "deleteStream", 10.0, vec![Value::Null, Value::Number(1.0)])
        .run();
    assert_eq!(outcome.error, None);
    assert_eq!(
        outcome.output,
        [
            "2/0 WindowAckSize(2500000)",
            "2/0 SetPeerBandwidth(2500000, 2)",
            "2/0 SetChunkSize(4096)",
            "3/0 20 \"_result\", 1, {fmsVer: \"FMS/3,5,3,888\", capabilities: 127, mode: 1}, \
             {level: \"status\", code: \"NetConnection.Connect.Success\", \
             description: \"Connection succeeded.\", objectEncoding: 0}",
            "3/0 20 \"_result\", 9, null, null",
            "3/0 20 \"_result\", 9, null, null",
            "3/0 20 \"_result\", 9, null, 1",
            "3/0 20 \"_result\", 9, null, null",
            "5/1 20 \"onFCPublish\", 0, null, {level: \"status\", code: \"NetStream.Publish.Start\", \
             description: \"Started publishing stream.\"}",
            "5/1 20 \"onStatus\", 0, null, {level: \"status\", code: \"NetStream.Publish.Start\", \
             description: \"Started publishing stream.\", details: \"a?k=v\", clientid: \"forwarder\"}",
            "5/1 20 \"onFCUnpublish\", 0, null, {level: \"status\", \
             code: \"NetStream.Unpublish.Success\", description: \"Stop publishing stream.\"}",
            "3/0 20 \"_result\", 9, null, null",
            "5/1 20 \"onStatus\", 0, null, {level: \"status\", code: \"NetStream.Unpublish.Success\", \
             description: \"Stream is now unpublished.\", details: \"a?k=v\", clientid: \"forwarder\"}",
            "3/0 20 \"_result\", 10, null, null",
        ]
    );
    assert_eq!(
        outcome.events[1..],
        [
            "Publish(PublishRequest { msid: 1, stream: \"a?k=v\" })",
            "Video msid=1 ms=40 len=7 sum=c7551cca",
            "Unpublish(1)",
        ]
    );
}

#[test]
fn play_dialogue() {
    let mut outcome = Script::created()
        .call(0, "FCSubscribe", &["a"])
        .call(0, "getStreamLength", &["a"])
        .command(1, "play", 0.0, vec![Value::Null, Value::string("a"), Value::Number(-2000.0)])
        .run();
    assert_eq!(
        outcome.output[4..],
        [
            "3/0 20 \"_result\", 9, null, 1",
            "3/0 20 \"_result\", 9, null, null",
            "3/0 20 \"onFCSubscribe\", 0, null, {level: \"status\", code: \"NetStream.Play.Start\", \
             description: \"Started playing stream.\"}",
            "3/0 20 \"_result\", 9, null, 0",
            "2/0 User(StreamBegin(1))",
            "5/1 20 \"onStatus\", 0, null, {level: \"status\", code: \"NetStream.Play.Reset\", \
             description: \"Playing and resetting stream.\", details: \"a\", clientid: \"forwarder\"}",
            "5/1 20 \"onStatus\", 0, null, {level: \"status\", code: \"NetStream.Play.Start\", \
             description: \"Started playing stream.\", details: \"a\", clientid: \"forwarder\"}",
            "5/1 18 \"|RtmpSampleAccess\", true, true",
        ]
    );
    outcome.session.ping(5);
    outcome.session.finish_play(1);
    let mut later = vec![0; HANDSHAKE_LEN];
    later.append(&mut outcome.session.take_output());
    assert_eq!(
        decode(&later),
        [
            "2/0 User(PingRequest(5))",
            "2/0 User(StreamEof(1))",
            "5/1 20 \"onStatus\", 0, null, {level: \"status\", \
             code: \"NetStream.Play.UnpublishNotify\", description: \"Stream is now unpublished.\"}",
        ]
    );
}

#[test]
fn play_without_reset_gets_no_reset() {
    for reset in [Value::Boolean(false), Value::Number(0.0)] {
        let number = Value::Number(-1000.0);
        let name = Value::string("a");
        let args = vec![Value::Null, name, number.clone(), number, reset];
        let outcome = Script::created().command(1, "play", 0.0, args).run();
        assert_eq!(outcome.sent("Play.Reset"), 0);
        assert_eq!(outcome.sent("Play.Start"), 1);
    }
}

#[test]
fn connect_request_has_all_that_was_sent() {
    let object = Value::object([
        ("app", Value::string("live")),
        ("tcUrl", Value::string("rtmp://h/live")),
        ("flashVer", Value::string("FMLE/3.0")),
        ("objectEncoding", Value::Number(3.0)),
        ("fourCcList", Value::StrictArray(vec![Value::string("hvc1")])),
        ("capsEx", Value::Number(3.0)),
        ("forwarder", Value::object([("id", Value::string("m")), ("hops", Value::Number(2.0))])),
    ]);
    let args = texts(&[("srs_sig", "SRS")]);
    let outcome = Script::shaken().command(0, "connect", 1.0, vec![object, args.clone()]).run();
    let request = ConnectRequest {
        app: "live".to_owned(),
        tc_url: "rtmp://h/live".to_owned(),
        page_url: String::new(),
        swf_url: String::new(),
        flash_ver: "FMLE/3.0".to_owned(),
        enhanced: true,
        reconnects: true,
        unread: false,
        args: Some(args),
        forwarder: Some(("m".to_owned(), 2)),
    };
    assert_eq!(outcome.events, [format!("Connect({request:?})")]);
    let result = &outcome.output[3];
    assert!(
        result.ends_with(
            "objectEncoding: 3, capsEx: 15, videoFourCcInfoMap: {*: 4}, audioFourCcInfoMap: {*: 4}}"
        ),
        "{result}"
    );
}

#[test]
fn rejected_connect_is_told_and_ended() {
    let now = Instant::now();
    let mut session = server(now);
    let script = Script::connected();
    let mut bytes = &script.0[..];
    while !matches!(session.read(now, &mut bytes), Ok(Some(ServerEvent::Connect(_)))) {}
    session.reject_connect("no such vhost");
    assert_eq!(
        decode(&session.take_output()),
        ["3/0 20 \"_error\", 1, null, {level: \"error\", \
          code: \"NetConnection.Connect.Rejected\", description: \"no such vhost\"}"]
    );
    let at = session.poll_timeout().unwrap();
    assert!(matches!(session.handle_timeout(at), Err(SessionError::Rejected(_))));
}

#[test]
fn rejected_publish_is_told_and_ended() {
    let now = Instant::now();
    let mut session = server(now);
    let script = Script::publishing();
    let mut bytes = &script.0[..];
    loop {
        let question = session.read(now, &mut bytes).unwrap().and_then(|e| Question::of(&e));
        match question {
            Some(Question::Publish(msid)) => {
                session.reject(msid, "NetStream.Publish.BadName", "already published");
                break;
            }
            Some(question) => question.accept(&mut session, now),
            None => {}
        }
    }
    assert_eq!(
        decode(&session.take_output()).last().unwrap(),
        "5/1 20 \"onStatus\", 0, null, {level: \"error\", code: \"NetStream.Publish.BadName\", \
         description: \"already published\"}"
    );
    let at = session.poll_timeout().unwrap();
    assert!(matches!(session.handle_timeout(at), Err(SessionError::Rejected(_))));
}

#[test]
fn pause_seek_and_receive_flags_of_a_player() {
    let flag = |script: Script, name, flag| {
        script.command(1, name, 0.0, vec![Value::Null, Value::Boolean(flag)])
    };
    let mut script = Script::playing();
    for name in ["pause", "pauseRaw", "receiveAudio", "receiveVideo"] {
        script = flag(flag(script, name, true), name, false);
    }
    let outcome = script.call(1, "seek", &[]).run();
    assert_eq!(
        outcome.events[2..],
        [
            "Pause(1, true)",
            "Pause(1, false)",
            "Pause(1, true)",
            "Pause(1, false)",
            "ReceiveAudio(1, true)",
            "ReceiveAudio(1, false)",
            "ReceiveVideo(1, true)",
            "ReceiveVideo(1, false)",
        ]
    );
    let codes = ["Pause.Notify", "StreamEof(1)", "Unpause.Notify", "StreamBegin(1)"];
    for (line, code) in outcome.output[9..13].iter().zip(codes) {
        assert!(line.contains(code), "{line}");
    }
    assert_eq!(outcome.sent("NetStream.Seek.Failed"), 1);
}

#[test]
fn what_is_said_to_another_server_is_kept_for_it_and_not_answered() {
    let Outcome { mut session, now, .. } = Script::created().run();
    session.begin_relay(1);
    let said = Script::default()
        .control(&Control::Acknowledgement(7))
        .control(&Control::SetChunkSize(4096))
        .control(&Control::SetChunkSize(128))
        .control(&Control::WindowAckSize(5000))
        .control(&Control::User(UserControl::PingRequest(1)))
        .control(&Control::User(UserControl::PingResponse(2)))
        .control(&Control::User(UserControl::SetBufferLength { msid: 1, ms: 3000 }))
        .command(1, "pause", 5.0, vec![Value::Null, Value::Boolean(true)])
        .command(1, "receiveAudio", 6.0, vec![Value::Null, Value::Boolean(false)])
        .call(0, "anything", &[&"x".repeat(300)])
        .call(1, "play", &["b"])
        .command(0, "deleteStream", 0.0, vec![Value::Null, Value::Number(1.0)]);
    let mut events = Vec::new();
    read_server(&mut session, now, &said.0, &mut events).expect("no error");
    assert_eq!(events, ["Pause(1, true)", "ReceiveAudio(1, false)", "StopPlay(1)"]);
    assert!(!session.has_output(), "an answer");
    let mut relayed = vec![0; HANDSHAKE_LEN];
    relayed.append(&mut session.take_relayed());
    assert_eq!(
        decode(&relayed),
        [
            "2/0 User(PingResponse(2))".to_owned(),
            "2/0 User(SetBufferLength { msid: 1, ms: 3000 })".to_owned(),
            "5/1 20 \"pause\", 5, null, true".to_owned(),
            "5/1 20 \"receiveAudio\", 6, null, false".to_owned(),
            format!("3/0 20 \"anything\", 9, null, \"{}\"", "x".repeat(300)),
            "3/0 20 \"deleteStream\", 0, null, 1".to_owned(),
        ]
    );
    let publish = Script::default().call(1, "publish", &["b", "live"]);
    assert!(read_server(&mut session, now, &publish.0, &mut events).is_err());
}

#[test]
fn commands_without_transaction_get_no_reply() {
    let names = ["releaseStream", "FCPublish", "FCUnsubscribe", "_checkbw", "play2", "foo"];
    let script = names.iter().fold(Script::connected(), |script, name| {
        script.command(0, name, 0.0, vec![Value::Null, Value::string("a")])
    });
    let outcome = script.run();
    assert_eq!(outcome.output.len(), 4, "{:?}", outcome.output);
}

#[test]
fn every_way_to_end_a_publish_allows_the_next() {
    let ends: [(&str, u32, Vec<Value>); 5] = [
        ("FCUnpublish", 0, vec![Value::Null, Value::string("a?other=param")]),
        ("closeStream", 1, vec![Value::Null]),
        ("deleteStream", 0, vec![Value::Null, Value::Number(1.0)]),
        ("deleteStream by name", 0, vec![Value::Null, Value::string("a")]),
        ("deleteStream of nothing", 0, vec![Value::Null]),
    ];
    for (name, msid, args) in ends {
        let command = name.split(' ').next().unwrap();
        let mut script = Script::publishing().command(msid, command, 0.0, args);
        if command == "deleteStream" {
            script = script.call(0, "createStream", &[]);
        }
        let outcome = script.call(1, "publish", &["b"]).message(8, 1, b"\xaf\x01").run();
        let events = ["Connect", "Publish", "Unpublish(1)", "Publish", "Audio"];
        assert_eq!(outcome.events.len(), events.len(), "{name}: {:?}", outcome.events);
        for (line, event) in outcome.events.iter().zip(events) {
            assert!(line.starts_with(event), "{name}: {line}");
        }
        assert_eq!(
            outcome.sent("NetStream.Unpublish.Success"),
            1 + usize::from(msid == 0 && command == "FCUnpublish"),
            "{name}"
        );
    }
}

#[test]
fn ends_of_a_play_are_told() {
    let outcome = Script::playing().call(1, "closeStream", &[]).run();
    assert_eq!(outcome.events[2..], ["StopPlay(1)"]);
    let args = vec![Value::Null, Value::Number(1.0)];
    let outcome = Script::playing().command(0, "deleteStream", 0.0, args).run();
    assert_eq!(outcome.events[2..], ["StopPlay(1)"]);
}

#[test]
fn commands_of_type_17_are_commands() {
    let mut plain = Vec::new();
    for value in [Value::string("createStream"), Value::Number(4.0), Value::Null] {
        crate::rtmp::amf0::write(&value, &mut plain);
    }
    let selected = [&[0][..], &plain].concat();
    let outcome = Script::connected().message(17, 0, &plain).message(17, 0, &selected).run();
    assert_eq!(
        outcome.output[4..],
        ["3/0 20 \"_result\", 4, null, 1", "3/0 20 \"_result\", 4, null, 2"]
    );
}

#[test]
fn data_is_stripped_and_unreadable_data_dropped() {
    let mut set = Vec::new();
    let mut plain = Vec::new();
    crate::rtmp::amf0::write(&Value::string("@setDataFrame"), &mut set);
    crate::rtmp::amf0::write(&Value::string("onMetaData"), &mut plain);
    crate::rtmp::amf0::write(&texts(&[("encoder", "x")]), &mut plain);
    set.extend_from_slice(&plain);
    let amf3 = [&[0][..], &plain].concat();
    let outcome = Script::publishing()
        .message(18, 1, &set)
        .message(18, 1, &plain)
        .message(15, 1, &amf3)
        .message(18, 1, &[0, 1, 2, 3])
        .message(18, 1, &[])
        .message(8, 1, &[])
        .run();
    assert_eq!(outcome.events.len(), 5, "{:?}", outcome.events);
    assert!(outcome.events[2].starts_with("Data "));
    assert!(outcome.events[2..].iter().all(|line| *line == outcome.events[2]));
}

#[test]
fn aggregate_is_given_out_in_parts_at_any_split() {
    let tag = |kind: u8, ms: u8, payload: &[u8]| {
        let size = u8::try_from(payload.len()).unwrap();
        let mut tag = vec![kind, 0, 0, size, 0, 0, ms, 0, 0, 0, 0];
        tag.extend_from_slice(payload);
        tag.extend_from_slice(&[0, 0, 0, size + 11]);
        tag
    };
    let body = [tag(8, 10, b"\xaf\x01a"), tag(9, 13, b"\x27\x01v"), tag(20, 13, b"\x05")].concat();
    let script = Script::publishing().message(22, 1, &body).message(8, 1, b"\xaf\x01z");
    let expected = ["Audio msid=1 ms=40 len=3", "Video msid=1 ms=43 len=3", "Audio msid=1 ms=40"];
    for step in [1, 2, 100, usize::MAX] {
        let now = Instant::now();
        let mut session = server(now);
        let mut events = Vec::new();
        for piece in script.0.chunks(step.min(script.0.len())) {
            read_server(&mut session, now, piece, &mut events).unwrap();
        }
        assert_eq!(events.len(), 5, "{events:?}");
        for (line, start) in events[2..].iter().zip(expected) {
            assert!(line.starts_with(start), "{line}");
        }
    }
}

#[test]
fn streams_of_one_connection_are_separate() {
    let outcome = Script::publishing()
        .call(0, "createStream", &[])
        .call(2, "play", &["b"])
        .message(8, 1, b"\xaf\x01")
        .call(2, "closeStream", &[])
        .call(1, "closeStream", &[])
        .run();
    let events = ["Connect", "Publish", "Play", "Audio msid=1", "StopPlay(2)", "Unpublish(1)"];
    for (line, event) in outcome.events.iter().zip(events) {
        assert!(line.starts_with(event), "{line}");
    }
}

#[test]
fn pong_is_reported() {
    let pong = Control::User(UserControl::PingResponse(77));
    let outcome = Script::playing().control(&pong).run();
    assert_eq!(outcome.events[2..], ["Pong(77)"]);
}

/// Thousands of players: what one costs besides the reader's chunk streams.
#[test]
fn idle_player_is_small() {
    let size = size_of::<ServerSession>();
    assert!(size <= 512, "{size} bytes");
    let mut outcome = Script::playing().run();
    assert_eq!(outcome.session.take_output().capacity(), 0);
    assert!(!outcome.session.has_output());
}
