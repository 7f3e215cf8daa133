//! The parent of a proxy (`--keep`): it holds the listening sockets and does nothing else, so that it has no reason to die.
//!
//! It speaks systemd's protocol to the proxy it starts, and hands everything on to a systemd of its own, where there is one. What is
//! to be done is `weir_core::keeper`'s; here are signals, one socket and processes. One thread, no runtime.

mod spawn;

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        socket::{setsockopt, sockopt::PassCred},
        stat::fstat,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use socket2::{Domain, SockAddr, Socket, Type};
use weir_core::keeper::{
    Command, Exit, Keeper, Limits,
    notice::{self, Notice},
    store::{Store, Stored},
};
use weir_runtime::descriptors::{self, Received};

use crate::{
    hold::{Holder, Notify},
    limits::{KEEPER_LEAVE_EXTRA, KEEPER_READY_MAX},
    options::Options,
};

/// Who gave us what we had at our own start: nobody we have to do with.
const OUTSIDE: i32 = 0;

struct Keeping {
    machine: Keeper,
    store: Store<OwnedFd>,
    /// Words of the proxies.
    inbox: Socket,
    signals: SignalFd,
    /// The signals that were blocked before us.
    mask_before: SigSet,
    upstream: Option<Notify>,
    was_started: bool,
}

/// Keeps a proxy until it is told to stop.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut keeping = Keeping::new(options)?;
    tracing::info!(pid = std::process::id(), "keeping a proxy");
    loop {
        while let Some(command) = keeping.machine.poll_command() {
            if let Some(code) = keeping.carry_out(command) {
                return Ok(ExitCode::from(code));
            }
        }
        keeping.wait().context("wait")?;
    }
}

impl Keeping {
    fn new(options: &Options) -> Result<Self> {
        let wanted = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGCHLD]
            .into_iter()
            .collect();
        let mask_before = SigSet::thread_swap_mask(&wanted, SigmaskHow::SIG_BLOCK).context("signals")?;
        let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let mut store = Store::default();
        for (name, socket) in Holder::from_env().into_given() {
            let socket = OwnedFd::from(socket);
            store.put(OUTSIDE, &name, identity(&socket)?, socket);
        }
        // What outlived an earlier keeper has a proxy that was.
        let was_started = store.iter().len() > 0;
        let limits =
            Limits { ready: KEEPER_READY_MAX, leave: options.hand_over_timeout + KEEPER_LEAVE_EXTRA };
        Ok(Self {
            machine: Keeper::new(limits),
            was_started,
            store,
            inbox: inbox().context("socket for words of the proxy")?,
            signals: signals.context("signals")?,
            mask_before,
            upstream: Notify::from_env(),
        })
    }

    /// Does what the machine wants; returns the status to end with.
    fn carry_out(&mut self, command: Command) -> Option<u8> {
        match command {
            Command::Start => self.start(),
            Command::HandOver(pid) => send(pid, Signal::SIGUSR2),
            Command::Promote(pid) => {
                let gone = self.store.promote(pid, OUTSIDE);
                self.let_go(gone);
            }
            Command::Forget(pid) => {
                let gone = self.store.forget(pid);
                self.let_go(gone);
            }
            Command::Stop(pid) => send(pid, Signal::SIGTERM),
            Command::Kill(pid) => send(pid, Signal::SIGKILL),
            Command::Tell(what) => tracing::info!("{what}"),
            Command::Warn(what) => tracing::error!("{what}"),
            Command::End(code) => return Some(code),
        }
        None
    }

    fn start(&mut self) {
        let now = Instant::now();
        let child = spawn::Child {
            notify: self.inbox.local_addr().ok(),
            // The first of all is nobody's successor.
            held: self
                .was_started
                .then(|| self.store.iter().map(|(name, socket)| (name, socket.as_fd())).collect()),
            mask: self.mask_before,
        };
        match child.spawn() {
            Ok(pid) => {
                tracing::info!("started proxy {pid}");
                self.was_started = true;
                self.machine.started(pid, now);
            }
            Err(error) => self.machine.not_started(&error.to_string(), now),
        }
    }

    /// Waits for whatever comes first, and tells the machine.
    fn wait(&mut self) -> io::Result<()> {
        // A little later than asked for is early enough; earlier would be in vain.
        let left = self
            .machine
            .poll_timeout()
            .map(|at| at.saturating_duration_since(Instant::now()).saturating_add(Duration::from_millis(1)));
        let left =
            left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let mut sources = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.inbox.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut sources, left) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // The last words of one that has ended come before its end.
        let mut asked = Vec::new();
        while let Some(signal) = self.signals.read_signal()? {
            asked.push(signal.ssi_signo as i32);
        }
        self.hear()?;
        self.bury();
        for signal in asked.into_iter().filter_map(|number| Signal::try_from(number).ok()) {
            match signal {
                Signal::SIGTERM | Signal::SIGINT => {
                    tracing::info!("{signal}: stopping");
                    self.say("STOPPING=1");
                    self.machine.handle_stop();
                }
                Signal::SIGUSR2 => self.machine.handle_upgrade(),
                Signal::SIGHUP => {
                    tracing::info!("SIGHUP: the configuration is read whenever it changes; SIGUSR2 upgrades")
                }
                _ => {}
            }
        }
        self.machine.handle_timeout(Instant::now());
        Ok(())
    }

    /// Those that have ended.
    fn bury(&mut self) {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code as u8)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            self.machine.handle_exit(pid.as_raw(), exit, Instant::now());
        }
    }

    /// What the proxies say.
    fn hear(&mut self) -> io::Result<()> {
        loop {
            match descriptors::receive(&self.inbox, notice::LEN_MAX) {
                Ok(Some(received)) => self.note(received),
                // An empty message.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn note(&mut self, received: Received) {
        let Received { message, descriptors, pid } = received;
        // Anybody may write to the socket; the kernel says who did.
        let Some(pid) = pid.filter(|pid| self.machine.in_service().any(|known| known == *pid)) else {
            return;
        };
        let notice = Notice::parse(&message);
        if let (true, Some(name)) = (notice.store, notice.name) {
            for socket in descriptors {
                self.hold(pid, name, socket);
            }
        }
        if let (true, Some(name)) = (notice.remove, notice.name) {
            let in_service: Vec<i32> = self.machine.in_service().collect();
            if self.store.remove(pid, name, |pid| in_service.contains(&pid)) {
                self.say(&notice::remove(name));
            }
        }
        if notice.ready {
            self.machine.handle_ready(pid, Instant::now());
        }
        if self.machine.current() == Some(pid) {
            if notice.ready {
                self.say("READY=1");
            }
            if notice.watchdog {
                self.say("WATCHDOG=1");
            }
            if let Some(status) = notice.status {
                self.say(&format!("STATUS={status}"));
            }
        }
    }

    fn hold(&mut self, pid: i32, name: &str, socket: OwnedFd) {
        let stored = identity(&socket).and_then(|identity| Ok((identity, socket.try_clone()?)));
        match stored.map(|(identity, copy)| self.store.put(pid, name, identity, copy)) {
            Ok(Stored::Known) => {}
            Ok(Stored::New) => {
                if let Some(upstream) = &self.upstream
                    && let Err(error) = upstream.send(&notice::store(name), &[socket.as_fd()])
                {
                    tracing::warn!("{name} could not be given to the service manager: {error}");
                }
            }
            Ok(Stored::Full) => tracing::error!("{name} is not held: too many sockets"),
            Err(error) => tracing::error!("{name} is not held: {error}"),
        }
    }

    /// Nothing is held under these names any more.
    fn let_go(&self, names: BTreeSet<String>) {
        for name in names {
            self.say(&notice::remove(&name));
        }
    }

    fn say(&self, what: &str) {
        if let Some(upstream) = &self.upstream
            && let Err(error) = upstream.send(what, &[])
        {
            tracing::warn!("{what:?} could not be said to the service manager: {error}");
        }
    }
}

/// Where proxies speak to us: an abstract name that the kernel chooses.
fn inbox() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, PassCred, &true)?;
    socket.bind(&SockAddr::unix("")?)?;
    Ok(socket)
}

/// What is equal in all duplicates of a socket.
fn identity(socket: &OwnedFd) -> io::Result<u64> {
    Ok(fstat(socket)?.st_ino)
}

fn send(pid: i32, signal: Signal) {
    // It may have ended meanwhile.
    if let Err(error) = kill(Pid::from_raw(pid), signal) {
        tracing::debug!("{signal} to {pid}: {error}");
    }
}
