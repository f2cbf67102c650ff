//! The harness itself: with nginx-rtmp in the server's place, what goes in must come out.
//!
//! When one of these fails the test machine is to blame, not the server.
mod common;

use common::compare::{Start, assert_same_media};
use common::external::{Player, Publish, ffmpeg_publish};
use common::media::Clip;
use common::nginx::Nginx;
use common::{seconds, wait_until};

#[test]
fn nginx_gives_rtmpdump_what_ffmpeg_published() {
    for (clip, offset) in [(Clip::plain(), 0), (Clip::b_frames(), 16_776)] {
        let dir = tempfile::tempdir().unwrap();
        let nginx = Nginx::start(dir.path(), None);
        let player = Player::rtmpdump(dir.path(), &nginx.url("a"));
        wait_until("rtmpdump plays", seconds(10), || nginx.plays() == 1);
        let how = Publish {
            offset,
            endless: false,
        };
        ffmpeg_publish(dir.path(), &clip.path, &nginx.url("a"), how).succeed(seconds(30));
        let published = clip.published(dir.path(), how);
        let got = player.finish(seconds(10));
        assert_same_media("rtmpdump", &published, &got, Start::First);
    }
}

#[test]
fn nginx_gives_ffmpeg_and_gstreamer_what_ffmpeg_published() {
    let clip = Clip::plain();
    let dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(dir.path(), None);
    let ffmpeg = Player::ffmpeg(dir.path(), &nginx.url("a"));
    let gst = Player::gstreamer(dir.path(), &nginx.url("a"));
    wait_until("both play", seconds(10), || nginx.plays() == 2);
    let url = nginx.url("a");
    ffmpeg_publish(dir.path(), &clip.path, &url, Publish::default()).succeed(seconds(30));
    let published = clip.published(dir.path(), Publish::default());
    assert_same_media(
        "ffmpeg",
        &published,
        &ffmpeg.finish(seconds(10)),
        Start::First,
    );
    assert_same_media("gst", &published, &gst.finish(seconds(10)), Start::First);
}
