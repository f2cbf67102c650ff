//! Where a forward goes.
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// RTMP's port, IANA "macromedia-fcs".
pub const DEFAULT_PORT: u16 = 1935;

/// RTMP's port where it is in TLS: that of HTTPS, as platforms have it.
pub const RTMPS_PORT: u16 = 443;

/// What stands before a destination with TLS.
const RTMPS: &str = "rtmps://";

/// Where to forward to, written `host[:port]` with IPv6 in brackets, or `rtmps://host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// RTMP is spoken in TLS there.
    pub tls: bool,
}

/// Why a text is no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DestinationError {
    /// A URL, where SRS's `destination` takes an address only.
    #[error("a destination is `host[:port]` or `rtmps://host[:port]`, not another URL")]
    Url,
    /// No host, or characters no host name has.
    #[error("`{0}` is not a host name or address")]
    Host(String),
    /// Colons without brackets.
    #[error("an IPv6 address stands in brackets: `[{0}]`")]
    Unbracketed(String),
    /// Not a number from 1 to 65535.
    #[error("`{0}` is not a port")]
    Port(String),
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix(RTMPS) {
            return Self::at(rest, true);
        }
        if text.contains("://") {
            return Err(DestinationError::Url);
        }
        Self::at(text, false)
    }
}

impl Destination {
    /// Reads `host[:port]`; the usual port goes without saying.
    pub(super) fn at(text: &str, tls: bool) -> Result<Self, DestinationError> {
        let bad_host = || DestinationError::Host(text.to_owned());
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(bad_host)?;
            host.parse::<Ipv6Addr>().map_err(|_| bad_host())?;
            let port = match rest {
                "" => None,
                _ => Some(rest.strip_prefix(':').ok_or_else(bad_host)?),
            };
            (host, port)
        } else if text.parse::<Ipv6Addr>().is_ok() {
            return Err(DestinationError::Unbracketed(text.to_owned()));
        } else {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            // RFC 1035 2.3.4: a name has at most 255 octets.
            if host.is_empty() || host.len() > 255 || !host.chars().all(plain) {
                return Err(bad_host());
            }
            (host, port)
        };
        let port = match port {
            None if tls => RTMPS_PORT,
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(number) if number > 0 => number,
                _ => return Err(DestinationError::Port(port.to_owned())),
            },
        };
        Ok(Self { host: host.to_owned(), port, tls })
    }

    /// `rtmp` or `rtmps`.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "rtmps" } else { "rtmp" }
    }

    /// As it stands in a URL: `host[:port]` without the port that goes without saying, which some
    /// servers compare.
    pub fn authority(&self) -> String {
        let usual = if self.tls { RTMPS_PORT } else { DEFAULT_PORT };
        let host = bracketed(&self.host);
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

/// A host as it stands in a URL.
pub fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { RTMPS } else { "" };
        write!(f, "{scheme}{}:{}", bracketed(&self.host), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_host_and_port() {
        for (text, host, port, shown) in [
            ("slave", "slave", 1935, "slave:1935"),
            ("127.0.0.1:19350", "127.0.0.1", 19350, "127.0.0.1:19350"),
            ("a-b_c.media.svc:1936", "a-b_c.media.svc", 1936, "a-b_c.media.svc:1936"),
            ("[::1]", "::1", 1935, "[::1]:1935"),
            ("[2001:db8::7]:19351", "2001:db8::7", 19351, "[2001:db8::7]:19351"),
            ("rtmps://slave", "slave", 443, "rtmps://slave:443"),
            ("rtmps://[::1]:1443", "::1", 1443, "rtmps://[::1]:1443"),
        ] {
            let destination: Destination = text.parse().expect(text);
            assert_eq!((destination.host.as_str(), destination.port), (host, port));
            assert_eq!(destination.to_string(), shown);
            assert_eq!(shown.parse(), Ok(destination));
        }
    }

    #[test]
    fn refuses_what_is_no_destination() {
        for (text, want) in [
            ("", "`` is not a host name or address"),
            (":1935", "`:1935` is not a host name or address"),
            ("a b", "`a b` is not a host name or address"),
            ("a/live", "`a/live` is not a host name or address"),
            ("[::1", "`[::1` is not a host name or address"),
            ("[::1]1935", "`[::1]1935` is not a host name or address"),
            ("[slave]:1935", "`[slave]:1935` is not a host name or address"),
            ("::1", "an IPv6 address stands in brackets: `[::1]`"),
            ("slave:", "`` is not a port"),
            ("slave:0", "`0` is not a port"),
            ("slave:65536", "`65536` is not a port"),
            ("slave:1935:1", "`1935:1` is not a port"),
            (
                "rtmp://slave/live",
                "a destination is `host[:port]` or `rtmps://host[:port]`, not another URL",
            ),
            ("rtmps://slave/live", "`slave/live` is not a host name or address"),
        ] {
            let error = text.parse::<Destination>().expect_err(text);
            assert_eq!(error.to_string(), want, "{text}");
        }
    }
}
