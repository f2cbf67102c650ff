//! What a vhost has to do with `connect`.

use crate::config::{Vhost, When};
use crate::rtmp::session::ServerConfig;

/// What is told to a client of `vhost` with the answer to its `connect`.
pub(super) fn announced(vhost: Option<&Vhost>) -> ServerConfig {
    ServerConfig {
        chunk_size: vhost.map_or(DEFAULT_CHUNK_SIZE, |vhost| vhost.chunk_size),
        out_ack_size: vhost.map_or(DEFAULT_ACK_SIZE, |vhost| vhost.out_ack_size),
        in_ack_size: vhost.map_or(0, |vhost| vhost.in_ack_size),
    }
}

/// Whether what publishers of `vhost` say may be said again to an origin.
pub(super) fn carries_publishers(vhost: &Vhost) -> bool {
    vhost.edge.enabled && vhost.edge.splice != When::Never
}

/// Whether a tcUrl or an app says which vhost it means, beside its host.
pub(super) fn names_vhost(part: &str) -> bool {
    part.contains("vhost=") || part.contains("domain=") || part.contains("...vhost...")
}

/// Chunk size and window where no vhost says otherwise.
const DEFAULT_CHUNK_SIZE: u32 = 16384;
const DEFAULT_ACK_SIZE: u32 = 2_500_000;
