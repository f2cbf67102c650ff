//! What is published on a master is on its slaves, byte for byte and at the same times.
mod common;

use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddr};

use common::compare::{
    Start, assert_headers_once, assert_monotonic, assert_same_media, assert_same_sequence,
};
use common::external::{Player, Publish, ffmpeg_publish};
use common::flv::Tag;
use common::media::{Clip, Synthetic};
use common::nginx::Nginx;
use common::peer::{End, Live, Peer, Recorder};
use common::server::{Cluster, Server, Setup};
use common::sink::Sink;
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::session::Goal;
use forwarder::status::ForwardStatus;

#[test]
fn slaves_give_players_what_the_master_got() {
    let cluster = Cluster::start(2);
    let (clip, how) = (Clip::plain(), Publish::default());
    let dir = cluster.master.dir();
    let published = clip.published(dir, how);
    let play = |slave: &Server| {
        let player = Player::rtmpdump(slave.dir(), &slave.url("live/a"));
        slave.wait_players("live/a", 1);
        player
    };
    let players: Vec<Player> = cluster.slaves.iter().map(play).collect();
    ffmpeg_publish(dir, &clip.path, &cluster.master.url("live/a"), how).succeed(seconds(30));
    for (i, player) in players.into_iter().enumerate() {
        let (label, got) = (format!("slave {i}"), player.finish(seconds(20)));
        assert_from_first_keyframe(&label, &published, &got);
        assert_headers_once(&label, &published, &got);
        assert_monotonic(&label, &got);
    }
}

/// The forward is dialled when the publish begins and starts with its first keyframe at the latest;
/// audio from before that, which some files have, may be over by then.
#[track_caller]
fn assert_from_first_keyframe(label: &str, published: &[Tag], got: &[Tag]) {
    assert_same_media(label, published, got, Start::Anywhere);
    let first = |tags: &[Tag]| tags.iter().find(|t| t.is_keyframe()).cloned();
    assert_eq!(first(got), first(published), "{label}: the first keyframe");
}

#[test]
fn a_publish_that_ends_politely_ends_on_the_slave() {
    let sink = Sink::start(free_address());
    let slave = Setup::new().start();
    let master = Setup::new().forward_to(&[slave.rtmp, sink.address]).start();
    let live = Live::start(master.rtmp, "live/a", Synthetic::default());
    slave.wait_live("live/a");
    wait_until("media", seconds(5), || sink.count() > 20);
    live.stop(End::Polite);
    let took = wait_until("it leaves the slave", seconds(5), || !slave.is_live("live/a"));
    eprintln!("the slave's stream ended after {took:?}");
    wait_until("unpublished", seconds(5), || sink.received().iter().all(|r| r.unpublished));
    assert_eq!(sink.received().len(), 1, "one publish is one connection");
}

#[test]
fn nginx_is_a_slave_too() {
    let master_dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(master_dir.path(), None);
    let master = Setup::new().forward_to(&[nginx.address()]).start();
    let player = Player::rtmpdump(master.dir(), &nginx.url("a"));
    wait_until("rtmpdump plays", seconds(10), || nginx.plays() == 1);
    let (clip, how) = (Clip::plain(), Publish::default());
    let published = clip.published(master.dir(), how);
    ffmpeg_publish(master.dir(), &clip.path, &master.url("live/a"), how).succeed(seconds(30));
    let got = player.finish(seconds(20));
    assert_from_first_keyframe("from nginx", &published, &got);
}

#[test]
fn srs_files_run_unchanged() {
    let [master_at, slave_at, master_api, slave_api] = std::array::from_fn(|_| free_address());
    let slave = format!(
        "# the config for srs to demo the forwarder slave\n\
         listen              {};\nmax_connections     1000;\npid                 ./objs/srs.pid;\n\
         daemon              off;\nsrs_log_tank        console;\n\
         http_api {{ enabled on; listen {slave_api}; }}\n\
         vhost __defaultVhost__ {{\n}}\n",
        slave_at.port(),
    );
    let master = format!(
        "# the config for srs to demo the forwarder master\n\
         listen              {};\nmax_connections     1000;\npid                 ./objs/srs.pid;\n\
         daemon              off;\nsrs_log_tank        console;\n\
         http_api {{ enabled on; listen {master_api}; }}\n\
         vhost __defaultVhost__ {{\n    forward {{\n        enabled on;\n\
         \x20       destination 127.0.0.1:{};\n    }}\n}}\n",
        master_at.port(),
        slave_at.port(),
    );
    let slave = Server::start("forward.slave.conf", &slave, slave_at, slave_api);
    let master = Server::start("forward.master.conf", &master, master_at, master_api);
    let player = Recorder::start(slave.rtmp, "live/livestream");
    let live = Live::start(master.rtmp, "live/livestream", Synthetic::default());
    live.wait_more(80);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("slave", &sent, &got, Start::First);
}

#[test]
fn vhosts_forward_apart_and_keep_their_name() {
    let (red, blue) = (Sink::start(free_address()), Sink::start(free_address()));
    let master = Setup::new()
        .vhost("red.example", &[red.address])
        .vhost("blue.example", &[blue.address])
        .start();
    let publish = |host: &str, start: u32| {
        let peer = Peer::open_at(master.rtmp, host, Goal::Publish, "live/a").started();
        Live::of(peer, Synthetic { start, ..Synthetic::default() }, 0)
    };
    // the same app and stream on both
    let (first, second) = (publish("red.example", 0), publish("blue.example", 500_000));
    wait_until("both forward", seconds(10), || red.count() > 60 && blue.count() > 60);
    let (first, second) = (first.stop(End::Polite), second.stop(End::Polite));
    for (sink, sent, host) in [(&red, &first, "red.example"), (&blue, &second, "blue.example")] {
        wait_until("unpublished", seconds(5), || sink.received().iter().all(|r| r.unpublished));
        let received = sink.received();
        assert_eq!(received.len(), 1, "{host}: connections");
        assert!(received[0].tc_url.contains(host), "{host}: tcUrl {}", received[0].tc_url);
        assert_same_sequence(host, sent, &received[0].tags, Start::First);
    }
}

#[test]
fn two_servers_that_forward_to_each_other_carry_one_stream_once() {
    let (a, b) = (free_address(), free_address());
    let first = Setup::new().listen(a).forward_to(&[b]).start();
    let second = Setup::new().listen(b).forward_to(&[a]).start();
    let player = Recorder::start(b, "live/a");
    let live = Live::start(a, "live/a", Synthetic::default());
    second.wait_live("live/a");
    live.wait_more(150);
    for server in [&first, &second] {
        let status = server.status();
        assert_eq!(status.streams.len(), 1, "{:?}", status.streams);
        assert!(status.connections < 8, "{} connections", status.connections);
        assert!(status.totals.connections < 60, "{} dials", status.totals.connections);
        // Who refuses says why, and who is refused.
        assert!(server.log().contains("forward loop"), "{}", server.log());
    }
    let back = second.stream("live/a").expect("the stream").forwards.remove(0);
    assert!(back.connects == 0 && back.last_error.contains("forward loop"), "{back:?}");
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("through the loop", &sent, &got, Start::First);
    wait_until("no stream is left", seconds(10), || {
        first.status().streams.iter().chain(&second.status().streams).all(|s| s.state != "live")
    });
}

#[test]
fn a_cycle_with_a_third_slave_carries_one_stream_once_to_each() {
    let [a, b, c] = [(); 3].map(|()| free_address());
    let first = Setup::new().listen(a).forward_to(&[b, c]).start();
    let second = Setup::new().listen(b).forward_to(&[a, c]).start();
    let third = Setup::new().listen(c).start();
    let players = [b, c].map(|at| Recorder::start(at, "live/a"));
    let live = Live::start(a, "live/a", Synthetic::default());
    second.wait_live("live/a");
    third.wait_live("live/a");
    live.wait_more(150);
    for server in [&first, &second, &third] {
        let status = server.status();
        assert_eq!(status.streams.len(), 1, "{:?}", status.streams);
        assert!(status.connections < 8, "{} connections", status.connections);
        assert!(status.totals.connections < 60, "{} dials", status.totals.connections);
    }
    // Who refuses a stream that comes back says why.
    let back = second.stream("live/a").expect("the stream").forwards;
    let back = back.iter().find(|it| it.destination == a.to_string()).expect("a forward");
    assert!(back.connects == 0 && !back.last_error.is_empty(), "{back:?}");
    let sent = live.stop(End::Polite);
    for (label, player) in ["b", "c"].into_iter().zip(players) {
        let got = player.until_last(&sent, seconds(10));
        assert_same_sequence(label, &sent, &got, Start::Anywhere);
    }
    wait_until("no stream is left", seconds(10), || {
        let streams = [&first, &second, &third].map(|server| server.status().streams);
        streams.iter().flatten().all(|stream| stream.state != "live")
    });
}

#[test]
fn masters_with_streams_of_their_own_share_their_slaves() {
    let slaves = [(); 2].map(|()| Setup::new().start());
    let addresses = slaves.each_ref().map(|slave| slave.rtmp);
    let masters = [(); 2].map(|()| Setup::new().forward_to(&addresses).start());
    let paths = ["live/one", "live/two"];
    let players =
        slaves.each_ref().map(|slave| paths.map(|path| Recorder::start(slave.rtmp, path)));
    // As many frames at other times, so that one is not taken for the other.
    let lives = [0, 500_000].map(|start| Synthetic { start, ..Synthetic::default() });
    let lives: Vec<Live> = (masters.iter().zip(paths).zip(lives))
        .map(|((master, path), source)| Live::start(master.rtmp, path, source))
        .collect();
    for slave in &slaves {
        paths.iter().for_each(|path| slave.wait_live(path));
    }
    lives.iter().for_each(|live| live.wait_more(60));
    for master in &masters {
        assert_eq!(master.status().streams.len(), 1, "a master has its own streams alone");
    }
    let sent: Vec<Vec<Tag>> = lives.into_iter().map(|live| live.stop(End::Polite)).collect();
    for (at, players) in players.into_iter().enumerate() {
        for (player, (sent, path)) in players.into_iter().zip(sent.iter().zip(paths)) {
            let got = player.until_last(sent, seconds(10));
            assert_same_sequence(&format!("slave {at}, {path}"), sent, &got, Start::First);
        }
    }
}

#[test]
fn a_server_that_forwards_to_itself_carries_the_stream() {
    let address = free_address();
    let server = Setup::new().listen(address).forward_to(&[address]).start();
    let player = Recorder::start(address, "live/a");
    let live = Live::start(address, "live/a", Synthetic::default());
    live.wait_more(100);
    assert!(server.status().connections < 8, "{:?}", server.status());
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("beside itself", &sent, &got, Start::First);
}

#[test]
fn a_server_knows_itself_by_whatever_address() {
    // IPv4 too
    let (port, any) = (free_address().port(), Ipv6Addr::UNSPECIFIED);
    let hosts = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost", "[::1]", "[::]"];
    let list = hosts.map(|host| format!("\"{host}:{port}\"")).join(", ");
    let server = Setup::new().listen(SocketAddr::from((any, port)));
    let server = server.forward(&format!("destination = [{list}]")).start();
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    let forwards = || server.stream("live/a").map(|it| it.forwards).unwrap_or_default();
    wait_until("each is refused", seconds(20), || {
        let refused = |it: &ForwardStatus| it.last_error.contains("forward loop");
        forwards().iter().filter(|it| refused(it)).count() == hosts.len()
    });
    live.wait_more(50);
    assert!(forwards().iter().all(|it| it.connects == 0), "{:?}", forwards());
    let status = server.status();
    assert_eq!(status.streams.len(), 1, "{:?}", status.streams);
    assert!(status.connections < 8, "{} connections", status.connections);
    assert!(server.log().contains("forward loop"), "{}", server.log());
    drop(live);
}

#[test]
fn masters_with_the_same_stream_share_a_slave_one_after_the_other() {
    let slave = Setup::new().start();
    let text = format!("retry_refused = \"1s\"\ndestination = [\"{}\"]", slave.rtmp);
    let masters = [(); 2].map(|()| Setup::new().forward(&text).start());
    let player = Recorder::start(slave.rtmp, "live/a");
    let first = Live::start(masters[0].rtmp, "live/a", Synthetic::default());
    slave.wait_live("live/a");
    let later = Synthetic { start: 500_000, ..Synthetic::default() };
    let second = Live::start(masters[1].rtmp, "live/a", later);
    let told = |master: &Server, is: fn(&ForwardStatus) -> bool| {
        master.stream("live/a").is_some_and(|stream| stream.forwards.iter().all(is))
    };
    let is_taken =
        |it: &ForwardStatus| it.attempt > 2 && it.last_error.contains("NetStream.Publish.BadName");
    wait_until("the name is taken, again and again", seconds(30), || told(&masters[1], is_taken));
    assert!(told(&masters[0], |it| it.connects == 1) && told(&masters[1], |it| it.connects == 0));
    first.wait_more(20);
    let sent = first.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("while both are there", &sent, &got, Start::First);
    wait_until("the other one is in", seconds(30), || told(&masters[1], |it| it.connects == 1));
    let player = Recorder::start(slave.rtmp, "live/a");
    second.wait_more(30);
    let sent = second.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("the other one", &sent, &got, Start::Keyframe);
}

#[test]
fn parameters_are_forwarded_and_do_not_name_the_stream() {
    let sink = Sink::start(free_address());
    let master = Setup::new().forward_to(&[sink.address]).start();
    let player = Recorder::start(master.rtmp, "live/a?user=me");
    let live = Live::start(master.rtmp, "live/a?token=x&sign=1-2", Synthetic::default());
    wait_until("media", seconds(5), || sink.count() > 60);
    let stream = master.stream("live/a").expect("named without its parameters");
    assert_eq!(stream.players, 1, "a player's parameters do not matter");
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(5));
    assert_same_sequence("player", &sent, &got, Start::First);
    let received = &sink.received()[0];
    assert_eq!((received.app.as_str(), received.stream.as_str()), ("live", "a?token=x&sign=1-2"));
}

#[test]
fn the_status_of_a_forward_is_told() {
    let (sink, nobody) = (Sink::start(free_address()), free_address());
    let master = Setup::new().forward_to(&[sink.address, nobody]).start();
    let live = Live::start(master.rtmp, "live/a", Synthetic::default());
    wait_until("media", seconds(5), || sink.count() > 20);
    let mut told = String::new();
    wait_until("both states", seconds(5), || {
        let forwards = master.stream("live/a").map(|s| s.forwards).unwrap_or_default();
        told.clear();
        write!(told, "{forwards:?}").unwrap();
        let find = |to: &str| forwards.iter().find(|f| f.destination == to).cloned();
        let (Some(good), Some(bad)) = (find(&sink.address.to_string()), find(&nobody.to_string()))
        else {
            return false;
        };
        good.state == "forwarding"
            && good.sent_bytes > 0
            && good.connects == 1
            && bad.attempt > 1
            && bad.connects == 0
            && !bad.last_error.is_empty()
    });
    drop(live);
    eprintln!("{told}");
}
