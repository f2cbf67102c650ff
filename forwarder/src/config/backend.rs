//! `[vhost.forward]`: who is asked where a stream goes.
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Forward, HttpUrl};

/// What becomes of a publisher whose stream's backend has no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendFailure {
    /// Its stream goes to the configured destinations, as it does in any case.
    #[default]
    Static,
    /// It is closed. Before there is an answer its stream goes nowhere.
    Refuse,
}

/// How a backend is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Whom.
    pub url: HttpUrl,
    /// How long an answer may take.
    pub timeout: Duration,
    /// When nobody has answered.
    pub failure: BackendFailure,
    /// How often again; zero: not by itself.
    pub interval: Duration,
}

impl Forward {
    /// Who is asked where a stream goes, if anybody is.
    pub fn asks(&self) -> Option<Backend> {
        Some(Backend {
            url: self.backend.clone()?,
            timeout: self.backend_timeout,
            failure: self.backend_failure,
            interval: self.backend_interval,
        })
    }

    /// Whether a publisher may be sent away because of a backend.
    pub fn may_refuse(&self) -> bool {
        self.enabled && self.backend.is_some() && self.backend_failure == BackendFailure::Refuse
    }
}
