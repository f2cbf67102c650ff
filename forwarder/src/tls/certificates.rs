//! The certificates that we show, by the name a client asks for.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::provider;

/// Largest file that is read: a chain has some KiB, all authorities of a system some hundred.
const MAX_FILE: u64 = 4 << 20;

/// All certificates of the process.
#[derive(Debug, Default)]
pub struct Certificates {
    shown: RwLock<Arc<[Arc<CertifiedKey>]>>,
    /// Of the files when they were last looked at, whether they could be used or not.
    seen: Mutex<Vec<Stamp>>,
}

/// Where a certificate and its key are, both PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate, and behind it those that vouch for it.
    pub cert: PathBuf,
    /// Its private key, without a password.
    pub key: PathBuf,
}

/// The file that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// That of the certificate.
    Cert,
    /// That of its key.
    Key,
}

/// Why a file cannot be used, and the mend in a second line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct Unusable {
    /// Which of a pair.
    pub part: Part,
    path: String,
    why: String,
}

/// Tells one version of a file from another: device, inode, length, time of change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Certificates {
    /// Reads the pairs of certificate and key at `files`, and shows them from now on. With none that
    /// can be used all stay as they were.
    pub fn load(&self, files: &[CertificateFiles]) -> Result<(), Unusable> {
        *self.seen() = stamps(files);
        let pairs = files.iter().map(CertificateFiles::read);
        let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = pairs.into();
        Ok(())
    }

    /// Reads them again, and says what came of it: connections keep what they were shown, and if
    /// what is there now cannot be used the old ones are shown on.
    pub fn reload(&self, files: &[CertificateFiles]) {
        match self.load(files) {
            Ok(()) => info!(pairs = files.len(), "certificates read again"),
            Err(error) => {
                let error = error.to_string().replace('\n', "; ");
                warn!(%error, "certificates not read again: those from before stay");
            }
        }
    }

    /// Reads them again if the files are not those from before.
    pub fn follow(&self, files: &[CertificateFiles]) {
        if *self.seen() != stamps(files) {
            self.reload(files);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Stamp>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Certificates {
    /// The first that is for the name; for any other name, and for none, the first.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner));
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |pair: &&Arc<CertifiedKey>| {
            name.as_ref().is_some_and(|name| {
                let parsed = pair.end_entity_cert().and_then(ParsedCertificate::try_from);
                parsed.is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
            })
        };
        shown.iter().find(fits).or(shown.first()).cloned()
    }
}

impl CertificateFiles {
    /// Reads both.
    pub fn read(&self) -> Result<Arc<CertifiedKey>, Unusable> {
        let (cert, key) = (&self.cert, &self.key);
        let bad_cert = |why: &dyn fmt::Display| Unusable::new(Part::Cert, cert, why);
        let bad_key = |why: &dyn fmt::Display| Unusable::new(Part::Key, key, why);
        let chain = read_all(cert).map_err(|why| bad_cert(&why))?;
        if chain.is_empty() {
            return Err(bad_cert(
                &"no certificate in it\nPEM is wanted: -----BEGIN CERTIFICATE-----",
            ));
        }
        let text = read_file(key).map_err(|error| bad_key(&error))?;
        let no_key =
            "no private key in it\nPEM without a password is wanted: -----BEGIN PRIVATE KEY-----";
        let der = PrivateKeyDer::from_pem_slice(&text).map_err(|_| bad_key(&no_key))?;
        let pair =
            CertifiedKey::from_der(chain, der, &provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    let cert = cert.display();
                    bad_key(&format!(
                        "this key does not belong to {cert}\ngive the pair that was made together"
                    ))
                }
                rustls::Error::InvalidCertificate(_) => bad_cert(&error),
                error => bad_key(&error),
            })?;
        Ok(Arc::new(pair))
    }
}

/// How clients are talked to.
pub(super) fn server_config(
    certificates: &Arc<Certificates>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    let resolver: Arc<dyn ResolvesServerCert> = Arc::<Certificates>::clone(certificates);
    Ok(Arc::new(builder.with_cert_resolver(resolver)))
}

/// The authorities in the file at `path`, PEM; at least one.
pub fn authorities(path: &Path) -> Result<RootCertStore, Unusable> {
    let bad = |why: &dyn fmt::Display| Unusable::new(Part::Cert, path, why);
    let mut roots = RootCertStore::empty();
    for cert in read_all(path).map_err(|why| bad(&why))? {
        roots.add(cert).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() {
        return Err(bad(&"no certificate in it\nPEM is wanted: -----BEGIN CERTIFICATE-----"));
    }
    Ok(roots)
}

fn read_all(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read_file(path).map_err(|error| error.to_string())?;
    let all = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    all.map_err(|error| format!("it is not PEM: {error}"))
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other("it is too large"));
    }
    fs::read(path)
}

fn stamps(files: &[CertificateFiles]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let data = fs::metadata(path).ok()?;
        Some((data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
    };
    files.iter().flat_map(|pair| [&pair.cert, &pair.key]).map(stamp).collect()
}

impl Unusable {
    fn new(part: Part, path: &Path, why: &dyn fmt::Display) -> Self {
        Self { part, path: path.display().to_string(), why: why.to_string() }
    }
}
