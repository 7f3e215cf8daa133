//! The packets of Katran's public test suite as semantic vectors: the same action, the inner packet byte for byte, the
//! outer header well formed and going to a member of the right set. Which member is chosen is each balancer's own business.
//!
//! Every deliberate difference stands in [`DIFFERENCES`] with its reason; sets about things weir does elsewhere or not yet
//! are named in [`LEFT_OUT`].

use std::net::IpAddr;

use serde_json::Value;
use weir_abi::{
    Address, Config,
    hop::{Backend, KIND_GUE4, KIND_GUE6},
    limits::TABLE_LEN,
    service::{PROTO_TCP, PROTO_UDP, Slot, VipKey},
};
use weir_core::maglev::{self, Weighted};
use weir_tests::prog_run::{Balancer, Seen};

const FIXTURES: &str = include_str!("../data/katran_fixtures.jsonl");

/// (set, number, action here, why).
const DIFFERENCES: &[(&str, u64, &str, &str)] = &[
    ("base", 12, "XDP_TX", "IPv4 options are parsed, not a reason to drop"),
    ("gue", 10, "XDP_TX", "IPv4 options are parsed, not a reason to drop"),
    ("base", 14, "XDP_PASS", "what stands behind its fragment header is protocol 122, the kernel's business"),
    ("gue", 12, "XDP_PASS", "what stands behind its fragment header is protocol 122, the kernel's business"),
    ("base", 33, "XDP_TX", "how much fits is the egress MTU's to say, and it is 9,000 here"),
];

/// Sets that are not run, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("cidr_vip", "VIPs are single addresses"),
    ("lpm_src", "no source-prefix routing"),
    ("udp_stable_rt", "no routing by connection id"),
    ("udp_flow_migration_1", "no flow cache to migrate"),
    ("udp_flow_migration_2", "no flow cache to migrate"),
    ("xpop_decap", "tunnels are not sent on to other balancers"),
    ("egress_decap", "answers go straight to the client"),
    ("gue_decap", "tunnels use the port IANA gave to GUE; `packets` has the like"),
    ("hc_tc", "health checks go to the proxy's own address"),
    ("hc_gue_tc", "health checks go to the proxy's own address"),
    ("icmp_too_big", "needs an egress MTU; has packet tables of its own"),
    ("icmp_too_big_gue", "needs an egress MTU; has packet tables of its own"),
];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// Katran's layout: three IPv4 and three IPv6 reals; VIP .3, .5 and those of IPv6 lead to the latter.
fn balancer() -> Balancer {
    let config = Config {
        abi_version: weir_abi::ABI_VERSION,
        has_v4: 1,
        has_v6: 1,
        address4: [10, 1, 1, 2],
        address6: ip("fd00::2").into(),
        mtu: 9000,
        guarded: 0,
        tunnels: 0,
    };
    let mut balancer = Balancer::load(config).expect("load");
    let reals = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fc00::1", "fc00::2", "fc00::3"];
    for (index, real) in reals.iter().enumerate() {
        let kind = if index < 3 { KIND_GUE4 } else { KIND_GUE6 };
        let backend = Backend { address: ip(real).into(), kind, _pad: [0; 3] };
        balancer.backend(index as u16 + 1, backend).expect("backend");
    }
    let services = [
        ("10.200.1.1", PROTO_TCP, 80, Some(0)),
        ("10.200.1.1", PROTO_UDP, 80, Some(0)),
        ("10.200.1.2", PROTO_TCP, 42, Some(0)),
        ("10.200.1.3", PROTO_TCP, 80, Some(3)),
        ("10.200.1.4", PROTO_TCP, 42, Some(0)),
        ("10.200.1.5", PROTO_UDP, 443, Some(3)),
        ("10.200.1.6", PROTO_UDP, 80, Some(3)),
        ("fc00:1::1", PROTO_TCP, 80, Some(3)),
        ("fc00:1::2", PROTO_UDP, 443, Some(3)),
        ("10.200.1.99", PROTO_TCP, 80, None),
        ("fc00:1::11", PROTO_UDP, 80, None),
    ];
    for (index, (vip, protocol, port, first)) in services.into_iter().enumerate() {
        let key = VipKey { address: ip(vip).into(), port: u16::to_be_bytes(port), protocol, _pad: 0 };
        balancer.service(index as u32, key, Slot::default()).expect("service");
        if let Some(first) = first {
            let members = &reals[first..first + 3];
            let weighted: Vec<_> = members.iter().map(|id| Weighted { id, weight: 100 }).collect();
            let owners = maglev::build(&weighted, TABLE_LEN);
            let word = |owner: &u16| Slot { owner: owner + first as u16 + 1, previous: 0 }.pack();
            balancer.table_of(index as u32, owners.iter().map(word).collect()).expect("table");
        }
    }
    balancer
}

/// The tunnel of a packet that was sent: where it goes, and what is in it.
fn tunnel(packet: &[u8]) -> (IpAddr, &[u8]) {
    let (to, udp): (IpAddr, usize) = if packet[12..14] == [0x08, 0x00] {
        assert_eq!((packet[14], packet[23]), (0x45, 17), "an IPv4 header without options around UDP");
        assert_eq!(usize::from(u16::from_be_bytes([packet[16], packet[17]])), packet.len() - 14);
        let sum: u32 =
            packet[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "header checksum");
        (<[u8; 4]>::try_from(&packet[30..34]).expect("four bytes").into(), 34)
    } else {
        assert_eq!(packet[20], 17, "IPv6 around UDP");
        assert_eq!(usize::from(u16::from_be_bytes([packet[18], packet[19]])), packet.len() - 54);
        (<[u8; 16]>::try_from(&packet[38..54]).expect("sixteen bytes").into(), 54)
    };
    assert_eq!(packet[udp + 2..udp + 4], 6080u16.to_be_bytes(), "to the port of GUE");
    assert_eq!(packet[udp + 8], 0, "a settled slot carries no chain");
    (to, &packet[udp + 12..])
}

fn check_sent(name: &str, input: &[u8], seen: &Seen) {
    let is_v4 = input[12..14] == [0x08, 0x00];
    let protocol = if is_v4 { input[23] } else { input[20] };
    let l4 = if is_v4 { 14 + usize::from(input[14] & 15) * 4 } else { 54 };
    if (protocol == 1 && input[l4] == 8) || (protocol == 58 && input[l4] == 128) {
        let (from, to) = if is_v4 { (26..30, 30..34) } else { (22..38, 38..54) };
        assert_eq!(seen.packet[l4], if is_v4 { 0 } else { 129 }, "{name}: an echo reply");
        assert_eq!(
            (&seen.packet[from.clone()], &seen.packet[to.clone()]),
            (&input[to], &input[from]),
            "{name}"
        );
        return;
    }
    let (to, inner) = tunnel(&seen.packet);
    assert_eq!(inner, &input[14..], "{name}: the inner packet");
    let vip =
        if is_v4 { Address::v4(input[30..34].try_into().expect("four bytes")) } else { Address::default() };
    let wants_v4 = [1, 2, 4].iter().any(|last| vip == Address::v4([10, 200, 1, *last]));
    let member = match to {
        IpAddr::V4(v4) => v4.octets()[..3] == [10, 0, 0] && (1..=3).contains(&v4.octets()[3]),
        IpAddr::V6(v6) => {
            v6.segments()[..7] == [0xfc00, 0, 0, 0, 0, 0, 0] && (1..=3).contains(&v6.segments()[7])
        }
    };
    assert!(member && to.is_ipv4() == wants_v4, "{name}: to {to}");
}

#[test]
fn katrans_packets_mean_the_same_here() {
    let mut balancer = balancer();
    let mut run = 0;
    let mut unknown = Vec::new();
    for line in FIXTURES.lines() {
        let fixture: Value = serde_json::from_str(line).expect("fixture");
        let text = |field: &str| fixture[field].as_str().expect("text");
        let (set, number) = (text("set"), fixture["n"].as_u64().expect("number"));
        if LEFT_OUT.iter().any(|(left_out, _)| *left_out == set) {
            continue;
        }
        if !["base", "gue", "tpr", "tpr_gue"].contains(&set) {
            unknown.push(set.to_owned());
            continue;
        }
        let name = format!("{set} {number} ({})", text("name"));
        let hex = text("input");
        let input: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect();
        let different = DIFFERENCES.iter().find(|(s, n, ..)| (*s, *n) == (set, number));
        let wanted = different.map_or(text("action"), |(.., action, _)| action);
        let seen = balancer.run(&input).expect("run");
        let action = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX"][seen.action as usize];
        assert_eq!(action, wanted, "{name}: {:?}", seen.reason);
        match action {
            "XDP_TX" => check_sent(&name, &input, &seen),
            "XDP_PASS" => assert_eq!(seen.packet, input, "{name}: passed as it came"),
            _ => {}
        }
        run += 1;
    }
    assert!(unknown.is_empty(), "sets nobody has thought about: {unknown:?}");
    assert_eq!(run, 36 + 36 + 17 + 17);
}
