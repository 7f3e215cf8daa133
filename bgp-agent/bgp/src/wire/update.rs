//! UPDATE: our routes to bytes, and a judgement on the peer's. RFC 4271 §4.3, RFC 4760, RFC 6793, RFC 7606.
//!
//! IPv4 travels in the classic fields, IPv6 in MP_REACH_NLRI and MP_UNREACH_NLRI. One message carries one family
//! and one set of attributes. Choosing *what* to send is the RIB-out.

use super::{AS_TRANS, Family, HEADER_LEN, MESSAGE_MAX, MessageType, Notification, frame};
use crate::rib_out::Route;
use bgpkit_parser::models::Asn;
use bgpkit_parser::models::{
    Afi, AsPath, AsnLength, AttrFlags, AttrType, Attribute, AttributeValue, Attributes, BgpUpdateMessage,
    Community, NetworkPrefix, NextHopAddress, Nlri, Origin, Safi,
};
use bgpkit_parser::parser::bgp::messages::parse_bgp_update_message;
use bytes::Bytes;
use ipnet::IpNet;
use std::net::IpAddr;

/// What prefixes may take of an announcement: the message less header, two length fields, and attributes of a bounded
/// route: ORIGIN 4 + AS_PATH and AS4_PATH 2 × (4 + 2 + 4 × 17) + NEXT_HOP 7 + MED 7 + LOCAL_PREF 7 + COMMUNITIES 4 + 4 × 64
/// + MP_REACH_NLRI 4 + 3 + 1 + 16 + 1 = 458, rounded up.
pub(crate) const ATTRIBUTES_ROOM: usize = MESSAGE_MAX - HEADER_LEN - 4 - 512;

/// What the session decided and every UPDATE depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateContext {
    /// Our AS.
    pub local_asn: u32,
    /// The peer is in our AS: empty AS_PATH, LOCAL_PREF sent.
    pub ibgp: bool,
    /// Both sides have 4-octet AS numbers.
    pub four_octet_as: bool,
}

impl UpdateContext {
    fn asn_len(self) -> AsnLength {
        if self.four_octet_as { AsnLength::Bits32 } else { AsnLength::Bits16 }
    }
}

/// A route that cannot be written. Routes made by [`Route::new`] can.
#[derive(Debug, thiserror::Error)]
#[error("encode update: {0}")]
pub struct EncodeError(String);

/// How many bytes a prefix takes in an NLRI field.
pub(crate) fn prefix_len_bytes(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len()).div_ceil(8)
}

/// One UPDATE announcing `prefixes`, all of the family of the route's next hop.
pub fn encode_announce(
    context: UpdateContext,
    route: &Route,
    prefixes: &[IpNet],
) -> Result<Bytes, EncodeError> {
    let nlri: Vec<NetworkPrefix> = prefixes.iter().map(|prefix| NetworkPrefix::new(*prefix, None)).collect();
    let mut attributes: Vec<Attribute> = Vec::with_capacity(8);
    let mut announced_prefixes = Vec::new();
    // RFC 7606 §5.1: "The MP_REACH_NLRI or MP_UNREACH_NLRI attribute (if present) SHALL be encoded as the very first
    // path attribute in an UPDATE message."
    match route.next_hop() {
        IpAddr::V4(_) => announced_prefixes = nlri,
        IpAddr::V6(next_hop) => attributes.push(extended(AttributeValue::MpReachNlri(unicast(
            Afi::Ipv6,
            Some(NextHopAddress::Ipv6(next_hop)),
            nlri,
        )))),
    }
    attributes.push(AttributeValue::Origin(Origin::IGP).into());
    as_path(context, route, &mut attributes);
    if let next_hop @ IpAddr::V4(_) = route.next_hop() {
        attributes.push(AttributeValue::NextHop(next_hop).into());
    }
    if let Some(med) = route.med() {
        attributes.push(AttributeValue::MultiExitDiscriminator(med).into());
    }
    // RFC 4271 §5.1.5: "LOCAL_PREF … SHALL be included in all UPDATE messages that a given BGP speaker sends to other
    // internal peers" and "MUST NOT include this attribute in UPDATE messages it sends to external peers".
    if context.ibgp {
        attributes.push(AttributeValue::LocalPreference(route.local_pref()).into());
    }
    if !route.communities().is_empty() {
        let communities = route.communities().iter().map(|community| {
            Community::Custom(Asn::new_16bit((community >> 16) as u16), (community & 0xffff) as u16)
        });
        attributes.push(extended(AttributeValue::Communities(communities.collect())));
    }
    let message = BgpUpdateMessage {
        withdrawn_prefixes: Vec::new(),
        attributes: Attributes::from(attributes),
        announced_prefixes,
    };
    finish(&message, context.asn_len())
}

/// One UPDATE withdrawing `prefixes`, all of `family`.
pub fn encode_withdraw(family: Family, prefixes: &[IpNet]) -> Result<Bytes, EncodeError> {
    let nlri: Vec<NetworkPrefix> = prefixes.iter().map(|prefix| NetworkPrefix::new(*prefix, None)).collect();
    let mut message = BgpUpdateMessage::default();
    match family {
        Family::Ipv4 => message.withdrawn_prefixes = nlri,
        Family::Ipv6 => {
            message.attributes = Attributes::from(vec![extended(AttributeValue::MpUnreachNlri(unicast(
                Afi::Ipv6,
                None,
                nlri,
            )))]);
        }
    }
    // No AS number in it, so either width.
    finish(&message, AsnLength::Bits32)
}

/// The End-of-RIB marker of a family. RFC 4724 §2.
pub fn encode_end_of_rib(family: Family) -> Bytes {
    match family {
        Family::Ipv4 => frame(MessageType::Update, &[0, 0, 0, 0]),
        // Withdrawn 0, attributes 6: MP_UNREACH_NLRI, optional, 3 octets: AFI 2, SAFI 1.
        Family::Ipv6 => frame(MessageType::Update, &[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]),
    }
}

fn finish(message: &BgpUpdateMessage, asn_len: AsnLength) -> Result<Bytes, EncodeError> {
    let body = message.encode(asn_len).map_err(|error| EncodeError(error.to_string()))?;
    if HEADER_LEN + body.len() > MESSAGE_MAX {
        return Err(EncodeError(format!(
            "message of {} bytes is longer than {MESSAGE_MAX}",
            HEADER_LEN + body.len()
        )));
    }
    Ok(frame(MessageType::Update, &body))
}

fn extended(value: AttributeValue) -> Attribute {
    let mut attribute = Attribute::from(value);
    attribute.flag |= AttrFlags::EXTENDED;
    attribute
}

fn unicast(afi: Afi, next_hop: Option<NextHopAddress>, prefixes: Vec<NetworkPrefix>) -> Nlri {
    Nlri {
        afi,
        safi: Safi::Unicast,
        next_hop,
        prefixes,
        labeled_prefixes: None,
        link_state_nlris: None,
        flowspec_nlris: None,
    }
}

fn as_path(context: UpdateContext, route: &Route, attributes: &mut Vec<Attribute>) {
    if context.ibgp {
        attributes.push(AttributeValue::AsPath(AsPath::new()).into());
        return;
    }
    let path = vec![context.local_asn; 1 + usize::from(route.prepend())];
    let short = context.local_asn <= u32::from(u16::MAX);
    if context.four_octet_as || short {
        attributes.push(AttributeValue::AsPath(AsPath::from_sequence(path)).into());
    } else {
        // RFC 6793 §4.2.2: a 2-octet peer gets AS_TRANS, and the real path in AS4_PATH.
        let mapped = vec![u32::from(AS_TRANS); path.len()];
        attributes.push(AttributeValue::AsPath(AsPath::from_sequence(mapped)).into());
        attributes.push(AttributeValue::As4Path(AsPath::from_sequence(path)).into());
    }
}

/// What an UPDATE of the peer held. Nothing of it is kept; it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpdateReport {
    /// Prefixes announced, IPv4 and IPv6.
    pub announced: usize,
    /// Prefixes withdrawn, and prefixes announced in a message that RFC 7606 treats as a withdrawal.
    pub withdrawn: usize,
    /// The message carries an error that RFC 7606 answers with treat-as-withdraw or attribute discard.
    pub malformed: bool,
    /// An End-of-RIB marker.
    pub end_of_rib: bool,
}

/// Judge the body of an UPDATE.
///
/// The only error that resets is the one RFC 7606 §3 (b) leaves: lengths that do not add up. Everything else is at most
/// `malformed`: nothing is imported, so treat-as-withdraw has nothing more to do.
pub fn decode_update(body: &Bytes, four_octet_as: bool) -> Result<UpdateReport, Notification> {
    check_lengths(body).ok_or_else(Notification::malformed_attribute_list)?;
    let asn_len = if four_octet_as { AsnLength::Bits32 } else { AsnLength::Bits16 };
    let Ok(message) = parse_bgp_update_message(body.clone(), false, &asn_len) else {
        return Ok(UpdateReport { malformed: true, ..UpdateReport::default() });
    };
    let malformed = message.attributes.has_validation_warnings();
    let mut announced = message.announced_prefixes.len();
    let mut withdrawn = message.withdrawn_prefixes.len();
    for value in message.attributes.iter() {
        match value {
            AttributeValue::MpReachNlri(nlri) => announced += nlri.prefixes.len(),
            AttributeValue::MpUnreachNlri(nlri) => withdrawn += nlri.prefixes.len(),
            _ => {}
        }
    }
    let end_of_rib = !malformed
        && announced + withdrawn == 0
        && (body.len() == 4 || message.attributes.has_attr(AttrType::MP_UNREACHABLE_NLRI));
    if malformed {
        withdrawn += std::mem::take(&mut announced);
    }
    Ok(UpdateReport { announced, withdrawn, malformed, end_of_rib })
}

/// Whether the two length fields add up.
fn check_lengths(body: &[u8]) -> Option<()> {
    // RFC 4271 §6.3: "If the Withdrawn Routes Length or Total Attribute Length is too large (i.e., if Withdrawn Routes
    // Length + Total Attribute Length + 23 exceeds the message Length), then the Error Subcode MUST be set to Malformed
    // Attribute List."
    let (withdrawn_len, rest) = body.split_first_chunk::<2>()?;
    let rest = rest.get(usize::from(u16::from_be_bytes(*withdrawn_len))..)?;
    let (attributes_len, rest) = rest.split_first_chunk::<2>()?;
    (usize::from(u16::from_be_bytes(*attributes_len)) <= rest.len()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EBGP: UpdateContext = UpdateContext { local_asn: 65001, ibgp: false, four_octet_as: true };

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
    fn an_internal_peer_gets_local_pref_and_an_empty_path() {
        let context = UpdateContext { ibgp: true, ..EBGP };
        let route = Route::new("10.0.1.2".parse().unwrap()).with_local_pref(200).with_prepend(3).unwrap();
        let message = encode_announce(context, &route, &nets(&["192.0.2.1/32"])).unwrap();
        let mut golden = vec![0, 0, 0, 21, 0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 10, 0, 1, 2];
        golden.extend([0x40, 5, 4, 0, 0, 0, 200, 32, 192, 0, 2, 1]);
        assert_eq!(message, with_header(&golden));
    }

    #[test]
    fn a_two_octet_peer_gets_as_trans_and_as4_path() {
        let context = UpdateContext { local_asn: 4_200_000_001, ibgp: false, four_octet_as: false };
        let route = Route::new("10.0.1.2".parse().unwrap());
        let message = encode_announce(context, &route, &nets(&["192.0.2.1/32"])).unwrap();
        let mut golden = vec![0, 0, 0, 27, 0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 0x5b, 0xa0];
        golden.extend([0xc0, 17, 6, 2, 1, 0xfa, 0x56, 0xea, 0x01, 0x40, 3, 4, 10, 0, 1, 2, 32, 192, 0, 2, 1]);
        assert_eq!(message, with_header(&golden));
    }

    #[test]
    fn withdrawals_and_end_of_rib_have_these_bytes() {
        let v4 = encode_withdraw(Family::Ipv4, &nets(&["192.0.2.1/32"])).unwrap();
        assert_eq!(v4, with_header(&[0, 5, 32, 192, 0, 2, 1, 0, 0]));
        let v6 = encode_withdraw(Family::Ipv6, &nets(&["2001:db8::/32"])).unwrap();
        assert_eq!(v6, with_header(&[0, 0, 0, 12, 0x90, 15, 0, 8, 0, 2, 1, 32, 0x20, 0x01, 0x0d, 0xb8]));
        assert_eq!(encode_end_of_rib(Family::Ipv4), with_header(&[0, 0, 0, 0]));
        assert_eq!(encode_end_of_rib(Family::Ipv6), with_header(&[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]));
    }

    #[test]
    fn what_the_peer_sends_is_counted() {
        let report = |message: Bytes| decode_update(&message.slice(HEADER_LEN..), true).unwrap();
        let route4 = Route::new("10.0.1.2".parse().unwrap());
        let route6 = Route::new("2001:db8:1::2".parse().unwrap());
        let announce = encode_announce(EBGP, &route4, &nets(&["192.0.2.1/32", "192.0.2.2/32"])).unwrap();
        assert_eq!(report(announce), UpdateReport { announced: 2, ..UpdateReport::default() });
        let announce = encode_announce(EBGP, &route6, &nets(&["2001:db8::1/128"])).unwrap();
        assert_eq!(report(announce), UpdateReport { announced: 1, ..UpdateReport::default() });
        let withdraw = encode_withdraw(Family::Ipv6, &nets(&["2001:db8::1/128"])).unwrap();
        assert_eq!(report(withdraw), UpdateReport { withdrawn: 1, ..UpdateReport::default() });
        for family in Family::ALL {
            assert!(report(encode_end_of_rib(family)).end_of_rib);
        }
    }

    #[test]
    fn a_bad_attribute_is_a_withdrawal_and_not_a_reset() {
        let table: &[(&str, &[u8])] = &[
            ("origin 9", &[0x40, 1, 1, 9, 0x40, 2, 0, 0x40, 3, 4, 10, 0, 1, 2]),
            ("origin of two octets", &[0x40, 1, 2, 0, 0, 0x40, 2, 0, 0x40, 3, 4, 10, 0, 1, 2]),
            ("no next hop", &[0x40, 1, 1, 0, 0x40, 2, 0]),
            ("no attributes", &[]),
            ("path overrun", &[0x40, 1, 1, 0, 0x40, 2, 6, 2, 9, 0, 0, 0, 1, 0x40, 3, 4, 10, 0, 1, 2]),
        ];
        for (name, attributes) in table {
            let mut body = vec![0, 0, 0, attributes.len() as u8];
            body.extend(*attributes);
            body.extend([32, 192, 0, 2, 1]);
            let report = decode_update(&Bytes::from(body), true).unwrap_or_else(|n| panic!("{name}: {n}"));
            assert!(report.malformed, "{name}");
            assert_eq!((report.announced, report.withdrawn), (0, 1), "{name}");
        }
    }

    #[test]
    fn lengths_that_do_not_add_up_are_a_malformed_attribute_list() {
        for body in [&[0u8, 1, 0, 0][..], &[0, 0, 0, 1], &[0, 0, 0xff, 0xff, 1], &[0, 3, 0, 0]] {
            let error = decode_update(&Bytes::copy_from_slice(body), true).unwrap_err();
            assert_eq!((error.code, error.subcode), (3, 1));
        }
    }
}
