//! `rtmps`, which SRS has since 7.0.
use std::net::{Ipv4Addr, SocketAddr};

use super::super::values;
use super::parse::{Directive, Word};
use super::{ConfigError, Import, known};
use crate::tls::{CertificateFiles, Part};

/// Where SRS listens if nothing is said.
const SRS_PORT: u16 = 1443;

impl Import {
    /// `rtmps { enabled on; listen 1443; key server.key; cert server.crt; }`
    pub(super) fn rtmps(&mut self, directive: &Directive) -> Result<(), ConfigError> {
        let block = directive.block.as_deref().unwrap_or_default();
        let enabled = self.block_enabled(directive);
        let mut listen = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, SRS_PORT))];
        let (mut cert, mut key) = (None, None);
        for inner in self.first_of_each(block.iter().collect(), &[]) {
            match inner.name.text.as_str() {
                "enabled" => {}
                "listen" => listen = self.list(inner, values::parse_listen)?,
                "cert" => cert = Some(self.one(inner)?),
                "key" => key = Some(self.one(inner)?),
                _ => return Err(self.unknown(inner, known::RTMPS, &[])),
            }
        }
        if !enabled {
            return Ok(());
        }
        let (Some(cert), Some(key)) = (cert, key) else {
            let message = "rtmps is on and has no certificate\nadd `cert` and `key`";
            return Err(self.sources.error(directive.name.at, message));
        };
        let files = self.certificate(cert, key)?;
        let rtmps = &mut self.config.rtmps;
        (rtmps.enabled, rtmps.listen, rtmps.certificate) = (true, listen, vec![files]);
        Ok(())
    }

    fn certificate(&self, cert: &Word, key: &Word) -> Result<CertificateFiles, ConfigError> {
        let files =
            CertificateFiles { cert: cert.text.clone().into(), key: key.text.clone().into() };
        files.read().map_err(|error| {
            let at = if error.part == Part::Cert { cert.at } else { key.at };
            self.sources.error(at, &error.to_string())
        })?;
        Ok(files)
    }
}
