//! The process that keeps another running and holds its listening sockets: when it is started, what a successor may do, and when
//! something is given up.
//!
//! ```text
//!  start ──► starting ── ready ──► serving ── ends ──► start again: at once, then after longer and longer pauses
//!                                    │ upgrade: a successor is started beside it
//!                                    ├── successor is ready ──► it serves; the old one hands over, and ends by its deadline
//!                                    └── successor ends, or takes too long ──► given up; nothing has changed
//! ```
//!
//! The shell starts processes, passes signals on and reports who is ready and who has ended.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

pub mod notice;
pub mod store;
#[cfg(test)]
mod tests;

/// The number of a process.
pub type Pid = i32;

/// A process that was in service for so long has not failed at its start.
const STEADY: Duration = Duration::from_secs(10);
/// The first pause before a start, and the longest. After the first failure there is none.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Processes that have handed over and are not at their end yet; beyond, the eldest is cut.
const LEAVING_MAX: usize = 4;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the start of a process until it is ready.
    pub ready: Duration,
    /// From a hand-over until the old process has ended by itself.
    pub leave: Duration,
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with status {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
        }
    }
}

/// What the shell shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Start a process; then [`Keeper::started`] or [`Keeper::not_started`].
    Start,
    /// Have this one accept no more, leave the sockets to others, and end.
    HandOver(Pid),
    /// It serves: what it has stored until now is all it wants to be held.
    Promote(Pid),
    /// It never came to serve: what nobody else wants is not held for it.
    Forget(Pid),
    /// Pass the wish to stop on.
    Stop(Pid),
    /// Cut it.
    Kill(Pid),
    /// Tell the operator.
    Tell(String),
    /// The same of something that is wrong.
    Warn(String),
    /// End with this status.
    End(u8),
}

/// A process in service, or about to be.
#[derive(Clone, Copy, Debug)]
struct Child {
    pid: Pid,
    is_ready: bool,
    /// When it was started; when it became ready.
    since: Instant,
    is_killed: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Keeper {
    limits: Limits,
    current: Option<Child>,
    next: Option<Child>,
    leaving: Vec<(Pid, Instant)>,
    start_at: Option<Instant>,
    /// Starts in a row that came to nothing.
    failures: u32,
    was_ever_ready: bool,
    is_stopping: bool,
    commands: VecDeque<Command>,
}

impl Keeper {
    /// Nothing runs yet; the first command is to start.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            current: None,
            next: None,
            leaving: Vec::new(),
            start_at: None,
            failures: 0,
            was_ever_ready: false,
            is_stopping: false,
            commands: VecDeque::from([Command::Start]),
        }
    }

    /// What is to be done next.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let unready = |child: &Option<Child>| child.filter(|child| !child.is_ready && !child.is_killed);
        let starting = [unready(&self.current), unready(&self.next)];
        let starting = starting.into_iter().flatten().map(|child| child.since + self.limits.ready);
        starting.chain(self.leaving.iter().map(|(_, until)| *until)).chain(self.start_at).min()
    }

    /// Those whose words count: in service, or about to be.
    pub fn in_service(&self) -> impl Iterator<Item = Pid> + '_ {
        [self.current, self.next].into_iter().flatten().map(|child| child.pid)
    }

    /// The one in service.
    pub fn current(&self) -> Option<Pid> {
        self.current.map(|child| child.pid)
    }

    /// A process that was to be started runs.
    pub fn started(&mut self, pid: Pid, now: Instant) {
        let child = Child { pid, is_ready: false, since: now, is_killed: false };
        if self.current.is_none() {
            (self.current, self.start_at) = (Some(child), None);
        } else {
            self.next = Some(child);
        }
        if self.is_stopping {
            self.commands.push_back(Command::Stop(pid));
        }
    }

    /// It could not even be started.
    pub fn not_started(&mut self, why: &str, now: Instant) {
        self.commands.push_back(Command::Warn(format!("cannot start a process: {why}")));
        if self.current.is_some() {
            self.commands.push_back(Command::Warn("the upgrade is given up; the old process goes on".into()));
        } else if self.was_ever_ready {
            self.start_later(now);
        } else {
            self.commands.push_back(Command::End(1));
        }
    }

    /// A process says that it serves.
    pub fn handle_ready(&mut self, pid: Pid, now: Instant) {
        if let Some(next) = self.next.take_if(|next| next.pid == pid) {
            let old = self.current.replace(next);
            if let Some(old) = old {
                self.commands.push_back(Command::Tell(format!("{pid} serves now; {} hands over", old.pid)));
                self.commands.push_back(Command::HandOver(old.pid));
                self.leaving.push((old.pid, now + self.limits.leave));
            }
            if self.leaving.len() > LEAVING_MAX {
                let (eldest, _) = self.leaving[0];
                self.commands
                    .push_back(Command::Warn(format!("{eldest} is cut: too many are on their way out")));
                self.cut(eldest, now);
            }
        }
        if let Some(current) = self.current.as_mut().filter(|current| current.pid == pid && !current.is_ready)
        {
            (current.is_ready, current.since) = (true, now);
            self.was_ever_ready = true;
            self.commands.push_back(Command::Promote(pid));
            self.commands.push_back(Command::Tell(format!("{pid} is ready")));
        }
    }

    /// A process has ended.
    pub fn handle_exit(&mut self, pid: Pid, exit: Exit, now: Instant) {
        if self.leaving.iter().any(|(leaving, _)| *leaving == pid) {
            self.leaving.retain(|(leaving, _)| *leaving != pid);
            self.commands.push_back(Command::Tell(format!("{pid}, which had handed over, {exit}")));
        } else if self.next.take_if(|next| next.pid == pid).is_some() {
            let what =
                format!("the upgrade is given up: {pid} {exit} before it was ready; nothing has changed");
            self.commands.extend([Command::Warn(what), Command::Forget(pid)]);
        } else if let Some(current) = self.current.take_if(|current| current.pid == pid) {
            self.current_ended(current, exit, now);
        }
        if self.is_stopping && self.current.is_none() && self.next.is_none() && self.leaving.is_empty() {
            self.commands.push_back(Command::End(0));
        }
    }

    fn current_ended(&mut self, ended: Child, exit: Exit, now: Instant) {
        let pid = ended.pid;
        match exit {
            _ if self.is_stopping => {}
            // What is wrong with the very first start does not get better by itself: a service manager shall see it.
            Exit::Code(code @ 1..) if !self.was_ever_ready => self.commands.push_back(Command::End(code)),
            _ => {
                self.commands.push_back(Command::Warn(format!("{pid} {exit}; the sockets stay open")));
                if ended.is_ready && now.saturating_duration_since(ended.since) >= STEADY {
                    self.failures = 0;
                }
                // A successor on its way takes its place.
                self.current = self.next.take();
                if self.current.is_none() {
                    self.start_later(now);
                }
            }
        }
    }

    /// The operator wants a new process in place of the one that runs.
    pub fn handle_upgrade(&mut self) {
        let why_not = match (self.current, self.next) {
            _ if self.is_stopping => "a stop is under way",
            (_, Some(_)) => "one is under way",
            _ if self.commands.contains(&Command::Start) => "one is under way",
            (Some(Child { is_ready: true, .. }), None) => {
                self.commands.push_back(Command::Tell("upgrade: a new process is started".into()));
                self.commands.push_back(Command::Start);
                return;
            }
            _ => "a process is being started anyway",
        };
        self.commands.push_back(Command::Warn(format!("no upgrade: {why_not}")));
    }

    /// Everything is to end. Asked for a second time, it ends at once.
    pub fn handle_stop(&mut self) {
        self.is_stopping = true;
        self.start_at = None;
        let leaving = self.leaving.iter().map(|(pid, _)| *pid);
        let all: Vec<Pid> = self.in_service().chain(leaving).collect();
        if all.is_empty() {
            self.commands.push_back(Command::End(0));
        }
        self.commands.extend(all.into_iter().map(Command::Stop));
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.start_at.is_some_and(|at| at <= now) {
            self.start_at = None;
            self.commands.push_back(Command::Start);
        }
        for child in [&mut self.current, &mut self.next].into_iter().flatten() {
            if !child.is_ready && !child.is_killed && child.since + self.limits.ready <= now {
                child.is_killed = true;
                let what = format!("{} was not ready within {:?}", child.pid, self.limits.ready);
                self.commands.extend([Command::Warn(what), Command::Kill(child.pid)]);
            }
        }
        let late: Vec<Pid> =
            self.leaving.iter().filter(|(_, until)| *until <= now).map(|(pid, _)| *pid).collect();
        for pid in late {
            self.commands.push_back(Command::Warn(format!("{pid} has not ended in time")));
            self.cut(pid, now);
        }
    }

    /// Cuts one that has handed over; again if need be, since it must not be waited for in vain.
    fn cut(&mut self, pid: Pid, now: Instant) {
        self.commands.push_back(Command::Kill(pid));
        for (leaving, until) in &mut self.leaving {
            if *leaving == pid {
                *until = now + PAUSE_MAX;
            }
        }
    }

    fn start_later(&mut self, now: Instant) {
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => PAUSE_MAX.min(PAUSE_MIN * 2_u32.saturating_pow(failures - 1)),
        };
        self.failures = self.failures.saturating_add(1);
        self.start_at = Some(now + pause);
    }
}
