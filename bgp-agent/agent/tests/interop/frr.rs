//! weir-bgp and FRR. On loopback bgpd runs alone, without zebra.

use crate::bench::{AGENT, Agent, Process, ROUTER, Site, available, output, peer, router, until};
use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use weir_lab::netns::NetNs;

pub(crate) const BGPD: &str = "/usr/lib/frr/bgpd";

/// FRR's daemons of one router.
pub(crate) struct Frr {
    dir: TempDir,
    netns: Option<NetNs>,
    daemons: BTreeMap<&'static str, Process>,
}

impl Frr {
    /// bgpd alone, on loopback.
    fn start(site: &Site) -> Self {
        let (router_port, agent_port) = (site.router_port, site.agent_port);
        let config = format!(
            r#"
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
"#
        );
        let mut frr = Self::new(None);
        let port = router_port.to_string();
        frr.launch("bgpd", &config, &["-Z", "-S", "-l", ROUTER, "-p", &port]);
        frr
    }

    /// Without daemons yet; they run in `netns` if one is given.
    pub(crate) fn new(netns: Option<&NetNs>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        own(dir.path());
        Self { dir, netns: netns.cloned(), daemons: BTreeMap::new() }
    }

    /// Start a daemon and wait until it answers.
    pub(crate) fn launch(&mut self, daemon: &'static str, config: &str, arguments: &[&str]) {
        let file = |suffix: &str| self.dir.path().join(format!("{daemon}.{suffix}"));
        let config = format!("log file {} debugging\n{config}", file("log").display());
        std::fs::write(file("conf"), config).unwrap();
        own(&file("conf"));
        let mut command = router(&format!("/usr/lib/frr/{daemon}"), self.netns.as_ref());
        let child = command
            .args(["-u", "frr", "-g", "frr", "-P", "0", "-f"])
            .arg(file("conf"))
            .arg("-i")
            .arg(file("pid"))
            .arg("--vty_socket")
            .arg(self.dir.path())
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(file("stderr")).unwrap())
            .spawn()
            .unwrap();
        self.daemons.insert(daemon, Process(child));
        until(daemon, || self.ask(daemon, &["show version"]));
    }

    /// The directory of its sockets.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// SIGKILL to one of its daemons.
    pub(crate) fn kill(&mut self, daemon: &str) {
        drop(self.daemons.remove(daemon));
    }

    /// Say commands to a daemon; the answer to the last.
    pub(crate) fn ask(&self, daemon: &str, commands: &[&str]) -> Result<String, String> {
        let mut vtysh = Command::new("vtysh");
        vtysh.arg("--vty_socket").arg(self.dir.path()).args(["-d", daemon]);
        for command in commands {
            vtysh.args(["-c", command]);
        }
        output(&mut vtysh).map_err(|error| {
            let stderr = std::fs::read_to_string(self.path(&format!("{daemon}.stderr"))).unwrap_or_default();
            format!("{error}\n{stderr}")
        })
    }

    /// Wait until bgpd has the VIP's routes of both families, or none.
    pub(crate) fn until_routes(&self, what: &str, expected: bool) {
        for (family, prefix) in [("ipv4", "192.0.2.1/32"), ("ipv6", "2001:db8::1/128")] {
            until(what, || {
                let text = self.ask("bgpd", &[&format!("show bgp {family} unicast")])?;
                if text.contains(prefix) == expected { Ok(()) } else { Err(text) }
            });
        }
    }
}

/// FRR's daemons insist on their own user.
fn own(path: &Path) {
    if let Ok(Some(user)) = nix::unistd::User::from_name("frr") {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
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
    let detail = frr.ask("bgpd", &["show bgp ipv4 unicast 192.0.2.1/32"]).unwrap();
    assert!(detail.contains("65000:100") && detail.contains("10.0.1.2"), "{detail}");
    frr.ask("bgpd", &[&format!("clear bgp {AGENT}")]).unwrap();
    agent.until("a new session", |status| {
        peer(status).established_count > before && peer(status).state == "Established"
    });
    frr.until_routes("both routes again", true);
    // A soft reset is a ROUTE-REFRESH.
    frr.ask("bgpd", &[&format!("clear bgp {AGENT} soft in")]).unwrap();
    until("route refresh", || {
        let log = agent.log();
        if log.contains("peer asked for the routes again") { Ok(()) } else { Err(log) }
    });
    frr.until_routes("still there", true);
    agent.stop();
    frr.until_routes("no routes", false);
}
