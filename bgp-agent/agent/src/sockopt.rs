//! Socket options that no library has: TCP MD5 signatures (RFC 2385) and the smallest TTL a packet may come with (RFC 5082).
//! The one place of this crate with `unsafe`.
#![allow(unsafe_code)]

use ipnet::IpNet;
use nix::libc;
use socket2::Socket;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use weir_model::Secret;

/// `TCP_MD5SIG_EXT` of linux/tcp.h: a key for a prefix.
const TCP_MD5SIG_EXT: libc::c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
/// `TCP_MD5SIG_MAXKEYLEN` of linux/tcp.h; the model refuses longer passwords.
const KEY_LEN_MAX: usize = 80;
/// `IP_MINTTL` of linux/in.h.
const IP_MINTTL: libc::c_int = 21;
/// `IPV6_MINHOPCOUNT` of linux/in6.h.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    addr: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface_index: libc::c_int,
    key: [u8; KEY_LEN_MAX],
}
const _: () = assert!(size_of::<TcpMd5Sig>() == 128 + 8 + 80);

/// What a session wants of its sockets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wishes {
    /// The TTL of what we send; the kernel's own when absent.
    pub(crate) ttl: Option<u8>,
    /// The smallest TTL of what we take.
    pub(crate) min_ttl: Option<u8>,
    /// The key of the signatures.
    pub(crate) key: Option<Secret>,
}

/// Sign what goes to `range` with `key` and take nothing else from there; without a key, forget the one there was.
pub(crate) fn set_md5(socket: impl AsFd, range: IpNet, key: Option<&Secret>) -> io::Result<()> {
    let mut option = TcpMd5Sig {
        addr: sockaddr(range.network()),
        flags: TCP_MD5SIG_FLAG_PREFIX,
        prefix_len: range.prefix_len(),
        key_len: 0,
        interface_index: 0,
        key: [0; KEY_LEN_MAX],
    };
    if let Some(key) = key {
        let bytes = key.reveal().as_bytes();
        let Some(room) = option.key.get_mut(..bytes.len()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the key is longer than 80 bytes"));
        };
        room.copy_from_slice(bytes);
        option.key_len = bytes.len() as u16;
    }
    set(socket.as_fd(), libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &option)
}

/// Drop packets of the peer with a smaller TTL, before anybody answers them; 0 takes all.
pub(crate) fn set_min_ttl(socket: impl AsFd, ipv4: bool, min_ttl: u8) -> io::Result<()> {
    let (level, name) =
        if ipv4 { (libc::IPPROTO_IP, IP_MINTTL) } else { (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT) };
    set(socket.as_fd(), level, name, &libc::c_int::from(min_ttl))
}

/// The TTL of what we send; `None` for the kernel's own.
pub(crate) fn set_ttl(socket: impl AsFd, ipv4: bool, ttl: Option<u8>) -> io::Result<()> {
    let (level, name) =
        if ipv4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) };
    set(socket.as_fd(), level, name, &ttl.map_or(-1, libc::c_int::from))
}

/// Take only the ICMPv6 messages of these types. RFC 3542 §3.2.
pub(crate) fn only_icmp6(socket: impl AsFd, types: &[u8]) -> io::Result<()> {
    // A set bit blocks.
    let mut filter = [u32::MAX; 8];
    for kind in types {
        filter[usize::from(*kind) / 32] &= !(1 << (kind % 32));
    }
    const ICMP6_FILTER: libc::c_int = 1;
    set(socket.as_fd(), libc::IPPROTO_ICMPV6, ICMP6_FILTER, &filter)
}

/// All wishes of a session, before its connection is opened or after it was accepted.
pub(crate) fn apply(socket: impl AsFd, remote: IpAddr, wishes: &Wishes) -> io::Result<()> {
    let socket = socket.as_fd();
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
    };
    if let Some(ttl) = wishes.ttl {
        set_ttl(socket, remote.is_ipv4(), Some(ttl)).map_err(failed("set the TTL"))?;
    }
    if let Some(min_ttl) = wishes.min_ttl {
        set_min_ttl(socket, remote.is_ipv4(), min_ttl).map_err(failed("set the smallest TTL"))?;
    }
    if wishes.key.is_some() {
        set_md5(socket, IpNet::from(remote), wishes.key.as_ref()).map_err(failed("set the MD5 key"))?;
    }
    Ok(())
}

/// The socket, known to the runtime's reactor.
pub(crate) fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor and always returns the same one, and `AsyncFd` owns the `Socket`.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

fn sockaddr(address: IpAddr) -> libc::sockaddr_storage {
    let address = match address {
        IpAddr::V4(_) => SocketAddr::new(address, 0),
        IpAddr::V6(address) => SocketAddrV6::new(address, 0, 0, 0).into(),
    };
    let mut storage = socket2::SockAddr::from(address).as_storage();
    // SAFETY: `sockaddr_storage` is one of the types the storage may be viewed as; it is plain bytes and copied.
    unsafe { *storage.view_as::<libc::sockaddr_storage>() }
}

fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which lives through the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    fn listener(address: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
        let at = listener.local_addr().unwrap();
        (listener, at)
    }

    fn connect(at: SocketAddr, wishes: &Wishes) -> io::Result<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
        apply(&socket, at.ip(), wishes)?;
        socket.connect_timeout(&at.into(), Duration::from_millis(300))?;
        Ok(socket.into())
    }

    #[test]
    fn a_key_for_a_prefix_lets_in_who_has_it_and_nobody_else() {
        for (address, range) in [("127.0.0.1", "127.0.0.0/8"), ("::1", "::/64")] {
            let (listener, at) = listener(address);
            let range: IpNet = range.parse().unwrap();
            let key = |text: &str| Wishes { key: Some(Secret::new(text)), ..Wishes::default() };
            set_md5(&listener, range, Some(&Secret::new("right"))).unwrap();
            assert!(connect(at, &key("right")).is_ok(), "{address}");
            assert!(connect(at, &key("wrong")).is_err(), "{address}");
            assert!(connect(at, &Wishes::default()).is_err(), "{address}");
            set_md5(&listener, range, None).unwrap();
            assert!(connect(at, &Wishes::default()).is_ok(), "{address}: forgotten");
        }
    }

    #[test]
    fn a_packet_from_afar_is_not_answered() {
        for address in ["127.0.0.1", "::1"] {
            let (listener, at) = listener(address);
            set_min_ttl(&listener, at.is_ipv4(), 255).unwrap();
            assert!(connect(at, &Wishes { ttl: Some(255), ..Wishes::default() }).is_ok(), "{address}");
            assert!(connect(at, &Wishes { ttl: Some(254), ..Wishes::default() }).is_err(), "{address}");
        }
    }

    #[test]
    fn a_key_that_is_too_long_is_refused() {
        let (listener, _) = listener("127.0.0.1");
        let key = Secret::new("x".repeat(81));
        let error = set_md5(&listener, "127.0.0.0/8".parse().unwrap(), Some(&key)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(!error.to_string().contains('x'));
    }
}
