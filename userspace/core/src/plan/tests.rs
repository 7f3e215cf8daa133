use proptest::prelude::*;
use weir_abi::{
    guard::Source,
    hop::KIND_GUE4,
    service::{PROTO_TCP, SERVICE_IN_USE, Slot, VipRange},
};

use super::*;

/// A consistent image: tables name backends that are there, services tables, VIPs services. Tables are short here.
fn image() -> impl Strategy<Value = Image> {
    let backends = prop::collection::btree_map(1u16..12, 1u8..20, 1..6);
    let tables = prop::collection::btree_map(0u32..5, prop::collection::vec((0usize..6, 0usize..6), 8), 1..4);
    let services = prop::collection::btree_map(0u32..8, 0usize..4, 1..6);
    let vips = prop::collection::btree_map((0u8..4, 1u16..5), 0usize..6, 0..8);
    (backends, tables, services, vips, 0u16..30).prop_map(|(backends, tables, services, vips, range)| {
        let mut image = Image::default();
        for (slot, last) in backends {
            let address = Address::v4([10, 0, 0, last]);
            image.peers.insert(address);
            image.backends.insert(slot, Backend { address, kind: KIND_GUE4, _pad: [0; 3] });
        }
        let slots: Vec<u16> = image.backends.keys().copied().collect();
        for (index, words) in tables {
            let pick = |i: usize| slots[i % slots.len()];
            let words =
                words.iter().map(|(o, p)| Slot { owner: pick(*o), previous: pick(*p) }.pack()).collect();
            image.tables.insert(index, Arc::new(words));
        }
        image.quic_servers = slots.iter().map(|slot| (slot * 7, *slot)).collect();
        let tables: Vec<u32> = image.tables.keys().copied().collect();
        for (index, table) in services {
            image
                .services
                .insert(index, Service { table: tables[table % tables.len()], flags: SERVICE_IN_USE });
        }
        let services: Vec<u32> = image.services.keys().copied().collect();
        for ((last, port), service) in vips {
            let address = Address::v4([198, 51, 100, last]);
            let key = VipKey { address, port: port.to_be_bytes(), protocol: PROTO_TCP, _pad: 0 };
            let service = services[service % services.len()];
            image.vips.insert(key, service);
            let mut ranges = VipRanges { count: 1, ..VipRanges::default() };
            ranges.ranges[0] = VipRange { first: 100, last: 100 + range, service };
            image.ranges.insert(VipKey { port: [0, 0], ..key }, ranges);
            image.routes.insert(address);
        }
        for (number, table) in tables.iter().enumerate() {
            let source = Source::new(number as u32 % 3, Address::v4([203, 0, 113, *table as u8]));
            image.source_tables.insert(SourcePrefix { len_bits: 160, source }, *table);
        }
        image.filter = crate::image::filter_of(image.vip_addresses());
        image
    })
}

fn assert_works(image: &Image, after: &Op) {
    for (index, words) in &image.tables {
        for word in words.iter() {
            let slot = Slot::unpack(*word);
            for backend in [slot.owner, slot.previous] {
                assert!(
                    image.backends.contains_key(&backend),
                    "table {index} names backend {backend} after {after}"
                );
            }
        }
    }
    for (id, backend) in &image.quic_servers {
        assert!(
            image.backends.contains_key(backend),
            "quic server {id} names backend {backend} after {after}"
        );
    }
    for vip in image.vip_addresses() {
        let (word, bit) = weir_abi::filter::place(&vip);
        assert!(
            image.filter.get(&word).is_some_and(|bits| bits & bit != 0),
            "the filter hides a VIP after {after}"
        );
    }
    for (prefix, table) in &image.source_tables {
        assert!(image.tables.contains_key(table), "source {prefix:?} names table {table} after {after}");
    }
    let ranges = image.ranges.values().flat_map(|r| r.ranges[..r.count as usize].iter().map(|r| r.service));
    for service in image.vips.values().copied().chain(ranges) {
        let table = image
            .services
            .get(&service)
            .unwrap_or_else(|| panic!("no service {service} after {after}"))
            .table;
        assert!(image.tables.contains_key(&table), "service {service} names table {table} after {after}");
    }
}

proptest! {
    #[test]
    fn equal_images_need_no_plan(a in image()) {
        prop_assert!(diff(&a, &a).is_empty());
    }

    #[test]
    fn a_plan_leads_where_it_should_and_every_step_works(a in image(), b in image()) {
        // Numbers are never reused for something else within one plan: `lower` sees to it, this test must too.
        let mut b = b;
        for (slot, backend) in &mut b.backends {
            if let Some(there) = a.backends.get(slot) {
                *backend = *there;
                b.peers.insert(there.address);
            }
        }
        let mut now = a.clone();
        for op in diff(&a, &b) {
            now.apply(&op);
            assert_works(&now, &op);
        }
        prop_assert_eq!(now, b);
    }
}
