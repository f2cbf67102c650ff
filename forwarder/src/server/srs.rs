//! Streams and vhosts as SRS's API shows them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use super::clients::STANDBY;
use super::snapshot::Sampler;
use crate::config::{Config, DEFAULT_VHOST};
use crate::hub::Stream;
use crate::rtmp::amf0::{Reader, Value};
use crate::rtmp::flv;
use crate::rtmp::message::MediaKind;
use crate::status::srs::{SrsAudio, SrsPublish, SrsStream, SrsVhost, SrsVideo, id_of};
use crate::status::{ClientStatus, Kbps, StreamStatus};

/// All streams, by name.
pub(super) fn streams(sampler: &Sampler, clients: &[ClientStatus]) -> Vec<SrsStream> {
    let snapshot = sampler.snapshot();
    let id = |stream: &Arc<Stream>| {
        let key = stream.key();
        id_of(&[key.vhost(), key.app(), key.stream()])
    };
    let known: HashMap<String, Arc<Stream>> =
        sampler.streams().into_iter().map(|stream| (id(&stream), stream)).collect();
    let mut of_stream: HashMap<&str, Vec<&ClientStatus>> = HashMap::new();
    for client in clients {
        of_stream.entry(&client.stream).or_default().push(client);
    }
    let streams = snapshot.streams.iter().map(|status| {
        let id = id_of(&[&status.vhost, &status.app, &status.stream]);
        let clients = of_stream.remove(&*id).unwrap_or_default();
        let stream = known.get(&id);
        let mut shown = shown(id, status, &clients);
        if let Some(stream) = stream {
            describe(&mut shown, status, stream);
            shown.kbps = sampler.kbps(stream);
        }
        let legs = clients.iter().filter(|client| matches!(&*client.state, "kernel" | "user"));
        for leg in legs {
            // What a leg moves is in no counter of its stream; it comes once and goes once.
            let (bytes, kbps) = match leg.publish {
                true => (leg.recv_bytes, leg.kbps.recv_30s),
                false => (leg.send_bytes, leg.kbps.send_30s),
            };
            shown.send_bytes += bytes;
            shown.recv_bytes += bytes;
            shown.kbps.send_30s += kbps;
            shown.kbps.recv_30s += kbps;
        }
        shown
    });
    streams.collect()
}

/// All vhosts of the configuration, with what `streams` add up to.
pub(super) fn vhosts(config: &Config, streams: &[SrsStream]) -> Vec<SrsVhost> {
    let vhosts = config.vhosts.iter().map(|vhost| {
        let mut shown = SrsVhost {
            id: id_of(&[&vhost.name]),
            name: vhost.name.clone(),
            enabled: vhost.enabled,
            ..SrsVhost::default()
        };
        for stream in streams.iter().filter(|stream| stream.vhost == shown.id) {
            shown.streams += 1;
            shown.clients += stream.clients;
            shown.send_bytes += stream.send_bytes;
            shown.recv_bytes += stream.recv_bytes;
            shown.kbps = Kbps {
                recv_30s: shown.kbps.recv_30s + stream.kbps.recv_30s,
                send_30s: shown.kbps.send_30s + stream.kbps.send_30s,
            };
        }
        shown
    });
    vhosts.collect()
}

fn shown(id: String, status: &StreamStatus, clients: &[&ClientStatus]) -> SrsStream {
    let StreamStatus { vhost, app, stream, .. } = status;
    let publisher = clients.iter().find(|client| client.publish && client.state != STANDBY);
    let host = if vhost == DEFAULT_VHOST { "127.0.0.1" } else { vhost };
    let prefix = if vhost == DEFAULT_VHOST { "" } else { vhost };
    let live_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    SrsStream {
        id,
        name: stream.clone(),
        vhost: id_of(&[vhost]),
        app: app.clone(),
        tc_url: publisher
            .map_or_else(|| format!("rtmp://{host}/{app}"), |client| client.tc_url.clone()),
        url: format!("{prefix}/{app}/{stream}"),
        live_ms: u64::try_from(live_ms).unwrap_or(u64::MAX),
        clients: status.players + usize::from(!status.publisher.is_empty()),
        send_bytes: status.sent_bytes,
        recv_bytes: status.received_bytes,
        publish: SrsPublish {
            active: !status.publisher.is_empty(),
            cid: publisher.map(|client| client.id.clone()).unwrap_or_default(),
        },
        ..SrsStream::default()
    }
}

/// Adds what the stream's counters and headers say.
fn describe(shown: &mut SrsStream, status: &StreamStatus, stream: &Stream) {
    shown.frames = stream.counters.frames.load(Relaxed);
    let headers = stream.headers();
    let metadata = headers.metadata().and_then(|body| {
        let mut reader = Reader::new(body);
        // Its name stands before it.
        reader.read().ok()??;
        reader.read().ok()?
    });
    let pixels = |key: &str| {
        let number = metadata.as_ref().and_then(|all| all.get(key)).and_then(Value::as_number);
        number.map_or(0, |number| number as u32)
    };
    let header = |medium| headers.sequence_start(medium).map(|body| &body[..]).unwrap_or_default();
    // SRS writes H264.
    let codec = |name: &str| name.replace('.', "");
    shown.video = (!status.video.is_empty()).then(|| {
        let flv::Profile { profile, level } = flv::profile(header(MediaKind::Video));
        let (width, height) = (pixels("width"), pixels("height"));
        SrsVideo { codec: codec(&status.video), profile, level, width, height }
    });
    shown.audio = (!status.audio.is_empty()).then(|| {
        let flv::Sound { sample_rate, channels, profile } = flv::sound(header(MediaKind::Audio));
        SrsAudio { codec: codec(&status.audio), sample_rate, channel: channels, profile }
    });
}
