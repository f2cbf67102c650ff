//! `[rtmps]` and `[tls]`
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::destination::RTMPS_PORT;
use super::{Destination, serial};
use crate::tls::CertificateFiles;

/// `[rtmps]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtmps {
    /// Off by default. On: there is a certificate, and all can be read.
    pub enabled: bool,
    /// Listeners for RTMP in TLS, as `listen`; port 443 by default.
    #[serde(deserialize_with = "serial::listens", serialize_with = "serial::write_list")]
    pub listen: Vec<SocketAddr>,
    /// How long a client may take for the handshake of TLS.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub handshake_timeout: Duration,
    /// What clients are shown: the first that is for the name they ask for, else the first.
    pub certificate: Vec<CertificateFiles>,
}

/// `[tls]`: what is asked of destinations, origins and backends with TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Targets {
    /// A file with authorities that are trusted besides those of the system, PEM.
    #[serde(deserialize_with = "serial::optional_path", serialize_with = "serial::write_path")]
    pub ca: Option<PathBuf>,
    /// Those whose certificates are not verified, `rtmps://host[:port]` or `https://host[:port]`.
    #[serde(
        deserialize_with = "serial::secure_destinations",
        serialize_with = "serial::write_list"
    )]
    pub insecure: Vec<Destination>,
}

impl Default for Rtmps {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, RTMPS_PORT))],
            handshake_timeout: Duration::from_secs(10),
            certificate: Vec::new(),
        }
    }
}
