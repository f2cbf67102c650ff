//! `/api/v1/clients`: who publishes and plays, in SRS's shape.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::{Api, Facts};
use crate::status::{ClientQuery, ClientStatus};

/// SRS's ERROR_RTMP_CLIENT_NOT_FOUND.
const NO_SUCH_CLIENT: u32 = 2049;

#[derive(Serialize)]
struct One {
    client: ClientStatus,
}

/// Some of them; see [`ClientQuery`].
pub(super) async fn list<F: Facts>(
    State(api): State<Api<F>>,
    Query(query): Query<ClientQuery>,
) -> Response {
    Json(api.identity.answer(api.facts.clients(query).await)).into_response()
}

/// One of them.
pub(super) async fn one<F: Facts>(State(api): State<Api<F>>, Path(id): Path<String>) -> Response {
    match api.facts.client(&id).await {
        Some(client) => Json(api.identity.answer(One { client })).into_response(),
        None => Json(api.identity.error(NO_SUCH_CLIENT)).into_response(),
    }
}
