//! Looking names up as the system does: /etc/hosts, DNS, and whatever else it is told to ask.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Names that are looked up at a time; others wait.
const UNDER_WAY: usize = 32;

/// What came of a look-up, once it is over.
type Said = watch::Receiver<Option<Result<Vec<SocketAddr>, String>>>;

/// The system's resolver, asked for a name once however many wait for its answer.
///
/// It blocks for half a minute where no server answers, and cannot be called off. A runtime's own
/// threads would be used up by streams that dial again every few seconds, and waited for at the
/// end. So each name under way has one thread, and who has waited long enough leaves it alone.
#[derive(Debug)]
pub struct LookUps {
    under_way: Arc<Mutex<HashMap<String, Said>>>,
    places: Arc<Semaphore>,
    resolve: fn(&str) -> io::Result<Vec<SocketAddr>>,
}

impl Default for LookUps {
    fn default() -> Self {
        Self::by(|host| Ok((host, 0).to_socket_addrs()?.collect()))
    }
}

impl LookUps {
    fn by(resolve: fn(&str) -> io::Result<Vec<SocketAddr>>) -> Self {
        let places = Arc::new(Semaphore::new(UNDER_WAY));
        Self { under_way: Arc::default(), places, resolve }
    }

    /// The addresses of `host`, with `port`. Errors: what the system says of it.
    pub async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let before = lock(&self.under_way).get(host).cloned();
        let mut said = match before {
            Some(said) => said,
            None => {
                let place = Arc::clone(&self.places).acquire_owned().await;
                self.begin(host, place.map_err(|error| error.to_string())?)
                    .map_err(|error| error.to_string())?
            }
        };
        let answer = said.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        let mut found = answer.unwrap_or_else(|| Err("broken off".to_owned()))?;
        found.iter_mut().for_each(|address| address.set_port(port));
        Ok(found)
    }

    fn begin(&self, host: &str, place: OwnedSemaphorePermit) -> io::Result<Said> {
        let mut under_way = lock(&self.under_way);
        // Somebody else waited for a place too.
        if let Some(said) = under_way.get(host) {
            return Ok(said.clone());
        }
        let (sender, said) = watch::channel(None);
        let (name, resolve, all) = (host.to_owned(), self.resolve, Arc::clone(&self.under_way));
        thread::Builder::new().name("look-up".to_owned()).spawn(move || {
            let answer = resolve(&name).map_err(|error| error.to_string());
            lock(&all).remove(&name);
            drop(place);
            // Nobody may wait any more.
            _ = sender.send(Some(answer));
        })?;
        under_way.insert(host.to_owned(), said.clone());
        Ok(said)
    }
}

fn lock(names: &Mutex<HashMap<String, Said>>) -> MutexGuard<'_, HashMap<String, Said>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    static ASKED: AtomicUsize = AtomicUsize::new(0);
    static ANSWERS: AtomicBool = AtomicBool::new(false);

    /// Answers when `ANSWERS` is set.
    fn slow(host: &str) -> io::Result<Vec<SocketAddr>> {
        ASKED.fetch_add(1, Ordering::Relaxed);
        while !ANSWERS.load(Ordering::Relaxed) {
            thread::park_timeout(Duration::from_millis(1));
        }
        match host {
            "nobody" => Err(io::Error::other("no such name")),
            _ => Ok(vec![SocketAddr::from(([10, 0, 0, 1], 0))]),
        }
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_however_many_wait_and_give_up() {
        let names = Arc::new(LookUps::by(slow));
        for _ in 0..100 {
            let wait = timeout(Duration::from_millis(1), names.look_up("slave", 1935));
            assert!(wait.await.is_err(), "nobody answers");
        }
        // An address needs no answer.
        assert_eq!(names.look_up("::1", 7).await, Ok(vec!["[::1]:7".parse().unwrap()]));
        let waiting: Vec<_> = (1..9)
            .map(|port| {
                let names = Arc::clone(&names);
                tokio::spawn(async move { names.look_up("slave", port).await })
            })
            .collect();
        tokio::task::yield_now().await;
        ANSWERS.store(true, Ordering::Relaxed);
        for (task, port) in waiting.into_iter().zip(1..) {
            let found = task.await.unwrap();
            assert_eq!(found, Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))]));
        }
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
        // A new question has a new answer.
        assert_eq!(names.look_up("nobody", 1).await, Err("no such name".to_owned()));
        assert!(names.look_up("slave", 1).await.is_ok());
        assert_eq!(ASKED.load(Ordering::Relaxed), 3);
        assert!(lock(&names.under_way).is_empty());
    }

    #[tokio::test]
    async fn the_systems_own_names_are_known() {
        let found = LookUps::default().look_up("localhost", 1935).await.unwrap();
        assert!(found.iter().all(|it| it.ip().is_loopback() && it.port() == 1935), "{found:?}");
    }
}
