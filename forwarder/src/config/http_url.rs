//! Where an HTTP backend is.
use std::fmt;
use std::str::FromStr;

use hyper::Uri;

/// URL of a backend that is asked by HTTP: `http://host[:port][/path][?query]`, or `https://`.
///
/// Shown without its query, which may hold a key; [`Self::written`] has all of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl(Uri);

/// Why a text is no URL of a backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpUrlError {
    /// Another scheme, or none.
    #[error("a backend is a URL such as `http://127.0.0.1:8085/api/v1/hooks`")]
    Scheme,
    /// User and password, which would be sent to nobody.
    #[error("a backend's URL has no user in it\nput a key into its query")]
    User,
    /// No host, a bad port, or characters no URL has.
    #[error("not a URL")]
    Malformed,
}

impl HttpUrl {
    /// For a request.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// `host[:port]`, as in the text.
    pub fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    /// The whole text.
    pub fn written(&self) -> String {
        self.0.to_string()
    }
}

impl FromStr for HttpUrl {
    type Err = HttpUrlError;

    fn from_str(text: &str) -> Result<Self, HttpUrlError> {
        match text.split_once("://") {
            Some((scheme, _))
                if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {}
            _ => return Err(HttpUrlError::Scheme),
        }
        let uri: Uri = text.parse().map_err(|_| HttpUrlError::Malformed)?;
        let authority = uri.authority().ok_or(HttpUrlError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(HttpUrlError::User);
        }
        let after_host = authority.as_str().get(authority.host().len()..).unwrap_or_default();
        let port_is_good = match after_host.strip_prefix(':') {
            Some(port) => port.parse::<u16>().is_ok_and(|port| port != 0),
            None => after_host.is_empty(),
        };
        if authority.host().is_empty() || !port_is_good {
            return Err(HttpUrlError::Malformed);
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{}{}", self.authority(), self.0.path())?;
        if self.0.query().is_some() { f.write_str("?***") } else { Ok(()) }
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_their_query() {
        for (text, authority, shown) in [
            ("http://h/a", "h", "http://h/a"),
            ("HTTP://h:8085/a/b", "h:8085", "http://h:8085/a/b"),
            ("http://[::1]:80/a?key=hush", "[::1]:80", "http://[::1]:80/a?***"),
            ("http://h", "h", "http://h/"),
            ("HTTPS://h:8443/a?k=v", "h:8443", "https://h:8443/a?***"),
        ] {
            let url: HttpUrl = text.parse().expect(text);
            assert_eq!(url.authority(), authority);
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.into(), shown.into()));
            assert_eq!(url.written().parse(), Ok(url));
        }
    }

    #[test]
    fn what_is_no_backend_is_refused() {
        for (text, want) in [
            ("httpss://h/a", HttpUrlError::Scheme),
            ("https://u:p@h/a", HttpUrlError::User),
            ("rtmp://h/a", HttpUrlError::Scheme),
            ("h:80/a", HttpUrlError::Scheme),
            ("", HttpUrlError::Scheme),
            ("http://u:p@h/a", HttpUrlError::User),
            ("http://h:0/a", HttpUrlError::Malformed),
            ("http://h:/a", HttpUrlError::Malformed),
            ("http://h:66666/a", HttpUrlError::Malformed),
            ("http:///a", HttpUrlError::Malformed),
            ("http://h/a b", HttpUrlError::Malformed),
        ] {
            assert_eq!(text.parse::<HttpUrl>(), Err(want), "{text}");
        }
    }
}
