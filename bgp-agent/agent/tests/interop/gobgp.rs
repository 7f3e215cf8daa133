//! weir-bgp and GoBGP: both families, password, TTL security. It keeps routes to itself (no kernel), and knows no BFD.

use crate::bench::peer;
use crate::fabric::{Fabric, Tor, config, tor};
use std::path::Path;
use std::process::Command;
use weir_lab::netns::NetNs;

const GOBGPD: &str = "/usr/bin/gobgpd";

const CONFIG: &str = r#"
[global.config]
  as = 65000
  router-id = "10.0.0.1"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.0.1.2"
    peer-as = 65001
    auth-password = "s3cret"
  [neighbors.transport.config]
    passive-mode = true
  [neighbors.timers.config]
    hold-time = 3
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.0.2.2"
    peer-as = 65001
  [neighbors.ttl-security.config]
    enabled = true
    ttl-min = 255
  [neighbors.transport.config]
    passive-mode = true
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
"#;

fn gobgp(fabric: &Fabric) -> Tor {
    fn command(dir: &Path) -> Command {
        let mut command = Command::new(GOBGPD);
        command
            .args(["--pprof-disable", "--api-hosts", "127.0.0.1:50051", "-t", "toml", "-f"])
            .arg(dir.join("conf"));
        command
    }
    fn ask(_: &Path, _: &NetNs, question: &str) -> Command {
        let mut command = Command::new("/usr/bin/gobgp");
        command.args(question.split(' '));
        command
    }
    Tor::start(fabric, CONFIG, command, ask, "global")
}

#[test]
fn gobgp_takes_both_families_with_a_password_and_with_ttl_security() {
    let test = "gobgp_takes_both_families_with_a_password_and_with_ttl_security";
    let Some(fabric) = Fabric::build(2, test, &[GOBGPD]) else { return };
    let gobgp = gobgp(&fabric);
    let routes = |what: &str, has4: &[&str], has6: &[&str], not: &[&str]| {
        gobgp.until(what, "global rib -a ipv4", has4, not);
        gobgp.until(what, "global rib -a ipv6", has6, not);
    };
    let signed =
        fabric.agent(1, &tor("n1", "10.0.1.1", "password = \"s3cret\"\ncommunities = [\"65000:1:2\"]"));
    signed.until_established();
    routes("with a password", &["192.0.2.1/32", "10.0.1.2", "65000:1:2"], &["2001:db8::1/128"], &[]);
    signed.configure(&config(&tor("n1", "10.0.1.1", "password = \"wr0ng\"")));
    signed.until("the wrong one is named", |status| peer(status).last_error.contains("MD5"));
    routes("without", &[], &[], &["192.0.2.1/32", "2001:db8::1/128"]);
    let mut near = fabric.agent(2, &tor("n2", "10.0.2.1", "ttl_security = true"));
    near.until_established();
    routes("with ttl security", &["192.0.2.1/32", "10.0.2.2"], &["2001:db8::1/128"], &[]);
    near.stop();
    routes("withdrawn", &[], &[], &["192.0.2.1/32", "2001:db8::1/128"]);
}
