//! A client and a server joined by a link that cuts the bytes anywhere, with a clock of its own.

use std::time::Duration;

use super::*;
use crate::rtmp::message::MediaKind;

/// What the server says to a question.
type Answer = fn(&Question) -> Option<(&'static str, &'static str)>;

struct Pair {
    now: Instant,
    server: ServerSession,
    client: ClientSession,
    /// Code and description of a refusal, or none.
    answer: Answer,
    seed: u64,
    served: Vec<String>,
    seen: Vec<String>,
}

impl Pair {
    fn new(goal: Goal, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            server: server(now),
            client: client(goal, now),
            answer: |_| None,
            seed,
            served: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Carries bytes both ways until both are silent.
    fn drive(&mut self) -> Result<(), SessionError> {
        while self.client.has_output() || self.server.has_output() {
            let up = self.client.take_output();
            self.cut(&up, Self::serve)?;
            let down = self.server.take_output();
            self.cut(&down, |pair, piece| {
                read_client(&mut pair.client, pair.now, piece, &mut pair.seen)
            })?;
        }
        Ok(())
    }

    fn cut(
        &mut self,
        mut bytes: &[u8],
        deliver: impl Fn(&mut Self, &[u8]) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        while !bytes.is_empty() {
            let len = (1 + next_number(&mut self.seed) % 700).min(bytes.len());
            let (piece, rest) = bytes.split_at(len);
            self.now += Duration::from_micros(300);
            deliver(self, piece)?;
            bytes = rest;
        }
        Ok(())
    }

    fn serve(&mut self, mut bytes: &[u8]) -> Result<(), SessionError> {
        while let Some(event) = self.server.read(self.now, &mut bytes)? {
            if event == ServerEvent::Progress {
                continue;
            }
            self.served.push(server_line(&event));
            let Some(question) = Question::of(&event) else {
                continue;
            };
            match ((self.answer)(&question), &question) {
                (None, _) => question.accept(&mut self.server, self.now),
                (Some((_, text)), Question::Connect) => self.server.reject_connect(text),
                (Some((code, text)), Question::Publish(msid)) => {
                    self.server.reject(*msid, code, text);
                }
                (Some((code, text)), Question::Play(play)) => {
                    self.server.reject(play.msid, code, text);
                }
            }
        }
        Ok(())
    }
}

#[test]
fn publish_media_and_goodbye() {
    for seed in 0..20 {
        let mut pair = Pair::new(Goal::Publish, seed);
        pair.drive().unwrap();
        assert_eq!(pair.seen, ["Publishing(1)"]);
        assert!(pair.served[0].contains("forwarder: Some((\"master\", 1))"), "{:?}", pair.served);
        assert!(pair.served[0].contains("enhanced: true"), "{:?}", pair.served);
        let publish = "Publish(PublishRequest { msid: 1, stream: \"a?token=x\" })";
        assert_eq!(pair.served[1..], [publish]);

        pair.client.send_media(MediaKind::Video, Timestamp(0xff_ffff), &[0x17; 100_000]);
        pair.client.send_media(MediaKind::Audio, Timestamp(u32::MAX), b"\xaf\x01");
        pair.client.send_media(MediaKind::Data, Timestamp(0), b"\x02\x00\x01x");
        pair.client.finish();
        pair.drive().unwrap();
        assert_eq!(pair.seen[1..], ["Finished"]);
        let events = [
            "Video msid=1 ms=16777215 len=100000",
            "Audio msid=1 ms=4294967295 len=2",
            "Data msid=1 ms=0 len=4",
            "Unpublish(1)",
        ];
        assert_eq!(pair.served.len(), 2 + events.len());
        for (line, start) in pair.served[2..].iter().zip(events) {
            assert!(line.starts_with(start), "{line}");
        }
        assert_eq!(pair.client.poll_timeout(), None);
    }
}

#[test]
fn play_until_the_stream_is_over() {
    for seed in 0..20 {
        let mut pair = Pair::new(Goal::Play, seed);
        pair.drive().unwrap();
        assert_eq!(pair.seen, ["Status(\"NetStream.Play.Reset\")", "Playing(1)"]);
        let play = "Play(PlayRequest { msid: 1, stream: \"a?token=x\", reset: true })";
        assert_eq!(pair.served[1..], [play]);

        pair.server.ping(4);
        pair.server.finish_play(1);
        pair.drive().unwrap();
        assert_eq!(pair.seen[2..], ["Finished"]);
        assert_eq!(pair.served[2..], ["Pong(4)"]);
    }
}

#[test]
fn player_leaves() {
    let mut pair = Pair::new(Goal::Play, 1);
    pair.drive().unwrap();
    pair.client.finish();
    pair.drive().unwrap();
    assert_eq!(pair.served[2..], ["StopPlay(1)"]);
}

#[test]
fn finish_before_there_is_a_stream_says_nothing() {
    let mut session = client(Goal::Publish, Instant::now());
    session.take_output();
    session.finish();
    assert!(!session.has_output());
}

#[test]
fn refusals_reach_the_client() {
    let cases: [(Goal, Answer, &str, &str); 3] = [
        (
            Goal::Publish,
            |question| matches!(question, Question::Connect).then_some(("", "no such vhost")),
            "NetConnection.Connect.Rejected",
            "no such vhost",
        ),
        (
            Goal::Publish,
            |question| {
                let busy = ("NetStream.Publish.BadName", "already published");
                matches!(question, Question::Publish(_)).then_some(busy)
            },
            "NetStream.Publish.BadName",
            "already published",
        ),
        (
            Goal::Play,
            |question| {
                let missing = ("NetStream.Play.StreamNotFound", "no such stream");
                matches!(question, Question::Play(_)).then_some(missing)
            },
            "NetStream.Play.StreamNotFound",
            "no such stream",
        ),
    ];
    for (goal, answer, code, description) in cases {
        let mut pair = Pair::new(goal, 3);
        pair.answer = answer;
        let refused =
            SessionError::Refused { code: code.to_owned(), description: description.to_owned() };
        assert_eq!(pair.drive(), Err(refused));
        assert!(!pair.seen.iter().any(|line| line.starts_with("Publishing")));
    }
}

#[test]
fn client_says_what_fmle_says() {
    let now = Instant::now();
    let mut server = server(now);
    let mut client = client(Goal::Publish, now);
    let (mut sent, mut down) = (Vec::new(), Vec::new());
    loop {
        sent.append(&mut client.take_output());
        let mut lines = Vec::new();
        // all that was sent, from the start, decoded at the end
        let new = sent.len() - usize::try_from(server.bytes_received()).unwrap();
        if new == 0 {
            break;
        }
        read_server(&mut server, now, &sent[sent.len() - new..], &mut lines).unwrap();
        down.append(&mut server.take_output());
        read_client(&mut client, now, &std::mem::take(&mut down), &mut lines).unwrap();
    }
    assert_eq!(
        decode(&sent),
        [
            "2/0 SetChunkSize(60000)",
            "3/0 20 \"connect\", 1, {app: \"live\", type: \"nonprivate\", \
             flashVer: \"FMLE/3.0 (compatible; forwarder)\", tcUrl: \"rtmp://slave.example/live\", \
             fourCcList: \"*\", videoFourCcInfoMap: {*: 4}, audioFourCcInfoMap: {*: 4}, \
             capsEx: 14, forwarder: {id: \"master\", hops: 1}}",
            "2/0 WindowAckSize(2500000)",
            "3/0 20 \"releaseStream\", 2, null, \"a?token=x\"",
            "3/0 20 \"FCPublish\", 3, null, \"a?token=x\"",
            "3/0 20 \"createStream\", 4, null",
            "5/1 20 \"publish\", 5, null, \"a?token=x\", \"live\"",
        ]
    );
}

#[test]
fn a_client_that_can_is_asked_to_connect_again() {
    for (can, seen) in [
        (true, "Reconnect(Some(\"rtmp://other.example/live\"))"),
        (false, "Status(\"NetConnection.Connect.ReconnectRequest\")"),
    ] {
        let mut pair = Pair::new(Goal::Play, 4);
        if can {
            pair.client.reconnect();
        }
        pair.drive().unwrap();
        assert!(pair.served[0].contains(&format!("reconnects: {can}")), "{:?}", pair.served);
        pair.server.request_reconnect(Some("rtmp://other.example/live"));
        pair.drive().unwrap();
        assert_eq!(pair.seen.last().unwrap(), seen);
    }
    let mut pair = Pair::new(Goal::Play, 5);
    pair.client.reconnect();
    pair.drive().unwrap();
    pair.server.request_reconnect(None);
    pair.drive().unwrap();
    assert_eq!(pair.seen.last().unwrap(), "Reconnect(None)");
}

#[test]
fn a_server_of_ours_knows_who_does_not_read_what_it_says() {
    let mut pair = Pair::new(Goal::Play, 6);
    pair.client.hold();
    pair.drive().unwrap();
    assert!(pair.served[0].contains("unread: true"), "{:?}", pair.served);
}

#[test]
fn a_connect_for_somebody_else_says_what_that_one_said() {
    let mut pair = Pair::new(Goal::Connect, 2);
    pair.client.speak_for(ConnectRequest {
        app: String::new(),
        tc_url: String::new(),
        page_url: "http://a.example/page".to_owned(),
        swf_url: "http://a.example/swf".to_owned(),
        flash_ver: String::new(),
        enhanced: false,
        reconnects: false,
        unread: false,
        args: Some(Value::object([("token", Value::string("x"))])),
        forwarder: None,
    });
    pair.drive().unwrap();
    assert_eq!(pair.seen, ["Connected"]);
    let [connect] = &pair.served[..] else { panic!("{:?}", pair.served) };
    for said in
        ["rtmp://slave.example/live", "http://a.example/page", "http://a.example/swf", "token"]
    {
        assert!(connect.contains(said), "{said} in {connect}");
    }

    let mut pair = Pair::new(Goal::Connect, 3);
    pair.answer = |_| Some(("NetConnection.Connect.Rejected", "no"));
    assert!(matches!(pair.drive(), Err(SessionError::Refused { .. })));
}
