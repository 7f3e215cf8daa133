//! Messages as MRT records, for the tools that read those. RFC 6396 §3, §4.4.
//!
//! BGP4MP_ET: the time has microseconds. Messages we sent are of the LOCAL subtypes (§4.4.4: "locally generated").

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Type "BGP4MP_ET".
const BGP4MP_ET: u16 = 17;

/// Who speaks with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The AS of the peer.
    pub peer_asn: u32,
    /// Our AS.
    pub local_asn: u32,
    /// The address of the peer; the port is not recorded.
    pub peer: SocketAddr,
    /// Our address, of the same family.
    pub local: SocketAddr,
    /// AS numbers in UPDATEs have four octets.
    pub four_octet_as: bool,
}

/// One record: `message` is a whole BGP message, `sent` by us or received, `at` after the Unix epoch.
pub fn record(session: &Session, message: &[u8], sent: bool, at: Duration) -> Vec<u8> {
    let subtype: u16 = match (session.four_octet_as, sent) {
        (false, false) => 1,
        (true, false) => 4,
        (false, true) => 6,
        (true, true) => 7,
    };
    let mut body = Vec::with_capacity(48 + message.len());
    body.extend(at.subsec_micros().to_be_bytes());
    if session.four_octet_as {
        body.extend(session.peer_asn.to_be_bytes());
        body.extend(session.local_asn.to_be_bytes());
    } else {
        // 23456 stands for what does not fit: RFC 6793 §9.
        for asn in [session.peer_asn, session.local_asn] {
            body.extend(u16::try_from(asn).unwrap_or(23456).to_be_bytes());
        }
    }
    // The interface index is unknown.
    body.extend([0, 0]);
    match (session.peer.ip().to_canonical(), session.local.ip().to_canonical()) {
        (IpAddr::V4(peer), IpAddr::V4(local)) => {
            body.extend([0, 1]);
            body.extend(peer.octets());
            body.extend(local.octets());
        }
        (peer, local) => {
            let v6 = |address| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            body.extend([0, 2]);
            body.extend(v6(peer).octets());
            body.extend(v6(local).octets());
        }
    }
    body.extend_from_slice(message);
    let mut record = Vec::with_capacity(12 + body.len());
    // The field has 32 bits: RFC 6396 §2.
    record.extend((at.as_secs() as u32).to_be_bytes());
    record.extend(BGP4MP_ET.to_be_bytes());
    record.extend(subtype.to_be_bytes());
    record.extend((body.len() as u32).to_be_bytes());
    record.extend(body);
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{UpdateContext, encode_announce};
    use bgpkit_parser::models::{Bgp4MpEnum, BgpMessage, MrtMessage};
    use bgpkit_parser::parser::parse_mrt_record;

    #[test]
    fn another_reader_finds_the_message_with_its_time_and_session() {
        let update = |asn: u32, four_octet_as| {
            let context = UpdateContext { local_asn: asn, four_octet_as, ..UpdateContext::default() };
            let route = crate::Route::new("10.0.0.2".parse().unwrap());
            encode_announce(context, &route, &["192.0.2.1/32".parse().unwrap()]).unwrap()
        };
        for (peer, local, four_octet_as) in [
            ("10.0.0.1:179", "10.0.0.2:40000", true),
            ("10.0.0.1:179", "10.0.0.2:40000", false),
            ("[fe80::1]:179", "[fe80::2]:40000", true),
        ] {
            let session = Session {
                peer_asn: 65000,
                local_asn: 65001,
                peer: peer.parse().unwrap(),
                local: local.parse().unwrap(),
                four_octet_as,
            };
            let at = Duration::new(1_700_000_000, 123_456_000);
            let bytes = record(&session, &update(65001, four_octet_as), true, at);
            let record = parse_mrt_record(&mut &bytes[..]).expect("a record");
            assert_eq!(record.common_header.timestamp, 1_700_000_000);
            assert_eq!(record.common_header.microsecond_timestamp, Some(123_456));
            let MrtMessage::Bgp4Mp(Bgp4MpEnum::Message(message)) = record.message else {
                panic!("another kind of record: {:?}", record.message)
            };
            assert_eq!((message.peer_ip, message.local_ip), (session.peer.ip(), session.local.ip()));
            assert_eq!((u32::from(message.peer_asn), u32::from(message.local_asn)), (65000, 65001));
            let BgpMessage::Update(update) = message.bgp_message else { panic!("another message") };
            assert_eq!(update.announced_prefixes.len(), 1);
        }
    }
}
