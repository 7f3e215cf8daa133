//! A door for fuzzers: whatever the peer sends, the session neither panics nor grows.

use crate::rib_out::Route;
use crate::session::{Config, ConnId, Input, Session, Transmit};
use crate::wire::{
    Capabilities, EXTENDED_MESSAGE_MAX, Families, Open, ReceiveContext, decode_update, encode_keepalive,
};
use bytes::Bytes;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

/// Feed `data` to a session. The first byte chooses the size of the chunks and, by its lowest bit, whether the session is
/// established before or still waits for an OPEN. Panics only when the session breaks a promise.
pub fn fuzz_stream(data: &[u8], now: Instant) {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let mut session = Session::new(Config {
        passive: true,
        extended_next_hop: true,
        max_prefixes: Some(100),
        keep_received: true,
        ..Config::new(65001, Ipv4Addr::new(10, 0, 0, 2), 65000)
    });
    let next_hop = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    let prefix = ipnet::IpNet::from(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    session.set_routes([(prefix, Route::new(next_hop))].into());
    let conn = ConnId::Incoming(0);
    session.handle_input(Input::Start, now);
    session.handle_input(Input::Accepted(conn), now);
    if first & 1 == 1 {
        let open = Open {
            asn: 65000,
            hold_time_s: 90,
            bgp_id: Ipv4Addr::new(10, 0, 0, 1),
            capabilities: Capabilities {
                families: Some(Families::BOTH),
                four_octet_as: first & 2 == 0,
                extended_message: first & 4 == 0,
                extended_next_hop: first & 8 == 0,
                ..Capabilities::default()
            },
        };
        session.handle_input(Input::Bytes(conn, &open.encode()), now);
        session.handle_input(Input::Bytes(conn, &encode_keepalive()), now);
        assert!(session.negotiated().is_some());
    }
    for chunk in data.chunks(usize::from(first >> 2) + 1) {
        session.handle_input(Input::Bytes(conn, chunk), now);
        while let Some(transmit) = session.poll_transmit() {
            if let Transmit::Bytes(_, bytes) = transmit {
                assert!(bytes.len() <= EXTENDED_MESSAGE_MAX);
            }
        }
        while session.poll_event().is_some() {}
    }
}

/// Read `data` as the body of an OPEN, and what was understood of it once more. Panics only when the codec breaks a promise.
pub fn fuzz_open(data: &[u8]) {
    // Families of which we have none cannot be said again.
    if let Ok(open) = Open::decode(&Bytes::copy_from_slice(data))
        && open.capabilities.families != Some(Families::default())
    {
        let again = Open::decode(&open.encode().slice(crate::wire::HEADER_LEN..));
        assert_eq!(again, Ok(open), "what was understood survives the wire");
    }
}

/// Judge `data` as the body of an UPDATE. The first byte chooses what was agreed. Panics only when the codec breaks a promise.
pub fn fuzz_update(data: &[u8]) {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let context = ReceiveContext {
        ibgp: first & 1 == 0,
        four_octet_as: first & 2 == 0,
        families: Families { ipv4: first & 4 == 0, ipv6: first & 8 == 0 },
        extended_next_hop: first & 16 == 0,
    };
    let (mut announced, mut withdrawn) = (0, 0);
    let report = decode_update(&Bytes::copy_from_slice(data), context, |prefix, stays| {
        assert_eq!(prefix, prefix.trunc());
        *if stays { &mut announced } else { &mut withdrawn } += 1;
    });
    match report {
        Ok(report) => assert_eq!((report.announced, report.withdrawn), (announced, withdrawn)),
        Err(notification) => assert_eq!(notification.code, 3, "an UPDATE error"),
    }
}
