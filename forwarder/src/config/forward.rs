//! `[vhost.forward]`
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{BackendFailure, ForwardTarget, HttpUrl, NOTSENT_LOWAT, serial};
use crate::rtmp::url::StreamKey;

/// `[vhost.forward]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forward {
    /// Off by default, as in SRS. On: there is a destination.
    pub enabled: bool,
    /// Where every stream goes, all different.
    #[serde(
        deserialize_with = "serial::forward_targets",
        serialize_with = "serial::write_targets"
    )]
    pub destination: Vec<ForwardTarget>,
    /// Who is asked where else a stream goes, by HTTP.
    #[serde(
        deserialize_with = "serial::backend",
        serialize_with = "serial::write_backend",
        skip_serializing_if = "Option::is_none"
    )]
    pub backend: Option<HttpUrl>,
    /// How long its answer may take.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub backend_timeout: Duration,
    /// What becomes of a publisher without an answer.
    pub backend_failure: BackendFailure,
    /// How often it is asked again while the stream is published; 0: not by itself.
    #[serde(deserialize_with = "serial::duration", serialize_with = "serial::write_duration")]
    pub backend_interval: Duration,
    /// How long a TCP connect may take.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub connect_timeout: Duration,
    /// Shortest pause between attempts, each further one is twice as long; the first retry is at
    /// once.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub retry_min: Duration,
    /// Longest pause between attempts.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub retry_max: Duration,
    /// Longest pause after the server there refused the stream.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub retry_refused: Duration,
    /// A destination that acknowledges nothing at TCP level for so long is dropped and redialled.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub hung_timeout: Duration,
    /// A destination further behind than this skips to the newest keyframe.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub queue_length: Duration,
    /// As `queue_length`, in bytes.
    #[serde(deserialize_with = "serial::bytes", serialize_with = "serial::write_bytes")]
    pub queue_bytes: usize,
    /// SO_SNDBUF of a connection to a destination, bytes; 0: the kernel chooses, and grows it as it sees fit.
    #[serde(deserialize_with = "serial::buffer", serialize_with = "serial::write_bytes")]
    pub send_buffer: usize,
    /// TCP_NOTSENT_LOWAT of a connection to a destination: bytes that may wait in the kernel behind those under way;
    /// 0: no bound.
    #[serde(deserialize_with = "serial::buffer", serialize_with = "serial::write_bytes")]
    pub notsent_lowat: usize,
    /// Where some streams go.
    pub to: Vec<ForwardTo>,
}

/// `[[vhost.forward.to]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardTo {
    /// Where to.
    #[serde(deserialize_with = "serial::forward_target", serialize_with = "serial::write_target")]
    pub url: ForwardTarget,
    /// The apps whose streams go there.
    #[serde(default)]
    pub app: Pattern,
    /// The streams of those that do.
    #[serde(default)]
    pub stream: Pattern,
    /// Whether a publisher's parameters go along; `None`: with `host:port` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<bool>,
}

/// A text with `*` for any characters and `?` for any one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

// === impl Forward ===

impl Forward {
    /// Whether a stream may be sent anywhere.
    pub fn has_destination(&self) -> bool {
        !self.destination.is_empty() || !self.to.is_empty() || self.backend.is_some()
    }

    /// Every place and name that streams may go to.
    pub fn targets(&self) -> impl Iterator<Item = &ForwardTarget> {
        self.destination.iter().chain(self.to.iter().map(|to| &to.url))
    }

    /// Where the stream `key` goes, and whether its publisher's parameters go along.
    pub fn of(&self, key: &StreamKey) -> impl Iterator<Item = (&ForwardTarget, bool)> {
        let all = self.destination.iter().map(|it| (it, it.url.passes_param()));
        let some = self
            .to
            .iter()
            .filter(|to| to.app.matches(key.app()) && to.stream.matches(key.stream()))
            .map(|to| (&to.url, to.param.unwrap_or(to.url.url.passes_param())));
        all.chain(some)
    }
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            enabled: false,
            destination: Vec::new(),
            backend: None,
            backend_timeout: Duration::from_secs(3),
            backend_failure: BackendFailure::default(),
            backend_interval: Duration::ZERO,
            connect_timeout: Duration::from_secs(3),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(3),
            retry_refused: Duration::from_secs(30),
            hung_timeout: Duration::from_secs(10),
            queue_length: Duration::from_secs(10),
            queue_bytes: 16 << 20,
            send_buffer: 0,
            notsent_lowat: NOTSENT_LOWAT,
            to: Vec::new(),
        }
    }
}

// === impl Pattern ===

impl Pattern {
    /// Longest pattern, bytes; no name is longer.
    pub const MAX_LEN: usize = 255;

    /// `None`: empty or too long.
    pub fn new(text: &str) -> Option<Self> {
        (1..=Self::MAX_LEN).contains(&text.len()).then(|| Self(text.to_owned()))
    }

    /// Whether all of `text` is as the pattern says.
    pub fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut text) = (self.0.chars(), text.chars());
        // behind the last star: what follows it, and where it may begin
        let mut star = None;
        loop {
            let mut rest = pattern.clone();
            match rest.next() {
                Some('*') => {
                    star = Some((rest.clone(), text.clone()));
                    pattern = rest;
                    continue;
                }
                None if text.as_str().is_empty() => return true,
                Some(want) => {
                    let mut behind = text.clone();
                    if behind.next().is_some_and(|c| want == '?' || want == c) {
                        (pattern, text) = (rest, behind);
                        continue;
                    }
                }
                None => {}
            }
            // the star takes one more
            let Some((after, from)) = &mut star else { return false };
            if from.next().is_none() {
                return false;
            }
            (pattern, text) = (after.clone(), from.clone());
        }
    }
}

impl Default for Pattern {
    fn default() -> Self {
        Self("*".to_owned())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let message = "a pattern has 1 to 255 bytes\nwrite \"*\" for any name";
        Self::new(&text).ok_or_else(|| de::Error::custom(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("*", "live/deep", true),
            ("cam-*", "cam-1", true),
            ("cam-*", "cam-", true),
            ("cam-*", "a-cam-1", false),
            ("*-hd", "cam-hd-hd", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("c?m", "cam", true),
            ("c?m", "cäm", true),
            ("c?m", "cm", false),
            ("live", "live", true),
            ("live", "live2", false),
            ("*.*", "a", false),
            ("*?", "", false),
            ("**", "x", true),
        ] {
            assert_eq!(
                Pattern::new(pattern).expect(pattern).matches(text),
                want,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_pattern_of_stars_is_no_work_without_end() {
        let pattern = Pattern::new(&"*a".repeat(127)).expect("short");
        assert!(!pattern.matches(&"a".repeat(126)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(254))));
    }

    #[test]
    fn destinations_are_chosen_by_app_and_stream() {
        let text = "destination = [\"a\"]\n\
                    [[to]]\nurl = \"b\"\napp = \"live*\"\nparam = false\n\
                    [[to]]\nurl = \"rtmp://c/x/[stream]\"\nstream = \"cam-*\"\n";
        let forward: Forward = toml::from_str(text).expect("a table");
        let of = |app: &str, stream: &str| -> Vec<(String, bool)> {
            let key = StreamKey::new("v", app, stream).expect("a name");
            forward.of(&key).map(|(url, pass)| (url.to_string(), pass)).collect()
        };
        let a = ("a:1935".to_owned(), true);
        let b = ("b:1935".to_owned(), false);
        let c = ("rtmp://c/x/[stream]".to_owned(), false);
        assert_eq!(of("vod", "x"), vec![a.clone()]);
        assert_eq!(of("live2", "x"), [a.clone(), b.clone()]);
        assert_eq!(of("vod", "cam-1"), [a.clone(), c.clone()]);
        assert_eq!(of("live", "cam-1"), [a, b, c]);
    }
}
