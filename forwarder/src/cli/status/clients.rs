//! `forwarder status --clients`
use std::fmt::Write as _;

use serde::Deserialize;

use super::{aligned, bitrate, size, uptime};
use crate::status::{ClientOrder, ClientPage, ClientQuery, ClientStatus};

/// The API's answer.
#[derive(Deserialize)]
pub(super) struct Answer {
    #[serde(flatten)]
    pub(super) page: ClientPage,
}

/// Where the API tells of them.
pub(super) fn path(query: ClientQuery) -> String {
    let ClientQuery { start, count, sort } = query;
    let sort = match sort {
        ClientOrder::Id => "id",
        ClientOrder::Lag => "lag",
        ClientOrder::Skips => "skips",
        ClientOrder::Blocked => "blocked",
        ClientOrder::Sent => "sent",
    };
    format!("/api/v1/clients?start={start}&count={count}&sort={sort}")
}

/// Clients for people.
pub(in crate::cli) fn table(page: &ClientPage) -> String {
    let head = [
        "CLIENT", "ADDRESS", "STREAM", "STATE", "LAG", "SKIPS", "BLOCKED", "SENT", "RECEIVED",
        "RATE", "UP",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(page.clients.iter().map(row));
    let mut text = aligned(&rows);
    let shown = page.clients.len();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{shown} of {} clients", page.total);
    if page.unanswered > 0 {
        let _ = writeln!(text, "{} shards did not tell theirs in time", page.unanswered);
    }
    text
}

fn row(client: &ClientStatus) -> [String; 11] {
    let kbps = if client.publish { client.kbps.recv_30s } else { client.kbps.send_30s };
    [
        client.id.clone(),
        client.peer.clone(),
        client.url.trim_start_matches('/').to_owned(),
        client.state.clone(),
        format!("{} ms", client.lag_ms),
        client.skips.to_string(),
        format!("{} ms", client.blocked_ms),
        size(client.send_bytes),
        size(client.recv_bytes),
        bitrate(kbps * 1000),
        uptime(client.alive as u64),
    ]
}
