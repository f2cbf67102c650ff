//! What a publisher's leg has to cope with: odd encoders, odd origins, and coming and going.
mod common;

use std::net::{SocketAddr, TcpListener};
use std::process::Command as Program;
use std::time::{Duration, Instant};

use common::compare::{Start, assert_same_media, assert_same_sequence};
use common::external::{Publish, ffmpeg_publish};
use common::flv::{self, AUDIO, Tag, VIDEO};
use common::legs::{edge_of, paths, publishers, wait_carried, wait_no_publisher};
use common::media::{Clip, Synthetic};
use common::peer::{End, Live, Peer, Recorder, Seen};
use common::process::{Process, queued, resident};
use common::raw::{self, Raw};
use common::server::{Server, Setup};
use common::sink::Sink;
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::amf0::Value;
use forwarder::rtmp::message::{Control, UserControl};
use forwarder::rtmp::session::{Goal, SessionError};
use nix::sys::signal::Signal;

/// `tag` on chunk stream 4 or 6, as a message of its own in chunks of 128 bytes.
fn wire(tag: &Tag) -> Vec<u8> {
    let csid = if tag.kind == AUDIO { 4 } else { 6 };
    let len = u32::try_from(tag.body.len()).expect("a short body");
    let mut pieces = tag.body.chunks(128);
    let first = pieces.next().unwrap_or_default();
    let mut out = raw::chunk(csid, tag.timestamp, len, tag.kind, 1, first);
    for piece in pieces {
        out.push(0xc0 | csid);
        out.extend_from_slice(piece);
    }
    out
}

/// Frames `from..to`, those that begin a GOP with the headers of `kinds` in front.
fn with_headers(source: &Synthetic, kinds: &[u8], from: u32, to: u32) -> Vec<Tag> {
    let headers: Vec<Tag> =
        source.preamble().into_iter().filter(|tag| kinds.contains(&tag.kind)).collect();
    (from..to)
        .flat_map(|n| {
            let frame = source.frame(n);
            let repeated = headers.iter().filter(|_| n.is_multiple_of(source.gop));
            let at = frame[0].timestamp;
            let repeated: Vec<Tag> =
                repeated.map(|tag| Tag { timestamp: at, ..tag.clone() }).collect();
            repeated.into_iter().chain(frame)
        })
        .collect()
}

fn send(encoder: &mut Raw, tags: &[Tag]) {
    tags.iter().for_each(|tag| encoder.send(&wire(tag)));
}

/// An encoder of `a` that has sent two GOPs of 5 frames, which its origin has, by a leg.
fn encoder_on_leg(
    edge: &Server,
    origin: SocketAddr,
    path: &str,
    (source, kinds): (&Synthetic, &[u8]),
) -> Raw {
    let mut encoder = Raw::connect(edge.rtmp);
    encoder.publishing("a");
    send(&mut encoder, &source.preamble());
    send(&mut encoder, &with_headers(source, kinds, 0, 3));
    wait_until("a leg", seconds(5), || {
        publishers(edge).first().is_some_and(|leg| leg.path == path)
    });
    let far = Recorder::start(origin, "live/a");
    let sent = with_headers(source, kinds, 3, 10);
    send(&mut encoder, &sent);
    wait_until("the last frame", seconds(5), || far.has(&sent[sent.len() - 1]));
    encoder
}

#[test]
fn an_encoder_that_repeats_its_headers_survives_its_origin() {
    let source = Synthetic { frame_bytes: 900, gop: 5, ..Synthetic::default() };
    for (kernel, path) in paths() {
        for kinds in [&[VIDEO, AUDIO][..], &[VIDEO]] {
            let mut origin = Setup::new().start();
            let edge = edge_of(&[origin.rtmp], kernel).publish("grace = \"20s\"").start();
            let mut encoder = encoder_on_leg(&edge, origin.rtmp, path, (&source, kinds));
            origin.kill();
            edge.wait_live("live/a");
            let near = Recorder::start(edge.rtmp, "live/a");
            // A frame that nobody could decode yet, and then GOPs that begin with headers.
            send(&mut encoder, &with_headers(&source, &[], 11, 15));
            // A player that waits for a keyframe begins at the newest one, so it is to have begun
            // before there is another.
            let mut sent = with_headers(&source, kinds, 15, 19);
            send(&mut encoder, &sent);
            wait_until("the first GOP", seconds(5), || near.has(&sent[sent.len() - 1]));
            let rest = with_headers(&source, kinds, 19, 40);
            send(&mut encoder, &rest);
            sent.extend(rest);
            let got = near.until_last(&sent, seconds(5));
            let video: Vec<&Tag> = got.iter().filter(|tag| tag.kind == VIDEO).collect();
            assert!(video[0].is_header() && video[1].is_keyframe(), "{path} {kinds:?}");
            let frames = |tags: &[Tag]| -> Vec<Tag> {
                tags.iter().filter(|t| t.kind == VIDEO && t.is_frame()).cloned().collect()
            };
            assert!(frames(&got) == frames(&sent), "{path} {kinds:?}");
            origin.restart();
            origin.wait_live("live/a");
            let again = Recorder::start(origin.rtmp, "live/a");
            let sent = with_headers(&source, kinds, 40, 60);
            send(&mut encoder, &sent);
            again.until_last(&sent, seconds(5));
        }
    }
}

#[test]
fn an_encoder_whose_headers_changed_and_do_not_come_again_is_closed() {
    let source = Synthetic { frame_bytes: 900, gop: 5, ..Synthetic::default() };
    let mut origin = Setup::new().start();
    let edge = edge_of(&[origin.rtmp], "never").publish("grace = \"30s\"").start();
    let mut encoder = encoder_on_leg(&edge, origin.rtmp, "user", (&source, &[VIDEO]));
    origin.kill();
    edge.wait_live("live/a");
    let mut n = 10;
    wait_until("closed", seconds(20), || {
        n += 1;
        send(&mut encoder, &with_headers(&source, &[], n, n + 1));
        encoder.is_closed_within(Duration::from_millis(50))
    });
    assert!(edge.log().contains("its headers did not come again"), "{}", edge.log());
}

#[test]
fn a_leg_publishes_under_the_name_a_relay_would() {
    for (kernel, _) in paths() {
        for (url, name) in [
            ("rtmp://127.0.0.1/live", "a"),
            ("rtmp://127.0.0.1/live", "a?token=x"),
            ("rtmp://127.0.0.1/live?token=x", "a"),
            ("rtmp://127.0.0.1/live", "room/a"),
            ("rtmp://127.0.0.1/live/a", ""),
            ("rtmp://127.0.0.1/live", "a?vhost=x.tv"),
            ("rtmp://127.0.0.1/live?vhost=x.tv", "a"),
            ("rtmp://127.0.0.1/live/_definst_", "_definst_/a"),
        ] {
            let told = ["never", "always"].map(|splice| {
                let sink = Sink::start(free_address());
                let edge = edge_of(&[sink.address], kernel).splice(splice);
                let edge = edge.edge("vhost = \"b.tv\"").start();
                let mut encoder = Raw::connect(edge.rtmp);
                encoder.handshake();
                encoder.connect_app("live", url);
                encoder.expect("_result");
                encoder.command(0, "createStream", 2.0, vec![Value::Null]);
                encoder.expect("_result");
                encoder.publish(name);
                encoder.expect("NetStream.Publish.Start");
                let received = sink.received().pop().expect("a publish");
                let port = format!(":{}", sink.address.port());
                (received.tc_url.replace(&port, ""), received.app, received.stream)
            });
            assert_eq!(told[0], told[1], "{url} {name}");
        }
    }
}

#[test]
fn pings_reach_the_encoder_and_its_own_are_answered() {
    for (kernel, path) in paths() {
        let sink = Sink::start(free_address());
        let edge = edge_of(&[sink.address], kernel).start();
        let mut encoder = Raw::connect(edge.rtmp);
        encoder.publishing("a");
        let source = Synthetic { frame_bytes: 900, ..Synthetic::default() };
        let first = with_headers(&source, &[], 0, 4);
        send(&mut encoder, &source.preamble());
        send(&mut encoder, &first);
        wait_until("a leg", seconds(5), || publishers(&edge)[0].path == path);
        sink.ping(77);
        let has = |encoder: &mut Raw, event: UserControl| {
            let event = Control::User(event);
            wait_until("a ping", seconds(5), || {
                assert!(!encoder.is_closed_within(Duration::from_millis(20)));
                encoder.controls.contains(&event)
            });
        };
        has(&mut encoder, UserControl::PingRequest(77));
        encoder.send(&raw::control(4, &[0, 7, 0, 0, 0, 77]));
        wait_until("an answer", seconds(5), || sink.received()[0].pongs == [77]);
        // As nginx-rtmp does, who closes without an answer.
        encoder.send(&raw::control(4, &[0, 6, 0, 0, 0, 78]));
        has(&mut encoder, UserControl::PingResponse(78));
    }
}

#[test]
fn a_second_publish_on_the_connection_of_a_leg_ends_it_cleanly() {
    for (kernel, path) in paths() {
        let origin = Setup::new().vhost("x.tv", &[]).start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let source = Synthetic { frame_bytes: 900, ..Synthetic::default() };
        for name in ["b", "b?vhost=x.tv"] {
            let mut encoder = encoder_on_leg(&edge, origin.rtmp, path, (&source, &[]));
            encoder.command(1, "deleteStream", 0.0, vec![Value::Null, Value::Number(1.0)]);
            encoder.command(0, "createStream", 9.0, vec![Value::Null]);
            encoder.publish(name);
            assert!(encoder.is_closed_within(seconds(5)), "{path} {name}");
            wait_no_publisher(&edge);
            wait_until("nothing is left", seconds(5), || {
                !origin.is_live("live/a") && !origin.is_live("live/b")
            });
            let streams = origin.status().streams;
            assert!(streams.iter().all(|stream| stream.vhost != "x.tv"), "{streams:?}");
            // A connection of its own is what it has to make.
            let live = Live::start(edge.rtmp, "live/b", Synthetic::default());
            live.wait_more(10);
            live.stop(End::Polite);
            wait_until("over", seconds(5), || !origin.is_live("live/b"));
        }
    }
}

#[test]
fn an_encoder_that_its_origin_throws_out_is_no_fault_of_the_origin() {
    for (kernel, path) in paths() {
        let origins = [Setup::new().start(), Setup::new().start()];
        let edge = edge_of(&[origins[0].rtmp, origins[1].rtmp], kernel).start();
        let mut used = Vec::new();
        for _ in 0..3 {
            let mut encoder = Raw::connect(edge.rtmp);
            encoder.publishing("a");
            let source = Synthetic { frame_bytes: 900, ..Synthetic::default() };
            send(&mut encoder, &source.preamble());
            send(&mut encoder, &with_headers(&source, &[], 0, 4));
            wait_until("a leg", seconds(5), || publishers(&edge)[0].path == path);
            used.push(publishers(&edge)[0].origin.clone());
            // longer than video may be
            encoder.send(&raw::chunk(6, 500, 0xff_fff0, VIDEO, 1, &[0x27; 128]));
            wait_no_publisher(&edge);
            drop(encoder);
            wait_until("it is over", seconds(8), || {
                !origins.iter().any(|origin| origin.is_live("live/a")) && !edge.is_live("live/a")
            });
        }
        assert!(used.iter().all(|origin| *origin == used[0]), "{path}: {used:?}");
    }
}

#[test]
fn ffmpeg_that_listens_is_an_origin() {
    for (kernel, path) in paths() {
        let address = free_address();
        let edge = edge_of(&[address], kernel).edge("failover_timeout = \"15s\"").start();
        let out = edge.dir().join("listened.flv");
        let mut command = Program::new("ffmpeg");
        command.args(["-hide_banner", "-nostdin", "-y", "-f", "flv", "-listen", "1", "-i"]);
        command.arg(format!("rtmp://{address}/live/a")).args(["-c", "copy"]).arg(&out);
        let mut listener = Process::spawn(edge.dir(), "ffmpeg-listen", "ffmpeg", &mut command);
        let (clip, how) = (Clip::plain(), Publish::default());
        let published = clip.published(edge.dir(), how);
        let mut ffmpeg = ffmpeg_publish(edge.dir(), &clip.path, &edge.url("live/a"), how);
        let leg = wait_carried(&edge, path);
        assert_eq!(leg.origin, address.to_string());
        ffmpeg.succeed(seconds(30));
        listener.wait(seconds(20));
        assert_same_media("at FFmpeg", &published, &flv::read(&out), Start::First);
        wait_no_publisher(&edge);
    }
}

#[test]
fn an_origin_that_pauses_holds_the_encoder_and_costs_little() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let load = Synthetic { fps: 25, gop: 12, frame_bytes: 250_000, start: 0 };
        let live = Live::start(edge.rtmp, "live/a", load);
        let leg = wait_carried(&edge, path);
        let far = Recorder::start(origin.rtmp, "live/a");
        wait_until("media", seconds(10), || far.count() > 20);
        let pid = edge.status().pid;
        let (before, mut most, mut most_backlog) = (resident(pid), 0, 0);
        origin.signal(Signal::SIGSTOP);
        // less than hung_timeout
        let end = Instant::now() + seconds(6);
        wait_until("six seconds", seconds(10), || {
            most = resident(pid).max(most);
            most_backlog = publishers(&edge)[0].backlog.max(most_backlog);
            Instant::now() > end
        });
        let grown = most.saturating_sub(before);
        let held = queued(&[edge.rtmp, origin.rtmp]);
        origin.signal(Signal::SIGCONT);
        eprintln!("{path}: grew by {grown}, {most_backlog} waited, {held} in TCP's queues");
        assert!(grown < 8 << 20, "{path}: the process grew by {grown} bytes");
        assert!(most_backlog < 16 << 20, "{path}: {most_backlog} bytes waited");
        live.wait_more(30);
        let after = publishers(&edge).remove(0);
        assert_eq!((&after.peer, after.connects), (&leg.peer, 1), "{path}: the same leg");
        let sent = live.stop(End::Polite);
        let got = far.until_last(&sent, seconds(20));
        assert_same_sequence(path, &sent, &got, Start::Keyframe);
    }
}

/// What is said to the second of two publishers of `live/a`, the first of whom left unanswered.
fn second_publisher(edge: &Server) -> Option<Seen> {
    let mut first = Raw::connect(edge.rtmp);
    first.ready();
    first.publish("a");
    drop(first);
    wait_until("it is gone", seconds(3), || edge.status().connections == 0);
    Peer::open(edge.rtmp, Goal::Publish, "live/a").next(seconds(10))
}

#[test]
fn a_publisher_that_gave_up_leaves_its_place_while_an_origin_is_asked() {
    for splice in ["never", "always"] {
        // accepts, and says nothing
        let silent = TcpListener::bind("127.0.0.1:0").expect("bind");
        // does not even accept: its queue is full
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let full = full.expect("socket");
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        full.listen(0).expect("listen");
        let at = full.local_addr().expect("address").as_socket().expect("address");
        let _queue = std::net::TcpStream::connect(at).expect("connect");
        for origin in [silent.local_addr().expect("address"), at] {
            let edge = edge_of(&[origin], "never").splice(splice);
            // Longer than one waits for a place.
            let edge = edge.edge("connect_timeout = \"4s\"");
            let short = if splice == "never" { "100ms" } else { "4s" };
            let edge = edge.edge(&format!("failover_timeout = \"{short}\"")).start();
            match second_publisher(&edge) {
                Some(Seen::Failed(SessionError::Refused { code, .. })) => {
                    assert_eq!(code, "NetStream.Failed", "{splice} {origin}");
                }
                other => panic!("{splice} {origin}: {other:?}"),
            }
        }
    }
}

#[test]
fn an_encoder_that_comes_back_to_a_hung_origin_gets_another() {
    for (kernel, path) in paths() {
        let origins = [Setup::new().start(), Setup::new().start()];
        let addresses = [origins[0].rtmp, origins[1].rtmp];
        let edge = edge_of(&addresses, kernel).edge("connect_timeout = \"500ms\"").start();
        let source = Synthetic { frame_bytes: 900, gop: 5, ..Synthetic::default() };
        let origin = origins[0].rtmp;
        let mut encoder = Raw::connect(edge.rtmp);
        encoder.publishing("a");
        send(&mut encoder, &source.preamble());
        send(&mut encoder, &with_headers(&source, &[], 0, 4));
        wait_until("a leg", seconds(5), || publishers(&edge)[0].path == path);
        let hung = usize::from(publishers(&edge)[0].origin != origin.to_string());
        origins[hung].signal(Signal::SIGSTOP);
        let heavy = Synthetic { frame_bytes: 100_000, ..source };
        let mut n = 4;
        wait_until("it takes nothing", seconds(30), || {
            n += 1;
            send(&mut encoder, &heavy.frame(n));
            assert!(!encoder.is_closed_within(Duration::from_millis(1)));
            publishers(&edge)[0].backlog > 0
        });
        // Its last bytes wait for an origin that does not take them.
        drop(encoder);
        let again = Live::start(edge.rtmp, "live/a", Synthetic::default());
        again.wait_more(20);
        assert!(origins[1 - hung].is_live("live/a"), "{path}");
        origins[hung].signal(Signal::SIGCONT);
        again.stop(End::Polite);
    }
}
