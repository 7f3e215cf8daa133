//! The streams of a connection, and what is remembered of those that have ended. RFC 9113 §5.1.

use std::collections::VecDeque;

use super::{StreamId, WINDOW_MAX};

/// Ended streams that are remembered beside those that have not.
const ENDED_KEPT: usize = 16;

/// What the client may send: what was granted and not used, and what is to be granted. RFC 9113 §6.9.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    left: u32,
    to_grant: u32,
    most: u32,
}

impl Granted {
    pub(super) fn new(most: u32) -> Self {
        Self { left: most, to_grant: 0, most }
    }

    /// Counts what has come, padding and all; not more than was granted.
    pub(super) fn use_up(&mut self, len: usize) -> Option<()> {
        self.left = self.left.checked_sub(u32::try_from(len).ok()?)?;
        Some(())
    }

    /// Grants again what has been used, once it is worth a frame: how much.
    pub(super) fn give_back(&mut self, len: usize) -> Option<u32> {
        self.to_grant += len as u32;
        if self.to_grant < self.most / 2 {
            return None;
        }
        self.left += self.to_grant;
        Some(std::mem::take(&mut self.to_grant))
    }

    /// What is granted, what will be.
    #[cfg(test)]
    pub(super) fn amounts(&self) -> (u32, u32) {
        (self.left, self.to_grant)
    }
}

/// What a stream with something to send waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    /// Its own window.
    Window,
    /// Its turn, when there is room for any.
    Turn,
}

/// A stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    id: StreamId,
    /// Bytes the client takes; fewer than none where it has changed its mind. RFC 9113 §6.9.2.
    pub(super) window: i64,
    pub(super) granted: Granted,
    /// Bytes of the body that were given out and not consumed.
    pub(super) unread: usize,
    /// Bytes of the body that are to come, where the head said how many.
    pub(super) body_left: Option<u64>,
    pub(super) wait: Wait,
    /// Whether the client has said all, or ended the stream.
    pub(super) has_client_ended: bool,
    /// Whether we have said all.
    pub(super) have_we_ended: bool,
    is_over: bool,
}

/// What is known of a stream that is not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// Nobody has opened it.
    Idle,
    /// It was passed over when a later one was opened, which ended it. RFC 9113 §5.1.1.
    Skipped,
    /// The client has ended it: nothing more can come.
    EndedByClient,
    /// We have ended it, or it ended long ago: something may still be on its way.
    Ended,
}

/// All of them, in the order of their numbers; those that ended stay in their places for a while.
#[derive(Debug, Default)]
pub(super) struct Streams {
    all: VecDeque<Stream>,
    open: usize,
    /// The last the client has opened.
    last: StreamId,
    /// The last that was forgotten.
    forgotten: StreamId,
}

impl Streams {
    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn last(&self) -> StreamId {
        self.last
    }

    /// Opens a stream the client has begun; its number is larger than all before.
    pub(super) fn begin(&mut self, id: StreamId, window: i64, granted: u32) -> &mut Stream {
        if self.all.len() - self.open >= self.open.max(ENDED_KEPT) {
            self.forget();
        }
        self.last = id;
        self.open += 1;
        let stream = Stream {
            id,
            window,
            granted: Granted::new(granted),
            unread: 0,
            body_left: None,
            wait: Wait::No,
            has_client_ended: false,
            have_we_ended: false,
            is_over: false,
        };
        self.all.push_back_mut(stream)
    }

    fn forget(&mut self) {
        let ended = self.all.iter().rev().find(|stream| stream.is_over);
        self.forgotten = ended.map_or(self.forgotten, |stream| stream.id);
        self.all.retain(|stream| !stream.is_over);
    }

    /// A stream that is open.
    pub(super) fn get(&mut self, id: StreamId) -> Option<&mut Stream> {
        let at = self.place(id)?;
        self.all.get_mut(at).filter(|stream| !stream.is_over)
    }

    /// What is known of one that is not.
    pub(super) fn absent(&self, id: StreamId) -> Absent {
        match self.place(id).and_then(|at| self.all.get(at)) {
            // Those of even numbers nobody opens, nor 0, which is the connection.
            _ if id > self.last || id.is_multiple_of(2) => Absent::Idle,
            Some(stream) if stream.has_client_ended => Absent::EndedByClient,
            None if id > self.forgotten => Absent::Skipped,
            _ => Absent::Ended,
        }
    }

    /// Ends a stream: what it was.
    pub(super) fn end(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.get(id)?;
        stream.is_over = true;
        let stream = *stream;
        self.open -= 1;
        Some(stream)
    }

    /// Ends all of them.
    pub(super) fn end_all(&mut self) {
        (self.open, self.forgotten) = (0, self.last);
        self.all.clear();
    }

    /// Changes what the client takes of each stream; none may take more than [`WINDOW_MAX`]. RFC 9113 §6.9.2.
    pub(super) fn widen(&mut self, by: i64) -> Option<()> {
        for stream in &mut self.all {
            stream.window += by;
            if stream.window > WINDOW_MAX.into() && !stream.is_over {
                return None;
            }
        }
        Some(())
    }

    /// Those that are open.
    pub(super) fn iter(&mut self) -> impl Iterator<Item = (StreamId, &mut Stream)> {
        self.all.iter_mut().filter(|stream| !stream.is_over).map(|stream| (stream.id, stream))
    }

    /// Where a stream stands; clients number them without gaps, mostly.
    fn place(&self, id: StreamId) -> Option<usize> {
        let likely = (id.checked_sub(self.all.front()?.id)? / 2) as usize;
        if self.all.get(likely).is_some_and(|stream| stream.id == id) {
            return Some(likely);
        }
        self.all.binary_search_by_key(&id, |stream| stream.id).ok()
    }
}
