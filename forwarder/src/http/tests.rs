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
