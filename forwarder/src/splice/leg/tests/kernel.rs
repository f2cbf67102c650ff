//! What there is in the kernel only.
use super::*;
use crate::splice::program::Pair;
use crate::splice::reports::Reports;

#[test]
fn over_the_limit_of_all_legs_they_come_back_and_nobody_goes() {
    let splice = Arc::new(Splice::start(Mode::Always));
    if let Some(why) = splice.why_not() {
        return println!("skipped: {why}");
    }
    block_on(async {
        let limits = LegOptions { soft_limit: 0, hard_limit: 0, ..options() };
        let mut hop = Hop::new(&splice, limits).await;
        let bytes = random_bytes(64 << 20);
        // Without a limit the kernel takes all there is.
        let mut sent = 0;
        while hop.leg.status().backlog < 2 << 20 {
            hop.send(&bytes[sent..sent + (64 << 10)]).await;
            sent += 64 << 10;
        }
        splice.limit_backlog(1 << 20);
        while !splice.kernel().unwrap().reports().is_full() {
            _ = timeout(Duration::from_millis(1), hop.leg.run()).await;
        }
        let (sender, source) = connection().await;
        let (target, receiver) = connection().await;
        let mut other = Leg::new(&splice, Rc::new(source), Rc::new(target), limits);
        other.arm();
        assert_eq!(other.status().path, LegPath::User, "the kernel is full");
        hop.expect(&bytes[..sent]).await;
        hop.leg.stop().await.unwrap();
        assert_eq!((hop.leg.status().unsplices, hop.leg.status().overs), (1, 0));
        assert_eq!(hop.leg.status().path, LegPath::User);
        while other.status().path == LegPath::User {
            other.arm();
            _ = timeout(Duration::from_millis(1), other.run()).await;
        }
        drop((sender, receiver));
    });
}

#[test]
fn user_space_sleeps_while_the_kernel_carries() {
    let Some(splice) = kernel() else { return };
    block_on(async {
        let hop = Hop::new(&splice, options()).await;
        let [mut sender, mut receiver] = [hop.sender, hop.receiver].map(|socket| {
            let socket = socket.into_std().unwrap();
            socket.set_nonblocking(false).unwrap();
            socket
        });
        let (mut leg, (done, is_done)) = (hop.leg, tokio::sync::oneshot::channel());
        let ends = std::thread::spawn(move || {
            use std::io::{Read, Write};
            for _ in 0..2000 {
                sender.write_all(&[7; 2500]).unwrap();
                receiver.read_exact(&mut [0; 2500]).unwrap();
            }
            done.send(()).unwrap();
            (sender, receiver)
        });
        let metrics = tokio::runtime::Handle::current().metrics();
        let before = metrics.worker_park_count(0);
        tokio::select! {
            ended = leg.run() => panic!("{ended:?}"),
            done = is_done => done.unwrap(),
        }
        let wakeups = metrics.worker_park_count(0) - before;
        assert_eq!(leg.status().path, LegPath::Kernel);
        assert!(wakeups < 100, "{wakeups} wakeups for 2000 bursts that the kernel carried");
        println!("{wakeups} wakeups for 2000 bursts");
        drop(ends.join().unwrap());
    });
}

#[test]
fn a_byte_too_many_ends_the_use_of_the_kernel() {
    let splice = Arc::new(Splice::start(Mode::Always));
    if let Some(why) = splice.why_not() {
        return println!("skipped: {why}");
    }
    block_on(async {
        let mut hop = Hop::new(&splice, options()).await;
        let mut other = Hop::new(&splice, options()).await;
        hop.send(b"carried").await;
        hop.expect(b"carried").await;
        // Nobody may do that.
        hop.target.try_write(b"!").unwrap();
        let stopped = hop.leg.stop().await;
        assert!(matches!(stopped, Err(Ended::Target(Some(_)))), "{stopped:?}");
        assert!(matches!(splice.why_not(), Some(WhyNot::Revoked(_))));
        assert!(splice.describe().starts_with("user (revoked: "), "{}", splice.describe());
        // The other leg goes on, and is in user space when it looks next.
        other.send(b"goes on").await;
        other.expect(b"goes on").await;
        other.leg.stop().await.unwrap();
        other.leg.arm();
        assert_eq!(other.leg.status().path, LegPath::User);
    });
}

#[test]
fn auto_takes_media_to_the_kernel_and_what_piles_up_back() {
    let splice = Arc::new(Splice::start(Mode::Auto));
    if let Some(why) = splice.why_not() {
        return println!("skipped: {why}");
    }
    block_on(async {
        let (mut sender, source) = connection().await;
        let (target, mut receiver) = connection().await;
        // More than 3.2 MB/s piles up, and half of that may come back.
        let options =
            LegOptions { soft_limit: 64 << 10, write_timeout: Duration::from_secs(4), ..options() };
        let mut leg = Leg::new(&splice, Rc::new(source), Rc::new(target), options);
        leg.arm();
        assert_eq!(leg.status().path, LegPath::User);
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        for (burst, path) in [(500, LegPath::Kernel), (60_000, LegPath::User)] {
            let bytes = vec![7; burst];
            let mut received = vec![0; burst];
            while leg.status().path != path {
                let exchange = async {
                    tick.tick().await;
                    sender.write_all(&bytes).await.unwrap();
                    receiver.read_exact(&mut received).await.unwrap();
                };
                tokio::select! {
                    ended = leg.run() => panic!("{ended:?}"),
                    () = exchange => {}
                }
            }
        }
        assert_eq!(leg.status().unsplices, 1);
    });
}

#[test]
fn a_source_is_in_one_pair_and_may_be_read_after_a_leg_was_dropped_coming_back() {
    let Some(splice) = kernel() else { return };
    block_on(async {
        let (mut sender, source) = connection().await;
        let source = Rc::new(source);
        for is_held in [false, true] {
            let (target, mut receiver) = connection().await;
            let mut leg = Leg::new(&splice, Rc::clone(&source), Rc::new(target), options());
            // The pair before this one may be in the kernel for a moment.
            while leg.status().path == LegPath::User {
                leg.arm();
                _ = timeout(Duration::from_millis(1), leg.run()).await;
            }
            let (target, _other) = connection().await;
            let mut second = Leg::new(&splice, Rc::clone(&source), Rc::new(target), options());
            second.arm();
            assert_eq!(second.status().path, LegPath::User);
            drop(second);
            // Reports about it still find the first.
            sender.write_all(b"first").await.unwrap();
            receiver.read_exact(&mut [0; 5]).await.unwrap();
            if is_held {
                let mut stop = std::pin::pin!(leg.stop());
                std::future::poll_fn(|context| {
                    // It has begun at least.
                    _ = stop.as_mut().poll(context);
                    std::task::Poll::Ready(())
                })
                .await;
            }
            drop(leg);
            sender.write_all(b"second").await.unwrap();
            let mut received = [0; 6];
            let mut at = 0;
            while at < received.len() {
                source.readable().await.unwrap();
                at += source.try_read(&mut received[at..]).unwrap_or_default();
            }
            assert_eq!(&received, b"second");
        }
    });
}

#[test]
fn nobody_takes_a_place_in_the_kernel_that_was_revoked() {
    let (sender, receiver) = std::os::unix::net::UnixStream::pair().unwrap();
    let fds = [&sender, &receiver].map(std::os::fd::AsRawFd::as_raw_fd);
    let pair = |source| Pair { source, target: 3, base: 0 };
    let reports = Reports::default();
    let (call, _) = reports.enter(pair(1), fds[0], fds[1]).unwrap();
    reports.revoke("a test".to_owned());
    assert!(call.is_back(), "who was there is called back");
    assert!(reports.enter(pair(2), fds[0], fds[1]).is_none());
}
