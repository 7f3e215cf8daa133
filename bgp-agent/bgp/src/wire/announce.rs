//! Our routes as UPDATEs. RFC 4271 §4.3, §5; RFC 1997, RFC 4760, RFC 6793, RFC 8092, RFC 8326, RFC 8654, RFC 8950, RFC 9234.
//!
//! IPv4 travels in the classic fields, unless its next hop is IPv6; everything else in MP_REACH_NLRI and MP_UNREACH_NLRI.
//! One message carries one family and one set of attributes. Choosing *what* to send is the RIB-out.

use super::{AS_TRANS, EXTENDED_MESSAGE_MAX, Family, HEADER_LEN, MESSAGE_MAX, MessageType, frame};
use crate::rib_out::Route;
use bytes::Bytes;
use ipnet::IpNet;
use std::net::IpAddr;

/// What the attributes of a bounded route may take, with the two length fields of the message: ORIGIN 4 + AS_PATH and
/// AS4_PATH 2 × (4 + 2 + 4 × 17) + NEXT_HOP 7 + MED 7 + LOCAL_PREF 7 + COMMUNITIES 4 + 4 × 65 + LARGE_COMMUNITY 4 + 12 × 64
/// + OTC 7 + MP_REACH_NLRI 4 + 3 + 1 + 32 + 1, + 4 = 1,261, rounded up.
pub(crate) const ATTRIBUTES_ROOM: usize = 1_280;

/// Attribute flags. RFC 4271 §4.3.
pub(super) mod flag {
    pub(in crate::wire) const OPTIONAL: u8 = 0x80;
    pub(in crate::wire) const TRANSITIVE: u8 = 0x40;
    pub(in crate::wire) const EXTENDED: u8 = 0x10;
}

/// Attribute type codes, <https://www.iana.org/assignments/bgp-parameters>.
pub(super) mod code {
    pub(in crate::wire) const ORIGIN: u8 = 1;
    pub(in crate::wire) const AS_PATH: u8 = 2;
    pub(in crate::wire) const NEXT_HOP: u8 = 3;
    pub(in crate::wire) const MULTI_EXIT_DISC: u8 = 4;
    pub(in crate::wire) const LOCAL_PREF: u8 = 5;
    pub(in crate::wire) const ATOMIC_AGGREGATE: u8 = 6;
    pub(in crate::wire) const AGGREGATOR: u8 = 7;
    pub(in crate::wire) const COMMUNITIES: u8 = 8;
    pub(in crate::wire) const ORIGINATOR_ID: u8 = 9;
    pub(in crate::wire) const CLUSTER_LIST: u8 = 10;
    pub(in crate::wire) const MP_REACH_NLRI: u8 = 14;
    pub(in crate::wire) const MP_UNREACH_NLRI: u8 = 15;
    pub(in crate::wire) const EXTENDED_COMMUNITIES: u8 = 16;
    pub(in crate::wire) const AS4_PATH: u8 = 17;
    pub(in crate::wire) const AS4_AGGREGATOR: u8 = 18;
    pub(in crate::wire) const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    pub(in crate::wire) const AIGP: u8 = 26;
    pub(in crate::wire) const LARGE_COMMUNITY: u8 = 32;
    pub(in crate::wire) const OTC: u8 = 35;
}

/// The community GRACEFUL_SHUTDOWN. RFC 8326 §3.
const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;

/// What the session decided and every UPDATE depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpdateContext {
    /// Our AS.
    pub local_asn: u32,
    /// The peer is in our AS: empty AS_PATH, LOCAL_PREF sent.
    pub ibgp: bool,
    /// Both sides have 4-octet AS numbers.
    pub four_octet_as: bool,
    /// Both sides take extended messages. RFC 8654.
    pub extended_message: bool,
    /// The peer takes IPv4 with an IPv6 next hop, and so do we. RFC 8950.
    pub extended_next_hop: bool,
    /// Routes are marked Only to Customer. RFC 9234 §5.
    pub only_to_customer: bool,
}

impl UpdateContext {
    /// The longest UPDATE, in octets.
    pub(crate) fn message_max(self) -> usize {
        if self.extended_message { EXTENDED_MESSAGE_MAX } else { MESSAGE_MAX }
    }
}

/// A route that cannot be written. Routes within the bounds of [`Route`], of one family and packed by the RIB-out can.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// More than a message can hold.
    #[error("encode update: message of {len} bytes is longer than {max}")]
    TooLong {
        /// What it would take.
        len: usize,
        /// What was agreed.
        max: usize,
    },
    /// IPv6 prefixes behind an IPv4 next hop, or IPv4 behind IPv6 without the agreement of RFC 8950.
    #[error("encode update: the session does not carry these prefixes with next hop {0}")]
    NextHop(IpAddr),
}

/// How many bytes a prefix takes in an NLRI field.
pub(crate) fn prefix_len_bytes(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len()).div_ceil(8)
}

/// One UPDATE announcing `prefixes`, all of one family.
pub fn encode_announce(
    context: UpdateContext,
    route: &Route,
    prefixes: &[IpNet],
) -> Result<Bytes, EncodeError> {
    let family = prefixes.first().map_or(Family::of(route.next_hop()), |prefix| Family::of(prefix.addr()));
    let nlri = nlri(prefixes);
    let mut attributes = Vec::with_capacity(128);
    // RFC 7606 §5.1: "The MP_REACH_NLRI or MP_UNREACH_NLRI attribute (if present) SHALL be encoded as the very first
    // path attribute in an UPDATE message."
    let classic = match (family, route.next_hop()) {
        (Family::Ipv4, IpAddr::V4(next_hop)) => Some(next_hop),
        (Family::Ipv6, IpAddr::V6(_)) => None,
        (Family::Ipv4, IpAddr::V6(_)) if context.extended_next_hop => None,
        (_, next_hop) => return Err(EncodeError::NextHop(next_hop)),
    };
    if classic.is_none() {
        put(&mut attributes, flag::OPTIONAL, code::MP_REACH_NLRI, &mp_reach(family, route, &nlri));
    }
    // RFC 4271 §5: "The sender of an UPDATE message SHOULD order path attributes within the UPDATE message in ascending
    // order of attribute type."
    put(&mut attributes, flag::TRANSITIVE, code::ORIGIN, &[0]);
    let (path, path4) = as_path(context, route);
    put(&mut attributes, flag::TRANSITIVE, code::AS_PATH, &path);
    if let Some(next_hop) = classic {
        put(&mut attributes, flag::TRANSITIVE, code::NEXT_HOP, &next_hop.octets());
    }
    if let Some(med) = route.med() {
        put(&mut attributes, flag::OPTIONAL, code::MULTI_EXIT_DISC, &med.to_be_bytes());
    }
    // RFC 4271 §5.1.5: "LOCAL_PREF … SHALL be included in all UPDATE messages that a given BGP speaker sends to other
    // internal peers" and "MUST NOT include this attribute in UPDATE messages it sends to external peers".
    if context.ibgp {
        // RFC 8326 §4.1: inside the AS the lowest preference says it.
        let local_pref = if route.graceful_shutdown() { 0 } else { route.local_pref() };
        put(&mut attributes, flag::TRANSITIVE, code::LOCAL_PREF, &local_pref.to_be_bytes());
    }
    let communities = communities(route);
    if !communities.is_empty() {
        put(&mut attributes, flag::OPTIONAL | flag::TRANSITIVE, code::COMMUNITIES, &communities);
    }
    if let Some(path4) = path4 {
        put(&mut attributes, flag::OPTIONAL | flag::TRANSITIVE, code::AS4_PATH, &path4);
    }
    if !route.large_communities().is_empty() {
        let value: Vec<u8> = route
            .large_communities()
            .iter()
            .flat_map(|(global, local1, local2)| [global, local1, local2])
            .flat_map(|part| part.to_be_bytes())
            .collect();
        put(&mut attributes, flag::OPTIONAL | flag::TRANSITIVE, code::LARGE_COMMUNITY, &value);
    }
    if context.only_to_customer {
        put(&mut attributes, flag::OPTIONAL | flag::TRANSITIVE, code::OTC, &context.local_asn.to_be_bytes());
    }
    finish(&[], &attributes, if classic.is_some() { &nlri } else { &[] }, context.message_max())
}

/// One UPDATE withdrawing `prefixes`, all of `family`. Where IPv4 may have been announced by MP_REACH_NLRI it is withdrawn
/// by MP_UNREACH_NLRI.
pub fn encode_withdraw(
    context: UpdateContext,
    family: Family,
    prefixes: &[IpNet],
) -> Result<Bytes, EncodeError> {
    let nlri = nlri(prefixes);
    match family {
        Family::Ipv4 if !context.extended_next_hop => finish(&nlri, &[], &[], context.message_max()),
        Family::Ipv4 | Family::Ipv6 => {
            let mut value = family.afi().to_be_bytes().to_vec();
            value.push(1);
            value.extend(nlri);
            let mut attributes = Vec::with_capacity(value.len() + 4);
            put(&mut attributes, flag::OPTIONAL, code::MP_UNREACH_NLRI, &value);
            finish(&[], &attributes, &[], context.message_max())
        }
    }
}

/// The End-of-RIB marker of a family. RFC 4724 §2.
pub fn encode_end_of_rib(family: Family) -> Bytes {
    match family {
        Family::Ipv4 => frame(MessageType::Update, &[0, 0, 0, 0]),
        // Withdrawn 0, attributes 6: MP_UNREACH_NLRI, optional, 3 octets: AFI 2, SAFI 1.
        Family::Ipv6 => frame(MessageType::Update, &[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]),
    }
}

fn finish(withdrawn: &[u8], attributes: &[u8], nlri: &[u8], max: usize) -> Result<Bytes, EncodeError> {
    let len = HEADER_LEN + 4 + withdrawn.len() + attributes.len() + nlri.len();
    if len > max {
        return Err(EncodeError::TooLong { len, max });
    }
    let mut body = Vec::with_capacity(len - HEADER_LEN);
    for field in [withdrawn, attributes] {
        // Shorter than `max`, which fits two octets.
        body.extend((field.len() as u16).to_be_bytes());
        body.extend_from_slice(field);
    }
    body.extend_from_slice(nlri);
    Ok(frame(MessageType::Update, &body))
}

/// Lists whose length varies have the extended length, so that a message differs by its content only.
fn put(attributes: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    let list = [code::MP_REACH_NLRI, code::MP_UNREACH_NLRI, code::COMMUNITIES, code::LARGE_COMMUNITY];
    match u8::try_from(value.len()) {
        Ok(len) if !list.contains(&code) => attributes.extend([flags, code, len]),
        _ => {
            attributes.extend([flags | flag::EXTENDED, code]);
            attributes.extend((value.len() as u16).to_be_bytes());
        }
    }
    attributes.extend_from_slice(value);
}

fn nlri(prefixes: &[IpNet]) -> Vec<u8> {
    let mut out = Vec::with_capacity(prefixes.iter().map(prefix_len_bytes).sum());
    for prefix in prefixes {
        out.push(prefix.prefix_len());
        let used = prefix_len_bytes(prefix) - 1;
        match prefix.network() {
            IpAddr::V4(address) => out.extend(&address.octets()[..used]),
            IpAddr::V6(address) => out.extend(&address.octets()[..used]),
        }
    }
    out
}

fn mp_reach(family: Family, route: &Route, nlri: &[u8]) -> Vec<u8> {
    let mut value = family.afi().to_be_bytes().to_vec();
    value.push(1);
    let at = value.len();
    value.push(0);
    if let IpAddr::V6(next_hop) = route.next_hop() {
        value.extend(next_hop.octets());
    }
    // RFC 2545 §3: the link-local address beside the global one, on a shared link.
    if let Some(link_local) = route.link_local() {
        value.extend(link_local.octets());
    }
    value[at] = (value.len() - at - 1) as u8;
    value.push(0);
    value.extend_from_slice(nlri);
    value
}

fn communities(route: &Route) -> Vec<u8> {
    let shutdown = route.graceful_shutdown().then_some(GRACEFUL_SHUTDOWN);
    let own = route.communities().iter().copied().filter(|community| Some(*community) != shutdown);
    let mut all: Vec<u32> = own.chain(shutdown).collect();
    all.sort_unstable();
    all.into_iter().flat_map(u32::to_be_bytes).collect()
}

/// The values of AS_PATH and, where one is needed, of AS4_PATH.
fn as_path(context: UpdateContext, route: &Route) -> (Vec<u8>, Option<Vec<u8>>) {
    if context.ibgp {
        return (Vec::new(), None);
    }
    // One AS_SEQUENCE; prepend is bounded far below 255.
    let count = 1 + route.prepend();
    let segment = |asn: &[u8]| {
        let mut value = vec![2, count];
        (0..count).for_each(|_| value.extend_from_slice(asn));
        value
    };
    match (context.four_octet_as, u16::try_from(context.local_asn)) {
        (true, _) => (segment(&context.local_asn.to_be_bytes()), None),
        (false, Ok(short)) => (segment(&short.to_be_bytes()), None),
        // RFC 6793 §4.2.2: a 2-octet peer gets AS_TRANS, and the real path in AS4_PATH.
        (false, Err(_)) => {
            (segment(&AS_TRANS.to_be_bytes()), Some(segment(&context.local_asn.to_be_bytes())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EBGP: UpdateContext = UpdateContext {
        local_asn: 65001,
        ibgp: false,
        four_octet_as: true,
        extended_message: false,
        extended_next_hop: false,
        only_to_customer: false,
    };

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().expect("prefix")).collect()
    }

    fn with_header(body: &[u8]) -> Vec<u8> {
        let mut message = vec![0xff; 16];
        message.extend(((19 + body.len()) as u16).to_be_bytes());
        message.push(2);
        message.extend(body);
        message
    }

    #[test]
    fn an_ipv4_announcement_has_these_bytes() {
        let route = Route::new("10.0.1.2".parse().unwrap())
            .with_med(Some(7))
            .with_communities(vec![0xfde8_0064])
            .unwrap();
        let message = encode_announce(EBGP, &route, &nets(&["192.0.2.1/32", "192.0.2.2/32"])).unwrap();
        let mut golden = vec![0, 0, /* attributes */ 0, 35];
        golden.extend([0x40, 1, 1, 0]);
        golden.extend([0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9]);
        golden.extend([0x40, 3, 4, 10, 0, 1, 2]);
        golden.extend([0x80, 4, 4, 0, 0, 0, 7]);
        golden.extend([0xd0, 8, 0, 4, 0xfd, 0xe8, 0, 100]);
        golden.extend([32, 192, 0, 2, 1, 32, 192, 0, 2, 2]);
        assert_eq!(message, with_header(&golden));
    }

    #[test]
    fn an_ipv6_announcement_has_these_bytes() {
        let route = Route::new("2001:db8:1::2".parse().unwrap()).with_prepend(1).unwrap();
        let message = encode_announce(EBGP, &route, &nets(&["2001:db8::1/128"])).unwrap();
        let mut golden = vec![0, 0, 0, 59];
        golden.extend([0x90, 14, 0, 38, 0, 2, 1, 16]);
        golden.extend("2001:db8:1::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        golden.extend([0, 128]);
        golden.extend("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        golden.extend([0x40, 1, 1, 0]);
        golden.extend([0x40, 2, 10, 2, 2, 0, 0, 0xfd, 0xe9, 0, 0, 0xfd, 0xe9]);
        assert_eq!(message, with_header(&golden));
    }

    #[test]
    fn an_ipv4_prefix_behind_an_ipv6_next_hop_has_these_bytes() {
        let route = Route::new("fd00::2".parse().unwrap()).with_link_local(Some("fe80::2".parse().unwrap()));
        let nets = nets(&["192.0.2.1/32"]);
        let context = UpdateContext { extended_next_hop: true, ..EBGP };
        let message = encode_announce(context, &route, &nets).unwrap();
        let mut golden = vec![0, 0, 0, 59];
        golden.extend([0x90, 14, 0, 42, 0, 1, 1, 32]);
        golden.extend("fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        golden.extend("fe80::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        golden.extend([0, 32, 192, 0, 2, 1]);
        golden.extend([0x40, 1, 1, 0]);
        golden.extend([0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9]);
        assert_eq!(message, with_header(&golden));
        assert!(matches!(encode_announce(EBGP, &route, &nets), Err(EncodeError::NextHop(_))), "not agreed");
    }

    #[test]
    fn large_communities_graceful_shutdown_and_otc_have_these_bytes() {
        let route = Route::new("10.0.1.2".parse().unwrap())
            .with_communities(vec![0xffff_ff01, 0x0001_0001])
            .unwrap()
            .with_large_communities(vec![(65000, 1, 2)])
            .unwrap()
            .with_graceful_shutdown(true);
        let context = UpdateContext { only_to_customer: true, ..EBGP };
        let message = encode_announce(context, &route, &nets(&["192.0.2.1/32"])).unwrap();
        let mut golden = vec![0, 0, 0, 59];
        golden.extend([0x40, 1, 1, 0]);
        golden.extend([0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9]);
        golden.extend([0x40, 3, 4, 10, 0, 1, 2]);
        golden.extend([0xd0, 8, 0, 12, 0, 1, 0, 1, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 1]);
        golden.extend([0xd0, 32, 0, 12, 0, 0, 0xfd, 0xe8, 0, 0, 0, 1, 0, 0, 0, 2]);
        golden.extend([0xc0, 35, 4, 0, 0, 0xfd, 0xe9]);
        golden.extend([32, 192, 0, 2, 1]);
        assert_eq!(message, with_header(&golden));
    }

    #[test]
    fn an_internal_peer_gets_local_pref_and_an_empty_path() {
        let context = UpdateContext { ibgp: true, ..EBGP };
        let route = Route::new("10.0.1.2".parse().unwrap()).with_local_pref(200).with_prepend(3).unwrap();
        for (route, local_pref) in [(route.clone(), 200), (route.with_graceful_shutdown(true), 0)] {
            let message = encode_announce(context, &route, &nets(&["192.0.2.1/32"])).unwrap();
            let body = &message[HEADER_LEN + 4..];
            let mut golden = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 10, 0, 1, 2];
            golden.extend([0x40, 5, 4, 0, 0, 0, local_pref]);
            assert!(body.starts_with(&golden), "{body:?}");
        }
    }

    #[test]
    fn a_two_octet_peer_gets_as_trans_and_as4_path() {
        let context = UpdateContext { local_asn: 4_200_000_001, four_octet_as: false, ..EBGP };
        let route = Route::new("10.0.1.2".parse().unwrap());
        let message = encode_announce(context, &route, &nets(&["192.0.2.1/32"])).unwrap();
        let mut golden = vec![0, 0, 0, 27, 0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 0x5b, 0xa0];
        golden.extend([0x40, 3, 4, 10, 0, 1, 2, 0xc0, 17, 6, 2, 1, 0xfa, 0x56, 0xea, 0x01, 32, 192, 0, 2, 1]);
        assert_eq!(message, with_header(&golden));
    }

    #[test]
    fn withdrawals_and_end_of_rib_have_these_bytes() {
        let v4 = encode_withdraw(EBGP, Family::Ipv4, &nets(&["192.0.2.1/32"])).unwrap();
        assert_eq!(v4, with_header(&[0, 5, 32, 192, 0, 2, 1, 0, 0]));
        let v6 = encode_withdraw(EBGP, Family::Ipv6, &nets(&["2001:db8::/32"])).unwrap();
        assert_eq!(v6, with_header(&[0, 0, 0, 12, 0x90, 15, 0, 8, 0, 2, 1, 32, 0x20, 0x01, 0x0d, 0xb8]));
        let context = UpdateContext { extended_next_hop: true, ..EBGP };
        let v4 = encode_withdraw(context, Family::Ipv4, &nets(&["192.0.2.1/32"])).unwrap();
        assert_eq!(v4, with_header(&[0, 0, 0, 12, 0x90, 15, 0, 8, 0, 1, 1, 32, 192, 0, 2, 1]));
        assert_eq!(encode_end_of_rib(Family::Ipv4), with_header(&[0, 0, 0, 0]));
        assert_eq!(encode_end_of_rib(Family::Ipv6), with_header(&[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]));
    }

    #[test]
    fn a_message_longer_than_agreed_is_refused() {
        let route = Route::new("10.0.1.2".parse().unwrap());
        let many: Vec<IpNet> =
            (0..1000u32).map(|n| IpNet::from(IpAddr::V4((0x0a00_0000 + n).into()))).collect();
        assert!(matches!(encode_announce(EBGP, &route, &many), Err(EncodeError::TooLong { max: 4096, .. })));
        let long = UpdateContext { extended_message: true, ..EBGP };
        assert_eq!(encode_announce(long, &route, &many).unwrap().len(), 19 + 4 + 20 + 5000);
    }
}
