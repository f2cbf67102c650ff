//! Waiting for one thing that comes all the time, and for many that hardly ever do.
//!
//! A publisher's connection waits for its next message, and for a timer, the end of the process, its
//! vhost and its place. Asking all of those each time a message comes costs more than the message. But a
//! future that was asked once says when it wants to be asked again: if that goes to a waker of its own,
//! who is woken knows whether any of them has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// What those that hardly ever have something say when they do.
#[derive(Debug)]
pub(super) struct Attention {
    flag: Arc<Flag>,
    /// Sets the flag.
    waker: Waker,
    /// As in the flag, to be compared without a lock.
    task: Waker,
}

#[derive(Debug)]
struct Flag {
    wanted: AtomicBool,
    /// Who is to be woken.
    task: Mutex<Waker>,
}

impl Attention {
    /// Wanted, as nobody was asked yet.
    pub(super) fn new() -> Self {
        let task = Waker::noop().clone();
        let flag = Flag { wanted: AtomicBool::new(true), task: Mutex::new(task.clone()) };
        let flag = Arc::new(flag);
        Self { waker: Waker::from(Arc::clone(&flag)), flag, task }
    }

    /// All are to be asked: there are others now, or they wait for something else.
    pub(super) fn want(&self) {
        self.flag.wanted.store(true, Ordering::Release);
    }

    /// What to ask them with, if any of them wants that or may want it. To be called by the task that
    /// `cx` is of, in each of its polls.
    pub(super) fn take(&mut self, cx: &Context<'_>) -> Option<Context<'_>> {
        if !self.task.will_wake(cx.waker()) {
            self.task.clone_from(cx.waker());
            let mut task = self.flag.task.lock().unwrap_or_else(PoisonError::into_inner);
            task.clone_from(cx.waker());
            drop(task);
            // Whoever spoke before has woken another task.
        }
        // Taken before they are asked: what one of them says meanwhile is not lost.
        let wanted = self.flag.wanted.load(Ordering::Acquire)
            && self.flag.wanted.swap(false, Ordering::AcqRel);
        wanted.then(|| Context::from_waker(&self.waker))
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wanted.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::Poll;

    use tokio::sync::oneshot;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn woken(task: &Arc<Task>) -> usize {
        task.0.swap(0, Ordering::SeqCst)
    }

    #[test]
    fn others_are_asked_once_until_one_of_them_speaks() {
        let (tell, mut told) = oneshot::channel();
        let mut attention = Attention::new();
        let asked = AtomicUsize::new(0);
        let mut waiting = pin!(poll_fn(|cx| {
            let Some(mut cx) = attention.take(cx) else { return Poll::Pending };
            asked.fetch_add(1, Ordering::SeqCst);
            pin!(&mut told).poll(&mut cx)
        }));
        let task = Arc::<Task>::default();
        let waker = Waker::from(Arc::clone(&task));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..10 {
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!((asked.load(Ordering::SeqCst), woken(&task)), (1, 0));

        // It is another task by now, and has not been asked since.
        let later = Arc::<Task>::default();
        let waker = Waker::from(Arc::clone(&later));
        let mut cx = Context::from_waker(&waker);
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        tell.send(7).unwrap();
        assert_eq!((asked.load(Ordering::SeqCst), woken(&task), woken(&later)), (1, 0, 1));
        assert_eq!(waiting.as_mut().poll(&mut cx), Poll::Ready(Ok(7)));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_is_said_while_they_are_asked_is_not_lost() {
        let mut attention = Attention::new();
        let cx = Context::from_waker(Waker::noop());
        let inner = attention.take(&cx).unwrap().waker().clone();
        assert!(attention.take(&cx).is_none());
        inner.wake_by_ref();
        assert!(attention.take(&cx).is_some());
        assert!(attention.take(&cx).is_none());
        attention.want();
        assert!(attention.take(&cx).is_some());
    }
}
