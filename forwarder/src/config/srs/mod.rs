//! SRS's `.conf` to our configuration.
//!
//! What the file sets is taken over; what it leaves out is our default, not SRS's. A directive
//! that SRS knows and we do not is an error if running without it would change who may do what or
//! where media goes, and a note otherwise. One that SRS does not know either is an error.
mod access;
mod http;
mod known;
mod parse;
mod rtmps;
#[cfg(test)]
mod tests;
mod vhost;

use std::collections::HashSet;
use std::path::Path;

use known::Idle;
use parse::{Directive, Sources, Word};

use super::error::{ConfigError, near_miss};
use super::{Config, Loaded, Vhost, values};

/// Imports `text`; errors and notes name it `name`, and `include` reads from `dir`.
pub(super) fn import(name: &str, text: &str, dir: Option<&Path>) -> Result<Loaded, ConfigError> {
    let (directives, sources) = parse::parse(name, text, dir)?;
    let config = Config { vhosts: Vec::new(), ..Config::default() };
    let mut import = Import { sources, config, chunk_size: None, notes: Vec::new() };
    import.root(&directives)?;
    Ok(Loaded { config: import.config, notes: import.notes })
}

struct Import {
    sources: Sources,
    config: Config,
    /// The vhosts' default, if the file has one.
    chunk_size: Option<u32>,
    notes: Vec<String>,
}

// === impl Import ===

impl Import {
    fn root(&mut self, directives: &[Directive]) -> Result<(), ConfigError> {
        let (vhosts, others): (Vec<_>, Vec<_>) =
            directives.iter().partition(|directive| directive.name.text == "vhost");
        for directive in self.first_of_each(others, &["stream_caster"]) {
            self.root_directive(directive)?;
        }
        // SRS 5 has the second name for levels as everybody else calls them; it goes first.
        for (name, srs_names) in [("srs_log_level_v2", false), ("srs_log_level", true)] {
            if let Some(directive) = directives.iter().find(|it| it.name.text == name) {
                self.config.log.level = self.log_level(directive, srs_names)?;
                break;
            }
        }
        for directive in vhosts {
            self.vhost(directive)?;
        }
        if self.config.vhosts.is_empty() {
            let vhost = self.new_vhost();
            self.config.vhosts.push(vhost);
        }
        self.check_http_server(directives)
    }

    fn new_vhost(&self) -> Vhost {
        let default = Vhost::default();
        Vhost { chunk_size: self.chunk_size.unwrap_or(default.chunk_size), ..default }
    }

    fn root_directive(&mut self, directive: &Directive) -> Result<(), ConfigError> {
        match directive.name.text.as_str() {
            "listen" => self.config.listen = self.list(directive, values::parse_listen)?,
            "pid" => self.config.pid = Some(self.one(directive)?.text.clone().into()),
            "max_connections" => {
                self.config.max_connections = self.number(directive, 1, values::CONNECTIONS_MAX)?;
            }
            "chunk_size" => self.chunk_size = Some(self.chunk_size(directive)?),
            "srs_log_level" | "srs_log_level_v2" => {}
            "http_api" => self.http_api(directive)?,
            "exporter" => self.exporter(directive)?,
            "http_server" => self.http_server(directive)?,
            "rtmps" => self.rtmps(directive)?,
            _ => {
                if !self.idle(directive, known::ROOT_IDLE)
                    && !self.feature(directive, known::ROOT_FEATURES)
                {
                    let tables = [known::ROOT_IDLE, known::ROOT_FEATURES];
                    return Err(self.unknown(directive, known::ROOT, &tables));
                }
            }
        }
        Ok(())
    }

    fn log_level(&self, directive: &Directive, srs_names: bool) -> Result<String, ConfigError> {
        let word = self.one(directive)?;
        let level = match (word.text.as_str(), srs_names) {
            ("verbose", _) => "trace",
            ("info", true) => "debug",
            ("trace", true) => "info",
            ("trace", false) => "trace",
            ("debug", _) => "debug",
            ("info", false) => "info",
            ("warn", _) => "warn",
            ("error", _) => "error",
            _ => return Err(self.bad_value(word, "verbose, info, trace, warn or error")),
        };
        Ok(level.to_owned())
    }

    fn http_api(&mut self, directive: &Directive) -> Result<(), ConfigError> {
        let block = directive.block.as_deref().unwrap_or_default();
        let enabled = self.block_enabled(directive);
        self.config.http_api.enabled = enabled;
        for inner in self.first_of_each(block.iter().collect(), &[]) {
            match inner.name.text.as_str() {
                "enabled" => {}
                "listen" => {
                    let word = self.one(inner)?;
                    self.config.http_api.listen = self.read(word, values::parse_listen)?;
                }
                "auth" if enabled && self.block_enabled(inner) => {
                    let why = "everybody who reaches the API could use it";
                    return Err(self.unsupported(inner, why));
                }
                "raw_api" => self.config.http_api.raw_reload = self.raw_reload(inner)?,
                "https" if enabled && self.block_enabled(inner) => {
                    self.note(inner, "the API speaks HTTP");
                }
                "crossdomain" => self.config.http_api.crossdomain = self.not_off(inner),
                "auth" | "https" => {}
                _ => return Err(self.unknown(inner, known::HTTP_API, &[])),
            }
        }
        Ok(())
    }

    /// `raw_api`: whether it may reload, the one thing of it that there is.
    fn raw_reload(&mut self, directive: &Directive) -> Result<bool, ConfigError> {
        let block = directive.block.as_deref().unwrap_or_default();
        let (mut enabled, mut reload) = (false, false);
        for inner in self.first_of_each(block.iter().collect(), &[]) {
            match inner.name.text.as_str() {
                "enabled" => enabled = self.on(inner),
                "allow_reload" => reload = self.on(inner),
                "allow_query" | "allow_update" => {
                    self.note(inner, "the API changes no configuration");
                }
                _ => return Err(self.unknown(inner, known::RAW_API, &[])),
            }
        }
        Ok(enabled && reload)
    }

    fn exporter(&mut self, directive: &Directive) -> Result<(), ConfigError> {
        let block = directive.block.as_deref().unwrap_or_default();
        self.config.exporter.enabled = self.block_enabled(directive);
        for inner in self.first_of_each(block.iter().collect(), &[]) {
            match inner.name.text.as_str() {
                "enabled" => {}
                "listen" => {
                    let word = self.one(inner)?;
                    self.config.exporter.listen = self.read(word, values::parse_listen)?;
                }
                "label" | "tag" => self.note(inner, "Prometheus adds labels to what it scrapes"),
                _ => return Err(self.unknown(inner, known::EXPORTER, &[])),
            }
        }
        Ok(())
    }

    // === what a directive may be ===

    /// The directives without those that repeat an earlier one: SRS looks up the first.
    fn first_of_each<'a>(
        &mut self,
        directives: Vec<&'a Directive>,
        several: &[&str],
    ) -> Vec<&'a Directive> {
        let mut names = HashSet::new();
        let mut firsts = Vec::new();
        for directive in directives {
            let name = directive.name.text.as_str();
            if names.insert(name) || several.contains(&name) {
                firsts.push(directive);
            } else {
                self.note(directive, "it stands here before, and SRS takes the first, as we do");
            }
        }
        firsts
    }

    /// Whether the directive is in the table; notes it if it asks for anything.
    fn idle(&mut self, directive: &Directive, table: &[Idle]) -> bool {
        let Some(known) = table.iter().find(|known| known.name == directive.name.text) else {
            return false;
        };
        let value = directive.args.first().map_or("", |word| word.text.as_str());
        if !known.fine.contains(&value) {
            self.note(directive, known.why);
        }
        true
    }

    /// Whether the block is in the table; notes it if it is on.
    fn feature(&mut self, directive: &Directive, table: &[Idle]) -> bool {
        let Some(known) = table.iter().find(|known| known.name == directive.name.text) else {
            return false;
        };
        if self.block_enabled(directive) {
            self.note(directive, known.why);
        }
        true
    }

    /// Whether a block has `enabled on`, SRS's way of turning on what is off by default.
    fn block_enabled(&mut self, directive: &Directive) -> bool {
        let block = directive.block.as_deref().unwrap_or_default();
        block.iter().find(|inner| inner.name.text == "enabled").is_some_and(|inner| self.on(inner))
    }

    /// A switch that is off by default: SRS turns it on for exactly `on`.
    fn on(&mut self, directive: &Directive) -> bool {
        self.note_if_neither(directive, "off");
        directive.args.first().is_some_and(|word| word.text == "on")
    }

    /// A switch that is on by default: SRS turns it off for exactly `off`.
    fn not_off(&mut self, directive: &Directive) -> bool {
        self.note_if_neither(directive, "on");
        directive.args.first().is_none_or(|word| word.text != "off")
    }

    fn note_if_neither(&mut self, directive: &Directive, taken: &str) {
        let value = directive.args.first().map_or("", |word| word.text.as_str());
        if !matches!(value, "on" | "off") {
            self.note(directive, &format!("it is neither on nor off, and SRS takes it as {taken}"));
        }
    }

    fn note(&mut self, directive: &Directive, why: &str) {
        let line = self.sources.line(directive.name.at);
        self.notes.push(format!("{line}: `{}` has no effect: {why}", shown(directive)));
    }

    // === values ===

    /// The only value of a directive.
    fn one<'a>(&self, directive: &'a Directive) -> Result<&'a Word, ConfigError> {
        let name = &directive.name;
        match directive.args.as_slice() {
            [value] => Ok(value),
            [] => Err(self.sources.error(name.at, &format!("`{}` needs a value", name.text))),
            [_, extra, ..] => {
                let message =
                    format!("`{}` takes one value\nis a `;` missing before this?", name.text);
                Err(self.sources.error(extra.at, &message))
            }
        }
    }

    /// All values of a directive, at least one, all different.
    fn list<T>(
        &self,
        directive: &Directive,
        form: fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError>
    where
        T: PartialEq + values::Repeatable + std::fmt::Display,
    {
        if directive.args.is_empty() {
            self.one(directive)?;
        }
        let mut items = Vec::new();
        for word in &directive.args {
            let item = self.read(word, form)?;
            items.push(
                values::unique(item, &items)
                    .map_err(|message| self.sources.error(word.at, &message))?,
            );
        }
        Ok(items)
    }

    fn read<T>(
        &self,
        word: &Word,
        form: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        form(&word.text).map_err(|message| self.sources.error(word.at, &message))
    }

    fn number<T: TryFrom<i64>>(
        &self,
        directive: &Directive,
        min: i64,
        max: i64,
    ) -> Result<T, ConfigError> {
        let word = self.one(directive)?;
        let Ok(number) = word.text.parse() else {
            return Err(self.bad_value(word, &format!("a whole number from {min} to {max}")));
        };
        self.read(word, |_| values::in_range(number, min, max))
    }

    fn chunk_size(&self, directive: &Directive) -> Result<u32, ConfigError> {
        self.number(directive, values::CHUNK_SIZE_MIN, values::CHUNK_SIZE_MAX)
    }

    // === refusals ===

    fn bad_value(&self, word: &Word, expected: &str) -> ConfigError {
        self.sources.error(word.at, &format!("expected {expected}, not `{}`", word.text))
    }

    fn unsupported(&self, directive: &Directive, why: &str) -> ConfigError {
        let message = format!(
            "`{}` is not supported\nwithout it, {why}; if that is fine, take it out",
            shown(directive)
        );
        self.sources.error(directive.name.at, &message)
    }

    fn unknown(&self, directive: &Directive, names: &[&str], tables: &[&[Idle]]) -> ConfigError {
        let name = &directive.name;
        let listed = tables.iter().flat_map(|table| table.iter().map(|known| known.name));
        let mend = near_miss(&name.text, names.iter().copied().chain(listed)).map_or_else(
            || "SRS does not know it here either".to_owned(),
            |meant| format!("did you mean `{meant}`?"),
        );
        self.sources.error(name.at, &format!("unknown directive `{}`\n{mend}", name.text))
    }
}

/// A directive in one short line.
fn shown(directive: &Directive) -> String {
    const MOST: usize = 60;
    let words = std::iter::once(&directive.name).chain(&directive.args);
    let line: Vec<&str> = words.map(|word| word.text.as_str()).collect();
    let line = line.join(" ");
    let clean: String = line.chars().filter(|c| !c.is_control()).take(MOST).collect();
    if clean.len() < line.len() { format!("{clean}...") } else { clean }
}
