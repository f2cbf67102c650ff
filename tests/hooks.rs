//! HTTP hooks: backends are asked and told in SRS's words, and what they do wrong hurts nobody who is
//! in.
mod common;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::compare::{Start, assert_same_sequence};
use common::external::Player;
use common::hook_server::{Call, HookServer, Reply};
use common::media::Synthetic;
use common::peer::{End, Live, Peer, Recorder, Seen};
use common::server::{Server, Setup, http_get};
use common::sink::Sink;
use common::tls::{Authority, Tunnel};
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::session::Goal;
use serde_json::{Value, json};

fn with_hooks(hooks: &str) -> Server {
    Setup::new().section("hooks", hooks).start()
}

/// Whether the server takes it; if not, what it said.
#[track_caller]
fn outcome(mut peer: Peer) -> Result<(), String> {
    loop {
        match peer.next(seconds(20)) {
            Some(Seen::Started) => return Ok(()),
            Some(Seen::Status(code)) if code == "NetStream.Play.Reset" => {}
            Some(seen) => return Err(format!("{seen:?}")),
            None => panic!("no answer"),
        }
    }
}

/// The body without what is drawn or counted, which is given beside it.
fn known(call: &Call, drawn: &[&str]) -> (Value, Vec<Value>) {
    let mut body = call.body.clone();
    let object = body.as_object_mut().expect("an object");
    let taken = drawn.iter().map(|key| object.remove(*key).unwrap_or_default()).collect();
    (body, taken)
}

#[test]
fn each_hook_has_srs_s_fields_and_comes_in_order() {
    let backend = HookServer::start();
    let mut server = with_hooks(&backend.all());
    let live = Live::start(server.rtmp, "live/cam?token=abc&x=1", Synthetic::default());
    live.wait_more(60);
    let (_, versions) = ask(&server, "/api/v1/versions");
    let streams = ask(&server, "/api/v1/streams").1;
    let id = ask(&server, "/api/v1/clients").1["clients"][0]["id"].clone();
    let tc_url = format!("rtmp://{}/live", server.rtmp);
    let base = |action: &str| {
        json!({
            "server_id": versions["server"], "service_id": versions["service"], "action": action,
            "ip": "127.0.0.1", "vhost": "__defaultVhost__", "app": "live",
        })
    };
    let with = |action: &str, more: Value| joined(base(action), &more);
    let publisher = json!({
        "client_id": id, "tcUrl": tc_url, "stream": "cam", "param": "?token=abc&x=1",
    });
    let named = json!({
        "stream_url": "/live/cam", "stream_id": streams["streams"][0]["id"],
    });
    let of_publish = joined(publisher.clone(), &named);
    let mut of_connect = publisher;
    of_connect["pageUrl"] = json!("");
    let calls = backend.calls();
    let names: Vec<&str> = calls.iter().map(|call| &*call.action).collect();
    assert_eq!(names, ["on_connect", "on_publish"]);
    assert_eq!(calls[0].body, with("on_connect", of_connect));
    assert_eq!(calls[1].body, with("on_publish", of_publish.clone()));
    assert_eq!(calls[0].headers["content-type"], "application/json");
    assert!(calls[0].headers["user-agent"].to_str().unwrap().starts_with("forwarder/"));

    // A player on a page, which is FFmpeg.
    let player = Player::ffmpeg_on_page(
        server.dir(),
        &server.url("live/cam?who=me"),
        "http://www.example.com/live.html",
    );
    backend.wait("on_play", 1);
    server.wait_players("live/cam", 1);
    live.wait_more(60);
    drop(player);
    backend.wait("on_stop", 1);
    backend.wait("on_close", 1);
    let calls = backend.calls();
    let names: Vec<&str> = calls[2..].iter().map(|call| &*call.action).collect();
    assert_eq!(names, ["on_connect", "on_play", "on_stop", "on_close"]);
    let page = json!("http://www.example.com/live.html");
    let player = known(&calls[2], &["client_id"]);
    let mut of_play = named;
    for (key, value) in
        [("tcUrl", json!(tc_url)), ("stream", json!("cam")), ("param", json!("?who=me"))]
    {
        of_play[key] = value;
    }
    let mut connect = of_play.clone();
    for key in ["stream_url", "stream_id"] {
        connect.as_object_mut().unwrap().remove(key);
    }
    connect["pageUrl"] = page.clone();
    assert_eq!(player.0, with("on_connect", connect));
    assert_eq!(
        known(&calls[4], &["client_id"]),
        (with("on_stop", of_play.clone()), player.1.clone())
    );
    of_play["pageUrl"] = page;
    assert_eq!(known(&calls[3], &["client_id"]), (with("on_play", of_play), player.1.clone()));
    let (close, taken) = known(&calls[5], &["client_id", "send_bytes", "recv_bytes"]);
    assert_eq!((close, &taken[0]), (base("on_close"), &player.1[0]));
    assert!(taken[1].as_u64() > Some(100_000), "sent {}", taken[1]);
    assert!(taken[2].as_u64() > Some(3_000), "received {}", taken[2]);

    // Who is there when the server stops is told of too.
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    assert_eq!(backend.wait("on_unpublish", 1)[0].body, with("on_unpublish", of_publish));
    let close = backend.wait("on_close", 2).remove(1).body;
    assert_eq!(close["client_id"], id);
    assert!(close["recv_bytes"].as_u64() > Some(100_000), "{close}");
    let log = server.log();
    assert!(!log.contains("hush") && !log.contains("abc"), "keys in the log:\n{log}");
}

/// One object of two.
fn joined(mut one: Value, other: &Value) -> Value {
    let other = other.as_object().expect("an object").clone();
    one.as_object_mut().expect("an object").extend(other);
    one
}

fn ask(server: &Server, path: &str) -> (String, Value) {
    let text = http_get(server.api, path).expect(path);
    let value = serde_json::from_str(&text).expect("JSON");
    (text, value)
}

#[test]
fn what_a_backend_does_wrong_turns_newcomers_away_and_disturbs_nobody_else() {
    let address = free_address();
    let backend = HookServer::start_at(address);
    let server = with_hooks(&format!("{}timeout = \"3s\"\n", backend.all()));
    let live = Live::start(server.rtmp, "live/old", Synthetic::default());
    let player = Recorder::start(server.rtmp, "live/old");
    let publish = |name: &str| Peer::open(server.rtmp, Goal::Publish, &format!("live/{name}"));
    let play = || Peer::open(server.rtmp, Goal::Play, "live/old");

    let say = |status, body: &str| Reply::Say(status, body.to_owned());
    let faults = [
        ("slow", Reply::Hang),
        ("broken", say(500, "0")),
        ("no", say(200, "{\"code\":1}")),
        ("forbidden", say(403, "0")),
        ("a page", say(200, "<html>")),
        ("endless", say(200, &"0".repeat(65 << 10))),
    ];
    let mut n = 0;
    for (what, fault) in faults {
        for hook in ["on_connect", "on_publish", "on_play"] {
            n += 1;
            backend.accept_all();
            backend.answer(hook, fault.clone());
            let (publisher, second) = (publish(&format!("new{n}")), play());
            let (published, played) = (outcome(publisher), outcome(second));
            let label = format!("{hook} {what}: {published:?} {played:?}");
            assert_eq!(published.is_err(), hook != "on_play", "{label}");
            assert_eq!(played.is_err(), hook != "on_publish", "{label}");
            if let Err(said) = published {
                assert!(said.contains("NetStream.Publish.Denied"), "{label}");
            }
            if let Err(said) = played {
                assert!(said.contains("NetStream.Play.Failed"), "{label}");
            }
        }
    }
    drop(backend);
    let both_are_refused = |what: &str| {
        let (publisher, second) = (publish(what), play());
        let (published, played) = (outcome(publisher), outcome(second));
        assert!(published.is_err() && played.is_err(), "{what}: {published:?} {played:?}");
    };
    both_are_refused("down");
    let garbage = Garbage::start(address);
    both_are_refused("garbage");
    drop(garbage);
    let backend = HookServer::start_at(address);
    assert_eq!(outcome(publish("again")), Ok(()), "the backend is back");
    assert_eq!(outcome(play()), Ok(()));

    live.wait_more(30);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("the player that was there", &sent, &got, Start::Keyframe);
    let hooks = server.status().totals.hooks;
    assert!(hooks.asked > 40 && hooks.failed >= 8 && hooks.refused >= 24, "{hooks:?}");
    let log = server.log();
    for why in ["code 1", "HTTP status 403", "HTTP status 500", "no answer within 3s"] {
        let line = log.lines().find(|line| line.contains(why) && line.contains("refused"));
        let line = line.unwrap_or_else(|| panic!("no line about {why}:\n{log}"));
        assert!(line.contains("127.0.0.1:") && line.contains("/live/"), "who and what: {line}");
    }
    let page = http_get(server.api, "/metrics").expect("metrics");
    assert!(page.contains(&format!("forwarder_hook_refusals_total {}\n", hooks.refused)), "{page}");
    drop(backend);
}

/// Answers whatever is said with what is no HTTP.
struct Garbage {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Garbage {
    fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the address");
        listener.set_nonblocking(true).expect("socket option");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut socket, _)) => drop(socket.write_all(b"\x16\x03\x01 nonsense\r\n\r\n")),
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Garbage {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

#[test]
fn a_backend_that_is_away_may_let_all_in_but_one_that_says_no_does_not() {
    let address = free_address();
    let url = format!("http://{address}/");
    let server = with_hooks(&format!(
        "enabled = true\non_failure = \"allow\"\non_publish = \"{url}\"\non_play = [\"{url}\"]\n"
    ));
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    assert_eq!(outcome(Peer::open(server.rtmp, Goal::Play, "live/a")), Ok(()));
    let backend = HookServer::start_at(address);
    for reply in [Reply::Say(200, "1".into()), Reply::Say(401, String::new())] {
        backend.answer("on_play", reply);
        let said = outcome(Peer::open(server.rtmp, Goal::Play, "live/a"));
        assert!(said.is_err_and(|said| said.contains("NetStream.Play.Failed")));
    }
    live.wait_more(10);
    live.stop(End::Polite);
}

#[test]
fn all_of_a_list_have_to_say_yes() {
    let (first, second) = (HookServer::start(), HookServer::start());
    let urls = format!("[\"{}\", \"{}\"]", first.url(), second.url());
    let server = with_hooks(&format!(
        "enabled = true\non_publish = {urls}\non_unpublish = {urls}\n\
         on_connect = {urls}\non_close = {urls}"
    ));
    let asked = || [&first, &second].map(|backend| backend.of("on_publish").len());
    second.answer("on_publish", Reply::Say(200, "{\"code\": 7}".into()));
    assert!(outcome(Peer::open(server.rtmp, Goal::Publish, "live/a")).is_err());
    assert_eq!(asked(), [1, 1]);
    first.answer("on_publish", Reply::Say(200, "2".into()));
    assert!(outcome(Peer::open(server.rtmp, Goal::Publish, "live/a")).is_err());
    assert_eq!(asked(), [2, 1], "who comes after is not asked");
    first.accept_all();
    second.accept_all();
    // Whoever connected closes, also if somebody said no; a publish that was refused has no end.
    second.answer("on_connect", Reply::Say(200, "1".into()));
    assert!(outcome(Peer::open(server.rtmp, Goal::Publish, "live/a")).is_err());
    for backend in [&first, &second] {
        backend.wait("on_close", 3);
    }
    second.accept_all();
    assert_eq!(outcome(Peer::open(server.rtmp, Goal::Publish, "live/a")), Ok(()));
    for backend in [first, second] {
        backend.wait("on_close", 4);
        backend.wait("on_unpublish", 1);
    }
}

#[test]
fn whoever_was_let_in_is_told_to_have_gone() {
    let backend = HookServer::start();
    let server = with_hooks(&backend.all());
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    // The stream is taken, as shows only after the backend has let it in.
    let said = outcome(Peer::open(server.rtmp, Goal::Publish, "live/a"));
    assert!(said.is_err_and(|said| said.contains("NetStream.Publish.BadName")));
    let asked = backend.wait("on_publish", 2);
    let told = backend.wait("on_unpublish", 1);
    assert_eq!(told[0].body["client_id"], asked[1].body["client_id"]);
    assert_ne!(told[0].body["client_id"], asked[0].body["client_id"]);

    // One that leaves while the backend thinks.
    backend.answer("on_publish", Reply::Hold);
    let peer = Peer::open(server.rtmp, Goal::Publish, "live/b");
    let gone = pumped(peer, || backend.of("on_publish").len() == 3);
    drop(gone);
    wait_until("it is gone", seconds(10), || server.status().connections == 1);
    assert_eq!(backend.of("on_unpublish").len(), 1, "it was not let in yet");
    backend.release();
    let (told, closed) = (backend.wait("on_unpublish", 2), backend.wait("on_close", 2));
    let id = &backend.of("on_publish")[2].body["client_id"];
    assert_eq!((&told[1].body["client_id"], &closed[1].body["client_id"]), (id, id));
    let last: Vec<String> = backend.calls().into_iter().rev().take(2).map(|it| it.action).collect();
    assert_eq!(last, ["on_close", "on_unpublish"]);

    // And one that stops and begins again.
    backend.accept_all();
    let mut peer = Peer::play(server.rtmp, "live/a");
    peer.finish();
    backend.wait("on_stop", 1);
    drop(peer);
    live.wait_more(20);
    live.stop(End::Abrupt);
    let told = backend.wait("on_unpublish", 3);
    assert_eq!(told[2].body["client_id"], asked[0].body["client_id"]);
    let ids = |action: &str| {
        let mut ids: Vec<String> =
            backend.of(action).iter().map(|call| call.body["client_id"].to_string()).collect();
        ids.sort();
        ids
    };
    wait_until("all are told of", seconds(10), || ids("on_connect") == ids("on_close"));
    assert_eq!(ids("on_publish"), ids("on_unpublish"));
    assert_eq!(ids("on_play"), ids("on_stop"));
}

/// Lets `peer` speak until `done`.
#[track_caller]
fn pumped(mut peer: Peer, mut done: impl FnMut() -> bool) -> Peer {
    wait_until("the client has said it", seconds(10), || {
        peer.pump(std::time::Duration::from_millis(10));
        done()
    });
    peer
}

#[test]
fn an_edge_asks_for_its_clients_and_servers_do_not_ask_for_themselves() {
    let (of_origin, of_edge) = (HookServer::start(), HookServer::start());
    let slave = Setup::new().start();
    let origin = Setup::new().forward_to(&[slave.rtmp]).section("hooks", &of_origin.all()).start();
    let edge = Setup::new().edge_of(&[origin.rtmp]).section("hooks", &of_edge.all()).start();
    let live = Live::start(edge.rtmp, "live/a", Synthetic::default());
    // The relay is a client of the origin, and of it alone.
    assert_eq!(of_edge.wait("on_publish", 1)[0].body["stream"], "a");
    of_origin.wait("on_publish", 1);
    slave.wait_live("live/a");
    let player = Recorder::start(edge.rtmp, "live/a");
    of_edge.wait("on_play", 1);
    of_edge.answer("on_play", Reply::Say(200, "1".into()));
    let said = outcome(Peer::open(edge.rtmp, Goal::Play, "live/a"));
    assert!(said.is_err_and(|said| said.contains("NetStream.Play.Failed")));
    of_edge.answer("on_publish", Reply::Say(200, "1".into()));
    let said = outcome(Peer::open(edge.rtmp, Goal::Publish, "live/b"));
    assert!(said.is_err_and(|said| said.contains("NetStream.Publish.Denied")));
    assert_eq!(of_origin.of("on_publish").len(), 1, "the origin saw nothing of it");
    live.wait_more(30);
    // Once the publisher is gone the edge looks for the stream at its origin.
    assert_eq!(of_origin.of("on_play").len(), 0);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("the edge's player", &sent, &got, Start::Keyframe);
    of_edge.wait("on_unpublish", 1);
    of_origin.wait("on_unpublish", 1);
}

#[test]
fn hooks_of_an_srs_conf_are_asked() {
    let backend = HookServer::start();
    let (rtmp, api) = (free_address(), free_address());
    let config = format!(
        "listen {rtmp}; http_api {{ enabled on; listen {api}; }}\n\
         vhost __defaultVhost__ {{ http_hooks {{ enabled on; on_publish {url}; on_unpublish {url}; \
         on_play {url}; }} }}\n",
        url = backend.url()
    );
    let server = Server::start("srs.conf", &config, rtmp, api);
    backend.answer("on_play", Reply::Say(200, "{\"code\":403}".into()));
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    assert!(outcome(Peer::open(server.rtmp, Goal::Play, "live/a")).is_err());
    live.stop(End::Polite);
    backend.wait("on_unpublish", 1);
}

#[test]
fn an_answer_without_an_end_or_from_elsewhere_is_none() {
    let (backend, other) = (HookServer::start(), HookServer::start());
    let url = backend.url();
    let server = with_hooks(&format!(
        "enabled = true\ntimeout = \"1s\"\non_publish = \"{url}\"\non_unpublish = \"{url}\"\n"
    ));
    let live = Live::start(server.rtmp, "live/old", Synthetic::default());
    let publish = |name: &str| outcome(Peer::open(server.rtmp, Goal::Publish, name));
    let (now, slow) = (seconds(0), std::time::Duration::from_millis(50));
    for (name, reply, why) in [
        ("live/drips", Reply::Pour("0", slow), "no answer within 1s"),
        ("live/pours", Reply::Pour("00000000", now), "length limit exceeded"),
        ("live/leads", Reply::Redirect(other.url()), "HTTP status 307"),
        ("live/empty", Reply::Say(204, String::new()), "HTTP status 204"),
    ] {
        backend.answer("on_publish", reply);
        let said = publish(name);
        assert!(said.is_err_and(|said| said.contains("NetStream.Publish.Denied")), "{name}");
        let log = server.log();
        let is_it = |line: &&str| line.contains(&format!("/{name}:")) && line.contains(why);
        assert!(log.lines().any(|line| is_it(&line)), "{name}: no {why} in\n{log}");
    }
    // SRS looks at no type either.
    backend.answer("on_publish", Reply::Typed("text/html", "0"));
    assert_eq!(publish("live/typed"), Ok(()));
    assert_eq!(other.calls().len(), 0, "nobody is led there");
    live.wait_more(20);
    live.stop(End::Polite);
    let hooks = server.status().totals.hooks;
    assert_eq!((hooks.failed, hooks.refused), (2, 4), "{hooks:?}");
}

#[test]
fn backends_with_tls_are_asked_if_they_are_who_they_say() {
    let (authority, backend) = (Authority::new(), HookServer::start());
    let slave = Sink::start(free_address());
    let dir = tempfile::tempdir().expect("a folder");
    let good = authority.certify("good", "DNS:localhost");
    let wrong = authority.certify("wrong", "DNS:other.example");
    let own = authority.own();
    let good = Tunnel::before(dir.path(), backend.address, &good);
    let wrong = Tunnel::before(dir.path(), backend.address, &wrong);
    let own = Tunnel::before(dir.path(), backend.address, &own);
    let urls =
        format!("{{\"code\":0,\"data\":{{\"urls\":[\"rtmp://{}/live/b\"]}}}}", slave.address);
    backend.answer("on_forward", Reply::Say(200, urls));
    let with = |tls: &str, port: u16| {
        let url = format!("https://localhost:{port}/hook?key=hush");
        let hooks = format!("enabled = true\non_publish = \"{url}\"\non_unpublish = \"{url}\"");
        let setup = Setup::new().global(tls).forward(&format!("backend = \"{url}\""));
        setup.section("hooks", &hooks).start()
    };
    let ca = format!("[tls]\nca = \"{}\"", authority.cert().display());
    let insecure = format!("[tls]\ninsecure = [\"https://localhost:{}\"]", wrong.address.port());
    for (what, tls, port, why) in [
        ("nobody vouches for it", "", good.address.port(), "authority"),
        ("it is another", &*ca, wrong.address.port(), "not valid for name"),
        ("it is an authority", &*ca, own.address.port(), "CA:TRUE"),
        ("it has no TLS", &*ca, backend.address.port(), "does not speak TLS"),
    ] {
        let server = with(tls, port);
        let said = outcome(Peer::open(server.rtmp, Goal::Publish, "live/a"));
        assert!(said.is_err_and(|said| said.contains("NetStream.Publish.Denied")), "{what}");
        let log = server.log();
        assert!(log.lines().any(|l| l.contains("refused") && l.contains(why)), "{what}: {log}");
    }
    assert_eq!(backend.calls().len(), 0, "nobody was told anything");
    for (n, (tls, port)) in
        [(&*ca, good.address.port()), (&*insecure, wrong.address.port())].into_iter().enumerate()
    {
        let server = with(tls, port);
        let live = Live::start(server.rtmp, "live/a", Synthetic::default());
        let before = slave.count();
        wait_until("it is forwarded", seconds(20), || slave.count() > before + 10);
        live.stop(End::Polite);
        let told = backend.wait("on_unpublish", n + 1);
        assert_eq!(told[n].headers["host"], format!("localhost:{port}"));
        assert!(!server.log().contains("hush"), "{}", server.log());
    }
}
