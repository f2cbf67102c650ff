//! Forwards to URLs, of some streams, and to servers that say no or take nothing.
mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command as Program;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use common::compare::{Start, assert_same_media, assert_same_sequence};
use common::external::{Player, Publish, ffmpeg_publish};
use common::flv::{self, Tag};
use common::media::{Clip, Synthetic};
use common::nginx::Nginx;
use common::peer::{End, Live};
use common::process::Process;
use common::server::{Server, Setup};
use common::sink::{Received, Sink};
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::session::{ServerConfig, ServerEvent, ServerSession};
use forwarder::status::ForwardStatus;

const KEY: &str = "abcd-efgh-ijkl-mnop-qrst";

fn forwards(server: &Server, path: &str) -> Vec<ForwardStatus> {
    server.stream(path).map(|stream| stream.forwards).unwrap_or_default()
}

fn only(sink: &Sink) -> Received {
    let received = sink.received();
    assert_eq!(received.len(), 1, "connections");
    received[0].clone()
}

fn first_keyframe(tags: &[Tag]) -> Option<&Tag> {
    tags.iter().find(|tag| tag.is_keyframe())
}

#[test]
fn a_url_says_what_the_stream_is_called_there() {
    let (service, named) = (Sink::start(free_address()), Sink::start(free_address()));
    let (at, to) = (service.address, named.address);
    let master = Setup::new()
        .forward(&format!(
            "destination = [\"rtmp://{at}/live2?backup=1/{KEY}\",\n\
             \"rtmp://{to}/[vhost]/[app]/x-[stream]?a=b&[param]\"]"
        ))
        .start();
    let live = Live::start(master.rtmp, "live/cam?token=hush&sign=1,2", Synthetic::default());
    wait_until("media", seconds(10), || service.count() > 60 && named.count() > 60);
    let told = format!("{:?}", forwards(&master, "live/cam"));
    let sent = live.stop(End::Polite);
    wait_until("unpublished", seconds(5), || {
        [&service, &named].iter().all(|sink| sink.received().iter().all(|r| r.unpublished))
    });
    let (one, other) = (only(&service), only(&named));
    assert_eq!(one.tc_url, format!("rtmp://{at}/live2?backup=1"));
    assert_eq!((&*one.app, &*one.stream), ("live2?backup=1", KEY));
    assert_eq!(other.tc_url, format!("rtmp://{to}/__defaultVhost__/live"));
    assert_eq!(other.app, "__defaultVhost__/live");
    assert_eq!(other.stream, "x-cam?a=b&token=hush&sign=1%2C2");
    for received in [&one, &other] {
        assert_same_sequence("sink", &sent, &received.tags, Start::First);
    }
    assert!(told.contains(&format!("rtmp://{at}/live2?***/***qrst")), "{told}");
    assert!(told.contains(&format!("rtmp://{to}/[vhost]/[app]/***[stream]?***")), "{told}");
    for text in [&told, &master.log()] {
        assert!(!text.contains(KEY) && !text.contains("hush"), "a key is shown: {text}");
    }
}

#[test]
fn parameters_stay_here_or_go_along_as_told() {
    let sinks: [Sink; 3] = std::array::from_fn(|_| Sink::start(free_address()));
    let [kept, passed, url] = std::array::from_fn(|i| sinks[i].address);
    let master = Setup::new()
        .forward(&format!(
            "[[vhost.forward.to]]\nurl = \"{kept}\"\nparam = false\n\
             [[vhost.forward.to]]\nurl = \"rtmp://{passed}/[app]/[stream]?own=1\"\nparam = true\n\
             [[vhost.forward.to]]\nurl = \"rtmp://{url}/[app]/[stream]?[param]\""
        ))
        .start();
    let names = |path: &str| -> Vec<String> {
        let _live = Live::start(master.rtmp, path, Synthetic::default());
        let is_named =
            |sink: &Sink| sink.received().last().is_some_and(|r| !r.tags.is_empty() && !r.closed);
        wait_until("media", seconds(10), || sinks.iter().all(is_named));
        sinks.iter().map(|sink| sink.received().last().unwrap().stream.clone()).collect()
    };
    assert_eq!(names("live/a?t=1"), ["a", "a?own=1&t=1", "a?t=1"]);
    wait_until("over", seconds(10), || master.stream("live/a").is_none());
    wait_until("closed", seconds(10), || {
        sinks.iter().all(|s| s.received().iter().all(|r| r.closed))
    });
    assert_eq!(names("live/b"), ["b", "b?own=1", "b"], "no question mark without parameters");
}

#[test]
fn a_switch_that_is_reloaded_counts_for_streams_that_are_live() {
    let (rtmp, sink) = (free_address(), Sink::start(free_address()));
    let setup = |param: bool| {
        let to = format!("[[vhost.forward.to]]\nurl = \"{}\"\nparam = {param}", sink.address);
        Setup::new().listen(rtmp).forward(&to)
    };
    let master = setup(true).start();
    let live = Live::start(master.rtmp, "live/a?token=x", Synthetic::default());
    wait_until("media", seconds(20), || sink.count() > 20);
    master.reload_to(setup(false));
    wait_until("media again", seconds(20), || sink.connections() == 2 && sink.count() > 20);
    let received = sink.received();
    let names: Vec<&str> = received.iter().map(|it| it.stream.as_str()).collect();
    assert_eq!(names, ["a?token=x", "a"]);
    assert!(received[0].unpublished, "it was drained");
    drop(live);
}

#[test]
fn patterns_choose_the_streams() {
    let (cams, all) = (Sink::start(free_address()), Sink::start(free_address()));
    let master = Setup::new()
        .forward(&format!(
            "destination = [\"{}\"]\n[[vhost.forward.to]]\nurl = \"{}\"\napp = \"live*\"\n\
             stream = \"cam-*\"",
            all.address, cams.address
        ))
        .start();
    let paths = ["live/cam-1", "live2/cam-2", "vod/cam-3", "live/mic-4"];
    let lives: Vec<Live> =
        paths.iter().map(|path| Live::start(master.rtmp, path, Synthetic::default())).collect();
    let got = |sink: &Sink| -> Vec<String> {
        let with_media = sink.received().into_iter().filter(|r| !r.tags.is_empty());
        let mut names: Vec<String> =
            with_media.map(|r| format!("{}/{}", r.app, r.stream)).collect();
        names.sort();
        names
    };
    wait_until("all are forwarded", seconds(10), || got(&all).len() == 4);
    wait_until("cameras are", seconds(10), || got(&cams).len() == 2);
    let counts: Vec<usize> = paths.iter().map(|path| forwards(&master, path).len()).collect();
    assert_eq!(counts, [2, 2, 1, 1]);
    drop(lives);
    assert_eq!(got(&cams), ["live/cam-1", "live2/cam-2"]);
}

#[test]
fn nginx_takes_a_stream_under_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(dir.path(), None);
    let master = Setup::new().forward(&format!("destination = [\"{}\"]", nginx.url(KEY))).start();
    let player = Player::rtmpdump(master.dir(), &nginx.url(KEY));
    wait_until("rtmpdump plays", seconds(10), || nginx.plays() == 1);
    let (clip, how) = (Clip::plain(), Publish::default());
    let published = clip.published(master.dir(), how);
    ffmpeg_publish(master.dir(), &clip.path, &master.url("studio/a"), how).succeed(seconds(30));
    let got = player.finish(seconds(20));
    assert_same_media("from nginx", &published, &got, Start::Anywhere);
    assert_eq!(first_keyframe(&got), first_keyframe(&published));
    assert!(!master.log().contains(KEY));
}

#[test]
fn ffmpeg_that_listens_takes_a_stream_under_its_key() {
    let address = free_address();
    let url = format!("rtmp://{address}/app/{KEY}");
    let master = Setup::new().forward(&format!("destination = [\"{url}\"]")).start();
    let out = master.dir().join("listened.flv");
    let mut command = Program::new("ffmpeg");
    command.args([
        "-hide_banner",
        "-nostdin",
        "-y",
        "-copyts",
        "-f",
        "flv",
        "-listen",
        "1",
        "-i",
        &url,
    ]);
    command.args(["-c", "copy"]).arg(&out);
    let mut listener = Process::spawn(master.dir(), "ffmpeg-listen", "ffmpeg", &mut command);
    let (clip, how) = (Clip::plain(), Publish::default());
    let published = clip.published(master.dir(), how);
    ffmpeg_publish(master.dir(), &clip.path, &master.url("studio/a"), how).succeed(seconds(30));
    listener.wait(seconds(20));
    let got = flv::read(&out);
    assert_same_media("at FFmpeg", &published, &got, Start::Anywhere);
    assert_eq!(first_keyframe(&got), first_keyframe(&published));
}

/// A server that answers every publish with a refusal in which it repeats the key.
struct Refuser {
    address: SocketAddr,
    dials: Receiver<Instant>,
}

impl Refuser {
    /// Refuses the `connect`, or else the publish.
    fn start(refuses_connect: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        let (tell, dials) = mpsc::channel();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { return };
                if tell.send(Instant::now()).is_err() {
                    return;
                }
                refuse(socket, refuses_connect);
            }
        });
        Self { address, dials }
    }
}

fn refuse(mut socket: TcpStream, refuses_connect: bool) {
    socket.set_read_timeout(Some(seconds(5))).expect("socket option");
    let config = ServerConfig { chunk_size: 4096, out_ack_size: 2_500_000, in_ack_size: 0 };
    let mut session = ServerSession::new(config, vec![0x5a; 1536].into(), Instant::now());
    let mut buffer = vec![0; 65_536];
    while let Ok(n @ 1..) = socket.read(&mut buffer) {
        let mut input = &buffer[..n];
        loop {
            enum Answer {
                Connect,
                Publish(u32, String),
            }
            let answer = match session.read(Instant::now(), &mut input) {
                Ok(Some(ServerEvent::Connect(_))) => Answer::Connect,
                Ok(Some(ServerEvent::Publish(request))) => {
                    Answer::Publish(request.msid, format!("no such key: {}", request.stream))
                }
                Ok(Some(_)) => continue,
                Ok(None) => break,
                Err(_) => return,
            };
            match answer {
                Answer::Connect if refuses_connect => session.reject_connect("go away"),
                Answer::Connect => session.accept_connect(),
                Answer::Publish(msid, why) => {
                    session.reject(msid, "NetStream.Publish.BadName", &why);
                }
            }
        }
        if socket.write_all(&session.take_output()).is_err() {
            return;
        }
    }
}

#[test]
fn a_server_that_refuses_is_not_hammered_and_hurts_nobody() {
    let (good, refusers) =
        (Sink::start(free_address()), [Refuser::start(false), Refuser::start(true)]);
    let [wrong_key, closed] = refusers.each_ref().map(|refuser| refuser.address);
    let master = Setup::new()
        .forward(&format!(
            "retry_max = \"100ms\"\nretry_refused = \"24h\"\n\
             destination = [\"{}\", \"rtmp://{wrong_key}/live2/{KEY}\", \"{closed}\"]",
            good.address
        ))
        .start();
    let live = Live::start(master.rtmp, "live/a", Synthetic::default());
    for refuser in &refusers {
        let dials: Vec<Instant> =
            (0..3).map(|_| refuser.dials.recv_timeout(seconds(20)).expect("a dial")).collect();
        // without a rest of its own it would be dialled every 100 ms
        let pauses = [dials[1] - dials[0], dials[2] - dials[1]];
        assert!(pauses[0] >= Duration::from_millis(500), "{pauses:?}");
        assert!(pauses[1] >= Duration::from_millis(1000), "{pauses:?}");
    }
    let told = forwards(&master, "live/a");
    let refused = told.iter().find(|f| f.destination.contains("live2")).expect("its forward");
    assert!(refused.last_error.contains("NetStream.Publish.BadName"), "{refused:?}");
    assert!(refused.last_error.contains("***"), "{refused:?}");
    assert!(!format!("{told:?}").contains(KEY) && !master.log().contains(KEY));
    let sent = live.stop(End::Polite);
    wait_until("unpublished", seconds(5), || good.received().iter().all(|r| r.unpublished));
    assert_same_sequence("the other", &sent, &only(&good).tags, Start::First);
}

#[test]
fn a_publisher_that_pauses_stalls_its_forward_until_it_goes_on() {
    let sink = Sink::start(free_address());
    let master = Setup::new().forward_to(&[sink.address]).start();
    let mut peer = common::peer::Peer::publish(master.rtmp, "live/a");
    let source = Synthetic::default();
    source.preamble().iter().for_each(|tag| peer.send(tag).expect("send"));
    let mut frames = (0..).flat_map(|n| source.frame(n));
    let state = || forwards(&master, "live/a").first().map(|f| f.state.clone());
    wait_until("it forwards", seconds(10), || {
        peer.send(&frames.next().unwrap()).expect("send");
        state().as_deref() == Some("forwarding")
    });
    wait_until("it stalls", seconds(10), || state().as_deref() == Some("stalled"));
    wait_until("it forwards again", seconds(10), || {
        peer.send(&frames.next().unwrap()).expect("send");
        state().as_deref() == Some("forwarding")
    });
    assert_eq!(sink.received().len(), 1, "one connection for all of it");
}
