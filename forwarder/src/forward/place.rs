//! One destination of a stream, however it was found.

use std::net::IpAddr;

use super::discovery::Found;
use crate::config::{Destination, ForwardUrl, Names};
use crate::rtmp::url::{StreamKey, UrlError};

/// Where a stream goes, and as what.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// With what is dialled, a name or an address. No stream has two forwards to the same.
    pub(super) url: ForwardUrl,
    /// The host it is an address of, if it was found by its name: servers are told that one.
    host: Option<String>,
    /// The publisher's parameters go along.
    pass_param: bool,
    /// Who named it, other than the configuration; may be empty.
    pub(super) found_by: String,
}

impl Place {
    /// As the configuration names it.
    pub(super) fn fixed(url: &ForwardUrl, pass_param: bool) -> Self {
        Self { url: url.clone(), host: None, pass_param, found_by: String::new() }
    }

    /// What was found for `url` by asking for `name`.
    pub(super) fn found(
        url: &ForwardUrl,
        pass_param: bool,
        found: &Found,
        name: impl ToString,
    ) -> Self {
        let (ip, port): (IpAddr, u16) = (found.address.ip(), found.address.port());
        let at = Destination { host: ip.to_string(), port, tls: url.at.tls };
        Self {
            url: url.moved_to(at),
            host: Some(found.name.clone()),
            pass_param,
            found_by: name.to_string(),
        }
    }

    /// What `connect` and `publish` say there of a stream that was published with the parameters
    /// `param`.
    pub(super) fn names(&self, key: &StreamKey, param: &str) -> Result<Names, UrlError> {
        let Some(host) = &self.host else { return self.url.names(key, param, self.pass_param) };
        let at = Destination { host: host.clone(), port: self.url.at.port, tls: self.url.at.tls };
        self.url.moved_to(at).names(key, param, self.pass_param)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_dialled_and_its_host_is_named() {
        let key = StreamKey::new("__defaultVhost__", "live", "a").expect("a name");
        let url: ForwardUrl = "rtmp://slaves.svc/[app]/x-[stream]".parse().expect("a URL");
        let address = "[2001:db8::7]:1936".parse().expect("an address");
        let found = Found { name: "slaves.svc".into(), address };
        let place = Place::found(&url, false, &found, "dns+slaves.svc:1935");
        assert_eq!(place.url.to_string(), "rtmp://[2001:db8::7]:1936/[app]/***[stream]");
        assert_eq!(place.names(&key, "").expect("names").tc_url, "rtmp://slaves.svc:1936/live");
        let plain: ForwardUrl = "slaves.svc".parse().expect("a place");
        let place = Place::found(&plain, true, &found, "");
        assert_eq!(place.url.to_string(), "[2001:db8::7]:1936");
        assert_eq!(place.names(&key, "t=1").expect("names").tc_url, "rtmp://slaves.svc:1936/live");
        assert_eq!(Place::fixed(&plain, true).names(&key, "t=1").expect("names").stream, "a?t=1");
    }
}
