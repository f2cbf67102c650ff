//! Limits, deadlines, the start and the stop.
mod common;

use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use common::compare::{Start, assert_same_sequence};
use common::media::Synthetic;
use common::peer::{End, Live, Peer, Recorder};
use common::raw::Raw;
use common::server::{Server, Setup, spawn};
use common::sink::Sink;
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::message::Control;
use nix::sys::signal::Signal;

#[test]
fn one_connection_too_many_is_refused_until_another_leaves() {
    let server = Setup::new().global("max_connections = 3").start();
    // the harness looked whether the server listens
    wait_until("nobody is connected", seconds(5), || server.status().connections == 0);
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    let first = Recorder::start(server.rtmp, "live/a");
    let second = Recorder::start(server.rtmp, "live/a");
    let mut refused = Raw::connect(server.rtmp);
    assert!(refused.is_closed_within(seconds(5)), "the fourth of three connections is served");
    assert!(server.status().totals.refused >= 1, "{:?}", server.status());
    drop(first);
    wait_until("one left", seconds(5), || server.status().connections == 2);
    let third = Recorder::start(server.rtmp, "live/a");
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    for player in [second, third] {
        let got = player.until_last(&sent, seconds(5));
        assert_same_sequence("player", &sent, &got, Start::Keyframe);
    }
}

#[test]
fn a_graceful_stop_says_goodbye_to_all() {
    let sink = Sink::start(free_address());
    let mut server = Setup::new().forward_to(&[sink.address]).start();
    let player = Recorder::start(server.rtmp, "live/a");
    let waiting = Recorder::start(server.rtmp, "live/never");
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    wait_until("media", seconds(5), || player.count() > 20 && sink.count() > 20);
    assert_eq!(server.terminate(), Some(0), "exit code\n{}", server.log());
    for (label, player) in [("player", player), ("waiting player", waiting)] {
        wait_until("the player is closed", seconds(2), || player.ended());
        assert!(player.finished(), "{label}: was not told that the stream is over");
    }
    wait_until("the publisher is closed", seconds(5), || live.is_over());
    wait_until("the slave is told", seconds(2), || sink.received().iter().all(|r| r.unpublished));
}

#[test]
fn an_interrupt_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (rtmp, config) = (free_address(), dir.path().join("forwarder.toml"));
    std::fs::write(&config, format!("listen = [\"{rtmp}\"]\n")).unwrap();
    let mut process = spawn(dir.path(), &config);
    wait_until("it listens", seconds(10), || TcpStream::connect(rtmp).is_ok());
    let live = Live::start(rtmp, "live/a", Synthetic::default());
    live.wait_more(10);
    let start = Instant::now();
    process.signal(Signal::SIGINT);
    process.wait(seconds(2));
    eprintln!("stopped after {:?}", start.elapsed());
}

/// The exit code and what was printed.
fn run(dir: &Path, file: &str, config: &str) -> (Option<i32>, String) {
    let path = dir.join(file);
    std::fs::write(&path, config).expect("configuration");
    let mut process = spawn(dir, &path);
    let status = process.wait(seconds(10));
    (status.code(), process.log())
}

#[test]
fn a_bad_configuration_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let table = [
        ("unknown.toml", "listen = [\"127.0.0.1:1\"]\nlissten = 2\n", "lissten"),
        ("syntax.toml", "listen = [\n", "syntax.toml"),
        ("type.toml", "max_connections = \"many\"\n", "max_connections"),
        (
            "unit.toml",
            "[[vhost]]\nname = \"a\"\n[vhost.publish]\ngrace = \"10 parsecs\"\n",
            "parsecs",
        ),
        ("srs.conf", "listen 1935;\nlissten 1936;\n", "lissten"),
    ];
    for (file, config, word) in table {
        let (code, said) = run(dir.path(), file, config);
        assert_eq!(code, Some(1), "{file}: {said}");
        assert!(said.contains(word) && said.contains(file), "{file}: {said}");
        assert!(!said.contains("panicked"), "{file}: {said}");
    }
    let mut missing = spawn(dir.path(), &dir.path().join("missing.toml"));
    assert_eq!(missing.wait(seconds(10)).code(), Some(1));
    assert!(missing.log().contains("missing.toml"), "{}", missing.log());
}

#[test]
fn a_port_that_is_taken_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = run(dir.path(), "taken.toml", &format!("listen = [\"{address}\"]\n"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&address), "{said}");
}

#[test]
fn all_listeners_serve_the_same_streams() {
    let [one, two, api] = std::array::from_fn(|_| free_address());
    let config = format!(
        "listen = [\"{one}\", \"{two}\"]\n[http_api]\nenabled = true\nlisten = \"{api}\"\n\
         [[vhost]]\nname = \"__defaultVhost__\"\n"
    );
    let server = Server::start("two.toml", &config, one, api);
    let player = Recorder::start(two, "live/a");
    let live = Live::start(one, "live/a", Synthetic::default());
    live.wait_more(40);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(5));
    assert_same_sequence("player", &sent, &got, Start::First);
    assert_eq!(server.status().listen, [one.to_string(), two.to_string()]);
}

#[test]
fn a_publisher_that_sends_nothing_is_closed() {
    let server = Setup::new().publish("firstpkt_timeout = \"500ms\"").start();
    let mut peer = Peer::publish(server.rtmp, "live/a");
    let local = peer.local().to_string();
    peer.until_closed(seconds(5));
    assert!(server.log().contains(&local), "the log names it:\n{}", server.log());
}

#[test]
fn a_publisher_that_falls_silent_is_closed() {
    let server = Setup::new().publish("normal_timeout = \"500ms\"\ngrace = \"10s\"").start();
    let mut peer = Peer::publish(server.rtmp, "live/a");
    let source = Synthetic::default();
    for tag in source.preamble().iter().chain(&source.frame(0)) {
        peer.send(tag).unwrap();
    }
    server.wait_live("live/a");
    peer.until_closed(seconds(5));
    wait_until("its stream waits", seconds(2), || {
        server.stream("live/a").is_some_and(|s| s.state == "grace")
    });
}

#[test]
fn publishers_who_sent_while_the_process_stood_still_were_not_silent() {
    let server = Setup::new().publish("normal_timeout = \"1s\"\ngrace = \"10s\"").start();
    let path = |n: usize| format!("live/{n}");
    let begin = |n| Live::start(server.rtmp, &path(n), Synthetic::default());
    let lives: Vec<Live> = (0..4).map(begin).collect();
    (0..lives.len()).for_each(|n| server.wait_live(&path(n)));
    server.signal(Signal::SIGSTOP);
    // as when a machine is moved or has no memory left
    let since = Instant::now();
    while since.elapsed() < seconds(2) {
        lives[0].wait_more(1);
    }
    server.signal(Signal::SIGCONT);
    lives.iter().for_each(|live| live.wait_more(40));
    let over: Vec<bool> = lives.iter().map(Live::is_over).collect();
    assert!(!over.contains(&true), "{over:?}\n{}", server.log());
}

#[test]
fn a_stream_without_a_keyframe_starts_after_a_while() {
    let server = Setup::new().play("keyframe_wait = \"500ms\"").start();
    let mut peer = Peer::publish(server.rtmp, "live/a");
    let source = Synthetic { gop: u32::MAX, ..Synthetic::default() };
    source.preamble().iter().for_each(|tag| peer.send(tag).unwrap());
    peer.send(&source.frame(1)[0]).unwrap();
    server.wait_live("live/a");
    let player = Recorder::start(server.rtmp, "live/a");
    let mut n = 2;
    wait_until("frames arrive", seconds(5), || {
        peer.send(&source.frame(n)[0]).unwrap();
        n += 1;
        player.tags().iter().any(common::flv::Tag::is_frame)
    });
}

#[test]
fn each_vhost_announces_its_own_windows_and_chunk_size() {
    let (rtmp, api) = (free_address(), free_address());
    let config = format!(
        "listen = [\"{rtmp}\"]\n[http_api]\nenabled = true\nlisten = \"{api}\"\n\
         [[vhost]]\nname = \"v.test\"\nchunk_size = 5000\nout_ack_size = 1000000\n"
    );
    let server = Server::start("v.toml", &config, rtmp, api);

    let mut client = Raw::connect(server.rtmp);
    client.handshake();
    client.connect_app("live", "rtmp://v.test/live");
    client.expect("NetConnection.Connect.Success");
    for want in [Control::WindowAckSize(1_000_000), Control::SetChunkSize(5000)] {
        assert!(client.controls.contains(&want), "{want:?} is not in {:?}", client.controls);
    }

    // No default vhost: the stream may name the one it means, an unknown one is refused.
    let mut named_later = Raw::connect(server.rtmp);
    named_later.publishing("a?vhost=v.test");
    let mut unknown = Raw::connect(server.rtmp);
    unknown.handshake();
    unknown.connect_app("live", "rtmp://127.0.0.1/live?vhost=nowhere");
    unknown.expect("NetConnection.Connect.Rejected");
}
