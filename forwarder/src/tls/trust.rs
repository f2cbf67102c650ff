//! Which targets are who they say.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::certificates::authorities;
use super::{HandshakeError, provider};

/// What the certificates of targets are verified with: read when it is needed first.
#[derive(Debug, Default)]
pub struct Trust(Mutex<Option<Known>>);

/// The authorities that are known, and the file that was read besides those of the system.
#[derive(Debug)]
struct Known {
    ca: Option<PathBuf>,
    config: Arc<ClientConfig>,
}

impl Trust {
    /// How to talk to a target whose certificate has to be good, by the system's authorities or by
    /// those in the file `ca`.
    pub(super) async fn strict(
        &self,
        ca: Option<&Path>,
    ) -> Result<Arc<ClientConfig>, HandshakeError> {
        let of_this = |known: &&Known| known.ca.as_deref() == ca;
        if let Some(known) = self.known().as_ref().filter(of_this) {
            return Ok(Arc::clone(&known.config));
        }
        let ca = ca.map(Path::to_owned);
        let file = ca.clone();
        let roots = spawn_blocking(move || roots(file.as_deref())).await;
        let roots = roots.map_err(|error| HandshakeError::new(error.to_string()))??;
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots);
        let config = Arc::new(builder.with_no_client_auth());
        *self.known() = Some(Known { ca, config: Arc::clone(&config) });
        Ok(config)
    }

    /// How to talk to a target that may be anybody.
    pub(super) fn lax() -> Result<Arc<ClientConfig>, HandshakeError> {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions()?.dangerous();
        let builder = builder.with_custom_certificate_verifier(Arc::new(Anybody(provider())));
        Ok(Arc::new(builder.with_no_client_auth()))
    }

    /// Has the authorities read again when they are needed next.
    pub fn forget(&self) {
        *self.known() = None;
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, HandshakeError> {
    let mut roots = match ca.map(authorities).transpose() {
        Ok(own) => own.unwrap_or_else(RootCertStore::empty),
        Err(error) => return Err(HandshakeError::new(error.to_string().replace('\n', "; "))),
    };
    let system = rustls_native_certs::load_native_certs();
    // Some systems have one in a form that nobody reads any more: the others count.
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        let errors: Vec<String> = system.errors.iter().map(ToString::to_string).collect();
        warn!(errors = errors.join("; "), "the system trusts no certificates");
        return Err(HandshakeError::new("no authority is trusted here; set `ca` of [tls]"));
    }
    Ok(roots)
}

/// Takes any certificate, if only its owner signs.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
