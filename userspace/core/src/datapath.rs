//! The datapath as a pure function: an [`Image`], what the kernel would answer, a frame → what becomes of the frame, and why.
//!
//! ```text
//!  frame ─► tags off ─► classify ─┬─► slot of the flow ─┬─► tunnel in front ─► next hop ─► tags on ─► transmitted
//!                                 ├─► tunnel opened ────┘                         (or: what would fit is told)
//!                                 └─► echo answered                  … at any point: passed on, delivered, dropped
//! ```
//!
//! This is what the program `balancer` of `ebpf/programs` is held to, byte by byte, by a differential test with a million
//! packets; and what `weir explain packet` shows. It is written to be read: one step after the other, no pointers, no
//! limits of a verifier. Headers, flow hash, checksum and reasons are `weir_abi`'s, so they exist once.

mod build;
mod chain;
mod classify;
pub(crate) mod frame;
mod guard;
mod host;
mod icmp;
mod live;
mod open;
mod route;
mod syn_cookie;
mod told;
mod too_big;
mod trace;
pub(crate) mod tunnel;
mod tunnel_error;

use weir_abi::{
    Address,
    counters::{Fate, Reason},
    flow::Flow,
    hop::Backend,
};

pub use build::{Carried, Written};
pub use host::{Host, Rates, Socket, Way};
pub use live::{Fit, Seen, fit, sequence};
pub use told::{Told, from_hex, to_hex};
pub use trace::{Names, Stage, Step};

use crate::image::Image;
use frame::Frame;
use trace::Trace;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It ends here.
    Drop,
    /// The kernel of this host gets it.
    Pass,
    /// It leaves by the interface it came in on.
    Transmit,
    /// It leaves by this interface.
    Redirect(u32),
}

/// What was done with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it is counted under.
    pub reason: Reason,
    /// What becomes of it.
    pub action: Action,
    /// The frame as it leaves or is passed on; of no meaning when it is dropped.
    pub frame: Vec<u8>,
    /// Service index and backend slot the packet is counted for, where it was balanced.
    pub counted: Option<(u32, u16)>,
    /// The access list it is counted for, where one blocked it.
    pub blocked_by: Option<u16>,
    /// What was decided, in order; empty unless it was asked for.
    pub steps: Vec<Step>,
}

/// What the datapath does with a frame. What it remembers (first fragments, UDP flows, rates) it remembers in `host`.
pub fn run(image: &Image, host: &mut Host, frame: &[u8]) -> Outcome {
    Packet::new(image, host, frame, Trace::none()).run()
}

/// The same, with every step in words; `names` says what addresses are called.
pub fn explain(image: &Image, host: &mut Host, frame: &[u8], names: &Names) -> Outcome {
    Packet::new(image, host, frame, Trace::with(names)).run()
}

/// A step that ends the packet's way ends it for a reason.
type Verdict<T> = Result<T, Reason>;

/// Where the network header begins.
const L3_AT: usize = 14;

/// The packet at hand, filled in from outside to inside.
struct Packet<'a> {
    image: &'a Image,
    host: &'a mut Host,
    frame: Frame,
    trace: Trace<'a>,
    /// VLAN tags it came with, the outermost first: EtherType and content.
    tags: Vec<[u8; 4]>,
    parsed: Parsed,
    /// The host it is tunnelled to,
    first: Backend,
    /// and the host behind that one, if any.
    second: Option<Backend>,
    /// Whether that one behind is the first hop again.
    is_back: bool,
    /// Whether it came by tunnel.
    by_tunnel: bool,
    /// The hash of its flow.
    hash: u32,
    /// What the way to the first host carries, once that is known; 0 when it is not looked at.
    mtu: u32,
    counted: Option<(u32, u16)>,
    blocked_by: Option<u16>,
}

/// What is known of what it carries.
#[derive(Clone, Copy, Debug)]
struct Parsed {
    /// The 5-tuple; for an ICMP error, that of the flow it is about.
    flow: Flow,
    /// Index of its service.
    service: u32,
    /// Where TCP, UDP or ICMP begins, for a tunnel GUE or what is in IPIP.
    l4_at: usize,
    is_v4: bool,
    kind: Kind,
    /// DSCP and ECN.
    tos: u8,
    /// TTL or hop limit.
    hops_left: u8,
    is_fragment: bool,
    /// A fragment other than the first has no ports.
    is_later: bool,
    /// Of a tunnel: whether it is IPIP, and not GUE.
    is_ipip: bool,
    /// Of a tunnel, and then of what was in it: whether no peer sent it.
    is_foreign: bool,
    fragment_id: u32,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A TCP segment that opens a connection.
    Syn,
    /// Any other TCP segment.
    Segment,
    /// A UDP datagram.
    Datagram,
    /// A part of either without a header of its own, or (UDP) one that is not looked at.
    Fragment,
    /// An ICMP error about a packet of the flow.
    Error,
    /// An ICMP echo request for a VIP.
    Echo,
    /// Something to this host's own address that is neither TCP nor UDP.
    Own,
    /// A tunnel that ends at this host.
    Tunnel,
    /// An error about a tunnel of this host that was too big; what is parsed is the packet in it.
    TunnelTooBig,
}

impl<'a> Packet<'a> {
    fn new(image: &'a Image, host: &'a mut Host, frame: &[u8], trace: Trace<'a>) -> Self {
        let nobody = Address::default();
        let flow = Flow {
            source: nobody,
            destination: nobody,
            source_port: [0; 2],
            destination_port: [0; 2],
            protocol: 0,
        };
        Self {
            frame: Frame::new(frame, host.headroom),
            image,
            host,
            trace,
            tags: Vec::new(),
            parsed: Parsed {
                flow,
                service: 0,
                l4_at: L3_AT,
                is_v4: true,
                kind: Kind::Segment,
                tos: 0,
                hops_left: 0,
                is_fragment: false,
                is_later: false,
                is_ipip: false,
                is_foreign: false,
                fragment_id: 0,
            },
            first: Backend::default(),
            second: None,
            is_back: false,
            by_tunnel: false,
            hash: 0,
            mtu: 0,
            counted: None,
            blocked_by: None,
        }
    }

    fn run(mut self) -> Outcome {
        let (reason, transmit) = match self.take_tags_off() {
            Err(reason) => (reason, Action::Drop),
            Ok(()) => {
                let treated = match self.treat() {
                    Err(reason @ (Reason::DeliverLocal | Reason::DecapDeliver)) => self.deliver(reason),
                    treated => treated,
                };
                let (reason, transmit) = treated.unwrap_or_else(|reason| (reason, Action::Drop));
                (self.put_tags_back().err().unwrap_or(reason), transmit)
            }
        };
        let action = action_of(reason, transmit);
        self.trace.verdict(reason, action);
        let (counted, blocked_by, steps) = (self.counted, self.blocked_by, self.trace.into_steps());
        Outcome { reason, action, frame: self.frame.into_bytes(), counted, blocked_by, steps }
    }

    /// A packet on its way, with the reason it is counted under and the action that sends it; or ended for a reason.
    fn treat(&mut self) -> Verdict<(Reason, Action)> {
        self.classify()?;
        if self.parsed.kind == Kind::Own {
            self.without_udp()?;
        }
        self.by_tunnel = self.parsed.kind == Kind::Tunnel;
        let opened = match self.parsed.kind {
            Kind::Tunnel => self.open_tunnel()?,
            Kind::Echo => {
                self.admit()?;
                return Err(self.answer_echo()?);
            }
            Kind::TunnelTooBig => return Err(self.tell_about_tunnel()?),
            Kind::Own => return Err(Reason::PassNotVip),
            Kind::Syn | Kind::Segment | Kind::Datagram | Kind::Fragment | Kind::Error => None,
        };
        let reason = match opened {
            Some(reason) => reason,
            None => {
                self.admit()?;
                self.balance()?
            }
        };
        match self.encapsulate() {
            Ok(transmit) => Ok((reason, transmit)),
            Err(Reason::DropTooBig) => Err(self.tell_what_fits()?),
            Err(reason) => Err(reason),
        }
    }

    /// The `SERVICE_` bits of its service.
    fn flags(&self) -> u32 {
        self.image.services.get(&self.parsed.service).map_or(0, |service| service.flags)
    }
}

/// What the kernel is told to do with a packet, by the reason it is counted under.
fn action_of(reason: Reason, transmit: Action) -> Action {
    match reason.fate() {
        Fate::Passed => Action::Pass,
        Fate::Sent => transmit,
        Fate::Returned => Action::Transmit,
        Fate::Dropped => Action::Drop,
    }
}

#[cfg(test)]
mod tests;
