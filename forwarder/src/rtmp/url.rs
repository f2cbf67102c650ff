//! Names and URLs.
//!
//! RTMP has no specification of its URLs. What a client means is spread over `connect`'s tcUrl and
//! the stream name of `publish` and `play`, and parameters may stand in either. [`Request`]
//! normalises as SRS does, so that links that work there work here; [`StreamKey`] is a name that
//! can be trusted; [`RtmpUrl`] is what an operator writes.

mod key;
mod request;
mod rtmp_url;
#[cfg(test)]
mod tests;

pub use key::{DEFAULT_VHOST, StreamKey};
pub use request::Request;
pub use rtmp_url::RtmpUrl;

use std::fmt;

/// Port of RTMP (registered with IANA as `macromedia-fcs`).
pub const DEFAULT_PORT: u16 = 1935;

/// Longest tcUrl, app, stream name with parameters or URL that is looked at, bytes. Signed
/// parameters of CDNs have a few hundred.
pub const MAX_LEN: usize = 4096;

/// Longest vhost, app or stream name, bytes.
pub const MAX_NAME_LEN: usize = 255;

/// Why a name or URL was refused. The text holds nothing of the input, so it can be logged and
/// sent to the peer as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// A part that must not be empty is.
    #[error("empty {0}")]
    Empty(&'static str),
    /// A part is over [`MAX_LEN`] or [`MAX_NAME_LEN`].
    #[error("{part} of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// Which part.
        part: &'static str,
        /// Its length, bytes.
        len: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// A part has a control character or one that has no place in a name, such as a backslash,
    /// as it is or percent-encoded.
    #[error("{0} with the character {1:?}")]
    Character(&'static str, char),
    /// A part begins with a dot or has two in a row, as they are or percent-encoded.
    #[error("{0} with a leading dot or with two dots in a row")]
    Dots(&'static str),
    /// An app of more than four elements.
    #[error("app of more than 4 elements")]
    Depth,
    /// Not an RTMP URL.
    #[error("not an rtmp:// URL")]
    Scheme,
    /// RTMP over TLS.
    #[error("rtmps:// is not supported, use rtmp://")]
    Tls,
    /// User and password in a URL.
    #[error("user name in the URL, which RTMP has no use for")]
    User,
    /// A host that cannot be one, such as an IPv6 address without brackets.
    #[error("bad host, expected a name, an IPv4 address or an IPv6 address in brackets")]
    Host,
    /// A port that is none.
    #[error("bad port, expected 1 to 65535")]
    Port,
}

/// Hostile text made fit for a log line: control characters, quotes and backslashes are escaped,
/// and after 256 characters there is only an ellipsis.
pub fn escaped(text: &str) -> impl fmt::Display {
    Escaped(text)
}

struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX_CHARS: usize = 256;
        let end = self.0.char_indices().nth(MAX_CHARS).map_or(self.0.len(), |(end, _)| end);
        let (shown, hidden) = self.0.split_at(end);
        write!(f, "{}", shown.escape_debug())?;
        if hidden.is_empty() { Ok(()) } else { f.write_str("...") }
    }
}

/// Refuses text that is not worth a look: too long, or with control characters in it.
fn check_text(part: &'static str, text: &str) -> Result<(), UrlError> {
    check_len(part, text, MAX_LEN)?;
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(UrlError::Character(part, c)),
        None => Ok(()),
    }
}

fn check_len(part: &'static str, text: &str, limit: usize) -> Result<(), UrlError> {
    let len = text.len();
    if len > limit { Err(UrlError::TooLong { part, len, limit }) } else { Ok(()) }
}

/// `host[:port]`; an IPv6 address in brackets, which are taken off.
fn split_host(authority: &str) -> Result<(&str, Option<u16>), UrlError> {
    if authority.contains('@') {
        return Err(UrlError::User);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Host)?;
            match port.strip_prefix(':') {
                None if !port.is_empty() => return Err(UrlError::Host),
                port => (host, port),
            }
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(UrlError::Host),
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err(UrlError::Empty("host"));
    }
    let port = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|&port| port != 0).ok_or(UrlError::Port)?)
        }
        Some(_) => return Err(UrlError::Port),
        None => None,
    };
    Ok((host, port))
}

/// The text before the first `?` or `#`, and what follows that character.
fn split_query(text: &str) -> (&str, &str) {
    text.split_once(['?', '#']).unwrap_or((text, ""))
}

/// The elements of a path, without empty ones and FMLE's `_definst_` (the default instance).
fn elements(path: &str) -> Vec<&str> {
    path.split('/').filter(|element| !element.is_empty() && *element != "_definst_").collect()
}
