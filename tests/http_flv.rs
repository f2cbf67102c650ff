//! Players over HTTP get what players of RTMP get, byte for byte, as FLV.
mod common;

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use common::browser::{Browser, mpegts_js};
use common::compare::{
    Start, assert_headers_once, assert_same_media, assert_same_sequence, assert_whole_messages,
};
use common::external::{Player, Publish, ffmpeg_publish};
use common::flv::{AUDIO, Tag, VIDEO};
use common::hook_server::{HookServer, Reply};
use common::media::{Clip, Synthetic};
use common::peer::{End, Live, Peer, Recorder};
use common::server::{Server, Setup, http};
use common::viewer::{Viewer, ask};
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::session::Goal;
use forwarder::status::ClientStatus;
use nix::sys::signal::Signal;

const PATH: &str = "/live/a.flv";

/// A server, and where it serves players over HTTP.
fn start(setup: Setup) -> (Server, SocketAddr) {
    let address = free_address();
    (setup.http_server(address).start(), address)
}

fn client(server: &Server, address: SocketAddr) -> Option<ClientStatus> {
    let peer = address.to_string();
    server.clients("?count=1000").clients.into_iter().find(|client| client.peer == peer)
}

fn get(address: SocketAddr, target: &str) -> u16 {
    ask(address, &format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).status
}

#[test]
fn every_tag_is_as_it_was_published_and_late_joiners_begin_at_a_keyframe() {
    let (server, http) = start(Setup::new());
    assert_eq!(get(http, PATH), 404, "nobody publishes");
    let source = Synthetic { start: 0x00ff_fe00, ..Synthetic::default() };
    let live = Live::start(server.rtmp, "live/a", source);
    live.wait_more(4);
    let first = Viewer::start(http, PATH);
    let by_rtmp = Recorder::start(server.rtmp, "live/a");
    live.wait_more(70);
    let late = Viewer::start(http, "/live/a.flv?token=1");
    wait_until("all play", seconds(20), || first.count() > 60 && late.count() > 20);
    assert_eq!((first.kinds(), late.kinds()), (5, 5));
    assert_eq!(server.stream("live/a").map(|stream| stream.players), Some(3));
    live.wait_more(40);
    let sent = live.stop(End::Polite);
    wait_until("the end", seconds(20), || first.ended() && late.ended());
    for (label, viewer) in [("the first", first), ("the late one", late)] {
        let got = viewer.until_last(&sent, seconds(10));
        assert_same_sequence(label, &sent, &got, Start::Keyframe);
        assert_headers_once(label, &sent, &got);
        let times = got.iter().filter(|tag| tag.is_header()).map(|tag| tag.timestamp);
        let begin = got.iter().find(|tag| tag.is_frame()).expect("frames").timestamp;
        assert!(times.into_iter().all(|time| time == begin), "{label}: times of headers");
    }
    assert_same_sequence(
        "by RTMP",
        &sent,
        &by_rtmp.until_last(&sent, seconds(10)),
        Start::Keyframe,
    );
    wait_until("the stream is gone", seconds(10), || get(http, PATH) == 404);
    let log = server.log();
    assert!(log.contains("flv-play") && log.contains("the stream is over"), "{log}");
}

#[test]
fn ffmpeg_plays_over_http() {
    let (server, http) = start(Setup::new());
    let (clip, how) = (Clip::b_frames(), Publish::default());
    let published = clip.published(server.dir(), how);
    let mut publisher = ffmpeg_publish(server.dir(), &clip.path, &server.url("live/a"), how);
    server.wait_live("live/a");
    let player = Player::ffmpeg(server.dir(), &format!("http://{http}{PATH}"));
    publisher.succeed(seconds(60));
    let got = player.finish(seconds(30));
    assert_same_media("ffmpeg", &published, &got, Start::Keyframe);
}

#[test]
fn a_browser_plays_by_mpegts_js() {
    let Some(script) = mpegts_js() else { return };
    let (server, http) = start(Setup::new());
    let (clip, how) = (Clip::plain(), Publish { endless: true, ..Publish::default() });
    let publisher = ffmpeg_publish(server.dir(), &clip.path, &server.url("live/a"), how);
    server.wait_live("live/a");
    let mut browser = Browser::play(&script, &format!("http://{http}{PATH}"));
    wait_until("it plays", seconds(60), || {
        let report = browser.report();
        report.time > 4.0 && report.frames > 50 && report.audio > 10_000
    });
    let report = browser.report();
    println!("{report:?}");
    assert_eq!((report.width, report.corrupted), (320, 0), "{report:?}");
    drop(publisher);
    wait_until("it sees the end", seconds(30), || browser.report().complete);
}

#[test]
fn two_hundred_players_share_one_log_that_goes_when_they_have_gone() {
    const BEFORE: usize = 50;
    const STORM: usize = 150;
    let (server, http) = start(Setup::new());
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    server.wait_live("live/a");
    let before: Vec<_> = (0..BEFORE).map(|_| Viewer::start(http, PATH)).collect();
    live.wait_more(80);
    let storm: Vec<_> = thread::scope(|scope| {
        let joining: Vec<_> =
            (0..STORM).map(|_| scope.spawn(move || Viewer::start(http, PATH))).collect();
        joining.into_iter().map(|player| player.join().expect("a player")).collect()
    });
    wait_until("all play", seconds(30), || storm.iter().all(|player| player.count() > 20));
    let with_players = server.stream("live/a").expect("it").log_bytes;
    live.wait_more(60);
    let sent = live.sent();
    let last = sent.iter().rposition(|tag| tag.is_frame()).expect("frames");
    let sent = &sent[..=last];
    for (n, player) in before.into_iter().chain(storm).enumerate() {
        let mut got = player.until_last(sent, seconds(20));
        let end = got.iter().rposition(|tag| *tag == sent[last]).expect("the last one");
        got.truncate(end + 1);
        let label = format!("player {n}");
        assert_same_sequence(&label, sent, &got, Start::Keyframe);
        assert_headers_once(&label, sent, &got);
    }
    // A group of pictures is 128 kB, in each form.
    assert!(with_players < 4 << 20, "{with_players} bytes held for 200 players");
    wait_until("one log is left", seconds(30), || {
        let stream = server.stream("live/a").expect("it");
        stream.players == 0 && stream.log_bytes < 400_000
    });
    live.stop(End::Polite);
}

#[test]
fn slow_players_skip_stuck_ones_are_closed_and_the_others_miss_nothing() {
    // 40 Mbit/s, a keyframe each 480 ms
    let source = Synthetic { fps: 25, gop: 12, frame_bytes: 200_000, start: 0 };
    let setup = Setup::new().play("queue_bytes = \"4MiB\"").play("write_timeout = \"8s\"");
    let (server, http) = start(setup);
    let live = Live::start(server.rtmp, "live/a", source);
    server.wait_live("live/a");
    let healthy = Viewer::start(http, PATH);
    let (slow, stuck) =
        (Viewer::with_little_room(http, PATH), Viewer::with_little_room(http, PATH));
    let all = [&healthy, &slow, &stuck];
    wait_until("all play", seconds(20), || all.iter().all(|player| player.count() > 20));
    slow.pause(true);
    stuck.pause(true);
    live.wait_more(150); // 15 MB
    slow.pause(false);
    let before = slow.count();
    wait_until("the slow one plays again", seconds(20), || slow.count() > before + 60);
    let told = client(&server, slow.local).expect("a client");
    wait_until("the stuck one is closed", seconds(60), || client(&server, stuck.local).is_none());
    let sent = live.stop(End::Polite);
    let got = healthy.until_last(&sent, seconds(20));
    assert_same_sequence("the healthy one", &sent, &got, Start::Keyframe);
    let got = slow.until_last(&sent, seconds(20));
    let seen = assert_whole_messages("the slow one", &sent, &got);
    assert!(seen >= 1, "it never skipped");
    assert!(told.skips >= 1 && told.skips <= seen as u64, "{seen} skips seen: {told:?}");
    assert!(server.log().contains("the peer does not read"), "{}", server.log());
}

#[test]
fn players_are_clients_and_can_be_sent_away() {
    let (server, http) = start(Setup::new());
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    server.wait_live("live/a");
    let player = Viewer::start(http, PATH);
    let page = ask(http, "GET /live/a.flv HTTP/1.1\r\nHost: v:1\r\nReferer: http://page/\r\n\r\n");
    wait_until("media", seconds(20), || player.count() > 30);
    let told = client(&server, player.local).expect("a client");
    assert_eq!((&*told.kind, &*told.url, told.publish), ("flv-play", "/live/a", false));
    assert_eq!((&*told.state, &*told.name), ("playing", "a"));
    assert!(told.send_bytes > 50_000 && told.recv_bytes > 20, "{told:?}");
    let clients = server.clients("?count=10").clients;
    let other = clients.iter().find(|client| client.page_url == "http://page/");
    assert_eq!(other.expect("a page").tc_url, "rtmp://v/live");
    drop(page);
    let answer = self::http(server.api, "DELETE", &format!("/api/v1/clients/{}", told.id), "");
    assert_eq!(answer.expect("an answer").status, 200);
    wait_until("it is gone", seconds(10), || player.ended());
    server.wait_players("live/a", 0);
    live.stop(End::Polite);
}

#[test]
fn players_over_http_are_let_in_as_those_of_rtmp_are() {
    let key = "play = true\nplay_key = [\"a-key-of-sixteen\"]";
    let (server, http) = start(Setup::new().section("tokens", key));
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    server.wait_live("live/a");
    assert_eq!(get(http, PATH), 403);
    assert_eq!(get(http, "/live/a.flv?token=another"), 403);
    assert_eq!(get(http, "/live/a.flv?token=a-key-of-sixteen"), 200);
    live.stop(End::Polite);

    let deny = "enabled = true\nallow_publish = [\"all\"]\ndeny_play = [\"127.0.0.1\"]";
    let (server, http) = start(Setup::new().section("security", deny));
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    server.wait_live("live/a");
    assert_eq!(get(http, PATH), 403);
    live.stop(End::Polite);

    let backend = HookServer::start();
    let (server, http) = start(Setup::new().section("hooks", &backend.all()));
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    server.wait_live("live/a");
    let player = Viewer::start(http, "/live/a.flv?x=1");
    wait_until("media", seconds(20), || player.count() > 20);
    let call = backend.wait("on_play", 1).remove(0).body;
    assert_eq!((&call["stream"], &call["param"]), (&"a".into(), &"?x=1".into()), "{call}");
    drop(player);
    backend.wait("on_stop", 1);
    let close = backend.wait("on_close", 1).remove(0).body;
    assert!(close["send_bytes"].as_u64() > Some(10_000), "{close}");
    backend.answer("on_play", Reply::Say(200, "1".to_owned()));
    assert_eq!(get(http, PATH), 403);
    live.stop(End::Polite);
}

#[test]
fn a_publisher_that_comes_back_in_time_goes_on_for_those_who_wait() {
    let (server, http) = start(Setup::new().publish("grace = \"20s\""));
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    server.wait_live("live/a");
    let player = Viewer::start(http, PATH);
    live.wait_more(20);
    let mut sent = live.stop(End::Abrupt);
    let before = sent.len();
    // One that comes meanwhile waits too.
    let waiting = Viewer::start(http, PATH);
    let again = Synthetic { start: 60_000, ..Synthetic::default() };
    let live = Live::start(server.rtmp, "live/a", again);
    live.wait_more(60);
    sent.extend(live.stop(End::Polite));
    let got = player.until_last(&sent, seconds(20));
    assert_same_sequence("who was there", &sent, &got, Start::Keyframe);
    assert_eq!(waiting.kinds(), 5);
    let got = waiting.until_last(&sent, seconds(20));
    assert_same_sequence("who came meanwhile", &sent[before..], &got, Start::First);
}

#[test]
fn an_edge_pulls_for_players_over_http_and_stops_when_they_have_gone() {
    let origin = Setup::new().start();
    let (edge, http) = start(Setup::new().edge_of(&[origin.rtmp]).splice("auto"));
    let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
    origin.wait_live("live/a");
    live.wait_more(10);
    let players: Vec<_> = (0..3).map(|_| Viewer::start(http, PATH)).collect();
    wait_until("media", seconds(20), || players.iter().all(|player| player.count() > 30));
    assert_eq!(edge.status().pulls.len(), 1);
    assert_eq!(origin.stream("live/a").map(|stream| stream.players), Some(1));
    let sent = live.sent();
    let last = sent.iter().rfind(|tag| tag.is_frame()).expect("frames").clone();
    for player in players {
        assert_eq!(player.kinds(), 5);
        let mut got = player.until_last(&sent, seconds(20));
        let end = got.iter().rposition(|tag| *tag == last).expect("the last one");
        got.truncate(end + 1);
        assert_same_sequence("through the edge", &sent, &got, Start::Keyframe);
        assert_headers_once("through the edge", &sent, &got);
    }
    wait_until("the pull ends", seconds(20), || edge.status().pulls.is_empty());
    let player = Viewer::start(http, PATH);
    live.stop(End::Polite);
    wait_until("the end", seconds(30), || player.ended());
}

#[test]
fn what_no_origin_has_is_not_found_on_an_edge() {
    let origin = Setup::new().start();
    let edge = Setup::new().edge_of(&[origin.rtmp]).edge("failover_timeout = \"1s\"");
    let (edge, http) = start(edge);
    assert_eq!(get(http, PATH), 404);
    wait_until("the pull ends", seconds(20), || edge.status().pulls.is_empty());
    let setup = Setup::new().edge_of(&[free_address()]).edge("failover_timeout = \"1s\"");
    let (_edge, http) = start(setup);
    assert_eq!(get(http, PATH), 404);
}

/// A publisher of `n` audio messages.
fn audio(peer: &mut Peer, times: std::ops::Range<u32>) -> Vec<Tag> {
    let tag = |time| Tag { kind: AUDIO, timestamp: time * 23, body: vec![0x2f, time as u8, 7] };
    let tags: Vec<_> = times.map(tag).collect();
    tags.iter().for_each(|tag| peer.send(tag).expect("sent"));
    tags
}

#[test]
fn a_stream_begins_with_what_is_in_it() {
    let (server, http) = start(Setup::new());
    let mut peer = Peer::publish(server.rtmp, "live/radio");
    audio(&mut peer, 0..200);
    server.wait_live("live/radio");
    wait_until("audio", seconds(10), || {
        server.stream("live/radio").is_some_and(|s| s.received_bytes >= 600)
    });
    let radio = Viewer::start(http, "/live/radio.flv");
    wait_until("it has joined", seconds(20), || radio.kinds() != 0);
    assert_eq!(radio.kinds(), 4, "audio alone");
    let sent = audio(&mut peer, 200..300);
    let got = radio.until_last(&sent, seconds(20));
    assert_eq!(got, sent, "from the live edge on");

    let mute = "guess_has_av = false\nhas_audio = false";
    let (server, http) = start(Setup::new().http_remux(mute));
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    server.wait_live("live/a");
    let player = Viewer::start(http, PATH);
    wait_until("video", seconds(20), || player.count() > 30);
    assert_eq!(player.kinds(), 1);
    let sent = live.stop(End::Polite);
    let video: Vec<_> = sent.into_iter().filter(|tag| tag.kind != AUDIO).collect();
    let got = player.until_last(&video, seconds(20));
    assert!(got.iter().all(|tag| tag.kind != AUDIO));
    assert_same_sequence("without audio", &video, &got, Start::Keyframe);
    assert!(got.iter().any(|tag| tag.kind == VIDEO && tag.is_header()));
}

#[test]
fn requests_are_answered_as_browsers_and_proxies_expect() {
    let (server, http) = start(Setup::new());
    let live = Live::start(server.rtmp, "live/\u{6d41}", Synthetic::default());
    server.wait_live("live/\u{6d41}");
    let path = "/live/%E6%B5%81.flv";
    let page = ask(http, &format!("GET {path} HTTP/1.0\r\n\r\n"));
    assert_eq!(page.status, 200);
    for (name, value) in [
        ("Connection", "close"),
        ("Cache-Control", "no-store"),
        ("X-Accel-Buffering", "no"),
        ("Access-Control-Allow-Origin", "*"),
    ] {
        assert_eq!(page.field(name), Some(value), "{}", page.head);
    }
    assert!(page.field("Content-Length").or(page.field("Transfer-Encoding")).is_none());
    let page = ask(http, &format!("HEAD {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    assert_eq!((page.status, page.field("content-type")), (200, Some("video/x-flv")));
    assert_eq!(page.body(), b"");
    let page = ask(http, "HEAD /live/b.flv HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((page.status, page.body()), (404, Vec::new()));
    let page = ask(http, &format!("OPTIONS {path} HTTP/1.1\r\nHost: h\r\nOrigin: o\r\n\r\n"));
    assert_eq!((page.status, page.field("content-length")), (200, Some("0")));
    assert!(page.field("access-control-allow-methods").is_some());
    let page = ask(http, "GET /live/b.flv HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(page.field("Access-Control-Allow-Origin"), Some("*"), "a page sees why");
    assert_eq!(page.body(), b"nobody publishes this stream\n");
    live.stop(End::Polite);
}

#[test]
fn garbage_is_refused_and_told() {
    let (server, http) = start(Setup::new());
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    server.wait_live("live/a");
    let player = Viewer::start(http, PATH);
    let many = "a: b\r\n".repeat(100);
    let cases = [
        ("\x03\0\0\0\0\0\0\0\0".to_owned(), 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\x7c\r\n\r\n".to_owned(), 400),
        ("GET /live/a.flv\r\n\r\n".to_owned(), 400),
        ("GET /live/a.flv HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /live/a.flv HTTP/1.1\r\nHost: a b\x01\r\n\r\n".to_owned(), 400),
        ("GET /live/..%2f..%2fetc.flv HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET live/a.flv HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
        (format!("GET /{}.flv HTTP/1.1\r\nHost: h\r\n\r\n", "a/".repeat(5000)), 431),
        (format!("GET /live/a.flv HTTP/1.1\r\nHost: h\r\n{many}\r\n"), 431),
        ("POST /live/a.flv HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nlet me in".into(), 405),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 404),
        ("GET /live/a.m3u8 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 404),
        ("GET /live/a HTTP/1.1".to_owned(), 408),
    ];
    thread::scope(|scope| {
        for (request, status) in &cases {
            scope.spawn(move || {
                assert_eq!(ask(http, request).status, *status, "{:.60}", request);
            });
        }
    });
    let log = server.log();
    let told = log.lines().filter(|line| line.contains("refused over HTTP")).count();
    assert_eq!(told, cases.len(), "{log}");
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(20));
    assert_same_sequence("the player", &sent, &got, Start::Keyframe);
}

#[test]
fn a_server_that_stops_gives_players_what_is_left_and_the_end() {
    let (mut server, http) = start(Setup::new());
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    server.wait_live("live/a");
    let player = Viewer::start(http, PATH);
    wait_until("media", seconds(20), || player.count() > 30);
    server.signal(Signal::SIGTERM);
    wait_until("the end", seconds(20), || player.ended());
    wait_until("it has stopped", seconds(20), || !server.is_running());
    assert_whole_messages("the player", &live.sent(), &player.tags());
}

#[test]
fn a_vhost_is_named_by_the_host_or_by_a_parameter_and_an_app_may_have_slashes() {
    let (rtmp, api, http) = (free_address(), free_address(), free_address());
    let config = format!(
        "listen = [\"{rtmp}\"]\n[http_api]\nenabled = true\nlisten = \"{api}\"\n\
         [http_server]\nenabled = true\nlisten = \"{http}\"\n\
         [[vhost]]\nname = \"__defaultVhost__\"\n\
         [[vhost]]\nname = \"v.test\"\n[vhost.http_remux]\nenabled = true\n"
    );
    let server = Server::start("v.toml", &config, rtmp, api);
    let publish = |host| {
        let path = "a/b/\u{6d41}/s";
        let peer = Peer::open_at(server.rtmp, host, Goal::Publish, path).started();
        Live::of(peer, Synthetic::default(), 0)
    };
    let both = [publish("other"), publish("v.test")];
    wait_until("both are live", seconds(10), || {
        server.status().streams.iter().filter(|stream| stream.state == "live").count() == 2
    });
    let path = "/a/b/%E6%B5%81/s.flv";
    for (target, host, status) in [
        (path.to_owned(), "v.test:8080", 200),
        (format!("{path}?vhost=v.test"), "other", 200),
        (format!("http://v.test{path}"), "other", 200),
        (path.to_owned(), "other", 404),
        ("/a/b%2F%E6%B5%81/s.flv".to_owned(), "v.test", 400),
    ] {
        let page = ask(http, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(page.status, status, "{target} at {host}: {}", page.head);
    }
    for live in both {
        live.stop(End::Polite);
    }
}

#[test]
fn players_over_http_count_among_the_connections() {
    let (server, http) = start(Setup::new().global("max_connections = 2"));
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    server.wait_live("live/a");
    let player = Viewer::start(http, PATH);
    let mut third = TcpStream::connect(http).expect("connect");
    third.set_read_timeout(Some(seconds(10))).expect("socket option");
    let said = third.read(&mut [0; 16]);
    assert!(!matches!(said, Ok(1..)), "{said:?}");
    drop(player);
    server.wait_players("live/a", 0);
    let player = Viewer::start(http, PATH);
    wait_until("media", seconds(20), || player.count() > 20);
    live.stop(End::Polite);
}
