//! A stream with several publishers: when one dies another goes on, and its readers stay.
mod common;

use std::net::SocketAddr;
use std::process::Command;

use common::compare::{Start, assert_monotonic, assert_same_sequence};
use common::external::{Publish, ffmpeg_publish};
use common::flv::{Tag, VIDEO};
use common::media::{Clip, Synthetic};
use common::peer::{End, Live, Peer, Recorder, Seen};
use common::server::{Server, Setup, http_get};
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::session::{Goal, SessionError};

const STAND_BY: &str = "grace = \"20s\"\nsecond = \"stand_by\"";

/// Two encoders whose frames are told apart by their length, and whose clocks differ.
const FIRST: Synthetic = Synthetic { fps: 25, gop: 25, frame_bytes: 5000, start: 70_000 };
const SECOND: Synthetic = Synthetic { fps: 25, gop: 25, frame_bytes: 5001, start: 9_000_000 };

/// Most milliseconds of the stream's own time that a switch may be wide.
const MAX_GAP: i32 = 300;

fn frames(tags: &[Tag]) -> Vec<&Tag> {
    tags.iter().filter(|tag| tag.is_frame()).collect()
}

/// `got` is a run of each of `sources` in turn: its messages in order, with none left out between
/// the first and the last, moved in time by as much each. But for the first, a run begins with a
/// keyframe and goes on in time where the one before ended.
#[track_caller]
fn assert_runs(label: &str, got: &[Tag], sources: &[&[Tag]]) {
    assert_monotonic(label, got);
    let got = frames(got);
    let mut at = 0;
    for (n, source) in sources.iter().enumerate() {
        let source = frames(source);
        let video = got[at..].iter().position(|tag| tag.kind == VIDEO).expect("video") + at;
        let is_it = |tag: &&Tag| tag.body == got[video].body;
        let from = source.iter().position(is_it).unwrap_or_else(|| {
            panic!("{label}: run {n} is not that of its publisher: {:?}", got[video])
        });
        let moved = got[video].timestamp.wrapping_sub(source[from].timestamp);
        if n > 0 {
            assert!(video == at && got[at].is_keyframe(), "{label}: run {n}: {:?}", got[at]);
            let newest = got[..at].iter().map(|tag| tag.timestamp).max().expect("a run before");
            let gap = got[at].timestamp.wrapping_sub(newest).cast_signed();
            eprintln!("{label}: run {n} begins {gap} ms on, moved by {} ms", moved.cast_signed());
            assert!((0..=MAX_GAP).contains(&gap), "{label}: a gap of {gap} ms");
        }
        let same = |(got, want): &(&&Tag, &&Tag)| {
            got.body == want.body && got.timestamp.wrapping_sub(want.timestamp) == moved
        };
        at = video + got[video..].iter().zip(&source[from..]).take_while(same).count();
    }
    assert_eq!(at, got.len(), "{label}: goes on with {:?}", got[at]);
}

/// Waits until `player` has the last frame of `sent`, at whatever time; gives all it got.
#[track_caller]
fn until_last(label: &str, player: &Recorder, sent: &[Tag]) -> Vec<Tag> {
    let last = frames(sent).last().expect("frames").body.clone();
    wait_until(&format!("{label}: the last frame"), seconds(30), || {
        player.tags().iter().rev().any(|tag| tag.body == last)
    });
    assert!(!player.finished() && !player.ended(), "{label}: the player was sent away");
    player.tags()
}

#[track_caller]
fn wait_ready(server: &Server, standbys: usize) {
    wait_until("standbys are ready", seconds(20), || {
        server.stream("live/a").is_some_and(|stream| {
            stream.standbys.len() == standbys && stream.standbys.iter().all(|it| it.ready)
        })
    });
}

#[track_caller]
fn wait_switches(server: &Server, switches: u64) {
    wait_until("another publisher goes on", seconds(20), || {
        server.stream("live/a").is_some_and(|stream| stream.switches == switches)
    });
    for line in server.log().lines().filter(|line| line.contains("publisher switched")) {
        eprintln!("{line}");
    }
}

/// The first publisher dies, or falls silent (`None`): what players of the master and of a slave get.
fn dies(how: Option<End>, why: &str) {
    let slave = Setup::new().start();
    let master = Setup::new().publish(STAND_BY).forward_to(&[slave.rtmp]).start();
    let near = Recorder::start(master.rtmp, "live/a");
    let far = Recorder::start(slave.rtmp, "live/a");
    let first = Live::start(master.rtmp, "live/a", FIRST);
    first.wait_more(40);
    let second = Live::start(master.rtmp, "live/a", SECOND);
    wait_ready(&master, 1);
    first.wait_more(70);
    let (first, before) = match how {
        Some(end) => (None, first.stop(end)),
        None => {
            first.be_silent(true);
            wait_switches(&master, 1);
            let sent = first.sent();
            (Some(first), sent)
        }
    };
    wait_switches(&master, 1);
    assert!(master.log().contains(&format!("why=\"{why}\"")), "{}", master.log());
    second.wait_more(60);
    if let Some(first) = first {
        // It is back: it stands by, and nobody sees it.
        first.be_silent(false);
        wait_ready(&master, 1);
        second.wait_more(20);
    }
    let after = second.sent();
    for (label, player) in [("master", &near), ("slave", &far)] {
        let got = until_last(label, player, &after);
        let upto = frames(&after).last().expect("a frame").body.clone();
        let end = got.iter().rposition(|tag| tag.body == upto).expect("the last frame");
        assert_runs(label, &got[..=end], &[&before, &after]);
        let headers = got.iter().filter(|tag| tag.is_header() || tag.is_metadata()).count();
        assert_eq!(headers, 3, "{label}: the headers are the same, and came once");
    }
    assert_eq!(master.status().totals.switches, 1);
    assert!(!slave.log().contains("refused"), "{}", slave.log());
}

#[test]
fn the_second_goes_on_when_the_first_leaves() {
    dies(Some(End::Polite), "ended");
}

#[test]
fn the_second_goes_on_when_the_first_is_gone() {
    dies(Some(End::Abrupt), "ended");
}

#[test]
fn the_second_goes_on_when_the_first_is_reset() {
    dies(Some(End::Reset), "ended");
}

#[test]
fn the_second_goes_on_when_the_first_says_nothing() {
    dies(None, "silent");
}

#[test]
fn the_first_comes_back_stands_by_and_goes_on_when_the_second_dies() {
    let server = Setup::new().publish(STAND_BY).start();
    let player = Recorder::start(server.rtmp, "live/a");
    let a = Live::start(server.rtmp, "live/a", FIRST);
    let b = Live::start(server.rtmp, "live/a", SECOND);
    wait_ready(&server, 1);
    let first = a.stop(End::Abrupt);
    wait_switches(&server, 1);
    let again = Synthetic { start: 0, frame_bytes: 5002, ..FIRST };
    let a = Live::start(server.rtmp, "live/a", again);
    wait_ready(&server, 1);
    a.wait_more(60);
    assert_eq!(server.stream("live/a").unwrap().switches, 1, "no going back by itself");
    let second = b.stop(End::Reset);
    wait_switches(&server, 2);
    a.wait_more(30);
    let third = a.stop(End::Polite);
    let got = until_last("player", &player, &third);
    assert_runs("player", &got, &[&first, &second, &third]);
}

#[test]
fn a_standby_that_leaves_is_not_noticed_and_when_both_leave_the_stream_ends() {
    let server = Setup::new().publish("grace = \"500ms\"\nsecond = \"stand_by\"").start();
    let player = Recorder::start(server.rtmp, "live/a");
    let first = Live::start(server.rtmp, "live/a", FIRST);
    let second = Live::start(server.rtmp, "live/a", SECOND);
    wait_ready(&server, 1);
    second.stop(End::Abrupt);
    wait_until("it is gone", seconds(10), || server.stream("live/a").unwrap().standbys.is_empty());
    let second = Live::start(server.rtmp, "live/a", SECOND);
    wait_ready(&server, 1);
    drop(second);
    wait_until("it is gone", seconds(10), || server.stream("live/a").unwrap().standbys.is_empty());
    first.wait_more(30);
    let sent = first.stop(End::Abrupt);
    wait_until("the player is told", seconds(10), || player.finished() && player.ended());
    assert_same_sequence("player", &sent, &player.tags(), Start::First);
    wait_until("nothing is left", seconds(10), || server.status().streams.is_empty());
}

#[test]
fn who_takes_over_is_the_publisher_and_the_first_is_told_why() {
    let slave = Setup::new().start();
    let master = Setup::new()
        .publish("grace = \"20s\"\nsecond = \"take_over\"")
        .forward_to(&[slave.rtmp])
        .start();
    let near = Recorder::start(master.rtmp, "live/a");
    let far = Recorder::start(slave.rtmp, "live/a");
    let mut peer = Peer::publish(master.rtmp, "live/a");
    let first: Vec<Tag> =
        FIRST.preamble().into_iter().chain((0..30).flat_map(|n| FIRST.frame(n))).collect();
    first.iter().for_each(|tag| peer.send(tag).unwrap());
    slave.wait_live("live/a");
    until_last("slave", &far, &first);
    let second = Live::start(master.rtmp, "live/a", SECOND);
    let said = peer.until_closed(seconds(10));
    let is_told = |seen: &Seen| {
        matches!(seen, Seen::Failed(SessionError::Refused { code, .. })
            if code == "NetStream.Publish.BadName")
    };
    assert!(said.iter().any(is_told), "{said:?}");
    second.wait_more(30);
    let after = second.stop(End::Polite);
    for (label, player) in [("master", &near), ("slave", &far)] {
        let got = until_last(label, player, &after);
        assert_runs(label, &got, &[&first, &after]);
    }
}

#[test]
fn a_second_one_is_refused_unless_the_first_says_nothing_any_more() {
    let server = Setup::new().publish("grace = \"20s\"").start();
    let player = Recorder::start(server.rtmp, "live/a");
    let first = Live::start(server.rtmp, "live/a", FIRST);
    first.wait_more(20);
    let refused = Peer::open(server.rtmp, Goal::Publish, "live/a").until_closed(seconds(10));
    assert!(matches!(&refused[..], [Seen::Failed(SessionError::Refused { .. })]), "{refused:?}");
    // Its connection broke where nobody could see it.
    first.be_silent(true);
    let mut second = None;
    wait_until("the first one's place is free", seconds(30), || {
        let mut peer = Peer::open(server.rtmp, Goal::Publish, "live/a");
        let is_in = peer.next(seconds(10)) == Some(Seen::Started);
        second = is_in.then_some(peer);
        is_in
    });
    let second = Live::of(second.unwrap(), SECOND, 0);
    wait_until("the first one is sent away", seconds(10), || first.is_over());
    second.wait_more(20);
    let sent = second.stop(End::Polite);
    until_last("player", &player, &sent);
}

#[test]
fn an_encoder_that_is_killed_is_replaced_by_another_of_other_codecs() {
    let server = Setup::new().publish(STAND_BY).start();
    let (dir, how) = (server.dir(), Publish { endless: true, ..Publish::default() });
    let [one, other] = [Clip::plain(), Clip::b_frames()];
    let player = Recorder::start(server.rtmp, "live/a");
    let mut first = ffmpeg_publish(dir, &one.path, &server.url("live/a"), how);
    server.wait_live("live/a");
    let _second = ffmpeg_publish(dir, &other.path, &server.url("live/a"), how);
    wait_ready(&server, 1);
    let count = player.count();
    wait_until("the first one plays", seconds(20), || player.count() > count + 60);
    first.kill();
    wait_switches(&server, 1);
    let count = player.count();
    wait_until("the second one plays", seconds(20), || player.count() > count + 60);
    let got = player.tags();
    assert!(!player.ended());
    assert_monotonic("player", &got);
    let bodies = |clip: &Clip| {
        let published = clip.published(dir, Publish::default());
        published.into_iter().map(|tag| tag.body).collect::<std::collections::HashSet<_>>()
    };
    let (one, other) = (bodies(&one), bodies(&other));
    let video: Vec<&Tag> = got.iter().filter(|tag| tag.kind == VIDEO).collect();
    let at = video.iter().position(|tag| other.contains(&tag.body)).expect("the second one");
    assert!(video[..at].iter().all(|tag| one.contains(&tag.body)), "the first one's video");
    assert!(video[at].is_header() && video[at + 1].is_keyframe(), "{:?}", &video[at..at + 2]);
    assert!(video[at..].iter().all(|tag| other.contains(&tag.body)), "the second one's video");
}

#[test]
fn a_slave_of_two_masters_misses_nothing_when_one_is_killed() {
    let slave = Setup::new().publish(STAND_BY).start();
    let mut masters = [(); 2].map(|()| Setup::new().forward_to(&[slave.rtmp]).start());
    let source = Setup::new().forward_to(&masters.each_ref().map(|it| it.rtmp)).start();
    let player = Recorder::start(slave.rtmp, "live/a");
    let live = Live::start(source.rtmp, "live/a", FIRST);
    wait_ready(&slave, 1);
    live.wait_more(60);
    // Whoever came first publishes there.
    let publisher = slave.stream("live/a").unwrap().publisher;
    let log = slave.log();
    let line = log.lines().find(|line| line.contains("publish") && line.contains(&publisher));
    assert!(line.is_some_and(|line| !line.contains("stands by")), "{log}");
    let of = |server: &Server| server.stream("live/a").unwrap().forwards[0].clone();
    let sent: Vec<u64> = masters.iter().map(|master| of(master).sent_bytes).collect();
    assert!(sent.iter().all(|bytes| *bytes > 0), "both forward: {sent:?}");
    for master in &mut masters {
        master.kill();
        let switched = |slave: &Server| {
            slave
                .stream("live/a")
                .is_some_and(|it| it.publisher != publisher && it.standbys.is_empty())
        };
        live.wait_more(30);
        if switched(&slave) {
            break;
        }
        // It was the one that stood by.
        master.restart();
        wait_ready(&slave, 1);
    }
    wait_switches(&slave, 1);
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(20));
    assert_same_sequence("player", &sent, &got, Start::First);
}

/// Publishers at two edges are two publishers at their origin.
fn through_edges(splice: &'static str) {
    let origin = Setup::new().publish(STAND_BY).start();
    let edge =
        || Setup::new().publish("grace = \"1s\"").splice(splice).edge_of(&[origin.rtmp]).start();
    let (mut one, other, third) = (edge(), edge(), edge());
    let near = Recorder::start(origin.rtmp, "live/a");
    let first = Live::start(one.rtmp, "live/a", FIRST);
    first.wait_more(40);
    let far = Recorder::start(third.rtmp, "live/a");
    let second = Live::start(other.rtmp, "live/a", SECOND);
    wait_ready(&origin, 1);
    let refused = Peer::open(other.rtmp, Goal::Publish, "live/a").until_closed(seconds(10));
    assert!(!refused.contains(&Seen::Started), "an edge has one publisher of a name: {refused:?}");
    first.wait_more(30);
    one.kill();
    let before = first.sent();
    wait_switches(&origin, 1);
    second.wait_more(40);
    let after = second.stop(End::Polite);
    for (label, player) in [("origin", near), ("edge", far)] {
        let got = until_last(label, &player, &after);
        assert_runs(label, &got, &[&before, &after]);
    }
}

#[test]
fn publishers_through_two_edges_stand_by_for_each_other_by_relays() {
    through_edges("never");
}

#[test]
fn publishers_through_two_edges_stand_by_for_each_other_by_legs() {
    through_edges("always");
}

#[test]
fn servers_that_forward_to_each_other_keep_no_stream_alive_between_them() {
    let (a, b) = (free_address(), free_address());
    let start = |at: SocketAddr, to: SocketAddr| {
        let forward = format!("retry_refused = \"1s\"\ndestination = [\"{to}\"]");
        Setup::new().listen(at).publish(STAND_BY).forward(&forward).start()
    };
    let (one, other) = (start(a, b), start(b, a));
    let first = Live::start(a, "live/a", FIRST);
    other.wait_live("live/a");
    let second = Live::start(b, "live/a", SECOND);
    wait_ready(&other, 1);
    second.wait_more(60);
    first.stop(End::Abrupt);
    // The other one goes on with its own, and this one with what that forwards.
    wait_switches(&other, 1);
    wait_until("what comes from there does not go there", seconds(30), || {
        let told = one.stream("live/a").map(|it| it.forwards).unwrap_or_default();
        told.iter().any(|it| it.last_error.contains("forward loop"))
    });
    wait_until("it goes on", seconds(30), || one.is_live("live/a") && other.is_live("live/a"));
    second.wait_more(20);
    second.stop(End::Abrupt);
    wait_until("nobody publishes", seconds(10), || !other.is_live("live/a"));
}

#[test]
fn who_stands_by_is_told_apart_in_the_api_and_only_so_many_may() {
    let server =
        Setup::new().publish("second = \"stand_by\"\nstandbys = 2").listen(free_address()).start();
    let lives = [FIRST, SECOND, SECOND].map(|source| Live::start(server.rtmp, "live/a", source));
    wait_ready(&server, 2);
    let refused = Peer::open(server.rtmp, Goal::Publish, "live/a").until_closed(seconds(10));
    assert!(matches!(&refused[..], [Seen::Failed(SessionError::Refused { .. })]), "{refused:?}");
    let states = server.clients("").clients.into_iter().map(|client| client.state);
    assert_eq!(states.collect::<Vec<_>>(), ["publishing", "standby", "standby"]);
    let stream = server.stream("live/a").unwrap();
    assert!(stream.standbys.iter().all(|it| it.held_bytes > 0 && it.peer != stream.publisher));
    let metrics = http_get(server.api, "/metrics").unwrap();
    let name = "{vhost=\"__defaultVhost__\",app=\"live\",stream=\"a\"}";
    assert!(metrics.contains(&format!("forwarder_stream_standbys{name} 2\n")), "{metrics}");
    let [first, ..] = lives;
    drop(first);
    wait_switches(&server, 1);
    let metrics = http_get(server.api, "/metrics").unwrap();
    assert!(metrics.contains(&format!("forwarder_stream_switches_total{name} 1\n")), "{metrics}");
    assert!(metrics.contains("forwarder_switches_total 1\n"), "{metrics}");
    let mut status = Command::new(env!("CARGO_BIN_EXE_forwarder"));
    let said = status.args(["status", "--api", &server.api.to_string()]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains(", standby 127.0.0.1:") && said.contains(", 1 switched"), "{said}");
}
