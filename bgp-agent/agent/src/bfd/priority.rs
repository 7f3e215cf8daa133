//! The scheduling of the calling thread: the one system call here that no safe wrapper offers.
#![allow(unsafe_code)]

use nix::libc;
use std::io;

/// In the lower half: what keeps the machine itself running comes first.
const FIFO_PRIORITY: libc::c_int = 20;

/// When real time is not allowed, the best share of the fair scheduler.
const NICE: libc::c_int = -20;

/// What was allowed.
#[derive(Debug)]
pub(crate) enum Priority {
    /// Runs before every ordinary thread.
    RealTime,
    /// Ordinary, with a large share.
    Nice(io::Error),
    /// Ordinary: BFD may flap on a host without a free CPU.
    Ordinary(io::Error),
}

/// Give the calling thread precedence, as far as the kernel allows. Children would not inherit it.
pub(crate) fn raise() -> Priority {
    let parameters = libc::sched_param { sched_priority: FIFO_PRIORITY };
    // SAFETY: thread 0 is the calling one; the parameters outlive the call, which only reads them.
    let done = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    };
    if done == 0 {
        return Priority::RealTime;
    }
    let error = io::Error::last_os_error();
    // SAFETY: plain integers; 0 is the calling thread, for on Linux every thread has a nice value of its own.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } {
        0 => Priority::Nice(error),
        _ => Priority::Ordinary(error),
    }
}
