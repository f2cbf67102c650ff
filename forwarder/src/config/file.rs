//! The TOML form.
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::error::{ConfigError, NOT_UTF8, Source, near_miss};
use super::{
    Config, Exporter, HttpApi, HttpServer, Log, Rtmps, Targets, Vhost, When, http_server, serial,
    values,
};
use crate::tls::{self, Part};

/// Reads a whole TOML configuration.
pub(super) fn read(source: &Source) -> Result<Config, ConfigError> {
    if let Some(at) = source.text.find(char::REPLACEMENT_CHARACTER) {
        return Err(source.error(at..at, NOT_UTF8));
    }
    let file: File = toml::from_str(&source.text).map_err(|error| explain(source, &error))?;
    let looks: SecondLook =
        toml::from_str(&source.text).map_err(|error| explain(source, &error))?;
    check_tls(source, &file, &looks)?;
    let default_chunk_size = file.chunk_size;
    let mut config = Config {
        listen: file.listen,
        max_connections: file.max_connections,
        threads: file.threads,
        pid: file.pid,
        resolver: file.resolver,
        drain_timeout: file.drain_timeout,
        drain_to: file.drain_to,
        kernel: file.kernel,
        kernel_backlog_limit: file.kernel_backlog_limit,
        io_uring: file.io_uring,
        rtmps: file.rtmps,
        tls: file.tls,
        log: file.log,
        http_api: file.http_api,
        exporter: file.exporter,
        http_server: file.http_server,
        vhosts: file.vhost,
    };
    if config.vhosts.is_empty() {
        config.vhosts.push(Vhost::default());
        config.vhosts[0].chunk_size = default_chunk_size.unwrap_or(config.vhosts[0].chunk_size);
    }
    for (i, look) in looks.vhost.iter().enumerate() {
        let (before, rest) = config.vhosts.split_at_mut(i);
        let Some(vhost) = rest.first_mut() else { break };
        if before.iter().any(|earlier| earlier.name == vhost.name) {
            return Err(
                source.error(look.span(), &format!("vhost `{}` stands here twice", vhost.name))
            );
        }
        let look = look.get_ref();
        if let (Some(size), None) = (default_chunk_size, &look.chunk_size) {
            vhost.chunk_size = size;
        }
        if let Some(enabled) = look.forward.as_ref().and_then(|forward| forward.enabled.as_ref())
            && vhost.forward.enabled
            && !vhost.forward.has_destination()
        {
            let message = "forward is on and has no destination\nadd destination = [\"host:1935\"]";
            return Err(source.error(enabled.span(), message));
        }
        if let Some(enabled) = look.edge.as_ref().and_then(|edge| edge.enabled.as_ref())
            && vhost.edge.enabled
            && vhost.edge.origin.is_empty()
        {
            let message = "edge is on and has no origin\nadd origin = [\"host:1935\"]";
            return Err(source.error(enabled.span(), message));
        }
        if let Some(remux) = &look.http_remux
            && vhost.http_remux.is_empty()
        {
            return Err(source.error(remux.span(), http_server::EMPTY));
        }
        if let Some(tokens) = &look.tokens
            && vhost.tokens.shuts_out()
        {
            let message = "a token is wanted that nobody can have\nadd a secret, or a publish_key or play_key";
            return Err(source.error(tokens.span(), message));
        }
    }
    if let Some(look) = looks.http_server
        && let Some(message) = http_server::clash(&config)
    {
        let span = look.listen.map(|listen| listen.span()).or(look.enabled.map(|it| it.span()));
        return Err(source.error(span.unwrap_or_default(), &message));
    }
    Ok(config)
}

/// Certificates that are needed can be used.
fn check_tls(source: &Source, file: &File, looks: &SecondLook) -> Result<(), ConfigError> {
    if let (Some(ca), Some(look)) = (&file.tls.ca, &looks.tls.ca) {
        tls::authorities(ca).map_err(|error| source.error(look.span(), &error.to_string()))?;
    }
    let Some(enabled) = looks.rtmps.enabled.as_ref().filter(|_| file.rtmps.enabled) else {
        return Ok(());
    };
    if file.rtmps.certificate.is_empty() {
        let message = "rtmps is on and has no certificate\n\
                       add [[rtmps.certificate]] with cert = \"...\" and key = \"...\"";
        return Err(source.error(enabled.span(), message));
    }
    for (files, look) in file.rtmps.certificate.iter().zip(&looks.rtmps.certificate) {
        files.read().map_err(|error| {
            let at = match error.part {
                Part::Cert => &look.cert,
                Part::Key => &look.key,
            };
            source.error(at.span(), &error.to_string())
        })?;
    }
    Ok(())
}

/// The file's top level. All other tables deserialise into the public types themselves.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    #[serde(deserialize_with = "serial::listens")]
    listen: Vec<SocketAddr>,
    #[serde(deserialize_with = "serial::count::<_, _, 1, { values::CONNECTIONS_MAX }>")]
    max_connections: usize,
    #[serde(deserialize_with = "serial::count::<_, _, 0, { values::THREADS_MAX }>")]
    threads: usize,
    #[serde(deserialize_with = "serial::optional_path")]
    pid: Option<PathBuf>,
    #[serde(deserialize_with = "serial::resolver")]
    resolver: Option<SocketAddr>,
    #[serde(deserialize_with = "serial::duration")]
    drain_timeout: Duration,
    #[serde(deserialize_with = "serial::optional_server")]
    drain_to: Option<String>,
    kernel: When,
    #[serde(deserialize_with = "serial::bytes")]
    kernel_backlog_limit: usize,
    io_uring: bool,
    rtmps: Rtmps,
    tls: Targets,
    /// The default of the vhosts'.
    #[serde(deserialize_with = "serial::optional_chunk_size")]
    chunk_size: Option<u32>,
    log: Log,
    http_api: HttpApi,
    exporter: Exporter,
    http_server: HttpServer,
    #[serde(deserialize_with = "vhosts")]
    vhost: Vec<Vhost>,
}

impl Default for File {
    fn default() -> Self {
        let Config {
            listen,
            max_connections,
            threads,
            pid,
            resolver,
            drain_timeout,
            drain_to,
            kernel,
            kernel_backlog_limit,
            io_uring,
            rtmps,
            tls,
            log,
            http_api,
            exporter,
            http_server,
            ..
        } = Config::default();
        Self {
            listen,
            max_connections,
            threads,
            pid,
            resolver,
            drain_timeout,
            drain_to,
            kernel,
            kernel_backlog_limit,
            io_uring,
            rtmps,
            tls,
            chunk_size: None,
            log,
            http_api,
            exporter,
            http_server,
            vhost: Vec::new(),
        }
    }
}

/// What checks across keys need: which keys are there, and where.
#[derive(Deserialize)]
struct SecondLook {
    http_server: Option<HttpServerLook>,
    #[serde(default)]
    rtmps: RtmpsLook,
    #[serde(default)]
    tls: TlsLook,
    #[serde(default)]
    vhost: Vec<Spanned<VhostLook>>,
}

#[derive(Default, Deserialize)]
struct RtmpsLook {
    enabled: Option<Spanned<bool>>,
    #[serde(default)]
    certificate: Vec<CertificateLook>,
}

#[derive(Deserialize)]
struct CertificateLook {
    cert: Spanned<IgnoredAny>,
    key: Spanned<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct TlsLook {
    ca: Option<Spanned<IgnoredAny>>,
}

#[derive(Deserialize)]
struct VhostLook {
    chunk_size: Option<IgnoredAny>,
    forward: Option<SwitchLook>,
    edge: Option<SwitchLook>,
    http_remux: Option<Spanned<IgnoredAny>>,
    tokens: Option<Spanned<IgnoredAny>>,
}

#[derive(Deserialize)]
struct HttpServerLook {
    enabled: Option<Spanned<bool>>,
    listen: Option<Spanned<IgnoredAny>>,
}

#[derive(Deserialize)]
struct SwitchLook {
    enabled: Option<Spanned<bool>>,
}

/// The list of vhosts, with a mend for those who write it as one table.
fn vhosts<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Vhost>, D::Error> {
    struct Vhosts;

    impl<'de> Visitor<'de> for Vhosts {
        type Value = Vec<Vhost>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of vhosts")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Vhost>, A::Error> {
            let mut vhosts = Vec::new();
            while let Some(vhost) = items.next_element()? {
                vhosts.push(vhost);
            }
            Ok(vhosts)
        }

        fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Vec<Vhost>, A::Error> {
            Err(de::Error::custom("vhosts are a list\nwrite [[vhost]], in double brackets"))
        }
    }

    d.deserialize_any(Vhosts)
}

/// Puts toml's error into our words: the offending text, the place, and the mend for a key that
/// is not known.
fn explain(source: &Source, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    let message = error.message();
    let Some(expected) = message.strip_prefix("unknown field `") else {
        return source.error(span, message);
    };
    let key = source.text.get(span.clone()).unwrap_or_default().trim_matches(['"', '\'']);
    let known: Vec<&str> = match expected.split_once("`, expected ") {
        Some((_, known)) => known.split('`').skip(1).step_by(2).collect(),
        None => Vec::new(),
    };
    let mend = if let Some(meant) = near_miss(key, known.iter().copied()) {
        format!("did you mean `{meant}`?")
    } else if let Some(section) = section_of(key) {
        format!("`{key}` belongs {section}")
    } else {
        format!("known here: {}", known.join(", "))
    };
    source.error(span, &format!("unknown key `{key}`\n{mend}"))
}

/// Where a key is known.
fn section_of(key: &str) -> Option<String> {
    let defaults: toml::Table = toml::from_str(&Config::default().to_toml()).ok()?;
    if defaults.get(key).is_some_and(|value| !value.is_table()) {
        return Some("at the top, above every [table]".to_owned());
    }
    for section in ["rtmps", "tls", "log", "http_api", "exporter", "http_server"] {
        if defaults.get(section)?.as_table()?.contains_key(key) {
            return Some(format!("in [{section}]"));
        }
    }
    let vhost = defaults.get("vhost")?.get(0)?.as_table()?;
    if vhost.contains_key(key) {
        return Some("in [[vhost]]".to_owned());
    }
    const SECTIONS: [&str; 9] = [
        "play",
        "publish",
        "forward",
        "edge",
        "hooks",
        "security",
        "refer",
        "tokens",
        "http_remux",
    ];
    for section in SECTIONS {
        if vhost.get(section)?.as_table()?.contains_key(key) {
            return Some(format!("in [vhost.{section}]"));
        }
    }
    None
}
