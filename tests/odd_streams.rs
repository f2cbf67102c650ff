//! Streams that are odd come to players of RTMP and of HTTP as they were published.
mod common;

use std::net::SocketAddr;
use std::ops::Range;

use common::compare::{Start, assert_headers_once, assert_same_sequence};
use common::flv::{AUDIO, Tag, VIDEO};
use common::media::Synthetic;
use common::peer::{Peer, Recorder};
use common::server::{Server, Setup};
use common::viewer::Viewer;
use common::{free_address, seconds, wait_until};

/// A publisher that sends what it is told to, and players of both kinds.
struct Scene {
    server: Server,
    http: SocketAddr,
    publisher: Peer,
    sent: Vec<Tag>,
}

/// A player of each kind.
struct Pair(Recorder, Viewer);

impl Scene {
    fn new(setup: Setup) -> Self {
        let http = free_address();
        let server = setup.http_server(http).start();
        let publisher = Peer::publish(server.rtmp, "live/a");
        server.wait_live("live/a");
        Self { server, http, publisher, sent: Vec::new() }
    }

    fn send(&mut self, tags: impl IntoIterator<Item = Tag>) {
        for tag in tags {
            self.publisher.send(&tag).expect("sent");
            self.sent.push(tag);
        }
    }

    fn frames(&mut self, source: Synthetic, which: Range<u32>) {
        self.send(which.flat_map(|n| source.frame(n)));
    }

    /// Waits until the server has all that was sent.
    fn settle(&self) {
        let sent: usize = self.sent.iter().map(|tag| tag.body.len()).sum();
        wait_until("all has come", seconds(20), || {
            let stream = self.server.stream("live/a");
            stream.is_some_and(|stream| stream.received_bytes >= sent as u64)
        });
    }

    fn players(&self) -> Pair {
        let by_rtmp = Recorder::start(self.server.rtmp, "live/a");
        Pair(by_rtmp, Viewer::start(self.http, "/live/a.flv"))
    }
}

impl Pair {
    fn wait(&self, n: usize) {
        wait_until("both play", seconds(20), || self.0.count() >= n && self.1.count() >= n);
    }

    /// What each got, until the last frame of `sent`.
    fn finish(self, sent: &[Tag]) -> [(&'static str, Vec<Tag>); 2] {
        let Self(by_rtmp, by_http) = self;
        [
            ("by RTMP", by_rtmp.until_last(sent, seconds(20))),
            ("by HTTP", by_http.until_last(sent, seconds(20))),
        ]
    }
}

#[test]
fn times_go_on_behind_32_bits() {
    let mut scene = Scene::new(Setup::new());
    let source = Synthetic { start: u32::MAX - 900, gop: 50, ..Synthetic::default() };
    scene.send(source.preamble());
    scene.frames(source, 0..10);
    let early = scene.players();
    early.wait(10);
    scene.frames(source, 10..40);
    // In the group of pictures in whose middle 0 is.
    scene.settle();
    let late = scene.players();
    late.wait(40);
    scene.frames(source, 40..60);
    for (who, pair) in [("early", early), ("late", late)] {
        for (how, got) in pair.finish(&scene.sent) {
            assert_same_sequence(&format!("{who} {how}"), &scene.sent, &got, Start::First);
            assert_headers_once(&format!("{who} {how}"), &scene.sent, &got);
        }
    }
}

#[test]
fn times_that_jump_back_and_far_ahead_are_the_publishers() {
    let mut scene = Scene::new(Setup::new());
    let at = |start| Synthetic { start, gop: 10, ..Synthetic::default() };
    scene.send(at(7_000_000).preamble());
    scene.frames(at(7_000_000), 0..15);
    let early = scene.players();
    early.wait(10);
    // In the middle of a group of pictures, and by more than half of what 32 bits can say.
    scene.frames(at(0), 15..25);
    scene.frames(at(0xf000_0000), 25..35);
    scene.settle();
    let late = scene.players();
    late.wait(10);
    scene.frames(at(3_000), 35..50);
    for (who, pair) in [("early", early), ("late", late)] {
        for (how, got) in pair.finish(&scene.sent) {
            assert_same_sequence(&format!("{who} {how}"), &scene.sent, &got, Start::Keyframe);
        }
    }
}

#[test]
fn a_late_joiner_gets_the_headers_of_now_and_all_others_each_change() {
    let mut scene = Scene::new(Setup::new());
    let source = Synthetic { gop: 10, ..Synthetic::default() };
    scene.send(source.preamble());
    scene.frames(source, 0..15);
    let early = scene.players();
    early.wait(10);
    let [_, mut video, mut audio] = <[Tag; 3]>::try_from(source.preamble()).expect("three");
    video.body[8] = 0x20;
    audio.body[3] = 0x90;
    let before = scene.sent.len();
    scene.send([video.clone(), audio.clone()]);
    scene.frames(source, 20..35);
    scene.settle();
    let late = scene.players();
    late.wait(10);
    scene.frames(source, 35..45);
    let headers = |tags: &[Tag]| -> Vec<Vec<u8>> {
        let mut bodies: Vec<_> =
            tags.iter().filter(|tag| tag.is_header()).map(|tag| tag.body.clone()).collect();
        bodies.sort();
        bodies
    };
    for (how, got) in early.finish(&scene.sent) {
        assert_eq!(headers(&got), headers(&scene.sent), "early {how}");
        let at = |wanted: &Tag| got.iter().position(|tag| tag.body == wanted.body);
        assert!(at(&video) < at(&scene.sent[before + 2]), "early {how}: before its frame");
    }
    for (how, got) in late.finish(&scene.sent) {
        assert_eq!(headers(&got), headers(&scene.sent[before..]), "late {how}");
        assert_same_sequence(&format!("late {how}"), &scene.sent, &got, Start::Keyframe);
    }
}

#[test]
fn without_keyframes_a_player_begins_with_what_comes_next() {
    let mut scene = Scene::new(Setup::new().play("keyframe_wait = \"200ms\""));
    let source = Synthetic { gop: u32::MAX, ..Synthetic::default() };
    scene.send(source.preamble());
    scene.frames(source, 1..20);
    scene.settle();
    let players = scene.players();
    let mut next = 20;
    wait_until("frames come", seconds(20), || {
        scene.frames(source, next..next + 1);
        next += 1;
        let came = |tags: Vec<Tag>| tags.iter().filter(|tag| tag.is_frame()).count() > 6;
        came(players.0.tags()) && came(players.1.tags())
    });
    for (how, got) in players.finish(&scene.sent) {
        assert_same_sequence(how, &scene.sent, &got, Start::Anywhere);
        assert_headers_once(how, &scene.sent, &got);
    }
}

#[test]
fn audio_that_comes_late_is_sent_though_the_flv_header_does_not_name_it() {
    let mut scene = Scene::new(Setup::new());
    let source = Synthetic { gop: 10, ..Synthetic::default() };
    let of = |tags: Vec<Tag>, kind| tags.into_iter().filter(move |tag| tag.kind == kind);
    let audio_header: Vec<Tag> = of(source.preamble(), AUDIO).collect();
    scene.send(source.preamble().into_iter().filter(|tag| tag.kind != AUDIO));
    scene.send((0..20).flat_map(|n| of(source.frame(n).to_vec(), VIDEO)));
    scene.settle();
    let early = scene.players();
    early.wait(10);
    assert_eq!(early.1.kinds(), 1, "video alone");
    scene.send(audio_header);
    scene.frames(source, 20..40);
    scene.settle();
    let late = scene.players();
    late.wait(10);
    assert_eq!(late.1.kinds(), 5);
    scene.frames(source, 40..45);
    for (who, pair) in [("early", early), ("late", late)] {
        for (how, got) in pair.finish(&scene.sent) {
            assert_same_sequence(&format!("{who} {how}"), &scene.sent, &got, Start::Keyframe);
            assert_headers_once(&format!("{who} {how}"), &scene.sent, &got);
        }
    }
}
