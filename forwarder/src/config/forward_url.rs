//! Where a stream is forwarded to, and as what.
use std::fmt;
use std::str::FromStr;

use super::destination::{Destination, DestinationError, bracketed};
use crate::rtmp::url::{DEFAULT_VHOST, StreamKey, UrlError};

const VARIABLES: [&str; 4] = ["[vhost]", "[app]", "[stream]", "[param]"];

/// Of a literal that is as long as this its last characters are shown, to tell one from another.
const SHOW_FROM: usize = 16;
const SHOWN: usize = 4;

/// What is shorter is no key, and would be found in any text.
const SECRET_FROM: usize = 4;

/// `host[:port]` or `rtmps://host[:port]`, which keep a stream's app and name, or
/// `rtmp://host[:port]/app/stream[?param]` (`rtmps://` for RTMP in TLS), in which `[vhost]`, `[app]`, `[stream]` and `[param]` stand for the publisher's.
///
/// Shown without what may be a key; [`Self::written`] has all.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ForwardUrl {
    /// Whom to dial.
    pub at: Destination,
    path: Option<Path>,
}

/// A URL's path, with variables in it. Queries are without their question mark.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Path {
    app: String,
    /// Of `app?query/stream`, as YouTube's second ingest has it.
    app_query: String,
    name: String,
    query: String,
}

/// What `connect` and `publish` say.
#[derive(Clone)]
pub struct Names {
    /// The URL up to the app.
    pub tc_url: String,
    /// The app, with what the URL asks of it.
    pub app: String,
    /// The stream's name with its parameters.
    pub stream: String,
    secrets: Vec<String>,
}

/// Why a text is no place to forward to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardUrlError {
    /// Not `host[:port]`.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The path names no stream.
    #[error("{0}\nwrite \"rtmp://host/app/stream\"; [app] and [stream] stand for the publisher's")]
    Path(#[from] UrlError),
    /// Not RTMP over TCP, with or without TLS.
    #[error("streams are forwarded to rtmp:// and rtmps:// only")]
    Scheme,
    /// Brackets around something else, or where a variable has no place.
    #[error("`{0}` has no place there\n{1}")]
    Variable(String, &'static str),
}

impl FromStr for ForwardUrl {
    type Err = ForwardUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self { at: text.parse()?, path: None });
        };
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "rtmp" => false,
            "rtmps" => true,
            _ => return Err(ForwardUrlError::Scheme),
        };
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(UrlError::Character("URL", ' ').into());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if tls && path.is_empty() {
            return Ok(Self { at: Destination::at(authority, tls)?, path: None });
        }
        let path = Path::from(path);
        path.check()?;
        Ok(Self { at: Destination::at(authority, tls)?, path: Some(path) })
    }
}

impl From<&str> for Path {
    fn from(text: &str) -> Self {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let path = path.trim_end_matches('/');
        if let Some((app, name)) = path.rsplit_once('/') {
            return Self {
                app: app.to_owned(),
                app_query: String::new(),
                name: name.to_owned(),
                query: query.to_owned(),
            };
        }
        let (app_query, stream) = query.split_once('/').unwrap_or((query, ""));
        let (name, query) = stream.split_once('?').unwrap_or((stream, ""));
        Self {
            app: path.to_owned(),
            app_query: app_query.to_owned(),
            name: name.to_owned(),
            query: query.to_owned(),
        }
    }
}

impl Path {
    fn check(&self) -> Result<(), ForwardUrlError> {
        for part in [&self.app, &self.name, &self.app_query, &self.query] {
            let rest = VARIABLES.iter().fold(part.clone(), |rest, name| rest.replace(name, ""));
            if let Some(at) = rest.find(['[', ']']) {
                let why = "known are [vhost], [app], [stream] and [param]";
                return Err(ForwardUrlError::Variable(rest.split_at(at).1.to_owned(), why));
            }
        }
        if self.app.contains("[param]") || self.name.contains("[param]") {
            let why = "parameters stand behind the question mark";
            return Err(ForwardUrlError::Variable("[param]".to_owned(), why));
        }
        let sample = |text: &str| VARIABLES.iter().fold(text.to_owned(), |t, v| t.replace(v, "x"));
        StreamKey::new("x", &sample(&self.app), &sample(&self.name))?;
        Ok(())
    }
}

impl ForwardUrl {
    /// The URL of a stream that is called `key` and was published with the parameters `param`;
    /// these go with it if `pass`, or if they have their place in the URL.
    ///
    /// What comes from the publisher is one name where it is put in: it cannot reach the host, the
    /// app or another parameter.
    pub fn names(&self, key: &StreamKey, param: &str, pass: bool) -> Result<Names, UrlError> {
        let Some(path) = &self.path else {
            let param = if pass { param } else { "" };
            return Ok(Names::same(&self.at, key.vhost(), key, param));
        };
        let fill = |text: &str, keep: &str| {
            text.replace("[vhost]", &encoded(key.vhost(), keep))
                .replace("[app]", &encoded(key.app(), keep))
                .replace("[stream]", &encoded(key.stream(), keep))
        };
        let fill_query =
            |text: &str| tidy(&fill(text, "").replace("[param]", &encoded(param, "&=")));
        let (app, name) = (fill(&path.app, "/"), fill(&path.name, ""));
        StreamKey::new("x", &app, &name)?;
        let (app_query, mut query) = (fill_query(&path.app_query), fill_query(&path.query));
        let placed = path.app_query.contains("[param]") || path.query.contains("[param]");
        if pass && !placed {
            query = tidy(&format!("{query}&{}", encoded(param, "&=")));
        }
        let mut secrets = vec![];
        if !matches!(path.name.as_str(), "[stream]" | "[app]" | "[vhost]") {
            secrets.push(name.clone());
        }
        for query in [&app_query, &query] {
            secrets.push(query.clone());
            let values = query.split('&').filter_map(|pair| pair.split_once('='));
            secrets.extend(values.map(|(_, value)| value.to_owned()));
        }
        let app = with_query(&app, &app_query);
        let tc_url = format!("{}/{app}", self.origin());
        Ok(Names { tc_url, app, stream: with_query(&name, &query), secrets })
    }

    /// The same on another server.
    #[must_use]
    pub fn moved_to(&self, at: Destination) -> Self {
        Self { at, path: self.path.clone() }
    }

    /// Whether the publisher's parameters go along if nothing else is said: they may be meant for
    /// us alone, and a URL says what its server shall get.
    pub fn passes_param(&self) -> bool {
        self.path.is_none()
    }

    /// Whether it names the app and stream.
    pub fn is_url(&self) -> bool {
        self.path.is_some()
    }

    /// The text that reads back as this one.
    pub fn written(&self) -> String {
        let Some(Path { app, app_query, name, query }) = &self.path else {
            return self.at.to_string();
        };
        let (app, stream) = (with_query(app, app_query), with_query(name, query));
        format!("{}/{app}/{stream}", self.origin())
    }

    /// Scheme, host and port.
    fn origin(&self) -> String {
        format!("{}://{}", self.at.scheme(), self.at.authority())
    }
}

impl fmt::Display for ForwardUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Path { app, app_query, name, query }) = &self.path else {
            return self.at.fmt(f);
        };
        let mark = |query: &str| if query.is_empty() { "" } else { "?***" };
        let (app_query, query) = (mark(app_query), mark(query));
        write!(f, "{}/{app}{app_query}/{}{query}", self.origin(), masked(name))
    }
}

impl fmt::Debug for ForwardUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Names {
    /// The stream's own app and name, for a server at `at` that shall find it in `vhost`.
    pub fn same(at: &Destination, vhost: &str, key: &StreamKey, param: &str) -> Self {
        let host = if vhost == DEFAULT_VHOST { &*at.host } else { vhost };
        let (scheme, host, port) = (at.scheme(), bracketed(host), at.port);
        Self {
            tc_url: format!("{scheme}://{host}:{port}/{}", key.app()),
            app: key.app().to_owned(),
            stream: with_query(key.stream(), param),
            secrets: vec![param.to_owned()],
        }
    }

    /// `text` without what the URL keeps to itself: servers repeat keys in their refusals.
    pub fn without_secrets(&self, text: &str) -> String {
        let mut secrets: Vec<&str> =
            self.secrets.iter().map(String::as_str).filter(|s| s.len() >= SECRET_FROM).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

/// A name with nothing but its variables, and the end of a long literal.
fn masked(name: &str) -> String {
    let (mut shown, mut rest) = (String::new(), name);
    loop {
        let next = VARIABLES.iter().filter_map(|v| Some((rest.find(v)?, v.len()))).min();
        let (at, len) = next.unwrap_or((rest.len(), 0));
        let (literal, behind) = rest.split_at(at);
        if !literal.is_empty() {
            shown.push_str("***");
            let count = literal.chars().count();
            if count >= SHOW_FROM {
                shown.extend(literal.chars().skip(count - SHOWN));
            }
        }
        let (variable, behind) = behind.split_at(len);
        shown.push_str(variable);
        rest = behind;
        if rest.is_empty() {
            return shown;
        }
    }
}

/// Text of a publisher as one value: what parts a URL, or did for some server, is percent-encoded,
/// but for `keep`. What is encoded already stays.
fn encoded(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let plain = c.is_ascii_alphanumeric() || "-._~%:@!$'()*+".contains(c) || !c.is_ascii();
        if plain || keep.contains(c) {
            out.push(c);
        } else {
            out.push_str(&format!("%{:02X}", u32::from(c)));
        }
    }
    out
}

/// A query without empty parameters.
fn tidy(query: &str) -> String {
    let pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    pairs.join("&")
}

fn with_query(text: &str, query: &str) -> String {
    if query.is_empty() { text.to_owned() } else { format!("{text}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(app: &str, stream: &str) -> StreamKey {
        StreamKey::new("v.example", app, stream).expect("a name")
    }

    #[test]
    fn urls_name_what_a_destination_is_told() {
        for (url, param, pass, tc_url, app, stream) in [
            (
                "rtmp://a.rtmp.youtube.com/live2/abcd-efgh",
                "t=1",
                false,
                "rtmp://a.rtmp.youtube.com/live2",
                "live2",
                "abcd-efgh",
            ),
            (
                "rtmp://b.rtmp.youtube.com/live2?backup=1/abcd-efgh",
                "",
                true,
                "rtmp://b.rtmp.youtube.com/live2?backup=1",
                "live2?backup=1",
                "abcd-efgh",
            ),
            ("rtmp://h:1935/app/k?x=1", "t=1", true, "rtmp://h/app", "app", "k?x=1&t=1"),
            ("rtmp://h/app/k?", "", true, "rtmp://h/app", "app", "k"),
            ("rtmp://h/app/k?[param]", "", true, "rtmp://h/app", "app", "k"),
            ("rtmp://h/app/k?a=b&[param]", "", false, "rtmp://h/app", "app", "k?a=b"),
            ("rtmp://h/app/k?[param]&a=b", "c&d=/", false, "rtmp://h/app", "app", "k?c&d=%2F&a=b"),
            ("rtmp://[::1]:80/[app]/x-[stream]", "", true, "rtmp://[::1]:80/live", "live", "x-cam"),
            (
                "rtmp://h/[vhost]/[app]/[stream]",
                "",
                true,
                "rtmp://h/v.example/live",
                "v.example/live",
                "cam",
            ),
            (
                "rtmps://live-api-s.facebook.com:443/rtmp/FB-1?s_bl=1",
                "",
                true,
                "rtmps://live-api-s.facebook.com/rtmp",
                "rtmp",
                "FB-1?s_bl=1",
            ),
            ("rtmps://h:1935/a/b", "", true, "rtmps://h:1935/a", "a", "b"),
            ("rtmps://h", "t=1", true, "rtmps://v.example:443/live", "live", "cam?t=1"),
            ("rtmp://h/a/a%20b", "", true, "rtmp://h/a", "a", "a%20b"),
            ("h:1936", "t=/?", true, "rtmp://v.example:1936/live", "live", "cam?t=/?"),
            ("h:1936", "t=/?", false, "rtmp://v.example:1936/live", "live", "cam"),
        ] {
            let parsed: ForwardUrl = url.parse().expect(url);
            let names = parsed.names(&key("live", "cam"), param, pass).expect(url);
            assert_eq!(
                (&*names.tc_url, &*names.app, &*names.stream),
                (tc_url, app, stream),
                "{url}"
            );
            assert_eq!(parsed.written().parse(), Ok(parsed), "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in [
            "rtmpt://h/a/b",
            "rtmps://h/a",
            "rtmps://h:0",
            "http://h/a/b",
            "rtmp://h",
            "rtmp://h/a",
            "rtmp://h/a/",
            "rtmp://u:p@h/a/b",
            "rtmp://[vhost]/a/b",
            "rtmp://h.[app]/a/b",
            "rtmp://h/[name]/b",
            "rtmp://h/a/[param]",
            "rtmp://h/a/../b",
            "rtmp://h/a/b c",
            "rtmp://h/a/%2e%2e",
            "rtmp://h:0/a/b",
        ] {
            assert!(url.parse::<ForwardUrl>().is_err(), "{url}");
        }
    }

    #[test]
    fn a_publisher_chooses_nothing_but_its_own_name() {
        let url: ForwardUrl = "rtmp://h/[app]/[stream]?who=[stream]&k=v".parse().expect("a URL");
        let names = url.names(&key("live", "a,vhost=x&y"), "vhost=z,q?r#s", false).expect("names");
        assert_eq!(names.tc_url, "rtmp://h/live");
        assert_eq!(names.stream, "a%2Cvhost%3Dx%26y?who=a%2Cvhost%3Dx%26y&k=v");
        let names = url.names(&key("live", "a"), "p=q?r#s,t/u", true).expect("names");
        assert_eq!(names.stream, "a?who=a&k=v&p=q%3Fr%23s%2Ct%2Fu");
        // a variable in what a publisher says is not looked at again
        let names = url.names(&key("live", "[param]"), "secret=1", false).expect("names");
        assert_eq!(names.stream, "%5Bparam%5D?who=%5Bparam%5D&k=v");
        let deep: ForwardUrl = "rtmp://h/a/b/[app]/x".parse().expect("a URL");
        assert_eq!(deep.names(&key("a/b/c", "s"), "", false).err(), Some(UrlError::Depth));
    }

    #[test]
    fn keys_are_not_shown() {
        for (url, shown) in [
            ("rtmp://h/live2/short-key", "rtmp://h/live2/***"),
            ("rtmp://h/live2/abcd-efgh-ijkl-mnop", "rtmp://h/live2/***mnop"),
            ("rtmp://h:99/app/k-[stream]?token=x", "rtmp://h:99/app/***[stream]?***"),
            ("rtmp://h/live2?k=1/[stream]", "rtmp://h/live2?***/[stream]"),
            ("h:1935", "h:1935"),
        ] {
            let parsed: ForwardUrl = url.parse().expect(url);
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(format!("{parsed:?}"), shown);
        }
        let url: ForwardUrl = "rtmp://h/live2/the-key?token=hush".parse().expect("a URL");
        let names = url.names(&key("live", "a"), "", false).expect("names");
        let told = names.without_secrets("BadName: live2/the-key?token=hush, the-key, hush");
        assert_eq!(told, "BadName: live2/***?***, ***, ***");
    }
}
