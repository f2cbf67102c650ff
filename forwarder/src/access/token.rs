//! Tokens in the parameters of a stream: `?token=...&expires=...`.
//!
//! A token is the hexadecimal HMAC-SHA256 (RFC 2104, FIPS 180-4), under a secret, of the text
//! `action:vhost/app/stream:expires`: the action is `publish` or `play`, the vhost the name that the
//! configuration has, and `expires` seconds since 1970.
use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::{Action, Visit};
use crate::config::{Secret, Tokens};
use crate::rtmp::url::StreamKey;

/// Why a token does not do. Nothing of the token is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error("no token")]
    Missing,
    /// It was good, or is a wrong one: that is not looked at any more.
    #[error("the token has expired")]
    Expired,
    /// No secret signed it for this, and it is no key.
    #[error("wrong token")]
    Wrong,
}

/// Whether the client has a token, if it needs one.
pub(super) fn check(tokens: &Tokens, visit: &Visit<'_>) -> Result<(), TokenError> {
    let (needed, keys) = match visit.action {
        Action::Publish => (tokens.publish, &tokens.publish_key),
        Action::Play => (tokens.play, &tokens.play_key),
    };
    if !needed {
        return Ok(());
    }
    let token = parameter(visit.param, "token").ok_or(TokenError::Missing)?;
    // All are compared, so that the time tells nothing.
    if keys.iter().fold(false, |found, key| found | is_same(token, key.reveal())) {
        return Ok(());
    }
    let expires = parameter(visit.param, "expires").ok_or(TokenError::Wrong)?;
    let is_number = !expires.is_empty() && expires.bytes().all(|b| b.is_ascii_digit());
    let expires = expires.parse().ok().filter(|_| is_number).ok_or(TokenError::Wrong)?;
    if visit.now >= expires {
        return Err(TokenError::Expired);
    }
    let token = from_hex(token).ok_or(TokenError::Wrong)?;
    let signed = |secret: &Secret| {
        let mac = mac(secret, visit.action, visit.key, expires);
        mac.is_some_and(|mac| mac.verify_slice(&token).is_ok())
    };
    if tokens.secret.iter().any(signed) { Ok(()) } else { Err(TokenError::Wrong) }
}

/// The parameters that let whoever has them do `action` until `expires`, seconds since 1970;
/// `None` only if the secret could not be a key, which none is.
pub fn parameters(
    secret: &Secret,
    action: Action,
    key: &StreamKey,
    expires: u64,
) -> Option<String> {
    let mac = mac(secret, action, key, expires)?.finalize().into_bytes();
    let mut text = String::from("token=");
    for byte in mac {
        // Writing to a String cannot fail.
        _ = write!(text, "{byte:02x}");
    }
    _ = write!(text, "&expires={expires}");
    Some(text)
}

fn mac(secret: &Secret, action: Action, key: &StreamKey, expires: u64) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()).ok()?;
    let (vhost, app, stream) = (key.vhost(), key.app(), key.stream());
    mac.update(format!("{action}:{vhost}/{app}/{stream}:{expires}").as_bytes());
    Some(mac)
}

/// The value of the first parameter with this name.
fn parameter<'a>(param: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = param.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Takes the same time whatever `said` is: digests are compared, whole.
fn is_same(said: &str, key: &str) -> bool {
    let (said, key) = (Sha256::digest(said), Sha256::digest(key));
    said.iter().zip(&key).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DEFAULT_VHOST;

    const OLD: &str = "old-secret-old-secret";
    const NEW: &str = "new-secret-new-secret";

    fn secret(text: &str) -> Secret {
        text.parse().expect("a secret")
    }

    fn tokens() -> Tokens {
        Tokens {
            publish: true,
            play: true,
            secret: vec![secret(NEW), secret(OLD)],
            publish_key: vec![secret("the-key-of-the-studio")],
            play_key: vec![],
        }
    }

    fn key() -> StreamKey {
        StreamKey::new(DEFAULT_VHOST, "live", "cam").expect("a name")
    }

    fn verdict(action: Action, key: &StreamKey, param: &str, now: u64) -> Result<(), TokenError> {
        let from = [127, 0, 0, 1].into();
        check(&tokens(), &Visit { action, from, page_url: "", key, param, now })
    }

    #[test]
    fn a_token_is_the_hmac_that_openssl_makes() {
        // printf 'publish:__defaultVhost__/live/cam:2000000000' |
        //   openssl dgst -sha256 -hmac new-secret-new-secret
        let made = parameters(&secret(NEW), Action::Publish, &key(), 2_000_000_000);
        assert_eq!(made.as_deref(), Some(OPENSSL));
    }

    const OPENSSL: &str =
        "token=2caeeda86b81aaa55e2cd859a75231b7865a466678a07bc73a45b0ae6ebdd7f8&expires=2000000000";

    #[test]
    fn a_token_is_good_for_what_it_was_signed_for() {
        use Action::{Play, Publish};
        let made = |text, action| parameters(&secret(text), action, &key(), 1000).expect("a token");
        let good = made(NEW, Publish);
        assert_eq!(verdict(Publish, &key(), &good, 999), Ok(()));
        assert_eq!(verdict(Publish, &key(), &format!("a=b&{good}&c"), 0), Ok(()));
        assert_eq!(verdict(Publish, &key(), &made(OLD, Publish), 0), Ok(()), "rotation");
        assert_eq!(verdict(Publish, &key(), &good.to_uppercase().to_lowercase(), 0), Ok(()));
        let wrong = Err(TokenError::Wrong);
        assert_eq!(verdict(Play, &key(), &good, 0), wrong);
        assert_eq!(verdict(Publish, &key(), &made("another-secret-of-others", Publish), 0), wrong);
        let other = StreamKey::new(DEFAULT_VHOST, "live", "cam2").expect("a name");
        assert_eq!(verdict(Publish, &other, &good, 0), wrong);
        let other = StreamKey::new("v.example", "live", "cam").expect("a name");
        assert_eq!(verdict(Publish, &other, &good, 0), wrong);
        assert_eq!(verdict(Publish, &key(), &good.replace("=1000", "=1001"), 0), wrong);
        assert_eq!(verdict(Publish, &key(), &good.replace("=1000", "=+1000"), 0), wrong);
        assert_eq!(verdict(Publish, &key(), &good.replace("&expires=1000", ""), 0), wrong);
        let (head, tail) = good.split_at(20);
        assert_eq!(verdict(Publish, &key(), &format!("{head}{}", &tail[2..]), 0), wrong, "short");
        assert_eq!(verdict(Publish, &key(), "token=&expires=1000", 0), wrong);
        assert_eq!(verdict(Publish, &key(), &good, 1000), Err(TokenError::Expired));
        assert_eq!(verdict(Publish, &key(), "expires=1000", 0), Err(TokenError::Missing));
    }

    #[test]
    fn a_key_is_good_for_ever_and_for_its_action() {
        let param = "token=the-key-of-the-studio";
        assert_eq!(verdict(Action::Publish, &key(), param, u64::MAX), Ok(()));
        assert_eq!(verdict(Action::Play, &key(), param, 0), Err(TokenError::Wrong));
        let free = Tokens { publish: false, ..tokens() };
        let visit = Visit {
            action: Action::Publish,
            from: [127, 0, 0, 1].into(),
            page_url: "",
            key: &key(),
            param: "",
            now: 0,
        };
        assert_eq!(check(&free, &visit), Ok(()));
    }
}
