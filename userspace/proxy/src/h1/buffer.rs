//! Bytes that came and were not used yet. An empty buffer holds no memory: whoever waits for bytes, waits without.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncRead;

/// Bytes of a buffer; a head that is longer makes it grow.
pub(crate) const BUFFER_LEN: usize = 16 << 10;
/// Bytes that are worth a copy, to wait for more without a buffer.
const FEW_LEN: usize = BUFFER_LEN / 4;
/// Buffers a thread keeps for the next connections that have something to say.
const SPARE_MAX: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Room for bytes: one of the thread's.
pub(crate) fn take() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER_LEN))
}

/// Gives it back.
pub(crate) fn give(mut bytes: Vec<u8>) {
    if bytes.capacity() == BUFFER_LEN {
        bytes.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push(bytes);
            }
        });
    }
}

/// Room for what is written, given back when dropped.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) Vec<u8>);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(take())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

/// What came from one side.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Option<Box<Bytes>>);

/// In memory of its own, so that an empty buffer is a word.
#[derive(Debug)]
struct Bytes {
    bytes: Vec<u8>,
    begin: usize,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Buffer {
    /// What came and was not used yet.
    pub(crate) fn data(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |room| &room.bytes[room.begin..])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.data().is_empty()
    }

    /// So many bytes are used.
    pub(crate) fn consume(&mut self, len: usize) {
        let Some(room) = &mut self.0 else { return };
        room.begin += len;
        debug_assert!(room.begin <= room.bytes.len());
        if room.begin == room.bytes.len() {
            room.bytes.clear();
            room.begin = 0;
        }
    }

    /// Holds no more memory than its bytes need: for a wait that may be long, with few of them.
    pub(crate) fn shrink(&mut self) {
        let Some(room) = &mut self.0 else { return };
        let few = &room.bytes[room.begin..];
        if room.bytes.capacity() == BUFFER_LEN && few.len() <= FEW_LEN {
            let few = few.to_vec();
            give(std::mem::replace(&mut room.bytes, few));
            room.begin = 0;
        }
    }

    /// Reads more bytes: how many, 0 at the end of the stream. Holds memory only while there are bytes.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        let room = self.0.get_or_insert_with(|| Box::new(Bytes { bytes: take(), begin: 0 }));
        if room.bytes.capacity() < BUFFER_LEN {
            let mut wide = take();
            wide.extend_from_slice(&room.bytes[room.begin..]);
            (room.bytes, room.begin) = (wide, 0);
        }
        if room.bytes.len() == room.bytes.capacity() {
            if room.begin > 0 {
                room.bytes.drain(..room.begin);
                room.begin = 0;
            } else {
                room.bytes.reserve(room.bytes.len());
            }
        }
        let polled = tokio_util::io::poll_read_buf(Pin::new(stream), cx, &mut room.bytes);
        if room.bytes.is_empty() {
            self.give_back();
        }
        polled
    }

    fn give_back(&mut self) {
        if let Some(room) = self.0.take() {
            give(room.bytes);
        }
    }
}
