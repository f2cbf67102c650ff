//! A backend says where streams go; whatever it does, no publisher waits for it.
mod common;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use common::compare::{Start, assert_headers_once, assert_same_sequence};
use common::media::Synthetic;
use common::peer::{End, Live, Peer, Seen};
use common::server::{Server, Setup, http};
use common::sink::{Received, Sink};
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::session::{Goal, SessionError};
use forwarder::status::ForwardStatus;
use serde_json::Value;

/// What a backend does with a question.
#[derive(Clone, Debug)]
enum Answer {
    /// 200 with this body.
    Says(String),
    /// This status.
    Status(u16),
    /// Nothing.
    Hangs,
    /// As much as is taken.
    Floods,
}

impl Answer {
    fn urls(urls: &[String]) -> Self {
        let list: Vec<String> = urls.iter().map(|url| format!("\"{url}\"")).collect();
        Self::Says(format!("{{\"code\":0,\"data\":{{\"urls\":[{}]}}}}", list.join(",")))
    }
}

/// A backend that answers by the name of the stream.
struct Backend {
    address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Backend {
    fn start() -> Self {
        Self::at(free_address())
    }

    fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("bind");
        let (answers, asked) = (Arc::default(), Arc::default());
        let backend = Self { address, answers: Arc::clone(&answers), asked: Arc::clone(&asked) };
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { return };
                let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
                std::thread::spawn(move || drop(answer(socket, &answers, &asked)));
            }
        });
        backend
    }

    fn says(&self, stream: &str, answer: Answer) {
        self.answers.lock().expect("nobody panicked").insert(stream.to_owned(), answer);
    }

    /// What was asked of `stream`, so far.
    fn asked(&self, stream: &str) -> Vec<Value> {
        let asked = self.asked.lock().expect("nobody panicked");
        asked.iter().filter(|body| body["stream"] == stream).cloned().collect()
    }

    fn url(&self) -> String {
        format!("http://{}/api/v1/forward?key=hush-hush", self.address)
    }
}

fn answer(
    socket: TcpStream,
    answers: &Mutex<HashMap<String, Answer>>,
    asked: &Mutex<Vec<Value>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let lower = line.to_lowercase();
        if let Some(n) = lower.strip_prefix("content-length:") {
            length = n.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let stream = body["stream"].as_str().expect("a stream").to_owned();
    asked.lock().expect("nobody panicked").push(body);
    let answer = answers
        .lock()
        .expect("nobody panicked")
        .get(&stream)
        .cloned()
        .unwrap_or(Answer::Status(404));
    let mut socket = socket;
    match answer {
        Answer::Says(text) => write!(
            socket,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        ),
        Answer::Status(code) => {
            write!(socket, "HTTP/1.1 {code} No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        }
        Answer::Hangs => {
            // Until we are given up.
            reader.read_exact(&mut [0])
        }
        Answer::Floods => {
            write!(socket, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                socket.write_all(&[b' '; 4096])?;
            }
        }
    }
}

fn forwards(server: &Server, path: &str) -> Vec<ForwardStatus> {
    server.stream(path).map(|stream| stream.forwards).unwrap_or_default()
}

fn refresh(server: &Server, query: &str) -> u64 {
    let path = format!("/api/v1/forwards/refresh{query}");
    let answer = http(server.api, "POST", &path, "").expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body).expect("JSON");
    body["asked"].as_u64().expect("how many")
}

#[track_caller]
fn only(sink: &Sink) -> Received {
    let received = sink.received();
    assert_eq!(received.len(), 1, "connections");
    received[0].clone()
}

#[test]
fn a_backend_adds_destinations_and_is_asked_again_on_demand() {
    let backend = Backend::start();
    let [always, first, second, by_name] = [(); 4].map(|()| Sink::start(free_address()));
    let to = |sink: &Sink, key: &str| format!("rtmp://{}/app/{key}?k=v", sink.address);
    backend.says("a", Answer::urls(&[to(&first, "key-of-a"), "http://not/rtmp".to_owned()]));
    backend.says("b", Answer::urls(&[]));
    let master = Setup::new()
        .forward(&format!(
            "destination = [\"{}\"]\nbackend = \"{}\"",
            always.address,
            backend.url()
        ))
        .start();
    let live = Live::start(master.rtmp, "live/a?token=x", Synthetic::default());
    let other = Live::start(master.rtmp, "live/b", Synthetic::default());
    wait_until("media", seconds(20), || first.count() > 30 && always.connections() == 2);

    // what SRS would ask
    let asked = backend.asked("a");
    assert_eq!(asked.len(), 1);
    for (field, want) in [
        ("action", "on_forward"),
        ("vhost", "__defaultVhost__"),
        ("app", "live"),
        ("stream", "a"),
        ("param", "?token=x"),
        ("ip", "127.0.0.1"),
        ("tcUrl", &format!("rtmp://{}/live", master.rtmp)),
    ] {
        assert_eq!(asked[0][field], want, "{field}");
    }
    let clients = master.clients("").clients;
    let client = clients.iter().find(|client| client.name == "a").expect("the publisher");
    assert_eq!(asked[0]["client_id"], client.id.as_str());
    let got = only(&first);
    assert_eq!((&*got.app, &*got.stream), ("app", "key-of-a?k=v"));
    let told = forwards(&master, "live/a");
    assert!(told.iter().any(|it| it.found_by == "backend" && it.state == "forwarding"), "{told:?}");
    assert_eq!(forwards(&master, "live/b").len(), 1, "the backend had nothing for it");

    // another answer, when we ask for it
    let name = format!("dns+localhost:{}", by_name.address.port());
    backend.says("a", Answer::urls(&[to(&second, "key-of-a"), name]));
    live.wait_more(20);
    assert_eq!(backend.asked("a").len(), 1, "once a publish");
    assert_eq!(refresh(&master, "?stream=live/none"), 0);
    assert_eq!(refresh(&master, "?stream=live/a"), 1);
    wait_until("the new ones", seconds(30), || second.count() > 20 && by_name.count() > 20);
    wait_until("the old one is told the end", seconds(20), || only(&first).unpublished);
    assert_eq!((backend.asked("a").len(), backend.asked("b").len()), (2, 1));

    let sent = live.stop(End::Polite);
    other.stop(End::Polite);
    wait_until("unpublished", seconds(10), || {
        [&always, &second, &by_name].iter().all(|sink| sink.is_done())
    });
    for sink in [&second, &by_name] {
        assert_same_sequence("found later", &sent, &only(sink).tags, Start::Keyframe);
        assert_headers_once("found later", &sent, &only(sink).tags);
    }
    let received = always.received();
    let got = received.iter().find(|it| it.stream == "a?token=x").expect("in any case");
    assert_same_sequence("the configured one", &sent, &got.tags, Start::First);
    let log = master.log();
    assert!(!log.contains("hush-hush") && !log.contains("key-of-a"), "a key is shown: {log}");
}

#[test]
fn a_backend_that_fails_hurts_no_publisher_and_is_asked_again() {
    let backend = Backend::start();
    let (always, later) = (Sink::start(free_address()), Sink::start(free_address()));
    let cases = [
        ("hangs", Answer::Hangs),
        ("status", Answer::Status(500)),
        ("missing", Answer::Status(404)),
        ("code", Answer::Says("{\"code\":1}".to_owned())),
        ("text", Answer::Says("it works!".to_owned())),
        ("zero", Answer::Says("0".to_owned())),
        ("flood", Answer::Floods),
    ];
    cases.iter().for_each(|(stream, answer)| backend.says(stream, answer.clone()));
    let master = Setup::new()
        .forward(&format!(
            "destination = [\"{}\"]\nbackend = \"{}\"\nbackend_timeout = \"500ms\"",
            always.address,
            backend.url()
        ))
        .start();
    let source = Synthetic { frame_bytes: 1000, ..Synthetic::default() };
    let lives = cases
        .each_ref()
        .map(|(stream, _)| (*stream, Live::start(master.rtmp, &format!("live/{stream}"), source)));
    wait_until("all have failed", seconds(30), || {
        let backends = master.status().backends;
        backends.len() == lives.len()
            && backends.iter().all(|it| !it.answered && !it.last_error.is_empty())
    });
    wait_until("all are forwarded", seconds(20), || always.connections() == lives.len());
    assert!(master.status().totals.backend_failures >= lives.len() as u64);
    // it is mended
    let url = format!("rtmp://{}/app/x", later.address);
    backend.says("hangs", Answer::urls(&[url]));
    wait_until("it is asked again", seconds(40), || later.count() > 10);
    let sent = lives.map(|(stream, live)| (stream, live.stop(End::Polite)));
    wait_until("unpublished", seconds(20), || always.is_done());
    let received = always.received();
    for (stream, sent) in &sent {
        let got = received.iter().find(|it| it.stream == *stream).expect("its connection");
        assert_same_sequence(stream, sent, &got.tags, Start::First);
    }
    let failures = master.log().matches("the backend has no answer").count();
    assert_eq!(failures, sent.len(), "one line each:\n{}", master.log());
}

#[test]
fn a_backend_that_is_new_takes_no_live_stream_away_and_is_asked_until_it_answers() {
    let (always, later) = (Sink::start(free_address()), Sink::start(free_address()));
    let (rtmp, down) = (free_address(), free_address());
    let statics = format!("destination = [\"{}\"]", always.address);
    let master = Setup::new().listen(rtmp).forward(&statics).start();
    let live = Live::start(master.rtmp, "live/a", Synthetic::default());
    wait_until("media", seconds(20), || always.count() > 10);
    // Its publisher was accepted before there was anybody to refuse it.
    let asks = format!(
        "{statics}\nbackend = \"http://{down}/\"\nbackend_failure = \"refuse\"\n\
         backend_timeout = \"500ms\""
    );
    master.reload_to(Setup::new().listen(rtmp).forward(&asks));
    wait_until("nobody answers", seconds(20), || master.status().totals.backend_failures > 1);
    let count = always.count();
    live.wait_more(20);
    wait_until("it goes on", seconds(20), || always.count() > count + 10);
    let backend = Backend::at(down);
    backend.says("a", Answer::urls(&[format!("rtmp://{}/app/x", later.address)]));
    assert_eq!(refresh(&master, "?stream=live/a"), 1);
    wait_until("the new one has it", seconds(20), || later.count() > 10);
    let sent = live.stop(End::Polite);
    wait_until("unpublished", seconds(10), || always.is_done() && later.is_done());
    assert_same_sequence("the configured one", &sent, &only(&always).tags, Start::First);
    assert_same_sequence("the new one", &sent, &only(&later).tags, Start::Keyframe);
}

#[track_caller]
fn assert_denied(peer: &mut Peer) {
    let told = peer.until_closed(seconds(20));
    let denied = told.iter().any(|seen| match seen {
        Seen::Failed(SessionError::Refused { code, .. }) => code == "NetStream.Publish.Denied",
        Seen::Status(code) => code == "NetStream.Publish.Denied",
        _ => false,
    });
    assert!(denied, "{told:?}");
}

#[test]
fn a_publisher_that_the_backend_must_know_is_closed_without_an_answer() {
    let backend = Backend::start();
    let sink = Sink::start(free_address());
    let to_sink = Answer::urls(&[format!("rtmp://{}/app/x", sink.address)]);
    backend.says("no", Answer::Says("{\"code\":1}".to_owned()));
    backend.says("hangs", Answer::Hangs);
    backend.says("yes", to_sink.clone());
    let master = Setup::new()
        .publish("grace = \"10s\"")
        .forward(&format!(
            "destination = [\"{}\"]\nbackend = \"{}\"\nbackend_failure = \"refuse\"\n\
             backend_timeout = \"500ms\"",
            sink.address,
            backend.url()
        ))
        .start();
    for stream in ["no", "hangs"] {
        let mut peer = Peer::publish(master.rtmp, &format!("live/{stream}"));
        Synthetic::default().preamble().iter().for_each(|tag| peer.send(tag).expect("send"));
        assert_denied(&mut peer);
        wait_until("it is not live", seconds(10), || !master.is_live(&format!("live/{stream}")));
    }
    assert_eq!(sink.connections(), 0, "no answer, no forward");
    // the name is free at once, and the answer counts
    backend.says("no", to_sink);
    let live = Live::start(master.rtmp, "live/no", Synthetic::default());
    wait_until("it is forwarded", seconds(20), || {
        let received = sink.received();
        received.len() == 2 && received.iter().all(|it| it.tags.len() > 10)
    });
    // what worked is not ended by a failure later on
    backend.says("no", Answer::Status(500));
    assert_eq!(refresh(&master, "?stream=live/no"), 1);
    wait_until("it fails", seconds(20), || {
        let backends = master.status().backends;
        backends.iter().any(|it| it.stream == "no" && it.answered && !it.last_error.is_empty())
    });
    live.wait_more(30);
    assert_eq!(forwards(&master, "live/no").len(), 2, "the last answer holds");
    live.stop(End::Polite);
    // and one whose peer is not closed by a refusal that came late
    let peer = Peer::open(master.rtmp, Goal::Publish, "live/yes").started();
    Live::of(peer, Synthetic::default(), 0).stop(End::Polite);
}

#[test]
fn a_stream_that_comes_by_a_forward_is_not_asked_for_again() {
    let backend = Backend::start();
    let [a, b, c] = [(); 3].map(|()| free_address());
    // It names all of them, whoever asks.
    backend.says("a", Answer::urls(&[a, b, c].map(|at| at.to_string())));
    let text = format!("backend = \"{}\"\nbackend_interval = \"200ms\"", backend.url());
    let start = |at: SocketAddr| Setup::new().listen(at).forward(&text).start();
    let servers = [a, b, c].map(start);
    let live = Live::start(a, "live/a", Synthetic::default());
    servers[1].wait_live("live/a");
    servers[2].wait_live("live/a");
    let before = backend.asked("a").len();
    wait_until("it is asked at intervals", seconds(20), || backend.asked("a").len() > before + 3);
    for server in &servers {
        let status = server.status();
        assert_eq!(status.streams.len(), 1, "{:?}", status.streams);
        assert!(status.totals.connections < 60, "{} dials", status.totals.connections);
    }
    let asks = servers.each_ref().map(|server| server.status().backends.len());
    assert_eq!(asks, [1, 0, 0], "where it was published, and nowhere else");
    for server in &servers[1..] {
        assert!(forwards(server, "live/a").is_empty());
    }
    live.wait_more(20);
    live.stop(End::Polite);
}
