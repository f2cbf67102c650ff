//! A publisher of an edge has a leg: its own bytes go to an origin, and it survives the origin.
mod common;

use std::net::SocketAddr;

use common::compare::{
    Start, assert_headers_once, assert_same_media, assert_same_sequence, assert_whole_messages,
};
use common::external::{Player, Publish, ffmpeg_publish, gst_publish};
use common::flv::{self, AUDIO, Tag, VIDEO};
use common::legs::{edge_of, paths, publishers, wait_carried, wait_no_publisher};
use common::media::{Clip, Synthetic};
use common::nginx::Nginx;
use common::peer::{End, Live, Peer, Recorder, Seen};
use common::raw::{self, Raw};
use common::server::{Server, Setup};
use common::sink::{Received, Sink};
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::amf0::Value;
use forwarder::rtmp::message::Command;
use forwarder::rtmp::session::{Goal, SessionError};

#[test]
fn ffmpeg_has_a_leg() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let player = Player::rtmpdump(origin.dir(), &origin.url("live/a"));
        origin.wait_players("live/a", 1);
        let (clip, how) = (Clip::b_frames(), Publish::default());
        let published = clip.published(edge.dir(), how);
        let mut ffmpeg = ffmpeg_publish(edge.dir(), &clip.path, &edge.url("live/a"), how);
        let leg = wait_carried(&edge, path);
        assert_eq!((leg.stream.as_str(), leg.origin), ("a", origin.rtmp.to_string()));
        ffmpeg.succeed(seconds(30));
        let got = player.finish(seconds(20));
        assert_same_media("at the origin", &published, &got, Start::First);
        assert_headers_once("at the origin", &published, &got);
        wait_no_publisher(&edge);
    }
}

#[test]
fn ffmpeg_has_a_leg_into_extended_timestamps() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let player = Player::rtmpdump(origin.dir(), &origin.url("live/a"));
        origin.wait_players("live/a", 1);
        // 2^24 ms are 16,777.216 s: the clip crosses them after about a second
        let (clip, how) = (Clip::plain(), Publish { offset: 16_776, endless: false });
        let published = clip.published(edge.dir(), how);
        let mut ffmpeg = ffmpeg_publish(edge.dir(), &clip.path, &edge.url("live/a"), how);
        wait_carried(&edge, path);
        ffmpeg.succeed(seconds(30));
        let got = player.finish(seconds(20));
        assert_same_media("at the origin", &published, &got, Start::First);
    }
}

/// GStreamer publishes with `sink`.
fn gst_publishes(sink: &str) {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let recorder = Recorder::start(origin.rtmp, "live/a");
        let (clip, dir) = (Clip::plain(), edge.dir());
        let copy = dir.join("published.flv");
        let mut gst = gst_publish(dir, &clip.path, sink, &edge.url("live/a"), &copy);
        gst.succeed(seconds(30));
        let published = flv::read(&copy);
        let got = recorder.until_last(&published, seconds(15));
        assert_same_media(sink, &published, &got, Start::First);
        assert_headers_once(sink, &published, &got);
        let log = edge.log();
        assert!(log.contains("publisher's leg connected"), "{path}: {log}");
        assert!(!log.contains("no leg fits"), "{path}: {log}");
        wait_no_publisher(&edge);
    }
}

#[test]
fn gstreamer_rtmp2sink_has_a_leg() {
    gst_publishes("rtmp2sink");
}

#[test]
fn librtmp_has_a_leg() {
    gst_publishes("rtmpsink");
}

#[test]
fn nginx_takes_legs_too() {
    for (kernel, path) in paths() {
        let dir = tempfile::tempdir().unwrap();
        let nginx = Nginx::start(dir.path(), None);
        let edge = edge_of(&[nginx.address()], kernel).start();
        let player = Player::rtmpdump(edge.dir(), &nginx.url("a"));
        wait_until("it plays", seconds(10), || nginx.plays() == 1);
        let (clip, how) = (Clip::plain(), Publish::default());
        let published = clip.published(edge.dir(), how);
        let mut ffmpeg = ffmpeg_publish(edge.dir(), &clip.path, &edge.url("live/a"), how);
        wait_carried(&edge, path);
        ffmpeg.succeed(seconds(30));
        let got = player.finish(seconds(30));
        // nginx throws away audio from before its first keyframe
        assert_same_media("at nginx", &published, &got, Start::Anywhere);
        wait_no_publisher(&edge);
    }
}

#[test]
fn what_is_published_is_at_the_origin_and_players_here_get_it_from_there() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let far = Recorder::start(origin.rtmp, "live/a");
        let live = Live::start(edge.rtmp, "live/a?token=x", Synthetic::default());
        let leg = wait_carried(&edge, path);
        assert_eq!((leg.connects, leg.unsplices), (1, 0), "{leg:?}");
        let stream = edge.stream("live/a").expect("the stream of the leg");
        assert_eq!((stream.state.as_str(), stream.publisher), ("legs", leg.peer), "not in the hub");
        let near = Recorder::start(edge.rtmp, "live/a");
        wait_until("media", seconds(5), || near.count() > 20);
        live.wait_more(40);
        let sent = live.stop(End::Polite);
        let got = far.until_last(&sent, seconds(5));
        assert_same_sequence("at the origin", &sent, &got, Start::First);
        assert_headers_once("at the origin", &sent, &got);
        let got = near.until_last(&sent, seconds(5));
        assert_same_sequence("beside the publisher", &sent, &got, Start::Keyframe);
        wait_no_publisher(&edge);
        wait_until("it is over there", seconds(5), || !origin.is_live("live/a"));
    }
}

#[test]
fn a_publisher_survives_the_restart_of_its_origin() {
    for (kernel, path) in paths() {
        let mut origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).publish("grace = \"20s\"").start();
        let live = Live::start(edge.rtmp, "live/a", Synthetic::default());
        // Its first messages are read on their way.
        live.wait_more(30);
        wait_carried(&edge, path);
        origin.kill();
        edge.wait_live("live/a");
        live.wait_more(60);
        origin.restart();
        origin.wait_live("live/a");
        let again = Recorder::start(origin.rtmp, "live/a");
        live.wait_more(80);
        let sent = live.stop(End::Polite);
        let got = again.until_last(&sent, seconds(5));
        assert_same_sequence("after the restart", &sent, &got, Start::Keyframe);
        assert_headers_once("after the restart", &sent, &got);
        assert!(publishers(&edge).is_empty());
    }
}

#[test]
fn ffmpeg_survives_the_restart_of_its_origin() {
    for (kernel, path) in paths() {
        let mut origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).publish("grace = \"20s\"").start();
        let (clip, how) = (Clip::plain(), Publish { offset: 0, endless: true });
        let mut ffmpeg = ffmpeg_publish(edge.dir(), &clip.path, &edge.url("live/a"), how);
        wait_carried(&edge, path);
        origin.kill();
        edge.wait_live("live/a");
        origin.restart();
        origin.wait_live("live/a");
        let again = Recorder::start(origin.rtmp, "live/a");
        wait_until("media", seconds(10), || again.count() > 60);
        assert!(ffmpeg.try_wait().is_none(), "{}", ffmpeg.log());
        let got = again.tags();
        let headers: Vec<u8> = got.iter().filter(|t| t.is_header()).map(|t| t.kind).collect();
        assert!(headers.contains(&VIDEO) && headers.contains(&AUDIO), "{headers:?}");
        let first = got.iter().find(|tag| tag.is_frame()).unwrap();
        assert!(first.is_keyframe(), "{first:?}");
        assert!(got.iter().any(Tag::is_metadata));
        ffmpeg.kill();
    }
}

#[test]
fn a_publisher_moves_to_another_origin() {
    for (kernel, path) in paths() {
        let mut origins = [Setup::new().start(), Setup::new().start()];
        let addresses = [origins[0].rtmp, origins[1].rtmp];
        let edge = edge_of(&addresses, kernel).start();
        let near = Recorder::start(edge.rtmp, "live/a");
        let live = Live::start(edge.rtmp, "live/a", Synthetic::default());
        live.wait_more(30);
        let leg = wait_carried(&edge, path);
        let used = usize::from(leg.origin == addresses[1].to_string());
        origins[used].kill();
        origins[1 - used].wait_live("live/a");
        let far = Recorder::start(origins[1 - used].rtmp, "live/a");
        live.wait_more(60);
        let sent = live.stop(End::Polite);
        let got = far.until_last(&sent, seconds(5));
        assert_same_sequence("the other origin", &sent, &got, Start::Keyframe);
        assert_headers_once("the other origin", &sent, &got);
        drop(near);
    }
}

#[test]
fn an_origin_that_dies_at_once_is_survived_too() {
    let mut origin = Setup::new().start();
    let edge = edge_of(&[origin.rtmp], "never").publish("grace = \"20s\"").start();
    // Not a frame was sent: it is still read on its way.
    let publisher = Peer::publish(edge.rtmp, "live/a");
    wait_until("a leg", seconds(5), || publishers(&edge).len() == 1);
    origin.kill();
    edge.wait_live("live/a");
    origin.restart();
    origin.wait_live("live/a");
    let far = Recorder::start(origin.rtmp, "live/a");
    let live = Live::of(publisher, Synthetic::default(), 0);
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    let got = far.until_last(&sent, seconds(5));
    assert_same_sequence("after the restart", &sent, &got, Start::First);
}

#[test]
fn a_name_that_is_taken_is_answered_so() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edges =
            [edge_of(&[origin.rtmp], kernel).start(), edge_of(&[origin.rtmp], kernel).start()];
        let at_origin = Live::start(origin.rtmp, "live/a", Synthetic::default());
        assert_refused(&edges[0], "live/a", "NetStream.Publish.BadName");
        let at_edge = Live::start(edges[0].rtmp, "live/b", Synthetic::default());
        wait_carried(&edges[0], path);
        for server in [&edges[0], &edges[1], &origin] {
            assert_refused(server, "live/b", "NetStream.Publish.BadName");
        }
        at_edge.wait_more(20);
        at_origin.wait_more(20);
        at_edge.stop(End::Abrupt);
        wait_until("free", seconds(5), || !origin.is_live("live/b"));
        for edge in [&edges[0], &edges[1], &edges[0]] {
            let live = Live::start(edge.rtmp, "live/b", Synthetic::default());
            live.wait_more(10);
            live.stop(End::Polite);
            wait_until("free again", seconds(5), || !origin.is_live("live/b"));
        }
    }
}

#[test]
fn publishers_are_told_when_there_is_no_origin() {
    let edge = edge_of(&[free_address()], "never").edge("failover_timeout = \"500ms\"").start();
    assert_refused(&edge, "live/a", "NetStream.Failed");
    let own = free_address();
    let selfish = edge_of(&[own], "never").listen(own).start();
    assert_refused(&selfish, "live/a", "NetStream.Publish.Denied");
}

/// A message in one chunk with a header of type 1.
fn type1(csid: u8, delta: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x40 | csid];
    out.extend_from_slice(&delta.to_be_bytes()[1..]);
    out.extend_from_slice(&u32::try_from(body.len()).expect("a short body").to_be_bytes()[1..]);
    out.push(kind);
    out.extend_from_slice(body);
    out
}

/// `publish` on `csid`.
fn publish(csid: u32) -> Vec<u8> {
    let args = vec![Value::Null, Value::string("a"), Value::string("live")];
    let command = Command { name: "publish".to_owned(), transaction: 3.0, args };
    let mut out = Vec::new();
    command.encode(csid, 1, 128, &mut out);
    out
}

#[track_caller]
fn wait_received(sink: &Sink, what: &str, done: impl Fn(&Received) -> bool) -> Received {
    wait_until(what, seconds(10), || sink.received().last().is_some_and(&done));
    sink.received().pop().expect("received")
}

#[test]
fn an_encoder_that_does_not_wait_loses_nothing() {
    for (kernel, path) in paths() {
        let sink = Sink::start(free_address());
        let edge = edge_of(&[sink.address], kernel).start();
        let mut encoder = Raw::connect(edge.rtmp);
        encoder.ready();
        let source = Synthetic { frame_bytes: 100, ..Synthetic::default() };
        let frames = (0..40).flat_map(|n| source.frame(n));
        let sent: Vec<Tag> = source.preamble().into_iter().chain(frames).collect();
        // As librtmp: media on the chunk stream of `publish`, with headers that lean on it.
        let (mut bytes, mut last) = (publish(4), 0);
        for tag in &sent {
            let delta = tag.timestamp.saturating_sub(last);
            last = last.max(tag.timestamp);
            bytes.extend(type1(4, delta, tag.kind, &tag.body));
        }
        encoder.send(&bytes);
        encoder.expect("NetStream.Publish.Start");
        let received = wait_received(&sink, "all", |r| r.tags.len() == sent.len());
        let frames = |tags: &[Tag]| -> Vec<Tag> {
            tags.iter().filter(|tag| tag.is_frame()).cloned().collect()
        };
        assert!(frames(&received.tags) == frames(&sent));
        wait_until("a leg", seconds(5), || publishers(&edge)[0].path == path);
    }
}

#[test]
fn chunk_sizes_that_change_on_the_way_are_followed() {
    for (kernel, path) in paths() {
        let mut origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).publish("grace = \"20s\"").start();
        let mut encoder = Raw::connect(edge.rtmp);
        encoder.publishing("a");
        let source = Synthetic { frame_bytes: 900, ..Synthetic::default() };
        let mut sent = source.preamble();
        let mut send = |encoder: &mut Raw, n: u32, chunk_size: u32| {
            encoder.send(&raw::control(1, &chunk_size.to_be_bytes()));
            for tag in source.frame(n) {
                encoder.send(&in_chunks(&tag, chunk_size));
                sent.push(tag);
            }
        };
        for tag in source.preamble() {
            encoder.send(&in_chunks(&tag, 128));
        }
        send(&mut encoder, 0, 4096);
        let far = Recorder::start(origin.rtmp, "live/a");
        wait_until("a leg", seconds(5), || {
            publishers(&edge).first().is_some_and(|leg| leg.path == path)
        });
        for n in 1..40 {
            send(&mut encoder, n, [128, 4096, 300, 65_536][n as usize % 4]);
        }
        let at = sent_last(&mut send, &mut encoder);
        wait_until("the last frame", seconds(5), || far.has(&at));
        origin.kill();
        edge.wait_live("live/a");
        // Read on from where the leg stood, with the chunk size in force there.
        let near = Recorder::start(edge.rtmp, "live/a");
        for n in 50..60 {
            send(&mut encoder, n, 1000 + n);
        }
        let got = near.until_last(&sent, seconds(5));
        assert_whole_messages("here", &sent, &got);
        origin.restart();
    }

    fn sent_last(send: &mut impl FnMut(&mut Raw, u32, u32), encoder: &mut Raw) -> Tag {
        let source = Synthetic { frame_bytes: 900, ..Synthetic::default() };
        send(encoder, 40, 200);
        source.frame(40)[1].clone()
    }
}

/// `tag` on chunk stream 4, as a message of its own.
fn in_chunks(tag: &Tag, chunk_size: u32) -> Vec<u8> {
    let mut pieces = tag.body.chunks(chunk_size as usize);
    let len = u32::try_from(tag.body.len()).expect("a short body");
    let first = pieces.next().unwrap_or_default();
    let mut out = raw::chunk(4, tag.timestamp, len, tag.kind, 1, first);
    for piece in pieces {
        out.push(0xc4);
        out.extend_from_slice(piece);
    }
    out
}

#[test]
fn the_origin_sees_the_end_of_an_encoder_that_is_killed_inside_a_message() {
    for (kernel, path) in paths() {
        let sink = Sink::start(free_address());
        let edge = edge_of(&[sink.address], kernel).start();
        let mut encoder = Raw::connect(edge.rtmp);
        encoder.publishing("a");
        let source = Synthetic { frame_bytes: 900, ..Synthetic::default() };
        for tag in source.preamble().into_iter().chain((0..5).flat_map(|n| source.frame(n))) {
            encoder.send(&in_chunks(&tag, 128));
        }
        wait_received(&sink, "media", |r| r.tags.len() == 13);
        wait_until("a leg", seconds(5), || publishers(&edge)[0].path == path);
        let cut = in_chunks(&source.frame(5)[0], 128);
        encoder.send(&cut[..500]);
        drop(encoder);
        let received = wait_received(&sink, "the end", |r| r.closed);
        assert_eq!(received.tags.len(), 13);
        wait_no_publisher(&edge);
    }
}

#[test]
fn an_edge_that_stops_takes_leave_of_the_origin() {
    for (kernel, path) in paths() {
        let sink = Sink::start(free_address());
        let mut edge = edge_of(&[sink.address], kernel).start();
        let live = Live::start(edge.rtmp, "live/a", Synthetic::default());
        live.wait_more(30);
        wait_carried(&edge, path);
        assert_eq!(edge.terminate(), Some(0));
        let received = sink.received().pop().unwrap();
        assert!(received.unpublished, "politely");
        let sent = live.sent();
        // At most the one frame that was cut is not as it was published.
        let odd = received.tags.iter().filter(|tag| tag.is_frame() && !sent.contains(tag)).count();
        assert!(odd <= 1 && received.tags.len() > 20, "{odd} of {}", received.tags.len());
        wait_until("the encoder is closed", seconds(5), || live.is_over());
    }
}

#[test]
fn an_origin_that_does_not_read_holds_the_encoder_and_is_left_in_time() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let other = Setup::new().start();
        let addresses: [SocketAddr; 2] = [origin.rtmp, other.rtmp];
        let edge = edge_of(&addresses, kernel).start();
        let load = Synthetic { frame_bytes: 60_000, ..Synthetic::default() };
        let live = Live::start(edge.rtmp, "live/a", load);
        let leg = wait_carried(&edge, path);
        let (hung, next) = if leg.origin == origin.rtmp.to_string() {
            (&origin, &other)
        } else {
            (&other, &origin)
        };
        hung.signal(nix::sys::signal::Signal::SIGSTOP);
        wait_until("the other origin has it", seconds(40), || next.is_live("live/a"));
        hung.signal(nix::sys::signal::Signal::SIGCONT);
        live.wait_more(30);
        live.stop(End::Polite);
    }
}

#[track_caller]
fn assert_refused(server: &Server, path: &str, want: &str) {
    let mut peer = Peer::open(server.rtmp, Goal::Publish, path);
    match peer.next(seconds(8)) {
        Some(Seen::Failed(SessionError::Refused { code, .. })) => assert_eq!(code, want, "{path}"),
        other => panic!("{path}: {other:?} instead of {want}"),
    }
}
