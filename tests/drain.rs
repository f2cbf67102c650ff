//! A server that is about to stop sends on who can be sent, and nobody loses anything by it.
mod common;

use std::net::SocketAddr;

use common::compare::{
    Start, assert_headers_once, assert_monotonic, assert_same_sequence, assert_whole_messages,
};
use common::flv::Tag;
use common::legs::{edge_of, paths, publishers, wait_carried, wait_legs};
use common::media::Synthetic;
use common::peer::{End, Live, Peer, Recorder, Seen, little_room};
use common::server::{Cluster, Server, Setup};
use common::{seconds, wait_until};
use forwarder::rtmp::session::Goal;
use nix::sys::signal::Signal;

/// The one of two servers that has players of the stream, and the other.
fn that_serves(servers: Vec<Server>) -> (Server, Server) {
    let [first, second] = <[Server; 2]>::try_from(servers).ok().expect("two servers");
    let has_players = |server: &Server| server.stream("live/a").is_some_and(|s| s.players > 0);
    wait_until("one serves", seconds(15), || has_players(&first) != has_players(&second));
    if has_players(&first) { (first, second) } else { (second, first) }
}

fn addresses(servers: &[Server]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.rtmp).collect()
}

#[test]
fn players_of_a_shared_pull_lose_nothing_when_their_origin_drains() {
    let cluster = Cluster::start(2);
    let edge = Setup::new().edge_of(&addresses(&cluster.slaves)).start();
    let live = Live::start(cluster.master.rtmp, "live/a", Synthetic::default());
    cluster.slaves.iter().for_each(|slave| slave.wait_live("live/a"));
    let player = Recorder::start(edge.rtmp, "live/a");
    wait_until("media", seconds(10), || player.count() > 40);
    let (mut origin, other) = that_serves(cluster.slaves);

    assert_eq!(origin.terminate(), Some(0), "{}", origin.log());
    assert!(!origin.log().contains("before all was drained"), "{}", origin.log());
    other.wait_players("live/a", 1);
    live.wait_more(60);
    assert!(!player.finished() && !player.ended(), "the player was disturbed");
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("player", &sent, &got, Start::Keyframe);
    assert_headers_once("player", &sent, &got);
    assert_monotonic("player", &got);
    let log = edge.log();
    assert!(log.contains("pull is asked to go elsewhere"), "{log}");
}

#[test]
fn players_with_legs_are_not_told_when_their_origin_drains() {
    for (kernel, path) in paths() {
        let cluster = Cluster::start(2);
        let edge = edge_of(&addresses(&cluster.slaves), kernel).start();
        let live = Live::start(cluster.master.rtmp, "live/a", Synthetic::default());
        cluster.slaves.iter().for_each(|slave| slave.wait_live("live/a"));
        let player = Recorder::start(edge.rtmp, "live/a");
        wait_legs(&edge, 1);
        wait_until("media", seconds(10), || player.count() > 40);
        let (mut origin, other) = that_serves(cluster.slaves);

        assert_eq!(origin.terminate(), Some(0), "{}", origin.log());
        other.wait_players("live/a", 1);
        assert_eq!(edge.status().legs[0].path, path);
        live.wait_more(60);
        assert_cut_in(path, live, &player);
    }
}

/// A player got one origin's stream and then another's, and nothing in between.
#[track_caller]
fn assert_cut_in(path: &str, live: Live, player: &Recorder) {
    let sent = live.stop(End::Polite);
    let last = sent.iter().rfind(|tag| tag.is_frame()).expect("frames");
    wait_until("the last frame", seconds(10), || player.has(last));
    assert!(!player.finished() && !player.ended(), "{path}: the player was disturbed");
    // The next origin begins with headers and its newest group of pictures. No message is cut.
    let got = player.tags();
    let headers = got.iter().enumerate().filter(|(_, tag)| tag.is_header());
    let &[_, _, next, _] = &*headers.map(|(at, _)| at).collect::<Vec<_>>() else {
        panic!("{path}: not two times two headers");
    };
    let (before, after) = got.split_at(next);
    assert!(before.iter().any(Tag::is_frame), "{path}");
    assert_eq!(assert_whole_messages(path, &sent, before), 0, "{path}: before");
    assert_same_sequence(path, &sent, after, Start::Keyframe);
}

#[test]
fn players_of_an_edge_of_edges_go_on_when_one_of_these_drains() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let inner: Vec<_> = (0..2).map(|_| edge_of(&[origin.rtmp], kernel).start()).collect();
        let outer = edge_of(&addresses(&inner), kernel).start();
        let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
        origin.wait_live("live/a");
        let player = Recorder::start(outer.rtmp, "live/a");
        wait_legs(&outer, 1);
        wait_until("media", seconds(10), || player.count() > 40);
        let (mut serves, others): (Vec<Server>, Vec<Server>) =
            inner.into_iter().partition(|edge| !edge.status().legs.is_empty());
        assert_eq!(serves[0].terminate(), Some(0), "{}", serves[0].log());
        wait_legs(&others[0], 1);
        live.wait_more(60);
        assert_cut_in(path, live, &player);
    }
}

/// An edge publishes at an origin, which drains: the stream goes on at the other one.
fn publisher_goes_on(edge: impl Fn(&[SocketAddr]) -> Setup, carried: Option<&str>) {
    let origins: Vec<Server> = (0..2).map(|_| Setup::new().start()).collect();
    let edge = edge(&addresses(&origins)).start();
    let live = Live::start(edge.rtmp, "live/a", Synthetic::default());
    if let Some(path) = carried {
        wait_carried(&edge, path);
    }
    live.wait_more(40);
    let is_live = |server: &Server| server.is_live("live/a");
    let (mut at, others): (Vec<Server>, Vec<Server>) = origins.into_iter().partition(is_live);
    let (origin, other) = (&mut at[0], &others[0]);

    let player = Recorder::start(other.rtmp, "live/a");
    assert_eq!(origin.terminate(), Some(0), "{}", origin.log());
    other.wait_live("live/a");
    live.wait_more(80);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("at the other origin", &sent, &got, Start::Keyframe);
    assert_headers_once("at the other origin", &sent, &got);
    let log = origin.log();
    assert!(log.contains("asked clients to connect elsewhere"), "{log}");
}

#[test]
fn a_publisher_of_an_edge_goes_on_at_another_origin() {
    publisher_goes_on(|origins| Setup::new().edge_of(origins), None);
}

#[test]
fn a_publisher_with_a_leg_goes_on_at_another_origin() {
    for (kernel, path) in paths() {
        publisher_goes_on(|origins| edge_of(origins, kernel), Some(path));
    }
}

#[test]
fn a_forward_comes_back_to_who_takes_the_place() {
    let mut slave = Setup::new().start();
    let master = Setup::new().forward_to(&[slave.rtmp]).start();
    let live = Live::start(master.rtmp, "live/a", Synthetic::default());
    slave.wait_live("live/a");
    live.wait_more(20);
    assert_eq!(slave.terminate(), Some(0), "{}", slave.log());
    wait_until("it was asked", seconds(5), || {
        master.log().contains("forward is asked to connect again")
    });
    slave.restart();
    slave.wait_live("live/a");
    let player = Recorder::start(slave.rtmp, "live/a");
    live.wait_more(40);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("at the slave again", &sent, &got, Start::Keyframe);
}

/// What `peer` is told next, media left out.
fn told(peer: &mut Peer) -> Option<Seen> {
    loop {
        match peer.next(seconds(10)) {
            Some(Seen::Media(_)) => {}
            seen => return seen,
        }
    }
}

#[test]
fn clients_that_can_are_asked_and_players_first() {
    let mut server = Setup::new().global("drain_to = \"rtmp://other.example:1936\"").start();
    let source = Synthetic::default();
    let mut publisher = Peer::movable(server.rtmp, Goal::Publish, "live/a").started();
    let mut frames = 0..;
    let mut publish = |publisher: &mut Peer| {
        let tags = source.frame(frames.next().unwrap());
        tags.iter().for_each(|tag| publisher.send(tag).unwrap());
        tags[1].clone()
    };
    source.preamble().iter().for_each(|tag| publisher.send(tag).unwrap());
    publish(&mut publisher);
    let mut player = Peer::movable(server.rtmp, Goal::Play, "live/a").started();
    // One who cannot be asked stays for the end.
    let old = Recorder::start(server.rtmp, "live/a");
    server.signal(Signal::SIGTERM);
    let there = Seen::Reconnect(Some("rtmp://other.example:1936/live".to_owned()));
    assert_eq!(told(&mut player), Some(there));
    // it is served as before, so the publisher has not been asked
    let last = publish(&mut publisher);
    wait_until("media goes on", seconds(5), || {
        player.next(seconds(1)) == Some(Seen::Media(last.clone()))
    });
    drop(player);
    let there = Seen::Reconnect(Some("rtmp://other.example:1936/live".to_owned()));
    assert_eq!(told(&mut publisher), Some(there));
    let last = publish(&mut publisher);
    wait_until("still", seconds(5), || old.has(&last));
    assert!(!old.finished());
    drop(publisher);
    wait_until("the other player is told", seconds(10), || old.finished());
    wait_until("it stops", seconds(10), || !server.is_running());
}

/// What `peer` gets until `wanted` says that it is enough.
fn media_until(peer: &mut Peer, got: &mut Vec<Tag>, mut wanted: impl FnMut(&Seen, usize) -> bool) {
    loop {
        let seen = peer.next(seconds(10)).expect("something");
        assert!(!matches!(seen, Seen::Closed | Seen::Finished | Seen::Failed(_)), "{seen:?}");
        let is_enough = wanted(&seen, got.len());
        if let Seen::Media(tag) = seen {
            got.push(tag);
        }
        if is_enough {
            return;
        }
    }
}

#[test]
fn a_player_with_a_leg_is_asked_between_two_messages_and_goes_on() {
    let there = Seen::Reconnect(Some("rtmp://other.example/live".to_owned()));
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).global("drain_to = \"rtmp://other.example\"");
        let mut edge = edge.start();
        let source = Synthetic { frame_bytes: 400_000, ..Synthetic::default() };
        let live = Live::start(origin.rtmp, "live/a", source);
        origin.wait_live("live/a");
        let socket = little_room(edge.rtmp);
        let mut player = Peer::on(socket, "edge.example", Goal::Play, "live/a").moves().started();
        let mut got = Vec::new();
        media_until(&mut player, &mut got, |_, n| n > 20);
        wait_legs(&edge, 1);
        assert_eq!(edge.status().legs[0].path, path);
        // It reads nothing for a while, and so its leg stands inside of a frame.
        live.wait_more(40);
        edge.signal(Signal::SIGTERM);
        media_until(&mut player, &mut got, |seen, _| *seen == there);
        let before = got.len();
        media_until(&mut player, &mut got, |_, n| n > before + 40);
        assert_eq!(edge.status().legs[0].connects, 1, "{path}: its origin is another");
        drop(player);
        wait_until("it stops", seconds(20), || !edge.is_running());
        let sent = live.stop(End::Polite);
        let last = got.iter().rfind(|tag| tag.is_frame()).expect("frames");
        let end = sent.iter().position(|tag| tag == last).expect("a frame that was published");
        assert_same_sequence(path, &sent[..=end], &got, Start::Keyframe);
        assert_headers_once(path, &sent, &got);
    }
}

#[test]
fn a_publisher_with_a_leg_is_asked() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let mut publisher = Peer::movable(edge.rtmp, Goal::Publish, "live/a").started();
        let source = Synthetic::default();
        let send = |publisher: &mut Peer, tags: &[Tag]| {
            tags.iter().for_each(|tag| publisher.send(tag).expect("sent"));
        };
        send(&mut publisher, &source.preamble());
        let mut n = 0;
        wait_until("its leg moves bytes", seconds(15), || {
            send(&mut publisher, &source.frame(n));
            n += 1;
            publishers(&edge).iter().any(|leg| leg.path == path && leg.bytes > 50_000)
        });
        edge.signal(Signal::SIGTERM);
        assert_eq!(told(&mut publisher), Some(Seen::Reconnect(None)), "{path}");
        // It goes on being served.
        let last = source.frame(n);
        send(&mut publisher, &last);
        let player = Recorder::start(origin.rtmp, "live/a");
        wait_until("the origin has it", seconds(10), || player.has(&last[1]));
    }
}
