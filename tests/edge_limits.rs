//! A player that does not read costs an edge with legs no more than its limits, and nobody else
//! anything.
mod common;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::compare::{Start, assert_same_sequence, assert_whole_messages};
use common::legs::{edge_of, paths, wait_legs};
use common::media::Synthetic;
use common::peer::{End, Live, Recorder};
use common::process::{queued, resident};
use common::server::{Server, Setup};
use common::{seconds, wait_until};
use forwarder::status::LegStatus;
use nix::sys::signal::Signal;

/// 50 Mbit/s, a keyframe each 480 ms (3 MB).
fn heavy() -> Synthetic {
    Synthetic { fps: 25, gop: 12, frame_bytes: 250_000, start: 0 }
}

/// The load is heavy enough for one of these tests at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn leg(edge: &Server, player: SocketAddr) -> Option<LegStatus> {
    edge.status().legs.into_iter().find(|leg| leg.peer == player.to_string())
}

/// Two healthy players of `live/a` and one that can be stalled, all with media.
#[track_caller]
fn three_players(edge: &Server) -> ([Recorder; 2], SocketAddr, Recorder) {
    let healthy = [(); 2].map(|()| Recorder::start(edge.rtmp, "live/a"));
    let (address, slow) = Recorder::with_little_room(edge.rtmp, "live/a");
    wait_legs(edge, 3);
    let all = [&healthy[0], &healthy[1], &slow];
    wait_until("media", seconds(10), || all.iter().all(|player| player.count() > 20));
    (healthy, address, slow)
}

#[track_caller]
fn assert_untouched(healthy: [Recorder; 2], live: Live) {
    let sent = live.stop(End::Polite);
    for player in healthy {
        let got = player.until_last(&sent, seconds(20));
        assert_same_sequence("a healthy player", &sent, &got, Start::Keyframe);
    }
}

#[track_caller]
fn assert_thrown_out_once(edge: &Server, player: SocketAddr) {
    let about = format!("peer={player}");
    let lines = || -> Vec<String> {
        let log = edge.log();
        let is = |line: &&str| line.contains(&about) && line.contains("does not read");
        log.lines().filter(is).map(str::to_owned).collect()
    };
    wait_until("a line in the log", seconds(5), || !lines().is_empty());
    assert_eq!((lines().len(), edge.status().totals.errors), (1, 1), "{:#?}", lines());
}

#[test]
fn a_stalled_player_holds_little_and_goes_on_when_it_reads_again() {
    let _alone = alone();
    for (kernel, path) in paths() {
        let origin =
            Setup::new().play("queue_bytes = \"4MiB\"").play("queue_length = \"30s\"").start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let live = Live::start(origin.rtmp, "live/a", heavy());
        let (healthy, address, slow) = three_players(&edge);
        let pid = edge.status().pid;
        let rss = resident(pid);
        let servers = [origin.rtmp, edge.rtmp];

        slow.pause(true);
        let (mut most_rss, mut most_queued, mut most_backlog) = (0, 0, 0);
        let goal = live.count() + 640; // 80 MB
        wait_until("80 MB were published", seconds(60), || {
            most_rss = resident(pid).max(most_rss);
            most_queued = queued(&servers).max(most_queued);
            most_backlog = leg(&edge, address).map_or(0, |leg| leg.backlog).max(most_backlog);
            live.count() > goal || live.is_over()
        });
        let rss = most_rss.saturating_sub(rss);
        eprintln!(
            "{path}: the process grew by {rss}; at most {most_queued} bytes were in the queues of TCP \
             and {most_backlog} waited for the player"
        );
        assert!(rss < 8 << 20, "{path}: the process grew by {rss} bytes");
        assert!(most_queued < 48 << 20, "{path}: {most_queued} bytes in the queues of TCP");
        // The soft limit is 1 MiB; a group of pictures comes at once.
        assert!(most_backlog < 8 << 20, "{path}: {most_backlog} bytes waited");
        assert!(leg(&edge, address).is_some(), "closed before write_timeout");

        slow.pause(false);
        let before = slow.count();
        wait_until("the slow one plays again", seconds(20), || slow.count() > before + 100);
        let skips = origin.stream("live/a").unwrap().skips;
        let sent = live.stop(End::Polite);
        let got = slow.until_last(&sent, seconds(20));
        let seen = assert_whole_messages("the slow player", &sent, &got);
        assert!(seen >= 1 && seen as u64 == skips, "{seen} skips seen, {skips} at the origin");
        for player in healthy {
            let got = player.until_last(&sent, seconds(20));
            assert_same_sequence("a healthy player", &sent, &got, Start::Keyframe);
        }
        assert_eq!(edge.status().totals.errors, 0);
    }
}

#[test]
fn a_player_that_never_reads_again_is_closed_and_the_others_play_on() {
    let _alone = alone();
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).play("write_timeout = \"2s\"").start();
        let live = Live::start(origin.rtmp, "live/a", heavy());
        let (healthy, address, slow) = three_players(&edge);
        slow.pause(true);
        let took = wait_until("it is closed", seconds(20), || leg(&edge, address).is_none());
        eprintln!("{path}: closed after {took:?}");
        origin.wait_players("live/a", 2);
        live.wait_more(50);
        assert_thrown_out_once(&edge, address);
        assert_eq!(edge.status().legs.len(), 2);
        assert_untouched(healthy, live);
    }
}

#[test]
fn over_the_soft_limit_a_leg_goes_on_in_user_space() {
    let _alone = alone();
    let Some((kernel, _)) = paths().into_iter().find(|(_, path)| *path == "kernel") else { return };
    let origin = Setup::new().start();
    let edge = edge_of(&[origin.rtmp], kernel).edge("leg_soft_limit = \"2MiB\"").start();
    // A group of pictures is below the limit, so that joining is no reason to come back.
    let source = Synthetic { frame_bytes: 100_000, ..heavy() };
    let live = Live::start(origin.rtmp, "live/a", source);
    let (healthy, address, slow) = three_players(&edge);
    let before = leg(&edge, address).unwrap();
    assert_eq!((before.path.as_str(), before.unsplices), ("kernel", 0));
    slow.pause(true);
    let mut back = None;
    wait_until("user space carries it", seconds(10), || {
        back = leg(&edge, address).filter(|leg| leg.path == "user");
        back.is_some()
    });
    let back = back.unwrap();
    assert!(back.unsplices == 1 && back.bytes - before.bytes > 2 << 20, "{before:?} {back:?}");
    // Now it is held up like any player.
    live.wait_more(100);
    slow.pause(false);
    wait_until("bytes move on", seconds(10), || {
        leg(&edge, address).is_some_and(|leg| leg.bytes > back.bytes + (1 << 20))
    });
    let sent = live.sent();
    let last = sent.iter().rfind(|tag| tag.is_frame()).unwrap();
    wait_until("it has caught up", seconds(20), || slow.has(last));
    let got = slow.tags();
    assert_eq!(assert_whole_messages("the slow player", &live.sent(), &got), 0, "nothing is lost");
    assert_eq!(edge.status().totals.errors, 0);
    assert_untouched(healthy, live);
}

#[test]
fn a_player_over_the_hard_limit_is_closed_and_the_others_play_on() {
    let _alone = alone();
    let Some((kernel, _)) = paths().into_iter().find(|(_, path)| *path == "kernel") else { return };
    let origin = Setup::new().start();
    let edge = edge_of(&[origin.rtmp], kernel).edge("leg_hard_limit = \"8MiB\"").start();
    let live = Live::start(origin.rtmp, "live/a", heavy());
    let (healthy, address, slow) = three_players(&edge);
    // A process that gets no time cannot hold an origin up: the kernel is on its own.
    slow.pause(true);
    edge.signal(Signal::SIGSTOP);
    live.wait_more(160); // 20 MB
    edge.signal(Signal::SIGCONT);
    wait_until("it is closed", seconds(5), || leg(&edge, address).is_none());
    assert_thrown_out_once(&edge, address);
    live.wait_more(50);
    assert_eq!(edge.status().legs.len(), 2);
    assert_untouched(healthy, live);
}
