//! The connection.

use std::time::Duration;

use super::{Fatal, Gone, Head, Reason, StreamId, Terms};

/// What has come.
#[derive(Debug)]
pub enum Event<'i> {
    /// A request; whether no body follows.
    Request {
        /// The stream it came on, and is answered on.
        id: StreamId,
        /// Its head.
        head: Head,
        /// Whether no body follows.
        ends: bool,
    },
    /// Data of a request, to be [consumed](Server::consumed).
    Data {
        /// Whose.
        id: StreamId,
        /// Some of it; none where only the end comes.
        bytes: &'i [u8],
        /// Whether it ends here.
        ends: bool,
    },
    /// The end of a body, with fields. RFC 9113 §8.1.
    Trailers {
        /// Whose.
        id: StreamId,
        /// The fields.
        fields: Head,
    },
    /// More can be sent on a stream that waits.
    Room {
        /// Which.
        id: StreamId,
    },
    /// A stream has ended before its time: the client gave it up, or was wrong.
    Reset {
        /// Which.
        id: StreamId,
        /// Why.
        reason: Reason,
    },
    /// The client answers to [`Server::ping`].
    PingAnswered,
    /// The connection has ended; why is in the output, too.
    Fatal(Fatal),
}

/// One connection.
#[derive(Debug)]
pub struct Server {
    terms: Terms,
    output: Vec<u8>,
}

impl Server {
    /// A connection nobody has said anything on yet; the output has our settings.
    pub fn new(terms: Terms) -> Self {
        Self { terms, output: Vec::new() }
    }

    /// Takes bytes from the front of what has come, `now` after the connection began: how many, and what they say.
    ///
    /// To be called until it takes nothing and says nothing. It waits for the whole of each frame but DATA, so that at most
    /// a header and [`super::FRAME_LEN_MAX`] bytes are kept by the caller.
    pub fn receive<'i>(&mut self, _input: &'i [u8], _now: Duration) -> (usize, Option<Event<'i>>) {
        (0, None)
    }

    /// Bytes to write, to be taken as a whole.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Begins a response, or says an interim one (1xx, which does not end).
    pub fn respond<'f>(
        &mut self,
        _id: StreamId,
        _status: u16,
        _fields: impl Iterator<Item = (&'f str, &'f [u8])>,
        _end: bool,
    ) -> Result<(), Gone> {
        Err(Gone)
    }

    /// Sends data, and the end if all went: how many bytes went. Where some are left there will be [`Event::Room`].
    pub fn send(&mut self, _id: StreamId, _data: &[u8], _end: bool) -> Result<usize, Gone> {
        Err(Gone)
    }

    /// Ends a response.
    pub fn end(&mut self, _id: StreamId) -> Result<(), Gone> {
        Err(Gone)
    }

    /// Ends a response with fields.
    pub fn trailers<'f>(
        &mut self,
        _id: StreamId,
        _fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> Result<(), Gone> {
        Err(Gone)
    }

    /// So many bytes of a body have been read: the client may send as many more.
    pub fn consumed(&mut self, _id: StreamId, _len: usize) {}

    /// Ends a stream at once; of one that has ended nothing is said.
    pub fn reset(&mut self, _id: StreamId, _reason: Reason) {}

    /// Asks the client to open no more streams; called again a moment later, refuses those it opens all the same.
    pub fn go_away(&mut self) {}

    /// Asks whether the client is there.
    pub fn ping(&mut self) {}

    /// Streams that have not ended.
    pub fn open_streams(&self) -> usize {
        0
    }

    /// Whether there is nothing more to do but to write what is left and close.
    pub fn is_over(&self) -> bool {
        self.terms.streams_max == 0
    }
}
