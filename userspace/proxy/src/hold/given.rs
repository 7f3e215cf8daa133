//! Sockets we were given at our start.

use std::{
    net::SocketAddr,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use nix::libc;
use socket2::{Protocol, Socket, Type};
use weir_core::keeper::notice::FIRST_GIVEN;

use super::door::{Door, is_ours};

/// One that listens for TCP.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) local: SocketAddr,
    pub(crate) socket: Socket,
}

/// Those of a door.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) sockets: Vec<Socket>,
    /// Somebody else opened them, listens in our absence, and closes them.
    pub(crate) is_lent: bool,
}

/// The descriptors with these names, as far as they are what they should be.
pub(crate) fn take(names: Vec<String>) -> Vec<Given> {
    let take = |(raw, name): (RawFd, String)| {
        let socket = own(raw).map(Socket::from)?;
        let local = socket.local_addr().ok().and_then(|local| local.as_socket());
        let is_tcp = matches!(socket.r#type(), Ok(Type::STREAM))
            && matches!(socket.protocol(), Ok(Some(Protocol::TCP)))
            && socket.is_listener().unwrap_or(false);
        match local.filter(|_| is_tcp) {
            Some(local) if socket.set_nonblocking(true).is_ok() => Some(Given { name, local, socket }),
            _ => {
                tracing::warn!("descriptor {raw}, {name:?}, is no TCP socket that listens: closed");
                None
            }
        }
    };
    (FIRST_GIVEN..).zip(names).filter_map(take).collect()
}

/// Takes those for a door from among them: by name, and if there are none, one that somebody else opened at the very address.
pub(crate) fn pick(given: &mut Vec<Given>, door: Door) -> Taken {
    let name = door.name();
    let mut by = |is_it: &dyn Fn(&Given) -> bool| -> Vec<Socket> {
        given.extract_if(.., |given| is_it(given)).map(|given| given.socket).collect()
    };
    let sockets = by(&|given| given.name == name && door.fits(given.local));
    if !sockets.is_empty() {
        return Taken { sockets, is_lent: false };
    }
    let sockets = by(&|given| !is_ours(&given.name) && door.is_at(given.local));
    Taken { is_lent: !sockets.is_empty(), sockets }
}

/// A descriptor we were started with; `None` if there is none of this number.
#[allow(unsafe_code)]
fn own(raw: RawFd) -> Option<OwnedFd> {
    // SAFETY: this changes nothing but a flag of a descriptor, and fails if there is none of the number.
    if unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return None;
    }
    // SAFETY: it is open, and was opened for us by whoever started us, as the environment says; nobody else in this process
    // knows its number, and each is taken once.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use socket2::Domain;

    use super::*;

    fn given(name: &str, at: &str) -> Given {
        let at: SocketAddr = at.parse().unwrap();
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
        Given { name: name.to_owned(), local: at, socket }
    }

    #[test]
    fn sockets_find_their_doors_again() {
        let web = Door::Bind("192.0.2.1:80".parse().unwrap());
        let other = Door::Bind("192.0.2.1:81".parse().unwrap());
        let vip = Door::Vip("198.51.100.1:80".parse().unwrap());
        let mut all = vec![
            given(&web.name(), "192.0.2.1:80"),
            given("a.socket", "192.0.2.1:80"),
            given(&vip.name(), "127.0.0.1:4711"),
            given(&web.name(), "192.0.2.1:80"),
            given(&other.name(), "192.0.2.9:81"),
            given("b.socket", "192.0.2.1:81"),
        ];
        let taken = pick(&mut all, web);
        assert_eq!((taken.sockets.len(), taken.is_lent), (2, false), "the whole group, and no other");
        let taken = pick(&mut all, other);
        assert_eq!((taken.sockets.len(), taken.is_lent), (1, true), "a name alone is not believed");
        let taken = pick(&mut all, vip);
        assert_eq!((taken.sockets.len(), taken.is_lent), (1, false));
        assert!(pick(&mut all, vip).sockets.is_empty());
        let left: Vec<&str> = all.iter().map(|given| given.name.as_str()).collect();
        assert_eq!(left, ["a.socket", &other.name()]);
    }
}
