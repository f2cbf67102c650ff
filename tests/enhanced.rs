//! Enhanced RTMP by FFmpeg 9: each codec gets through every way there is, and late joiners decode it.
mod common;

use common::compare::{Start, assert_headers_once, assert_same_sequence};
use common::flv::{Tag, VIDEO};
use common::legs::{edge_of, paths, wait_carried, wait_legs};
use common::modern::{self, Hashes, Recipe, assert_same_tracks};
use common::peer::Recorder;
use common::server::{Server, Setup};
use common::{free_address, seconds, wait_until};
use nix::sys::signal::Signal;

const HEVC: &str = "-c:v libx265 -preset ultrafast -x265-params \
    log-level=none:pools=1:frame-threads=1:keyint=10:min-keyint=10:scenecut=0 \
    -color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc";
const AV1: &str = "-c:v libsvtav1 -preset 12 -svtav1-params lp=1";
const VP9: &str = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -threads 1";
const H264: &str = "-c:v libx264 -preset ultrafast -sc_threshold 0";
const AAC: &str = "-c:a aac";
const OPUS: &str = "-c:a libopus -b:a 64k";

const fn recipe(name: &'static str, video: &'static str, audio: &'static str) -> Recipe {
    Recipe { name, video, videos: 1, audio, audios: 1 }
}

/// More than so many messages: audio and video of two groups of pictures.
const A_WHILE: usize = 120;

/// Messages that came to a late joiner before the publisher is told to end.
const ENOUGH: usize = 40;

/// FFmpeg publishes to a master, which forwards to a slave. Players come early at the master, and
/// late at the slave and at edges of it.
fn through_a_cluster(recipe: Recipe) {
    let Some(ffmpeg) = modern::ffmpeg() else { return };
    let clip = recipe.clip(&ffmpeg);
    let by_http = [free_address(), free_address()];
    let slave = Setup::new().http_server(by_http[0]).start();
    let master = Setup::new().forward_to(&[slave.rtmp]).start();
    let shared = Setup::new().edge_of(&[slave.rtmp]).http_server(by_http[1]).start();
    let legs: Vec<(Server, &str)> = paths()
        .into_iter()
        .map(|(kernel, path)| (edge_of(&[slave.rtmp], kernel).start(), path))
        .collect();
    let first = Hashes::of(&ffmpeg, master.dir(), &master.url("live/a"));
    let wire = Recorder::start(master.rtmp, "live/a");
    master.wait_players("live/a", 2);
    let url = master.url("live/a");
    let mut publisher = modern::publish(&ffmpeg, master.dir(), &clip, &url);
    wait_until("media", seconds(30), || wire.count() > A_WHILE);
    wait_until("an early player has some", seconds(30), || first.count() > ENOUGH);

    let places = [("the slave", &slave), ("a shared pull", &shared)];
    let places = places.into_iter().chain(legs.iter().map(|(edge, path)| (*path, edge)));
    let places: Vec<(&str, &Server)> = places.collect();
    let join = |(label, server): &(&'static str, &Server)| {
        let player = Recorder::start(server.rtmp, "live/a");
        (*label, player, Hashes::of(&ffmpeg, server.dir(), &server.url("live/a")))
    };
    let late: Vec<(&str, Recorder, Hashes)> = places.iter().map(join).collect();
    let flv = ["HTTP at the slave", "HTTP at the edge"].into_iter().zip(by_http);
    let flv: Vec<_> = flv
        .map(|(label, http)| {
            (label, Hashes::of(&ffmpeg, slave.dir(), &format!("http://{http}/live/a.flv")))
        })
        .collect();
    for (edge, _) in &legs {
        wait_legs(edge, 2);
    }
    for (label, hashes) in &flv {
        let what = format!("late joiners have some by {label}");
        wait_until(&what, seconds(60), || hashes.count() > ENOUGH);
    }
    for (label, player, hashes) in &late {
        let enough = || player.count() > ENOUGH && hashes.count() > ENOUGH;
        wait_until(&format!("late joiners have some of {label}"), seconds(60), enough);
    }
    publisher.signal(Signal::SIGINT);
    publisher.wait(seconds(20));

    wait_until("the early player's end", seconds(20), || wire.ended());
    let (sent, early) = (wire.tags(), first.finish(seconds(20)));
    let tracks = usize::from(recipe.videos + recipe.audios);
    assert_eq!(early.len(), tracks, "tracks that an early player got");
    for (label, player, hashes) in late {
        let label = &format!("{} late, {label}", recipe.name);
        let got = player.until_last(&sent, seconds(20));
        assert_same_sequence(label, &sent, &got, Start::Keyframe);
        assert_headers_once(label, &sent, &got);
        assert_all_keyed(label, &got, recipe.videos);
        assert_same_tracks(label, &early, &hashes.finish(seconds(20)));
    }
    for (label, hashes) in flv {
        let label = &format!("{} late, by {label}", recipe.name);
        assert_same_tracks(label, &early, &hashes.finish(seconds(20)));
    }
}

/// The first frame of each video track is a keyframe: FFmpeg keys them together.
#[track_caller]
fn assert_all_keyed(label: &str, got: &[Tag], videos: u8) {
    let mut frames = got.iter().filter(|tag| tag.kind == VIDEO && tag.is_frame());
    let first: Vec<&Tag> = frames.by_ref().take(videos.into()).collect();
    assert!(first.iter().all(|tag| tag.is_keyframe()), "{label}: begins with {first:?}");
    assert!(frames.next().is_some_and(|tag| !tag.is_keyframe()), "{label}: more than one each");
}

#[test]
fn hevc_with_aac() {
    through_a_cluster(recipe("hevc_aac", HEVC, AAC));
}

#[test]
fn hevc_with_flac() {
    through_a_cluster(recipe("hevc_flac", HEVC, "-c:a flac"));
}

#[test]
fn av1_with_aac() {
    through_a_cluster(recipe("av1_aac", AV1, AAC));
}

#[test]
fn av1_with_opus() {
    through_a_cluster(recipe("av1_opus", AV1, OPUS));
}

#[test]
fn vp9_with_opus() {
    through_a_cluster(recipe("vp9_opus", VP9, OPUS));
}

#[test]
fn h264_with_opus() {
    through_a_cluster(recipe("h264_opus", H264, OPUS));
}

#[test]
fn h264_with_ac3() {
    through_a_cluster(recipe("h264_ac3", H264, "-c:a ac3"));
}

#[test]
fn two_renditions_and_two_languages() {
    through_a_cluster(Recipe { videos: 2, audios: 2, ..recipe("hevc_multitrack", HEVC, AAC) });
}

/// PyAV publishes to a master, and plays late at its slave and at an edge of that, by HTTP too.
fn with_pyav(recipe: Recipe, codecs: [&str; 2]) {
    let (Some(ffmpeg), Some(python)) = (modern::ffmpeg(), modern::pyav()) else { return };
    let clip = recipe.clip(&ffmpeg);
    let by_http = free_address();
    let slave = Setup::new().start();
    let master = Setup::new().forward_to(&[slave.rtmp]).start();
    let edge = Setup::new().edge_of(&[slave.rtmp]).http_server(by_http).start();
    let clip = clip.to_str().expect("a path");
    let _publisher = python.start(master.dir(), &["publish", clip, &master.url("live/a")]);
    let wire = Recorder::start(slave.rtmp, "live/a");
    wait_until("media", seconds(30), || wire.count() > A_WHILE);
    let urls = [slave.url("live/a"), edge.url("live/a"), format!("http://{by_http}/live/a.flv")];
    let players = urls.map(|url| (python.start(edge.dir(), &["play", &url, "12"]), url));
    for (mut player, url) in players {
        player.succeed(seconds(60));
        let said = player.log();
        let came = said.lines().find(|line| line.starts_with('[')).expect("what came");
        let came: serde_json::Value = serde_json::from_str(came).expect("JSON");
        let tracks = came.as_array().expect("tracks");
        let mut got: Vec<_> = tracks.iter().filter_map(|track| track["codec"].as_str()).collect();
        got.sort_by_key(|codec| codecs.iter().position(|wanted| wanted == codec));
        assert_eq!(got, codecs, "{url}: {came}");
        assert!(tracks.iter().all(|t| t["begins"] == "key" && t["frames"].as_u64() >= Some(12)));
    }
}

#[test]
fn pyav_with_hevc_and_aac() {
    with_pyav(recipe("hevc_aac", HEVC, AAC), ["hevc", "aac"]);
}

#[test]
fn pyav_with_av1_and_aac() {
    with_pyav(recipe("av1_aac", AV1, AAC), ["libdav1d", "aac"]);
}

#[test]
fn pyav_with_h264_and_opus() {
    with_pyav(recipe("h264_opus", H264, OPUS), ["h264", "opus"]);
}

/// FFmpeg publishes to an edge, and its bytes go to the origin by a leg.
#[test]
fn a_publisher_with_a_leg() {
    let Some(ffmpeg) = modern::ffmpeg() else { return };
    let recipe = Recipe { videos: 2, audios: 2, ..recipe("hevc_multitrack", HEVC, AAC) };
    let clip = recipe.clip(&ffmpeg);
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let first = Hashes::of(&ffmpeg, origin.dir(), &origin.url("live/a"));
        let wire = Recorder::start(origin.rtmp, "live/a");
        origin.wait_players("live/a", 2);
        let mut publisher = modern::publish(&ffmpeg, edge.dir(), &clip, &edge.url("live/a"));
        wait_until("media", seconds(30), || wire.count() > A_WHILE);
        wait_carried(&edge, path);
        let late = Recorder::start(origin.rtmp, "live/a");
        let hashes = Hashes::of(&ffmpeg, origin.dir(), &origin.url("live/a"));
        wait_until("late joiners have some", seconds(60), || {
            late.count() > ENOUGH && hashes.count() > ENOUGH && first.count() > ENOUGH
        });
        publisher.signal(Signal::SIGINT);
        publisher.wait(seconds(20));
        wait_until("the early player's end", seconds(20), || wire.ended());
        let (sent, early) = (wire.tags(), first.finish(seconds(20)));
        let label = &format!("late, publisher's leg ({path})");
        let got = late.until_last(&sent, seconds(20));
        assert_same_sequence(label, &sent, &got, Start::Keyframe);
        assert_headers_once(label, &sent, &got);
        assert_all_keyed(label, &got, recipe.videos);
        assert_same_tracks(label, &early, &hashes.finish(seconds(20)));
    }
}
