//! What SRS puts around its answers.

use axum::Json;
use axum::http::StatusCode;
use rand::distr::{Alphanumeric, SampleString as _};
use serde::Serialize;

/// SRS's answer around what was asked for.
#[derive(Serialize)]
pub(super) struct Envelope<T> {
    /// 0: fine.
    code: u32,
    /// Which server.
    server: String,
    /// Which run of it.
    service: String,
    /// A string, as in SRS.
    pid: String,
    #[serde(flatten)]
    body: T,
}

/// A body with nothing in it.
#[derive(Serialize)]
pub(super) struct Nothing {}

/// An answer of HTTP's own kind, such as 404.
#[derive(Serialize)]
pub(super) struct Refusal {
    code: u16,
    error: &'static str,
}

/// Why there is no answer.
pub(super) fn refusal(status: StatusCode) -> (StatusCode, Json<Refusal>) {
    let error = status.canonical_reason().unwrap_or("refused");
    (status, Json(Refusal { code: status.as_u16(), error }))
}

/// Ids in the form of SRS's, drawn at each start.
pub(super) struct Identity {
    server: String,
    service: String,
}

impl Identity {
    pub(super) fn draw() -> Self {
        let draw = |n| Alphanumeric.sample_string(&mut rand::rng(), n).to_lowercase();
        Self { server: format!("vid-{}", draw(7)), service: draw(8) }
    }

    /// Fine.
    pub(super) fn answer<T>(&self, body: T) -> Json<Envelope<T>> {
        self.wrap(0, body)
    }

    /// With one of SRS's codes, which come with HTTP's 200.
    pub(super) fn error(&self, code: u32) -> Json<Envelope<Nothing>> {
        self.wrap(code, Nothing {})
    }

    /// With a code of SRS and a body.
    pub(super) fn wrap<T>(&self, code: u32, body: T) -> Json<Envelope<T>> {
        Json(Envelope {
            code,
            server: self.server.clone(),
            service: self.service.clone(),
            pid: std::process::id().to_string(),
            body,
        })
    }
}
