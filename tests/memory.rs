//! What a server holds, in its own memory and in the kernel, is bounded, and goes when its clients do.
mod common;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use common::compare::{Start, assert_same_sequence, assert_whole_messages};
use common::link::{Faults, Link, NEAR};
use common::media::Synthetic;
use common::peer::{End, Live, Peer, Recorder};
use common::process::{anonymous, resident, unacknowledged};
use common::server::{Server, Setup};
use common::{seconds, wait_until};
use forwarder::rtmp::session::Goal;
use nix::sys::signal::Signal;

/// 20 Mbit/s, a keyframe each second.
const HEAVY: Synthetic = Synthetic { fps: 25, gop: 25, frame_bytes: 100_000, start: 0 };

/// What the kernel takes beyond a bound: the packet that crosses it, and one that is under way.
const PACKETS: u64 = 128 << 10;

fn open_files(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.status().pid)).expect("its files").count()
}

/// Most bytes that `server` has in the kernel for `peer` while `live` publishes `n` messages.
fn most_unacknowledged(server: SocketAddr, peer: SocketAddr, live: &Live, n: usize) -> u64 {
    let (goal, mut most) = (live.count() + n, 0);
    wait_until("more was published", seconds(30), || {
        most = most.max(unacknowledged(server, peer));
        live.count() > goal
    });
    most
}

#[test]
fn what_the_kernel_holds_for_a_stuck_player_is_bounded() {
    let lines: [(&str, &str, u64); 3] = [
        ("notsent_lowat = \"64KiB\"", "send_buffer = 0", 64 << 10),
        // Linux takes twice what it is told.
        ("notsent_lowat = 0", "send_buffer = \"96KiB\"", 192 << 10),
        ("", "", 128 << 10),
    ];
    for (lowat, buffer, bound) in lines {
        let server = Setup::new().play(lowat).play(buffer).play("queue_bytes = \"8MiB\"").start();
        let healthy = Recorder::start(server.rtmp, "live/a");
        let (address, stuck) = Recorder::with_little_room(server.rtmp, "live/a");
        let live = Live::start(server.rtmp, "live/a", HEAVY);
        wait_until("both play", seconds(10), || healthy.count() > 20 && stuck.count() > 20);
        stuck.pause(true);
        let most = most_unacknowledged(server.rtmp, address, &live, 250);
        eprintln!("{lowat} {buffer}: at most {most} bytes");
        assert!(most >= bound / 2, "it was not stuck: {most} bytes");
        assert!(most <= bound + PACKETS, "{lowat} {buffer}: {most} bytes");
        stuck.pause(false);
        let before = stuck.count();
        live.wait_more(100);
        wait_until("the stuck one plays again", seconds(10), || stuck.count() > before + 60);
        let sent = live.stop(End::Polite);
        let got = healthy.until_last(&sent, seconds(10));
        assert_same_sequence("the healthy player", &sent, &got, Start::First);
        let got = stuck.until_last(&sent, seconds(10));
        assert_whole_messages("the stuck player", &sent, &got);
    }
}

#[test]
fn without_bounds_the_kernel_holds_more() {
    let server = Setup::new().play("notsent_lowat = 0").start();
    let (address, stuck) = Recorder::with_little_room(server.rtmp, "live/a");
    let live = Live::start(server.rtmp, "live/a", HEAVY);
    wait_until("it plays", seconds(10), || stuck.count() > 20);
    stuck.pause(true);
    wait_until("more than any bound of ours", seconds(20), || {
        unacknowledged(server.rtmp, address) > (128 << 10) + PACKETS
    });
    live.stop(End::Polite);
}

#[test]
fn what_the_kernel_holds_for_a_destination_that_stops_is_bounded() {
    let slave = Setup::new().start();
    let master = Setup::new().forward_to(&[slave.rtmp]).start();
    let live = Live::start(master.rtmp, "live/a", HEAVY);
    slave.wait_live("live/a");
    let player = Recorder::start(slave.rtmp, "live/a");
    wait_until("it plays", seconds(10), || player.count() > 20);
    slave.signal(Signal::SIGSTOP);
    let from = forward_of(slave.rtmp);
    let most = most_unacknowledged(from, slave.rtmp, &live, 250);
    slave.signal(Signal::SIGCONT);
    eprintln!("at most {most} bytes");
    assert!(most > 0, "it went on reading");
    assert!(most <= (128 << 10) + PACKETS, "{most} bytes");
    let before = player.count();
    live.wait_more(50);
    wait_until("it plays again", seconds(10), || player.count() > before + 40);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_whole_messages("behind the slave", &sent, &got);
}

/// The other end of the connection that feeds `slave`, which has stopped: more waits there than what
/// a player says.
fn forward_of(slave: SocketAddr) -> SocketAddr {
    let mut found = None;
    wait_until("the forward waits", seconds(10), || {
        found = common::process::unread(slave).into_iter().max();
        found = found.filter(|(bytes, _)| *bytes > 16 << 10);
        found.is_some()
    });
    found.expect("a connection").1
}

#[test]
fn a_player_far_away_gets_everything_in_spite_of_the_bound() {
    // 100 ms there and back, in which 250 KB are under way: more than may wait unsent.
    let faults = Faults { delay: Duration::from_millis(50), ..Faults::default() };
    let Some(link) = Link::new(1, faults) else { return };
    let server = link.near.run(|| {
        let any = SocketAddr::from(([0, 0, 0, 0], 1935));
        Setup::new().play("notsent_lowat = \"64KiB\"").listen(any).start()
    });
    let live = link.near.run(|| Live::start(server.rtmp, "live/a", HEAVY));
    live.wait_more(20);
    let player = link.far.run(|| Recorder::start((NEAR, 1935).into(), "live/a"));
    live.wait_more(400);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(5));
    assert_same_sequence("far away", &sent, &got, Start::Keyframe);
    assert_eq!(link.near.run(|| server.status().totals.skips), 0);
}

#[test]
fn nothing_is_left_of_hundreds_of_publishers_and_players() {
    let server = Setup::new().publish("grace = \"0s\"").start();
    let pid = server.status().pid;
    let round = || {
        for n in 0..20 {
            let path = format!("live/s{n}");
            let mut publisher = Peer::publish(server.rtmp, &path);
            let mut players: Vec<Peer> =
                (0..5).map(|_| Peer::open(server.rtmp, Goal::Play, &path)).collect();
            let media = Synthetic { gop: 1 + n, frame_bytes: 20_000, ..HEAVY };
            media.preamble().iter().for_each(|tag| publisher.send(tag).unwrap());
            for frame in 0..20 {
                media.frame(frame).iter().for_each(|tag| publisher.send(tag).unwrap());
            }
            // One of them leaves in the middle of its commands, or with media unread.
            drop(players.pop());
            let mut players: Vec<Peer> = players.into_iter().map(Peer::started).collect();
            players.iter_mut().for_each(Peer::finish);
            if n % 2 == 0 {
                publisher.finish();
            }
        }
        wait_until("all are forgotten", seconds(20), || {
            let status = server.status();
            status.connections == 0 && status.streams.is_empty()
        });
        (open_files(&server), resident(pid))
    };
    let first = round();
    let mut last = first;
    for _ in 0..9 {
        last = round();
    }
    eprintln!("open files and memory after 20 publishers {first:?}, after 200 {last:?}");
    // What asks the server how it is has connections of its own, which are closed a little later.
    wait_until("no more files are open than before", seconds(10), || {
        open_files(&server) <= first.0
    });
    assert!(last.1 < first.1 + (8 << 20), "{} bytes, {} before", last.1, first.1);
}

#[test]
fn a_player_takes_a_few_kilobytes() {
    const PLAYERS: u64 = 400;
    let server = Setup::new().global("threads = 1").start();
    let pid = server.status().pid;
    let mut publisher = Peer::publish(server.rtmp, "live/a");
    let media = Synthetic { frame_bytes: 2500, ..HEAVY };
    media.preamble().iter().for_each(|tag| publisher.send(tag).unwrap());
    let mut frames = 0..;
    let mut play = |players: &mut Vec<Peer>, n| {
        players.extend((0..n).map(|_| Peer::play(server.rtmp, "live/a")));
        for frame in frames.by_ref().take(25) {
            media.frame(frame).iter().for_each(|tag| publisher.send(tag).unwrap());
            players.iter_mut().for_each(|player| player.pump(Duration::from_millis(1)));
        }
        anonymous(pid)
    };
    // The first ones take what all share.
    let mut players = Vec::new();
    let before = play(&mut players, 100);
    let each = (play(&mut players, PLAYERS) - before) / PLAYERS;
    assert_eq!(server.status().connections, 501);
    eprintln!("{each} bytes for each player");
    assert!(each < 8 << 10, "{each} bytes for each player");
}

#[test]
fn streams_without_keyframes_hold_no_more_than_their_bound() {
    const STREAMS: u64 = 8;
    let server = Setup::new().play("gop_cache_max_bytes = \"1MiB\"").start();
    let pid = server.status().pid;
    let media = Synthetic { gop: u32::MAX, frame_bytes: 50_000, ..HEAVY };
    let mut publishers: Vec<Peer> =
        (0..STREAMS).map(|n| Peer::publish(server.rtmp, &format!("live/s{n}"))).collect();
    let before = resident(pid);
    let mut most = 0;
    for frame in 0..200 {
        for publisher in &mut publishers {
            media.frame(frame).iter().for_each(|tag| publisher.send(tag).unwrap());
        }
        if frame % 10 == 0 {
            let held = server.status().streams.into_iter().map(|stream| stream.log_bytes);
            most = most.max(held.sum());
        }
    }
    let grown = resident(pid).saturating_sub(before);
    eprintln!("10 MB to each of {STREAMS} streams: logs of {most} bytes, {grown} more resident");
    assert!(most <= STREAMS * (5 << 18), "logs of {most} bytes");
    // With what is kept for the next segments, and what each connection reads into.
    assert!(grown < (16 << 20) + STREAMS * (2 << 20), "{grown} more bytes");
}
