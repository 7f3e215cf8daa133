//! `weir bgp`: the looking glass. What each router was told, what was agreed with it, and why a VIP is announced or not.
//!
//! `weir status` has a line per session and per VIP, of every daemon; here is all that `weir-bgp` knows.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::Result;
use ipnet::IpNet;
use serde::Serialize;
use weir_model::{
    Name,
    status::{AnnounceStatus, BgpStatus, PeerStatus, RouteStatus},
};

use crate::{
    live,
    output::{self, Format, Table},
    rehearse,
};

/// Shows what the routers were told: sessions, routes, and why a VIP is announced or not.
///
/// Exit status: 0 when at least one weir-bgp answers, 1 when none does. `diff`, the dry run of a configuration, has its own.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Sessions: state, what was agreed, counters, and the last words of both sides.
    Peers(Where),
    /// Routes as they were announced, with their attributes, and those a router is not told.
    Routes(Where),
    /// VIPs: announced or not, how well, since when, why, and to whom.
    Vips(Where),
    #[command(visible_alias = "dry-run")]
    Diff(Box<rehearse::Args>),
}

#[derive(clap::Args)]
struct Where {
    /// Only this peer (this VIP, for vips).
    name: Option<Name>,
    /// Where weir-bgp keeps its socket; once per node.
    #[arg(long, value_name = "DIR", default_value = "/run/weir", env = "WEIR_RUN_DIR")]
    run_dir: Vec<PathBuf>,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// One VIP, with the peers that were told of it.
#[derive(Serialize)]
struct VipView<'a> {
    #[serde(flatten)]
    verdict: &'a AnnounceStatus,
    /// Peers that were told at least one of its addresses.
    sessions: Vec<&'a Name>,
}

/// The routes of one peer.
#[derive(Serialize)]
struct RoutesView<'a> {
    announced: &'a [RouteStatus],
    refused: &'a BTreeMap<String, String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let place = match &args.verb {
        Verb::Peers(place) | Verb::Routes(place) | Verb::Vips(place) => place,
        Verb::Diff(args) => return rehearse::run(args),
    };
    let mut nodes: Vec<BgpStatus> = Vec::new();
    for run_dir in &place.run_dir {
        match live::block_on(live::fetch::<BgpStatus>(run_dir, "bgp.sock"))? {
            Ok(status) => nodes.push(status),
            Err(error) => eprintln!("weir: weir-bgp in {}: {error}", run_dir.display()),
        }
    }
    let wanted = |name: &Name| place.name.as_ref().is_none_or(|only| only == name);
    let peers = |node: &BgpStatus| -> BTreeMap<Name, PeerStatus> {
        node.peers.iter().filter(|(name, _)| wanted(name)).map(|(n, p)| (n.clone(), p.clone())).collect()
    };
    match (&args.verb, place.output) {
        (Verb::Peers(_), Format::Table) => output::emit(&peer_tables(&nodes, &peers))?,
        (Verb::Peers(_), Format::Json) => {
            let view: BTreeMap<&str, _> =
                nodes.iter().map(|node| (node.node.as_str(), peers(node))).collect();
            output::emit_json(&view)?;
        }
        (Verb::Routes(_), Format::Table) => output::emit(&route_tables(&nodes, &peers))?,
        (Verb::Routes(_), Format::Json) => {
            let peers: Vec<(&str, BTreeMap<Name, PeerStatus>)> =
                nodes.iter().map(|node| (node.node.as_str(), peers(node))).collect();
            let view: BTreeMap<&str, BTreeMap<&Name, RoutesView<'_>>> = peers
                .iter()
                .map(|(node, peers)| {
                    fn routes(peer: &PeerStatus) -> RoutesView<'_> {
                        RoutesView { announced: &peer.routes, refused: &peer.refused }
                    }
                    (*node, peers.iter().map(|(name, peer)| (name, routes(peer))).collect())
                })
                .collect();
            output::emit_json(&view)?;
        }
        (Verb::Vips(_) | Verb::Diff(_), format) => vips(&nodes, &wanted, format)?,
    }
    Ok(if nodes.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

type Peers<'a> = &'a dyn Fn(&BgpStatus) -> BTreeMap<Name, PeerStatus>;

fn peer_tables(nodes: &[BgpStatus], peers: Peers<'_>) -> String {
    let mut sessions =
        Table::new(["PEER", "NODE", "ADDRESS", "AS", "STATE", "SINCE", "UP", "ROUTES", "REFUSED"]);
    let mut terms = Table::new(["PEER", "NODE", "ROUTER ID", "FAMILIES", "HOLD", "CAPABILITIES"]);
    let mut counters =
        Table::new(["PEER", "NODE", "SENT", "RECEIVED", "UPDATES", "MALFORMED", "PREFIXES IGNORED"]);
    let mut words = Table::new(["PEER", "NODE", "WHAT", "WORDS"]);
    for node in nodes {
        for (name, peer) in peers(node) {
            let cell = || [name.to_string(), node.node.clone()];
            let [peer_name, node_name] = cell();
            sessions.row([
                peer_name,
                node_name,
                peer.address.clone(),
                peer.asn.to_string(),
                peer.state.clone(),
                peer.since.map_or("-".into(), |since| since.to_string()),
                format!("{}x", peer.established_count),
                peer.routes.len().to_string(),
                peer.refused.len().to_string(),
            ]);
            if let Some(agreed) = &peer.agreed {
                let [peer_name, node_name] = cell();
                terms.row([
                    peer_name,
                    node_name,
                    agreed.router_id.clone(),
                    agreed.families.join(" "),
                    format!("{}s", agreed.hold_time_s),
                    agreed.capabilities.join(", "),
                ]);
            }
            let [peer_name, node_name] = cell();
            counters.row([
                peer_name,
                node_name,
                peer.messages_sent.to_string(),
                peer.messages_received.to_string(),
                format!("{} / {}", peer.updates_sent, peer.updates_received),
                peer.updates_malformed.to_string(),
                peer.prefixes_received.to_string(),
            ]);
            let said = [
                ("last error", &peer.last_error),
                ("we sent", &peer.last_sent),
                ("peer sent", &peer.last_received),
                ("received", &peer.received.join(" ")),
            ];
            for (what, text) in said.into_iter().filter(|(_, text)| !text.is_empty()) {
                let [peer_name, node_name] = cell();
                words.row([peer_name, node_name, what.to_owned(), text.clone()]);
            }
        }
    }
    joined([sessions, terms, counters, words])
}

fn route_tables(nodes: &[BgpStatus], peers: Peers<'_>) -> String {
    let mut routes =
        Table::new(["PREFIX", "PEER", "NODE", "NEXT HOP", "AS PATH", "MED", "LOCAL PREF", "COMMUNITIES"]);
    let mut refused = Table::new(["NOT TOLD", "PEER", "NODE", "WHY"]);
    let number = |value: Option<u32>| value.map_or("-".into(), |value| value.to_string());
    for node in nodes {
        for (name, peer) in peers(node) {
            for route in &peer.routes {
                let path: Vec<String> = route.as_path.iter().map(u32::to_string).collect();
                routes.row([
                    route.prefix.clone(),
                    name.to_string(),
                    node.node.clone(),
                    route.next_hop.clone(),
                    path.join(" "),
                    number(route.med),
                    number(route.local_pref),
                    route.communities.join(" "),
                ]);
            }
            for (prefix, why) in &peer.refused {
                refused.row([prefix.clone(), name.to_string(), node.node.clone(), why.clone()]);
            }
        }
    }
    joined([routes, refused])
}

fn vips(nodes: &[BgpStatus], wanted: &dyn Fn(&Name) -> bool, format: Format) -> Result<()> {
    let mut view: BTreeMap<&str, BTreeMap<&Name, VipView<'_>>> = BTreeMap::new();
    for node in nodes {
        for (name, verdict) in node.vips.iter().filter(|(name, _)| wanted(name)) {
            let prefixes: Vec<String> =
                verdict.addresses.iter().map(|address| IpNet::from(*address).to_string()).collect();
            let told = |peer: &PeerStatus| peer.announced.iter().any(|prefix| prefixes.contains(prefix));
            let sessions = node.peers.iter().filter(|(_, peer)| told(peer)).map(|(name, _)| name).collect();
            view.entry(&node.node).or_default().insert(name, VipView { verdict, sessions });
        }
    }
    if format == Format::Json {
        return output::emit_json(&view);
    }
    let mut table = Table::new(["VIP", "NODE", "ANNOUNCED", "TIER", "SINCE", "WHY", "SESSIONS"]);
    for (node, vips) in &view {
        for (name, VipView { verdict, sessions }) in vips {
            let names: Vec<&str> = sessions.iter().map(|name| name.as_str()).collect();
            table.row([
                name.to_string(),
                (*node).to_owned(),
                if verdict.announced { "yes".into() } else { "no".into() },
                if verdict.announced { rehearse::tier(verdict.tier).into() } else { "-".into() },
                verdict.since.map_or("-".into(), |since| since.to_string()),
                verdict.reason.clone(),
                names.join(" "),
            ]);
        }
    }
    output::emit(&table.render())
}

fn joined<const N: usize>(tables: [Table; N]) -> String {
    let texts: Vec<String> = tables.iter().map(Table::render).filter(|text| !text.is_empty()).collect();
    texts.join("\n")
}
