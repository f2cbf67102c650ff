//! Connections to backends: names that are looked up without taking all threads, and TLS.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;

use hyper::Uri;
use hyper::http::uri::Scheme;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::config::{Destination, Live};
use crate::tls::{Target, Tls};

/// What backends with TLS are held to: the same as destinations and origins.
#[derive(Clone, Debug)]
pub struct Held {
    /// The authorities that are trusted.
    pub tls: Arc<Tls>,
    /// `[tls]` in it, as it is when a connection begins.
    pub live: Arc<Live>,
}

/// Connects, with TLS if the URL says so.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector<Lookups>,
    held: Held,
}

type Pending<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;
type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    pub(super) fn new(held: Held) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Lookups::default());
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        Self { tcp, held }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = AnyError;
    type Future = Pending<Self::Response, AnyError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AnyError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, held) = (self.tcp.call(uri.clone()), self.held.clone());
        Box::pin(async move {
            let io = connecting.await?.into_inner();
            let wire = match uri.scheme() == Some(&Scheme::HTTPS) {
                true => Wire::Tls(Box::new(held.secure(io, &uri).await?)),
                false => Wire::Plain(io),
            };
            Ok(TokioIo::new(wire))
        })
    }
}

impl Held {
    async fn secure(&self, io: TcpStream, uri: &Uri) -> Result<TlsStream<TcpStream>, AnyError> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let to = Destination { host, port: uri.port_u16().unwrap_or(HTTPS_PORT), tls: true };
        let config = self.live.now();
        let (ca, verify) = (config.tls.ca.as_deref(), !config.tls.insecure.contains(&to));
        let target = Target { host: &to.host, ca, verify };
        Ok(self.tls.agree(io, target, CONNECT_TIMEOUT).await?)
    }
}

/// A connection to a backend.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// Looks names up as the system does. That blocks a thread until the system gives up, long after
/// whoever asked has: a name whose servers hang has [`LOOKUPS`] threads and no more, since files,
/// metrics and other names need some too.
#[derive(Clone, Debug)]
struct Lookups {
    find: fn(&str) -> io::Result<Addresses>,
    places: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

type Addresses = vec::IntoIter<SocketAddr>;

impl Default for Lookups {
    fn default() -> Self {
        Self { find: |name| (name, 0).to_socket_addrs(), places: Arc::default() }
    }
}

impl Service<Name> for Lookups {
    type Response = Addresses;
    type Error = io::Error;
    type Future = Pending<Addresses, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let places = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let made = || Arc::new(Semaphore::new(LOOKUPS));
            Arc::clone(places.entry(name.as_str().to_owned()).or_insert_with(made))
        };
        let find = self.find;
        Box::pin(async move {
            // It is never closed.
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            let found = spawn_blocking(move || {
                let _place = place;
                find(name.as_str())
            });
            found.await.map_err(io::Error::other)?
        })
    }
}

/// How long a TCP connect may take, all addresses of the name together; and then TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Look-ups of one name at a time.
const LOOKUPS: usize = 2;

/// The port that goes without saying (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, PoisonError};

    use tokio::time::timeout;

    use super::*;

    static STARTED: AtomicUsize = AtomicUsize::new(0);
    static HANGS: (Mutex<bool>, Condvar) = (Mutex::new(true), Condvar::new());

    fn find(name: &str) -> io::Result<Addresses> {
        if name == "hangs.test" {
            STARTED.fetch_add(1, Ordering::Relaxed);
            let guard = HANGS.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(HANGS.1.wait_while(guard, |hangs| *hangs));
        }
        Ok(vec![SocketAddr::from(([192, 0, 2, 1], 0))].into_iter())
    }

    #[tokio::test]
    async fn a_name_that_hangs_takes_few_threads_and_no_other_name_waits() {
        let mut lookups = Lookups { find, ..Lookups::default() };
        let mut ask = |name: &str| lookups.call(name.parse().expect("a name"));
        // Whoever asks gives up, the system does not.
        for _ in 0..20 {
            assert!(timeout(Duration::from_millis(5), ask("hangs.test")).await.is_err());
        }
        assert_eq!(ask("other.test").await.expect("an answer").count(), 1);
        let (started, last) = (STARTED.load(Ordering::Relaxed), ask("hangs.test"));
        *HANGS.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
        HANGS.1.notify_all();
        assert_eq!(last.await.expect("an answer").count(), 1);
        assert!(started <= LOOKUPS, "{started} threads");
    }
}
