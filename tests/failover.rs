//! A slave or a publisher dies and comes back; nobody else notices.
mod common;

use std::time::Instant;

use common::compare::{Start, assert_headers_once, assert_monotonic, assert_same_sequence};
use common::flv::Tag;
use common::media::Synthetic;
use common::peer::{End, Live, Peer, Recorder};
use common::server::{Cluster, Setup};
use common::sink::Sink;
use common::{free_address, seconds, wait_until};

/// About 5 Mbit/s.
fn load() -> Synthetic {
    Synthetic { frame_bytes: 25_000, ..Synthetic::default() }
}

#[test]
fn a_slave_that_dies_and_returns_disturbs_nobody() {
    let mut cluster = Cluster::start(2);
    let other = Recorder::start(cluster.slaves[1].rtmp, "live/a");
    let at_master = Recorder::start(cluster.master.rtmp, "live/a");
    let live = Live::start(cluster.master.rtmp, "live/a", load());
    cluster.slaves.iter().for_each(|s| s.wait_live("live/a"));
    live.wait_more(50);

    cluster.slaves[0].kill();
    live.wait_more(100); // two seconds of outage
    cluster.slaves[0].restart();
    let listening = Instant::now();
    cluster.slaves[0].wait_live("live/a");
    let took = listening.elapsed();
    eprintln!("the stream was back {took:?} after the slave listened again");
    assert!(took < seconds(5), "took {took:?}");

    let again = Recorder::start(cluster.slaves[0].rtmp, "live/a");
    live.wait_more(80);
    let sent = live.stop(End::Polite);
    let got = other.until_last(&sent, seconds(10));
    assert_same_sequence("the other slave", &sent, &got, Start::First);
    let got = at_master.until_last(&sent, seconds(10));
    assert_same_sequence("the master", &sent, &got, Start::First);
    let got = again.until_last(&sent, seconds(10));
    assert_same_sequence("the slave that was back", &sent, &got, Start::Keyframe);
    assert_headers_once("the slave that was back", &sent, &got);
}

#[test]
fn a_slave_that_returns_gets_headers_once_and_starts_at_the_newest_keyframe() {
    let address = free_address();
    let sink = Sink::start(address);
    let master = Setup::new().forward_to(&[address]).start();
    let live = Live::start(master.rtmp, "live/a", load());
    wait_until("media", seconds(10), || sink.count() > 50);
    drop(sink);
    live.wait_more(200); // four GOPs of backlog, if there were one

    let edge = live.edge();
    let sink = Sink::start(address);
    let listening = Instant::now();
    wait_until("it is back", seconds(10), || sink.count() > 3);
    eprintln!("media {:?} after the slave listened again", listening.elapsed());
    live.wait_more(80);
    let sent = live.stop(End::Polite);
    wait_until("unpublished", seconds(5), || sink.received().iter().any(|r| r.unpublished));

    let tags = sink.received().remove(0).tags;
    assert_eq!(sink.received().len(), 1, "one connection was enough");
    assert_same_sequence("after the outage", &sent, &tags, Start::Keyframe);
    assert_headers_once("after the outage", &sent, &tags);
    assert_monotonic("after the outage", &tags);
    let first = tags.iter().find(|t| t.is_frame()).unwrap();
    let behind = edge.wrapping_sub(first.timestamp).cast_signed();
    assert!(behind <= 1100, "starts {behind} ms before the moment it was back: stale backlog");
}

#[test]
fn a_slave_that_accepts_and_never_reads_disturbs_nobody() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sink = Sink::start(free_address());
    let destinations = [silent.local_addr().unwrap(), sink.address];
    let master = Setup::new().forward_to(&destinations).start();
    let live = Live::start(master.rtmp, "live/a", load());
    live.wait_more(200);
    let sent = live.stop(End::Polite);
    wait_until("unpublished", seconds(5), || sink.received().iter().all(|r| r.unpublished));
    assert_same_sequence("the other", &sent, &sink.received()[0].tags, Start::First);
}

/// The publisher leaves by `end` and comes back with frame `first`; players go on, near and far.
fn publisher_returns(end: End, first: u32) {
    let slave = Setup::new().publish("grace = \"20s\"").start();
    let master = Setup::new().publish("grace = \"20s\"").forward_to(&[slave.rtmp]).start();
    let source = Synthetic::default();
    let near = Recorder::start(master.rtmp, "live/a");
    let far = Recorder::start(slave.rtmp, "live/a");
    let live = Live::start(master.rtmp, "live/a", source);
    live.wait_more(60);
    let before = live.stop(end);
    wait_until("it is missed", seconds(5), || {
        master.stream("live/a").is_some_and(|s| s.state == "grace")
    });
    let live = Live::of(Peer::publish(master.rtmp, "live/a"), source, first);
    live.wait_more(60);
    let after = live.stop(End::Polite);
    let frames = [frames(&before), frames(&after)].concat();
    for (label, player) in [("master", near), ("slave", far)] {
        wait_until("all frames", seconds(10), || {
            self::frames(&player.tags()).len() >= frames.len()
        });
        assert!(!player.ended() && !player.finished(), "{label}: the player was sent away");
        let got = self::frames(&player.tags());
        for (i, (want, got)) in frames.iter().zip(&got).enumerate() {
            assert_eq!(got, want, "{label}: frame {i}");
        }
        assert_eq!(got.len(), frames.len(), "{label}: number of frames");
    }
}

fn frames(tags: &[Tag]) -> Vec<Tag> {
    tags.iter().filter(|t| t.is_frame()).cloned().collect()
}

#[test]
fn players_wait_for_a_publisher_that_crashed() {
    // an encoder that starts anew starts its clock anew
    publisher_returns(End::Abrupt, 0);
}

#[test]
fn players_wait_for_a_publisher_that_left() {
    // a connection that was renewed goes on
    publisher_returns(End::Polite, 100);
}

#[test]
fn players_are_told_when_the_publisher_stays_away() {
    let server = Setup::new().publish("grace = \"500ms\"").start();
    let player = Recorder::start(server.rtmp, "live/a");
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    live.wait_more(30);
    live.stop(End::Abrupt);
    wait_until("the player is told", seconds(5), || player.finished());
    wait_until("and closed", seconds(5), || player.ended());
    wait_until("nothing is left", seconds(5), || server.status().streams.is_empty());
}
