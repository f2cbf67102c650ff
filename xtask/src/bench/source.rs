//! The stream that is measured: one of the load's, published by itself.
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result};
use forwarder::rtmp::url::RtmpUrl;

use crate::client::Connection;
use crate::load::engine::News;
use crate::load::link::Link;
use crate::load::publishers::Publishers;
use crate::load::stream::{Shape, Source};
use crate::process;

/// A stream of the bench: `fps` frames a second, a keyframe every `gop`, `bitrate` bits a second.
pub fn shape(fps: u64, gop: u64, bitrate: u64) -> Shape {
    Shape { fps: fps.max(1), gop: gop.max(1), bitrate, audio: 43 }
}

/// Publishes until it is dropped.
pub struct Publisher {
    /// Kept for its end.
    _publishers: Publishers,
    news: Receiver<News>,
}

impl Publisher {
    /// Publishes to `url`; on return the server has agreed.
    pub fn start(url: &RtmpUrl, shape: Shape) -> Result<Self> {
        let (stream, session) = Connection::publish(url).context("publish")?.into_parts();
        stream.set_nonblocking(true)?;
        let (sender, news) = channel();
        let publishers = Publishers::start(1, &sender)?;
        let source = Source::new(shape, &url.stream);
        publishers.add(0, Link::new(stream, session), source, Arc::new(AtomicU64::new(0)))?;
        Ok(Self { _publishers: publishers, news })
    }

    /// An error when it publishes no more.
    pub fn check(&mut self) -> Result<()> {
        process::check_interrupt()?;
        match self.news.try_recv() {
            Ok(News::Failed { error, .. }) => Err(error).context("the publisher failed"),
            _ => Ok(()),
        }
    }
}
