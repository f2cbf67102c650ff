//! What a client names, and by whom it comes.

use super::Connection;
use crate::config::Vhost;
use crate::rtmp::url::{Request, StreamKey, UrlError};

impl Connection {
    /// The stream a client names, in a vhost that is served here.
    pub(super) fn resolve(&self, stream: &str) -> Result<(StreamKey, String, Vhost), String> {
        let connect = self.connect.as_ref().ok_or("connect first")?;
        let request = Request::resolve(&connect.tc_url, &connect.app, stream)
            .map_err(|error: UrlError| error.to_string())?;
        let config = self.shard.context().config();
        let vhost = config.vhost(&request.vhost).ok_or("no such vhost")?;
        self.client.asks(&vhost.name);
        // A forwarder names the vhost where a client cannot have written it.
        if connect.forwarder.is_some()
            && let Ok(named) = Request::resolve(&connect.tc_url, &connect.app, "_")
            && named.vhost != request.vhost
        {
            return Err("a forwarder's stream in another vhost".into());
        }
        let key = StreamKey::new(&vhost.name, &request.app, &request.stream)
            .map_err(|error| error.to_string())?;
        Ok((key, request.param, vhost.clone()))
    }

    /// The servers this publish came through, or this player stands for, if it may come here.
    pub(super) fn path(&self) -> Result<Vec<String>, &'static str> {
        let forwarder = self.connect.as_ref().and_then(|connect| connect.forwarder.as_ref());
        let Some((ids, _)) = forwarder else { return Ok(Vec::new()) };
        let path: Vec<String> = ids.split(',').map(str::to_owned).collect();
        if path.len() > MAX_HOPS || path.iter().any(|id| id.len() > MAX_ID_BYTES) {
            return Err("forwarded too often");
        }
        if path.contains(&self.shard.context().instance) {
            return Err("forward loop");
        }
        Ok(path)
    }
}

/// Loop guard: servers a stream may come through, and the length of an id.
const MAX_HOPS: usize = 4;
const MAX_ID_BYTES: usize = 64;
