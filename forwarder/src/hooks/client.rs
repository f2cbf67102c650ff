//! Asking an HTTP backend, by SRS's rules (`app/srs_app_http_hooks.cpp`).

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::connector::{Connector, Held};
use crate::config::HttpUrl;

/// Asks backends. Connections are kept for a while and shared.
///
/// It belongs to the runtime that it is used on: its connections are served by tasks there.
#[derive(Debug)]
pub struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    /// By `host[:port]`: a backend that hangs takes nobody's place at another.
    places: Mutex<HashMap<String, Arc<Places>>>,
}

/// What there is room for at one backend.
#[derive(Debug)]
struct Places {
    under_way: Semaphore,
    asking: Arc<Semaphore>,
}

/// Why a backend's answer is not a yes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no answer of the backend: it could not be reached, took too long, broke off, or
    /// said by HTTP's 5xx that it is broken.
    #[error("{0}")]
    Broken(String),
    /// It answered, and not with a yes.
    #[error("{0}")]
    Refused(String),
}

impl Client {
    /// A client without connections.
    pub fn new(held: Held) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_FOR)
            .pool_max_idle_per_host(KEPT)
            .http1_max_buf_size(MAX_REPLY)
            .build(Connector::new(held));
        Self { http, places: Mutex::default() }
    }

    /// POSTs the JSON text `body` to `url`, and waits for the answer for so long at most, the wait
    /// for a place among those under way included.
    ///
    /// The answer is a yes if it is 200 or 201 with the body `0` or a JSON object in which `code` is
    /// the integer 0: the object is given, an empty one for `0`.
    pub async fn post(
        &self,
        url: &HttpUrl,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Map<String, Value>, Failure> {
        match timeout(within, self.exchange(url, body)).await {
            Ok(answer) => {
                let (status, body) = answer.map_err(Failure::Broken)?;
                judge(status, &body)
            }
            Err(_) => Err(Failure::Broken(format!("no answer within {within:?}"))),
        }
    }

    async fn exchange(&self, url: &HttpUrl, body: Vec<u8>) -> Result<(StatusCode, Bytes), String> {
        let places = self.places(url);
        // It is never closed.
        let _place = places.under_way.acquire().await.map_err(|error| error.to_string())?;
        let request = Request::post(url.uri())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("forwarder/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let response = self.http.request(request).await.map_err(|error| causes(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_REPLY).collect().await;
        Ok((status, body.map_err(|error| causes(&*error))?.to_bytes()))
    }

    /// Room for a client that waits for an answer of `url`, until it is dropped. Clients that come
    /// and go while a backend hangs are asked for until its time is over: without a bound they
    /// would be any number.
    pub(super) fn room(&self, url: &HttpUrl) -> Result<OwnedSemaphorePermit, Failure> {
        let room = Arc::clone(&self.places(url).asking).try_acquire_owned();
        room.map_err(|_| Failure::Broken(format!("{ASKING} clients wait for it already")))
    }

    fn places(&self, url: &HttpUrl) -> Arc<Places> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let (under_way, asking) = (Semaphore::new(UNDER_WAY), Semaphore::new(ASKING));
            Arc::new(Places { under_way, asking: Arc::new(asking) })
        };
        Arc::clone(places.entry(url.authority().to_owned()).or_insert_with(made))
    }
}

fn judge(status: StatusCode, body: &[u8]) -> Result<Map<String, Value>, Failure> {
    if status.is_server_error() {
        return Err(Failure::Broken(format!("HTTP status {}", status.as_u16())));
    }
    if status != StatusCode::OK && status != StatusCode::CREATED {
        return Err(Failure::Refused(format!("HTTP status {}", status.as_u16())));
    }
    if body == b"0" {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => match object.get("code").and_then(Value::as_i64) {
            Some(0) => Ok(object),
            Some(code) => Err(Failure::Refused(format!("code {code}"))),
            None => Err(Failure::Refused("an answer without an integer `code`".into())),
        },
        Ok(Value::Number(code)) => Err(Failure::Refused(format!("code {code}"))),
        _ => Err(Failure::Refused("an answer that is neither `0` nor a JSON object".into())),
    }
}

/// An error with what caused it.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Some say their cause's words themselves.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// Largest answer, bytes.
const MAX_REPLY: usize = 64 << 10;

/// Requests to one backend at a time; others wait.
const UNDER_WAY: usize = 64;

/// Clients that wait for an answer of one backend.
pub(super) const ASKING: usize = 8192;

/// Connections without a request that are kept to one backend.
const KEPT: usize = 16;

/// For so long: shorter than the servers that close theirs soonest (5 s), whose end would else meet
/// a request.
const KEPT_FOR: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_srs_s_yes_is_a_yes() {
        let judged = |status: u16, body: &str| {
            judge(StatusCode::from_u16(status).expect("a status"), body.as_bytes())
        };
        for (status, body) in [
            (200, "0"),
            (201, "0"),
            (200, r#"{"code":0}"#),
            (201, " {\"data\":null, \"code\": 0}\n"),
        ] {
            assert!(judged(status, body).is_ok(), "{status} {body}");
        }
        for (status, body) in [
            (200, ""),
            (200, "0\n"),
            (200, "00"),
            (200, "1"),
            (200, "OK"),
            (200, "[0]"),
            (200, "{}"),
            (200, r#"{"code":"0"}"#),
            (200, r#"{"code":0.0}"#),
            (200, r#"{"code":false}"#),
            (200, r#"{"code":1}"#),
            (200, r#"{"code":0"#),
            (202, "0"),
            (204, ""),
            (302, "0"),
            (403, r#"{"code":0}"#),
        ] {
            assert!(matches!(judged(status, body), Err(Failure::Refused(_))), "{status} {body}");
        }
        for status in [500, 502, 503] {
            assert!(matches!(judged(status, "0"), Err(Failure::Broken(_))), "{status}");
        }
        let object = judged(200, r#"{"code":0,"data":{"urls":[]}}"#).expect("a yes");
        assert!(object.contains_key("data"));
    }
}
