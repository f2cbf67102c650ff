//! What SRS's API tells, in its shape: fields, types and units as its consoles and scripts read them.

use rand::distr::{Alphanumeric, SampleString as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Kbps;

/// Ids in the form of SRS's, drawn at each start.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Which server.
    pub server: String,
    /// Which run of it.
    pub service: String,
}

impl Identity {
    /// New ones.
    pub fn draw() -> Self {
        let draw = |n| Alphanumeric.sample_string(&mut rand::rng(), n).to_lowercase();
        Self { server: format!("vid-{}", draw(7)), service: draw(8) }
    }
}

/// One vhost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SrsVhost {
    /// See [`id_of`].
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it takes clients.
    pub enabled: bool,
    /// Publishers and players.
    pub clients: usize,
    /// Streams with a publisher or players.
    pub streams: usize,
    /// Bytes sent for its streams, since these came.
    pub send_bytes: u64,
    /// Bytes received for its streams, since these came.
    pub recv_bytes: u64,
    /// Kilobits a second.
    pub kbps: Kbps,
    /// Never enabled.
    pub hls: SrsHls,
}

/// `hls` of a vhost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SrsHls {
    /// False: there is none.
    pub enabled: bool,
}

/// One stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SrsStream {
    /// See [`id_of`].
    pub id: String,
    /// Its name.
    pub name: String,
    /// Id of its vhost.
    pub vhost: String,
    /// Its app.
    pub app: String,
    /// As its publisher said; without one, or if that is an origin, what a client would say.
    #[serde(rename = "tcUrl")]
    pub tc_url: String,
    /// `/app/stream`, behind the vhost's name if that is not the default.
    pub url: String,
    /// The time now, milliseconds since 1970.
    pub live_ms: u64,
    /// Publisher and players.
    pub clients: usize,
    /// Video frames received.
    pub frames: u64,
    /// Bytes sent.
    pub send_bytes: u64,
    /// Bytes received.
    pub recv_bytes: u64,
    /// Kilobits a second.
    pub kbps: Kbps,
    /// Who publishes.
    pub publish: SrsPublish,
    /// None until there was video.
    pub video: Option<SrsVideo>,
    /// None until there was audio.
    pub audio: Option<SrsAudio>,
}

/// `publish` of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SrsPublish {
    /// Whether there is a publisher.
    pub active: bool,
    /// Its id among the clients; empty if it is none of them.
    pub cid: String,
}

/// `video` of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SrsVideo {
    /// Such as `H264`.
    pub codec: String,
    /// Such as `High`; may be empty.
    pub profile: String,
    /// Such as `3.1`; may be empty.
    pub level: String,
    /// Pixels, as the metadata has it; 0 if it has not.
    pub width: u32,
    /// As `width`.
    pub height: u32,
}

/// `audio` of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SrsAudio {
    /// Such as `AAC`.
    pub codec: String,
    /// Hz; 0 if it is not known.
    pub sample_rate: u32,
    /// Channels; 0 if it is not known.
    pub channel: u8,
    /// Such as `LC`; may be empty.
    pub profile: String,
}

/// `data` of the summaries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Whether the figures could be read.
    pub ok: bool,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// This process.
    #[serde(rename = "self")]
    pub own: SummaryProcess,
    /// The host.
    pub system: SummarySystem,
}

/// `self` of the summaries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "SRS's names")]
pub struct SummaryProcess {
    pub version: String,
    pub pid: u32,
    pub ppid: u32,
    pub argv: String,
    pub cwd: String,
    pub mem_kbyte: u64,
    /// Of the host's memory, 0 to 1.
    pub mem_percent: f64,
    /// Of one core, 0 to 1 and more, since the last look or since start.
    pub cpu_percent: f64,
    /// Seconds since start.
    pub srs_uptime: u64,
}

/// `system` of the summaries; what the disks do is not looked at, and 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "SRS's names")]
#[expect(non_snake_case, reason = "SRS's names")]
pub struct SummarySystem {
    /// Of all cores, 0 to 1, since the last look or since the host started.
    pub cpu_percent: f64,
    pub disk_read_KBps: u64,
    pub disk_write_KBps: u64,
    pub disk_busy_percent: f64,
    pub mem_ram_kbyte: u64,
    pub mem_ram_percent: f64,
    pub mem_swap_kbyte: u64,
    pub mem_swap_percent: f64,
    pub cpus: usize,
    pub cpus_online: usize,
    pub uptime: f64,
    pub ilde_time: f64,
    pub load_1m: f64,
    pub load_5m: f64,
    pub load_15m: f64,
    pub net_sample_time: u64,
    pub net_recv_bytes: u64,
    pub net_send_bytes: u64,
    pub net_recvi_bytes: u64,
    pub net_sendi_bytes: u64,
    pub srs_sample_time: u64,
    pub srs_recv_bytes: u64,
    pub srs_send_bytes: u64,
    pub conn_sys: u64,
    pub conn_sys_et: u64,
    pub conn_sys_tw: u64,
    pub conn_sys_udp: u64,
    pub conn_srs: u64,
}

/// An id in the form of SRS's, `vid-` and seven letters and digits. SRS draws them; ours follow
/// from the `parts` of a name, so they are the same after a restart, and on every server.
pub fn id_of(parts: &[&str]) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        // Names have no control characters.
        hash.update([0]);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut number = digest.iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    let mut id = "vid-".to_owned();
    for _ in 0..7 {
        id.push(char::from(DIGITS[(number % 36) as usize]));
        number /= 36;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_names() {
        let id = id_of(&["v", "live", "a"]);
        assert_eq!(id, id_of(&["v", "live", "a"]));
        assert!(id.len() == 11 && id.starts_with("vid-"), "{id}");
        assert_ne!(id, id_of(&["v", "livea"]));
        assert_ne!(id, id_of(&["v", "live", "b"]));
    }
}
