//! A stream has one publisher, and nobody takes it away.
mod common;

use common::compare::{Start, assert_same_sequence};
use common::external::{Publish, ffmpeg_publish};
use common::media::{Clip, Synthetic};
use common::peer::{End, Live, Peer, Recorder, Seen};
use common::raw::Raw;
use common::server::{Server, Setup};
use common::{seconds, wait_until};
use forwarder::rtmp::amf0::Value;
use forwarder::rtmp::session::{Goal, SessionError};

/// Asks to publish and wants to be told that the name is taken.
#[track_caller]
fn assert_busy(server: &Server, host: &str, path: &str) {
    let mut peer = Peer::open_at(server.rtmp, host, Goal::Publish, path);
    match peer.next(seconds(5)) {
        Some(Seen::Failed(SessionError::Refused { code, .. })) => {
            assert_eq!(code, "NetStream.Publish.BadName", "{path}");
        }
        other => panic!("{path}: {other:?} instead of a refusal"),
    }
}

#[test]
fn a_second_publisher_is_refused_and_the_first_untouched() {
    let server = Setup::new().start();
    let player = Recorder::start(server.rtmp, "live/a");
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    live.wait_more(20);
    let address = server.rtmp.to_string();
    assert_busy(&server, &address, "live/a");
    assert_busy(&server, &address, "live/a?token=other");
    // a host that is no vhost is the default vhost
    assert_busy(&server, "unknown.example", "live/a");
    let elsewhere = [Peer::publish(server.rtmp, "live/b"), Peer::publish(server.rtmp, "other/a")];
    live.wait_more(40);
    drop(elsewhere);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(5));
    assert_same_sequence("player", &sent, &got, Start::First);
}

#[test]
fn a_refused_client_that_ignores_it_is_closed() {
    let server = Setup::new().start();
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    live.wait_more(20);
    let mut raw = Raw::connect(server.rtmp);
    raw.ready();
    raw.publish("a");
    raw.expect("NetStream.Publish.BadName");
    assert!(raw.is_closed_within(seconds(5)), "librtmp ignores BadName, so it must be closed");
    live.wait_more(20);
    live.stop(End::Polite);
}

#[test]
fn ffmpeg_gives_up_when_the_name_is_taken() {
    let server = Setup::new().start();
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    live.wait_more(20);
    let clip = Clip::plain();
    let url = server.url("live/a");
    let mut second = ffmpeg_publish(server.dir(), &clip.path, &url, Publish::default());
    let status = second.wait(seconds(10));
    assert!(!status.success(), "{status}");
    live.wait_more(20);
    live.stop(End::Polite);
}

#[test]
fn commands_about_the_stream_of_another_do_not_end_it() {
    let server = Setup::new().start();
    let player = Recorder::start(server.rtmp, "live/a");
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    live.wait_more(20);
    let mut raw = Raw::connect(server.rtmp);
    raw.ready();
    let name = vec![Value::Null, Value::string("a")];
    raw.command(0, "releaseStream", 5.0, name.clone());
    raw.expect("_result");
    raw.command(0, "FCUnpublish", 6.0, name.clone());
    raw.command(0, "deleteStream", 0.0, name);
    raw.command(0, "deleteStream", 0.0, vec![Value::Null, Value::Number(1.0)]);
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(5));
    assert_same_sequence("player", &sent, &got, Start::First);
}

#[test]
fn the_name_is_free_when_its_publisher_left() {
    let server = Setup::new().publish("grace = \"20s\"").start();
    for end in [End::Polite, End::Abrupt, End::Polite] {
        let live = Live::start(server.rtmp, "live/a", Synthetic::default());
        live.wait_more(10);
        live.stop(end);
        wait_until("it is free", seconds(5), || !server.is_live("live/a"));
    }
}
