//! A player of an edge that has a leg gets an origin's own bytes, and keeps getting them.
mod common;

use std::net::SocketAddr;

use common::compare::{Start, assert_headers_once, assert_same_sequence, assert_whole_messages};
use common::flv::{AUDIO, Tag, VIDEO};
use common::legs::{edge_of, paths, wait_legs};
use common::media::Synthetic;
use common::peer::{End, Live, Peer, Recorder};
use common::raw::Raw;
use common::server::{Cluster, Setup};
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::amf0::Value;
use forwarder::status::LegStatus;
use nix::sys::signal::Signal;

#[test]
fn status_shows_where_a_leg_is_carried() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
        let player = Peer::play(edge.rtmp, "live/a");
        wait_legs(&edge, 1);
        let leg = edge.status().legs.remove(0);
        assert!(edge.status().splice.starts_with(path), "{}", edge.status().splice);
        assert_eq!((leg.path.as_str(), leg.stream.as_str()), (path, "a"), "{leg:?}");
        let stream = edge.stream("live/a").expect("the stream of the leg");
        assert_eq!((stream.state.as_str(), stream.players, stream.legs), ("legs", 1, 1));
        assert_eq!((leg.peer, leg.origin), (player.local().to_string(), origin.rtmp.to_string()));
        wait_until("bytes grow", seconds(5), || {
            edge.status().legs[0].bytes > leg.bytes.max(10_000)
        });
        // the player leaves
        drop(player);
        wait_legs(&edge, 0);
        origin.wait_players("live/a", 0);
        live.stop(End::Polite);
    }
}

#[test]
fn twenty_players_survive_the_death_of_their_origin() {
    for (kernel, path) in paths() {
        let mut cluster = Cluster::start(2);
        let origins: Vec<SocketAddr> = cluster.slaves.iter().map(|slave| slave.rtmp).collect();
        let edge = edge_of(&origins, kernel).start();
        let source = Synthetic { start: 500_000, ..Synthetic::default() };
        let live = Live::start(cluster.master.rtmp, "live/a", source);
        cluster.slaves.iter().for_each(|slave| slave.wait_live("live/a"));
        let all: Vec<(String, Recorder)> = (0..20)
            .map(|_| Peer::play(edge.rtmp, "live/a"))
            .map(|peer| (peer.local().to_string(), Recorder::of(peer)))
            .collect();
        wait_until("media", seconds(10), || all.iter().all(|(_, player)| player.count() > 20));
        // the load is shared
        cluster.slaves.iter().for_each(|slave| slave.wait_players("live/a", 10));
        cluster.slaves[0].kill();
        cluster.slaves[1].wait_players("live/a", 20);
        live.wait_more(60);
        let legs = edge.status().legs;
        assert!(legs.iter().all(|leg| leg.path == path));
        let moved: Vec<String> =
            legs.iter().filter(|leg| leg.connects == 2).map(|leg| leg.peer.clone()).collect();
        assert_eq!((legs.len(), moved.len()), (20, 10));
        let sent = live.stop(End::Polite);
        let last = sent.iter().rfind(|tag| tag.is_frame()).unwrap();
        for (address, player) in all {
            wait_until("the last frame", seconds(10), || player.has(last));
            assert!(!player.ended(), "{address} was disconnected");
            let got = player.tags();
            if moved.contains(&address) {
                assert_joined(&address, &source, &sent, &got);
            } else {
                assert_same_sequence(&address, &sent, &got, Start::Keyframe);
                assert_headers_once(&address, &sent, &got);
            }
        }
    }
}

/// `got` is as it was published up to some message, perhaps with a frame after it that was cut, and
/// from the newest keyframe at the next origin on, with headers before it. Nothing is older than
/// that keyframe's group of pictures.
#[track_caller]
fn assert_joined(label: &str, source: &Synthetic, sent: &[Tag], got: &[Tag]) {
    // Headers come when the player joins, and when the next origin plays.
    let headers = got.iter().enumerate().filter(|(_, tag)| tag.is_header());
    let headers: Vec<usize> = headers.map(|(at, _)| at).collect();
    let &[_, _, first, second] = &*headers else { panic!("{label}: headers at {headers:?}") };
    let (mut before, after) = (got[..first].to_vec(), &got[first..]);
    assert_eq!(after.iter().position(Tag::is_frame), Some(second + 1 - first), "{label}: headers");
    assert_headers_once(label, sent, after);
    before.truncate(before.iter().rposition(Tag::is_frame).expect("frames") + 1);
    let cut = before.pop_if(|tag| !sent.contains(tag));
    assert_eq!(assert_whole_messages(label, sent, &before), 0, "{label}: before the other origin");
    assert_same_sequence(label, sent, after, Start::Keyframe);
    let joined = &after[second + 1 - first];
    let step = joined.timestamp.wrapping_sub(before[before.len() - 1].timestamp).cast_signed();
    let group = source.offset(source.gop).cast_signed();
    eprintln!("{label} goes on {step} ms from where it was, cut: {}", cut.is_some());
    assert!(step > -group, "{label}: goes back by {step} ms");
}

#[test]
fn players_in_the_kernel_do_not_need_the_process() {
    let Some((kernel, _)) = paths().into_iter().find(|(_, path)| *path == "kernel") else { return };
    let origin = Setup::new().start();
    let edge = edge_of(&[origin.rtmp], kernel).start();
    let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
    let player = Recorder::start(edge.rtmp, "live/a");
    wait_until("media", seconds(5), || player.count() > 20);
    edge.signal(Signal::SIGSTOP);
    let begin = std::time::Instant::now();
    while begin.elapsed() < seconds(5) {
        let before = player.count();
        wait_until("media goes on", seconds(1), || player.count() > before);
    }
    edge.signal(Signal::SIGCONT);
    live.wait_more(20);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(5));
    assert_same_sequence("player", &sent, &got, Start::Keyframe);
}

#[test]
fn the_second_player_of_a_stream_shares_a_pull() {
    let origin = Setup::new().start();
    let edge = Setup::new().edge_of(&[origin.rtmp]).splice("auto").start();
    let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
    let first = Recorder::start(edge.rtmp, "live/a");
    wait_legs(&edge, 1);
    let others: Vec<Recorder> = (0..3).map(|_| Recorder::start(edge.rtmp, "live/a")).collect();
    edge.wait_players("live/a", 4);
    origin.wait_players("live/a", 2);
    let status = edge.status();
    assert_eq!((status.legs.len(), status.pulls.len(), status.pulls[0].players), (1, 1, 3));
    assert_eq!((status.streams.len(), status.streams[0].legs), (1, 1));
    wait_until("media", seconds(5), || others.iter().all(|player| player.count() > 10));
    live.wait_more(40);
    let sent = live.stop(End::Polite);
    for player in others.into_iter().chain([first]) {
        let got = player.until_last(&sent, seconds(5));
        assert_same_sequence("player", &sent, &got, Start::Keyframe);
        assert_headers_once("player", &sent, &got);
    }
}

#[test]
fn a_stream_that_is_not_there_is_waited_for_as_at_the_origin() {
    for (kernel, _) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let player = Recorder::start(edge.rtmp, "live/a");
        origin.wait_players("live/a", 1);
        let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
        live.wait_more(40);
        let sent = live.stop(End::Polite);
        let got = player.until_last(&sent, seconds(5));
        assert_same_sequence("player", &sent, &got, Start::First);
    }
}

#[test]
fn players_are_told_when_there_is_no_origin_and_when_the_edge_stops() {
    let nobody = edge_of(&[free_address()], "never").edge("failover_timeout = \"500ms\"").start();
    let mut refused = Peer::open(nobody.rtmp, forwarder::rtmp::session::Goal::Play, "live/a");
    let said = format!("{:?}", refused.until_closed(seconds(5)));
    assert!(said.contains("NetStream.Play.Failed"), "{said}");

    for (kernel, _) in paths() {
        let origin = Setup::new().start();
        let mut edge = edge_of(&[origin.rtmp], kernel).start();
        let _live = Live::start(origin.rtmp, "live/a", Synthetic::default());
        let player = Recorder::start(edge.rtmp, "live/a");
        wait_until("media", seconds(5), || player.count() > 20);
        assert_eq!(edge.terminate(), Some(0));
        wait_until("the end", seconds(5), || player.ended());
        assert!(player.finished(), "told before it was closed");
    }
}

#[test]
fn what_a_player_says_is_answered_by_its_origin() {
    for (kernel, _) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
        live.wait_more(10);
        let mut player = Raw::connect(edge.rtmp);
        player.ready();
        player.play("a");
        player.expect("NetStream.Play.Start");
        player.command(1, "pause", 5.0, vec![Value::Null, Value::Boolean(true)]);
        player.expect("NetStream.Pause.Notify");
        player.command(1, "pause", 6.0, vec![Value::Null, Value::Boolean(false)]);
        player.expect("NetStream.Unpause.Notify");
        player.command(1, "seek", 7.0, vec![Value::Null, Value::Number(0.0)]);
        player.expect("NetStream.Seek.Failed");
        player.command(0, "anything", 8.0, vec![Value::Null]);
        player.expect("_result");
        // It closes its stream, and plays again on the same connection.
        for _ in 0..2 {
            player.command(1, "closeStream", 0.0, vec![Value::Null]);
            wait_legs(&edge, 0);
            origin.wait_players("live/a", 0);
            player.play("a");
            player.expect("NetStream.Play.Start");
            wait_legs(&edge, 1);
        }
        player.command(1, "publish", 9.0, vec![Value::Null, Value::string("b")]);
        assert!(player.is_closed_within(seconds(5)), "a player that publishes");
        wait_legs(&edge, 0);
        live.stop(End::Polite);
    }
}

#[test]
fn an_origin_that_hangs_is_left_but_not_while_the_player_has_paused() {
    for (kernel, _) in paths() {
        let cluster = Cluster::start(2);
        let origins: Vec<SocketAddr> = cluster.slaves.iter().map(|slave| slave.rtmp).collect();
        let edge = edge_of(&origins, kernel).edge("idle_timeout = \"400ms\"").start();
        let live = Live::start(cluster.master.rtmp, "live/a", Synthetic::default());
        cluster.slaves.iter().for_each(|slave| slave.wait_live("live/a"));
        let mut player = Raw::connect(edge.rtmp);
        player.ready();
        player.play("a");
        player.expect("NetStream.Play.Start");
        let connects = || edge.status().legs[0].connects;
        let used = || {
            cluster
                .slaves
                .iter()
                .find(|slave| slave.rtmp.to_string() == edge.status().legs[0].origin)
        };
        let pause = |on| vec![Value::Null, Value::Boolean(on)];
        player.command(1, "pause", 0.0, pause(true));
        player.expect("NetStream.Pause.Notify");
        live.wait_more(100);
        assert_eq!(connects(), 1, "a player that has paused is left alone");
        player.command(1, "pause", 0.0, pause(false));
        player.expect("NetStream.Unpause.Notify");
        wait_until("media", seconds(5), || edge.status().legs[0].bytes > 20_000);
        let hung = used().expect("an origin");
        hung.signal(Signal::SIGSTOP);
        wait_until("another origin", seconds(5), || connects() == 2);
        player.expect("NetStream.Play.Start");
        hung.signal(Signal::SIGCONT);
    }
}

#[test]
fn a_player_chooses_what_its_leg_brings() {
    for (kernel, _) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
        let mut player = Raw::connect(edge.rtmp);
        player.ready();
        player.play("a");
        player.expect("NetStream.Play.Start");
        let both = |media: &[(u8, u8)]| {
            [AUDIO, VIDEO].iter().all(|kind| media.iter().any(|(is, _)| is == kind))
        };
        player.expect_media("audio and video", 20, both);
        let wants = |on| vec![Value::Null, Value::Boolean(on)];
        for (command, kind) in [("receiveAudio", AUDIO), ("receiveVideo", VIDEO)] {
            player.command(1, command, 0.0, wants(false));
            player.expect_media(command, 20, |media| media.iter().all(|(is, _)| *is != kind));
            player.command(1, command, 0.0, wants(true));
            player.expect_media(command, 20, both);
            if kind == VIDEO {
                // Its header, and a keyframe.
                let first: Vec<u8> = player.media_of(VIDEO).take(2).collect();
                assert!(first.iter().all(|byte| byte >> 4 == 1), "{first:x?}");
            }
        }
        assert_eq!(edge.status().legs[0].connects, 1);
        live.stop(End::Polite);
    }
}

#[test]
fn a_player_takes_another_stream_on_the_connection_of_its_leg() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let lives = ["a", "b"]
            .map(|name| Live::start(origin.rtmp, &format!("live/{name}"), Synthetic::default()));
        let mut player = Raw::connect(edge.rtmp);
        player.ready();
        player.play("a");
        player.expect("NetStream.Play.Start");
        player.expect_media("the first stream", 20, |_| true);
        // Not a word is waited for.
        for (round, name) in ["b", "a", "a", "b"].into_iter().enumerate() {
            if round % 2 == 0 {
                player.command(1, "closeStream", 0.0, vec![Value::Null]);
            } else {
                player.command(0, "deleteStream", 0.0, vec![Value::Null, Value::Number(1.0)]);
                player.command(0, "createStream", 7.0, vec![Value::Null]);
            }
            player.play(name);
            player.expect("NetStream.Play.Start");
            player.expect_media("media again", 20, |_| true);
            wait_until("a leg", seconds(5), || {
                let legs = edge.status().legs;
                let is = |leg: &LegStatus| leg.stream == name && leg.path == path;
                legs.len() == 1 && is(&legs[0])
            });
            let other = if name == "a" { "live/b" } else { "live/a" };
            origin.wait_players(&format!("live/{name}"), 1);
            origin.wait_players(other, 0);
        }
        for live in lives {
            live.stop(End::Polite);
        }
    }
}
