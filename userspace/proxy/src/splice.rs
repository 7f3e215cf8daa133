//! Bytes from socket to socket without a copy: splice(2) through a pipe of the thread.
//!
//! A pipe is held only while there are bytes in it: a direction on which nothing moves has none.

use std::{cell::RefCell, io, os::fd::OwnedFd};

use nix::{
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::pipe2,
};
use tokio::{io::Interest, net::TcpStream};

/// What a pipe holds; where the system allows no more, the kernel's default.
const PIPE_LEN: usize = 512 << 10;
/// Pipes of a thread that may be in use; whoever gets none copies. Each is two descriptors.
const PIPES_MAX: usize = 512;
/// Of these, kept for the next one.
const SPARE_MAX: usize = 16;

/// The pipes of a thread.
#[derive(Default)]
struct Pipes {
    spare: Vec<Ends>,
    in_use: usize,
}

thread_local! {
    static PIPES: RefCell<Pipes> = RefCell::default();
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Ends {
    fn open() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let _best_effort = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_LEN as i32));
        Ok(Self { read, write })
    }
}

/// A pipe with bytes on their way.
#[derive(Debug)]
pub(crate) struct Pipe {
    ends: Option<Ends>,
    filled: usize,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        PIPES.with_borrow_mut(|pipes| {
            pipes.in_use -= 1;
            // One with bytes in it is nobody else's.
            if self.filled == 0 && pipes.spare.len() < SPARE_MAX {
                pipes.spare.extend(self.ends.take());
            }
        });
    }
}

impl Pipe {
    /// An empty one, unless all are in use or the system has no more.
    pub(crate) fn take() -> Option<Self> {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.in_use >= PIPES_MAX {
                return None;
            }
            let ends = pipes.spare.pop().map_or_else(Ends::open, Ok).ok()?;
            pipes.in_use += 1;
            Some(Self { ends: Some(ends), filled: 0 })
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes what has come, into an empty pipe: how much, 0 at the end of the stream. That it would block means then that nothing
    /// has come.
    pub(crate) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let len = from
            .try_io(Interest::READABLE, || Ok(splice(from, None, &ends.write, None, PIPE_LEN, flags())?))?;
        self.filled += len;
        Ok(len)
    }

    /// Sends as much as there is room for: how much.
    pub(crate) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let len =
            to.try_io(Interest::WRITABLE, || Ok(splice(&ends.read, None, to, None, self.filled, flags())?))?;
        self.filled = self.filled.saturating_sub(len);
        Ok(len)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}
