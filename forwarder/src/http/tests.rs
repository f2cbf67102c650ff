//! The API as a client on a socket sees it.
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::status::reload::Reloaded;

fn options() -> Options {
    Options {
        series_of_streams: true,
        crossdomain: true,
        token: String::new(),
        raw_reload: false,
        identity: Identity::draw(),
    }
}

/// Twelve clients, the later the more skips.
#[derive(Clone)]
struct Told {
    ready: bool,
}

const TOLD: Told = Told { ready: true };

impl Facts for Told {
    fn snapshot(&self) -> Snapshot {
        Snapshot { version: "1.2.3".into(), connections: 7, ..Snapshot::default() }
    }

    fn options(&self) -> Options {
        options()
    }

    async fn reload(&self) -> Outcome {
        Ok(Reloaded::default())
    }

    fn process(&self) -> ProcessStatus {
        ProcessStatus { cpu_s: 1.5, resident_bytes: 4096, ..ProcessStatus::default() }
    }

    fn summary(&self) -> Summary {
        Summary::default()
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    fn refresh_forwards(&self, stream: Option<&str>) -> usize {
        if stream.is_some() { 1 } else { 7 }
    }

    async fn clients(&self, query: ClientQuery) -> ClientPage {
        query.page(told(), 0)
    }

    async fn kick(&self, id: &str) -> bool {
        self.client(id).await.is_some()
    }

    async fn streams(&self) -> Vec<SrsStream> {
        (0..12).map(|n| SrsStream { id: n.to_string(), ..SrsStream::default() }).collect()
    }

    async fn vhosts(&self) -> Vec<SrsVhost> {
        Vec::new()
    }

    async fn client(&self, id: &str) -> Option<ClientStatus> {
        told().into_iter().find(|client| client.id == id)
    }
}

fn told() -> Vec<ClientStatus> {
    let client = |n: u64| ClientStatus {
        id: n.to_string(),
        page_url: "http://page".into(),
        kind: "rtmp-play".into(),
        skips: n / 2,
        ..ClientStatus::default()
    };
    (1..=12).map(client).collect()
}

/// `ask` gives the JSON at a path.
async fn every_page_of_clients(ask: impl AsyncFn(&str) -> serde_json::Value) {
    let ids = async |path: &str| -> Vec<String> {
        let answer = ask(path).await;
        assert_eq!((&answer["code"], &answer["total"]), (&0.into(), &12.into()), "{path}");
        let clients = answer["clients"].as_array().expect("clients");
        clients.iter().map(|client| client["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids("/api/v1/clients").await.len(), 10, "as many as SRS gives");
    assert_eq!(ids("/api/v1/clients?start=10&count=5").await, ["11", "12"]);
    assert_eq!(ids("/api/v1/clients/?count=3&sort=skips").await[..3], ["12", "10", "11"]);
    assert_eq!(ids("/api/v1/clients?count=3").await.len(), 10, "at least, as SRS");
    assert_eq!(ids("/api/v1/clients?start=99").await.len(), 0);

    let one = ask("/api/v1/clients/7").await;
    assert_eq!((&one["code"], &one["client"]["id"]), (&0.into(), &"7".into()));
    assert_eq!(one["client"]["pageUrl"], "http://page");
    assert_eq!(one["client"]["type"], "rtmp-play");
    assert!(one["server"].is_string() && one["client"]["kbps"]["send_30s"].is_u64());
    let none = ask("/api/v1/clients/70").await;
    assert_eq!((&none["code"], none.get("client")), (&2049.into(), None));
}

#[tokio::test]
async fn every_path_answers() {
    let shutdown = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::spawn(serve(listener, Serve::Api, TOLD, shutdown.clone()));
    let ask = async |method: &str, path: &str| {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.lines().next().expect("a line").to_owned(), body.to_owned())
    };
    let json = |body: &str| serde_json::from_str::<serde_json::Value>(body).expect("JSON");

    assert_eq!(ask("GET", "/healthz").await, ("HTTP/1.1 200 OK".into(), "ok".into()));

    let (line, body) = ask("GET", "/api/v1/status").await;
    assert_eq!(line, "HTTP/1.1 200 OK");
    assert_eq!(serde_json::from_str::<Snapshot>(&body).expect("a snapshot"), TOLD.snapshot());

    every_page_of_clients(async |path: &str| json(&ask("GET", path).await.1)).await;

    let (line, body) = ask("GET", "/api/v1/versions").await;
    assert_eq!(line, "HTTP/1.1 200 OK");
    let body = json(&body);
    assert_eq!(body["code"], 0);
    assert_eq!(body["pid"], std::process::id().to_string());
    assert!(body["server"].as_str().is_some_and(|id| id.starts_with("vid-")));
    assert!(body["service"].as_str().is_some_and(|id| id.len() == 8));
    let data = &body["data"];
    let version = format!("{}.{}.{}", data["major"], data["minor"], data["revision"]);
    assert_eq!(data["version"], version);

    let (line, body) = ask("GET", "/api/v1/nothing").await;
    assert_eq!(line, "HTTP/1.1 404 Not Found");
    assert_eq!(json(&body)["code"], 404);

    let (line, body) = ask("POST", "/api/v1/status").await;
    assert_eq!(line, "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(json(&body)["code"], 405);

    shutdown.cancel();
    serving.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_keep_it_from_stopping() {
    let shutdown = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::spawn(serve(listener, Serve::Api, TOLD, shutdown.clone()));
    let mut silent = TcpStream::connect(address).await.expect("a connection");
    silent.write_all(b"GET /healthz HTTP/1.1\r\n").await.expect("half a request");
    shutdown.cancel();
    serving.await.expect("no panic").expect("a clean end");
}

/// Answers of an API to a request on `socket`: none if it was closed.
async fn healthz(socket: &mut TcpStream) -> usize {
    _ = socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    socket.read(&mut [0; 512]).await.unwrap_or(0)
}

#[tokio::test]
async fn idle_clients_take_a_bounded_number_of_descriptors() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, Serve::Api, TOLD, shutdown.clone()));
    let mut idle = Vec::new();
    for _ in 0..limited::MAX_CONNECTIONS {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        assert_ne!(healthz(&mut socket).await, 0, "within the limit");
        idle.push(socket);
    }
    let mut one_more = TcpStream::connect(address).await.expect("a connection");
    assert_eq!(healthz(&mut one_more).await, 0, "over the limit");
    drop(idle);
    loop {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        if healthz(&mut socket).await > 0 {
            break;
        }
    }
    shutdown.cancel();
    serving.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn no_client_stays_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut limited = Limited::new(listener, Duration::from_millis(10));
    let _silent = TcpStream::connect(address).await.expect("a connection");
    let (mut io, _) = axum::serve::Listener::accept(&mut limited).await;
    let error = io.read(&mut [0; 16]).await.expect_err("its time is over");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_server_that_stops_is_not_ready() {
    for (ready, status) in [(true, "200"), (false, "503")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut socket = TcpStream::connect(listener.local_addr().expect("an address"))
            .await
            .expect("a connection");
        let shutdown = CancellationToken::new();
        let serving = serve(listener, Serve::Api, Told { ready }, shutdown.clone());
        let serving = tokio::spawn(serving);
        let request = b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        socket.write_all(request).await.expect("a request");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
        shutdown.cancel();
        serving.await.expect("no panic").expect("a clean end");
    }
}

#[test]
fn each_path_is_described_and_no_other() {
    let doc: serde_json::Value = serde_json::from_str(OPENAPI).expect("JSON");
    let described: Vec<&str> =
        doc["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    let mut served: Vec<&str> = paths::<Told>().into_iter().map(|(path, _)| path).collect();
    served.retain(|path| !path.ends_with('/'));
    served.push("/metrics");
    served.sort_unstable();
    assert_eq!(described, served);
}
