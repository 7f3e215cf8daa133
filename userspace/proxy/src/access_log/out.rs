//! Where lines end: each out takes whole lines, and says how many of them it lost.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use weir_core::log_line::syslog;
use weir_model::Timestamp;

use super::place::{Place, Syslog};
use crate::limits::{LOG_LOOK_AGAIN, LOG_SEND_TIMEOUT};

/// An open place.
pub(super) enum Out {
    Stdout(Stream<io::Stdout>),
    File { path: PathBuf, stream: Stream<File>, looked: Instant },
    Datagrams(Datagrams),
}

/// Lines in a row.
pub(super) struct Stream<W> {
    to: W,
    /// The last line was cut.
    is_torn: bool,
}

/// Lines that could not be written, and why.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) lines: u64,
    pub(super) error: io::Error,
}

impl Out {
    /// Opens a place; `None` for nowhere.
    pub(super) fn open(place: &Place) -> io::Result<Option<Self>> {
        Ok(Some(match place {
            Place::Off => return Ok(None),
            Place::Stdout => Self::Stdout(Stream { to: io::stdout(), is_torn: false }),
            Place::File(path) => {
                let named =
                    |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                let stream = Stream { to: open_file(path).map_err(named)?, is_torn: false };
                Self::File { path: path.clone(), stream, looked: Instant::now() }
            }
            Place::Udp(to, syslog) => {
                // A host that is down says so to the next send.
                Self::Datagrams(Datagrams::new(To::Udp(*to), *syslog))
            }
            Place::Unix(path, syslog) => Self::Datagrams(Datagrams::new(To::Unix(path.clone()), *syslog)),
        }))
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), Lost> {
        match self {
            Self::Stdout(stream) => stream.write(lines),
            Self::File { path, stream, looked } => {
                if looked.elapsed() >= LOG_LOOK_AGAIN {
                    *looked = Instant::now();
                    if is_other(path, &stream.to) {
                        // What cannot be made anew is written on, wherever it is now.
                        match open_file(path) {
                            Ok(file) => *stream = Stream { to: file, is_torn: false },
                            Err(error) => tracing::error!("access log: {}: {error}", path.display()),
                        }
                    }
                }
                stream.write(lines)
            }
            Self::Datagrams(datagrams) => datagrams.write(lines),
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Whether a path leads elsewhere than to the open file: it was rotated.
fn is_other(path: &Path, file: &File) -> bool {
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(here)) => (there.dev(), there.ino()) != (here.dev(), here.ino()),
        (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
        (_, Err(_)) => false,
    }
}

impl<W: Write> Stream<W> {
    fn write(&mut self, lines: &[u8]) -> Result<(), Lost> {
        let mut written = 0;
        let mut write = || {
            // The rest of a line that was cut is lost; the next begins as one.
            if self.is_torn {
                self.to.write_all(b"\n")?;
                self.is_torn = false;
            }
            while written < lines.len() {
                match self.to.write(&lines[written..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(len) => written += len,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.to.flush()
        };
        let result = write();
        result.map_err(|error| {
            self.is_torn |= written > 0 && lines[written - 1] != b'\n';
            Lost { lines: count(&lines[written..]), error }
        })
    }
}

/// Syslog, one datagram a line.
pub(super) struct Datagrams {
    to: To,
    syslog: Syslog,
    socket: Option<Socket>,
    /// When it was tried last to open it.
    tried: Option<Instant>,
    line: Vec<u8>,
}

enum To {
    Udp(SocketAddr),
    Unix(PathBuf),
}

enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Datagrams {
    fn new(to: To, syslog: Syslog) -> Self {
        Self { to, syslog, socket: None, tried: None, line: Vec::new() }
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Lost> {
        let all = count(lines);
        if self.socket.is_none() {
            if self.tried.is_some_and(|tried| tried.elapsed() < LOG_LOOK_AGAIN) {
                return Err(Lost { lines: all, error: io::ErrorKind::NotConnected.into() });
            }
            self.tried = Some(Instant::now());
            self.socket = Some(self.to.connect().map_err(|error| Lost { lines: all, error })?);
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        let now = Timestamp(SystemTime::now());
        let (mut lost, mut last) = (0, None);
        for (index, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
            self.line.clear();
            syslog::write_head(
                &mut self.line,
                self.syslog.dialect,
                self.syslog.facility,
                now,
                std::process::id(),
            );
            self.line.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
            let Err(error) = socket.send(&self.line) else { continue };
            let is_refused = error.kind() == io::ErrorKind::ConnectionRefused;
            // What a datagram before this one met: this one has not left, and the next may arrive.
            if is_refused && matches!(socket, Socket::Udp(_)) {
                lost += 1;
                last = Some(error);
                continue;
            }
            // Nobody takes them: the rest of what waits makes room for newer lines.
            lost += all - index as u64;
            if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                self.socket = None;
            }
            return Err(Lost { lines: lost, error });
        }
        last.map_or(Ok(()), |error| Err(Lost { lines: lost, error }))
    }
}

impl To {
    fn connect(&self) -> io::Result<Socket> {
        // A receiver that is slow is waited for, since the lines behind have room to wait; but not for ever.
        let patience: Option<Duration> = Some(LOG_SEND_TIMEOUT);
        match self {
            Self::Udp(to) => {
                let any =
                    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.connect(to)?;
                socket.set_write_timeout(patience)?;
                Ok(Socket::Udp(socket))
            }
            Self::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(patience)?;
                Ok(Socket::Unix(socket))
            }
        }
    }
}

impl Socket {
    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.send(datagram),
            Self::Unix(socket) => socket.send(datagram),
        }
    }
}

/// Lines, of which the first may be cut.
fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}
