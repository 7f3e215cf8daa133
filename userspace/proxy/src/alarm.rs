//! Timers that need not be exact: the runtime has one for all of a thread, and the rest is a table.
//!
//! A timer of the runtime costs two locks, and a system call where it is the earliest, for something that hardly ever goes off. What
//! ends a connection after seconds may as well do so a tenth of a second later.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// So much later an alarm may go off.
const TICK: Duration = Duration::from_millis(100);
/// Below this, a time is exact: a tick would be a large part of it.
const EXACT_BELOW: Duration = Duration::from_secs(1);

thread_local! {
    static TABLE: RefCell<Table> = const { RefCell::new(Table { entries: Vec::new(), free: Vec::new(), set: 0, is_ticking: false }) };
}

/// The alarms of a thread.
struct Table {
    entries: Vec<Entry>,
    free: Vec<usize>,
    set: usize,
    is_ticking: bool,
}

enum Entry {
    Free,
    Set(Instant, Waker),
    GoneOff,
}

/// One alarm, of the thread that polls it first.
#[derive(Debug)]
pub(crate) struct Alarm {
    at: Instant,
    place: Option<usize>,
}

impl Alarm {
    pub(crate) fn new(at: Instant) -> Self {
        Self { at, place: None }
    }

    /// When it goes off.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// Moves it; also one that has gone off.
    pub(crate) fn set(&mut self, at: Instant) {
        self.at = at;
        let Some(place) = self.place else { return };
        TABLE.with_borrow_mut(|table| match table.entries.get_mut(place) {
            Some(Entry::Set(until, _)) => *until = at,
            _ => {
                table.give_back(place);
                self.place = None;
            }
        });
    }

    /// Ready once it has gone off.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        TABLE.with_borrow_mut(|table| {
            let place = match self.place {
                Some(place) => place,
                None => *self.place.insert(table.take(self.at, cx.waker())),
            };
            match table.entries.get_mut(place) {
                Some(Entry::Set(_, waker)) => {
                    if !waker.will_wake(cx.waker()) {
                        waker.clone_from(cx.waker());
                    }
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            TABLE.with_borrow_mut(|table| table.give_back(place));
        }
    }
}

impl Table {
    fn take(&mut self, at: Instant, waker: &Waker) -> usize {
        self.set += 1;
        if !std::mem::replace(&mut self.is_ticking, true) {
            tokio::spawn(tick());
        }
        let entry = Entry::Set(at, waker.clone());
        match self.free.pop() {
            Some(place) => {
                self.entries[place] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        }
    }

    fn give_back(&mut self, place: usize) {
        if let Some(entry) = self.entries.get_mut(place) {
            *entry = Entry::Free;
            self.free.push(place);
            self.set -= 1;
        }
        if self.set == 0 {
            // What a crowd took is given back when it has left.
            (self.entries, self.free) = (Vec::new(), Vec::new());
        }
    }
}

/// Has alarms go off, as long as there are any.
async fn tick() {
    loop {
        sleep(TICK).await;
        let now = Instant::now();
        let due = TABLE.with_borrow_mut(|table| {
            table.is_ticking = table.set > 0;
            let due = |entry: &mut Entry| match entry {
                Entry::Set(at, _) if *at <= now => Some(std::mem::replace(entry, Entry::GoneOff)),
                _ => None,
            };
            table.is_ticking.then(|| table.entries.iter_mut().filter_map(due).collect::<Vec<_>>())
        });
        // Not under the table's eyes: who is woken may drop an alarm.
        let Some(due) = due else { return };
        for entry in due {
            if let Entry::Set(_, waker) = entry {
                waker.wake();
            }
        }
    }
}

/// What comes of the future, if it comes in time; a tick later is in time.
pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    if limit < EXACT_BELOW {
        return tokio::time::timeout(limit, future).await.ok();
    }
    let mut future = pin!(future);
    let mut alarm = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        let alarm = alarm.get_or_insert_with(|| Alarm::new(Instant::now() + limit));
        alarm.poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> usize {
        TABLE.with_borrow(|table| table.entries.len())
    }

    async fn gone_off(alarm: &mut Alarm) {
        poll_fn(|cx| alarm.poll(cx)).await;
    }

    #[tokio::test]
    async fn alarms_go_off_where_they_stand_at_last_and_leave_nothing_behind() {
        let began = Instant::now();
        let ms = |ms| began + Duration::from_millis(ms);
        let (mut first, mut second, never) =
            (Alarm::new(ms(100)), Alarm::new(ms(100_000)), Alarm::new(ms(1)));
        let watched = poll_fn(|cx| Poll::Ready(second.poll(cx).is_pending())).await;
        assert!(watched);
        gone_off(&mut first).await;
        assert!(began.elapsed() >= Duration::from_millis(100));
        second.set(ms(300));
        gone_off(&mut second).await;
        assert!(began.elapsed() >= Duration::from_millis(300));
        // It can go off again.
        first.set(ms(400));
        gone_off(&mut first).await;
        assert!(began.elapsed() >= Duration::from_millis(400));
        assert_eq!(places(), 2);
        drop((first, second, never));
        assert_eq!(places(), 0);
        let ended = async {
            while TABLE.with_borrow(|table| table.is_ticking) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("it ticks for nobody");
    }

    #[tokio::test]
    async fn what_comes_in_time_comes_and_what_does_not_is_given_up() {
        let second = Duration::from_secs(1);
        assert_eq!(timeout(second, async { 1 }).await, Some(1));
        let began = Instant::now();
        assert_eq!(timeout(second, std::future::pending::<()>()).await, None);
        assert!(began.elapsed() >= second);
        assert_eq!(timeout(Duration::from_millis(10), std::future::pending::<()>()).await, None);
        assert!(began.elapsed() < 10 * second);
    }
}
