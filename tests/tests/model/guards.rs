//! How the services of nodes are protected: access lists over both families, entries that have ended among them, and rates so
//! slow that no clock matters while packets are compared.

use weir_abi::{
    guard::{
        ACCESS_ALLOW, ACCESS_BLOCK, AccessRule, GUARDED_ACCESS, GUARDED_RATES, Guard, LIST_FIRST,
        SOURCE_SCOPE_BITS, Source, SourcePrefix,
    },
    service::{SERVICE_ACCESS, SERVICE_SOURCE_LIMIT, SERVICE_SYN_COOKIES, SERVICE_SYN_RATE},
};
use weir_core::image::Image;
use weir_tests::vips::ip;

/// Long before now, and after the entries that have ended.
pub(crate) const BOOT_S: u32 = 2;
const ENDED: u32 = 1;
const NOT_ENDED: u32 = u32::MAX;

/// In the lists of all VIPs, and in those of a VIP: prefix, action, until when.
const OF_ALL: [(&str, u8, u8, u32); 16] = [
    ("0.0.0.0", 2, ACCESS_BLOCK, 0),
    ("16.0.0.0", 4, ACCESS_ALLOW, NOT_ENDED),
    ("24.0.0.0", 5, ACCESS_BLOCK, NOT_ENDED),
    // Behind so many that have ended, what holds is found; behind one more, not.
    ("32.0.0.0", 3, ACCESS_ALLOW, ENDED),
    ("32.0.0.0", 4, ACCESS_ALLOW, ENDED),
    ("32.0.0.0", 5, ACCESS_BLOCK, ENDED),
    ("32.0.0.0", 6, ACCESS_ALLOW, ENDED),
    ("203.0.113.66", 32, ACCESS_BLOCK, 0),
    ("::", 1, ACCESS_BLOCK, 0),
    ("2000::", 3, ACCESS_ALLOW, 0),
    ("4000::", 3, ACCESS_ALLOW, ENDED),
    ("4000::", 4, ACCESS_ALLOW, ENDED),
    ("4000::", 5, ACCESS_BLOCK, ENDED),
    ("4000::", 6, ACCESS_ALLOW, ENDED),
    ("2001:db8:f::66", 128, ACCESS_BLOCK, 0),
    ("fd00::", 8, ACCESS_ALLOW, 0),
];
const OF_VIP: [(&str, u8, u8, u32); 8] = [
    ("0.0.0.0", 3, ACCESS_ALLOW, 0),
    ("24.0.0.0", 5, ACCESS_ALLOW, 0),
    ("64.0.0.0", 2, ACCESS_ALLOW, 0),
    ("192.0.0.0", 2, ACCESS_ALLOW, 0),
    ("203.0.113.67", 32, ACCESS_BLOCK, NOT_ENDED),
    ("::", 2, ACCESS_ALLOW, 0),
    ("2001:db8::", 32, ACCESS_ALLOW, NOT_ENDED),
    ("8000::", 0, ACCESS_BLOCK, ENDED),
];

/// What the balancer looks at.
pub(crate) fn guarded(features: u32) -> u32 {
    let access = if features & SERVICE_ACCESS != 0 { GUARDED_ACCESS } else { 0 };
    let rates = if features & (SERVICE_SOURCE_LIMIT | SERVICE_SYN_RATE) != 0 { GUARDED_RATES } else { 0 };
    access | rates
}

/// Protects the services that have a flag for it.
pub(crate) fn put(features: u32, image: &mut Image) {
    const ANY: u32 = SERVICE_ACCESS | SERVICE_SOURCE_LIMIT | SERVICE_SYN_RATE | SERVICE_SYN_COOKIES;
    for (index, service) in &image.services {
        if service.flags & ANY != 0 {
            let guard = Guard {
                scope: scope(*index),
                // Those of the second VIP, which has one service only, and every other one of the first.
                only_allowed: u32::from(*index % 2 == 0),
                source_interval_ns: u32::MAX,
                source_burst: 3,
                cookie_interval_ns: u32::MAX,
                syn_interval_ns: u32::MAX,
                mss4: 1_420,
                mss6: 1_380,
            };
            image.guards.insert(*index, guard);
        }
    }
    if features & SERVICE_ACCESS == 0 {
        return;
    }
    let scopes = [scope(0), scope(u32::MAX)];
    let lists = [(0, &OF_ALL[..]), (scopes[0], &OF_VIP), (scopes[1], &OF_VIP[2..])];
    for (list, (scope, entries)) in (LIST_FIRST..).zip(lists) {
        for (prefix, len, action, until_s) in entries {
            let address = ip(prefix);
            let len_bits = if address.is_ipv4() { len + 96 } else { *len };
            let mut source = Source::new(scope, address.into());
            if len_bits == 0 {
                source.address = weir_abi::Address::default();
            }
            let key = SourcePrefix { len_bits: SOURCE_SCOPE_BITS + u32::from(len_bits), source };
            let rule = AccessRule { until_s: *until_s, list, action: *action, len_bits };
            image.access.insert(key, rule);
        }
    }
}

/// The number of the VIP a service belongs to, as far as these tests care.
fn scope(service: u32) -> u32 {
    if service < 11 { 1 } else { 2 }
}
