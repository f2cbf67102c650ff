//! The API as a client on a socket sees it.
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

#[tokio::test]
async fn every_path_answers() {
    let shutdown = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let snapshot = || Snapshot { version: "1.2.3".into(), connections: 7, ..Snapshot::default() };
    let serving = tokio::spawn(serve(listener, snapshot, shutdown.clone()));
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
    assert_eq!(serde_json::from_str::<Snapshot>(&body).expect("a snapshot"), snapshot());

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
    let serving = tokio::spawn(serve(listener, Snapshot::default, shutdown.clone()));
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
    let serving = tokio::spawn(serve(listener, Snapshot::default, shutdown.clone()));
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
