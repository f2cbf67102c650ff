//! The harness itself: with nginx-rtmp in the server's place, what goes in must come out.
//!
//! When one of these fails the test machine is to blame, not the server.
mod common;

use common::compare::{Start, assert_headers_once, assert_same_media, assert_same_sequence};
use common::external::{Player, Publish, ffmpeg_publish};
use common::flv::Tag;
use common::media::{Clip, Synthetic};
use common::nginx::Nginx;
use common::peer::{End, Live, Recorder};
use common::sink::Sink;
use common::{free_address, seconds, wait_until};

#[test]
fn nginx_gives_rtmpdump_what_ffmpeg_published() {
    for (clip, offset) in [(Clip::plain(), 0), (Clip::b_frames(), 16_776)] {
        let dir = tempfile::tempdir().unwrap();
        let nginx = Nginx::start(dir.path(), None);
        let player = Player::rtmpdump(dir.path(), &nginx.url("a"));
        wait_until("rtmpdump plays", seconds(10), || nginx.plays() == 1);
        let how = Publish { offset, endless: false };
        ffmpeg_publish(dir.path(), &clip.path, &nginx.url("a"), how).succeed(seconds(30));
        let published = clip.published(dir.path(), how);
        let got = player.finish(seconds(10));
        assert_same_media("rtmpdump", &published, &got, Start::First);
    }
}

// Not so GStreamer: nginx ends the stream right behind its last message, and rtmp2src then throws
// away what it has not handed on yet.
#[test]
fn nginx_gives_ffmpeg_what_ffmpeg_published() {
    let clip = Clip::plain();
    let dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(dir.path(), None);
    let ffmpeg = Player::ffmpeg(dir.path(), &nginx.url("a"));
    wait_until("ffmpeg plays", seconds(10), || nginx.plays() == 1);
    let url = nginx.url("a");
    ffmpeg_publish(dir.path(), &clip.path, &url, Publish::default()).succeed(seconds(30));
    let published = clip.published(dir.path(), Publish::default());
    assert_same_media("ffmpeg", &published, &ffmpeg.finish(seconds(10)), Start::First);
}

#[test]
fn our_peers_speak_with_nginx() {
    let dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(dir.path(), None);
    let player = Recorder::start(nginx.address(), "live/a");
    let live = Live::start(nginx.address(), "live/a", Synthetic::default());
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(5));
    // nginx has an order of its own for audio and video of nearly equal times
    assert_same_media("recorder", &sent, &got, Start::First);
}

#[test]
fn what_live_publishes_is_what_sink_receives() {
    let sink = Sink::start(free_address());
    let live = Live::start(sink.address, "live/a?b=c", Synthetic::default());
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    wait_until("the end", seconds(5), || sink.received()[0].unpublished);
    let received = &sink.received()[0];
    assert_same_sequence("sink", &sent, &received.tags, Start::First);
    assert_headers_once("sink", &sent, &received.tags);
    assert_eq!((received.app.as_str(), received.stream.as_str()), ("live", "a?b=c"));
}

#[test]
fn the_comparer_notices_every_kind_of_damage() {
    type Damage = fn(&mut Vec<Tag>);
    let source = Synthetic { frame_bytes: 100, ..Synthetic::default() };
    let mut published = source.preamble();
    published.extend((0..60).flat_map(|n| source.frame(n)));
    let table: [(&str, Damage); 7] = [
        ("the first frame lost", |tags| drop(tags.remove(3))),
        ("a frame lost", |tags| drop(tags.remove(20))),
        ("the last frame lost", |tags| drop(tags.pop())),
        ("a frame twice", |tags| tags.insert(20, tags[20].clone())),
        ("two frames swapped", |tags| tags.swap(20, 22)),
        ("a byte changed", |tags| tags[20].body[50] ^= 1),
        ("a time moved", |tags| tags[20].timestamp += 1),
    ];
    assert_same_media("undamaged", &published, &published, Start::First);
    assert_same_sequence("undamaged", &published, &published, Start::First);
    for (what, damage) in table {
        let mut got = published.clone();
        damage(&mut got);
        let media = || assert_same_media(what, &published, &got, Start::First);
        let sequence = || assert_same_sequence(what, &published, &got, Start::First);
        assert!(std::panic::catch_unwind(media).is_err(), "media: {what} goes unnoticed");
        assert!(std::panic::catch_unwind(sequence).is_err(), "sequence: {what} goes unnoticed");
    }
}
