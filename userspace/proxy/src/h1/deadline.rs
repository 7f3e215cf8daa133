//! One timer for all that a connection waits for, one after the other.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

pin_project! {
    /// A deadline that moves with every request, and a timer that seldom does: it goes off at some earlier deadline, finds that
    /// there is a later one, and goes on.
    pub(crate) struct Deadline {
        #[pin]
        timer: Sleep,
        at: Instant,
        // The timer knows the task, which is always the same.
        is_watched: bool,
    }
}

impl Deadline {
    pub(crate) fn new(at: Instant) -> Self {
        Self { timer: sleep_until(at), at, is_watched: false }
    }

    /// Where it stands.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// Moves it.
    pub(crate) fn set(self: Pin<&mut Self>, at: Instant) {
        let this = self.project();
        *this.at = at;
        if at < this.timer.deadline() {
            this.timer.reset(at);
            *this.is_watched = false;
        }
    }

    /// Ready when it has passed. Whoever polls it is always the same task.
    pub(crate) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if *this.is_watched && !this.timer.is_elapsed() {
            return Poll::Pending;
        }
        *this.is_watched = true;
        loop {
            ready!(this.timer.as_mut().poll(cx));
            if *this.at <= Instant::now() {
                return Poll::Ready(());
            }
            this.timer.as_mut().reset(*this.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_deadline_that_moves_is_met_where_it_stands_at_last() {
        let began = Instant::now();
        let ms = |ms| began + Duration::from_millis(ms);
        let mut deadline = pin!(Deadline::new(ms(20)));
        let mut polled = 0;
        let mut meet = async |at: &[u64]| {
            for at in at {
                deadline.as_mut().set(ms(*at));
                // Watched at each.
                poll_fn(|cx| Poll::Ready(_ = deadline.as_mut().poll(cx))).await;
            }
            poll_fn(|cx| {
                polled += 1;
                deadline.as_mut().poll(cx)
            })
            .await;
            began.elapsed()
        };
        assert!(meet(&[60]).await >= Duration::from_millis(60));
        let sooner = meet(&[100_000, 90]).await;
        assert!((Duration::from_millis(90)..Duration::from_secs(50)).contains(&sooner));
        assert!(polled < 10, "{polled}");
    }
}
