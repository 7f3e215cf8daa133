//! What is known of the packet at hand: one value per CPU, in a map instead of on the stack.
//!
//! The stack has 512 bytes for all calls together. And what the verifier reads back from a map it knows nothing about: the
//! ways packets take come together again after each step, where it would otherwise follow each of them to its end.

use weir_abi::{
    Address,
    flow::Flow,
    fragment::FragmentKey,
    guard::{AccessRule, SourcePrefix},
    hop::{Backend, KIND_NONE},
    service::VipKey,
};

use crate::{Verdict, next_hop::Way, syn_cookie::Syn, vlan::Tags};

/// The packet at hand. Whoever reads a field finds it written by a step before.
pub(crate) struct Work {
    /// What it is.
    pub(crate) parsed: Parsed,
    /// Where it goes, once that is known.
    pub(crate) route: Route,
    /// VLAN tags it came with.
    pub(crate) tags: Tags,
    /// Room for a key.
    pub(crate) key: VipKey,
    /// Room for a fragment's key.
    pub(crate) fragment: FragmentKey,
    /// Whether it came by tunnel.
    pub(crate) by_tunnel: bool,
    /// Room for a source's key.
    pub(crate) prefix: SourcePrefix,
    /// The Maglev table that decides.
    pub(crate) table: u32,
    /// What an access list says of it; of no action when none does.
    pub(crate) rule: AccessRule,
    /// A SYN that is being answered.
    pub(crate) syn: Syn,
    /// Its answer's way.
    pub(crate) way: Way,
    /// How the last step ended.
    pub(crate) verdict: Verdict<()>,
    /// Non-zero while somebody captures.
    pub(crate) is_captured: u32,
    /// Numbers the packets while somebody does.
    pub(crate) turn: u32,
}

impl Work {
    /// The verdict of a step that is a program of its own, on its way through the map: the verifier follows what is
    /// returned for each value it may have, and this is any value.
    #[inline(always)]
    pub(crate) fn settle(&mut self, verdict: Verdict<()>) -> Verdict<()> {
        self.verdict = verdict;
        // SAFETY: just written. Volatile, or the compiler would see through it.
        unsafe { core::ptr::read_volatile(&raw const self.verdict) }
    }
}

/// A packet for a service of ours, or on the way to become one: filled in from outside to inside.
pub(crate) struct Parsed {
    /// Its 5-tuple; for an ICMP error, that of the flow it is about.
    pub(crate) flow: Flow,
    /// Index into `SERVICES`.
    pub(crate) service: u32,
    /// Where TCP, UDP or ICMP begins, for a tunnel GUE or what is in IPIP; see [`at`](Self::at).
    pub(crate) l4_at: u32,
    /// Whether it is IPv4.
    pub(crate) is_v4: bool,
    /// What it carries.
    pub(crate) kind: Kind,
    /// DSCP and ECN, as IPv4 has them.
    pub(crate) tos: u8,
    /// TTL or hop limit.
    pub(crate) hops_left: u8,
    /// Whether it is a fragment.
    pub(crate) is_fragment: bool,
    /// Whether it is a fragment other than the first: it has no ports.
    pub(crate) is_later: bool,
    /// Of a tunnel: whether it is IPIP, and not GUE.
    pub(crate) is_ipip: bool,
    /// Of a tunnel, and then of what was in it: whether no peer sent it.
    pub(crate) is_foreign: bool,
    /// What the fragments of a packet have in common, as it stands in the packet.
    pub(crate) fragment_id: u32,
}

impl Parsed {
    /// Where TCP, UDP or ICMP begins. The mask says nothing new, except to the verifier: it is a number all of whose bits
    /// are one, and beyond any offset there is.
    #[inline(always)]
    pub(crate) fn at(&self) -> usize {
        (self.l4_at & 0xff) as usize
    }
}

/// What a packet carries.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A TCP segment that opens a connection.
    Syn,
    /// Any other TCP segment.
    Segment,
    /// A UDP datagram.
    Datagram,
    /// A part of either that does not begin with a header of its own, or (UDP) is not looked at.
    Fragment,
    /// An ICMP error about a packet of the flow, from the service to the client.
    Error,
    /// An ICMP echo request: for the VIP, for no service of it.
    Echo,
    /// Something to this host's own address that is neither TCP nor UDP.
    Own,
    /// A tunnel that ends at this host.
    Tunnel,
    /// An error about a tunnel of this host that was too big; `parsed` is about the packet in it.
    TunnelTooBig,
}

/// Where a packet goes when it stays in the fabric.
pub(crate) struct Route {
    /// The host it is tunnelled to.
    pub(crate) first: Backend,
    /// The host behind that one; of kind `KIND_NONE` when there is none.
    pub(crate) second: Backend,
    /// Whether that one behind is the first hop again: the packet comes back if its next hop does not know the flow.
    pub(crate) is_back: bool,
    /// The flow's hash.
    pub(crate) hash: u32,
    /// What the way to `first` carries from the outer IP header on, once that is known; 0 when it is not looked at.
    pub(crate) mtu: u32,
}

impl Route {
    /// Nowhere, as yet.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        (self.first.kind, self.second.kind, self.is_back) = (KIND_NONE, KIND_NONE, false);
    }
}

/// A copy by words. The compiler would call `memmove`, which BPF has not: a loop over bytes, and a tenth of a packet's time.
#[inline(always)]
pub(crate) fn copy(from: &Backend, to: &mut Backend) {
    let (Address([a, b, c, d]), kind) = (from.address, from.kind);
    (to.address, to.kind) = (Address([a, b, c, d]), kind);
}

/// What an IP header says of a flow; the ports come later.
#[inline(always)]
pub(crate) fn set_ends(flow: &mut Flow, source: Address, destination: Address, protocol: u8) {
    (flow.source, flow.destination, flow.protocol) = (source, destination, protocol);
    (flow.source_port, flow.destination_port) = ([0; 2], [0; 2]);
}
