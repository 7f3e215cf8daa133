//! weir-bgp and BIRD.

use crate::bench::{
    AGENT, Agent, Daemon, Process, ROUTER, Site, applied, available, datapath_of, datapath_of_many,
    gated_vips, many_addresses, output, peer, router, unbudgeted, until,
};
use nix::sys::signal::Signal;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use weir_lab::netns::NetNs;
use weir_model::status::{ProxyStatus, VipDelivery};

pub(crate) const BIRD: &str = "/usr/sbin/bird";

pub(crate) struct Bird {
    dir: TempDir,
    process: Process,
}

impl Bird {
    /// `options` go into the protocol: `passive;` and the like.
    fn start(site: &Site, options: &str) -> Self {
        let (router_port, agent_port) = (site.router_port, site.agent_port);
        let config = format!(
            r#"
protocol device {{ }}
protocol bgp weir {{
  local {ROUTER} port {router_port} as 65000;
  neighbor {AGENT} port {agent_port} as 65001;
  multihop;
  error wait time 1, 1; connect delay time 1; connect retry time 1;
  {options}
  ipv4 {{ import all; export none; }};
  ipv6 {{ import all; export none; }};
}}
"#,
        );
        Self::launch(&config, None)
    }

    /// With these protocols, in a network namespace if one is given. There it runs before other processes: a router has its CPUs
    /// for itself, and tests that measure it share theirs with other tests.
    pub(crate) fn launch(protocols: &str, netns: Option<&NetNs>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "log \"{}\" all;\ndebug protocols {{ states, events }};\nrouter id 10.0.0.1;\n{protocols}",
            dir.path().join("log").display()
        );
        std::fs::write(dir.path().join("bird.conf"), config).unwrap();
        let mut command = router(BIRD, netns);
        let child = command
            .arg("-f")
            .arg("-c")
            .arg(dir.path().join("bird.conf"))
            .arg("-s")
            .arg(dir.path().join("ctl"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let bird = Self { dir, process: Process(child) };
        until("bird answers", || bird.ask("show status"));
        bird
    }

    pub(crate) fn ask(&self, command: &str) -> Result<String, String> {
        output(
            Command::new("/usr/sbin/birdc")
                .arg("-s")
                .arg(self.dir.path().join("ctl"))
                .args(command.split(' ')),
        )
    }

    /// The prefixes it has from us.
    fn routes(&self) -> Result<Vec<String>, String> {
        let text = self.ask("show route")?;
        let mut prefixes: Vec<String> = text
            .lines()
            .filter(|line| line.contains("[weir "))
            .filter_map(|line| line.split(' ').next().map(str::to_owned))
            .collect();
        prefixes.sort();
        Ok(prefixes)
    }

    fn until_routes(&self, what: &str, expected: &[&str]) {
        until(what, || match self.routes() {
            Ok(routes) if routes == expected => Ok(()),
            seen => Err(format!("{seen:?}\n{}", self.log())),
        });
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

const BOTH: [&str; 2] = ["192.0.2.1/32", "2001:db8::1/128"];

#[test]
fn both_families_come_on_one_session_and_go_on_sigterm() {
    if !available(BIRD, "both_families_come_on_one_session_and_go_on_sigterm") {
        return;
    }
    let site = Site { peer: "med = 7\nprepend = 1\ncommunities = [\"65000:100\"]", ..Site::new() };
    let bird = Bird::start(&site, "passive; graceful restart on;");
    let mut agent = Agent::start(&site.config());
    bird.until_routes("both routes", &BOTH);
    let detail = bird.ask("show route all").unwrap();
    for expected in [
        "BGP.next_hop: 10.0.1.2",
        "BGP.next_hop: 2001:db8:1::2",
        "BGP.as_path: 65001 65001",
        "BGP.med: 7",
        "(65000,100)",
    ] {
        assert!(detail.contains(expected), "{expected} is missing:\n{detail}");
    }
    let status = agent.until_established();
    assert_eq!(peer(&status).announced, BOTH);
    assert!(status.vips.values().all(|vip| vip.announced), "{status:?}");
    let metrics = agent.metrics();
    for line in ["weir_bgp_peer_up{peer=\"tor\"} 1\n", "weir_bgp_peer_prefixes_announced{peer=\"tor\"} 2\n"] {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }

    let took = agent.stop();
    assert!(took < Duration::from_secs(3), "the farewell took {took:?}");
    // Gone at once in spite of graceful restart, because they were withdrawn.
    bird.until_routes("no routes", &[]);
    until("bird has read the farewell", || {
        let log = bird.log();
        if log.contains("n1 is stopping") { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_stop_asks_the_router_to_find_another_way_first_and_a_second_signal_ends_it() {
    if !available(BIRD, "a_stop_asks_the_router_to_find_another_way_first_and_a_second_signal_ends_it") {
        return;
    }
    let announce = "{ mode = \"always\", graceful_shutdown = \"2s\" }";
    let site = Site { announce, ..Site::new() };
    let bird = Bird::start(&site, "passive;");
    let mut agent = Agent::start(&site.config());
    bird.until_routes("both routes", &BOTH);
    let begun = std::time::Instant::now();
    agent.signal(Signal::SIGTERM);
    let asked = |agent: &Agent| {
        let detail = bird.ask("show route all")?;
        // Both routes are still there, and each asks.
        if detail.matches("(65535,0)").count() == 2 {
            Ok(())
        } else {
            Err(format!("{detail}{}", agent.log()))
        }
    };
    until("the router is asked", || asked(&agent));
    let status = agent.until("the tier", |status| {
        status.vips.values().all(|vip| vip.tier == weir_model::status::Tier::GracefulShutdown)
    });
    assert!(status.vips.values().all(|vip| vip.announced && vip.reason.contains("stopping")));
    assert!(agent.until_ended().success());
    let took = begun.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "{took:?} for 2 s");
    bird.until_routes("no routes", &[]);
    until("bird has read the farewell", || {
        let log = bird.log();
        if log.contains("n1 is stopping") { Ok(()) } else { Err(log) }
    });
    // In a hurry.
    let long = Site { announce: "{ mode = \"always\", graceful_shutdown = \"5m\" }", ..site };
    agent.configure(&long.config());
    agent.start_again("n1", |_| ());
    bird.until_routes("both routes again", &BOTH);
    agent.until_established();
    agent.signal(Signal::SIGTERM);
    until("the router is asked", || asked(&agent));
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.until_ended().code(), Some(130));
    bird.until_routes("gone with the connection", &[]);
}

#[test]
fn a_router_that_keeps_the_routes_over_a_restart_is_not_asked_to_find_another_way() {
    let test = "a_router_that_keeps_the_routes_over_a_restart_is_not_asked_to_find_another_way";
    if !available(BIRD, test) {
        return;
    }
    let announce = "{ mode = \"always\", graceful_shutdown = \"5m\" }";
    let site = Site { announce, peer: "graceful_restart = { time = \"60s\" }", ..Site::new() };
    let bird = Bird::start(&site, "passive; graceful restart on;");
    let mut agent = Agent::start(&site.config());
    bird.until_routes("both routes", &BOTH);
    agent.until_established();
    let took = agent.stop();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let detail = bird.ask("show route all").unwrap();
    assert!(detail.contains("192.0.2.1/32") && !detail.contains("(65535,0)"), "{detail}");
}

#[test]
fn a_session_reset_by_the_router_comes_back_with_all_routes() {
    if !available(BIRD, "a_session_reset_by_the_router_comes_back_with_all_routes") {
        return;
    }
    let site = Site::new();
    let bird = Bird::start(&site, "passive;");
    let agent = Agent::start(&site.config());
    bird.until_routes("both routes", &BOTH);
    let before = peer(&agent.until_established()).established_count;
    bird.ask("restart weir").unwrap();
    let status = agent.until("a new session", |status| {
        peer(status).established_count > before && peer(status).state == "Established"
    });
    assert!(peer(&status).last_error.starts_with("peer sent cease"), "{}", peer(&status).last_error);
    bird.until_routes("both routes again", &BOTH);
}

#[test]
fn a_restarted_router_learns_all_routes_again() {
    if !available(BIRD, "a_restarted_router_learns_all_routes_again") {
        return;
    }
    let site = Site::new();
    let bird = Bird::start(&site, "");
    let agent = Agent::start(&site.config());
    bird.until_routes("both routes", &BOTH);
    drop(bird);
    agent.until("session lost", |status| peer(status).state != "Established");
    let bird = Bird::start(&site, "");
    bird.until_routes("both routes after the restart", &BOTH);
}

#[test]
fn the_router_may_call_us() {
    if !available(BIRD, "the_router_may_call_us") {
        return;
    }
    let site = Site { peer: "passive = true", ..Site::new() };
    let _agent = Agent::start(&site.config());
    let bird = Bird::start(&site, "");
    bird.until_routes("both routes", &BOTH);
}

#[test]
fn a_silent_router_is_given_up_after_the_hold_time_and_taken_back() {
    if !available(BIRD, "a_silent_router_is_given_up_after_the_hold_time_and_taken_back") {
        return;
    }
    let site = Site { peer: "hold_time = \"3s\"", ..Site::new() };
    let bird = Bird::start(&site, "passive;");
    let agent = Agent::start(&site.config());
    bird.until_routes("both routes", &BOTH);
    agent.until_established();
    let begun = std::time::Instant::now();
    bird.process.signal(Signal::SIGSTOP);
    let status = agent.until("hold timer", |status| peer(status).last_error.contains("hold timer expired"));
    let took = begun.elapsed();
    assert!(peer(&status).last_error.starts_with("we sent"), "{}", peer(&status).last_error);
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(10)).contains(&took),
        "{took:?} for a hold time of 3 s"
    );
    bird.process.signal(Signal::SIGCONT);
    agent.until("session again", |s| peer(s).established_count >= 2 && peer(s).state == "Established");
    bird.until_routes("both routes again", &BOTH);
}

#[test]
fn a_reload_changes_routes_and_not_the_session() {
    if !available(BIRD, "a_reload_changes_routes_and_not_the_session") {
        return;
    }
    let mut site = Site::new();
    let bird = Bird::start(&site, "passive;");
    let agent = Agent::start(&site.config());
    bird.until_routes("both routes", &BOTH);
    site.addresses.push("192.0.2.2");
    agent.configure(&site.config());
    bird.until_routes("the new one too", &["192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128"]);
    site.addresses = vec!["192.0.2.2"];
    site.peer = "med = 99";
    agent.configure(&site.config());
    bird.until_routes("only the new one", &["192.0.2.2/32"]);
    until("the new metric", || {
        let detail = bird.ask("show route all")?;
        if detail.contains("BGP.med: 99") { Ok(()) } else { Err(detail) }
    });

    agent.configure("this is not toml");
    let status = agent.until("refused", |status| !status.config.refused.is_empty());
    assert_eq!(peer(&status).established_count, 1, "the session was never reset");
    assert_eq!(bird.routes().unwrap(), ["192.0.2.2/32"]);

    site.peer = "hold_time = \"30s\"";
    agent.configure(&site.config());
    agent.until("a session with the new hold time", |status| {
        // A changed session is another session: its count begins anew.
        peer(status).state == "Established" && status.config.refused.is_empty()
    });
    bird.until_routes("still there", &["192.0.2.2/32"]);
    site.announce = "{ mode = \"never\" }";
    agent.configure(&site.config());
    bird.until_routes("taken off the network", &[]);
}

#[test]
fn a_gated_vip_follows_the_datapath_and_outlives_its_silence() {
    if !available(BIRD, "a_gated_vip_follows_the_datapath_and_outlives_its_silence") {
        return;
    }
    let site = Site { announce: "{ rise = \"100ms\", fall = \"100ms\" }", ..Site::new() };
    let bird = Bird::start(&site, "passive;");
    let agent = Agent::start(&site.config());
    let verdict =
        |status: &weir_model::status::BgpStatus| status.vips.get("web").cloned().unwrap_or_default();
    let status = agent.until_established();
    assert!(!verdict(&status).announced, "nobody has confirmed it");
    assert_eq!(bird.routes().unwrap(), Vec::<String>::new());

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let l4 = |healthy_proxies| {
        let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        datapath_of([("web".parse().unwrap(), addresses)], healthy_proxies)
    };
    let datapath = runtime.block_on(Daemon::start(&agent, "l4.sock", &l4(1)));
    bird.until_routes("confirmed and healthy", &BOTH);
    datapath.publisher.publish(&l4(0));
    bird.until_routes("no proxy left", &[]);
    datapath.publisher.publish(&l4(1));
    bird.until_routes("a proxy is back", &BOTH);

    let proxy = |deliverable| ProxyStatus {
        config: applied(),
        vips: [(
            "web".parse().unwrap(),
            VipDelivery { deliverable, reason: "pool app is empty".into(), ..VipDelivery::default() },
        )]
        .into(),
        ..ProxyStatus::default()
    };
    let l7 = runtime.block_on(Daemon::start(&agent, "proxy.sock", &proxy(true)));
    l7.publisher.publish(&proxy(false));
    bird.until_routes("no zone can answer", &[]);
    let status = agent.until("the reason", |status| verdict(status).reason.contains("pool app is empty"));
    assert!(!verdict(&status).announced);
    l7.publisher.publish(&proxy(true));
    bird.until_routes("a zone can answer", &BOTH);

    // Both daemons die: the last verdict stands, for longer than fall.
    drop((datapath, l7));
    runtime.shutdown_timeout(Duration::from_secs(1));
    agent.until("silence noticed", |status| verdict(status).reason.contains("cannot be heard"));
    // That nothing happens can only be waited for: five times `fall`.
    std::thread::sleep(Duration::from_millis(500));
    let status = agent.status().unwrap();
    assert!(verdict(&status).announced, "{status:?}");
    assert_eq!(bird.routes().unwrap(), BOTH);
}

#[test]
fn fifty_thousand_vips_come_and_go() {
    if !available(BIRD, "fifty_thousand_vips_come_and_go") {
        return;
    }
    let site = Site::new();
    let bird = Bird::start(&site, "passive;");
    let addresses = many_addresses(50_000);
    // Beside them the one of the site, which is always announced.
    let config = unbudgeted(&site.config()) + &gated_vips(&addresses);
    let agent = Agent::start(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let datapath = runtime.block_on(Daemon::start(&agent, "l4.sock", &datapath_of_many(&addresses, 1)));
    let until_count = |what: &str, count: &str| {
        until(what, || {
            let text = bird.ask("show route count")?;
            if text.contains(&format!("{count} of {count} routes for {count} networks in table master4")) {
                Ok(())
            } else {
                Err(format!("{text}\n{}", agent.log()))
            }
        });
    };
    until_count("all are announced", "50001");
    datapath.publisher.publish(&datapath_of_many(&addresses, 0));
    until_count("all are withdrawn", "1");
    let log = agent.log();
    assert!(log.contains("further vips turned at once"), "fifty thousand lines: {} bytes", log.len());
    datapath.publisher.publish(&datapath_of_many(&addresses, 1));
    until_count("all are back", "50001");
    let peer = peer(&agent.until_established());
    assert_eq!(
        peer.established_count,
        1,
        "the session lived through it: {}\n{}",
        peer.last_error,
        agent.log()
    );
    let resident_mib = agent.resident_kib() >> 10;
    eprintln!("50,000 vips: {resident_mib} MiB");
    assert!(resident_mib < 1_024, "{resident_mib} MiB");
}

#[test]
fn a_crashed_agent_takes_its_routes_with_it() {
    if !available(BIRD, "a_crashed_agent_takes_its_routes_with_it") {
        return;
    }
    let site = Site::new();
    let bird = Bird::start(&site, "passive;");
    let agent = Agent::start(&site.config());
    bird.until_routes("both routes", &BOTH);
    drop(agent);
    bird.until_routes("no routes", &[]);
}
