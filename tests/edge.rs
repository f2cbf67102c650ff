//! An edge gives players what its origins have and publishers a place there.
mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use common::compare::{
    Start, assert_headers_once, assert_monotonic, assert_same_media, assert_same_sequence,
};
use common::external::{Player, Publish, ffmpeg_publish};
use common::flv::Tag;
use common::media::{Clip, Synthetic};
use common::nginx::Nginx;
use common::peer::{End, Live, Peer, Recorder, Seen};
use common::server::{Cluster, Server, Setup};
use common::sink::Sink;
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::session::{
    ConnectRequest, Goal, ServerConfig, ServerEvent, ServerSession, SessionError,
};

fn edge_of(origins: &[SocketAddr]) -> Server {
    Setup::new().edge_of(origins).start()
}

/// Players of `path`; none if there is no such stream.
fn players(server: &Server, path: &str) -> usize {
    server.stream(path).map_or(0, |stream| stream.players)
}

#[test]
fn every_player_gets_through_an_edge_what_the_slave_got() {
    let cluster = Cluster::start(1);
    let edge = edge_of(&[cluster.slaves[0].rtmp]);
    let (dir, url) = (edge.dir(), edge.url("live/a"));
    let through_edge = [
        ("ffmpeg", Player::ffmpeg(dir, &url)),
        ("rtmpdump", Player::rtmpdump(dir, &url)),
        ("gst", Player::gstreamer(dir, &url)),
    ];
    let slave = &cluster.slaves[0];
    let direct = Player::rtmpdump(slave.dir(), &slave.url("live/a"));
    edge.wait_players("live/a", 3);
    slave.wait_players("live/a", 2);
    let (clip, how) = (Clip::plain(), Publish::default());
    let to = cluster.master.url("live/a");
    ffmpeg_publish(cluster.master.dir(), &clip.path, &to, how).succeed(seconds(30));
    let want = direct.finish(seconds(20));
    for (label, player) in through_edge {
        let got = player.finish(seconds(20));
        assert_same_media(label, &want, &got, Start::First);
        assert_monotonic(label, &got);
        if label != "ffmpeg" {
            assert_headers_once(label, &want, &got);
        }
    }
}

#[test]
fn nginx_is_an_origin_too() {
    let dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(dir.path(), None);
    let edge = edge_of(&[nginx.address()]);
    let player = Player::rtmpdump(edge.dir(), &edge.url("live/a"));
    wait_until("the edge pulls", seconds(10), || nginx.plays() == 1);
    let (clip, how) = (Clip::plain(), Publish::default());
    let published = clip.published(edge.dir(), how);
    ffmpeg_publish(edge.dir(), &clip.path, &nginx.url("a"), how).succeed(seconds(30));
    let got = player.finish(seconds(30));
    // nginx throws away audio from before its first keyframe
    assert_same_media("through the edge", &published, &got, Start::Anywhere);
    let first = |tags: &[Tag]| tags.iter().find(|tag| tag.is_keyframe()).cloned();
    assert_eq!(first(&got), first(&published), "the first keyframe");
}

#[test]
fn players_share_one_pull_that_ends_with_the_last_of_them() {
    let origin = Setup::new().start();
    let edge = edge_of(&[origin.rtmp]);
    let live =
        Live::start(origin.rtmp, "live/a", Synthetic { start: 77_000, ..Synthetic::default() });
    live.wait_more(60);
    let all: Vec<Recorder> = (0..5).map(|_| Recorder::start(edge.rtmp, "live/a")).collect();
    edge.wait_players("live/a", 5);
    wait_until("media", seconds(5), || all.iter().all(|player| player.count() > 20));
    assert_eq!(players(&origin, "live/a"), 1, "one pull for all");
    let pull = edge.status().pulls.remove(0);
    assert_eq!((pull.state.as_str(), pull.players, pull.connects), ("pulling", 5, 1));
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    for player in all {
        let got = player.until_last(&sent, seconds(5));
        assert_same_sequence("player", &sent, &got, Start::Keyframe);
        assert_headers_once("player", &sent, &got);
    }
    wait_until("the pull ends", seconds(5), || edge.status().pulls.is_empty());
    wait_until("the origin sees it", seconds(5), || players(&origin, "live/a") == 0);
    wait_until("nothing is left", seconds(5), || edge.status().streams.is_empty());
}

#[test]
fn a_player_that_reloads_finds_the_stream_running() {
    let origin = Setup::new().start();
    let edge = edge_of(&[origin.rtmp]);
    let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
    for _ in 0..5 {
        let player = Recorder::start(edge.rtmp, "live/a");
        wait_until("media", seconds(5), || player.count() > 10);
    }
    let pull = edge.status().pulls.remove(0);
    assert_eq!(pull.connects, 1);
    assert_eq!(origin.status().totals.connections, 3, "probe of the start, publisher, pull");
    live.stop(End::Polite);
}

#[test]
fn players_go_on_without_a_gap_when_their_origin_dies() {
    let mut cluster = Cluster::start(2);
    let origins: Vec<SocketAddr> = cluster.slaves.iter().map(|slave| slave.rtmp).collect();
    let edge = edge_of(&origins);
    let live = Live::start(cluster.master.rtmp, "live/a", Synthetic::default());
    cluster.slaves.iter().for_each(|slave| slave.wait_live("live/a"));
    let all: Vec<Recorder> = (0..3).map(|_| Recorder::start(edge.rtmp, "live/a")).collect();
    wait_until("media", seconds(5), || all.iter().all(|player| player.count() > 20));

    let used = cluster.slaves.iter().position(|slave| players(slave, "live/a") == 1).unwrap();
    cluster.slaves[used].kill();
    cluster.slaves[1 - used].wait_players("live/a", 1);
    live.wait_more(60);
    // and back, politely this time
    cluster.slaves[used].restart();
    cluster.slaves[used].wait_live("live/a");
    assert_eq!(cluster.slaves[1 - used].terminate(), Some(0));
    cluster.slaves[used].wait_players("live/a", 1);
    live.wait_more(60);

    let pull = edge.status().pulls.remove(0);
    assert!(pull.connects == 3 && pull.repeated > 0, "{pull:?}");
    assert!(all.iter().all(|player| !player.ended() && !player.finished()));
    let sent = live.stop(End::Polite);
    for player in all {
        let got = player.until_last(&sent, seconds(5));
        assert_same_sequence("player", &sent, &got, Start::Keyframe);
        assert_headers_once("player", &sent, &got);
        assert_monotonic("player", &got);
    }
}

#[test]
fn origins_that_do_not_answer_are_passed_over() {
    let origin = Setup::new().start();
    let nobody = [free_address(), free_address(), free_address()];
    let origins = [nobody[0], nobody[1], origin.rtmp, nobody[2]];
    let edge = edge_of(&origins);
    let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
    let asked = Instant::now();
    let player = Recorder::start(edge.rtmp, "live/a");
    assert!(asked.elapsed() < seconds(1), "took {:?}", asked.elapsed());
    wait_until("media", seconds(5), || player.count() > 10);
    drop(live);

    // one that accepts and says nothing
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let origins = [deaf.local_addr().unwrap(), origin.rtmp];
    let edge = Setup::new().edge_of(&origins).edge("connect_timeout = \"300ms\"").start();
    for n in 0..4 {
        let path = format!("live/{n}");
        let live = Live::start(edge.rtmp, &path, Synthetic::default());
        let player = Recorder::start(edge.rtmp, &path);
        wait_until("media", seconds(5), || player.count() > 10);
        assert!(origin.is_live(&path));
        drop(live);
    }
}

#[test]
fn players_are_told_when_no_origin_has_the_stream() {
    let edge = Setup::new().edge_of(&[free_address()]).edge("failover_timeout = \"500ms\"").start();
    assert_refused(&edge, Goal::Play, "live/a", "NetStream.Play.Failed");
    assert_refused(&edge, Goal::Publish, "live/a", "NetStream.Failed");

    let strict = Strict::start(Rules { admits: |_| true, has_streams: false });
    let edge = edge_of(&[strict.address]);
    assert_refused(&edge, Goal::Play, "live/a", "NetStream.Play.StreamNotFound");
    assert_refused(&edge, Goal::Publish, "live/a", "NetStream.Publish.Denied");
    wait_until("nothing goes on", seconds(5), || edge.status().pulls.is_empty());
}

#[test]
fn players_are_told_when_the_stream_is_over() {
    let origin = Setup::new().publish("grace = \"200ms\"").start();
    let edge = Setup::new()
        .publish("grace = \"200ms\"")
        .edge_of(&[origin.rtmp])
        .edge("failover_timeout = \"500ms\"")
        .start();
    let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
    let player = Recorder::start(edge.rtmp, "live/a");
    wait_until("media", seconds(5), || player.count() > 10);
    live.stop(End::Abrupt);
    wait_until("the player is told", seconds(5), || player.finished());
    wait_until("and closed", seconds(5), || player.ended());
    wait_until("nothing is left", seconds(5), || {
        edge.status().streams.is_empty() && edge.status().pulls.is_empty()
    });
}

#[test]
fn players_wait_for_a_publisher_that_comes_later() {
    let origin = Setup::new().start();
    let edge = edge_of(&[origin.rtmp]);
    let player = Recorder::start(edge.rtmp, "live/a");
    for start in [5_000, 900_000] {
        let before = player.count();
        let live = Live::start(origin.rtmp, "live/a", Synthetic { start, ..Synthetic::default() });
        live.wait_more(40);
        let sent = live.stop(End::Polite);
        let last = sent.iter().rfind(|tag| tag.is_frame()).unwrap().clone();
        wait_until("all of it", seconds(5), || player.has(&last));
        let got = player.tags().split_off(before);
        assert_same_sequence("this publish", &sent, &got, Start::First);
    }
    assert!(!player.ended() && !player.finished());
}

#[test]
fn a_stream_that_was_given_up_and_comes_back_has_players_again() {
    let origin = Setup::new().start();
    let edge = Setup::new()
        .edge_of(&[origin.rtmp])
        .edge("idle_timeout = \"300ms\"\nfailover_timeout = \"300ms\"")
        .start();
    let first = Recorder::start(edge.rtmp, "live/a");
    for start in [5_000, 900_000] {
        let live = Live::start(origin.rtmp, "live/a", Synthetic { start, ..Synthetic::default() });
        wait_until("it is there", seconds(5), || edge.is_live("live/a"));
        let player = Recorder::start(edge.rtmp, "live/a");
        wait_until("media", seconds(5), || player.count() > 10);
        live.stop(End::Polite);
        wait_until("it is given up", seconds(5), || !edge.is_live("live/a"));
    }
    assert!(!first.ended() && edge.status().pulls[0].connects == 1, "another pull");
}

#[test]
fn what_is_published_at_an_edge_is_at_the_origin() {
    let sink = Sink::start(free_address());
    let edge = edge_of(&[sink.address]);
    let live = Live::start(edge.rtmp, "live/a?token=x", Synthetic::default());
    let near = Recorder::start(edge.rtmp, "live/a");
    live.wait_more(80);
    let relays = edge.stream("live/a").unwrap().forwards;
    assert_eq!((relays[0].state.as_str(), relays.len()), ("forwarding", 1));
    let sent = live.stop(End::Polite);
    let publish = || sink.received().into_iter().find(|r| r.stream == "a?token=x");
    wait_until("unpublished", seconds(5), || publish().is_some_and(|r| r.unpublished));
    let received = publish().unwrap();
    assert_same_sequence("at the origin", &sent, &received.tags, Start::First);
    assert_headers_once("at the origin", &sent, &received.tags);
    assert_eq!((received.app.as_str(), received.unpublished), ("live", true));
    let got = near.until_last(&sent, seconds(5));
    assert_same_sequence("beside the publisher", &sent, &got, Start::Keyframe);
}

#[test]
fn ffmpeg_publishes_through_an_edge() {
    let origin = Setup::new().start();
    let edge = edge_of(&[free_address(), origin.rtmp]);
    let player = Player::rtmpdump(origin.dir(), &origin.url("live/a"));
    origin.wait_players("live/a", 1);
    let (clip, how) = (Clip::b_frames(), Publish::default());
    let published = clip.published(edge.dir(), how);
    ffmpeg_publish(edge.dir(), &clip.path, &edge.url("live/a"), how).succeed(seconds(30));
    let got = player.finish(seconds(20));
    assert_same_media("at the origin", &published, &got, Start::First);
    assert_headers_once("at the origin", &published, &got);
}

#[test]
fn a_publisher_survives_the_restart_of_its_origin() {
    let mut origin = Setup::new().start();
    let edge = Setup::new().publish("grace = \"20s\"").edge_of(&[origin.rtmp]).start();
    let live = Live::start(edge.rtmp, "live/a", Synthetic::default());
    origin.wait_live("live/a");
    live.wait_more(20);
    origin.kill();
    live.wait_more(60);
    origin.restart();
    origin.wait_live("live/a");
    let again = Recorder::start(origin.rtmp, "live/a");
    live.wait_more(80);
    let sent = live.stop(End::Polite);
    let got = again.until_last(&sent, seconds(5));
    assert_same_sequence("after the restart", &sent, &got, Start::Keyframe);
}

#[test]
fn a_publisher_moves_to_another_origin_and_is_told_when_there_is_none() {
    let mut origins = [Setup::new().start(), Setup::new().start()];
    let addresses = [origins[0].rtmp, origins[1].rtmp];
    let edge = Setup::new().publish("grace = \"1s\"").edge_of(&addresses).start();
    let mut raw = Peer::publish(edge.rtmp, "live/a");
    let used = usize::from(origins[1].is_live("live/a"));
    origins[used].kill();
    origins[1 - used].wait_live("live/a");
    origins[1 - used].kill();
    let said = raw.until_closed(seconds(10));
    let told = |seen: &Seen| matches!(seen, Seen::Failed(SessionError::Refused { code, .. }) if code == "NetStream.Failed");
    assert!(said.iter().any(told), "{said:?}");
}

#[test]
fn a_name_that_is_taken_is_answered_so() {
    let origin = Setup::new().start();
    let edges = [edge_of(&[origin.rtmp]), edge_of(&[origin.rtmp])];
    let at_origin = Live::start(origin.rtmp, "live/a", Synthetic::default());
    assert_refused(&edges[0], Goal::Publish, "live/a", "NetStream.Publish.BadName");
    let at_edge = Live::start(edges[0].rtmp, "live/b", Synthetic::default());
    for server in [&edges[0], &edges[1], &origin] {
        assert_refused(server, Goal::Publish, "live/b", "NetStream.Publish.BadName");
    }
    at_edge.wait_more(20);
    at_origin.wait_more(20);
    at_edge.stop(End::Abrupt);
    // The name is free at once, through any edge.
    wait_until("free", seconds(5), || !origin.is_live("live/b"));
    for edge in [&edges[0], &edges[1], &edges[0]] {
        let live = Live::start(edge.rtmp, "live/b", Synthetic::default());
        live.wait_more(10);
        live.stop(End::Polite);
        wait_until("free again", seconds(5), || !origin.is_live("live/b"));
    }
}

#[test]
fn a_publisher_takes_the_place_of_a_pull() {
    let origin = Setup::new().publish("grace = \"20s\"").start();
    let edge = Setup::new().publish("grace = \"20s\"").edge_of(&[origin.rtmp]).start();
    let player = Recorder::start(edge.rtmp, "live/a");
    let mut frames: Vec<Tag> = Vec::new();
    // The encoder comes by way of the origin, the edge, and the origin again.
    for (server, start) in [(&origin, 0), (&edge, 100_000), (&origin, 200_000)] {
        let live = Live::start(server.rtmp, "live/a", Synthetic { start, ..Synthetic::default() });
        live.wait_more(40);
        let sent = live.stop(End::Polite);
        frames.extend(sent.into_iter().filter(Tag::is_frame));
        wait_until("all of it", seconds(10), || player.has(frames.last().unwrap()));
        wait_until("it left", seconds(5), || !origin.is_live("live/a"));
    }
    let got: Vec<Tag> = player.tags().into_iter().filter(Tag::is_frame).collect();
    assert_eq!(got, frames);
    assert!(!player.ended() && !player.finished());
}

#[test]
fn edges_of_each_other_refuse_to_go_round() {
    let (a, b) = (free_address(), free_address());
    let first = Setup::new().listen(a).edge_of(&[b]).start();
    let second = Setup::new().listen(b).edge_of(&[a]).start();
    let own = free_address();
    let selfish = Setup::new().listen(own).edge_of(&[own]).start();
    for server in [&first, &second, &selfish] {
        assert_refused(server, Goal::Play, "live/a", "NetStream.Play.Failed");
        assert_refused(server, Goal::Publish, "live/b", "NetStream.Publish.Denied");
        assert!(server.status().totals.connections < 20, "{:?}", server.status().totals);
    }
}

#[test]
fn edges_of_edges_play_and_publish() {
    let origin = Setup::new().start();
    let middle = edge_of(&[origin.rtmp]);
    let edge = edge_of(&[middle.rtmp]);
    let player = Recorder::start(origin.rtmp, "live/a");
    let live = Live::start(edge.rtmp, "live/a", Synthetic::default());
    live.wait_more(20);
    let other = edge_of(&[middle.rtmp]);
    let late = Recorder::start(other.rtmp, "live/a");
    wait_until("media", seconds(5), || late.count() > 20);
    live.wait_more(40);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(5));
    assert_same_sequence("origin", &sent, &got, Start::First);
    let got = late.until_last(&sent, seconds(5));
    assert_same_sequence("other edge", &sent, &got, Start::Keyframe);
}

#[test]
fn each_client_is_shown_to_the_origin_if_it_is_to_judge_them() {
    // The edge's own connections have no key.
    let admits =
        |connect: &ConnectRequest| connect.forwarder.is_some() || connect.tc_url.contains("good");
    let gate = Strict::start(Rules { admits, has_streams: true });
    for splice in ["never", "always"] {
        let edge = Setup::new().edge_of(&[free_address(), gate.address]).splice(splice);
        let edge = edge.edge("token_traverse = true").start();
        for (goal, refused) in
            [(Goal::Play, "NetStream.Play.Failed"), (Goal::Publish, "NetStream.Publish.Denied")]
        {
            for _ in 0..2 {
                assert_refused(&edge, goal, "live?key=bad/a", refused);
                drop(Peer::open(edge.rtmp, goal, "live?key=good/a").started());
                wait_until("it left", seconds(5), || edge.status().connections == 0);
                drop(Peer::open_at(edge.rtmp, "good.tv", goal, "live/a").started());
                wait_until("it left", seconds(5), || edge.status().connections == 0);
            }
        }
        let has_leg = edge.log().contains("publisher's leg connected");
        assert_eq!(has_leg, splice == "always", "{}", edge.log());
    }

    // one that accepts and says nothing has not said no
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let edge = Setup::new()
        .edge_of(&[deaf.local_addr().unwrap(), gate.address])
        .edge("connect_timeout = \"300ms\"\ntoken_traverse = true")
        .start();
    for n in 0..4 {
        drop(Peer::open(edge.rtmp, Goal::Play, &format!("live?key=good/{n}")).started());
    }
}

#[test]
fn an_edge_that_stops_takes_leave() {
    let sink = Sink::start(free_address());
    let mut edge = edge_of(&[sink.address]);
    let mut publisher = Peer::publish(edge.rtmp, "live/a");
    let source = Synthetic::default();
    let frames = (0..50).flat_map(|n| source.frame(n));
    let sent: Vec<Tag> = source.preamble().into_iter().chain(frames).collect();
    sent.iter().for_each(|tag| publisher.send(tag).expect("sent"));
    wait_until("it all arrives", seconds(5), || sink.count() == sent.len());
    let stopped = Instant::now();
    assert_eq!(edge.terminate(), Some(0));
    assert!(stopped.elapsed() < seconds(3), "took {:?}", stopped.elapsed());
    assert!(sink.received()[0].unpublished, "politely");

    let origin = Setup::new().start();
    let mut edge = edge_of(&[origin.rtmp]);
    let live = Live::start(origin.rtmp, "live/a", source);
    let player = Recorder::start(edge.rtmp, "live/a");
    wait_until("media", seconds(5), || player.count() > 10);
    assert_eq!(edge.terminate(), Some(0));
    assert!(player.finished(), "told");
    live.stop(End::Polite);
}

#[test]
fn an_edge_of_srs_runs_unchanged() {
    let [origin, at, api] = std::array::from_fn(|_| free_address());
    let origin = Setup::new().listen(origin).start();
    let conf = format!(
        "listen              {};\nmax_connections     1000;\npid                 objs/edge.pid;\n\
         daemon              off;\nsrs_log_tank        console;\n\
         http_api {{ enabled on; listen {api}; }}\n\
         vhost __defaultVhost__ {{\n    cluster {{\n        mode            remote;\n\
         \x20       origin          {} 127.0.0.1:1;\n    }}\n}}\n",
        at.port(),
        origin.rtmp,
    );
    let edge = Server::start("edge.conf", &conf, at, api);
    let player = Recorder::start(edge.rtmp, "live/livestream");
    let live = Live::start(origin.rtmp, "live/livestream", Synthetic::default());
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(5));
    assert_same_sequence("player", &sent, &got, Start::First);
}

#[track_caller]
fn assert_refused(server: &Server, goal: Goal, path: &str, want: &str) {
    let mut peer = Peer::open(server.rtmp, goal, path);
    match peer.next(seconds(8)) {
        Some(Seen::Failed(SessionError::Refused { code, .. })) => assert_eq!(code, want, "{path}"),
        other => panic!("{path}: {other:?} instead of {want}"),
    }
}

/// An origin that judges each `connect`, and has every stream and takes it, or none.
struct Strict {
    address: SocketAddr,
}

#[derive(Clone, Copy)]
struct Rules {
    admits: fn(&ConnectRequest) -> bool,
    has_streams: bool,
}

impl Strict {
    fn start(rules: Rules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        // Ends with the test's process.
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                std::thread::spawn(move || serve(socket, rules));
            }
        });
        Self { address }
    }
}

fn serve(mut socket: TcpStream, rules: Rules) -> Option<()> {
    let config = ServerConfig { chunk_size: 4096, out_ack_size: 2_500_000, in_ack_size: 0 };
    let mut session = ServerSession::new(config, vec![7; 1536].into(), Instant::now());
    let mut buffer = vec![0; 4096];
    loop {
        let n = socket.read(&mut buffer).ok().filter(|n| *n > 0)?;
        let (mut rest, now) = (&buffer[..n], Instant::now());
        while let Some(event) = session.read(now, &mut rest).ok()? {
            match event {
                ServerEvent::Connect(request) if (rules.admits)(&request) => {
                    session.accept_connect()
                }
                ServerEvent::Connect(_) => session.reject_connect("not you"),
                ServerEvent::Play(request) if rules.has_streams => {
                    session.accept_play(&request, now)
                }
                ServerEvent::Play(request) => {
                    session.reject(request.msid, "NetStream.Play.StreamNotFound", "not here");
                }
                ServerEvent::Publish(request) if rules.has_streams => {
                    session.accept_publish(request.msid, now);
                }
                ServerEvent::Publish(request) => {
                    session.reject(request.msid, "NetStream.Publish.Denied", "not here");
                }
                _ => {}
            }
        }
        socket.write_all(&session.take_output()).ok()?;
    }
}
