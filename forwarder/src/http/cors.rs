//! Pages of other sites that read the API, and OPTIONS.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Api, Facts};

/// What a request from another site may bring; SRS's list, and the token.
const HEADERS: &str = "origin,range,accept-encoding,referer,Cache-Control,X-Proxy-Authorization,\
                       X-Requested-With,Content-Type,Authorization";
/// What such a page may see of an answer.
const EXPOSED: &str = "Server,range,Content-Length,Content-Range";

/// Answers OPTIONS, and lets pages of other sites read if the configuration does.
pub(super) async fn cors<F: Facts>(
    State(api): State<Api<F>>,
    request: Request,
    next: Next,
) -> Response {
    // Without a token a page has nothing that would let it write.
    let options = api.facts.options();
    let methods = match options.token.is_empty() {
        true => "GET, HEAD, OPTIONS",
        false => "GET, HEAD, POST, DELETE, OPTIONS",
    };
    let mut response = if *request.method() == Method::OPTIONS {
        (StatusCode::OK, [(header::ALLOW, methods)]).into_response()
    } else {
        next.run(request).await
    };
    if options.crossdomain {
        let headers = response.headers_mut();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}
