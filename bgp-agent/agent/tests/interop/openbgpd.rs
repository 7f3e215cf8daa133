//! weir-bgp and OpenBGPD: both families, password, TTL security. On Linux it keeps routes to itself.

use crate::bench::peer;
use crate::fabric::{Fabric, Tor, config, tor};
use std::path::Path;
use std::process::Command;
use weir_lab::netns::NetNs;

const BGPD: &str = "/usr/sbin/bgpd";

const CONFIG: &str = r#"
AS 65000
router-id 10.0.0.1
socket "@RUN@/bgpd.sock"
holdtime min 3
nexthop qualify via default
neighbor 10.0.1.2 {
  remote-as 65001
  passive
  tcp md5sig password "s3cret"
  announce IPv4 unicast
  announce IPv6 unicast
  announce refresh yes
  announce enhanced refresh yes
}
neighbor 10.0.2.2 {
  remote-as 65001
  passive
  ttl-security yes
  announce IPv4 unicast
  announce IPv6 unicast
  announce restart yes
}
allow from any
"#;

fn openbgpd(fabric: &Fabric) -> Tor {
    fn command(dir: &Path) -> Command {
        // It reads no file that others may write to.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.join("conf"), std::fs::Permissions::from_mode(0o600)).unwrap();
        // Where its processes lock themselves up; systemd makes it, where there is systemd.
        if let Ok(Some(user)) = nix::unistd::User::from_name("_openbgpd") {
            std::fs::create_dir_all(&user.dir).unwrap();
        }
        let mut command = Command::new(BGPD);
        command.arg("-d").arg("-f").arg(dir.join("conf"));
        command
    }
    fn ask(dir: &Path, _: &NetNs, question: &str) -> Command {
        let mut command = Command::new("/usr/sbin/bgpctl");
        command.arg("-s").arg(dir.join("bgpd.sock")).args(question.split(' '));
        command
    }
    Tor::start(fabric, CONFIG, command, ask, "show")
}

#[test]
fn openbgpd_takes_both_families_with_a_password_and_with_ttl_security() {
    let test = "openbgpd_takes_both_families_with_a_password_and_with_ttl_security";
    let Some(fabric) = Fabric::build(2, test, &[BGPD]) else { return };
    let openbgpd = openbgpd(&fabric);
    const BOTH: [&str; 2] = ["192.0.2.1/32", "2001:db8::1/128"];
    let signed =
        fabric.agent(1, &tor("n1", "10.0.1.1", "password = \"s3cret\"\ncommunities = [\"65000:1:2\"]"));
    let agreed = peer(&signed.until_established()).agreed.unwrap_or_default();
    assert!(agreed.capabilities.contains(&"enhanced route refresh".to_owned()), "{agreed:?}");
    openbgpd.until("with a password", "show rib", &BOTH, &[]);
    openbgpd.until("large communities", "show rib detail", &["65000:1:2"], &[]);
    // A refresh between marks: the router drops what does not come again.
    openbgpd.ask("neighbor 10.0.1.2 refresh").unwrap();
    crate::bench::until("route refresh", || {
        let log = signed.log();
        if log.contains("peer asked for the routes again") { Ok(()) } else { Err(log) }
    });
    openbgpd.until("still there", "show rib", &BOTH, &[]);
    signed.configure(&config(&tor("n1", "10.0.1.1", "password = \"wr0ng\"")));
    signed.until("the wrong one is named", |status| peer(status).last_error.contains("MD5"));
    openbgpd.until("without", "show rib", &[], &BOTH);
    let mut near = fabric.agent(2, &tor("n2", "10.0.2.1", "ttl_security = true"));
    near.until_established();
    openbgpd.until("with ttl security", "show rib", &BOTH, &[]);
    near.stop();
    openbgpd.until("withdrawn", "show rib", &[], &BOTH);
}
