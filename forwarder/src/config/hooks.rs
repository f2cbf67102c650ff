//! `[vhost.hooks]`
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HttpUrl, serial};

/// HTTP backends that are asked whether a client may come, and told of what happens.
///
/// The lists have SRS's names; each is called in order, and all have to say yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// Off by default.
    pub enabled: bool,
    /// Asked when a client first wants to publish or play.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_http_urls")]
    pub on_connect: Vec<HttpUrl>,
    /// Told when it is gone.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_http_urls")]
    pub on_close: Vec<HttpUrl>,
    /// Asked before a publish.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_http_urls")]
    pub on_publish: Vec<HttpUrl>,
    /// Told when it is over.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_http_urls")]
    pub on_unpublish: Vec<HttpUrl>,
    /// Asked before a play.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_http_urls")]
    pub on_play: Vec<HttpUrl>,
    /// Told when it is over.
    #[serde(deserialize_with = "serial::several", serialize_with = "serial::write_http_urls")]
    pub on_stop: Vec<HttpUrl>,
    /// How long one call may take.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub timeout: Duration,
    /// What becomes of a client if a backend gives no answer.
    pub on_failure: OnFailure,
}

/// What becomes of a client if a backend gives no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is refused, as by SRS.
    #[default]
    Refuse,
    /// It is let in.
    Allow,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            enabled: false,
            on_connect: Vec::new(),
            on_close: Vec::new(),
            on_publish: Vec::new(),
            on_unpublish: Vec::new(),
            on_play: Vec::new(),
            on_stop: Vec::new(),
            // SRS waits 30 s, longer than most encoders do.
            timeout: Duration::from_secs(10),
            on_failure: OnFailure::Refuse,
        }
    }
}
