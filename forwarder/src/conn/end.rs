//! Why a connection ended.

use std::io;

use crate::rtmp::session::SessionError;
use crate::rtmp::url::escaped;

/// Why one is closed who has done nothing.
pub(super) const DISMISSED: &str = "its vhost is not served any more";

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The peer closed it, or was told to go.
    Closed(&'static str),
    /// The socket failed.
    Io(io::Error),
    /// The peer broke a rule, a limit or a deadline.
    Peer(SessionError),
    /// The peer did not read what it was sent.
    Stuck,
    /// We could not go on.
    Local(io::Error),
}

impl End {
    /// Whether the peer takes nothing, so that what is queued for it is best dropped.
    pub(super) fn is_stuck(&self) -> bool {
        matches!(self, Self::Stuck | Self::Peer(SessionError::Timeout(_)))
    }

    /// For the log; what the peer chose of it is escaped.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Closed(why) => (*why).to_owned(),
            Self::Io(error) => error.to_string(),
            Self::Stuck => "the peer does not read".into(),
            Self::Local(error) => format!("out of resources: {error}"),
            Self::Peer(error) => escaped(&error.to_string()).to_string(),
        }
    }
}

impl From<SessionError> for End {
    fn from(error: SessionError) -> Self {
        Self::Peer(error)
    }
}
