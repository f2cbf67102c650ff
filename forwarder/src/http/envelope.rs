//! What SRS puts around its answers.

use axum::Json;
use axum::http::StatusCode;
use serde::Serialize;

use crate::status::srs::Identity;

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

/// Puts it around.
pub(super) struct Stationery(pub(super) Identity);

impl Stationery {
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
            server: self.0.server.clone(),
            service: self.0.service.clone(),
            pid: std::process::id().to_string(),
            body,
        })
    }
}
