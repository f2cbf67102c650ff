//! A player's HTTP request (RFC 9112), from the bytes of its head.

use std::borrow::Cow;

/// Longest head of a request, bytes.
pub(super) const MAX_HEAD: usize = 8 << 10;

/// Most header fields; browsers behind two proxies send about 30.
const MAX_FIELDS: usize = 64;

/// What a path ends with that asks for a stream.
const EXTENSION: &str = ".flv";

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Method,
    /// As in the target, else in `Host`; with the port.
    pub(super) host: String,
    /// With the slash it begins with, percent-encoded.
    pub(super) path: String,
    /// Without the `?`; may be empty.
    pub(super) query: String,
    /// `Referer`; may be empty.
    pub(super) referer: String,
    /// `User-Agent`; may be empty.
    pub(super) agent: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Options,
}

/// An answer without a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Status code.
    pub(super) status: u16,
    /// One line for the player and the log, with nothing of the request in it.
    pub(super) why: String,
}

impl Refused {
    pub(super) fn new(status: u16, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }
}

/// Reads what has come of a head. `None`: more is to come.
pub(super) fn parse(head: &[u8]) -> Result<Option<Request>, Refused> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if head.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Refused::new(431, "the head of the request is too long"));
        }
        Err(error) => return Err(Refused::new(400, format!("no HTTP request: {error}"))),
    }
    let method = match parsed.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("OPTIONS") => Method::Options,
        _ => return Err(Refused::new(405, "only GET, HEAD and OPTIONS are for streams")),
    };
    let fields = &*parsed.headers;
    let field = |name: &str| {
        let of_name = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        let mut values = of_name.map(|field| String::from_utf8_lossy(field.value).into_owned());
        (values.next(), values.next().is_some())
    };
    let (host, several) = field("host");
    // RFC 9112 section 3.2.
    if several || (host.is_none() && parsed.version != Some(0)) {
        return Err(Refused::new(400, "not one Host"));
    }
    let target = parsed.path.unwrap_or_default();
    let (authority, target) = split_target(target);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let of_server = method == Method::Options && path == "*";
    if !path.starts_with('/') && !of_server {
        return Err(Refused::new(400, "not a path"));
    }
    let host = authority.map(str::to_owned).or(host).filter(|host| !host.is_empty());
    Ok(Some(Request {
        method,
        host: host.unwrap_or_else(|| "localhost".to_owned()),
        path: path.to_owned(),
        query: query.to_owned(),
        referer: field("referer").0.unwrap_or_default(),
        agent: field("user-agent").0.unwrap_or_default(),
    }))
}

/// The authority and the rest of a target; only proxies are sent one with an authority.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let rest = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://"));
    match rest {
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            (Some(authority), path)
        }
        None => (None, target),
    }
}

impl Request {
    /// App and name of the stream that is asked for, as they stand; `None`: no stream is.
    pub(super) fn stream(&self) -> Option<(&str, &str)> {
        let path = self.path.strip_suffix(EXTENSION)?.strip_prefix('/')?;
        path.rsplit_once('/').filter(|(app, name)| !app.is_empty() && !name.is_empty())
    }
}

/// `text` with its percent-encoded characters decoded (RFC 3986 section 2.1); as it is if that would
/// not be names, or more of them.
pub(super) fn decoded(text: &str) -> Cow<'_, str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let digit = |at: usize| behind.get(at).and_then(|&c| char::from(c).to_digit(16));
        let (byte, behind) = match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => ((high << 4 | low) as u8, &behind[2..]),
            _ => (byte, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
    let slashes = |text: &str| text.matches('/').count();
    match String::from_utf8(bytes) {
        Ok(name) if !name.contains(['?', '#']) && slashes(&name) == slashes(text) => {
            Cow::Owned(name)
        }
        _ => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(head: &str) -> Result<Option<Request>, u16> {
        parse(head.as_bytes()).map_err(|refused| refused.status)
    }

    #[test]
    fn a_player_asks_for_a_stream() {
        let head = "GET /live/a.flv?vhost=v&t=1 HTTP/1.1\r\nhost: h:8080\r\nReferer: p\r\n\r\n";
        for cut in 0..head.len() {
            assert_eq!(ask(&head[..cut]), Ok(None), "{cut}");
        }
        let request = ask(head).unwrap().unwrap();
        assert_eq!(request.stream(), Some(("live", "a")));
        assert_eq!((&*request.host, &*request.query), ("h:8080", "vhost=v&t=1"));
        assert_eq!((&*request.referer, &*request.agent), ("p", ""));
        let proxied = ask("GET http://v/a/b/c.flv HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert_eq!((&*proxied.host, proxied.stream()), ("v", Some(("a/b", "c"))));
        assert_eq!(ask("HEAD /live/a.flv HTTP/1.0\r\n\r\n").unwrap().unwrap().host, "localhost");
    }

    #[test]
    fn other_paths_are_no_streams() {
        for path in ["/", "/live/a", "/a.flv", "/.flv", "/live/.flv", "/live/a.flv/", "//a.flv"] {
            let request = ask(&format!("GET {path} HTTP/1.0\r\n\r\n")).unwrap().unwrap();
            assert_eq!(request.stream(), None, "{path}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (head, status) in [
            ("POST /live/a.flv HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 405),
            ("GET /live/a.flv HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET /live/a.flv HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n".to_owned(), 400),
            ("GET live/a.flv HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
            ("GET /live/a.flv HTTP/2.0\r\nHost: h\r\n\r\n".to_owned(), 400),
            ("\x03\0\0\0".to_owned(), 400),
            (format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_HEAD)), 431),
            (format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1)), 431),
        ] {
            assert_eq!(ask(&head), Err(status), "{:.60}", head);
        }
    }

    #[test]
    fn names_are_decoded_if_they_stay_names() {
        for (text, name) in [
            ("a", "a"),
            ("%E6%B5%81", "\u{6d41}"),
            ("a%2", "a%2"),
            ("a%zz", "a%zz"),
            ("%", "%"),
            ("a%3fb", "a%3fb"),
            ("a%2Fb", "a%2Fb"),
            ("%ff", "%ff"),
            ("a/%E6%B5%81", "a/\u{6d41}"),
            ("a/b%2Fc", "a/b%2Fc"),
        ] {
            assert_eq!(decoded(text), name, "{text}");
        }
    }
}
