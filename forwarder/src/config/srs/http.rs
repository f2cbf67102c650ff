//! `http_server`, and `http_remux` of a vhost.
use super::super::{HttpRemux, http_server, values};
use super::parse::Directive;
use super::{ConfigError, Import, known};

/// Where SRS puts FLV streams unless told otherwise, and the same for every vhost.
const MOUNTS: [&str; 2] = ["[vhost]/[app]/[stream].flv", "/[app]/[stream].flv"];

impl Import {
    pub(super) fn http_server(&mut self, directive: &Directive) -> Result<(), ConfigError> {
        let block = directive.block.as_deref().unwrap_or_default();
        let enabled = self.block_enabled(directive);
        self.config.http_server.enabled = enabled;
        for inner in self.first_of_each(block.iter().collect(), &[]) {
            match inner.name.text.as_str() {
                "enabled" => {}
                "listen" => {
                    self.config.http_server.listen = self.list(inner, values::parse_listen)?;
                }
                "crossdomain" => self.config.http_server.crossdomain = self.not_off(inner),
                "dir" if enabled => self.note(inner, "streams are served, and no files"),
                "https" if enabled && self.block_enabled(inner) => {
                    self.note(inner, "it speaks HTTP");
                }
                "dir" | "https" => {}
                _ => return Err(self.unknown(inner, known::HTTP_SERVER, &[])),
            }
        }
        Ok(())
    }

    /// Refuses an address of `http_server` that somebody else has.
    pub(super) fn check_http_server(&self, directives: &[Directive]) -> Result<(), ConfigError> {
        let directive = directives.iter().find(|it| it.name.text == "http_server");
        match (directive, http_server::clash(&self.config)) {
            (Some(directive), Some(message)) => {
                Err(self.sources.error(directive.name.at, &message))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn http_remux(
        &mut self,
        remux: &mut HttpRemux,
        directive: &Directive,
        block: &[Directive],
    ) -> Result<(), ConfigError> {
        remux.enabled = self.block_enabled(directive);
        for inner in self.first_of_each(block.iter().collect(), &[]) {
            let value = inner.args.first().map_or("", |word| word.text.as_str());
            match inner.name.text.as_str() {
                "guess_has_av" => remux.guess_has_av = self.not_off(inner),
                "has_audio" => remux.has_audio = self.not_off(inner),
                "has_video" => remux.has_video = self.not_off(inner),
                "mount" if remux.enabled && !MOUNTS.contains(&value) => {
                    self.note(inner, "streams are FLV, at /[app]/[stream].flv of each vhost");
                }
                "drop_if_not_match" if remux.enabled && value == "off" => {
                    self.note(inner, "what is not to be there is not sent");
                }
                "fast_cache" if remux.enabled && value.parse() != Ok(0.0_f64) => {
                    self.note(inner, "it is for MP3 and AAC, which are not served");
                }
                name if known::HTTP_REMUX.contains(&name) => {}
                _ => return Err(self.unknown(inner, known::HTTP_REMUX, &[])),
            }
        }
        if remux.enabled && remux.is_empty() {
            return Err(self.sources.error(directive.name.at, http_server::EMPTY));
        }
        Ok(())
    }
}
