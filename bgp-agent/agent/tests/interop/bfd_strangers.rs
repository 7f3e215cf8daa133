//! BFD with routers whose address no configuration names: across a link without addresses, and from within a range.

use crate::bench::{Agent, until};
use crate::bfd_fabric::{Timers, frr_bfdd};
use crate::bird_fabric::{BIRD, BOTH, bird};
use crate::fabric::{Fabric, Tor, config, tor};
use crate::frr::{BGPD, Frr};
use nix::sys::signal::Signal;
use weir_model::status::PeerStatus;

/// Ours; a hold time of three seconds is ten times as long.
const BFD: &str = "bfd = { interval = \"100ms\", multiplier = 3 }";

/// Of FRR's zebra: the neighbour learns of the router by this.
const ADVERTISE: &str = "interface th1\n ipv6 nd ra-interval 1\n no ipv6 nd suppress-ra\n";
/// Of its bgpd.
const ROUTER: &str = "\
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 timers bgp 30 90
 neighbor th1 interface remote-as external
 neighbor th1 timers connect 1
 neighbor th1 bfd
 neighbor th1 bfd profile fast
 address-family ipv4 unicast
  neighbor th1 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor th1 activate
 exit-address-family
";

fn is_up(peer: &PeerStatus) -> bool {
    peer.state == "Established" && peer.bfd.as_ref().is_some_and(|bfd| bfd.state == "Up")
}

/// The router stands still: BFD ends the session before the hold time would. It goes on: both come back.
fn a_silent_router_is_noticed(agent: &Agent, bird: &Tor, name: &str) {
    bird.signal(Signal::SIGSTOP);
    agent.until("BFD ended the session", |status| {
        let peer = status.peers.get(name).cloned().unwrap_or_default();
        peer.state != "Established" && peer.last_error == "we sent cease: bfd down (6/10)"
    });
    bird.signal(Signal::SIGCONT);
}

#[test]
fn a_router_across_a_link_without_addresses_is_watched() {
    let test = "a_router_across_a_link_without_addresses_is_watched";
    let Some(fabric) = Fabric::unnumbered(test, &[BIRD]) else { return };
    let bird = bird(
        &fabric,
        "protocol radv { interface \"th1\" { max ra interval 4; }; }\n\
         protocol bfd { interface \"th1\" { interval 100 ms; multiplier 3; }; }\n\
         protocol bgp ll from host { neighbor range fe80::/64 as 65001; interface \"th1\"; dynamic name \"ll\"; passive; \
         bfd on; }",
    );
    let agent = fabric.agent(1, &tor("n1", "", &format!("interface = \"eth0\"\n{BFD}")));
    bird.until("both families", "show route", &BOTH, &[]);
    agent.until("BGP and BFD up", |status| status.peers.get("tor").is_some_and(is_up));
    a_silent_router_is_noticed(&agent, &bird, "tor");
    agent.until("BGP and BFD up again", |status| status.peers.get("tor").is_some_and(is_up));
    bird.until("both families again", "show route", &BOTH, &[]);
}

#[test]
fn frr_across_a_link_without_addresses_watches_us_and_is_watched() {
    let test = "frr_across_a_link_without_addresses_watches_us_and_is_watched";
    let Some(fabric) = Fabric::unnumbered(test, &[BGPD]) else { return };
    let mut frr = Frr::new(Some(&fabric.router.netns));
    let zebra = frr.path("zserv.api");
    frr.launch("zebra", ADVERTISE, &["-z", &zebra]);
    frr_bfdd(&mut frr, Timers { interval_ms: 100, multiplier: 3 });
    frr.launch("bgpd", ROUTER, &["-z", &zebra]);
    let mut agent = fabric.agent(1, &tor("n1", "", &format!("interface = \"eth0\"\n{BFD}")));
    frr.until_routes("both families", true);
    agent.until("BGP and BFD up", |status| status.peers.get("tor").is_some_and(is_up));
    // Killed, the kernel says so by TCP too; the router has to come back to BFD with the next process all the same.
    agent.kill();
    frr.until_routes("none of a dead agent", false);
    fabric.start_again(&mut agent, 1);
    agent.until("BGP and BFD up again", |status| status.peers.get("tor").is_some_and(is_up));
    frr.until_routes("both families again", true);
}

#[test]
fn a_router_from_a_range_is_watched() {
    let test = "a_router_from_a_range_is_watched";
    let Some(fabric) = Fabric::build(1, test, &[BIRD]) else { return };
    let bird = bird(
        &fabric,
        "protocol bfd { interface \"th1\" { interval 100 ms; multiplier 3; }; }\n\
         protocol bgp h1 from host { neighbor 10.0.1.2 as 65001; source address 10.0.1.1; bfd on; }",
    );
    let range = format!(
        "[peer.range]\nnode = \"n1\"\naddress = \"10.0.1.0/24\"\nasn = 65000\nlocal_asn = 65001\nhold_time = \"3s\"\n{BFD}\n"
    );
    let agent = fabric.agent(1, &range);
    const NAME: &str = "range-10.0.1.1";
    agent.until("BGP and BFD up", |status| status.peers.get(NAME).is_some_and(is_up));
    bird.signal(Signal::SIGSTOP);
    // The session of a router that is gone goes with it, and so does what watched it.
    agent.until("the session is gone", |status| !status.peers.get(NAME).is_some_and(is_up));
    bird.signal(Signal::SIGCONT);
    agent.until("BGP and BFD up again", |status| status.peers.get(NAME).is_some_and(is_up));
    // Without BFD in the configuration nobody is watched.
    agent.configure(&config(&range.replace(BFD, "")));
    until("no BFD", || {
        let peer = agent.status()?.peers.get(NAME).cloned().unwrap_or_default();
        if peer.state == "Established" && peer.bfd.is_none() { Ok(()) } else { Err(format!("{peer:?}")) }
    });
}
