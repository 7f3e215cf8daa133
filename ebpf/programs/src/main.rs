//! The kernel programs of weir: `balancer` and `pass` (XDP), `steer` (sk_lookup). One object, one set of maps.
//!
//! `balancer` does both sides of the data path, since every host is a balancer and a proxy: packets for a VIP are given
//! to a proxy by the Maglev table, tunnels that end here are opened and their packets delivered or sent on.
//!
//! No packet leaves without a [`Reason`]; what happens for a reason is decided in one place, [`reason::finish`].
#![no_std]
#![no_main]
#![allow(unsafe_code)]

mod balance;
mod bench;
mod capture;
mod chain;
mod classify;
mod decap;
mod encap;
mod extension;
mod fragment;
mod guard;
mod icmp;
mod maps;
mod next_hop;
mod packet;
mod quic;
mod reason;
mod services;
mod special;
mod steer;
mod syn_cookie;
mod too_big;
mod tunnel;
mod tunnel_error;
mod udp;
mod vlan;
mod work;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use weir_abi::{counters::Reason, headers::Eth, programs::PROBE_REASON_SHIFT};

use crate::work::{Kind, Work};

/// The data path of one packet.
#[xdp]
pub(crate) fn balancer(ctx: XdpContext) -> u32 {
    datapath(&ctx)
}

#[inline(always)]
pub(crate) fn datapath(ctx: &XdpContext) -> u32 {
    let Ok(work) = maps::work() else {
        return reason::finish(Reason::DropInternal, xdp_action::XDP_DROP);
    };
    work.is_captured = 0;
    if capture::is_on() {
        capture::came(ctx, work);
    }
    let (reason, transmit) = decide(ctx, work);
    if work.is_captured != 0 {
        capture::left(ctx, work, reason);
    }
    reason::finish(reason, transmit)
}

/// What the data path would do with a packet, and why: `weir explain packet --live`. Never attached anywhere; counts no
/// reason, since it returns it.
#[xdp]
pub(crate) fn probe(ctx: XdpContext) -> u32 {
    let Ok(work) = maps::work() else { return xdp_action::XDP_ABORTED };
    let (reason, transmit) = decide(&ctx, work);
    reason::action(reason, transmit) | (reason as u32) << PROBE_REASON_SHIFT
}

/// The reason a packet is counted under, and the action that sends it if it is sent.
#[inline(always)]
fn decide(ctx: &XdpContext, work: &mut Work) -> (Reason, u32) {
    work.tags.count = 0;
    if packet::read::<Eth>(ctx, 0).is_ok_and(|eth| vlan::is_tag(eth.ethertype))
        && vlan::take_off(ctx, work).is_err()
    {
        return (Reason::DropMalformed, xdp_action::XDP_DROP);
    }
    let treated = match treat(ctx, work) {
        Err(reason @ (Reason::DeliverLocal | Reason::DecapDeliver)) => syn_cookie::deliver(ctx, work, reason),
        treated => treated,
    };
    let (mut reason, transmit) = match treated {
        Ok(sent) => sent,
        Err(reason) => (reason, xdp_action::XDP_DROP),
    };
    if work.tags.count != 0 && vlan::put_back(ctx, work).is_err() {
        reason = Reason::DropHeadroom;
    }
    (reason, transmit)
}

/// A packet on its way, with the reason to count it under and the action that sends it; or ended here for a reason.
#[inline(always)]
fn treat(ctx: &XdpContext, work: &mut Work) -> Verdict<(Reason, u32)> {
    classify::classify(ctx, work)?;
    if work.parsed.kind == Kind::Own {
        tunnel::without_udp(ctx, work)?;
    }
    work.by_tunnel = work.parsed.kind == Kind::Tunnel;
    let opened = match work.parsed.kind {
        Kind::Tunnel => decap::decap(ctx, work)?,
        Kind::Echo => {
            guard::admit(ctx, work)?;
            icmp::answer_echo(ctx, work)?;
            return Err(Reason::IcmpEcho);
        }
        Kind::TunnelTooBig => {
            tunnel_error::tell(ctx, work)?;
            return Err(Reason::IcmpTunnelTooBig);
        }
        Kind::Own => return Err(Reason::PassNotVip),
        Kind::Syn | Kind::Segment | Kind::Datagram | Kind::Fragment | Kind::Error => None,
    };
    let reason = match opened {
        Some(reason) => reason,
        None => {
            guard::admit(ctx, work)?;
            balance::balance(ctx, work)?
        }
    };
    match encap::encap(ctx, work) {
        Ok(transmit) => Ok((reason, transmit)),
        Err(Reason::DropTooBig) => {
            too_big::tell(ctx, work)?;
            Err(Reason::IcmpTooBig)
        }
        Err(reason) => Err(reason),
    }
}

/// Passes every packet: the peer of a veth pair needs a native program for `XDP_TX` to come through.
#[xdp]
pub(crate) fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Lets the `Reason` travel in `Result`s.
pub(crate) type Verdict<T> = Result<T, Reason>;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable: the verifier refuses a program in which this could be reached.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
