//! Routers at the other end of an interface: who they are, and that they learn of us. RFC 4861 §4.1, §4.2, §6.
//!
//! A session without an address needs the router's link-local one. Routers say it in router advertisements, and some (FRR) know
//! their peer by *its* advertisements only, so we send them as well. Ours have a router lifetime of 0: nobody takes us for a
//! default router (RFC 4861 §4.2), and no prefix, so nobody makes an address of them.

use crate::sockopt;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Between two advertisements, once it is known that we are here. RFC 4861 §6.2.1 allows 4 s to 1,800 s.
const INTERVAL: Duration = Duration::from_secs(10);

/// Between the first ones, and after a failed one: an interface that has just come up has no address yet.
const EAGER_INTERVAL: Duration = Duration::from_secs(1);

/// How many of the first. RFC 4861 §10 has 3 at most; one more each time the socket is opened anew.
const EAGER_MAX: u32 = 3;

/// The least time between two answers to solicitations: RFC 4861 §10, MIN_DELAY_BETWEEN_RAS is 3 s for multicast; ours are few
/// and the link has two ends.
const ANSWER_PAUSE: Duration = Duration::from_millis(500);

/// A router advertisement that says nothing but that we are here: 16 octets; the kernel fills in the checksum.
pub(crate) fn advertisement() -> [u8; 16] {
    let mut message = [0; 16];
    message[0] = ROUTER_ADVERTISEMENT;
    // Hop limit 0 ("unspecified"), no flags, router lifetime 0, reachable time and retrans timer 0 ("unspecified").
    message
}

/// A router solicitation, 8 octets.
fn solicitation() -> [u8; 8] {
    [ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]
}

/// What a message of the link is to us.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Router(Ipv6Addr),
    Question,
    Nothing,
}

/// RFC 4861 §6.1.1, §6.1.2: "The IP Hop Limit field has a value of 255, i.e., the packet could not possibly have been forwarded
/// by a router", "ICMP Code is 0", lengths, and a link-local source of an advertisement.
fn judge(message: &[u8], from: Ipv6Addr, hop_limit: i32) -> Heard {
    match message {
        _ if hop_limit != 255 => Heard::Nothing,
        [ROUTER_ADVERTISEMENT, 0, rest @ ..] if rest.len() >= 14 && from.is_unicast_link_local() => {
            Heard::Router(from)
        }
        [ROUTER_SOLICITATION, 0, rest @ ..] if rest.len() >= 6 => Heard::Question,
        _ => Heard::Nothing,
    }
}

/// The interfaces we speak on.
pub(crate) struct Neighbours {
    running: BTreeMap<String, (watch::Receiver<Option<Ipv6Addr>>, JoinHandle<()>)>,
    changed: Arc<Notify>,
}

impl Neighbours {
    /// On none yet. `changed` is told of routers that are heard.
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        Self { running: BTreeMap::new(), changed }
    }

    /// Speak on these interfaces and no others.
    pub(crate) fn apply(&mut self, interfaces: &[String]) {
        self.running.retain(|interface, (_, task)| {
            let stays = interfaces.contains(interface);
            if !stays {
                task.abort();
            }
            stays
        });
        for interface in interfaces {
            self.running.entry(interface.clone()).or_insert_with(|| {
                let (sender, receiver) = watch::channel(None);
                let task = tokio::spawn(speak(interface.clone(), sender, Arc::clone(&self.changed)));
                (receiver, task)
            });
        }
    }

    /// The router heard last on an interface.
    pub(crate) fn router(&self, interface: &str) -> Option<Ipv6Addr> {
        *self.running.get(interface)?.0.borrow()
    }
}

async fn speak(interface: String, router: watch::Sender<Option<Ipv6Addr>>, changed: Arc<Notify>) {
    let mut complained = false;
    loop {
        let error = match Link::open(&interface) {
            Ok(link) => {
                info!(%interface, "looking for a router");
                complained = false;
                link.run(&router, &changed).await
            }
            Err(error) => error,
        };
        if complained {
            debug!(%interface, %error, "router discovery");
        } else {
            warn!(%interface, %error, "router discovery does not work, trying again every second");
            complained = true;
        }
        tokio::time::sleep(EAGER_INTERVAL).await;
    }
}

struct Link {
    socket: AsyncFd<Socket>,
    index: u32,
    interface: String,
}

impl Link {
    fn open(interface: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        sockopt::only_icmp6(&socket, &[ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT])?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_multicast_hops_v6(255)?;
        socket.set_unicast_hops_v6(255)?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_loop_v6(false)?;
        socket.set_recv_hoplimit_v6(true)?;
        // Every host is in all-nodes; all-routers is joined.
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        socket.set_nonblocking(true)?;
        let socket = sockopt::watched(socket)?;
        Ok(Self { socket, index, interface: interface.to_owned() })
    }

    /// Until an error that another socket may mend.
    async fn run(&self, router: &watch::Sender<Option<Ipv6Addr>>, changed: &Notify) -> io::Error {
        let mut next = Instant::now();
        let mut eager = EAGER_MAX;
        loop {
            tokio::select! {
                () = sleep_until(next) => {
                    let sent = self.send(&advertisement(), ALL_NODES);
                    if router.borrow().is_none()
                        && let Err(error) = self.send(&solicitation(), ALL_ROUTERS)
                    {
                        debug!(interface = %self.interface, %error, "router solicitation");
                    }
                    match sent {
                        Ok(()) => eager = eager.saturating_sub(1),
                        // No link-local address yet, or the link is down.
                        Err(error) => debug!(interface = %self.interface, %error, "router advertisement"),
                    }
                    let pause = if eager > 0 { EAGER_INTERVAL } else { INTERVAL };
                    next = Instant::now() + pause;
                }
                heard = self.receive() => match heard {
                    Ok(Heard::Router(address)) => {
                        let new = router.send_if_modified(|known| known.replace(address) != Some(address));
                        if new {
                            info!(interface = %self.interface, router = %address, "router heard");
                            changed.notify_one();
                        }
                    }
                    Ok(Heard::Question) => next = next.min(Instant::now() + ANSWER_PAUSE),
                    Ok(Heard::Nothing) => {}
                    Err(error) => return error,
                },
            }
        }
    }

    fn send(&self, message: &[u8], to: Ipv6Addr) -> io::Result<()> {
        let to = SockAddr::from(SocketAddrV6::new(to, 0, 0, self.index));
        self.socket.get_ref().send_to(message, &to).map(|_| ())
    }

    async fn receive(&self) -> io::Result<Heard> {
        self.socket
            .async_io(Interest::READABLE, |socket| {
                let mut message = [0; 1500];
                let mut control = cmsg_space!(i32);
                let mut parts = [IoSliceMut::new(&mut message)];
                let received = recvmsg::<SockaddrIn6>(
                    socket.as_raw_fd(),
                    &mut parts,
                    Some(&mut control),
                    MsgFlags::MSG_DONTWAIT,
                )?;
                let hop_limit = received.cmsgs()?.find_map(|part| match part {
                    ControlMessageOwned::Ipv6HopLimit(limit) => Some(limit),
                    _ => None,
                });
                let (len, from) = (received.bytes, received.address);
                let from = from.map_or(Ipv6Addr::UNSPECIFIED, |from| from.ip());
                Ok(judge(message.get(..len).unwrap_or_default(), from, hop_limit.unwrap_or(0)))
            })
            .await
    }
}

/// The link-local address of an interface, once no other host is found to have it.
pub(crate) fn link_local(interface: &str) -> Option<Ipv6Addr> {
    parse_if_inet6(&std::fs::read_to_string("/proc/thread-self/net/if_inet6").ok()?, interface)
}

/// Lines of address, index, prefix length, scope, flags and name. Flag 0x40 is tentative, 0x08 a duplicate.
fn parse_if_inet6(text: &str, interface: &str) -> Option<Ipv6Addr> {
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, "20", flags, name] = fields[..] else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        if name != interface || flags & 0x48 != 0 {
            return None;
        }
        u128::from_str_radix(address, 16).ok().map(Ipv6Addr::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_here_and_no_default_router() {
        let message = advertisement();
        assert_eq!((message[0], message[1]), (134, 0));
        assert_eq!(message[4..], [0; 12], "hop limit, flags, lifetime, timers: all unspecified or none");
    }

    #[test]
    fn only_messages_of_this_link_are_taken() {
        let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
        let table: &[(&str, &[u8], Ipv6Addr, i32, Heard)] = &[
            ("advertisement", &advertisement(), link_local, 255, Heard::Router(link_local)),
            ("forwarded", &advertisement(), link_local, 254, Heard::Nothing),
            ("global source", &advertisement(), "2001:db8::1".parse().unwrap(), 255, Heard::Nothing),
            ("cut off", &advertisement()[..15], link_local, 255, Heard::Nothing),
            ("code 1", &[134, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], link_local, 255, Heard::Nothing),
            ("solicitation", &solicitation(), Ipv6Addr::UNSPECIFIED, 255, Heard::Question),
            ("nothing", &[], link_local, 255, Heard::Nothing),
        ];
        for (name, message, from, hop_limit, heard) in table {
            assert_eq!(judge(message, *from, *hop_limit), *heard, "{name}");
        }
    }

    #[test]
    fn the_link_local_address_is_found_when_it_is_settled() {
        let text = "fe800000000000000000000000000001 02 40 20 80     eth0\n\
                    20010db8000000000000000000000001 02 40 00 80     eth0\n\
                    fe800000000000000000000000000002 03 40 20 c0     eth1\n";
        assert_eq!(parse_if_inet6(text, "eth0"), Some("fe80::1".parse().unwrap()));
        assert_eq!(parse_if_inet6(text, "eth1"), None, "tentative");
        assert_eq!(parse_if_inet6(text, "eth2"), None);
    }
}
