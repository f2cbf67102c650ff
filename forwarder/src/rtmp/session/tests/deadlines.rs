//! Deadlines, by a clock of our own.

use std::time::Duration;

use super::*;

/// Feeds `bytes` to a new server, then waits; how many seconds until the end, and why.
fn ends_after(bytes: &[u8]) -> Option<(u64, SessionError)> {
    let start = Instant::now();
    let mut session = server(start);
    read_server(&mut session, start, bytes, &mut Vec::new()).unwrap();
    let mut now = start;
    while let Some(at) = session.poll_timeout() {
        assert!(at > now, "a deadline that is past and was not an error");
        assert_eq!(session.handle_timeout(at - Duration::from_millis(1)), Ok(()));
        now = at;
        if let Err(error) = session.handle_timeout(now) {
            return Some(((now - start).as_secs(), error));
        }
    }
    None
}

#[test]
fn silence_in_each_state() {
    let shaken = Script::shaken().0;
    let cases: [(&str, &[u8], u64); 7] = [
        ("no byte", &[], 5),
        ("one byte", &shaken[..1], 10),
        ("no C2", &shaken[..1537], 10),
        ("no connect", &shaken, 10),
        ("half a connect", &Script::connected().0[..HANDSHAKE_LEN + 20], 10),
        ("no createStream", &Script::connected().0, 20),
        ("no publish", &Script::created().0, 20),
    ];
    for (name, bytes, seconds) in cases {
        let (after, error) = ends_after(bytes).unwrap();
        assert!(matches!(error, SessionError::Timeout(_)), "{name}: {error}");
        assert_eq!(after, seconds, "{name}");
    }
}

#[test]
fn silent_publishers_and_players_are_left_to_the_caller() {
    assert_eq!(ends_after(&Script::publishing().0), None);
    assert_eq!(ends_after(&Script::playing().0), None);
}

#[test]
fn message_left_unfinished() {
    let mut script = Script::publishing();
    let whole = script.0.len() + 50;
    script = script.message(9, 1, &[0x27; 100]);
    let (after, error) = ends_after(&script.0[..whole]).unwrap();
    assert_eq!((after, error), (30, SessionError::Timeout("a message begun was not finished")));
}

#[test]
fn message_begun_while_others_read_has_its_full_time() {
    let start = Instant::now();
    let mut session = server(start);
    read_server(&mut session, start, &Script::publishing().0, &mut Vec::new()).unwrap();
    let mut reader = session.lend_reader();
    let hour = start + Duration::from_secs(3600);
    assert_eq!((session.poll_timeout(), session.handle_timeout(hour)), (None, Ok(())));
    let video = Script::default().message(9, 1, &[0x27; 100]).0;
    assert!(matches!(reader.read(&mut &video[..50]), Ok(None)));
    session.return_reader(hour, reader);
    assert_eq!(session.handle_timeout(hour + Duration::from_secs(29)), Ok(()));
    assert!(session.handle_timeout(hour + Duration::from_secs(30)).is_err());
}

#[test]
fn one_byte_a_second_does_not_keep_a_handshake_alive() {
    let start = Instant::now();
    let mut session = server(start);
    let bytes = Script::shaken().0;
    for (second, byte) in bytes.iter().enumerate() {
        let now = start + Duration::from_secs(u64::try_from(second).unwrap());
        if let Err(error) = session.handle_timeout(now) {
            assert_eq!((second, error), (10, SessionError::Timeout("handshake not finished")));
            return;
        }
        read_server(&mut session, now, std::slice::from_ref(byte), &mut Vec::new()).unwrap();
    }
    panic!("the handshake went on for ever");
}

#[test]
fn busy_doing_nothing_does_not_stop_the_clock() {
    let start = Instant::now();
    let mut session = server(start);
    read_server(&mut session, start, &Script::created().0, &mut Vec::new()).unwrap();
    let chatter = Script::default().call(0, "x", &[]).call(1, "closeStream", &[]);
    for second in 1..20 {
        let now = start + Duration::from_secs(second);
        read_server(&mut session, now, &chatter.0, &mut Vec::new()).unwrap();
        assert_eq!(session.handle_timeout(now), Ok(()));
    }
    let end = start + Duration::from_secs(20);
    assert_eq!(session.handle_timeout(end), Err(SessionError::Timeout("neither publish nor play")));
}

#[test]
fn asking_again_after_a_rejection_gains_no_time() {
    let start = Instant::now();
    let mut session = server(start);
    read_server(&mut session, start, &Script::created().0, &mut Vec::new()).unwrap();
    let publish = Script::default().call(1, "publish", &["a"]);
    for ms in [0, 900, 1800] {
        let mut bytes = &publish.0[..];
        let now = start + Duration::from_millis(ms);
        let event = session.read(now, &mut bytes).unwrap();
        assert!(matches!(event, Some(ServerEvent::Publish(_))));
        session.reject(1, "NetStream.Publish.BadName", "already published");
        assert_eq!(session.poll_timeout(), Some(start + Duration::from_secs(2)));
    }
}

#[test]
fn clock_starts_again_after_an_unpublish() {
    let start = Instant::now();
    let mut session = server(start);
    read_server(&mut session, start, &Script::publishing().0, &mut Vec::new()).unwrap();
    assert_eq!(session.last_media(), Some(start));
    let later = start + Duration::from_secs(3600);
    let end = Script::default().message(8, 1, b"\xaf\x01");
    read_server(&mut session, later, &end.0, &mut Vec::new()).unwrap();
    assert_eq!(session.last_media(), Some(later));
    let end = Script::default().call(0, "FCUnpublish", &["a"]);
    read_server(&mut session, later, &end.0, &mut Vec::new()).unwrap();
    assert_eq!(session.last_media(), None);
    assert_eq!(session.poll_timeout(), Some(later + Duration::from_secs(20)));
}

#[test]
fn client_gives_up_at_its_deadline_in_each_state() {
    let start = Instant::now();
    let answer = |count: usize| {
        // what a server says, cut after so many messages
        let mut bytes = vec![3];
        bytes.resize(HANDSHAKE_LEN, 0);
        let mut script = Script(bytes);
        if count > 0 {
            let code = texts(&[("code", "NetConnection.Connect.Success")]);
            script = script.command(0, "_result", 1.0, vec![Value::Null, code]);
        }
        if count > 1 {
            script = script.command(0, "_result", 4.0, vec![Value::Null, Value::Number(1.0)]);
        }
        script
    };
    let cases = [
        (Script::default(), "handshake not finished"),
        (answer(0), "no answer to connect"),
        (answer(1), "no answer to createStream"),
        (answer(2), "no answer to publish"),
    ];
    for (script, reason) in cases {
        let mut session = client(Goal::Publish, start);
        read_client(&mut session, start, &script.0, &mut Vec::new()).unwrap();
        let at = session.poll_timeout().unwrap();
        assert_eq!(at, start + Duration::from_secs(10));
        assert_eq!(session.handle_timeout(at), Err(SessionError::Timeout(reason)));
    }
}
