//! `weir status`: what the daemons of one or several nodes say of themselves.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use serde::Serialize;
use weir_model::{
    ProbeVia,
    status::{BgpStatus, ConfigStatus, Health, L4Status, ProxyStatus},
    units,
};

use crate::{
    live,
    output::{self, Format, Table},
    rehearse,
};

/// Shows what the daemons say of themselves: configuration, VIPs, sessions, listeners, pools.
///
/// Exit status: 0 when at least one daemon answers, 1 when none does.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the daemons keep their sockets; once per node.
    #[arg(long, value_name = "DIR", default_value = "/run/weir", env = "WEIR_RUN_DIR")]
    run_dir: Vec<PathBuf>,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// One run directory.
#[derive(Serialize)]
struct Node {
    run_dir: PathBuf,
    l4: Answer<L4Status>,
    proxy: Answer<ProxyStatus>,
    bgp: Answer<BgpStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Answer<T> {
    Status(Box<T>),
    Error(String),
}

impl<T> Answer<T> {
    fn status(&self) -> Option<&T> {
        match self {
            Self::Status(status) => Some(status),
            Self::Error(_) => None,
        }
    }
}

impl<T> From<Result<T, String>> for Answer<T> {
    fn from(result: Result<T, String>) -> Self {
        result.map_or_else(Self::Error, |status| Self::Status(Box::new(status)))
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let nodes = live::block_on(async {
        let mut nodes = Vec::new();
        for run_dir in &args.run_dir {
            nodes.push(ask(run_dir).await);
        }
        nodes
    })?;
    match args.output {
        Format::Json => output::emit_json(&nodes)?,
        Format::Table => output::emit(&tables(&nodes))?,
    }
    let answers = |node: &Node| {
        node.l4.status().is_some() || node.proxy.status().is_some() || node.bgp.status().is_some()
    };
    Ok(if nodes.iter().any(answers) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(run_dir: &Path) -> Node {
    let (l4, proxy, bgp) = tokio::join!(
        live::fetch(run_dir, "l4.sock"),
        live::fetch(run_dir, "proxy.sock"),
        live::fetch(run_dir, "bgp.sock"),
    );
    Node { run_dir: run_dir.to_owned(), l4: l4.into(), proxy: proxy.into(), bgp: bgp.into() }
}

impl Node {
    /// The node's name, or the directory where no daemon tells it.
    fn name(&self) -> String {
        let names = [
            self.l4.status().map(|status| &status.node),
            self.proxy.status().map(|status| &status.node),
            self.bgp.status().map(|status| &status.node),
        ];
        let name = names.into_iter().flatten().find(|name| !name.is_empty());
        name.cloned().unwrap_or_else(|| self.run_dir.display().to_string())
    }
}

fn tables(nodes: &[Node]) -> String {
    let sections = [
        daemons(nodes),
        vips(nodes),
        peers(nodes),
        bfd(nodes),
        listeners(nodes),
        pools(nodes),
        probes(nodes),
        services(nodes),
        troubles(nodes),
    ];
    let texts: Vec<String> = sections.iter().map(Table::render).filter(|text| !text.is_empty()).collect();
    texts.join("\n")
}

fn daemons(nodes: &[Node]) -> Table {
    let mut table = Table::new(["NODE", "DAEMON", "PID", "GENERATION", "STATE"]);
    for node in nodes {
        let mut row = |daemon: &str, answer: Result<(u32, &ConfigStatus, String), &String>| match answer {
            Ok((pid, config, state)) => {
                let state = match config.refused.len() {
                    0 => state,
                    n => format!("{state}; refuses a newer configuration: {n} problems"),
                };
                let generation = config.generation.to_string();
                table.row([node.name(), daemon.into(), pid.to_string(), generation, state]);
            }
            Err(error) => table.row([node.name(), daemon.into(), "-".into(), "-".into(), error.clone()]),
        };
        row(
            "weir-l4",
            match &node.l4 {
                Answer::Status(s) => {
                    let attached: Vec<String> =
                        s.interfaces.iter().map(|i| format!("{} ({})", i.name, i.mode)).collect();
                    let state = match (s.errors.len(), attached.len()) {
                        (0, 0) => "not attached".to_owned(),
                        (0, _) => format!("forwarding on {}", attached.join(", ")),
                        (n, _) => format!("{n} errors"),
                    };
                    Ok((s.pid, &s.config, state))
                }
                Answer::Error(error) => Err(error),
            },
        );
        row(
            "weir-proxy",
            match &node.proxy {
                Answer::Status(s) => {
                    Ok((s.pid, &s.config, if s.draining { "draining".into() } else { "serving".into() }))
                }
                Answer::Error(error) => Err(error),
            },
        );
        row(
            "weir-bgp",
            match &node.bgp {
                Answer::Status(s) => {
                    let up = s.peers.values().filter(|peer| peer.state == "Established").count();
                    Ok((s.pid, &s.config, format!("{up} of {} sessions established", s.peers.len())))
                }
                Answer::Error(error) => Err(error),
            },
        );
    }
    table
}

fn vips(nodes: &[Node]) -> Table {
    let mut table = Table::new(["VIP", "NODE", "DATAPATH", "DELIVERABLE", "ANNOUNCED", "TIER", "WHY"]);
    let yes_no = |yes: bool| if yes { "yes".to_owned() } else { "no".to_owned() };
    for node in nodes {
        let l4 = node.l4.status().map(|s| &s.vips);
        let proxy = node.proxy.status().map(|s| &s.vips);
        let bgp = node.bgp.status().map(|s| &s.vips);
        let names: std::collections::BTreeSet<_> = (l4.into_iter().flat_map(|vips| vips.keys()))
            .chain(proxy.into_iter().flat_map(|vips| vips.keys()))
            .chain(bgp.into_iter().flat_map(|vips| vips.keys()))
            .collect();
        for name in names {
            let l4 = l4.and_then(|vips| vips.get(name));
            let delivery = proxy.and_then(|vips| vips.get(name));
            let announce = bgp.and_then(|vips| vips.get(name));
            let reasons = [delivery.map(|d| &d.reason), announce.map(|a| &a.reason)];
            let reasons: Vec<&str> =
                reasons.into_iter().flatten().map(String::as_str).filter(|r| !r.is_empty()).collect();
            table.row([
                name.to_string(),
                node.name(),
                l4.map_or("-".into(), |vip| {
                    let of = vip.pool.as_ref().map_or("proxies".into(), |pool| format!("servers of {pool}"));
                    format!("{} {of}, {} packets", vip.healthy_proxies, vip.packets)
                }),
                delivery.map_or("-".into(), |d| yes_no(d.deliverable)),
                announce.map_or("-".into(), |a| yes_no(a.announced)),
                announce.filter(|a| a.announced).map_or("-", |a| rehearse::tier(a.tier)).into(),
                reasons.join("; "),
            ]);
        }
    }
    table
}

fn peers(nodes: &[Node]) -> Table {
    let mut table = Table::new(["PEER", "NODE", "ADDRESS", "STATE", "SINCE", "ANNOUNCED", "LAST ERROR"]);
    for node in nodes {
        for (name, peer) in node.bgp.status().iter().flat_map(|status| &status.peers) {
            table.row([
                name.to_string(),
                node.name(),
                peer.address.clone(),
                peer.state.clone(),
                peer.since.map_or("-".into(), |since| since.to_string()),
                peer.announced.len().to_string(),
                peer.last_error.clone(),
            ]);
        }
    }
    table
}

fn bfd(nodes: &[Node]) -> Table {
    let mut table = Table::new([
        "BFD PEER", "NODE", "STATE", "ROUTER", "SINCE", "SEND", "RECEIVE", "DETECT", "UPS", "FAILURES", "WHY",
    ]);
    let print = |interval: Option<std::time::Duration>| interval.map_or("-".into(), units::duration::print);
    for node in nodes {
        let peers = node.bgp.status().into_iter().flat_map(|status| &status.peers);
        for (name, bfd) in peers.filter_map(|(name, peer)| Some((name, peer.bfd.as_ref()?))) {
            let mut why: Vec<&str> = [bfd.error.as_str(), bfd.diagnostic.as_str()].into();
            why.extend(bfd.holds_bgp.then_some("holds BGP"));
            why.retain(|text| !text.is_empty());
            table.row([
                name.to_string(),
                node.name(),
                bfd.state.clone(),
                bfd.remote_state.clone(),
                bfd.since.map_or("-".into(), |since| since.to_string()),
                print(bfd.transmit_interval),
                print(bfd.receive_interval),
                print(bfd.detection_time),
                bfd.ups.to_string(),
                bfd.failures.to_string(),
                why.join("; "),
            ]);
        }
    }
    table
}

fn listeners(nodes: &[Node]) -> Table {
    let mut table = Table::new(["LISTENER", "NODE", "ADDRESSES", "CONNECTIONS", "REQUESTS", "ERROR"]);
    for node in nodes {
        for (name, listener) in node.proxy.status().iter().flat_map(|status| &status.listeners) {
            table.row([
                name.to_string(),
                node.name(),
                listener.addresses.join(" "),
                listener.connections.to_string(),
                listener.requests.to_string(),
                listener.error.clone(),
            ]);
        }
    }
    table
}

fn pools(nodes: &[Node]) -> Table {
    let mut table =
        Table::new(["POOL", "SERVER", "NODE", "HEALTH", "ACTIVE", "REQUESTS", "FAILURES", "REASON"]);
    for node in nodes {
        // Servers that VIPs point straight at: weir-l4 checks them, and knows nothing of requests.
        for (pool, servers) in node.l4.status().iter().flat_map(|status| &status.servers) {
            for (name, health) in servers {
                let row = [
                    pool.as_str(),
                    name.as_str(),
                    &node.name(),
                    word(*health),
                    "-",
                    "-",
                    "-",
                    "as weir-l4 sees it",
                ];
                table.row(row.map(str::to_owned));
            }
        }
        for (pool, status) in node.proxy.status().iter().flat_map(|status| &status.pools) {
            for (name, server) in &status.servers {
                table.row([
                    pool.to_string(),
                    name.to_string(),
                    node.name(),
                    word(server.health).into(),
                    server.active.to_string(),
                    server.requests.to_string(),
                    server.failures.to_string(),
                    server.reason.clone(),
                ]);
            }
        }
    }
    table
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Unknown => "unknown",
        Health::Up => "up",
        Health::Down => "DOWN",
        Health::Draining => "draining",
    }
}

/// What balancers know of proxies and servers, each way of probing by itself.
fn probes(nodes: &[Node]) -> Table {
    let mut table = Table::new(["PROBE OF", "NODE", "VIA", "HEALTH", "REASON"]);
    for node in nodes {
        for probe in node.l4.status().iter().flat_map(|status| &status.probes) {
            let of = match &probe.pool {
                None => format!("proxy {}", probe.target),
                Some(pool) => format!("server {} of {pool}", probe.target),
            };
            let via = match probe.via {
                ProbeVia::Direct => "direct",
                ProbeVia::Tunnel => "tunnel",
            };
            table.row([of, node.name(), via.into(), word(probe.health).into(), probe.reason.clone()]);
        }
    }
    table
}

/// Services of VIPs that do not answer, or of which nobody knows, by whoever asked.
fn services(nodes: &[Node]) -> Table {
    let mut table = Table::new(["SERVICE NOT UP", "VIP", "NODE", "ASKED BY", "HEALTH", "REASON"]);
    for node in nodes {
        let l4 = node.l4.status().into_iter().flat_map(|status| &status.vips);
        let l4 = l4.map(|(vip, status)| (vip, "weir-l4", &status.services));
        let proxy = node.proxy.status().into_iter().flat_map(|status| &status.vips);
        let proxy = proxy.map(|(vip, status)| (vip, "weir-proxy", &status.services));
        for (vip, daemon, services) in l4.chain(proxy) {
            for (service, status) in services.iter().filter(|(_, status)| status.health != Health::Up) {
                let health = word(status.health).into();
                let reason = status.reason.clone();
                table.row([service.clone(), vip.to_string(), node.name(), daemon.into(), health, reason]);
            }
        }
    }
    table
}

fn troubles(nodes: &[Node]) -> Table {
    let mut table = Table::new(["NODE", "DAEMON", "TROUBLE"]);
    for node in nodes {
        let configs = [
            ("weir-l4", node.l4.status().map(|s| &s.config)),
            ("weir-proxy", node.proxy.status().map(|s| &s.config)),
            ("weir-bgp", node.bgp.status().map(|s| &s.config)),
        ];
        for (daemon, config) in configs {
            for problem in config.iter().flat_map(|config| &config.refused) {
                table.row([node.name(), daemon.into(), format!("refused: {problem}")]);
            }
        }
        for error in node.l4.status().iter().flat_map(|status| &status.errors) {
            table.row([node.name(), "weir-l4".into(), error.clone()]);
        }
    }
    table
}
