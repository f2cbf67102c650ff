//! URLs as operators write them.
use std::str::FromStr;

use super::key::{check_app, check_name};
use super::{DEFAULT_PORT, UrlError, check_text, elements, split_host, split_query};

/// An `rtmp://host[:port]/app/stream[?param]` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtmpUrl {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port, 1935 unless given.
    pub port: u16,
    /// App.
    pub app: String,
    /// Stream name with its parameters (what `publish` and `play` carry).
    pub stream: String,
}

impl FromStr for RtmpUrl {
    type Err = UrlError;

    /// The last element of the path is the stream, those before it are the app. Parameters of the
    /// app (`app?vhost=v/stream`) are put behind the stream.
    fn from_str(s: &str) -> Result<Self, UrlError> {
        check_text("URL", s)?;
        let (scheme, rest) = s.split_once("://").ok_or(UrlError::Scheme)?;
        if scheme.eq_ignore_ascii_case("rtmps") {
            return Err(UrlError::Tls);
        }
        if !scheme.eq_ignore_ascii_case("rtmp") {
            return Err(UrlError::Scheme);
        }
        let (path, mut query) = split_query(rest);
        let (authority, path) = path.split_once('/').unwrap_or((path, ""));
        let (host, port) = split_host(authority)?;
        check_name("host", host)?;
        let mut path = elements(path);
        if path.len() < 2
            && let Some((app_query, stream)) = query.rsplit_once('/')
        {
            query = app_query;
            path.extend(elements(stream));
        }
        let stream = if path.len() < 2 { None } else { path.pop() };
        let stream = stream.ok_or(UrlError::Empty("stream"))?;
        let app = path.join("/");
        check_app(&app)?;
        check_name("stream", stream)?;
        let separator = if query.is_empty() { "" } else { "?" };
        Ok(Self {
            host: host.to_owned(),
            port: port.unwrap_or(DEFAULT_PORT),
            app,
            stream: format!("{stream}{separator}{query}"),
        })
    }
}

impl RtmpUrl {
    /// `rtmp://host[:port]/app`, without the port if it is 1935.
    pub fn tc_url(&self) -> String {
        let Self { host, port, app, .. } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == DEFAULT_PORT {
            format!("rtmp://{host}/{app}")
        } else {
            format!("rtmp://{host}:{port}/{app}")
        }
    }
}
