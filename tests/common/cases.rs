//! Bad input as tables: how far to go, what to send, what is to happen.
use std::net::SocketAddr;

use forwarder::rtmp::amf0::Value;

use super::compare::{Start, assert_same_sequence};
use super::media::Synthetic;
use super::peer::{End, Live, Recorder};
use super::raw::Raw;
use super::server::{Server, Setup};
use super::{seconds, wait_until};

/// How far a connection goes before the bad input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connected by TCP.
    Fresh,
    /// The handshake is done.
    Handshaken,
    /// `connect` and `createStream` are answered.
    Ready,
    /// Publishing a stream of its own.
    Publishing,
}

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Closed, and the log has a line about this peer.
    Closed,
    /// Closed; nothing to log.
    Left,
    /// Told by an error status, `_error` or `onStatus`; perhaps closed then.
    Told(&'static str),
    /// Nothing: the connection goes on.
    Ignored,
}

/// Bad input and what is to come of it.
pub struct Case {
    what: &'static str,
    stage: Stage,
    send: fn(&mut Raw),
    want: Want,
}

/// One case of a table.
pub const fn case(what: &'static str, stage: Stage, want: Want, send: fn(&mut Raw)) -> Case {
    Case { what, stage, send, want }
}

/// Runs `cases` against one server, each on a connection of its own, beside a publisher and a player.
pub fn run(cases: &[Case]) {
    let mut server = Setup::new().start();
    let player = Recorder::start(server.rtmp, "live/healthy");
    let live = Live::start(server.rtmp, "live/healthy", Synthetic::default());
    wait_until("media", seconds(10), || player.count() > 10);
    for (i, case) in cases.iter().enumerate() {
        let mut raw = Raw::connect(server.rtmp);
        match case.stage {
            Stage::Fresh => {}
            Stage::Handshaken => raw.handshake(),
            Stage::Ready => raw.ready(),
            Stage::Publishing => raw.publishing(&format!("case-{i}")),
        }
        (case.send)(&mut raw);
        check(&server, case, &mut raw);
        assert!(server.is_running(), "{}: the server died\n{}", case.what, server.log());
        assert!(!live.is_over() && !player.ended(), "{}: others were disturbed", case.what);
    }
    live.wait_more(10);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("the healthy player", &sent, &got, Start::First);
}

#[track_caller]
fn check(server: &Server, case: &Case, raw: &mut Raw) {
    let what = case.what;
    match case.want {
        Want::Closed | Want::Left => {
            assert!(
                raw.is_closed_within(seconds(4)),
                "{what}: still open; said {:?}",
                raw.commands
            );
            if case.want == Want::Closed {
                assert_logged_once(server, what, raw.local());
            }
        }
        Want::Told(code) => raw.expect_in(what, code),
        Want::Ignored => {
            raw.command(0, "releaseStream", 77.0, vec![Value::Null, Value::string("nothing")]);
            raw.expect_in(what, "_result");
        }
    }
}

/// One line, not more, says who was thrown out and why.
#[track_caller]
fn assert_logged_once(server: &Server, what: &str, peer: SocketAddr) {
    let peer = peer.to_string();
    let about = |log: &str| -> Vec<String> {
        let complaint = |l: &&str| l.contains(&peer) && (l.contains("WARN") || l.contains("ERROR"));
        log.lines().filter(complaint).map(str::to_owned).collect()
    };
    wait_until(&format!("{what}: a line about {peer}"), seconds(3), || {
        !about(&server.log()).is_empty()
    });
    let lines = about(&server.log());
    assert_eq!(lines.len(), 1, "{what}: {lines:#?}");
}
