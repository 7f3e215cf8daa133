//! `weir explain`: every decision about one request, by the code that decides in the proxy; or about one packet.

mod packet;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use weir_core::{
    explain::{self, Balanced, Destination, Question},
    health::HealthView,
};
use weir_model::{Admin, Name, Protocol, Snapshot};

use crate::{
    config::Config,
    live,
    output::{self, Format, Table},
};

/// Explains where a request goes and why, from the VIP down to the server; or what the datapath does with a packet.
///
/// Without --run-dir every server is taken to be up. Exit status: 0 when a server is reached, 1 when the request ends
/// before.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    instead: Option<Instead>,
    #[command(flatten)]
    request: Option<Request>,
}

#[derive(clap::Subcommand)]
enum Instead {
    Packet(packet::Args),
}

/// A request.
#[derive(clap::Args)]
struct Request {
    /// The configuration directory.
    dir: PathBuf,
    /// Where the request is sent: NAME:PORT of a VIP, or ADDRESS:PORT.
    #[arg(value_name = "VIP:PORT|ADDRESS:PORT")]
    to: String,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS")]
    source: IpAddr,
    /// The client's port; with it the balancer's choice is known.
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
    /// The Host field.
    #[arg(long, default_value = "")]
    host: String,
    /// The path.
    #[arg(long, default_value = "/")]
    path: String,
    /// The value of the zone cookie.
    #[arg(long, value_name = "VALUE")]
    cookie: Option<String>,
    /// The node whose balancer gets the first packet.
    #[arg(long, conflicts_with = "zone")]
    node: Option<Name>,
    /// The zone in which it is received.
    #[arg(long)]
    zone: Option<Name>,
    /// UDP in place of TCP.
    #[arg(long)]
    udp: bool,
    /// Takes the health of servers and proxies from the daemons with this run directory.
    #[arg(long, value_name = "DIR")]
    run_dir: Vec<PathBuf>,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match (&args.instead, &args.request) {
        (Some(Instead::Packet(args)), _) => packet::run(args),
        (None, Some(request)) => explain_request(request),
        (None, None) => bail!("say a directory and where the request is sent"),
    }
}

fn explain_request(args: &Request) -> Result<ExitCode> {
    let Config { snapshot, .. } = Config::read(&args.dir)?;
    let seen = live::seen(&snapshot, &args.run_dir)?;
    let mut zone = match (&args.node, &args.zone) {
        (Some(node), _) => match snapshot.nodes.get(node) {
            Some(node) => Some(node.zone.clone()),
            None => bail!("there is no node {node}"),
        },
        (None, Some(zone)) if !snapshot.zones.contains_key(zone) => bail!("there is no zone {zone}"),
        (None, Some(zone)) => Some(zone.clone()),
        (None, None) => seen.zone.as_deref().and_then(|zone| zone.parse().ok()),
    };
    let now = SystemTime::now();
    let failovers: Vec<_> = snapshot.failovers.values().filter(|failover| failover.is_active(now)).collect();
    let to = destination(&args.to)?;
    let protocol = if args.udp { Protocol::Udp } else { Protocol::Tcp };
    let balancer = balancer(args, &snapshot, &seen.health, &to, protocol, zone.as_ref())?;
    if let Some(proxy) = balancer.as_ref().and_then(|balanced| snapshot.nodes.get(&balanced.owner)) {
        zone = Some(proxy.zone.clone());
    }
    let question = Question {
        to,
        protocol,
        source: args.source,
        host: &args.host,
        path: &args.path,
        cookie: args.cookie.as_deref(),
        zone: zone.as_ref(),
        balancer,
        now_unix: now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    let answer = explain::explain(&snapshot, &seen.health, &failovers, &question);
    match args.output {
        Format::Json => output::emit_json(&answer)?,
        Format::Table => {
            let mut table = Table::new(["STAGE", "DECISION", "REASON"]);
            for step in &answer.steps {
                let stage = format!("{:?}", step.stage).to_lowercase();
                table.row([stage, step.decision.clone(), step.reason.clone()]);
            }
            output::emit(&format!("{}\n{}\n", table.render(), seen.origin))?;
        }
    }
    Ok(if answer.delivered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The balancer's choice, when the flow and a balancer that could get it are known.
fn balancer(
    args: &Request,
    snapshot: &Snapshot,
    servers: &HealthView,
    to: &Destination,
    protocol: Protocol,
    zone: Option<&Name>,
) -> Result<Option<Balanced>> {
    let Some(source_port) = args.source_port else { return Ok(None) };
    let Some(destination) = address_of(snapshot, to, args.source) else { return Ok(None) };
    let Some((_, vip)) = snapshot.vip_at(destination.ip()) else { return Ok(None) };
    let members = snapshot.groups.get(&vip.group).map_or(&[][..], |group| &group.nodes);
    let stands_in = |name: &&Name| {
        let node = snapshot.nodes.get(*name);
        node.is_some_and(|node| node.admin == Admin::Active && zone.is_none_or(|zone| node.zone == *zone))
    };
    // Any balancer of the zone decides alike; that is the point of Maglev.
    let Some(node) = args.node.as_ref().or_else(|| members.iter().find(stands_in)) else { return Ok(None) };
    let health = live::proxies(snapshot, &args.run_dir)?;
    let source = SocketAddr::new(args.source, source_port);
    Ok(explain::balance(snapshot, node, &health, servers, protocol, source, destination))
}

/// The address of a destination in the family of whoever sends there.
fn address_of(snapshot: &Snapshot, to: &Destination, source: IpAddr) -> Option<SocketAddr> {
    match to {
        Destination::Address(address) => Some(*address),
        Destination::Vip(name, port) => {
            let same_family = |address: &&IpAddr| address.is_ipv4() == source.is_ipv4();
            let address = snapshot.vips.get(name)?.addresses.iter().find(same_family)?;
            Some(SocketAddr::new(*address, *port))
        }
    }
}

fn destination(text: &str) -> Result<Destination> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Destination::Address(address));
    }
    let (name, port) = text
        .rsplit_once(':')
        .with_context(|| format!("{text:?} has no port: write VIP:PORT, ADDRESS:PORT or [ADDRESS]:PORT"))?;
    let port = port.parse().with_context(|| format!("{port:?} is not a port"))?;
    let name = name.parse().with_context(|| format!("{text:?} is neither VIP:PORT nor ADDRESS:PORT"))?;
    Ok(Destination::Vip(name, port))
}
