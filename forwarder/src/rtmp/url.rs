//! Names and URLs (RTMP.md 2.4).

/// What identifies a stream: vhost, app and stream name. Parts compare byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    vhost: String,
    app: String,
    stream: String,
}

impl StreamKey {
    /// Checks each part: 1..=255 bytes, no control bytes, no "..", no backslash, no leading dot,
    /// '/' only inside app (at most 4 parts).
    pub fn new(_vhost: &str, _app: &str, _stream: &str) -> Result<Self, UrlError> {
        todo!()
    }
    /// The vhost's name.
    pub fn vhost(&self) -> &str {
        &self.vhost
    }
    /// The app.
    pub fn app(&self) -> &str {
        &self.app
    }
    /// The stream's name, without parameters.
    pub fn stream(&self) -> &str {
        &self.stream
    }
}

/// Why a name or URL was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// A part that must not be empty is.
    #[error("empty {0}")]
    Empty(&'static str),
}

/// What a client asked for, by SRS's normalisation of app, tcUrl and stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Vhost asked for: `vhost` or `domain` parameter, else the tcUrl's host. Not yet matched
    /// against the configured ones.
    pub vhost: String,
    /// App.
    pub app: String,
    /// Stream name without parameters.
    pub stream: String,
    /// Parameters without the leading `?` and without `vhost`/`domain`; may be empty.
    pub param: String,
}

impl Request {
    /// Resolves what `connect` and `publish`/`play` carried.
    pub fn resolve(_tc_url: &str, _app: &str, _stream: &str) -> Result<Self, UrlError> {
        todo!()
    }
}

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

impl std::str::FromStr for RtmpUrl {
    type Err = UrlError;
    fn from_str(_s: &str) -> Result<Self, UrlError> {
        todo!()
    }
}
impl RtmpUrl {
    /// `rtmp://host[:port]/app`.
    pub fn tc_url(&self) -> String {
        todo!()
    }
}
