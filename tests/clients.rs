//! FFmpeg, rtmpdump, GStreamer and nginx-rtmp publish and play, and nothing is lost on the way.
mod common;

use std::path::Path;

use common::compare::{
    Start, assert_headers_once, assert_monotonic, assert_same_media, assert_same_sequence,
};
use common::external::{Player, Publish, ffmpeg_publish, gst_publish};
use common::flv::{self, Tag};
use common::media::{Clip, Synthetic};
use common::nginx::Nginx;
use common::peer::{End, Live, Recorder};
use common::server::{Server, Setup};
use common::{seconds, wait_until};

/// Publishes `clip` to a server on which all three players wait already.
fn every_player_gets_all(clip: &Clip, how: Publish) {
    let server = Setup::new().start();
    let (dir, url) = (server.dir(), server.url("live/a"));
    let players = [
        ("ffmpeg", Player::ffmpeg(dir, &url)),
        ("rtmpdump", Player::rtmpdump(dir, &url)),
        ("gst", Player::gstreamer(dir, &url)),
    ];
    server.wait_players("live/a", 3);
    let published = clip.published(dir, how);
    ffmpeg_publish(dir, &clip.path, &url, how).succeed(seconds(30));
    for (label, player) in players {
        let got = player.finish(seconds(15));
        assert_same_media(label, &published, &got, Start::First);
        assert_monotonic(label, &got);
        if label != "ffmpeg" {
            assert_headers_once(label, &published, &got);
        }
    }
}

#[test]
fn players_get_what_ffmpeg_publishes() {
    every_player_gets_all(&Clip::plain(), Publish::default());
}

#[test]
fn players_get_composition_times_and_mp3() {
    every_player_gets_all(&Clip::b_frames(), Publish::default());
}

#[test]
fn players_follow_into_extended_timestamps() {
    // 2^24 ms are 16,777.216 s: the clip crosses them after about a second
    every_player_gets_all(&Clip::plain(), Publish { offset: 16_776, endless: false });
}

/// GStreamer publishes with `sink`, rtmpdump and a recorder play.
fn gst_publishes(sink: &str, url_suffix: &str) {
    let server = Setup::new().start();
    let (dir, url) = (server.dir(), server.url("live/a"));
    let player = Player::rtmpdump(dir, &url);
    server.wait_players("live/a", 1);
    let copy = dir.join("published.flv");
    let clip = Clip::plain();
    let to = format!("{url}{url_suffix}");
    gst_publish(dir, &clip.path, sink, &to, &copy).succeed(seconds(30));
    let published = flv::read(&copy);
    let got = player.finish(seconds(15));
    assert_same_media(sink, &published, &got, Start::First);
    assert_headers_once(sink, &published, &got);
}

#[test]
fn gstreamer_rtmp2sink_publishes() {
    gst_publishes("rtmp2sink", "");
}

#[test]
fn librtmp_publishes() {
    gst_publishes("rtmpsink", "");
}

#[test]
fn nginx_pushes_into_us() {
    let server = Setup::new().start();
    let dir = server.dir();
    let nginx = Nginx::start(dir, Some(server.rtmp));
    let player = Player::rtmpdump(dir, &server.url("live/a"));
    server.wait_players("live/a", 1);
    let (clip, how) = (Clip::plain(), Publish::default());
    let published = clip.published(dir, how);
    ffmpeg_publish(dir, &clip.path, &nginx.url("a"), how).succeed(seconds(30));
    let got = player.finish(seconds(15));
    // nginx throws away what it gets before its push is connected
    assert_same_media("nginx push", &published, &got, Start::Anywhere);
    assert!(got.len() + 40 > published.len(), "{} of {} tags", got.len(), published.len());
}

#[test]
fn a_late_joiner_starts_with_headers_and_a_keyframe() {
    let server = Setup::new().start();
    let source = Synthetic { start: 123_456, gop: 25, ..Synthetic::default() };
    let live = Live::start(server.rtmp, "live/a", source);
    live.wait_more(90);
    let late = Recorder::start(server.rtmp, "live/a");
    wait_until("media", seconds(5), || late.count() > 10);
    let edge = live.edge();
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    wait_until("the end", seconds(10), || late.finished());
    let got = late.tags();
    assert_same_sequence("late joiner", &sent, &got, Start::Keyframe);
    assert_headers_once("late joiner", &sent, &got);
    let first = got.iter().find(|t| t.is_frame()).unwrap();
    let behind = edge.wrapping_sub(first.timestamp);
    assert!(behind <= 2000, "starts {behind} ms ago: not the newest keyframe");
    for header in got.iter().filter(|t| t.is_header()) {
        assert_eq!(header.timestamp, first.timestamp, "headers carry the time of the GOP");
    }
    assert!(got[0].is_metadata(), "metadata comes first");
}

#[test]
fn late_ffmpeg_and_rtmpdump_start_with_a_keyframe() {
    let server = Setup::new().start();
    let (dir, url) = (server.dir(), server.url("live/a"));
    let (clip, how) = (Clip::plain(), Publish::default());
    let published = clip.published(dir, how);
    let mut publisher = ffmpeg_publish(dir, &clip.path, &url, how);
    wait_until("2 s were published", seconds(15), || {
        server.stream("live/a").is_some_and(|s| s.messages > 100)
    });
    let players =
        [("ffmpeg", Player::ffmpeg(dir, &url)), ("rtmpdump", Player::rtmpdump(dir, &url))];
    publisher.succeed(seconds(30));
    for (label, player) in players {
        let got = player.finish(seconds(15));
        assert_same_media(label, &published, &got, Start::Keyframe);
        assert_headers_once(label, &published, &got);
    }
}

#[test]
fn times_pass_every_boundary_unchanged() {
    for start in [u32::MAX - 900, (1 << 31) - 900, (1 << 24) - 900] {
        let server = Setup::new().start();
        let early = Recorder::start(server.rtmp, "live/a");
        let dumped = Player::rtmpdump(server.dir(), &server.url("live/a"));
        server.wait_players("live/a", 2);
        let live = Live::start(server.rtmp, "live/a", Synthetic { start, ..Synthetic::default() });
        live.wait_more(90);
        let sent = live.stop(End::Polite);
        let label = format!("from {start:#x}");
        assert_same_sequence(&label, &sent, &dumped.finish(seconds(15)), Start::First);
        assert_same_sequence(&label, &sent, &early.until_last(&sent, seconds(5)), Start::First);
    }
}

#[test]
fn a_stream_of_audio_alone_plays_at_once() {
    let server = Setup::new().start();
    let (dir, url) = (server.dir(), server.url("live/a"));
    let file = audio_only(dir);
    let early = Player::rtmpdump(dir, &url);
    server.wait_players("live/a", 1);
    let how = Publish::default();
    let mut publisher = ffmpeg_publish(dir, &file, &url, how);
    server.wait_live("live/a");
    wait_until("audio", seconds(10), || server.stream("live/a").is_some_and(|s| s.messages > 20));
    let late = Recorder::start(server.rtmp, "live/a");
    wait_until("a late joiner hears it", seconds(3), || late.count() > 20);
    publisher.succeed(seconds(30));
    let got = early.finish(seconds(15));
    let bodies = |tags: &[Tag]| -> Vec<Vec<u8>> {
        tags.iter().filter(|t| t.is_frame()).map(|t| t.body.clone()).collect()
    };
    assert_eq!(bodies(&got), bodies(&Clip { path: file }.published(dir, how)), "audio frames");
}

/// The clip without its video.
fn audio_only(dir: &Path) -> std::path::PathBuf {
    let file = dir.join("audio.flv");
    let mut command = std::process::Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin", "-i"]).arg(Clip::plain().path);
    command.args(["-vn", "-c", "copy"]).arg(&file);
    common::process::Process::spawn(dir, "ffmpeg-audio", "ffmpeg", &mut command)
        .succeed(seconds(20));
    file
}

#[test]
fn the_api_tells_what_is_played() {
    let server = Setup::new().start();
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    let player = Recorder::start(server.rtmp, "live/a");
    live.wait_more(60);
    wait_until("media", seconds(5), || player.count() > 30);
    let status = server.status();
    let stream = server.stream("live/a").expect("the stream is listed");
    assert_eq!((stream.state.as_str(), stream.players), ("live", 1));
    assert_eq!(stream.app, "live");
    assert!(stream.messages >= 30 && stream.received_bytes > 50_000, "{stream:?}");
    assert!(!stream.publisher.is_empty() && !stream.video.is_empty() && !stream.audio.is_empty());
    assert_eq!(status.listen, [server.rtmp.to_string()]);
    assert!(status.connections >= 2 && status.totals.sent_bytes > 0, "{status:?}");
    drop(player);
    server.wait_players("live/a", 0);
    live.stop(End::Polite);
    gone(&server, "live/a");
}

/// Waits until nothing is left of a stream.
fn gone(server: &Server, path: &str) {
    wait_until("the stream is forgotten", seconds(10), || server.stream(path).is_none());
}
