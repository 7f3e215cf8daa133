//! `weir explain`: every decision about one request, by the code that decides in the proxy.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use weir_core::explain::{self, Destination, Question};
use weir_model::{Name, Protocol};

use crate::{
    config::Config,
    live,
    output::{self, Format, Table},
};

/// Explains where a request goes and why, from the VIP down to the server.
///
/// Without --run-dir every server is taken to be up. Exit status: 0 when a server is reached, 1 when the request ends
/// before.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration directory.
    dir: PathBuf,
    /// Where the request is sent: NAME:PORT of a VIP, or ADDRESS:PORT.
    #[arg(value_name = "VIP:PORT|ADDRESS:PORT")]
    to: String,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS")]
    source: IpAddr,
    /// The Host field.
    #[arg(long, default_value = "")]
    host: String,
    /// The path.
    #[arg(long, default_value = "/")]
    path: String,
    /// The value of the zone cookie.
    #[arg(long, value_name = "VALUE")]
    cookie: Option<String>,
    /// The node whose proxy receives it.
    #[arg(long, conflicts_with = "zone")]
    node: Option<Name>,
    /// The zone in which it is received.
    #[arg(long)]
    zone: Option<Name>,
    /// UDP in place of TCP.
    #[arg(long)]
    udp: bool,
    /// Takes the health of servers from the proxy with this run directory.
    #[arg(long, value_name = "DIR")]
    run_dir: Vec<PathBuf>,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Config { snapshot, .. } = Config::read(&args.dir)?;
    let seen = live::seen(&snapshot, &args.run_dir)?;
    let zone = match (&args.node, &args.zone) {
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
    let question = Question {
        to: destination(&args.to)?,
        protocol: if args.udp { Protocol::Udp } else { Protocol::Tcp },
        source: args.source,
        host: &args.host,
        path: &args.path,
        cookie: args.cookie.as_deref(),
        zone: zone.as_ref(),
        balancer: None,
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
