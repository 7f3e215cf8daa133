//! A row per error of RFC 7606 and what becomes of it, bodies damaged by section, and a second codec.

use super::*;
use crate::rib_out::Route;
use crate::wire::{HEADER_LEN, UpdateContext, encode_announce, encode_end_of_rib, encode_withdraw};
use Action::{AttributeDiscard, DisableFamily, TreatAsWithdraw};
use bgpkit_parser::models::{AsnLength, AttributeValue};
use bgpkit_parser::parser::bgp::messages::parse_bgp_update_message;
use proptest::prelude::*;

const EBGP: UpdateContext = UpdateContext {
    local_asn: 65001,
    ibgp: false,
    four_octet_as: true,
    extended_message: false,
    extended_next_hop: false,
    only_to_customer: false,
};

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe8];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 10, 0, 0, 1];
const PREFIX: &[u8] = &[32, 192, 0, 2, 1];

fn body(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Bytes {
    let attributes = attributes.concat();
    let mut body = (withdrawn.len() as u16).to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    body.into()
}

fn judge(body: &Bytes, context: ReceiveContext) -> Result<UpdateReport, (u8, u8)> {
    decode_update(body, context, |_, _| ()).map_err(|n| (n.code, n.subcode))
}

/// A good announcement with one attribute more.
fn with(attribute: &[u8], context: ReceiveContext) -> Result<UpdateReport, (u8, u8)> {
    judge(&body(&[], &[ORIGIN, AS_PATH, NEXT_HOP, attribute], PREFIX), context)
}

fn what_is_done(report: Result<UpdateReport, (u8, u8)>) -> Result<Option<Action>, (u8, u8)> {
    report.map(|report| report.finding.map(|finding| finding.action))
}

#[test]
fn each_row_of_the_table_does_what_its_rfc_says() {
    let ebgp = ReceiveContext::default();
    let ibgp = ReceiveContext { ibgp: true, ..ebgp };
    let short = ReceiveContext { four_octet_as: false, ibgp: true, ..ebgp };
    // context, attribute with a good value, attribute with a bad value, what is done about the bad one
    type Row<'a> = (&'a str, ReceiveContext, &'a [u8], &'a [u8], Action);
    let table: &[Row<'_>] = &[
        ("MULTI_EXIT_DISC of 3", ebgp, &[0x80, 4, 4, 0, 0, 0, 1], &[0x80, 4, 3, 0, 0, 0], TreatAsWithdraw),
        (
            "MULTI_EXIT_DISC flags",
            ebgp,
            &[0x80, 4, 4, 0, 0, 0, 1],
            &[0xc0, 4, 4, 0, 0, 0, 1],
            TreatAsWithdraw,
        ),
        ("LOCAL_PREF of 3", ibgp, &[0x40, 5, 4, 0, 0, 0, 1], &[0x40, 5, 3, 0, 0, 0], TreatAsWithdraw),
        ("ATOMIC_AGGREGATE of 1", ebgp, &[0x40, 6, 0], &[0x40, 6, 1, 0], AttributeDiscard),
        ("ATOMIC_AGGREGATE flags", ebgp, &[0x40, 6, 0], &[0xc0, 6, 0], AttributeDiscard),
        (
            "AGGREGATOR of 6 with long numbers",
            ebgp,
            &[0xc0, 7, 8, 0, 0, 0, 1, 10, 0, 0, 1],
            &[0xc0, 7, 6, 0, 1, 10, 0, 0, 1],
            AttributeDiscard,
        ),
        (
            "AGGREGATOR of 8 with short numbers",
            short,
            &[0x40, 5, 4, 0, 0, 0, 1],
            &[0xc0, 7, 8, 0, 0, 0, 1, 10, 0, 0, 1],
            AttributeDiscard,
        ),
        ("COMMUNITIES of 5", ebgp, &[0xc0, 8, 4, 0, 0, 0, 1], &[0xc0, 8, 5, 0, 0, 0, 1, 0], TreatAsWithdraw),
        ("COMMUNITIES of 0", ebgp, &[0xc0, 8, 4, 0, 0, 0, 1], &[0xc0, 8, 0], TreatAsWithdraw),
        (
            "ORIGINATOR_ID of 5",
            ibgp,
            &[0x80, 9, 4, 1, 1, 1, 1],
            &[0x80, 9, 5, 1, 1, 1, 1, 1],
            TreatAsWithdraw,
        ),
        ("CLUSTER_LIST of 0", ibgp, &[0x80, 10, 4, 1, 1, 1, 1], &[0x80, 10, 0], TreatAsWithdraw),
        ("CLUSTER_LIST of 3", ibgp, &[0x80, 10, 4, 1, 1, 1, 1], &[0x80, 10, 3, 1, 1, 1], TreatAsWithdraw),
        (
            "EXTENDED COMMUNITIES of 7",
            ebgp,
            &[0xc0, 16, 8, 0, 2, 0, 0, 0, 0, 0, 1],
            &[0xc0, 16, 7, 0, 2, 0, 0, 0, 0, 0],
            TreatAsWithdraw,
        ),
        (
            "AS4_PATH with an empty segment",
            ebgp,
            &[0xc0, 17, 6, 2, 1, 0, 0, 0, 1],
            &[0xc0, 17, 2, 2, 0],
            AttributeDiscard,
        ),
        (
            "AS4_AGGREGATOR of 6",
            ebgp,
            &[0xc0, 18, 8, 0, 0, 0, 1, 10, 0, 0, 1],
            &[0xc0, 18, 6, 0, 1, 10, 0, 0, 1],
            AttributeDiscard,
        ),
        (
            "IPv6 EXTENDED COMMUNITIES of 4",
            ebgp,
            &[0xc0, 25, 20, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0xc0, 25, 4, 0, 0, 0, 0],
            TreatAsWithdraw,
        ),
        (
            "AIGP of 10",
            ebgp,
            &[0x80, 26, 11, 1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0x80, 26, 10, 1, 0, 10, 0, 0, 0, 0, 0, 0, 0],
            AttributeDiscard,
        ),
        (
            "LARGE_COMMUNITY of 11",
            ebgp,
            &[0xc0, 32, 12, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1],
            &[0xc0, 32, 11, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
            TreatAsWithdraw,
        ),
        ("LARGE_COMMUNITY of 0", ebgp, &[0xc0, 8, 4, 0, 0, 0, 1], &[0xc0, 32, 0], TreatAsWithdraw),
        ("OTC of 3", ebgp, &[0xc0, 35, 4, 0, 0, 0, 1], &[0xc0, 35, 3, 0, 0, 0], TreatAsWithdraw),
        ("OTC flags", ebgp, &[0xc0, 35, 4, 0, 0, 0, 1], &[0x80, 35, 4, 0, 0, 0, 1], TreatAsWithdraw),
        (
            "twice the same",
            ebgp,
            &[0xe0, 99, 0],
            &[0xc0, 8, 4, 0, 0, 0, 1, 0xc0, 8, 4, 0, 0, 0, 2],
            AttributeDiscard,
        ),
        ("a length beyond the attributes", ebgp, &[0xe0, 99, 1, 7], &[0xc0, 8, 9, 0], TreatAsWithdraw),
        ("half a header", ebgp, &[0xe0, 99, 1, 7], &[0xc0, 8], TreatAsWithdraw),
        ("half an extended length", ebgp, &[0xf0, 99, 0, 1, 7], &[0xd0, 8, 0], TreatAsWithdraw),
    ];
    for (name, context, good, bad, action) in table {
        let path2: &[u8] = &[0x40, 2, 4, 2, 1, 0xfd, 0xe8];
        let path = if context.four_octet_as { AS_PATH } else { path2 };
        let report =
            |attribute: &[u8]| judge(&body(&[], &[ORIGIN, path, NEXT_HOP, attribute], PREFIX), *context);
        assert_eq!(what_is_done(report(good)), Ok(None), "{name}: a good one");
        let report = report(bad);
        assert_eq!(what_is_done(report), Ok(Some(*action)), "{name}");
        let counted = report.map(|report| (report.announced, report.withdrawn));
        let expected = if *action == TreatAsWithdraw { (0, 1) } else { (1, 0) };
        assert_eq!(counted, Ok(expected), "{name}");
        assert!(!report.unwrap().finding.unwrap().to_string().is_empty());
    }
    let named: Vec<u8> = attribute::TABLE.iter().map(|row| row.code).collect();
    assert_eq!(named, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 25, 26, 32, 35], "each has a test");
}

#[test]
fn an_external_peers_internal_attributes_are_discarded_whatever_they_hold() {
    for attribute in
        [&[0x40u8, 5, 3, 0, 0, 0][..], &[0x80, 9, 0], &[0xc0, 10, 1, 0], &[0x40, 5, 4, 0, 0, 0, 1]]
    {
        let report = with(attribute, ReceiveContext::default());
        assert_eq!(what_is_done(report), Ok(Some(AttributeDiscard)), "{attribute:?}");
        assert_eq!(report.unwrap().announced, 1);
    }
}

#[test]
fn a_bad_attribute_is_a_withdrawal_and_not_a_reset() {
    // RFC 7606 §7.1 to §7.3 and §3 (d), (c), each with what else a good message has.
    let table: &[(&str, &[&[u8]])] = &[
        ("ORIGIN 3", &[&[0x40, 1, 1, 3], AS_PATH, NEXT_HOP]),
        ("ORIGIN of two octets", &[&[0x40, 1, 2, 0, 0], AS_PATH, NEXT_HOP]),
        ("ORIGIN of none", &[&[0x40, 1, 0], AS_PATH, NEXT_HOP]),
        ("ORIGIN flags", &[&[0xc0, 1, 1, 0], AS_PATH, NEXT_HOP]),
        ("path of segment type 0", &[ORIGIN, &[0x40, 2, 6, 0, 1, 0, 0, 0, 1], NEXT_HOP]),
        ("path of segment type 5", &[ORIGIN, &[0x40, 2, 6, 5, 1, 0, 0, 0, 1], NEXT_HOP]),
        ("path overrun", &[ORIGIN, &[0x40, 2, 6, 2, 9, 0, 0, 0, 1], NEXT_HOP]),
        ("path underrun", &[ORIGIN, &[0x40, 2, 7, 2, 1, 0, 0, 0, 1, 2], NEXT_HOP]),
        ("path with an empty segment", &[ORIGIN, &[0x40, 2, 2, 2, 0], NEXT_HOP]),
        ("path in short numbers", &[ORIGIN, &[0x40, 2, 4, 2, 1, 0xfd, 0xe8], NEXT_HOP]),
        ("NEXT_HOP of 5", &[ORIGIN, AS_PATH, &[0x40, 3, 5, 10, 0, 0, 1, 1]]),
        ("NEXT_HOP flags", &[ORIGIN, AS_PATH, &[0x80, 3, 4, 10, 0, 0, 1]]),
        ("no ORIGIN", &[AS_PATH, NEXT_HOP]),
        ("no AS_PATH", &[ORIGIN, NEXT_HOP]),
        ("no NEXT_HOP", &[ORIGIN, AS_PATH]),
        ("no attributes", &[]),
        ("an attribute with a length beyond the rest", &[ORIGIN, AS_PATH, NEXT_HOP, &[0xc0, 99, 200]]),
    ];
    for (name, attributes) in table {
        let mut seen = Vec::new();
        let report =
            decode_update(&body(&[], attributes, PREFIX), ReceiveContext::default(), |prefix, announced| {
                seen.push((prefix.to_string(), announced));
            })
            .unwrap_or_else(|n| panic!("{name}: {n}"));
        assert_eq!(report.finding.map(|finding| finding.action), Some(TreatAsWithdraw), "{name}");
        assert_eq!((report.announced, report.withdrawn), (0, 1), "{name}");
        assert_eq!(seen, [("192.0.2.1/32".to_owned(), false)], "{name}");
    }
}

/// MP_REACH_NLRI for `afi` with a next hop of `len` octets and these prefixes.
fn mp_reach(afi: u8, len: u8, nlri: &[u8]) -> Vec<u8> {
    let mut value = vec![0, afi, 1, len];
    value.extend(vec![0x20; usize::from(len)]);
    value.push(0);
    value.extend(nlri);
    let mut attribute = vec![0x90, 14];
    attribute.extend((value.len() as u16).to_be_bytes());
    attribute.extend(value);
    attribute
}

#[test]
fn a_family_that_cannot_be_read_is_disabled_and_the_other_goes_on() {
    let context = ReceiveContext::default();
    let v6 = [128, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let table: Vec<(&str, Vec<u8>, Option<Family>)> = vec![
        ("good IPv6", mp_reach(2, 16, &v6), None),
        ("good IPv6 with two next hops", mp_reach(2, 32, &v6), None),
        ("good IPv4 behind IPv6", mp_reach(1, 16, PREFIX), None),
        ("IPv6 next hop of 4", mp_reach(2, 4, &v6), Some(Family::Ipv6)),
        ("IPv6 next hop of 0", mp_reach(2, 0, &v6), Some(Family::Ipv6)),
        ("IPv4 next hop of 5", mp_reach(1, 5, PREFIX), Some(Family::Ipv4)),
        ("next hop beyond the attribute", vec![0x80, 14, 5, 0, 2, 1, 16, 0], Some(Family::Ipv6)),
        ("no next hop length", vec![0x80, 14, 3, 0, 2, 1], Some(Family::Ipv6)),
        ("prefix of 129 bits", mp_reach(2, 16, &[129, 0x20]), Some(Family::Ipv6)),
        ("prefix cut off", mp_reach(2, 16, &v6[..9]), Some(Family::Ipv6)),
        ("withdrawn prefix of 33 bits", vec![0x80, 15, 5, 0, 1, 1, 33, 1], Some(Family::Ipv4)),
        ("withdrawn prefix cut off", vec![0x80, 15, 5, 0, 2, 1, 128, 1], Some(Family::Ipv6)),
        ("a family that was not agreed", vec![0x80, 14, 4, 0, 25, 70, 200], None),
    ];
    for (name, attribute, disabled) in table {
        let report = judge(&body(PREFIX, &[&attribute, ORIGIN, AS_PATH], &[]), context)
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(report.disable, disabled, "{name}");
        let action = report.finding.map(|finding| finding.action);
        assert_eq!(action, disabled.map(|_| DisableFamily), "{name}");
        let own = usize::from(disabled != Some(Family::Ipv4));
        assert_eq!(report.withdrawn, own, "{name}: the classic field is IPv4");
    }
    let only_v4 = ReceiveContext { families: Families::IPV4, ..context };
    let report = judge(&body(&[], &[&mp_reach(2, 4, &v6), ORIGIN, AS_PATH], &[]), only_v4).unwrap();
    assert_eq!((report.disable, report.announced), (None, 0), "not agreed, not looked at");
    let strict = ReceiveContext { extended_next_hop: false, ..context };
    let report = judge(&body(&[], &[&mp_reach(1, 16, PREFIX), ORIGIN, AS_PATH], &[]), strict).unwrap();
    assert_eq!(report.disable, Some(Family::Ipv4), "RFC 8950 was not agreed");
}

#[test]
fn what_rfc_7606_leaves_of_session_resets() {
    let v6 = mp_reach(2, 16, &[]);
    let table: Vec<(&str, Bytes, (u8, u8))> = vec![
        ("§3 (b): withdrawn length", Bytes::from_static(&[0, 1, 0, 0]), (3, 1)),
        ("§3 (b): attribute length", Bytes::from_static(&[0, 0, 0, 1]), (3, 1)),
        ("§3 (b): both", Bytes::from_static(&[0, 0, 0xff, 0xff, 1]), (3, 1)),
        ("§3 (b): no room for the second", Bytes::from_static(&[0, 3, 0, 0]), (3, 1)),
        ("§3 (g): MP_REACH_NLRI twice", body(&[], &[&v6, &v6, ORIGIN, AS_PATH], &[]), (3, 1)),
        (
            "§3 (g): MP_UNREACH_NLRI twice",
            body(&[], &[&[0x80, 15, 3, 0, 2, 1], &[0x80, 15, 3, 0, 2, 1]], &[]),
            (3, 1),
        ),
        ("§3 (j): prefix of 33 bits", body(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[33, 1, 2, 3, 4, 5]), (3, 10)),
        ("§3 (j): prefix cut off", body(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[32, 192, 0]), (3, 10)),
        ("§3 (j): withdrawn prefix cut off", body(&[24, 192], &[], &[]), (3, 10)),
        ("§5.3: no family in MP_UNREACH_NLRI", body(&[], &[&[0x80, 15, 2, 0, 2]], &[]), (3, 9)),
        ("RFC 4271 §6.3: unknown and well-known", body(&[], &[&[0x40, 99, 1, 7]], &[]), (3, 2)),
    ];
    for (name, body, error) in table {
        assert_eq!(judge(&body, ReceiveContext::default()), Err(error), "{name}");
    }
    let unknown = body(&[], &[ORIGIN, &[0x40, 99, 1, 7]], &[]);
    let notification = decode_update(&unknown, ReceiveContext::default(), |_, _| ()).unwrap_err();
    assert_eq!(notification.data[..], [0x40, 99, 1, 7], "the data is the attribute");
}

#[test]
fn strange_optional_attributes_are_nobodys_business() {
    for flags in [0x80, 0xc0, 0xe0] {
        let report = with(&[flags, 250, 3, 1, 2, 3], ReceiveContext::default()).unwrap();
        assert_eq!((report.announced, report.finding), (1, None));
    }
}

#[test]
fn end_of_rib_is_told_from_an_empty_message() {
    let report = |body: &Bytes| judge(body, ReceiveContext::default()).unwrap().end_of_rib;
    for family in Family::ALL {
        assert_eq!(report(&encode_end_of_rib(family).slice(HEADER_LEN..)), Some(family));
    }
    assert_eq!(report(&body(&[], &[ORIGIN], &[])), None, "attributes of nothing");
    assert_eq!(report(&body(&[], &[&[0x80, 15, 3, 0, 2, 1], ORIGIN], &[])), None);
    assert_eq!(report(&body(&[], &[&[0x80, 15, 3, 0, 25, 70]], &[])), None, "of a family we do not have");
}

#[test]
fn no_body_whatever_it_is_panics_at_any_cut_or_change() {
    let good = body(
        PREFIX,
        &[
            &mp_reach(2, 16, &[64, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0]),
            ORIGIN,
            AS_PATH,
            NEXT_HOP,
            &[0x80, 4, 4, 0, 0, 0, 1],
        ],
        PREFIX,
    );
    for end in 0..=good.len() {
        let _judged = judge(&good.slice(..end), ReceiveContext::default());
    }
    for at in 0..good.len() {
        for value in 0..=255 {
            let mut changed = good.to_vec();
            changed[at] = value;
            let _judged = judge(&changed.into(), ReceiveContext::default());
        }
    }
}

fn route() -> impl Strategy<Value = Route> {
    let lists = (
        proptest::collection::vec(any::<u32>(), 0..64),
        proptest::collection::vec(any::<(u32, u32, u32)>(), 0..64),
    );
    (any::<bool>(), any::<[u8; 16]>(), any::<Option<u32>>(), any::<u32>(), 0u8..=16, lists, any::<bool>())
        .prop_map(|(v6, hop, med, local_pref, prepend, (communities, large), shutdown)| {
            let [a, b, c, d, ..] = hop;
            let hop = if v6 { IpAddr::from(hop) } else { IpAddr::from([a, b, c, d]) };
            Route::new(hop)
                .with_med(med)
                .with_local_pref(local_pref)
                .with_prepend(prepend)
                .and_then(|route| route.with_communities(communities))
                .and_then(|route| route.with_large_communities(large))
                .unwrap()
                .with_graceful_shutdown(shutdown)
        })
}

proptest! {
    /// Whatever we announce, the other codec reads as what was meant, without a warning, and our own judge agrees.
    #[test]
    fn another_codec_reads_what_we_announce(
        route in route(),
        seeds in proptest::collection::btree_set(any::<[u8; 16]>(), 1..100),
        (local_asn, ibgp, four_octet_as) in (1u32.., any::<bool>(), any::<bool>()),
    ) {
        let context = UpdateContext { local_asn, ibgp, four_octet_as, ..EBGP };
        let prefixes: Vec<IpNet> = seeds.into_iter().map(|seed| {
            let (len, [a, b, c, d, ..]) = (seed[15], seed);
            let address = if route.next_hop().is_ipv6() { IpAddr::from(seed) } else { IpAddr::from([a, b, c, d]) };
            let most = if address.is_ipv6() { 128 } else { 32 };
            // Length 0 the other codec takes for the path identifier of RFC 7911.
            IpNet::new(address, len.clamp(1, most)).unwrap().trunc()
        }).collect();
        let message = encode_announce(context, &route, &prefixes).unwrap();
        let asn_len = if four_octet_as { AsnLength::Bits32 } else { AsnLength::Bits16 };
        let read = parse_bgp_update_message(message.slice(HEADER_LEN..), false, &asn_len).unwrap();
        prop_assert!(!read.attributes.has_validation_warnings(), "{:?}", read.attributes.validation_warnings());
        let mut listed: Vec<IpNet> = read.announced_prefixes.iter().map(|p| p.prefix).collect();
        let mut large = Vec::new();
        let mut communities = 0;
        for value in read.attributes.iter() {
            match value {
                AttributeValue::MpReachNlri(nlri) => {
                    listed.extend(nlri.prefixes.iter().map(|p| p.prefix));
                    prop_assert_eq!(nlri.next_hop.map(|hop| hop.addr()), Some(route.next_hop()));
                }
                AttributeValue::NextHop(hop) => prop_assert_eq!(*hop, route.next_hop()),
                AttributeValue::MultiExitDiscriminator(med) => prop_assert_eq!(Some(*med), route.med()),
                AttributeValue::LargeCommunities(list) => {
                    large = list.iter().map(|l| (l.global_admin, l.local_data[0], l.local_data[1])).collect();
                }
                AttributeValue::Communities(list) => communities = list.len(),
                AttributeValue::AsPath(path) => {
                    let expected = if ibgp { 0 } else { 1 + usize::from(route.prepend()) };
                    prop_assert_eq!(path.route_len(), expected);
                }
                _ => {}
            }
        }
        prop_assert_eq!(&listed, &prefixes);
        prop_assert_eq!(&large[..], route.large_communities());
        let own = route.communities().iter().filter(|c| **c != 0xffff_0000).count();
        let said = route.communities().contains(&0xffff_0000) || route.graceful_shutdown();
        prop_assert_eq!(communities, own + usize::from(said));
        // An internal sender is judged as one.
        let received = ReceiveContext { ibgp, four_octet_as, ..ReceiveContext::default() };
        let mut shown = Vec::new();
        let report = decode_update(&message.slice(HEADER_LEN..), received, |prefix, announced| {
            shown.push((prefix, announced));
        }).unwrap();
        prop_assert_eq!(report.finding, None);
        prop_assert_eq!(shown, prefixes.iter().map(|prefix| (*prefix, true)).collect::<Vec<_>>());
    }

    /// Where the other codec finds prefixes in a damaged message without complaint, ours finds the same.
    #[test]
    fn two_codecs_count_a_damaged_message_alike(
        at in any::<proptest::sample::Index>(), value in any::<u8>(), v6 in any::<bool>()
    ) {
        let (hop, prefix) = if v6 { ("fd00::1", "2001:db8::1/128") } else { ("10.0.0.1", "192.0.2.1/32") };
        let route = Route::new(hop.parse().unwrap()).with_med(Some(1)).with_communities(vec![7]).unwrap();
        let mut bytes = encode_announce(EBGP, &route, &[prefix.parse().unwrap()]).unwrap()[HEADER_LEN..].to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let body = Bytes::from(bytes);
        let ours = judge(&body, ReceiveContext::default());
        let theirs = parse_bgp_update_message(body.clone(), false, &AsnLength::Bits32);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs)
            && ours.finding.is_none() && !theirs.attributes.has_validation_warnings()
        {
            let multiprotocol: usize = theirs.attributes.iter().map(|value| match value {
                AttributeValue::MpReachNlri(nlri) if nlri.safi == bgpkit_parser::models::Safi::Unicast => nlri.prefixes.len(),
                _ => 0,
            }).sum();
            prop_assert_eq!(ours.announced, theirs.announced_prefixes.len() + multiprotocol, "{:?}", body);
        }
    }
}

#[test]
fn what_the_peer_sends_is_counted() {
    let report = |message: Bytes| judge(&message.slice(HEADER_LEN..), ReceiveContext::default()).unwrap();
    let nets = |list: &[&str]| -> Vec<IpNet> { list.iter().map(|net| net.parse().unwrap()).collect() };
    let route4 = Route::new("10.0.1.2".parse().unwrap());
    let route6 = Route::new("2001:db8:1::2".parse().unwrap());
    let announce = encode_announce(EBGP, &route4, &nets(&["192.0.2.1/32", "192.0.2.2/32"])).unwrap();
    assert_eq!(report(announce), UpdateReport { announced: 2, ..UpdateReport::default() });
    let announce = encode_announce(EBGP, &route6, &nets(&["2001:db8::1/128"])).unwrap();
    assert_eq!(report(announce), UpdateReport { announced: 1, ..UpdateReport::default() });
    let withdraw = encode_withdraw(EBGP, Family::Ipv6, &nets(&["2001:db8::1/128"])).unwrap();
    assert_eq!(report(withdraw), UpdateReport { withdrawn: 1, ..UpdateReport::default() });
}
