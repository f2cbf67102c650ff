//! A player of an edge that has a leg gets an origin's own bytes, and keeps getting them.
mod common;

use std::net::SocketAddr;
use std::process::Command;

use common::compare::{
    Start, assert_headers_once, assert_monotonic, assert_same_media, assert_same_sequence,
};
use common::external::{Player, Publish, ffmpeg_publish};
use common::flv::Tag;
use common::media::{Clip, Synthetic};
use common::nginx::Nginx;
use common::peer::{End, Live, Peer, Recorder};
use common::raw::Raw;
use common::server::{Cluster, Server, Setup};
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::amf0::Value;
use nix::sys::signal::Signal;

/// Where legs can be carried here: the top-level `kernel` that asks for it, and what `status` says.
fn paths() -> Vec<(&'static str, &'static str)> {
    let doctor = Command::new(env!("CARGO_BIN_EXE_forwarder")).arg("doctor").output();
    let doctor = doctor.expect("forwarder doctor");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let kernel = said.lines().any(|line| line == "splice: kernel");
    let all = [("never", "user"), ("always", "kernel")];
    all.into_iter().take(if kernel { 2 } else { 1 }).collect()
}

/// An edge whose players all have legs.
fn edge_of(origins: &[SocketAddr], kernel: &str) -> Setup {
    Setup::new().global(&format!("kernel = \"{kernel}\"")).edge_of(origins).splice("always")
}

#[track_caller]
fn wait_legs(edge: &Server, n: usize) {
    wait_until(&format!("{n} legs"), seconds(15), || {
        let legs = edge.status().legs;
        legs.len() == n && legs.iter().all(|leg| !leg.origin.is_empty())
    });
}

#[test]
fn every_player_gets_by_a_leg_what_the_slave_got() {
    for (kernel, path) in paths() {
        let cluster = Cluster::start(1);
        let slave = &cluster.slaves[0];
        let edge = edge_of(&[slave.rtmp], kernel).start();
        let (dir, url) = (edge.dir(), edge.url("live/a"));
        let through_edge = [
            ("ffmpeg", Player::ffmpeg(dir, &url)),
            ("rtmpdump", Player::rtmpdump(dir, &url)),
            ("gst", Player::gstreamer(dir, &url)),
        ];
        let recorder = Recorder::start(edge.rtmp, "live/a");
        let direct = Player::rtmpdump(slave.dir(), &slave.url("live/a"));
        wait_legs(&edge, 4);
        slave.wait_players("live/a", 5);
        let legs = edge.status().legs;
        assert!(legs.iter().all(|leg| leg.path == path), "{legs:?}");
        let (clip, how) = (Clip::plain(), Publish::default());
        let to = cluster.master.url("live/a");
        ffmpeg_publish(cluster.master.dir(), &clip.path, &to, how).succeed(seconds(30));
        let want = direct.finish(seconds(20));
        for (label, player) in through_edge {
            let got = player.finish(seconds(30));
            assert_same_media(label, &want, &got, Start::First);
            assert_monotonic(label, &got);
            if label != "ffmpeg" {
                assert_headers_once(label, &want, &got);
            }
        }
        wait_until("the end", seconds(5), || recorder.finished());
        assert_same_media("recorder", &want, &recorder.tags(), Start::First);
        drop(recorder);
        wait_legs(&edge, 0);
    }
}

#[test]
fn nginx_is_an_origin_of_legs_too() {
    for (kernel, _) in paths() {
        let dir = tempfile::tempdir().unwrap();
        let nginx = Nginx::start(dir.path(), None);
        let edge = edge_of(&[nginx.address()], kernel).start();
        let player = Player::rtmpdump(edge.dir(), &edge.url("live/a"));
        let ffmpeg = Player::ffmpeg(edge.dir(), &edge.url("live/a"));
        let direct = Player::rtmpdump(edge.dir(), &nginx.url("a"));
        wait_until("all play", seconds(10), || nginx.plays() == 3);
        let (clip, how) = (Clip::plain(), Publish::default());
        ffmpeg_publish(edge.dir(), &clip.path, &nginx.url("a"), how).succeed(seconds(30));
        let want = direct.finish(seconds(30));
        let got = player.finish(seconds(30));
        assert_same_media("rtmpdump", &want, &got, Start::First);
        assert_same_media("ffmpeg", &want, &ffmpeg.finish(seconds(30)), Start::First);
    }
}

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
        let live = Live::start(cluster.master.rtmp, "live/a", Synthetic::default());
        cluster.slaves.iter().for_each(|slave| slave.wait_live("live/a"));
        let all: Vec<Recorder> = (0..20).map(|_| Recorder::start(edge.rtmp, "live/a")).collect();
        wait_until("media", seconds(10), || all.iter().all(|player| player.count() > 20));
        // the load is shared
        cluster.slaves.iter().for_each(|slave| slave.wait_players("live/a", 10));
        cluster.slaves[0].kill();
        cluster.slaves[1].wait_players("live/a", 20);
        live.wait_more(60);
        let legs = edge.status().legs;
        assert!(legs.iter().all(|leg| leg.path == path));
        let moved = legs.iter().filter(|leg| leg.connects == 2).count();
        assert_eq!((legs.len(), moved), (20, 10));
        let sent = live.stop(End::Polite);
        let last = sent.iter().rfind(|tag| tag.is_frame()).unwrap();
        for (n, player) in all.iter().enumerate() {
            wait_until("the last frame", seconds(10), || player.has(last));
            assert!(!player.ended(), "player {n} was disconnected");
            let got = player.tags();
            // At most the one frame that was cut is not as it was published.
            let odd = |tag: &&Tag| tag.is_frame() && !sent.contains(tag);
            assert!(got.iter().filter(odd).count() <= 1, "player {n}");
        }
    }
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
    while begin.elapsed() < seconds(3) {
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
    edge.wait_players("live/a", 3);
    origin.wait_players("live/a", 2);
    let status = edge.status();
    assert_eq!((status.legs.len(), status.pulls.len(), status.pulls[0].players), (1, 1, 3));
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
