//! Who may publish and play, by what is known here: address, page and token.
pub mod token;

use std::fmt;
use std::net::IpAddr;

use crate::config::{Domain, Network, Refer, Security, Vhost};
use crate::rtmp::url::StreamKey;
use token::TokenError;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// To publish.
    Publish,
    /// To play.
    Play,
}

/// A client and what it wants.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// What.
    pub action: Action,
    /// From where.
    pub from: IpAddr,
    /// The page that it says it is on; may be empty.
    pub page_url: &'a str,
    /// The stream.
    pub key: &'a StreamKey,
    /// Its parameters, without the question mark.
    pub param: &'a str,
    /// The time, seconds since 1970.
    pub now: u64,
}

/// Why a client may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// By [`Security`].
    #[error("its address is denied")]
    Address,
    /// By [`Refer`].
    #[error("its page is denied")]
    Page,
    /// By [`crate::config::Tokens`].
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Play => "play",
        })
    }
}

/// Whether the client may.
pub fn check(vhost: &Vhost, visit: &Visit<'_>) -> Result<(), Denied> {
    if vhost.security.enabled && !may_come(&vhost.security, visit.action, visit.from) {
        return Err(Denied::Address);
    }
    if vhost.refer.enabled && !may_refer(&vhost.refer, visit.action, visit.page_url) {
        return Err(Denied::Page);
    }
    token::check(&vhost.tokens, visit)?;
    Ok(())
}

/// SRS's decision (`app/srs_app_security.cpp`), in which the rules of both actions count.
fn may_come(security: &Security, action: Action, from: IpAddr) -> bool {
    let (allow, deny) = match action {
        Action::Publish => (&security.allow_publish, &security.deny_publish),
        Action::Play => (&security.allow_play, &security.deny_play),
    };
    let matches = |rules: &[Network]| rules.iter().any(|network| network.contains(from));
    if matches(deny) {
        return false;
    }
    let allows = !security.allow_publish.is_empty() || !security.allow_play.is_empty();
    let denies = !security.deny_publish.is_empty() || !security.deny_play.is_empty();
    matches(allow) || denies && !allows
}

fn may_refer(refer: &Refer, action: Action, page_url: &str) -> bool {
    let own = match action {
        Action::Publish => &refer.publish,
        Action::Play => &refer.play,
    };
    let host = host_of(page_url);
    let may =
        |domains: &[Domain]| domains.is_empty() || domains.iter().any(|domain| domain.holds(host));
    may(&refer.all) && may(own)
}

/// The host of a URL (RFC 3986 3.2); empty if there is none.
fn host_of(url: &str) -> &str {
    let Some((_, rest)) = url.split_once("://") else { return "" };
    // Browsers take a backslash for a slash.
    let authority = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.find(']') {
        Some(end) => host.get(..=end).unwrap_or_default(),
        None => host.split_once(':').map_or(host, |(host, _)| host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(
        allow_publish: &str,
        deny_publish: &str,
        allow_play: &str,
        deny_play: &str,
    ) -> Security {
        Security {
            enabled: true,
            allow_publish: list(allow_publish),
            deny_publish: list(deny_publish),
            allow_play: list(allow_play),
            deny_play: list(deny_play),
        }
    }

    fn list(text: &str) -> Vec<Network> {
        text.split_whitespace().map(|word| word.parse().expect(word)).collect()
    }

    #[test]
    fn security_decides_as_srs_does() {
        let near = "10.1.2.3".parse().expect("an address");
        for (publish, play, security) in [
            // No rules: nobody.
            (false, false, rules("", "", "", "")),
            (false, false, rules("", "all", "", "all")),
            // Some deny and no allow: all others.
            (false, true, rules("", "all", "", "")),
            (true, true, rules("", "11.0.0.0/8", "", "")),
            // An allow, be it for the other action: all others are refused.
            (true, false, rules("10.0.0.0/8", "", "", "")),
            (false, false, rules("11.0.0.0/8", "", "", "")),
            (false, true, rules("", "11.0.0.0/8", "all", "")),
            // A deny goes before an allow.
            (false, true, rules("all", "10.0.0.0/8", "10.0.0.0/8", "11.0.0.0/8")),
        ] {
            assert_eq!(may_come(&security, Action::Publish, near), publish, "{security:?}");
            assert_eq!(may_come(&security, Action::Play, near), play, "{security:?}");
        }
    }

    #[test]
    fn pages_are_told_by_their_host() {
        for (url, host) in [
            ("http://www.example.com/live.html", "www.example.com"),
            ("https://example.com:8443?a", "example.com"),
            ("https://u:p@example.com/", "example.com"),
            ("https://example.com@evil.test/", "evil.test"),
            ("https://evil.test\\@example.com", "evil.test"),
            ("https://evil.test#.example.com", "evil.test"),
            ("http://[2001:db8::1]:80/", "[2001:db8::1]"),
            ("example.com", ""),
            ("", ""),
        ] {
            assert_eq!(host_of(url), host, "{url}");
        }
        let refer = Refer {
            enabled: true,
            all: vec!["example.com".parse().expect("a domain")],
            publish: vec![],
            play: vec!["a.example.com".parse().expect("a domain")],
        };
        let may = |action, url| may_refer(&refer, action, url);
        assert!(may(Action::Publish, "http://b.example.com/"));
        assert!(!may(Action::Play, "http://b.example.com/"));
        assert!(may(Action::Play, "http://x.a.example.com/"));
        assert!(!may(Action::Publish, "http://badexample.com/"));
        assert!(!may(Action::Publish, ""));
        assert!(may_refer(&Refer { enabled: true, ..Refer::default() }, Action::Play, ""));
    }
}
