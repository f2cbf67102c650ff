//! What a client asked for.
use super::key::{DEFAULT_VHOST, check_app, check_name};
use super::{UrlError, check_text, elements, split_host, split_query};

/// App of a tcUrl that has none, as in SRS.
const DEFAULT_APP: &str = "live";

/// What a client asked for, by SRS's normalisation of app, tcUrl and stream. The parts are such
/// that [`super::StreamKey::new`] takes them.
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
    ///
    /// As in SRS the tcUrl has the say about the app; `app` is looked at only when the tcUrl has
    /// none. Unlike SRS, a `/` in a parameter of the stream does not begin a new stream name:
    /// signatures in base64 have them.
    pub fn resolve(tc_url: &str, app: &str, stream: &str) -> Result<Self, UrlError> {
        let tc_url = cleaned("tcUrl", tc_url)?;
        let app = cleaned("app", app)?;
        let stream = cleaned("stream", stream)?;
        if tc_url.is_empty() {
            return Err(UrlError::Empty("tcUrl"));
        }

        // any scheme: those of tunnelled and encrypted RTMP differ
        let (_, rest) = tc_url.split_once("://").ok_or(UrlError::Scheme)?;
        let (path, tc_query) = split_query(rest);
        let (authority, path) = path.split_once('/').unwrap_or((path, ""));
        let (host, _) = split_host(authority)?;
        let (mut path, mut tc_query) = (elements(path), tc_query);
        if path.is_empty() {
            let (app, query) = split_query(&app);
            path = elements(app);
            if tc_query.is_empty() {
                tc_query = query;
            }
        }

        // a stream name with slashes has the end of the app in it; an empty one is in the app
        let (name, query) = split_query(&stream);
        let name = elements(name);
        let may_take_from_app = !name.is_empty() || path.len() > 1;
        path.extend(name);
        let stream = if may_take_from_app { path.pop() } else { None };
        let stream = stream.ok_or(UrlError::Empty("stream"))?.to_owned();
        let app = if path.is_empty() { DEFAULT_APP.to_owned() } else { path.join("/") };

        let (vhost, param) = split_vhost(&[query, tc_query]);
        let vhost = vhost.unwrap_or(host).to_owned();
        check_name("vhost", &vhost)?;
        check_app(&app)?;
        check_name("stream", &stream)?;
        Ok(Self { vhost, app, stream, param })
    }
}

/// `text` without the white space that SRS drops too (often a line end from a pasted stream key),
/// and with its old spelling of `?vhost=` for clients that cannot send a question mark.
fn cleaned(part: &'static str, text: &str) -> Result<String, UrlError> {
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    check_text(part, text)?;
    Ok(text.replace(' ', "").replace("...vhost...", "?vhost="))
}

/// The vhost that the queries name, the first one first, and all other parameters. The default
/// vhost's own name says no more than that none is named.
fn split_vhost<'a>(queries: &[&'a str]) -> (Option<&'a str>, String) {
    let (mut vhost, mut domain, mut others) = (None, None, Vec::new());
    let pairs = queries.iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty());
    for pair in pairs {
        let slot = match pair.split_once('=') {
            Some(("vhost", value)) => (&mut vhost, value),
            Some(("domain", value)) => (&mut domain, value),
            _ => {
                others.push(pair);
                continue;
            }
        };
        if slot.0.is_none() && !slot.1.is_empty() {
            *slot.0 = Some(slot.1);
        }
    }
    (vhost.or(domain).filter(|&vhost| vhost != DEFAULT_VHOST), others.join("&"))
}
