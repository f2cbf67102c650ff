//! FFmpeg, rtmpdump, GStreamer and VLC play through legs what they would play at the origin.
mod common;

use std::path::Path;

use common::compare::{
    Start, assert_headers_once, assert_monotonic, assert_same_media, assert_same_pictures,
};
use common::external::{Player, Publish, ffmpeg_publish};
use common::flv::Tag;
use common::legs::{edge_of, paths, wait_legs};
use common::media::Clip;
use common::nginx::Nginx;
use common::peer::Recorder;
use common::server::Cluster;
use common::{seconds, wait_until};

/// Every client that is installed, playing `url`.
fn all_clients(dir: &Path, url: &str) -> Vec<(&'static str, Player)> {
    let mut all = vec![
        ("ffmpeg", Player::ffmpeg(dir, url)),
        ("rtmpdump", Player::rtmpdump(dir, url)),
        ("gst", Player::gstreamer(dir, url)),
    ];
    all.extend(Player::vlc(url).map(|vlc| ("vlc", vlc)));
    all
}

#[track_caller]
fn assert_all_played(clients: Vec<(&'static str, Player)>, want: &[Tag]) {
    for (label, player) in clients {
        let got = player.finish(seconds(30));
        let last = |tags: &[Tag]| tags.iter().rposition(Tag::is_frame);
        let end = match (last(want), last(&got)) {
            // GStreamer often keeps the last message of nginx for itself, without an edge as well.
            (Some(at), Some(end)) if label == "gst" && want[at] != got[end] => at,
            _ => want.len(),
        };
        let want = &want[..end];
        match label {
            "vlc" => assert_same_pictures(label, want, &got),
            _ => assert_same_media(label, want, &got, Start::First),
        }
        assert_monotonic(label, &got);
        // FFmpeg and VLC write headers of their own.
        if label == "rtmpdump" || label == "gst" {
            assert_headers_once(label, want, &got);
        }
    }
}

#[test]
fn every_client_gets_by_a_leg_what_the_slave_got() {
    for (kernel, path) in paths() {
        let cluster = Cluster::start(1);
        let slave = &cluster.slaves[0];
        let edge = edge_of(&[slave.rtmp], kernel).start();
        let clients = all_clients(edge.dir(), &edge.url("live/a"));
        let recorder = Recorder::start(edge.rtmp, "live/a");
        let direct = Player::rtmpdump(slave.dir(), &slave.url("live/a"));
        wait_legs(&edge, clients.len() + 1);
        slave.wait_players("live/a", clients.len() + 2);
        let legs = edge.status().legs;
        assert!(legs.iter().all(|leg| leg.path == path), "{legs:?}");
        let (clip, how) = (Clip::plain(), Publish::default());
        let to = cluster.master.url("live/a");
        ffmpeg_publish(cluster.master.dir(), &clip.path, &to, how).succeed(seconds(30));
        let want = direct.finish(seconds(20));
        assert_all_played(clients, &want);
        wait_until("the end", seconds(5), || recorder.finished());
        assert_same_media("recorder", &want, &recorder.tags(), Start::First);
        drop(recorder);
        wait_legs(&edge, 0);
    }
}

#[test]
fn every_client_gets_by_a_leg_what_nginx_sends() {
    for (kernel, path) in paths() {
        let dir = tempfile::tempdir().unwrap();
        let nginx = Nginx::start(dir.path(), None);
        let edge = edge_of(&[nginx.address()], kernel).start();
        let clients = all_clients(edge.dir(), &edge.url("live/a"));
        let direct = Player::rtmpdump(edge.dir(), &nginx.url("a"));
        let all = clients.len() + 1;
        wait_until("all play", seconds(10), || nginx.plays() == all);
        let legs = edge.status().legs;
        assert!(legs.iter().all(|leg| leg.path == path), "{legs:?}");
        let (clip, how) = (Clip::plain(), Publish::default());
        ffmpeg_publish(edge.dir(), &clip.path, &nginx.url("a"), how).succeed(seconds(30));
        assert_all_played(clients, &direct.finish(seconds(30)));
    }
}
