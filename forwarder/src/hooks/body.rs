//! What backends are told, in SRS's fields.

use std::net::SocketAddr;

use serde::Serialize;

use super::{Hook, Line};
use crate::rtmp::url::StreamKey;
use crate::status::srs::{Identity, id_of};

/// A client and the stream it wants.
#[derive(Debug)]
pub struct Guest {
    /// Its id, as the API has it.
    pub id: String,
    /// Its address.
    pub peer: SocketAddr,
    /// tcUrl as it said.
    pub tc_url: String,
    /// The page that it says it is on; may be empty.
    pub page_url: String,
    /// The stream.
    pub key: StreamKey,
    /// Parameters of the stream, without the question mark.
    pub param: String,
}

/// All that any hook has.
#[derive(Default, Serialize)]
struct Body<'a> {
    server_id: &'a str,
    service_id: &'a str,
    action: &'a str,
    client_id: &'a str,
    ip: String,
    vhost: &'a str,
    app: &'a str,
    #[serde(rename = "tcUrl", skip_serializing_if = "Option::is_none")]
    tc_url: Option<&'a str>,
    #[serde(rename = "pageUrl", skip_serializing_if = "Option::is_none")]
    page_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recv_bytes: Option<u64>,
}

/// The body of a request, JSON.
pub(super) fn body(
    hook: Hook,
    identity: &Identity,
    guest: &Guest,
    line: &Line,
) -> serde_json::Result<Vec<u8>> {
    let key = &guest.key;
    let mut body = Body {
        server_id: &identity.server,
        service_id: &identity.service,
        action: hook.action(),
        client_id: &guest.id,
        ip: guest.peer.ip().to_canonical().to_string(),
        vhost: key.vhost(),
        app: key.app(),
        ..Body::default()
    };
    if hook == Hook::Close {
        (body.send_bytes, body.recv_bytes) = (Some(line.sent()), Some(line.received()));
        return serde_json::to_vec(&body);
    }
    body.tc_url = Some(&guest.tc_url);
    body.stream = Some(key.stream());
    // As SRS has it: the question mark is a part of it.
    let param = &guest.param;
    body.param = Some(if param.is_empty() { String::new() } else { format!("?{param}") });
    if matches!(hook, Hook::Connect | Hook::Play) {
        body.page_url = Some(&guest.page_url);
    }
    if hook != Hook::Connect {
        body.stream_url = Some(key.to_string());
        body.stream_id = Some(id_of(&[key.vhost(), key.app(), key.stream()]));
    }
    serde_json::to_vec(&body)
}
