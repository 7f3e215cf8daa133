//! Two connections joined: bytes as they come, each direction until it ends.
//!
//! What comes little by little is copied through a buffer of the thread; a direction that has much to move is spliced. Nothing is held
//! for a direction on which nothing moves.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};
use weir_model::Listener;

use crate::{alarm::Alarm, h1::Buffer, splice::Pipe};

/// A read this long means that more is waiting.
const LONG_READ: usize = 8 << 10;
/// So many bytes in long reads without a short one: then they are spliced.
const BULK_LEN: usize = 64 << 10;
/// A read shorter than this is cheaper to copy than to splice.
const SHORT_READ: usize = 4 << 10;
/// So many of them in a row end the splicing.
const SHORT_READS_MAX: u32 = 8;

/// How two joined connections ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both sides have said all they had to say.
    Both,
    /// Nothing moved for as long as the listener allows.
    Idle,
}

/// Two connections, joined.
#[derive(Debug)]
pub(crate) struct Relay {
    up: Way,
    down: Way,
    /// How long nothing may move, and how long once one side has ended.
    limits: [Duration; 2],
    timer: Option<Alarm>,
    moved_at: Option<Instant>,
}

impl Relay {
    /// Nothing has moved yet.
    pub(crate) fn new(listener: &Listener) -> Self {
        let half_closed = listener.half_closed_timeout.unwrap_or(listener.idle_timeout);
        Self {
            up: Way::default(),
            down: Way::default(),
            limits: [listener.idle_timeout, half_closed],
            timer: None,
            moved_at: None,
        }
    }

    /// Bytes that came from the client and were sent on.
    pub(crate) fn bytes_in(&self) -> u64 {
        self.up.moved
    }

    /// Bytes the client was sent.
    pub(crate) fn bytes_out(&self) -> u64 {
        self.down.moved
    }

    /// Joins two sockets until both ways have ended. An end of stream on one side is passed on as one; the other way stays open.
    pub(crate) async fn join(&mut self, client: &mut TcpStream, server: &mut TcpStream) -> io::Result<Ended> {
        poll_fn(|cx| self.poll(cx, client, server, |client, server| Some((client, server)))).await
    }

    /// The same where either is more than a socket.
    pub(crate) async fn join_any<S, T>(&mut self, client: &mut S, server: &mut T) -> io::Result<Ended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        poll_fn(|cx| self.poll(cx, client, server, |_, _| None)).await
    }

    fn poll<S, T>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut S,
        server: &mut T,
        sockets: for<'s> fn(&'s S, &'s T) -> Option<Sockets<'s>>,
    ) -> Poll<io::Result<Ended>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let before = self.up.moved + self.down.moved;
        let is_last = self.down.stage == Stage::Ended;
        let up = self.up.poll(cx, (client, server), sockets, is_last)?.is_ready();
        let is_last = self.up.stage == Stage::Ended;
        let down = self.down.poll(
            cx,
            (server, client),
            |server, client| sockets(client, server).map(|(client, server)| (server, client)),
            is_last,
        );
        let down = down?.is_ready();
        if up && down {
            return Poll::Ready(Ok(Ended::Both));
        }
        let has_moved = self.up.moved + self.down.moved != before;
        ready!(self.poll_idle(cx, has_moved, up || down));
        Poll::Ready(Ok(Ended::Idle))
    }

    /// Ready when nothing has moved for too long. The timer is not moved with every byte: when it is due, it is seen whether it is
    /// too early.
    fn poll_idle(&mut self, cx: &mut Context<'_>, has_moved: bool, is_half_closed: bool) -> Poll<()> {
        let limit = self.limits[usize::from(is_half_closed)];
        let moved_at = match self.moved_at {
            Some(at) if !has_moved => at,
            _ => *self.moved_at.insert(Instant::now()),
        };
        let due = moved_at + limit;
        let timer = self.timer.get_or_insert_with(|| Alarm::new(due));
        if due < timer.at() {
            timer.set(due);
        }
        loop {
            ready!(timer.poll(cx));
            if due <= timer.at() {
                return Poll::Ready(());
            }
            timer.set(due);
        }
    }
}

/// Where a way comes from and where it leads, when both are sockets.
type Sockets<'s> = (&'s TcpStream, &'s TcpStream);

/// One direction.
#[derive(Debug, Default)]
struct Way {
    buffer: Buffer,
    pipe: Option<Pipe>,
    pace: Pace,
    moved: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// No more will come; the other side is still to be told.
    Ending,
    Ended,
}

impl Way {
    /// Moves what there is; ready when it has ended. `is_last`: the other direction has ended before.
    fn poll<F: AsyncRead + Unpin, T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut F, &mut T),
        sockets: impl for<'s> Fn(&'s F, &'s T) -> Option<Sockets<'s>>,
        is_last: bool,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.buffer.is_empty() {
                let len = ready!(Pin::new(&mut *to).poll_write(cx, self.buffer.data()))?;
                if len == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.buffer.consume(len);
                self.moved += len as u64;
            }
            match self.stage {
                Stage::Open => {}
                // Sockets are about to be closed, which says it as well.
                Stage::Ending if is_last && sockets(&*from, &*to).is_some() => {
                    self.stage = Stage::Ended;
                    return Poll::Ready(Ok(()));
                }
                Stage::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.stage = Stage::Ended;
                    return Poll::Ready(Ok(()));
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
            if self.pace.is_bulk()
                && let Some((from, to)) = sockets(&*from, &*to)
            {
                match self.poll_splice(cx, from, to) {
                    Poll::Ready(spliced) => spliced?,
                    Poll::Pending => return Poll::Pending,
                }
                continue;
            }
            match self.buffer.poll_fill(cx, from) {
                Poll::Ready(Ok(0)) => self.stage = Stage::Ending,
                Poll::Ready(Ok(len)) => self.pace.copied(len),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Splices as long as that goes well; ready with an empty pipe, when something else is to be done next.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(pipe) = &mut self.pipe {
                while !pipe.is_empty() {
                    ready!(to.poll_write_ready(cx))?;
                    match pipe.drain(to) {
                        Ok(len) => self.moved += len as u64,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
            }
            if !self.pace.is_bulk() || self.stage != Stage::Open {
                self.pipe = None;
                return Poll::Ready(Ok(()));
            }
            if from.poll_read_ready(cx)?.is_pending() {
                self.pipe = None;
                return Poll::Pending;
            }
            let Some(pipe) = self.pipe.take().or_else(Pipe::take) else {
                self.pace.cannot_splice();
                return Poll::Ready(Ok(()));
            };
            match self.pipe.insert(pipe).fill(from) {
                Ok(0) => self.stage = Stage::Ending,
                Ok(len) => self.pace.spliced(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Nothing was taken: it is copied.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.pace.cannot_splice(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Whether a direction has so much to move that it is worth splicing, told by how long its reads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Copied, so many bytes in long reads without a short one.
    Copied(usize),
    /// Spliced, so many short reads in a row.
    Spliced(u32),
}

impl Default for Pace {
    fn default() -> Self {
        Self::Copied(0)
    }
}

impl Pace {
    fn is_bulk(self) -> bool {
        matches!(self, Self::Spliced(_))
    }

    fn copied(&mut self, len: usize) {
        let Self::Copied(long) = self else { return };
        *long = if len >= LONG_READ { *long + len } else { 0 };
        if *long >= BULK_LEN {
            *self = Self::Spliced(0);
        }
    }

    fn spliced(&mut self, len: usize) {
        let Self::Spliced(short) = self else { return };
        *short = if len < SHORT_READ { *short + 1 } else { 0 };
        if *short > SHORT_READS_MAX {
            *self = Self::default();
        }
    }

    /// There is no pipe to be had: it is copied until there is much to move again.
    fn cannot_splice(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_long_reads_is_spliced_until_they_are_short() {
        let mut pace = Pace::default();
        for _ in 0..BULK_LEN / LONG_READ - 1 {
            pace.copied(LONG_READ);
        }
        assert!(!pace.is_bulk());
        pace.copied(LONG_READ - 1);
        assert_eq!(pace, Pace::Copied(0), "a short one begins anew");
        for _ in 0..BULK_LEN / LONG_READ {
            pace.copied(LONG_READ);
        }
        assert!(pace.is_bulk());
        for _ in 0..SHORT_READS_MAX {
            pace.spliced(1);
        }
        pace.spliced(SHORT_READ);
        assert_eq!(pace, Pace::Spliced(0), "a few short ones are no reason");
        for _ in 0..=SHORT_READS_MAX {
            pace.spliced(1);
        }
        assert_eq!(pace, Pace::Copied(0));
    }
}
