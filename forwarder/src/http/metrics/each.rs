//! What each stream, forward and pull does.
use std::collections::BTreeMap;
use std::fmt::Display;

use super::MAX_EACH;
use super::page::{Family, Page};
use crate::status::{ForwardStatus, PullStatus, Snapshot, StreamStatus};

/// Vhost, app and stream.
type Name<'a> = [&'a str; 3];

pub(super) fn render(page: &mut Page, snapshot: &Snapshot) {
    // By name, so that a few are the same few at each scrape; and no name twice.
    let mut streams = BTreeMap::new();
    let mut forwards = BTreeMap::new();
    for stream in &snapshot.streams {
        let name = [&*stream.vhost, &*stream.app, &*stream.stream];
        streams.insert(name, stream);
        for forward in &stream.forwards {
            forwards.insert((name, &*forward.destination), forward);
        }
    }
    let pulls: BTreeMap<Name<'_>, &PullStatus> =
        snapshot.pulls.iter().map(|it| ([&*it.vhost, &*it.app, &*it.stream], it)).collect();
    let mut family = page.gauge(
        "forwarder_metrics_omitted",
        "Streams, forwards and pulls that are too many for series of their own.",
    );
    for (kind, n) in [("stream", streams.len()), ("forward", forwards.len()), ("pull", pulls.len())]
    {
        family.with(&[("kind", kind)], n.saturating_sub(MAX_EACH));
    }
    of_streams(page, &streams.into_iter().take(MAX_EACH).collect::<Vec<_>>());
    of_forwards(page, &forwards.into_iter().take(MAX_EACH).collect::<Vec<_>>());
    of_pulls(page, &pulls.into_iter().take(MAX_EACH).collect::<Vec<_>>());
}

fn of_streams(page: &mut Page, streams: &[(Name<'_>, &StreamStatus)]) {
    let all = |mut family: Family<'_>, value: fn(&StreamStatus) -> u64| {
        for ([vhost, app, stream], status) in streams {
            family.with(&[("vhost", vhost), ("app", app), ("stream", stream)], value(status));
        }
    };
    all(page.gauge("forwarder_stream_up", "1 if the stream has a publisher."), |it| {
        u64::from(!it.publisher.is_empty())
    });
    all(page.gauge("forwarder_stream_standbys", "Publishers that stand by."), |it| {
        it.standbys.len() as u64
    });
    all(page.counter("forwarder_stream_switches_total", "Switches to another publisher."), |it| {
        it.switches
    });
    all(page.gauge("forwarder_stream_players", "Players of a stream."), |it| it.players as u64);
    all(
        page.counter(
            "forwarder_stream_receive_bytes_total",
            "Bytes of payload received, without those of legs.",
        ),
        |it| it.received_bytes,
    );
    all(
        page.counter(
            "forwarder_stream_send_bytes_total",
            "Bytes sent to players and destinations, without those of legs.",
        ),
        |it| it.sent_bytes,
    );
    all(
        page.gauge("forwarder_stream_bitrate", "Payload received over two seconds, bits a second."),
        |it| it.bitrate_bps,
    );
    all(page.counter("forwarder_stream_messages_total", "Messages received."), |it| it.messages);
    all(
        page.counter("forwarder_stream_skips_total", "Skips of its readers to a keyframe."),
        |it| it.skips,
    );
    all(page.gauge("forwarder_stream_log_bytes", "Bytes of a stream held in memory."), |it| {
        it.log_bytes
    });
}

fn of_forwards(page: &mut Page, forwards: &[((Name<'_>, &str), &ForwardStatus)]) {
    let mut family =
        page.gauge("forwarder_forward_state", "Always 1; the state in which a forward is.");
    for (([vhost, app, stream], to), status) in forwards {
        let (to, state) = (("destination", *to), ("state", &*status.state));
        family.with(&[("vhost", vhost), ("app", app), ("stream", stream), to, state], 1);
    }
    fn all<V: Display>(
        forwards: &[((Name<'_>, &str), &ForwardStatus)],
        mut family: Family<'_>,
        value: fn(&ForwardStatus) -> V,
    ) {
        for (([vhost, app, stream], to), status) in forwards {
            let labels = [("vhost", *vhost), ("app", app), ("stream", stream), ("destination", to)];
            family.with(&labels, value(status));
        }
    }
    all(
        forwards,
        page.gauge(
            "forwarder_forward_up",
            "1 if a destination has accepted a stream and is connected, also while it is stalled.",
        ),
        |it| u8::from(matches!(&*it.state, "forwarding" | "stalled" | "draining")),
    );
    all(
        forwards,
        page.gauge(
            "forwarder_forward_stalled",
            "1 if it is up and nothing was acknowledged for two seconds.",
        ),
        |it| u8::from(it.state == "stalled"),
    );
    all(forwards, page.counter("forwarder_forward_send_bytes_total", "Bytes sent."), |it| {
        it.sent_bytes
    });
    all(
        forwards,
        page.gauge("forwarder_forward_lag_seconds", "How far behind the live edge it reads."),
        |it| it.lag_ms as f64 / 1e3,
    );
    all(
        forwards,
        page.gauge("forwarder_forward_queue_bytes", "Bytes it still has to be sent."),
        |it| it.queue_bytes,
    );
    all(forwards, page.counter("forwarder_forward_skips_total", "Skips to a keyframe."), |it| {
        it.skips
    });
    all(
        forwards,
        page.counter("forwarder_forward_connects_total", "Successful connects to a destination."),
        |it| it.connects,
    );
    all(
        forwards,
        page.gauge("forwarder_forward_attempts", "Attempts since it last forwarded."),
        |it| it.attempt,
    );
    all(
        forwards,
        page.gauge(
            "forwarder_forward_last_success_timestamp_seconds",
            "When it last forwarded, since 1970; 0: never.",
        ),
        |it| it.last_success_ms as f64 / 1e3,
    );
}

fn of_pulls(page: &mut Page, pulls: &[(Name<'_>, &PullStatus)]) {
    let mut family = page
        .gauge("forwarder_pull_state", "Always 1; the state of a pull, and the origin asked last.");
    for ([vhost, app, stream], status) in pulls {
        let (origin, state) = (("origin", &*status.origin), ("state", &*status.state));
        family.with(&[("vhost", vhost), ("app", app), ("stream", stream), origin, state], 1);
    }
    let all = |mut family: Family<'_>, value: fn(&PullStatus) -> u64| {
        for ([vhost, app, stream], status) in pulls {
            family.with(&[("vhost", vhost), ("app", app), ("stream", stream)], value(status));
        }
    };
    all(page.gauge("forwarder_pull_up", "1 if an origin sends the stream."), |it| {
        u64::from(it.state == "pulling")
    });
    all(page.gauge("forwarder_pull_players", "Players for whom it is pulled."), |it| {
        it.players as u64
    });
    all(page.counter("forwarder_pull_receive_bytes_total", "Bytes from origins."), |it| {
        it.received_bytes
    });
    all(page.counter("forwarder_pull_connects_total", "Successful connects to origins."), |it| {
        it.connects
    });
    all(page.gauge("forwarder_pull_attempts", "Attempts since it last pulled."), |it| {
        u64::from(it.attempt)
    });
    all(
        page.counter(
            "forwarder_pull_repeated_messages_total",
            "Messages left out because players had them from another origin.",
        ),
        |it| it.repeated,
    );
}
