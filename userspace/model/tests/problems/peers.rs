//! Routers, and how they are watched.

use std::time::Duration;

use super::{GOOD, each_is_named, read};

#[test]
fn bfd_needs_no_more_than_to_be_asked_for() {
    let text = |bfd: &str| GOOD.replacen("asn = 65001\n", &format!("asn = 65001\nbfd = {bfd}\n"), 1);
    assert_eq!(read(GOOD).expect("no problems").peers["tor"].bfd, None);
    let bfd = read(&text("{}")).expect("no problems").peers["tor"].bfd.clone().expect("bfd");
    assert_eq!((bfd.interval, bfd.receive_interval, bfd.multiplier), (Duration::from_millis(50), None, 3));
    assert!(!bfd.multihop && !bfd.passive && !bfd.strict);
    let all = "{ interval = \"10ms\", receive_interval = \"20ms\", multiplier = 5, multihop = true, \
               minimum_ttl = 250, passive = true, strict = true }";
    let bfd = read(&text(all)).expect("no problems").peers["tor"].bfd.clone().expect("bfd");
    assert_eq!((bfd.receive_interval, bfd.minimum_ttl), (Some(Duration::from_millis(20)), Some(250)));
    assert!(bfd.multihop && bfd.passive && bfd.strict);
}

#[test]
fn every_mistake_about_a_router_is_named() {
    each_is_named(&[
        ("asn = 65001\n", "asn = 0\n", "peer.tor.asn", "out of range"),
        ("asn = 65001\n", "asn = 65001\nhold_time = \"1s\"\n", "peer.tor.hold_time", "not a hold time"),
        (
            "asn = 65001\n",
            "asn = 65001\ncommunities = [\"x\"]\n",
            "peer.tor.communities.0",
            "not a community",
        ),
        ("asn = 65001\n", "asn = 65001\ninterface = \"eth0\"\n", "peer.tor.interface", "link-local session"),
        ("\"10.1.0.1\"\n", "\"fe80::1\"\n", "peer.tor.interface", "needs an interface"),
        ("address = \"10.1.0.1\"\n", "", "peer.tor", "no address"),
        ("\"10.1.0.1\"\n", "\"10.1.0.1/24\"\n", "peer.tor.address", "bits beyond"),
        ("\"10.1.0.1\"\n", "\"tor1\"\n", "peer.tor.address", "not an address or a prefix"),
        ("asn = 65001\n", "asn = 65001\nttl_security = 255\n", "peer.tor.ttl_security", "out of range"),
        ("asn = 65001\n", "asn = 65001\nttl_security = \"on\"\n", "peer.tor.ttl_security", "true, false or"),
        (
            "asn = 65001\n",
            "asn = 65001\nttl_security = true\nmultihop = 2\n",
            "peer.tor.multihop",
            "together with ttl_security",
        ),
        ("asn = 65001\n", "asn = 65001\npassword = \"\"\n", "peer.tor.password", "out of range"),
        ("asn = 65001\n", "asn = 65001\npassword = 1234\n", "peer.tor.password", "a secret is a text"),
        (
            "asn = 65001\n",
            "asn = 65001\npassword = \"x\"\npassword_file = \"/x\"\n",
            "peer.tor.password_file",
            "as well",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nsend_hold_time = \"5s\"\n",
            "peer.tor.send_hold_time",
            "not longer than the hold time",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\ngraceful_restart = { time = \"2h\" }\n",
            "peer.tor.graceful_restart.time",
            "not a restart time",
        ),
        ("asn = 65001\n", "asn = 65001\nrole = \"boss\"\n", "peer.tor.role", "unknown variant"),
        ("asn = 65001\n", "asn = 65001\nrole_strict = true\n", "peer.tor.role_strict", "no role"),
        ("asn = 65001\n", "asn = 65100\nrole = \"customer\"\n", "peer.tor.role", "inside an AS"),
        ("asn = 65001\n", "asn = 65001\nmax_routes = 0\n", "peer.tor.max_routes", "out of range"),
        (
            "asn = 65001\n",
            "asn = 65001\nmax_prefixes_received = 0\n",
            "peer.tor.max_prefixes_received",
            "out of range",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\ncommunities = [\"1:2:3:4\"]\n",
            "peer.tor.communities.0",
            "not a community",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { interval = \"9ms\" }\n",
            "peer.tor.bfd.interval",
            "9ms is out of range",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { receive_interval = \"2m\" }\n",
            "peer.tor.bfd.receive_interval",
            "2m is out of range",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { multiplier = 0 }\n",
            "peer.tor.bfd.multiplier",
            "out of range",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { interval = \"10ms\", multiplier = 2 }\n",
            "peer.tor.bfd.multiplier",
            "20ms of silence",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { minimum_ttl = 250 }\n",
            "peer.tor.bfd.minimum_ttl",
            "always heard with 255",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { multihop = true, minimum_ttl = 0 }\n",
            "peer.tor.bfd.minimum_ttl",
            "out of range",
        ),
        ("asn = 65001\n", "asn = 65001\nbfd = { intervall = \"50ms\" }\n", "peer.tor.bfd", "unknown field"),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = {}\nlocal_asn = 65100\n[peer.tor2]\nnode = \"lb1\"\naddress = \"10.1.0.1\"\nport = 180\n\
             asn = 65001\nlocal_asn = 65100\nbfd = {}\n[peer.tor3]\nnode = \"lb1\"\naddress = \"10.1.0.3\"\nasn = 65001\n",
            "peer.tor2.bfd",
            "already",
        ),
    ]);
}
