//! `[vhost.security]`, `[vhost.refer]` and `[vhost.tokens]`: who may publish and play.
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::serial;

/// `[vhost.security]`: by address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// Off by default. On: as SRS decides, what a `deny` matches is refused, else what an `allow`
    /// matches may, else all may if there is some `deny` and no `allow` at all.
    pub enabled: bool,
    /// Who may publish.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_list")]
    pub allow_publish: Vec<Network>,
    /// Who may not.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_list")]
    pub deny_publish: Vec<Network>,
    /// Who may play.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_list")]
    pub allow_play: Vec<Network>,
    /// Who may not.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_list")]
    pub deny_play: Vec<Network>,
}

/// `[vhost.refer]`: by the page that a client says it is on (pageUrl).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Refer {
    /// Off by default.
    pub enabled: bool,
    /// Domains of pages that may publish or play; empty: all pages, and those who name none.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_list")]
    pub all: Vec<Domain>,
    /// As `all`, for publishing.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_list")]
    pub publish: Vec<Domain>,
    /// As `all`, for playing.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_list")]
    pub play: Vec<Domain>,
}

/// `[vhost.tokens]`: by what stands in the parameters of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// Publishers need one.
    pub publish: bool,
    /// Players need one.
    pub play: bool,
    /// What tokens are signed with. Each of them is good; the first one makes new tokens.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_secrets")]
    pub secret: Vec<Secret>,
    /// Tokens that are good for every publish, for ever.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_secrets")]
    pub publish_key: Vec<Secret>,
    /// Tokens that are good for every play, for ever.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_secrets")]
    pub play_key: Vec<Secret>,
}

impl Tokens {
    /// Whether publishers, or players, need a token and no token would do.
    pub(super) fn shuts_out(&self) -> bool {
        self.secret.is_empty()
            && (self.publish && self.publish_key.is_empty()
                || self.play && self.play_key.is_empty())
    }
}

/// Addresses: `all`, one address, or a network in CIDR notation (RFC 4632, RFC 4291 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(Option<(IpAddr, u8)>);

impl Network {
    /// Whether `address` is one of them. An IPv4 address is the same written in IPv6 (RFC 4291
    /// 2.5.5.2).
    pub fn contains(&self, address: IpAddr) -> bool {
        let Some((network, bits)) = self.0 else { return true };
        match (network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differs = u32::from(network) ^ u32::from(address);
                differs.checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differs = u128::from(network) ^ u128::from(address);
                differs.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(None));
        }
        let refused = || {
            format!(
                "`{text}` is not an address\nwrite \"all\", \"192.0.2.7\", \"10.0.0.0/8\" or \"2001:db8::/32\""
            )
        };
        let (address, bits) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            "" if !text.contains('/') => most,
            bits if bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(refused)?
            }
            _ => return Err(refused()),
        };
        Ok(Self(Some(match address {
            IpAddr::V6(v6) if bits >= MAPPED => match v6.to_ipv4_mapped() {
                Some(v4) => (IpAddr::V4(v4), bits - MAPPED),
                None => (address, bits),
            },
            _ => (address, bits),
        })))
    }
}

/// Bits before an IPv4 address that is written in IPv6.
const MAPPED: u8 = 96;

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("all"),
            Some((IpAddr::V4(address), 32)) => write!(f, "{address}"),
            Some((IpAddr::V6(address), 128)) => write!(f, "{address}"),
            Some((address, bits)) => write!(f, "{address}/{bits}"),
        }
    }
}

/// A domain and all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(String);

impl Domain {
    /// Whether `host` is this domain, or one below it.
    pub fn holds(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        host.strip_suffix(&self.0).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").or(text.strip_prefix('.')).unwrap_or(text);
        let name = name.strip_suffix('.').unwrap_or(name);
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if bare.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) {
            return Ok(Self(name.to_ascii_lowercase()));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let is_label = |label: &str| !label.is_empty() && label.chars().all(plain);
        if name.len() > 255 || !name.split('.').all(is_label) {
            return Err(format!("`{text}` is not a domain\nwrite \"example.com\""));
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key. It shows itself nowhere; [`Self::reveal`] does.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Those that need no encoding in a parameter (RFC 3986 2.3).
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        if !(SECRET_MIN..=SECRET_MAX).contains(&text.len()) || !text.chars().all(plain) {
            return Err(format!(
                "a key has {SECRET_MIN} to {SECRET_MAX} letters, digits and -._~\nmake one with `openssl rand -hex 32`"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Bounds of a key's length, bytes.
const SECRET_MIN: usize = 16;
const SECRET_MAX: usize = 256;

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        let network: Network = network.parse().expect(network);
        network.contains(address.parse().expect(address))
    }

    #[test]
    fn networks_contain_their_addresses() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.1.2.3/8", "10.0.0.0", "9.255.255.255"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
            ("::ffff:10.0.0.0/104", "10.9.8.7", "11.0.0.0"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
            ("::1", "::1", "127.0.0.1"),
        ] {
            assert!(contains(network, inside), "{network} {inside}");
            assert!(!contains(network, outside), "{network} {outside}");
        }
        assert!(contains("all", "192.0.2.7") && contains("all", "::1"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "any",
            "10.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "::/129",
            "1.2.3.4/8/8",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    proptest! {
        /// Against the definition: the first bits are the same.
        #[test]
        fn a_network_is_its_first_bits(a: u128, flip in 0_u32..128, bits in 0_u8..=128, v4: bool) {
            let text = |bits: u128| match v4 {
                true => Ipv4Addr::from(bits as u32).to_string(),
                false => Ipv6Addr::from(bits).to_string(),
            };
            let (width, bits) = if v4 { (32, bits % 33) } else { (128, bits) };
            let flip = flip % width;
            // An IPv6 address that is one of IPv4 would be that.
            prop_assume!(v4 || a >> 96 != 0);
            let network = format!("{}/{bits}", text(a));
            let other = text(a ^ (1 << (width - 1 - flip)));
            prop_assert!(contains(&network, &text(a)));
            prop_assert_eq!(contains(&network, &other), flip >= u32::from(bits));
            let parsed: Network = network.parse().expect("a network");
            prop_assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    #[test]
    fn a_domain_ends_at_a_dot() {
        let domain: Domain = "Example.com".parse().expect("a domain");
        for host in ["example.com", "www.EXAMPLE.com", "a.b.example.com", "example.com."] {
            assert!(domain.holds(host), "{host}");
        }
        for host in ["badexample.com", "example.com.evil.test", "com", ""] {
            assert!(!domain.holds(host), "{host}");
        }
        assert_eq!("*.example.com".parse(), Ok(domain));
        for text in ["", ".", "a..b", "http://a", "a b", "a/b"] {
            assert!(text.parse::<Domain>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_does_not_show() {
        let secret: Secret = "0123456789abcdef".parse().expect("a key");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        let refused = "too-short".parse::<Secret>().expect_err("a short key");
        assert!(!refused.contains("too-short"), "{refused}");
    }
}
