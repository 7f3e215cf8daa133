//! Any frame through the model of the datapath: it neither panics nor lets a packet grow without end, tells the same story
//! when it explains, and does nothing with what it drops.
#![no_main]

use std::{sync::LazyLock, time::SystemTime};

use libfuzzer_sys::fuzz_target;
use weir_core::{
    datapath::{Action, Host, Names, Outcome, explain, run},
    explain::image,
    health::HealthView,
    image::Image,
};
use weir_model::{Snapshot, SourceFile, status::Health};

const CONFIG: &str = r#"
[zone.a]
[node.n1]
zone = "a"
address = "10.1.1.2"
address6 = "fd00:1:1::2"
quic_id = 1
[node.n2]
zone = "a"
address = "10.1.2.2"
tunnel = "ipip"
quic_id = 2
[node.n3]
zone = "a"
address6 = "fd00:1:3::2"
[group.g]
nodes = ["n1", "n2", "n3"]
[vip.web]
addresses = ["198.51.100.10", "2001:db8::10"]
group = "g"
services = ["tcp/80", "tcp/1000-2000", "udp/53"]
new_connections_per_source = { rate = 100, burst = 200 }
syn_protection = { cookies_above = "5000/s", max = "100000/s" }
[vip.quic]
addresses = ["198.51.100.20"]
group = "g"
services = ["udp/443"]
quic = true
[access.bad-hosts]
action = "block"
entries = [{ prefix = "203.0.113.0/24" }, { prefix = "2001:db8:bad::/48" }]
"#;

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    let file = SourceFile { path: "fuzz.toml".into(), text: CONFIG.into() };
    let snapshot = Snapshot::read(&[file]).expect("valid");
    let health = snapshot.nodes.keys().map(|name| (name.clone(), Health::Up)).collect();
    let node = "n1".parse().expect("name");
    let mut image =
        image(&snapshot, &node, &health, &HealthView::default(), SystemTime::UNIX_EPOCH).expect("image");
    image.config.mtu = 1_400;
    image
});

fuzz_target!(|frame: &[u8]| {
    let outcome = run(&IMAGE, &mut Host::default(), frame);
    let told = explain(&IMAGE, &mut Host::default(), frame, &Names::new());
    assert!(!told.steps.is_empty());
    assert_eq!(Outcome { steps: Vec::new(), ..told }, outcome);
    assert!(outcome.action == Action::Drop || outcome.frame.len() <= frame.len() + 72);
});
