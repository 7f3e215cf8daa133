//! weir-bgp and FRR as the router of two hosts, with its zebra: keys, TTLs, links without addresses, restarts.

use crate::bench::{peer, until};
use crate::fabric::{Fabric, Tor, tor};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use weir_lab::netns::NetNs;

const BGPD: &str = "/usr/lib/frr/bgpd";

/// bgpd and zebra in one shell, so that both go with it.
fn frr(fabric: &Fabric, config: &str) -> Tor {
    fn command(dir: &Path) -> Command {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        // The daemons insist on their own user.
        if let Ok(Some(user)) = nix::unistd::User::from_name("frr") {
            for path in [dir.to_owned(), dir.join("conf")] {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
            }
        }
        let dir = dir.display();
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!(
            "trap 'kill $zebra $bgpd 2>/dev/null' EXIT TERM\n\
             /usr/lib/frr/zebra -u frr -g frr -f {dir}/conf -i {dir}/zebra.pid -z {dir}/zserv --vty_socket {dir} -P 0 & zebra=$!\n\
             /usr/lib/frr/bgpd -u frr -g frr -S -f {dir}/conf -i {dir}/bgpd.pid -z {dir}/zserv --vty_socket {dir} -P 0 & bgpd=$!\n\
             wait"
        ));
        command
    }
    fn ask(dir: &Path, _: &NetNs, question: &str) -> Command {
        let mut command = Command::new("vtysh");
        command.arg("--vty_socket").arg(dir).args(["-d", "bgpd", "-c", question]);
        command
    }
    Tor::start(fabric, &format!("{BASE}{config}"), command, ask, "show version")
}

const BASE: &str = "\
log file @RUN@/frr.log informational
hostname tor
interface th1
 ipv6 nd ra-interval 1
 no ipv6 nd suppress-ra
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 bgp bestpath as-path multipath-relax
 no bgp default ipv4-unicast
 timers bgp 1 3
";

fn families(neighbour: &str) -> String {
    format!(
        " address-family ipv4 unicast\n  neighbor {neighbour} activate\n  maximum-paths 16\n exit-address-family\n \
         address-family ipv6 unicast\n  neighbor {neighbour} activate\n  maximum-paths 16\n exit-address-family\n"
    )
}

fn until_routes(tor: &Tor, what: &str, there: bool) {
    for (family, prefix) in [("ipv4", "192.0.2.1/32"), ("ipv6", "2001:db8::1/128")] {
        let (has, has_not): (&[&str], &[&str]) = if there { (&[prefix], &[]) } else { (&[], &[prefix]) };
        tor.until(what, &format!("show bgp {family} unicast"), has, has_not);
    }
}

/// The shell that started the daemons is killed with its test; they are told by their own process ids.
struct Reaper<'a>(&'a Tor);

impl Drop for Reaper<'_> {
    fn drop(&mut self) {
        for file in ["zebra.pid", "bgpd.pid"] {
            let pid = std::fs::read_to_string(self.0.dir.path().join(file)).unwrap_or_default();
            if let Ok(pid) = pid.trim().parse() {
                let _gone = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }
}

#[test]
fn frr_with_a_password_on_a_range_and_with_ttl_security() {
    let test = "frr_with_a_password_on_a_range_and_with_ttl_security";
    let Some(fabric) = Fabric::build(2, test, &[BGPD]) else { return };
    let config = format!(
        " neighbor DYN peer-group\n neighbor DYN remote-as 65001\n neighbor DYN password s3cret\n \
         bgp listen range 10.0.1.0/24 peer-group DYN\n \
         neighbor 10.0.2.2 remote-as 65001\n neighbor 10.0.2.2 ttl-security hops 1\n neighbor 10.0.2.2 timers connect 1\n{}{}",
        families("DYN"),
        families("10.0.2.2"),
    );
    let frr = frr(&fabric, &config);
    let _reaper = Reaper(&frr);
    let signed = fabric.agent(1, &tor("n1", "10.0.1.1", "password = \"s3cret\""));
    signed.until_established();
    until_routes(&frr, "routes with a password", true);
    signed.configure(&crate::fabric::config(&tor("n1", "10.0.1.1", "password = \"wr0ng\"")));
    signed.until("the wrong one is named", |status| peer(status).last_error.contains("MD5"));
    until_routes(&frr, "no routes with the wrong password", false);
    let near = fabric.agent(2, &tor("n2", "10.0.2.1", "ttl_security = true"));
    near.until_established();
    until_routes(&frr, "routes with ttl security", true);
    near.configure(&crate::fabric::config(&tor("n2", "10.0.2.1", "")));
    near.until("not without", |status| peer(status).state != "Established");
    until_routes(&frr, "no routes without", false);
}

#[test]
fn a_link_without_addresses_carries_both_families_with_frr() {
    let test = "a_link_without_addresses_carries_both_families_with_frr";
    let Some(fabric) = Fabric::unnumbered(test, &[BGPD]) else { return };
    let config = format!(
        " neighbor th1 interface remote-as external\n neighbor th1 timers connect 1\n{}",
        families("th1")
    );
    let frr = frr(&fabric, &config);
    let _reaper = Reaper(&frr);
    let agent = fabric.agent(1, &tor("n1", "", "interface = \"eth0\""));
    agent.until_established();
    until_routes(&frr, "both families", true);
    until("routes of the kernel", || {
        let routes = fabric.kernel_routes("-4")? + &fabric.kernel_routes("-6")?;
        let good = routes.contains("192.0.2.1")
            && routes.contains("via inet6 fe80::")
            && routes.contains("2001:db8::1");
        if good { Ok(()) } else { Err(format!("{routes}\n{}", frr.log())) }
    });
    // Our advertisements are no offer to route.
    let routes = fabric.kernel_routes("-6").unwrap();
    assert!(!routes.contains("default"), "{routes}");
}

#[test]
fn frr_keeps_the_routes_over_a_graceful_restart_and_drops_them_on_a_hard_reset() {
    let test = "frr_keeps_the_routes_over_a_graceful_restart_and_drops_them_on_a_hard_reset";
    let Some(fabric) = Fabric::build(1, test, &[BGPD]) else { return };
    let config = format!(
        " bgp graceful-restart\n bgp graceful-restart notification\n bgp graceful-restart restart-time 5\n \
         bgp graceful-restart stalepath-time 5\n neighbor 10.0.1.2 remote-as 65001\n neighbor 10.0.1.2 timers connect 1\n{}",
        families("10.0.1.2"),
    );
    let frr = frr(&fabric, &config);
    let _reaper = Reaper(&frr);
    let mut agent = fabric.agent(1, &tor("n1", "10.0.1.1", "graceful_restart = { time = \"10s\" }"));
    let agreed = peer(&agent.until_established()).agreed.unwrap_or_default();
    assert!(agreed.capabilities.contains(&"graceful restart for notifications".to_owned()), "{agreed:?}");
    until_routes(&frr, "routes", true);
    agent.stop();
    for _ in 0..10 {
        assert!(frr.ask("show bgp ipv4 unicast").unwrap().contains("192.0.2.1/32"));
        std::thread::sleep(Duration::from_millis(50));
    }
    fabric.start_again(&mut agent, 1);
    agent.until_established();
    until_routes(&frr, "routes after the restart", true);
    until("nothing is stale any more", || {
        let text = frr.ask("show bgp ipv4 unicast")?;
        if text.lines().any(|line| line.starts_with("S*") || line.starts_with("S>")) {
            Err(text)
        } else {
            Ok(())
        }
    });
    agent.stop_by(nix::sys::signal::Signal::SIGINT);
    until_routes(&frr, "no routes after a hard reset", false);
}
