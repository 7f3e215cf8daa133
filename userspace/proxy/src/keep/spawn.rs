//! A process of the program we are, as `sd_listen_fds(3)` wants it.
//!
//! `std::process` cannot say the number of the process in its environment, nor which descriptors it begins with.

use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::ffi::OsStringExt,
    },
};

use nix::{
    libc,
    sys::signal::SigSet,
    unistd::{ForkResult, Pid, execvpe, fork, getpid, setpgid},
};
use socket2::SockAddr;
use weir_core::keeper::{notice::FIRST_GIVEN, store::HELD_MAX};

/// Exit status of a process that could not become the program, as a shell's.
const NO_PROGRAM: i32 = 127;
/// What tells a process of its service manager; a child hears of us instead.
const TOLD: [&str; 6] =
    ["NOTIFY_SOCKET", "FDSTORE", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// A process to be.
pub(super) struct Child<'a> {
    /// Where it speaks to us.
    pub(super) notify: Option<SockAddr>,
    /// What it begins with; `None` for one that has no predecessor.
    pub(super) held: Option<Vec<(&'a str, BorrowedFd<'a>)>>,
    /// The signals it does not hear.
    pub(super) mask: SigSet,
}

impl Child<'_> {
    /// Starts it: the program by the name we were started by, which may be another file by now, with our arguments.
    #[allow(unsafe_code)]
    pub(super) fn spawn(self) -> io::Result<i32> {
        let mut arguments = std::env::args_os().enumerate();
        let arguments = arguments.by_ref().filter(|(index, argument)| *index == 0 || argument != "--keep");
        let arguments: Vec<CString> =
            arguments.map(|(_, argument)| c_string(argument)).collect::<Result<_, _>>()?;
        let program = arguments.first().cloned().ok_or(io::ErrorKind::InvalidInput)?;
        let environment = self.environment()?;
        // SAFETY: this process has one thread, so that nothing is half done by another in the child.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child.as_raw()),
            ForkResult::Child => {
                let error = self.become_it(&program, &arguments, environment);
                eprintln!("weir-proxy: start {}: {error}", program.to_string_lossy());
                // SAFETY: ends the process, and runs nothing that belongs to the parent.
                unsafe { libc::_exit(NO_PROGRAM) }
            }
        }
    }

    fn environment(&self) -> io::Result<Vec<CString>> {
        let kept = std::env::vars_os().filter(|(name, _)| !TOLD.iter().any(|told| name == told));
        let mut all: Vec<CString> = kept
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                c_string(name)
            })
            .collect::<Result<_, _>>()?;
        let ours = self.notify.as_ref().and_then(SockAddr::as_abstract_namespace);
        if let Some(name) = ours {
            all.push(c_string(format!("NOTIFY_SOCKET=@{}", String::from_utf8_lossy(name)).into())?);
            all.push(c_string(format!("FDSTORE={HELD_MAX}").into())?);
        }
        if let Some(held) = &self.held {
            let names: Vec<&str> = held.iter().map(|(name, _)| *name).collect();
            all.push(c_string(format!("LISTEN_FDS={}", held.len()).into())?);
            all.push(c_string(format!("LISTEN_FDNAMES={}", names.join(":")).into())?);
        }
        Ok(all)
    }

    /// In the child: all that the program shall find, then the program. Returns only when that fails.
    fn become_it(&self, program: &CString, arguments: &[CString], environment: Vec<CString>) -> io::Error {
        match self.prepare(environment).map(|environment| execvpe(program, arguments, &environment)) {
            Ok(Err(error)) => error.into(),
            Err(error) => error,
        }
    }

    #[allow(unsafe_code)]
    fn prepare(&self, mut environment: Vec<CString>) -> io::Result<Vec<CString>> {
        let own = getpid();
        environment.push(c_string(format!("LISTEN_PID={own}").into())?);
        environment.push(c_string(format!("WATCHDOG_PID={own}").into())?);
        // A group of its own: what a terminal sends to us we pass on, once.
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        let held = self.held.as_deref().unwrap_or_default();
        let beyond = FIRST_GIVEN + held.len() as i32;
        // Out of the way of each other first.
        let mut moved = Vec::with_capacity(held.len());
        for (_, socket) in held {
            // SAFETY: makes a new descriptor of one that is open.
            moved.push(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, beyond) });
        }
        for (to, from) in (FIRST_GIVEN..).zip(moved) {
            // SAFETY: replaces a descriptor of the parent's, which nothing in this process uses any more: the program comes next.
            if from < 0 || unsafe { libc::dup2(from, to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        self.mask.thread_set_mask()?;
        Ok(environment)
    }
}

fn c_string(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(io::Error::other)
}
