//! Legs of an edge over networks that are far, slow, or gone: players get what was published.
mod common;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::thread;

use common::compare::{Start, assert_same_media, assert_same_sequence};
use common::external::{Player, Publish, ffmpeg_publish};
use common::flv::Tag;
use common::legs::{self, paths};
use common::link::{FAR, FAR6, Faults, Link, NEAR, NEAR6};
use common::media::{Clip, Synthetic};
use common::peer::{End, Live, Recorder};
use common::server::{Server, Setup};
use common::{seconds, wait_until};
use forwarder::status::LegStatus;

/// Runs a test on all paths at once: they wait more than they work, each in networks of its own.
fn on_each_path(test: impl Fn(&'static str, &'static str) + Sync) {
    thread::scope(|scope| {
        for (kernel, path) in paths() {
            let test = &test;
            scope.spawn(move || test(kernel, path));
        }
    });
}

/// Listens on all addresses of both families.
fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// The port that a host's first server has.
fn at(host: IpAddr) -> SocketAddr {
    (host, 1935).into()
}

/// An edge that listens there, and whose players all have legs.
fn edge_of(origins: &[SocketAddr], kernel: &str) -> Setup {
    legs::edge_of(origins, kernel).listen(any(1935))
}

fn legs(link: &Link, edge: &Server) -> Vec<LegStatus> {
    link.near.run(|| edge.status().legs)
}

/// Waits until the edge has `n` legs that play, all of them on `path`.
#[track_caller]
fn wait_legs(link: &Link, edge: &Server, n: usize, path: &str) {
    link.near.run(|| legs::wait_legs(edge, n));
    let legs = legs(link, edge);
    assert!(legs.iter().all(|leg| leg.path == path), "{legs:?}");
}

#[test]
fn players_and_origins_far_away_of_either_family() {
    on_each_path(|kernel, path| {
        let Some(link) = Link::new(1, Faults::far()) else { return };
        let origin = link.far.run(|| Setup::new().listen(any(1935)).start());
        // What comes over one family goes on over the same, and over the other.
        let edges = [(FAR, 1935), (FAR6, 1936)].map(|(origin, port)| {
            link.near.run(|| edge_of(&[at(origin)], kernel).listen(any(port)).start())
        });
        let play = |host: IpAddr, port| {
            link.far.run(move || Recorder::start((host, port).into(), "live/a"))
        };
        let players = [(NEAR, 1935), (NEAR6, 1935), (NEAR, 1936), (NEAR6, 1936)]
            .map(|(host, port)| (format!("{host} {port} {path}"), play(host, port)));
        edges.iter().for_each(|edge| wait_legs(&link, edge, 2, path));
        let live = link.far.run(|| Live::start(origin.rtmp, "live/a", Synthetic::default()));
        live.wait_more(200);
        edges.iter().for_each(|edge| wait_legs(&link, edge, 2, path));
        let sent = live.stop(End::Polite);
        for (label, player) in players {
            let got = player.until_last(&sent, seconds(20));
            assert_same_sequence(&label, &sent, &got, Start::First);
        }
        let carried = link.carried();
        println!("{path}: {carried:?}");
        assert!(carried.lost > 20 && carried.late > 20 && carried.duplicated > 10, "{carried:?}");
    });
}

#[test]
fn players_of_others_far_away() {
    on_each_path(|kernel, path| {
        let Some(link) = Link::new(2, Faults::far()) else { return };
        let origin = link.far.run(|| Setup::new().listen(any(1935)).start());
        let edge = link.near.run(|| edge_of(&[at(FAR6)], kernel).start());
        let (dir, direct) = (origin.dir(), format!("rtmp://{}/live/a", at(FAR)));
        let (over4, over6) = (at(NEAR), at(NEAR6));
        let (direct, rtmpdump, ffmpeg) = link.far.run(|| {
            let rtmpdump = Player::rtmpdump(dir, &format!("rtmp://{over4}/live/a"));
            let ffmpeg = Player::ffmpeg(dir, &format!("rtmp://{over6}/live/a"));
            (Player::rtmpdump(dir, &direct), rtmpdump, ffmpeg)
        });
        wait_legs(&link, &edge, 2, path);
        link.far.run(|| origin.wait_players("live/a", 3));
        let (clip, to) = (Clip::plain(), format!("rtmp://{}/live/a", at(FAR)));
        let publish = || ffmpeg_publish(dir, &clip.path, &to, Publish::default());
        link.far.run(publish).succeed(seconds(30));
        let want = direct.finish(seconds(20));
        for (label, player) in [("rtmpdump", rtmpdump), ("ffmpeg", ffmpeg)] {
            let got = player.finish(seconds(30));
            assert_same_media(&format!("{label} {path}"), &want, &got, Start::First);
        }
    });
}

#[test]
fn a_leg_to_a_slow_player_comes_back_and_goes_again() {
    on_each_path(|kernel, path| {
        let Some(link) = Link::new(3, Faults::default()) else { return };
        let origin = link.near.run(|| Setup::new().listen(any(1936)).start());
        let edge = edge_of(&[(NEAR, 1936).into()], kernel).edge("leg_soft_limit = \"64KiB\"");
        let edge = link.near.run(|| edge.start());
        // 500 KB/s.
        let source = Synthetic { frame_bytes: 20_000, ..Synthetic::default() };
        let live = link.near.run(|| Live::start(origin.rtmp, "live/a", source));
        let player = link.far.run(|| Recorder::start(at(NEAR), "live/a"));
        wait_legs(&link, &edge, 1, path);
        for round in 1..=2 {
            link.set(Faults { rate: Some(150_000), ..Faults::default() });
            wait_until("the leg is in user space", seconds(10), || {
                legs(&link, &edge)[0].path == "user"
            });
            live.wait_more(50);
            link.set(Faults::default());
            wait_until("the leg is where it was", seconds(15), || {
                legs(&link, &edge)[0].path == path
            });
            let leg = legs(&link, &edge).remove(0);
            assert!(path == "user" || leg.unsplices >= round, "{leg:?}");
            assert_eq!(leg.connects, 1, "{leg:?}");
        }
        live.wait_more(20);
        let sent = live.stop(End::Polite);
        let got = player.until_last(&sent, seconds(20));
        assert_same_sequence(path, &sent, &got, Start::Keyframe);
        assert!(link.carried().lost > 0, "the link was never full");
    });
}

#[test]
fn nothing_is_lost_when_the_network_comes_back() {
    on_each_path(|kernel, path| {
        let Some(link) = Link::new(4, Faults::far()) else { return };
        let origin = link.far.run(|| Setup::new().listen(any(1935)).start());
        let edge = link.near.run(|| edge_of(&[at(FAR6)], kernel).start());
        let live = link.far.run(|| Live::start(origin.rtmp, "live/a", Synthetic::default()));
        let player = link.far.run(|| Recorder::start(at(NEAR), "live/a"));
        wait_until("media", seconds(10), || player.count() > 50);
        link.set(Faults { cut: true, ..Faults::far() });
        let before = link.carried().lost;
        live.wait_more(60);
        let seen = player.count();
        live.wait_more(40);
        assert_eq!(player.count(), seen, "media over a link that is cut");
        assert!(link.carried().lost > before);
        link.set(Faults::far());
        wait_until("media goes on", seconds(15), || player.count() > seen + 100);
        wait_legs(&link, &edge, 1, path);
        let connects = legs(&link, &edge)[0].connects;
        let sent = live.stop(End::Polite);
        let got = player.until_last(&sent, seconds(20));
        assert_same_sequence(path, &sent, &got, Start::Keyframe);
        assert_eq!(connects, 1, "another origin was asked");
    });
}

#[test]
fn an_origin_that_stays_away_is_replaced() {
    on_each_path(|kernel, path| {
        let Some(link) = Link::new(5, Faults::far()) else { return };
        let far = link.far.run(|| Setup::new().listen(any(1935)).start());
        let near = link.near.run(|| Setup::new().listen(any(1936)).start());
        let (at_far, at_near) = (at(FAR6), SocketAddr::from((NEAR, 1936)));
        let master = Setup::new().forward_to(&[at_far, at_near]);
        let master = link.near.run(|| master.start());
        let edge = edge_of(&[at_far, at_near], kernel).edge("idle_timeout = \"1s\"");
        let edge = link.near.run(|| edge.start());
        let live = link.near.run(|| Live::start(master.rtmp, "live/a", Synthetic::default()));
        for (host, origin) in [(&link.far, &far), (&link.near, &near)] {
            host.run(|| origin.wait_live("live/a"));
        }
        let players: Vec<Recorder> =
            link.near.run(|| (0..2).map(|_| Recorder::start(at(NEAR6), "live/a")).collect());
        wait_until("media", seconds(10), || players.iter().all(|player| player.count() > 20));
        wait_legs(&link, &edge, 2, path);
        assert_eq!(
            legs(&link, &edge).iter().filter(|leg| leg.origin == at_far.to_string()).count(),
            1,
            "each origin has a leg: {:?}",
            legs(&link, &edge)
        );
        link.set(Faults { cut: true, ..Faults::far() });
        wait_until("all legs are at the near origin", seconds(15), || {
            let near = at_near.to_string();
            legs(&link, &edge).iter().all(|leg| leg.origin == near)
        });
        live.wait_more(60);
        wait_legs(&link, &edge, 2, path);
        let sent = live.stop(End::Polite);
        let last = sent.iter().rfind(|tag| tag.is_frame()).unwrap();
        for (n, player) in players.iter().enumerate() {
            wait_until("the last frame", seconds(10), || player.has(last));
            assert!(!player.ended(), "player {n} was disconnected");
            // At most the one frame that was cut is not as it was published.
            let odd = |tag: &&Tag| tag.is_frame() && !sent.contains(tag);
            assert!(player.tags().iter().filter(odd).count() <= 1, "player {n}");
        }
    });
}

#[test]
fn a_player_that_stays_away_is_given_up() {
    on_each_path(|kernel, path| {
        let Some(link) = Link::new(6, Faults::far()) else { return };
        let origin = link.near.run(|| Setup::new().listen(any(1936)).start());
        let edge = edge_of(&[(NEAR6, 1936).into()], kernel).play("write_timeout = \"1s\"");
        let edge = link.near.run(|| edge.start());
        // 1.25 MB/s, so that what the socket holds is soon full.
        let source = Synthetic { frame_bytes: 50_000, ..Synthetic::default() };
        let live = link.near.run(|| Live::start(origin.rtmp, "live/a", source));
        let lost = link.far.run(|| Recorder::start(at(NEAR6), "live/a"));
        let stays = link.near.run(|| Recorder::start(at(NEAR), "live/a"));
        wait_until("media", seconds(10), || lost.count() > 10 && stays.count() > 10);
        wait_legs(&link, &edge, 2, path);
        link.set(Faults { cut: true, ..Faults::default() });
        wait_legs(&link, &edge, 1, path);
        link.near.run(|| origin.wait_players("live/a", 1));
        live.wait_more(20);
        let sent = live.stop(End::Polite);
        let got = stays.until_last(&sent, seconds(10));
        assert_same_sequence(path, &sent, &got, Start::Keyframe);
        // All that came before the cut is as it was sent.
        assert!(lost.tags().iter().filter(|tag| tag.is_frame()).all(|tag| sent.contains(tag)));
    });
}
