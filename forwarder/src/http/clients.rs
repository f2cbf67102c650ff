//! `/api/v1/clients`: who publishes and plays, in SRS's shape.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::{Facts, Identity};
use crate::status::{ClientQuery, ClientStatus};

/// SRS's ERROR_RTMP_CLIENT_NOT_FOUND.
const NO_SUCH_CLIENT: u32 = 2049;

#[derive(Serialize)]
struct One {
    client: ClientStatus,
}

/// Some of them; see [`ClientQuery`].
pub(super) async fn list<F: Facts>(
    State((identity, facts)): State<(Arc<Identity>, F)>,
    Query(query): Query<ClientQuery>,
) -> Response {
    Json(identity.answer(facts.clients(query).await)).into_response()
}

/// One of them.
pub(super) async fn one<F: Facts>(
    State((identity, facts)): State<(Arc<Identity>, F)>,
    Path(id): Path<String>,
) -> Response {
    match facts.client(&id).await {
        Some(client) => Json(identity.answer(One { client })).into_response(),
        None => Json(identity.error(NO_SUCH_CLIENT)).into_response(),
    }
}
