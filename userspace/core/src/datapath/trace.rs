//! The steps of a packet in words, where somebody wants to read them.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use weir_abi::{
    Address,
    counters::{REASONS, Reason},
    flow::Flow,
    hop::Backend,
    service::{PROTO_TCP, PROTO_UDP},
};

use super::Action;

/// What addresses are called: nodes by their tunnel addresses, VIPs by theirs.
pub type Names = BTreeMap<Address, String>;

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is decided.
    pub stage: Stage,
    /// How.
    pub decision: String,
    /// Why.
    pub reason: String,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Which VLAN tags are taken off.
    Vlan,
    /// What the packet is.
    Packet,
    /// Whether a tunnel ends here, and what is in it.
    Decap,
    /// Whether it is for a VIP.
    Vip,
    /// For which service.
    Service,
    /// Whether its source may come.
    Access,
    /// Whether its source or its service may open one more connection.
    Rate,
    /// The flow's hash and slot.
    Slot,
    /// Whether a QUIC connection id names the server.
    Quic,
    /// Who owns the slot.
    Owner,
    /// Whether this host knows the flow, or who does.
    Chain,
    /// Whether a SYN is answered with a cookie.
    SynCookie,
    /// The tunnel put in front.
    Encap,
    /// Whether it fits.
    Mtu,
    /// The way to the tunnel's end.
    NextHop,
    /// The ICMP message made of it.
    Icmp,
    /// What becomes of it.
    Verdict,
}

/// Collects steps, or nothing.
pub(super) struct Trace<'a> {
    names: Option<&'a Names>,
    steps: Vec<Step>,
}

impl<'a> Trace<'a> {
    pub(super) fn none() -> Self {
        Self { names: None, steps: Vec::new() }
    }

    pub(super) fn with(names: &'a Names) -> Self {
        Self { names: Some(names), steps: Vec::new() }
    }

    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// Adds a step; its words are made only if somebody reads them.
    pub(super) fn step(&mut self, stage: Stage, words: impl FnOnce(&Names) -> (String, String)) {
        let Some(names) = self.names else { return };
        let (decision, reason) = words(names);
        self.steps.push(Step { stage, decision, reason });
    }

    pub(super) fn verdict(&mut self, reason: Reason, action: Action) {
        self.step(Stage::Verdict, |_| {
            let action = match action {
                Action::Drop => "dropped".into(),
                Action::Pass => "passed to the kernel".into(),
                Action::Transmit => "transmitted on the interface it came in on".into(),
                Action::Redirect(egress) => format!("transmitted on interface {egress}"),
            };
            (action, format!("counted under {}", REASONS[reason as usize].1))
        });
    }
}

/// An address, with its name if it has one.
pub(super) fn called(names: &Names, address: &Address) -> String {
    let ip = IpAddr::from(*address);
    names.get(address).map_or_else(|| ip.to_string(), |name| format!("{name} ({ip})"))
}

/// A backend, or that there is none.
pub(super) fn host_of(names: &Names, backend: Option<&Backend>) -> String {
    backend.map_or_else(|| "nobody".into(), |backend| called(names, &backend.address))
}

/// A flow as people write it.
pub(super) fn flow_text(flow: &Flow) -> String {
    let end = |address: &Address, port: [u8; 2]| match (IpAddr::from(*address), u16::from_be_bytes(port)) {
        (ip, 0) => ip.to_string(),
        (IpAddr::V4(v4), port) => format!("{v4}:{port}"),
        (IpAddr::V6(v6), port) => format!("[{v6}]:{port}"),
    };
    let (from, to) = (end(&flow.source, flow.source_port), end(&flow.destination, flow.destination_port));
    match flow.protocol {
        PROTO_TCP => format!("TCP {from} → {to}"),
        PROTO_UDP => format!("UDP {from} → {to}"),
        protocol => format!("IP protocol {protocol} {from} → {to}"),
    }
}
