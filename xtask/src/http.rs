//! A GET to a server on loopback: enough HTTP for our own API.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::net;

const TIMEOUT: Duration = Duration::from_secs(2);

/// The body of `GET path`, if the status is 200, as JSON.
pub fn get_json<T: DeserializeOwned>(port: u16, path: &str) -> Result<T> {
    let mut stream = TcpStream::connect_timeout(&net::loopback(port), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the server closes after the body and does not chunk it.
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    serde_json::from_slice(body(&response)?).with_context(|| format!("GET {path}: not as expected"))
}

fn body(response: &[u8]) -> Result<&[u8]> {
    let split = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = response.split_at(split.context("HTTP response without a body")?);
    let status = String::from_utf8_lossy(head.split(|&b| b == b'\r').next().unwrap_or_default());
    if status.split(' ').nth(1) != Some("200") {
        bail!("HTTP: {status}");
    }
    Ok(&body[4..])
}

#[cfg(test)]
mod tests {
    use super::body;

    #[test]
    fn body_is_what_follows_the_empty_line() {
        let response = b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{}\r\n\r\n";
        assert_eq!(body(response).unwrap(), b"{}\r\n\r\n");
    }

    #[test]
    fn other_statuses_and_cut_responses_are_errors() {
        assert!(body(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
        assert!(body(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(body(b"").is_err());
    }
}
