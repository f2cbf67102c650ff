//! One destination of a stream, however it was found.

use std::net::SocketAddr;

use super::discovery::Found;
use crate::config::{Destination, ForwardUrl, Names};
use crate::rtmp::url::{StreamKey, UrlError};

/// Where a stream goes, and as what.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// With what is dialled, a name or an address. No stream has two forwards to the same.
    pub(super) url: ForwardUrl,
    /// The name and address, if it was found by its name: servers are told the name.
    found: Option<Found>,
    /// The publisher's parameters go along.
    pass_param: bool,
    /// Who named it, other than the configuration; may be empty.
    pub(super) found_by: String,
}

impl Place {
    /// As it is named by the configuration, or by somebody else.
    pub(super) fn fixed(url: &ForwardUrl, pass_param: bool, found_by: &str) -> Self {
        Self { url: url.clone(), found: None, pass_param, found_by: found_by.to_owned() }
    }

    /// What was found for `url` by asking for `name`.
    pub(super) fn found(
        url: &ForwardUrl,
        pass_param: bool,
        found: &Found,
        name: impl ToString,
    ) -> Self {
        let (host, port) = (found.address.ip().to_string(), found.address.port());
        Self {
            url: url.moved_to(Destination { host, port, tls: url.at.tls }),
            found: Some(found.clone()),
            pass_param,
            found_by: name.to_string(),
        }
    }

    /// Whether the same goes to the same; by whom it is named makes no difference.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.url == other.url && self.pass_param == other.pass_param
    }

    /// The server, and its address if that is known.
    pub(super) fn dialled(&self) -> (Destination, Option<SocketAddr>) {
        let Some(Found { name, address }) = &self.found else { return (self.url.at.clone(), None) };
        let (host, port) = (name.clone(), address.port());
        (Destination { host, port, tls: self.url.at.tls }, Some(*address))
    }

    /// What `connect` and `publish` say there of a stream that was published with the parameters
    /// `param`.
    pub(super) fn names(&self, key: &StreamKey, param: &str) -> Result<Names, UrlError> {
        let (server, _) = self.dialled();
        self.url.moved_to(server).names(key, param, self.pass_param)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_dialled_and_its_host_is_named() {
        let key = StreamKey::new("__defaultVhost__", "live", "a").expect("a name");
        let url: ForwardUrl = "rtmps://slaves.svc/[app]/x-[stream]".parse().expect("a URL");
        let address = "[2001:db8::7]:1936".parse().expect("an address");
        let found = Found { name: "slaves.svc".into(), address };
        let place = Place::found(&url, false, &found, "dns+slaves.svc:1935");
        assert_eq!(place.url.to_string(), "rtmps://[2001:db8::7]:1936/[app]/***[stream]");
        assert_eq!(place.names(&key, "").expect("names").tc_url, "rtmps://slaves.svc:1936/live");
        let (server, dialled) = place.dialled();
        assert_eq!(
            (server.to_string(), dialled),
            ("rtmps://slaves.svc:1936".into(), Some(address))
        );
        let plain: ForwardUrl = "slaves.svc".parse().expect("a place");
        let place = Place::found(&plain, true, &found, "");
        assert_eq!(place.url.to_string(), "[2001:db8::7]:1936");
        assert_eq!(place.names(&key, "t=1").expect("names").tc_url, "rtmp://slaves.svc:1936/live");
        let place = Place::fixed(&plain, true, "");
        assert_eq!(place.names(&key, "t=1").expect("names").stream, "a?t=1");
        assert_eq!(place.dialled(), (plain.at, None));
    }
}
