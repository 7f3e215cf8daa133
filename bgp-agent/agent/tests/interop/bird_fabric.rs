//! weir-bgp and BIRD as the router of two hosts: keys, TTLs, links without addresses, restarts, and the routes of its kernel.

use crate::bench::{Agent, peer, until};
use crate::fabric::{Fabric, Tor, tor};
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use weir_lab::netns::NetNs;

pub(crate) const BIRD: &str = "/usr/sbin/bird";

const BASE: &str = r#"
log stderr all;
router id 10.0.0.1;
protocol device { scan time 1; }
protocol direct { ipv4; ipv6; }
protocol kernel k4 { ipv4 { import none; export where source = RTS_BGP; }; merge paths yes limit 16; }
protocol kernel k6 { ipv6 { import none; export where source = RTS_BGP; }; merge paths yes limit 16; }
template bgp host { local as 65000; direct; hold time 3; error wait time 1,1; connect delay time 1; connect retry time 1;
  ipv4 { import all; export none; extended next hop on; }; ipv6 { import all; export none; }; }
"#;

pub(crate) fn bird(fabric: &Fabric, protocols: &str) -> Tor {
    fn command(dir: &Path) -> Command {
        let mut command = Command::new(BIRD);
        command.arg("-f").arg("-c").arg(dir.join("conf")).arg("-s").arg(dir.join("ctl"));
        command
    }
    fn ask(dir: &Path, _: &NetNs, question: &str) -> Command {
        let mut command = Command::new("/usr/sbin/birdc");
        command.arg("-s").arg(dir.join("ctl")).args(question.split(' '));
        command
    }
    Tor::start(fabric, &format!("{BASE}{protocols}"), command, ask, "show status")
}

pub(crate) const BOTH: [&str; 2] = ["192.0.2.1/32", "2001:db8::1/128"];

fn until_error(agent: &Agent, part: &str) {
    agent.until(part, |status| peer(status).last_error.contains(part) && peer(status).state != "Established");
}

#[test]
fn a_password_lets_in_and_a_wrong_one_is_named() {
    let test = "a_password_lets_in_and_a_wrong_one_is_named";
    let Some(fabric) = Fabric::build(1, test, &[BIRD]) else { return };
    let bird = bird(
        &fabric,
        "protocol bgp dyn from host { neighbor range 10.0.1.0/24 as 65001; dynamic name \"dyn\"; password \"s3cret\"; passive; }",
    );
    let agent = fabric.agent(1, &tor("n1", "10.0.1.1", "password = \"s3cret\""));
    bird.until("routes with the right password", "show route", &BOTH, &[]);
    agent.configure(&crate::fabric::config(&tor("n1", "10.0.1.1", "password = \"wr0ng\"")));
    // The router never calls, so that nothing but silence is seen here.
    until_error(&agent, "a wrong MD5 password on either side looks like this");
    bird.until("no routes with the wrong one", "show route", &[], &BOTH);
    let file = agent.dir.path().join("key");
    std::fs::write(&file, "s3cret\n").unwrap();
    let from_file = format!("password_file = {file:?}");
    agent.configure(&crate::fabric::config(&tor("n1", "10.0.1.1", &from_file)));
    bird.until("routes with a password from a file", "show route", &BOTH, &[]);
    let log = agent.log();
    let status = serde_json::to_string(&agent.status().unwrap()).unwrap();
    for secret in ["s3cret", "wr0ng"] {
        assert!(!log.contains(secret) && !status.contains(secret), "{secret} is shown");
    }
}

#[test]
fn a_caller_with_another_password_is_counted_and_named() {
    let test = "a_caller_with_another_password_is_counted_and_named";
    let Some(fabric) = Fabric::build(1, test, &[BIRD]) else { return };
    let _bird =
        bird(&fabric, "protocol bgp h1 from host { neighbor 10.0.1.2 as 65001; password \"other\"; }");
    let agent = fabric.agent(1, &tor("n1", "10.0.1.1", "passive = true\npassword = \"s3cret\""));
    until_error(&agent, "signed with another password");
    agent.configure(&crate::fabric::config(&tor("n1", "10.0.1.1", "passive = true")));
    until_error(&agent, "there is no password");
    agent.configure(&crate::fabric::config(&tor("n1", "10.0.1.1", "passive = true\npassword = \"other\"")));
    agent.until_established();
}

#[test]
fn ttl_security_takes_neighbours_only_and_each_side_refuses_the_other_without_it() {
    let test = "ttl_security_takes_neighbours_only_and_each_side_refuses_the_other_without_it";
    let Some(fabric) = Fabric::build(2, test, &[BIRD]) else { return };
    let bird = bird(
        &fabric,
        "protocol bgp h1 from host { neighbor 10.0.1.2 as 65001; ttl security on; passive; }\n\
         protocol bgp h2 from host { neighbor 10.0.2.2 as 65001; ttl security off; }",
    );
    // Ours checks and so does the router's.
    let first = fabric.agent(1, &tor("n1", "10.0.1.1", "ttl_security = true"));
    bird.until("routes", "show route", &BOTH, &[]);
    first.until_established();
    // Without it our TTL of 64 is not let in.
    first.configure(&crate::fabric::config(&tor("n1", "10.0.1.1", "")));
    bird.until("the router does not take us without", "show route", &[], &BOTH);
    // And ours does not take the router's TTL of 1: the SYN is not even answered.
    let second = fabric.agent(2, &tor("n2", "10.0.2.1", "ttl_security = true\npassive = true"));
    bird.until("a router without is not answered", "show protocols h2", &["Connect"], &["Established"]);
    second.configure(&crate::fabric::config(&tor("n2", "10.0.2.1", "passive = true")));
    second.until_established();
    bird.until("routes of the second", "show route", &BOTH, &[]);
}

#[test]
fn a_link_without_addresses_carries_both_families_with_bird() {
    let test = "a_link_without_addresses_carries_both_families_with_bird";
    let Some(fabric) = Fabric::unnumbered(test, &[BIRD]) else { return };
    let bird = bird(
        &fabric,
        "protocol radv { interface \"th1\" { max ra interval 4; }; }\n\
         protocol bgp ll from host { neighbor range fe80::/64 as 65001; interface \"th1\"; dynamic name \"ll\"; passive; }",
    );
    let agent = fabric.agent(1, &tor("n1", "", "interface = \"eth0\""));
    bird.until("both families", "show route", &BOTH, &[]);
    let status = agent.until_established();
    let agreed = peer(&status).agreed.unwrap_or_default();
    assert!(agreed.capabilities.contains(&"extended next hop".to_owned()), "{agreed:?}");
    until("a route of the kernel behind IPv6", || {
        let routes = fabric.kernel_routes("-4")?;
        if routes.contains("192.0.2.1 via inet6 fe80::") { Ok(()) } else { Err(routes) }
    });
    until("and an IPv6 one", || {
        let routes = fabric.kernel_routes("-6")?;
        if routes.contains("2001:db8::1 via fe80::") { Ok(()) } else { Err(routes) }
    });
}

#[test]
fn a_range_takes_every_router_in_it_up_to_its_bound() {
    let test = "a_range_takes_every_router_in_it_up_to_its_bound";
    let Some(fabric) = Fabric::build(1, test, &[BIRD]) else { return };
    let bird = bird(
        &fabric,
        "protocol bgp h1 from host { neighbor 10.0.1.2 as 65001; source address 10.0.1.1; password \"s3cret\"; }\n\
         protocol bgp v6 from host { neighbor fd00:1::2 as 65001; }",
    );
    let peers = "[peer.range4]\nnode = \"n1\"\naddress = \"10.0.1.0/24\"\nasn = 65000\nlocal_asn = 65001\nhold_time = \"3s\"\n\
                 password = \"s3cret\"\n\
                 [peer.range6]\nnode = \"n1\"\naddress = \"fd00:1::/64\"\nasn = 65000\nlocal_asn = 65001\nhold_time = \"3s\"\n\
                 sessions_max = 1\n";
    let agent = fabric.agent(1, peers);
    let status = agent.until("both sessions", |status| {
        status.peers.values().filter(|peer| peer.state == "Established").count() == 2
    });
    let names: Vec<&str> = status.peers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["range4-10.0.1.1", "range6-fd00-1--1"]);
    bird.until("routes over both", "show route all", &["[h1 ", "[v6 "], &[]);
    // A stranger inside the range, beyond the bound: the first session stays, the second is refused.
    let refused = |text: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with("weir_bgp_connections_refused_total "))
            .unwrap_or("0 0");
        line.split(' ').next_back().unwrap_or("0").parse::<f64>().unwrap_or(0.0)
    };
    let before = refused(&agent.metrics());
    fabric
        .router
        .netns
        .run(|| {
            let output = Command::new("/usr/sbin/ip")
                .args(["addr", "add", "fd00:1::9/64", "dev", "th1", "nodad"])
                .status()?;
            assert!(output.success());
            let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
            let at = |text: &str| text.parse::<std::net::SocketAddr>().unwrap();
            socket.bind(&at("[fd00:1::9]:0").into())?;
            socket.connect(&at("[fd00:1::2]:179").into())?;
            let mut socket = std::net::TcpStream::from(socket);
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            let read = std::io::Read::read(&mut socket, &mut [0; 16]);
            assert!(matches!(read, Ok(0)) || read.is_err(), "closed without a word: {read:?}");
            Ok(())
        })
        .unwrap();
    assert!(refused(&agent.metrics()) > before);
    agent.until("the first stays", |status| {
        status.peers.values().filter(|peer| peer.state == "Established").count() == 2
    });
}

#[test]
fn a_graceful_restart_keeps_the_routes_and_what_does_not_come_back_goes() {
    let test = "a_graceful_restart_keeps_the_routes_and_what_does_not_come_back_goes";
    let Some(fabric) = Fabric::build(1, test, &[BIRD]) else { return };
    let bird = bird(
        &fabric,
        "protocol bgp h1 from host { neighbor 10.0.1.2 as 65001; passive; graceful restart on; }",
    );
    let peers = tor("n1", "10.0.1.1", "graceful_restart = { time = \"4s\" }");
    let two = crate::fabric::config(&peers).replace("[\"192.0.2.1\",", "[\"192.0.2.1\", \"192.0.2.2\",");
    let mut agent = fabric.agent(1, &peers);
    agent.configure(&two);
    bird.until("three routes", "show route", &["192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128"], &[]);
    agent.stop();
    // Asked as long as the agent is away: not one moment without the routes.
    for _ in 0..10 {
        let routes = bird.ask("show route").unwrap();
        assert!(routes.contains("192.0.2.1/32") && routes.contains("2001:db8::1/128"), "{routes}");
        let kernel = fabric.kernel_routes("-4").unwrap();
        assert!(kernel.contains("192.0.2.1"), "{kernel}");
        std::thread::sleep(Duration::from_millis(50));
    }
    // One VIP address less: the stale route goes with End-of-RIB, the others never do.
    agent.configure(&crate::fabric::config(&peers));
    fabric.start_again(&mut agent, 1);
    let begun = Instant::now();
    until("the stale route is flushed", || {
        let routes = bird.ask("show route")?;
        assert!(routes.contains("192.0.2.1/32") && routes.contains("2001:db8::1/128"), "{routes}");
        if routes.contains("192.0.2.2/32") { Err(routes) } else { Ok(()) }
    });
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "by End-of-RIB, not by the timer: {:?}",
        begun.elapsed()
    );
    agent.until_established();
    // Killed, and never seen again: the routes go when the time is over, and not before.
    agent.kill();
    let begun = Instant::now();
    bird.until("the time is over", "show route", &[], &BOTH);
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2), "kept for {took:?} only");
    // SIGINT is an operator's word: nothing is left.
    fabric.start_again(&mut agent, 1);
    bird.until("back", "show route", &BOTH, &[]);
    agent.stop_by(Signal::SIGINT);
    assert!(!bird.ask("show route").unwrap().contains("192.0.2.1/32"));
}

#[test]
fn two_announcers_share_the_traffic_and_one_that_goes_leaves_it_to_the_other() {
    let test = "two_announcers_share_the_traffic_and_one_that_goes_leaves_it_to_the_other";
    let Some(fabric) = Fabric::build(2, test, &[BIRD]) else { return };
    let bird = bird(
        &fabric,
        "protocol bgp h1 from host { neighbor 10.0.1.2 as 65001; passive; }\n\
         protocol bgp h2 from host { neighbor 10.0.2.2 as 65001; passive; }",
    );
    let agents = [fabric.agent(1, &tor("n1", "10.0.1.1", "")), fabric.agent(2, &tor("n2", "10.0.2.1", ""))];
    let hops = |family: &'static str, expected: &'static [&'static str], not: &'static [&'static str]| {
        until("next hops of the kernel", || {
            let routes = fabric.kernel_routes(family)?;
            let good = expected.iter().all(|hop| routes.contains(hop))
                && !not.iter().any(|hop| routes.contains(hop));
            if good { Ok(()) } else { Err(format!("{routes}\n{}", bird.log())) }
        });
    };
    hops("-4", &["192.0.2.1", "nexthop via 10.0.1.2", "nexthop via 10.0.2.2"], &[]);
    // The flows of the router's kernel take both ways.
    fabric.router.netns.sysctl(&[("ipv4/fib_multipath_hash_policy", "1")]).unwrap();
    let mut ways = [0, 0];
    for port in 1000..1100 {
        let mut command = Command::new("/usr/sbin/ip");
        command.args([
            "route",
            "get",
            "192.0.2.1",
            "ipproto",
            "tcp",
            "sport",
            &port.to_string(),
            "dport",
            "80",
        ]);
        weir_lab::sys::confine(&mut command, fabric.router.netns.fd());
        let text = crate::bench::output(&mut command).unwrap();
        ways[usize::from(text.contains("10.0.2.2"))] += 1;
    }
    assert!(ways.iter().all(|way| *way > 20), "{ways:?} of 100 flows");
    // The second asks to be spared, by a community and a longer path: its session stays as it is.
    let spared = "graceful_shutdown = true\nprepend = 2\ncommunities = [\"no-export\", \"65000:7:8\"]";
    agents[1].configure(&crate::fabric::config(&tor("n2", "10.0.2.1", spared)));
    hops("-4", &["192.0.2.1 via 10.0.1.2"], &["10.0.2.2 "]);
    let detail = bird.ask("show route all 192.0.2.1/32").unwrap();
    for part in ["(65535,0)", "(65535,65281)", "(65000, 7, 8)", "65001 65001 65001"] {
        assert!(detail.contains(part), "{part} is missing:\n{detail}");
    }
    let status = agents[1].status().unwrap();
    assert_eq!(peer(&status).established_count, 1, "the session was never reset");
    let route = &peer(&status).routes[0];
    assert_eq!((route.as_path.len(), route.communities.len()), (3, 3), "{route:?}");
    drop(agents);
    bird.until("nobody announces", "show route", &[], &BOTH);
}

#[test]
fn a_connection_whose_other_end_is_silent_is_given_up_and_comes_back() {
    let test = "a_connection_whose_other_end_is_silent_is_given_up_and_comes_back";
    let Some(fabric) = Fabric::build(1, test, &[BIRD]) else { return };
    let bird = bird(&fabric, "protocol bgp h1 from host { neighbor 10.0.1.2 as 65001; passive; }");
    // The router forgets the connection while no packet passes: half of it stays open.
    let agent = fabric.agent(1, &tor("n1", "10.0.1.1", ""));
    bird.until("routes", "show route", &BOTH, &[]);
    agent.until_established();
    let begun = Instant::now();
    fabric.set_link(1, false);
    agent.until("hold timer", |status| peer(status).last_error.contains("hold timer expired"));
    let took = begun.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(8)).contains(&took),
        "{took:?} for a hold time of 3 s"
    );
    fabric.set_link(1, true);
    agent.until_established();
    bird.until("routes again", "show route", &BOTH, &[]);
}
