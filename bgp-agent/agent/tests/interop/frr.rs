//! weir-bgp and FRR's bgpd, without zebra.

use crate::bench::{AGENT, Agent, Process, ROUTER, Site, available, output, peer, until};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const BGPD: &str = "/usr/lib/frr/bgpd";

struct Frr {
    dir: TempDir,
    _process: Process,
}

impl Frr {
    fn start(site: &Site) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (router_port, agent_port) = (site.router_port, site.agent_port);
        let config = format!(
            r#"
log file {log} debugging
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
 neighbor {AGENT} remote-as 65001
 neighbor {AGENT} port {agent_port}
 neighbor {AGENT} ebgp-multihop 8
 neighbor {AGENT} disable-connected-check
 neighbor {AGENT} timers connect 1
 neighbor {AGENT} update-source {ROUTER}
 address-family ipv4 unicast
  neighbor {AGENT} activate
 exit-address-family
 address-family ipv6 unicast
  neighbor {AGENT} activate
 exit-address-family
"#,
            log = dir.path().join("log").display(),
        );
        std::fs::write(dir.path().join("bgpd.conf"), config).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        // bgpd insists on its own user.
        if let Ok(Some(user)) = nix::unistd::User::from_name("frr") {
            for path in [dir.path().to_owned(), dir.path().join("bgpd.conf")] {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
            }
        }
        let child = Command::new(BGPD)
            .args(["-u", "frr", "-g", "frr", "-Z", "-S", "-P", "0", "-l", ROUTER, "-p"])
            .arg(router_port.to_string())
            .arg("-f")
            .arg(dir.path().join("bgpd.conf"))
            .arg("-i")
            .arg(dir.path().join("pid"))
            .arg("--vty_socket")
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let frr = Self { dir, _process: Process(child) };
        until("bgpd answers", || frr.ask("show version"));
        frr
    }

    fn ask(&self, command: &str) -> Result<String, String> {
        output(
            Command::new("vtysh")
                .arg("--vty_socket")
                .arg(self.dir.path())
                .args(["-d", "bgpd", "-c", command]),
        )
        .map_err(|error| {
            let stderr = std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default();
            format!("{error}\n{stderr}")
        })
    }

    fn until_routes(&self, what: &str, expected: bool) {
        for (family, prefix) in [("ipv4", "192.0.2.1/32"), ("ipv6", "2001:db8::1/128")] {
            until(what, || {
                let text = self.ask(&format!("show bgp {family} unicast"))?;
                if text.contains(prefix) == expected { Ok(()) } else { Err(text) }
            });
        }
    }
}

#[test]
fn both_families_come_on_one_session_survive_a_reset_and_go_on_sigterm() {
    let test = "both_families_come_on_one_session_survive_a_reset_and_go_on_sigterm (frr)";
    if !available(BGPD, test) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: {test}: bgpd changes to user frr, which needs root");
        return;
    }
    let site = Site { peer: "hold_time = \"9s\"\ncommunities = [\"65000:100\"]", ..Site::new() };
    let frr = Frr::start(&site);
    let mut agent = Agent::start(&site.config());
    frr.until_routes("both routes", true);
    let before = peer(&agent.until_established()).established_count;
    let detail = frr.ask("show bgp ipv4 unicast 192.0.2.1/32").unwrap();
    assert!(detail.contains("65000:100") && detail.contains("10.0.1.2"), "{detail}");
    frr.ask(&format!("clear bgp {AGENT}")).unwrap();
    agent.until("a new session", |status| {
        peer(status).established_count > before && peer(status).state == "Established"
    });
    frr.until_routes("both routes again", true);
    // A soft reset is a ROUTE-REFRESH.
    frr.ask(&format!("clear bgp {AGENT} soft in")).unwrap();
    until("route refresh", || {
        let log = agent.log();
        if log.contains("peer asked for the routes again") { Ok(()) } else { Err(log) }
    });
    frr.until_routes("still there", true);
    agent.stop();
    frr.until_routes("no routes", false);
}
