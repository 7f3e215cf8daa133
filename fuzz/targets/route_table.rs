//! Any host and path of a request: some pool is chosen, and the same one for the same host in other letters.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use weir_core::l7::{RouteTable, normal_host};
use weir_model::{Name, Snapshot, SourceFile};

const CONFIG: &str = r#"
[zone.az1]
[node.lb1]
zone = "az1"
address = "10.1.0.11"
[group.edge]
nodes = ["lb1"]
[vip.web]
addresses = ["198.51.100.10"]
group = "edge"
services = ["tcp/80"]
[pool.app]
[pool.images]
[pool.other]
[listener.web]
protocol = "http"
vip = "web"
port = 80
pool = "other"
routes = [
  { hosts = ["*.example.com"], path = "/images", pool = "images" },
  { hosts = ["www.example.com"], pool = "app" },
]
"#;

static TABLE: LazyLock<(RouteTable, Name)> = LazyLock::new(|| {
    let files = [SourceFile { path: "a.toml".into(), text: CONFIG.into() }];
    let snapshot = Snapshot::read(&files).unwrap_or_else(|problems| panic!("{problems}"));
    (RouteTable::build(&snapshot), "web".parse().expect("a name"))
});

fuzz_target!(|request: (&str, &str)| {
    let (host, path) = request;
    let (table, listener) = &*TABLE;
    let routed = table.route(listener, &normal_host(host), path).expect("the listener has a pool of its own");
    let shouted = host.to_ascii_uppercase();
    let again = table.route(listener, &normal_host(&shouted), path).expect("as above");
    assert_eq!(routed.pool, again.pool, "letters of a host are all alike");
});
