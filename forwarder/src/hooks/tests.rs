//! What a backend that hangs holds up, and what not.

use std::time::Instant;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::config::{Config, Live};
use crate::rtmp::url::StreamKey;

fn held() -> Held {
    Held { tls: Arc::default(), live: Arc::new(Live::new(Config::default())) }
}

/// A client that plays, of which a backend is told when it stops.
fn inquiry(url: &HttpUrl, timeout: Duration) -> Inquiry {
    let guest = Guest {
        id: "1".into(),
        peer: ([127, 0, 0, 1], 9).into(),
        tc_url: String::new(),
        page_url: String::new(),
        key: StreamKey::new(config::DEFAULT_VHOST, "live", "a").expect("a name"),
        param: String::new(),
    };
    let urls = || vec![url.clone()];
    let config = config::Hooks {
        enabled: true,
        on_play: urls(),
        on_stop: urls(),
        timeout,
        ..config::Hooks::default()
    };
    Inquiry { guest: Arc::new(guest), line: Arc::default(), config: Arc::new(config) }
}

/// A backend that takes connections and says nothing.
async fn mute() -> (TcpListener, HttpUrl) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    (listener, url.parse().expect("a URL"))
}

#[tokio::test]
async fn what_is_too_much_to_tell_is_dropped_and_counted_and_the_rest_is_told() {
    let (_backend, url) = mute().await;
    let hooks = Arc::new(Hooks::new(Identity::draw()));
    hooks.start(Handle::current(), held());
    let one = || hooks.ticket(&inquiry(&url, Duration::from_millis(100)), Hook::Play);
    let tickets: Vec<Ticket> = (0..TELLINGS + 100).map(|_| one()).collect();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &hooks.counters;
    drop(tickets);
    assert_eq!((count(&counters.dropped), count(&counters.told)), (100, 0));
    let desk = hooks.desk.get().expect("it is started");
    desk.tasks.close();
    desk.tasks.wait().await;
    let all = TELLINGS as u64;
    assert_eq!((count(&counters.told), count(&counters.failed)), (all, all));
    // There is room again.
    drop(one());
    desk.tasks.wait().await;
    assert_eq!((count(&counters.told), count(&counters.dropped)), (all + 1, 100));
}

#[tokio::test]
async fn clients_that_wait_for_a_backend_are_bounded_and_those_of_another_are_not_held_up() {
    let ((_mute, url), (_other, other)) = (mute().await, mute().await);
    let hooks = Arc::new(Hooks::new(Identity::draw()));
    hooks.start(Handle::current(), held());
    let ask = |url: &HttpUrl, timeout| hooks.ask(inquiry(url, timeout), Hook::Play, false);
    let mut waiting = JoinSet::new();
    for _ in 0..client::ASKING {
        let answer = ask(&url, Duration::from_secs(60));
        waiting.spawn(answer);
    }
    let said = |answer: Answer| answer.admitted.map(drop).expect_err("it is no yes");
    let one_more = ask(&url, Duration::from_secs(60)).await.expect("an answer");
    assert!(said(one_more).contains("8192 clients wait for it already"));
    let begun = Instant::now();
    let of_other = ask(&other, Duration::from_millis(50)).await.expect("an answer");
    assert!(said(of_other).contains("no answer within 50ms"));
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited for the other one");
    assert_eq!(waiting.try_join_next().map(|_| ()), None, "they wait still");
}
