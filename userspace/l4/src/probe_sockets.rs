//! The sockets of the path probes: whole IP packets out, answers in.
//!
//! Answers are heard by packet sockets, before the kernel's IP: an IPv4 packet whose source is a VIP, which is an address of this
//! host too, is a martian there and ends (so a host that logs martians logs the answers). A filter in the kernel lets nothing
//! through but SYN-ACKs and RSTs to the ports of probes; other packets cost it four instructions.

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;
use weir_core::path_probe::{PORT_FIRST, Transmit};
use weir_runtime::reactor::watched;

/// IPPROTO_RAW: sends packets with their IP header, receives nothing.
const RAW: i32 = nix::libc::IPPROTO_RAW;
/// Bytes heard of an answer: an IPv4 header with all its options, and that of TCP.
const ANSWER_LEN_MAX: usize = 80;
/// Packets heard at once; others wait in the socket, or are lost where that is full.
const HEARD_MAX: usize = 64;

/// Where probes leave and answers come in; what could not be opened says why when it is needed.
pub(crate) struct ProbeSockets {
    out4: Result<Socket, String>,
    out6: Result<Socket, String>,
    /// By the loopback interface, whatever the routes say.
    own4: Result<Socket, String>,
    own6: Result<Socket, String>,
    in4: AsyncFd<Socket>,
    in6: AsyncFd<Socket>,
}

impl ProbeSockets {
    /// Opens them; must be called inside a runtime.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            out4: sender(Domain::IPV4, None),
            out6: sender(Domain::IPV6, None),
            own4: sender(Domain::IPV4, Some(b"lo")),
            own6: sender(Domain::IPV6, Some(b"lo")),
            in4: hearer(nix::libc::ETH_P_IP, &filter4())?,
            in6: hearer(nix::libc::ETH_P_IPV6, &filter6())?,
        })
    }

    /// Sends a probe, or says why that cannot be.
    pub(crate) fn send(&self, transmit: &Transmit) -> Result<(), String> {
        let socket = match (transmit.own_tunnel.is_some(), transmit.to) {
            (false, IpAddr::V4(_)) => &self.out4,
            (false, IpAddr::V6(_)) => &self.out6,
            (true, IpAddr::V4(_)) => &self.own4,
            (true, IpAddr::V6(_)) => &self.own6,
        };
        let socket = socket.as_ref().map_err(Clone::clone)?;
        let to = SocketAddr::new(transmit.to, 0).into();
        socket.send_to(&transmit.wire, &to).map(drop).map_err(|error| format!("send: {error}"))
    }

    /// The next packets that may be answers, [`HEARD_MAX`] at most. Cancel safe.
    pub(crate) async fn hear(&self) -> Vec<Vec<u8>> {
        loop {
            let heard = tokio::select! {
                heard = hear(&self.in4) => heard,
                heard = hear(&self.in6) => heard,
            };
            match heard {
                Ok(packets) => return packets,
                // An interface went down, say: the next answer may come.
                Err(error) => tracing::debug!("hear answers to probes: {error}"),
            }
        }
    }
}

async fn hear(socket: &AsyncFd<Socket>) -> io::Result<Vec<Vec<u8>>> {
    loop {
        let mut ready = socket.readable().await?;
        // Whoever floods this host with what looks like answers must not keep it from all else.
        tokio::task::yield_now().await;
        let mut packets = Vec::new();
        while packets.len() < HEARD_MAX {
            let mut packet = vec![0; ANSWER_LEN_MAX];
            match ready.try_io(|socket| socket.get_ref().read(&mut packet)) {
                Ok(len) => {
                    packet.truncate(len?);
                    packets.push(packet);
                }
                Err(_would_block) => break,
            }
        }
        if !packets.is_empty() {
            return Ok(packets);
        }
    }
}

fn sender(domain: Domain, interface: Option<&[u8]>) -> Result<Socket, String> {
    let open = || {
        let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(Protocol::from(RAW)))?;
        socket.bind_device(interface)?;
        Ok(socket)
    };
    open().map_err(|error: io::Error| format!("open a raw socket: {error}"))
}

fn hearer(ethertype: i32, filter: &[SockFilter]) -> io::Result<AsyncFd<Socket>> {
    let protocol = i32::from((ethertype as u16).to_be());
    // Without link layer: packets begin with the IP header. What comes before there is a filter answers no probe.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), Some(Protocol::from(protocol)))?;
    socket.attach_filter(filter)?;
    watched(socket)
}

/// Flags SYN and RST.
const SYN_RST: u32 = 0x06;

fn filter4() -> Vec<SockFilter> {
    use nix::libc::{
        BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MSH,
        BPF_RET,
    };
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    vec![
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 9), // protocol
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 8, 6),
        op(BPF_LDX | BPF_B | BPF_MSH, 0, 0, 0), // length of the IP header
        op(BPF_LD | BPF_B | BPF_IND, 0, 0, 13), // TCP flags
        op(BPF_JMP | BPF_JSET | BPF_K, 0, 5, SYN_RST),
        op(BPF_LD | BPF_H | BPF_ABS, 0, 0, 6), // a later fragment has no ports
        op(BPF_JMP | BPF_JSET | BPF_K, 3, 0, 0x1fff),
        op(BPF_LD | BPF_H | BPF_IND, 0, 0, 2), // destination port
        op(BPF_JMP | BPF_JGE | BPF_K, 0, 1, PORT_FIRST.into()),
        op(BPF_RET | BPF_K, 0, 0, ANSWER_LEN_MAX as u32),
        op(BPF_RET | BPF_K, 0, 0, 0),
    ]
}

fn filter6() -> Vec<SockFilter> {
    use nix::libc::{BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET};
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    vec![
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 6), // next header
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 5, 6),
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 40 + 13), // TCP flags
        op(BPF_JMP | BPF_JSET | BPF_K, 0, 3, SYN_RST),
        op(BPF_LD | BPF_H | BPF_ABS, 0, 0, 40 + 2), // destination port
        op(BPF_JMP | BPF_JGE | BPF_K, 0, 1, PORT_FIRST.into()),
        op(BPF_RET | BPF_K, 0, 0, ANSWER_LEN_MAX as u32),
        op(BPF_RET | BPF_K, 0, 0, 0),
    ]
}
