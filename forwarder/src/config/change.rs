//! What differs between two configurations, and when a change takes effect.

use std::collections::BTreeSet;

use toml::Value;

use super::{Config, values};

/// When a changed key takes effect, once the file is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// At once, also for what runs.
    Now,
    /// For what begins from then on: connections, streams, attempts.
    Next,
    /// At the next start of the process. Until then what is in force stays.
    Restart,
}

/// One key, or one vhost, that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of which vhost; `None`: of the whole server.
    pub vhost: Option<String>,
    /// Its name with the tables it is in, such as `vhost.play.gop_cache`; `vhost` for a vhost that
    /// came or went.
    pub key: String,
    /// What became of it, without anything that may be a secret.
    pub what: String,
    /// When that takes effect.
    pub takes: Takes,
}

/// When a change of `key` takes effect; `None`: there is no such key.
pub fn takes(key: &str) -> Option<Takes> {
    let listed = [(NOW, Takes::Now), (NEXT, Takes::Next), (RESTART, Takes::Restart)];
    listed.into_iter().find(|(keys, _)| keys.contains(&key)).map(|(_, takes)| takes)
}

/// Every key that is listed.
#[cfg(test)]
pub(super) fn stated() -> impl Iterator<Item = &'static str> {
    [NOW, NEXT, RESTART].into_iter().flatten().copied()
}

/// What differs in `next` from what is in force.
pub fn changes(running: &Config, next: &Config) -> Vec<Change> {
    let mut all = Vec::new();
    let (mut before, mut after) = (tree(running), tree(next));
    let (was, is) = (vhosts(&mut before), vhosts(&mut after));
    compare(None, "", &before, &after, &mut all);
    for (name, vhost) in &is {
        match was.iter().find(|(other, _)| other == name) {
            Some((_, other)) => compare(Some(name), "vhost", other, vhost, &mut all),
            None => all.push(whole(name, "added")),
        }
    }
    let gone = was.iter().filter(|(name, _)| !is.iter().any(|(other, _)| other == name));
    all.extend(gone.map(|(name, _)| whole(name, "removed")));
    all
}

/// Puts back into `next` what only a start of the process can change.
pub fn keep(running: &Config, next: &mut Config) {
    next.threads = running.threads;
    next.pid.clone_from(&running.pid);
    next.kernel = running.kernel;
    next.io_uring = running.io_uring;
    next.log.json = running.log.json;
}

fn whole(vhost: &str, what: &str) -> Change {
    let (key, what) = ("vhost".to_owned(), what.to_owned());
    Change { vhost: Some(vhost.to_owned()), key, what, takes: Takes::Now }
}

fn tree(config: &Config) -> Value {
    let table: Result<toml::Table, _> = toml::from_str(&config.to_toml());
    Value::Table(table.expect("what `to_toml` writes is TOML"))
}

/// Takes the vhosts out of a tree.
fn vhosts(tree: &mut Value) -> Vec<(String, Value)> {
    let taken = tree.as_table_mut().and_then(|table| table.remove("vhost"));
    let Some(Value::Array(all)) = taken else { return Vec::new() };
    let name = |vhost: &Value| vhost.get("name").and_then(Value::as_str).map(str::to_owned);
    all.into_iter().filter_map(|vhost| Some((name(&vhost)?, vhost))).collect()
}

fn compare(vhost: Option<&str>, path: &str, before: &Value, after: &Value, all: &mut Vec<Change>) {
    let (Value::Table(was), Value::Table(is)) = (before, after) else { return };
    for name in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let (was, is) = (was.get(name), is.get(name));
        if let (Some(was @ Value::Table(_)), Some(is @ Value::Table(_))) = (was, is) {
            compare(vhost, &key, was, is, all);
        } else if was != is {
            let what = describe(name, was, is);
            let takes = takes(&key).unwrap_or(Takes::Next);
            all.push(Change { vhost: vhost.map(str::to_owned), key, what, takes });
        }
    }
}

fn describe(name: &str, was: Option<&Value>, is: Option<&Value>) -> String {
    if let (Some(Value::Array(was)), Some(Value::Array(is))) = (was, is) {
        let added = is.iter().filter(|item| !was.contains(item)).count();
        return match (added, was.iter().filter(|item| !is.contains(item)).count()) {
            (0, 0) => "reordered".to_owned(),
            (0, removed) => format!("{removed} removed"),
            (added, 0) => format!("{added} added"),
            (added, removed) => format!("{added} added, {removed} removed"),
        };
    }
    match (shown(name, was), shown(name, is)) {
        (Some(was), Some(is)) => format!("{was} -> {is}"),
        _ => "changed".to_owned(),
    }
}

/// A value, if it cannot be a secret: no text but times, sizes, addresses and switches.
fn shown(name: &str, value: Option<&Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) => {
            let secret = ["token", "password", "secret", "key"].iter().any(|s| name.contains(s));
            let plain = values::parse_duration(text).is_ok()
                || values::parse_bytes(text).is_ok()
                || values::parse_buffer(text).is_ok()
                || values::parse_listen(text).is_ok()
                || values::parse_level(text).is_ok()
                || ["auto", "always", "never"].contains(&text.as_str());
            (plain && !secret).then(|| text.clone())
        }
        Some(value @ (Value::Boolean(_) | Value::Integer(_) | Value::Float(_))) => {
            Some(value.to_string())
        }
        _ => None,
    }
}

/// Keys whose changes take effect at once.
const NOW: &[&str] = &[
    "listen",
    "max_connections",
    "drain_timeout",
    "drain_to",
    "kernel_backlog_limit",
    "rtmps.enabled",
    "rtmps.listen",
    "rtmps.certificate",
    "log.level",
    "http_api.enabled",
    "http_api.listen",
    "http_api.crossdomain",
    "http_api.token",
    "http_api.raw_reload",
    "exporter.enabled",
    "exporter.listen",
    "exporter.streams",
    "http_server.enabled",
    "http_server.listen",
    "vhost.name",
    "vhost.enabled",
    "vhost.forward.enabled",
    "vhost.forward.destination",
    "vhost.forward.to",
    "vhost.forward.backend",
    "vhost.forward.backend_timeout",
    "vhost.forward.backend_failure",
    "vhost.forward.backend_interval",
    "vhost.edge.enabled",
    "vhost.edge.origin",
];

/// Keys whose changes hold for what begins from then on.
const NEXT: &[&str] = &[
    "chunk_size",
    "resolver",
    "rtmps.handshake_timeout",
    "http_server.crossdomain",
    "tls.ca",
    "tls.insecure",
    "vhost.chunk_size",
    "vhost.out_ack_size",
    "vhost.in_ack_size",
    "vhost.tcp_nodelay",
    "vhost.play.gop_cache",
    "vhost.play.gop_cache_max_frames",
    "vhost.play.gop_cache_max_bytes",
    "vhost.play.queue_length",
    "vhost.play.queue_bytes",
    "vhost.play.mw_latency",
    "vhost.play.audio_hold",
    "vhost.play.keyframe_wait",
    "vhost.play.write_timeout",
    "vhost.play.send_buffer",
    "vhost.play.notsent_lowat",
    "vhost.publish.firstpkt_timeout",
    "vhost.publish.normal_timeout",
    "vhost.publish.grace",
    "vhost.publish.second",
    "vhost.publish.standbys",
    "vhost.publish.switch_after",
    "vhost.http_remux.enabled",
    "vhost.http_remux.guess_has_av",
    "vhost.http_remux.has_audio",
    "vhost.http_remux.has_video",
    "vhost.forward.connect_timeout",
    "vhost.forward.retry_min",
    "vhost.forward.retry_max",
    "vhost.forward.retry_refused",
    "vhost.forward.hung_timeout",
    "vhost.forward.queue_length",
    "vhost.forward.queue_bytes",
    "vhost.forward.send_buffer",
    "vhost.forward.notsent_lowat",
    "vhost.edge.vhost",
    "vhost.edge.token_traverse",
    "vhost.edge.connect_timeout",
    "vhost.edge.retry_max",
    "vhost.edge.idle_timeout",
    "vhost.edge.failover_timeout",
    "vhost.edge.splice",
    "vhost.edge.leg_soft_limit",
    "vhost.edge.leg_hard_limit",
    "vhost.hooks.enabled",
    "vhost.hooks.on_connect",
    "vhost.hooks.on_close",
    "vhost.hooks.on_publish",
    "vhost.hooks.on_unpublish",
    "vhost.hooks.on_play",
    "vhost.hooks.on_stop",
    "vhost.hooks.timeout",
    "vhost.hooks.on_failure",
    "vhost.security.enabled",
    "vhost.security.allow_publish",
    "vhost.security.deny_publish",
    "vhost.security.allow_play",
    "vhost.security.deny_play",
    "vhost.refer.enabled",
    "vhost.refer.all",
    "vhost.refer.publish",
    "vhost.refer.play",
    "vhost.tokens.publish",
    "vhost.tokens.play",
    "vhost.tokens.secret",
    "vhost.tokens.publish_key",
    "vhost.tokens.play_key",
];

/// Keys that only a start of the process reads; see [`keep`].
const RESTART: &[&str] = &["threads", "pid", "kernel", "io_uring", "log.json"];
