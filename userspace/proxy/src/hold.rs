//! The one who holds our listening sockets, so that they outlive us: systemd, or our own parent (`keep`).
//!
//! Each socket is given to it (`FDSTORE=1`) as it begins to listen and taken back as it closes on purpose. Whoever comes after us,
//! be it after a crash or beside us for an upgrade, begins with all of them: the kernel completes connections all the while, and
//! nobody is refused. A stop takes nothing back: it may be the first half of a restart.

mod door;
mod given;
mod notify;

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, PoisonError},
};

use socket2::Socket;
use weir_core::keeper::notice;

pub(crate) use self::{door::Door, given::Taken, notify::Notify};
use given::Given;

/// What is known of the holder, and what it gave us at our start.
pub(crate) struct Holder {
    notify: Option<Notify>,
    given: Mutex<Vec<Given>>,
    is_successor: bool,
    holds: bool,
    watches: bool,
}

impl Holder {
    /// Takes what was given to this process. Once, before anything else opens descriptors.
    pub(crate) fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).ok();
        let notify = Notify::from_env();
        let own = std::process::id();
        let (pid, count, names) = (var("LISTEN_PID"), var("LISTEN_FDS"), var("LISTEN_FDNAMES"));
        let names = notice::given(own, pid.as_deref(), count.as_deref(), names.as_deref());
        let is_ours = |pid: String| pid.parse() == Ok(own);
        Self {
            is_successor: names.is_some(),
            given: Mutex::new(given::take(names.unwrap_or_default())),
            // As systemd says since version 254.
            holds: notify.is_some()
                && var("FDSTORE").is_some_and(|max| max.parse().is_ok_and(|max: u32| max > 0)),
            watches: var("WATCHDOG_USEC").is_some() && var("WATCHDOG_PID").is_none_or(is_ours),
            notify,
        }
    }

    /// All that was given, for one who does nothing but hold it.
    pub(crate) fn into_given(self) -> impl Iterator<Item = (String, Socket)> {
        let given = self.given.into_inner().unwrap_or_else(PoisonError::into_inner);
        given.into_iter().map(|given| (given.name, given.socket))
    }

    /// Whether there was one before us, which may still be there.
    pub(crate) fn is_successor(&self) -> bool {
        self.is_successor
    }

    /// Whether the sockets stay open when we close ours.
    pub(crate) fn holds(&self) -> bool {
        self.holds
    }

    /// The sockets for a door that we were given.
    pub(crate) fn take(&self, door: Door) -> Taken {
        given::pick(&mut self.given.lock().unwrap_or_else(PoisonError::into_inner), door)
    }

    /// The one socket of a door of which there is one.
    pub(crate) fn take_one(&self, door: Door) -> Option<std::io::Result<tokio::net::TcpListener>> {
        let socket = self.take(door).sockets.into_iter().next()?;
        Some(tokio::net::TcpListener::from_std(socket.into()))
    }

    /// Gives sockets that listen to the holder.
    pub(crate) fn store(&self, door: Door, sockets: &[impl AsFd]) {
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        for some in sockets.chunks(notice::DESCRIPTORS_MAX) {
            self.say(&notice::store(&door.name()), some);
        }
    }

    /// Has it close what it holds for a door.
    pub(crate) fn remove(&self, door: Door) {
        self.say(&notice::remove(&door.name()), &[]);
    }

    /// Closes what we were given and have no use for.
    pub(crate) fn close_rest(&self) {
        let rest = std::mem::take(&mut *self.given.lock().unwrap_or_else(PoisonError::into_inner));
        for given in rest {
            tracing::warn!("{} at {} is not wanted any more", given.name, given.local);
            // What somebody else opened is theirs.
            if door::is_ours(&given.name) {
                self.say(&notice::remove(&given.name), &[]);
            }
        }
    }

    /// Says that we serve.
    pub(crate) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"), &[]);
    }

    /// Says that we live, where somebody wants to hear it.
    pub(crate) fn live(&self) {
        if self.watches {
            self.say("WATCHDOG=1", &[]);
        }
    }

    /// Says that we are about to end.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1", &[]);
    }

    fn say(&self, what: &str, sockets: &[BorrowedFd<'_>]) {
        if let Some(notify) = &self.notify
            && let Err(error) = notify.send(what, sockets)
        {
            let what = what.lines().next().unwrap_or_default();
            tracing::warn!("{what} could not be said to the one who holds our sockets: {error}");
        }
    }
}
