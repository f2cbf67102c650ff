//! What stands in the lists of destinations: one place, or a name that DNS turns into several.
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::destination::DEFAULT_PORT;
use super::{ForwardUrl, ForwardUrlError};

/// A [`ForwardUrl`], perhaps with `dns+` or `srv+` before it, and then each address that is found is
/// a destination of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForwardTarget {
    /// How destinations are found; `None`: this is one, and the system looks its name up.
    pub discovery: Option<Discovery>,
    /// The destination, or what all that are found have in common.
    pub url: ForwardUrl,
}

/// How a name becomes destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Discovery {
    /// Each address of the name (A and AAAA), at the port that is written.
    Dns,
    /// Each address of each host that the service's records (SRV, RFC 2782) name, at their ports.
    Srv,
}

/// Why a text is nothing to forward to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardTargetError {
    /// Not one place.
    #[error(transparent)]
    Url(#[from] ForwardUrlError),
    /// There is nothing to look up.
    #[error("`{0}` is an address already\nleave the dns+ out")]
    Address(String),
    /// A name of another kind.
    #[error("`{0}` is not a service's name\nwrite \"srv+_rtmp._tcp.name\"")]
    Service(String),
    /// The records name the ports.
    #[error("a service's records name its ports\nleave the :{0} out")]
    Port(u16),
}

impl Discovery {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Dns => "dns+",
            Self::Srv => "srv+",
        }
    }
}

impl FromStr for ForwardTarget {
    type Err = ForwardTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        for discovery in [Discovery::Dns, Discovery::Srv] {
            if let Some(rest) = text.strip_prefix(discovery.prefix()) {
                let url: ForwardUrl = rest.parse()?;
                let host = &url.at.host;
                match discovery {
                    Discovery::Dns if host.parse::<IpAddr>().is_ok() => {
                        return Err(ForwardTargetError::Address(host.clone()));
                    }
                    Discovery::Srv if !host.starts_with('_') => {
                        return Err(ForwardTargetError::Service(host.clone()));
                    }
                    Discovery::Srv if url.at.authority() != *host => {
                        return Err(ForwardTargetError::Port(url.at.port));
                    }
                    _ => return Ok(Self { discovery: Some(discovery), url }),
                }
            }
        }
        Ok(Self { discovery: None, url: text.parse()? })
    }
}

impl ForwardTarget {
    /// The text that reads back as this one.
    pub fn written(&self) -> String {
        self.prefixed(self.url.written())
    }

    fn prefixed(&self, mut text: String) -> String {
        let Some(discovery) = self.discovery else { return text };
        let service = discovery == Discovery::Srv && !self.url.is_url();
        if service && let Some(name) = text.strip_suffix(&format!(":{DEFAULT_PORT}")) {
            text = name.to_owned();
        }
        format!("{}{text}", discovery.prefix())
    }
}

impl fmt::Display for ForwardTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefixed(self.url.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_says_how_destinations_are_found() {
        for (text, discovery, host, port, shown) in [
            ("slave:1936", None, "slave", 1936, "slave:1936"),
            ("dns+slaves", Some(Discovery::Dns), "slaves", 1935, "dns+slaves:1935"),
            ("dns+slaves:1936", Some(Discovery::Dns), "slaves", 1936, "dns+slaves:1936"),
            (
                "dns+rtmp://s/a/k-[stream]?t=1",
                Some(Discovery::Dns),
                "s",
                1935,
                "dns+rtmp://s/a/***[stream]?***",
            ),
            (
                "srv+_rtmp._tcp.s.svc",
                Some(Discovery::Srv),
                "_rtmp._tcp.s.svc",
                1935,
                "srv+_rtmp._tcp.s.svc",
            ),
            (
                "srv+rtmps://_rtmps._tcp.s",
                Some(Discovery::Srv),
                "_rtmps._tcp.s",
                443,
                "srv+rtmps://_rtmps._tcp.s:443",
            ),
            (
                "srv+rtmp://_rtmp._tcp.s/[app]/[stream]",
                Some(Discovery::Srv),
                "_rtmp._tcp.s",
                1935,
                "srv+rtmp://_rtmp._tcp.s/[app]/[stream]",
            ),
        ] {
            let target: ForwardTarget = text.parse().expect(text);
            assert_eq!(target.discovery, discovery, "{text}");
            assert_eq!((&*target.url.at.host, target.url.at.port), (host, port), "{text}");
            assert_eq!(target.to_string(), shown);
            assert_eq!(target.written().parse(), Ok(target), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_looked_up_is_refused() {
        for (text, want) in [
            ("dns+127.0.0.1:1935", "`127.0.0.1` is an address already\nleave the dns+ out"),
            ("dns+[::1]", "`::1` is an address already\nleave the dns+ out"),
            ("dns+", "`` is not a host name or address"),
            ("srv+slaves", "`slaves` is not a service's name\nwrite \"srv+_rtmp._tcp.name\""),
            ("srv+_rtmp._tcp.s:99", "a service's records name its ports\nleave the :99 out"),
            ("dns+srv+_rtmp._tcp.s", "`srv+_rtmp._tcp.s` is not a host name or address"),
        ] {
            let error = text.parse::<ForwardTarget>().expect_err(text);
            assert_eq!(error.to_string(), want, "{text}");
        }
    }
}
