//! `/metrics`, for Prometheus.
//!
//! Made from a snapshot when it is asked for: nothing is counted for it while media moves. Labels
//! are names of streams, destinations and origins, never addresses of clients, and there are
//! series of [`MAX_EACH`] streams, forwards and pulls at most.
mod each;
mod page;

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Api, Facts};
use crate::status::{LegStatus, ProcessStatus, Snapshot};
use page::Page;

/// Most streams, forwards and pulls with series of their own: first those whose names are first.
pub(super) const MAX_EACH: usize = 1000;

pub(super) async fn metrics<F: Facts>(State(api): State<Api<F>>) -> Response {
    // Off the thread that accepts: with many streams it takes milliseconds.
    let made = tokio::task::spawn_blocking(move || {
        let (facts, each) = (&api.facts, api.facts.options().series_of_streams);
        render(&facts.snapshot(), &facts.process(), facts.is_ready(), each)
    });
    match made.await {
        Ok(text) => ([(header::CONTENT_TYPE, page::CONTENT_TYPE)], text).into_response(),
        Err(_) => super::envelope::refusal(StatusCode::INTERNAL_SERVER_ERROR).into_response(),
    }
}

/// The page; `each`: also what each stream, forward and pull does.
fn render(snapshot: &Snapshot, process: &ProcessStatus, is_ready: bool, each: bool) -> String {
    let mut page = Page::default();
    of_process(&mut page, snapshot, process, is_ready);
    of_totals(&mut page, snapshot);
    of_hooks(&mut page, snapshot);
    of_shards(&mut page, snapshot);
    of_legs(&mut page, snapshot);
    of_counts(&mut page, snapshot);
    of_names(&mut page, snapshot);
    if each {
        each::render(&mut page, snapshot);
    }
    page.into_text()
}

fn of_process(page: &mut Page, snapshot: &Snapshot, process: &ProcessStatus, is_ready: bool) {
    page.gauge("forwarder_build_info", "Always 1; the version of the program.")
        .with(&[("version", &snapshot.version)], 1);
    page.gauge("forwarder_uptime_seconds", "Time since start.").is(snapshot.uptime_s);
    page.gauge("forwarder_ready", "1 while new connections are taken, 0 while stopping.")
        .is(u8::from(is_ready));
    let config = &snapshot.config;
    page.gauge(
        "forwarder_config_last_reload_successful",
        "1 if the configuration in force is that of the last start or reload, 0 if it was refused.",
    )
    .is(u8::from(config.last_error.is_empty()));
    page.gauge(
        "forwarder_config_last_reload_success_timestamp_seconds",
        "When the configuration in force was loaded, since 1970.",
    )
    .is(config.loaded_ms as f64 / 1e3);
    page.counter("process_cpu_seconds_total", "Processor time, user and kernel.").is(process.cpu_s);
    page.gauge("process_resident_memory_bytes", "Resident memory.").is(process.resident_bytes);
    page.gauge("process_open_fds", "Open descriptors.").is(process.open_fds);
    page.gauge("process_max_fds", "Descriptors that may be open.").is(process.max_fds);
    page.gauge("process_start_time_seconds", "When the process started, since 1970.")
        .is(process.started_s);
}

fn of_totals(page: &mut Page, snapshot: &Snapshot) {
    let totals = &snapshot.totals;
    page.gauge("forwarder_connections", "Open connections, players over HTTP among them.")
        .is(snapshot.connections);
    page.counter(
        "forwarder_connections_total",
        "Connections accepted, players over HTTP among them.",
    )
    .is(totals.connections);
    page.counter("forwarder_connections_refused_total", "Connections over max_connections.")
        .is(totals.refused);
    page.counter(
        "forwarder_connection_errors_total",
        "Connections ended by a protocol error, a limit or a deadline.",
    )
    .is(totals.errors);
    page.counter(
        "forwarder_tls_connections_total",
        "Of the connections accepted those that began with TLS.",
    )
    .is(totals.tls_connections);
    page.counter("forwarder_tls_failures_total", "Clients and targets with whom there was no TLS.")
        .is(totals.tls_failures);
    page.counter("forwarder_receive_bytes_total", "Bytes received from publishers and origins.")
        .is(totals.received_bytes);
    page.counter("forwarder_send_bytes_total", "Bytes sent to players and destinations.")
        .is(totals.sent_bytes);
    page.counter("forwarder_skips_total", "Skips of slow readers to a keyframe.").is(totals.skips);
    page.counter("forwarder_switches_total", "Switches of streams to another publisher.")
        .is(totals.switches);
}

fn of_hooks(page: &mut Page, snapshot: &Snapshot) {
    page.counter("forwarder_access_denied_total", "Clients refused by security, refer or tokens.")
        .is(snapshot.totals.denied);
    let hooks = &snapshot.totals.hooks;
    let mut family = page.counter("forwarder_hook_requests_total", "Requests to HTTP hooks.");
    family.with(&[("kind", "ask")], hooks.asked);
    family.with(&[("kind", "tell")], hooks.told);
    page.counter("forwarder_hook_failures_total", "Of those the ones without an answer.")
        .is(hooks.failed);
    page.counter(
        "forwarder_hook_refusals_total",
        "Clients refused by HTTP hooks, or for want of an answer.",
    )
    .is(hooks.refused);
    page.counter(
        "forwarder_hook_dropped_total",
        "Ends that hooks were not told of: too many waited.",
    )
    .is(hooks.dropped);
}

fn of_shards(page: &mut Page, snapshot: &Snapshot) {
    let names: Vec<String> = (0..snapshot.shards.len()).map(|at| at.to_string()).collect();
    let shards = || names.iter().zip(&snapshot.shards);
    let mut family = page.gauge("forwarder_shard_connections", "Connections of a thread.");
    for (name, shard) in shards() {
        family.with(&[("shard", name)], shard.connections);
    }
    let mut family =
        page.gauge("forwarder_shard_players", "Players of a thread, those with a leg left out.");
    for (name, shard) in shards() {
        family.with(&[("shard", name)], shard.players);
    }
    let mut family = page.counter(
        "forwarder_shard_receive_bytes_total",
        "Bytes that a thread received from publishers and origins.",
    );
    for (name, shard) in shards() {
        family.with(&[("shard", name)], shard.received_bytes);
    }
}

fn of_legs(page: &mut Page, snapshot: &Snapshot) {
    let mut family =
        page.gauge("forwarder_legs", "Players and publishers whose bytes go through unchanged.");
    for kind in ["play", "publish"] {
        for path in ["kernel", "user"] {
            let is_it = |leg: &&LegStatus| leg.kind == kind && leg.path == path;
            let n = snapshot.legs.iter().filter(is_it).count();
            family.with(&[("kind", kind), ("path", path)], n);
        }
    }
    let legs = &snapshot.totals.legs;
    let mut family = page.counter("forwarder_leg_bytes_total", "Bytes that legs moved.");
    family.with(&[("path", "kernel")], legs.kernel_bytes);
    family.with(&[("path", "user")], legs.user_bytes);
    page.counter("forwarder_leg_unsplices_total", "Returns of legs from the kernel.")
        .is(legs.unsplices);
    page.gauge("forwarder_leg_backlog_bytes", "Bytes that legs' targets have not acknowledged.")
        .is(snapshot.legs.iter().map(|leg| leg.backlog).sum::<u64>());
    page.gauge("forwarder_splice_kernel", "1 if the kernel carries legs, 0 if user space alone.")
        .is(u8::from(snapshot.splice == "kernel"));
    page.gauge("forwarder_splice_backlog_bytes", "Of the backlog what is in the kernel, at most.")
        .is(snapshot.kernel_backlog);
    page.gauge("forwarder_splice_backlog_limit_bytes", "Over it legs leave the kernel; 0: none.")
        .is(snapshot.kernel_backlog_limit);
}

fn of_counts(page: &mut Page, snapshot: &Snapshot) {
    let players = snapshot.streams.iter().map(|stream| stream.players).sum::<usize>();
    page.gauge("forwarder_players", "Players, with a leg or without.").is(players);
    let streams = snapshot.streams.iter();
    let mut family = page.gauge("forwarder_streams", "Streams by state.");
    states(&["live", "grace", "waiting", "legs"], streams.clone().map(|it| &*it.state), |s, n| {
        family.with(&[("state", s)], n);
    });
    let mut family = page.gauge("forwarder_forwards", "Forwards and relayed publishes by state.");
    let forwards = streams.flat_map(|it| &it.forwards).map(|it| &*it.state);
    let known = ["connecting", "forwarding", "stalled", "draining", "waiting", "stopped"];
    states(&known, forwards, |s, n| {
        family.with(&[("state", s)], n);
    });
    let mut family = page.gauge("forwarder_pulls", "Streams pulled from origins by state.");
    let pulls = snapshot.pulls.iter().map(|it| &*it.state);
    states(&["connecting", "pulling", "waiting", "published here"], pulls, |s, n| {
        family.with(&[("state", s)], n);
    });
}

/// A configuration has few of them.
fn of_names(page: &mut Page, snapshot: &Snapshot) {
    let mut family = page.gauge(
        "forwarder_discovery_up",
        "1 if the last look-up of a name that destinations are found by was answered; 0 before that.",
    );
    for name in &snapshot.names {
        // No answer takes away the last address: without one there was none yet.
        let is_up = name.last_error.is_empty() && !name.addresses.is_empty();
        family.with(&[("name", &*name.name)], u8::from(is_up));
    }
    let mut family =
        page.gauge("forwarder_discovery_addresses", "Destinations that a name stands for.");
    for name in &snapshot.names {
        family.with(&[("name", &*name.name)], name.addresses.len());
    }
    page.counter(
        "forwarder_backend_failures_total",
        "Questions where a stream goes that a backend had no answer to.",
    )
    .is(snapshot.totals.backend_failures);
}

/// Counts `seen`; states that are `known` are told also if there are none.
fn states<'a>(
    known: &[&'a str],
    seen: impl Iterator<Item = &'a str>,
    mut tell: impl FnMut(&str, usize),
) {
    let mut counts: BTreeMap<&str, usize> = known.iter().map(|state| (*state, 0)).collect();
    for state in seen {
        *counts.entry(state).or_default() += 1;
    }
    for (state, n) in counts {
        tell(state, n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ForwardStatus, PullStatus, StreamStatus};

    #[test]
    fn series_are_bounded_and_none_stands_twice() {
        let forward = |to: &str| ForwardStatus { destination: to.into(), ..Default::default() };
        let stream = |n: usize| StreamStatus {
            stream: format!("{:04}", n / 2),
            forwards: vec![forward("a"), forward("b"), forward("a")],
            ..StreamStatus::default()
        };
        let snapshot = Snapshot {
            streams: (0..3000).rev().map(stream).collect(),
            pulls: vec![PullStatus::default(); 2],
            ..Snapshot::default()
        };
        let text = render(&snapshot, &ProcessStatus::default(), true, true);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let names: std::collections::HashSet<&str> =
            samples.iter().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
        assert_eq!(names.len(), samples.len(), "each once");
        let n = |start: &str| samples.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!(
            [n("forwarder_stream_up"), n("forwarder_forward_up"), n("forwarder_pull_up")],
            [MAX_EACH, MAX_EACH, 1]
        );
        let first = "forwarder_stream_up{vhost=\"\",app=\"\",stream=\"0000\"} 0";
        assert_eq!(
            samples.iter().find(|line| line.starts_with("forwarder_stream_up")),
            Some(&first)
        );
        assert!(samples.contains(&"forwarder_metrics_omitted{kind=\"stream\"} 500"));
        assert!(samples.contains(&"forwarder_metrics_omitted{kind=\"forward\"} 2000"));
    }
}
