//! TLS around RTMP: listeners with certificates that are read again when they change, and targets
//! whose certificates are verified.
//!
//! Whoever serves connections writes the same bytes to many sockets, and has the kernel move bytes
//! from one to another. TLS stays out of that: a connection with TLS is the socket on the wire and a
//! pair of sockets inside this process, and a [`Carrier`] moves the bytes between them.

mod carrier;
mod certificates;
mod trust;

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use carrier::Carrier;
pub use certificates::{CertificateFiles, Certificates, Part, Unusable, authorities};
pub use trust::Trust;

/// What a process needs for both.
#[derive(Debug, Default)]
pub struct Tls {
    /// Shown to clients.
    pub certificates: Arc<Certificates>,
    /// What targets are held to.
    pub trust: Trust,
    server: OnceLock<Arc<ServerConfig>>,
}

/// A server that we connect to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its name or address, which its certificate has to have.
    pub host: &'a str,
    /// Authorities besides those of the system, PEM.
    pub ca: Option<&'a Path>,
    /// It has to be who it says.
    pub verify: bool,
}

/// Why there is no TLS with a peer.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {why}")]
pub struct HandshakeError {
    why: String,
    /// The peer has closed before it said anything wrong.
    pub closed: bool,
}

impl Tls {
    /// Agrees on TLS with a client that has connected; it may take `within` for that. Gives our end
    /// of what it says, and the carrier that has to run for it.
    pub async fn accept(
        &self,
        wire: TcpStream,
        within: Duration,
    ) -> Result<(TcpStream, Carrier), HandshakeError> {
        let config = match self.server.get() {
            Some(config) => Arc::clone(config),
            None => {
                let made = certificates::server_config(&self.certificates)?;
                Arc::clone(self.server.get_or_init(|| made))
            }
        };
        let agreed = timeout(within, TlsAcceptor::from(config).accept(wire)).await;
        let tls = agreed.map_err(|_| no_handshake())?.map_err(|error| explain(&error))?;
        Ok(Carrier::begin(tls.into()).await?)
    }

    /// Agrees on TLS with a server that we have connected to, as [`Self::accept`].
    pub async fn connect(
        &self,
        wire: TcpStream,
        target: Target<'_>,
        within: Duration,
    ) -> Result<(TcpStream, Carrier), HandshakeError> {
        let tls = self.agree(wire, target, within).await?;
        Ok(Carrier::begin(tls.into()).await?)
    }

    /// As [`Self::connect`], for whoever speaks to the server through TLS itself.
    pub async fn agree(
        &self,
        wire: TcpStream,
        target: Target<'_>,
        within: Duration,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let name = ServerName::try_from(target.host.to_owned());
        let name = name.map_err(|error| HandshakeError::new(error.to_string()))?;
        let config = match target.verify {
            true => self.trust.strict(target.ca).await?,
            false => Trust::lax()?,
        };
        let agreed = timeout(within, TlsConnector::from(config).connect(name, wire)).await;
        agreed.map_err(|_| no_handshake())?.map_err(|error| match explain(&error) {
            closed if closed.closed => {
                HandshakeError::new("closed by the peer, which may not speak TLS")
            }
            other => other,
        })
    }

    /// Reads all files again: the certificates at `files` now, the authorities when
    /// they are needed next. See [`Certificates::reload`].
    pub fn reload(&self, files: &[CertificateFiles]) {
        self.certificates.reload(files);
        self.trust.forget();
    }
}

impl HandshakeError {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), closed: false }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        Self::new(error.to_string())
    }
}

fn no_handshake() -> HandshakeError {
    HandshakeError::new("no handshake in time")
}

/// What went wrong, in words for who reads the log.
fn explain(error: &io::Error) -> HandshakeError {
    use rustls::{CertificateError, Error, InvalidMessage};
    let closed = error.kind() == io::ErrorKind::UnexpectedEof;
    let why = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        // RFC 8446 section 5.1: a record begins with its type.
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "the peer does not speak TLS".to_owned()
        }
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "its certificate is of no authority that is trusted here, see `ca` of [tls]".to_owned()
        }
        // As `openssl req -x509` makes it: whoever trusts it trusts an authority, not a server.
        Some(Error::InvalidCertificate(CertificateError::Other(why)))
            if why.to_string().contains("CaUsedAsEndEntity") =>
        {
            "its certificate is that of an authority (CA:TRUE) and not of a server: have one made \
             with CA:FALSE, or name the target in `insecure` of [tls]"
                .to_owned()
        }
        Some(Error::AlertReceived(alert)) => format!("the peer refused: {alert:?}"),
        Some(error) => error.to_string(),
        None if closed => "closed by the peer".to_owned(),
        None => error.to_string(),
    };
    HandshakeError { why, closed }
}

/// The cryptography, the same for all.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
