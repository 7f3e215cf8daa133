//! One body on its way from one side to the other, with no more of it in memory than a buffer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite};
use weir_core::h1::{self, Bad, Chunked, Framing, Progress};

use super::buffer::{BUFFER_LEN, Buffer, Scratch};

/// A body: how it is framed where it comes from, and how where it goes to.
#[derive(Debug)]
pub(crate) struct Pump {
    from: From,
    in_chunks: bool,
    out: Scratch,
    written: usize,
    /// Bytes of the body so far.
    pub(crate) bytes: u64,
    /// Moves with every byte that does: whoever watches for a standstill looks at it.
    pub(crate) moves: u64,
    /// Whether the last poll ended for want of bytes, and not because the other side took none.
    awaits_sender: bool,
    is_done: bool,
    /// What came behind a body in chunks that does not go on in chunks.
    trailers: Option<Box<Chunked>>,
}

#[derive(Debug)]
enum From {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    /// All that comes is written already.
    End,
}

/// Why a body did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The side it comes from broke off.
    #[error("the sender: {0}")]
    From(io::Error),
    /// What it sent is no such body.
    #[error("the sender: {0}")]
    Bad(Bad),
    /// The side it goes to takes no more.
    #[error("the receiver: {0}")]
    To(io::Error),
}

impl Pump {
    /// A body framed like this; `in_chunks`: it is sent on in chunks.
    pub(crate) fn new(framing: Framing, in_chunks: bool) -> Self {
        let from = match framing {
            Framing::None => From::End,
            Framing::Length(len) => From::Length(len),
            Framing::Chunked => From::Chunked(Chunked::default()),
            Framing::UntilClose => From::UntilClose,
        };
        let is_done = framing == Framing::None;
        let out = Scratch(Vec::new());
        Self {
            from,
            in_chunks,
            out,
            written: 0,
            bytes: 0,
            moves: 0,
            awaits_sender: false,
            is_done,
            trailers: None,
        }
    }

    /// Whether all of it has been written.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// The fields that came behind it, and were not written.
    pub(crate) fn trailers(&self) -> Option<&Chunked> {
        self.trailers.as_deref()
    }

    /// Whether nothing is missing for it to go on but bytes of the sender's.
    pub(crate) fn awaits_sender(&self) -> bool {
        self.awaits_sender && !self.is_done
    }

    /// Whether all of it has come.
    pub(crate) fn has_come(&self) -> bool {
        matches!(self.from, From::End)
    }

    /// Puts this in front of the body: the head, so that both leave in one piece.
    pub(crate) fn begin_with(&mut self, head: Scratch) {
        self.out = head;
        self.is_done = false;
    }

    /// Takes what is there already, as long as it fits beside what waits.
    pub(crate) fn take_along(&mut self, came: &mut Buffer) -> Result<(), Bad> {
        while !came.is_empty() && self.out.0.len() < BUFFER_LEN / 2 && !self.has_come() {
            self.take_some(came, BUFFER_LEN - self.out.0.len())?;
        }
        Ok(())
    }

    /// Moves until the body is complete on the other side.
    pub(crate) fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        came: &mut Buffer,
        to: &mut B,
    ) -> Poll<Result<(), Broken>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        self.awaits_sender = false;
        while !self.is_done {
            while self.written < self.out.0.len() {
                let polled = Pin::new(&mut *to).poll_write(cx, &self.out.0[self.written..]);
                let len = ready!(polled).and_then(some).map_err(Broken::To)?;
                self.written += len;
                self.moves += 1;
            }
            self.out.0.clear();
            self.written = 0;
            if self.has_come() {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::To)?;
                self.is_done = true;
                break;
            }
            if came.is_empty() {
                // What a side with a layer of its own holds back must not wait for more.
                if let Poll::Ready(Err(error)) = Pin::new(&mut *to).poll_flush(cx) {
                    return Poll::Ready(Err(Broken::To(error)));
                }
                let Poll::Ready(filled) = came.poll_fill(cx, from) else {
                    self.awaits_sender = true;
                    return Poll::Pending;
                };
                let len = filled.map_err(Broken::From)?;
                self.moves += 1;
                if len == 0 {
                    self.end_of_stream()?;
                }
                continue;
            }
            // Without a copy where nothing has to be put between the bytes.
            let whole = match self.from {
                From::Length(left) => usize::try_from(left).unwrap_or(usize::MAX),
                From::UntilClose if !self.in_chunks => usize::MAX,
                _ => {
                    self.take_some(came, BUFFER_LEN).map_err(Broken::Bad)?;
                    continue;
                }
            };
            let len = whole.min(came.data().len());
            let polled = Pin::new(&mut *to).poll_write(cx, &came.data()[..len]);
            let len = ready!(polled).and_then(some).map_err(Broken::To)?;
            came.consume(len);
            self.count(len);
        }
        Poll::Ready(Ok(()))
    }

    fn count(&mut self, len: usize) {
        self.bytes += len as u64;
        self.moves += 1;
        if let From::Length(left) = &mut self.from {
            *left -= len as u64;
            if *left == 0 {
                self.from = From::End;
            }
        }
    }

    /// Copies at most `room` bytes of the body to where they wait to be written.
    fn take_some(&mut self, came: &mut Buffer, room: usize) -> Result<(), Bad> {
        let len = match &mut self.from {
            From::End => return Ok(()),
            From::Length(left) => came.data().len().min(usize::try_from(*left).unwrap_or(usize::MAX)),
            From::UntilClose => came.data().len(),
            From::Chunked(chunked) => {
                let (framing, progress) = chunked.advance(came.data())?;
                came.consume(framing);
                match progress {
                    Progress::More => return Ok(()),
                    Progress::Data(len) => {
                        // More than fits is said in two chunks: the reader of chunks must have taken it all by then.
                        self.chunk(came, len);
                        return Ok(());
                    }
                    Progress::End => {
                        if self.in_chunks {
                            chunked.write_end(&mut self.out.0)?;
                        } else if chunked.has_trailers() {
                            self.trailers = Some(Box::new(std::mem::take(chunked)));
                        }
                        self.from = From::End;
                        return Ok(());
                    }
                }
            }
        };
        self.chunk(came, len.min(room.max(1)));
        Ok(())
    }

    fn chunk(&mut self, came: &mut Buffer, len: usize) {
        if self.out.0.capacity() == 0 {
            self.out = Scratch::new();
        }
        if self.in_chunks {
            h1::write_chunk_head(&mut self.out.0, len);
        }
        self.out.0.extend_from_slice(&came.data()[..len]);
        if self.in_chunks {
            h1::write_chunk_end(&mut self.out.0);
        }
        came.consume(len);
        self.count(len);
    }

    fn end_of_stream(&mut self) -> Result<(), Broken> {
        if !matches!(self.from, From::UntilClose) {
            return Err(Broken::From(io::ErrorKind::UnexpectedEof.into()));
        }
        if self.in_chunks {
            self.out.0.extend_from_slice(b"0\r\n\r\n");
        }
        self.from = From::End;
        Ok(())
    }
}

/// A write of nothing is no progress and never will be.
fn some(len: usize) -> io::Result<usize> {
    if len == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(len) }
}
