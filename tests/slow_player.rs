//! A player that cannot keep up harms only itself, and even it gets nothing but whole messages.
mod common;

use common::compare::{Start, assert_same_sequence, assert_whole_messages};
use common::media::Synthetic;
use common::peer::{End, Live, Recorder};
use common::raw::Raw;
use common::server::{Server, Setup};
use common::{seconds, wait_until};

/// 40 Mbit/s, a keyframe each 480 ms (2.4 MB).
fn heavy() -> Synthetic {
    Synthetic { fps: 25, gop: 12, frame_bytes: 200_000, start: 0 }
}

fn log_bytes(server: &Server) -> u64 {
    server.stream("live/a").map_or(0, |s| s.log_bytes)
}

#[test]
fn a_stalled_player_skips_to_a_keyframe_and_harms_nobody() {
    let server = Setup::new().play("queue_bytes = \"4MiB\"").play("queue_length = \"30s\"").start();
    let healthy = Recorder::start(server.rtmp, "live/a");
    let slow = Recorder::with_little_room(server.rtmp, "live/a").1;
    let live = Live::start(server.rtmp, "live/a", heavy());
    wait_until("both play", seconds(10), || healthy.count() > 20 && slow.count() > 20);

    slow.pause(true);
    let mut most = 0;
    let goal = live.count() + 350; // seven seconds: 35 MB
    wait_until("35 MB were published", seconds(30), || {
        most = most.max(log_bytes(&server));
        live.count() > goal || live.is_over()
    });
    eprintln!("the log held at most {most} bytes");
    assert!(most < 12 << 20, "{most} bytes held for a queue of 4 MiB");
    assert!(!slow.ended(), "4 MiB behind is no reason to close");

    slow.pause(false);
    let before = slow.count();
    live.wait_more(100);
    wait_until("the slow one plays again", seconds(10), || slow.count() > before + 60);
    let stream = server.stream("live/a").unwrap();
    let skips = server.status().totals.skips;
    let sent = live.stop(End::Polite);

    let got = healthy.until_last(&sent, seconds(10));
    assert_same_sequence("the healthy player", &sent, &got, Start::First);
    let got = slow.until_last(&sent, seconds(10));
    let seen = assert_whole_messages("the slow player", &sent, &got);
    eprintln!("{seen} skips seen, {} counted", stream.skips);
    assert!(seen >= 1, "35 MB fitted into the slow player's queue of 4 MiB");
    assert_eq!(stream.skips, seen as u64, "skips of the stream");
    assert_eq!(skips, seen as u64, "skips of the server");
}

#[test]
fn a_stalled_player_that_asks_for_a_stream_again_is_not_answered_inside_a_message() {
    let server = Setup::new().start();
    let mut player = Raw::connect(server.rtmp);
    player.ready();
    let live = Live::start(server.rtmp, "live/a", heavy());
    live.wait_more(10);
    player.play("a");
    player.expect("NetStream.Play.Start");
    live.wait_more(120); // 24 MB, more than the kernel holds for it
    player.command(1, "closeStream", 0.0, Vec::new());
    player.play("a");
    player.expect("NetStream.Play.Start");
    live.stop(End::Polite);
}

#[test]
fn a_player_late_in_time_skips_though_it_is_few_bytes() {
    let server = Setup::new().play("queue_length = \"1s\"").start();
    let slow = Recorder::with_little_room(server.rtmp, "live/a").1;
    let source = Synthetic { frame_bytes: 60_000, ..heavy() };
    let live = Live::start(server.rtmp, "live/a", source);
    wait_until("it plays", seconds(10), || slow.count() > 20);
    slow.pause(true);
    live.wait_more(400); // eight seconds: 12 MB, under queue_bytes
    slow.pause(false);
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    let got = slow.until_last(&sent, seconds(10));
    assert!(assert_whole_messages("the slow player", &sent, &got) >= 1, "it never skipped");
}

#[test]
fn a_player_that_takes_nothing_is_closed() {
    let server = Setup::new().play("write_timeout = \"1s\"").play("queue_bytes = \"4MiB\"").start();
    let healthy = Recorder::start(server.rtmp, "live/a");
    let dead = Recorder::with_little_room(server.rtmp, "live/a").1;
    let live = Live::start(server.rtmp, "live/a", heavy());
    wait_until("both play", seconds(10), || healthy.count() > 20 && dead.count() > 20);
    dead.pause(true);
    let took = wait_until("it is closed", seconds(15), || {
        server.stream("live/a").is_some_and(|s| s.players == 1)
    });
    eprintln!("closed after {took:?}");
    let sent = live.stop(End::Polite);
    let got = healthy.until_last(&sent, seconds(10));
    assert_same_sequence("the healthy player", &sent, &got, Start::First);
}
