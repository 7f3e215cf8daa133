//! QUIC: the connection id outranks the flow hash where it names a server.

use weir_abi::{
    counters::Reason,
    service::{PROTO_UDP, SERVICE_QUIC, Slot},
};
use weir_core::plan::Op;
use weir_tests::{packet, prog_run::key4, vips::*};

#[test]
fn a_quic_packet_goes_to_the_server_its_connection_id_names() {
    let mut balancer = balancer();
    balancer.service(300, key4(VIP, PROTO_UDP, 443), Slot { owner: 2, previous: 3 }).expect("service");
    balancer.service_flags(300, SERVICE_QUIC).expect("flags");
    for (id, slot) in [(0x0102, 3), (0x0103, 1)] {
        balancer.apply(Op::PutQuicServer(id, slot)).expect("server");
    }
    let short = |id: [u8; 2]| [&[0x40, 0x07, id[0], id[1]][..], &[9; 20]].concat();
    let long = |kind: u8| [&[kind, 0, 0, 0, 1, 8, 0x07, 1, 2][..], &[9; 30]].concat();
    let cases = [
        ("short header", short([1, 2]), Some("10.1.3.2"), None),
        (
            "short header, its fixed bit greased",
            [&[0][..], &short([1, 2])[1..]].concat(),
            Some("10.1.3.2"),
            None,
        ),
        ("handshake", long(0xe0), Some("10.1.3.2"), None),
        ("this host", short([1, 3]), None, None),
        ("an initial goes by hash", long(0xc0), Some("10.1.2.2"), Some("10.1.3.2")),
        ("an unknown server by hash", short([7, 7]), Some("10.1.2.2"), Some("10.1.3.2")),
        ("too short for an id", vec![0x40, 7, 1], Some("10.1.2.2"), Some("10.1.3.2")),
    ];
    for (what, payload, first, second) in cases {
        let sent = packet::udp(CLIENT, "198.51.100.10:443", &payload);
        let seen = balancer.run(&sent).expect("run");
        let Some(first) = first else {
            assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DeliverLocal), "{what}");
            continue;
        };
        let port = flow_port(CLIENT, "198.51.100.10:443", PROTO_UDP);
        let wanted = packet::turned(packet::gue(&sent, own(), ip(first), port, second.map(ip)));
        assert_eq!((seen.reason, seen.packet), (Reason::Encap, wanted), "{what}");
    }
}
