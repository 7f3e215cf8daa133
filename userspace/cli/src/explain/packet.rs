//! `weir explain packet`: what a node's datapath does with one packet, by the model the loaded program is held to; with
//! `--live`, beside what the loaded program does.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use weir_core::{
    datapath::{self, Carried, Fit, Host, Socket, Step, Told, Written, from_hex, to_hex},
    explain, pcap,
};
use weir_model::{Name, Snapshot, status::L4Status};
use weir_runtime::inspect;

use super::{address_of, destination};
use crate::{
    config::Config,
    live,
    output::{self, Format, Table},
};

/// Explains step by step what a node's balancer does with one packet.
///
/// The packet is given in hex, taken from a capture, or built: --from and --to make a TCP SYN, unless a flag says
/// otherwise. What the balancer would ask its kernel is not known here: no socket, no route, every interface as wide as
/// --mtu says. --live asks the weir-l4 of the first --run-dir for what its loaded program does.
///
/// Exit status: 0 when the packet is sent, passed on or answered, 1 when it is dropped, or when program and model differ.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("packet").required(true).args(["hex", "pcap", "from"]))]
pub(super) struct Args {
    /// The configuration directory.
    dir: PathBuf,
    /// The node whose balancer gets the packet; without it, that of the first --run-dir, or the only one there is.
    #[arg(long)]
    node: Option<Name>,
    /// The Ethernet frame in hex.
    #[arg(long)]
    hex: Option<String>,
    /// A pcap or pcapng file with the frame.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Which packet of the file.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "pcap")]
    number: usize,
    /// Builds a packet from this client.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "to")]
    from: Option<SocketAddr>,
    /// Where it is sent.
    #[arg(long, value_name = "VIP:PORT|ADDRESS:PORT", requires = "from")]
    to: Option<String>,
    #[command(flatten)]
    carried: Carries,
    /// Bytes behind the last header of a packet that is built.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    payload: usize,
    /// TTL or hop limit of a packet that is built.
    #[arg(long, value_name = "N", default_value_t = 64)]
    ttl: u8,
    /// What the node's kernel has for the flow.
    #[arg(long, value_enum, default_value_t)]
    socket: Found,
    /// MTU of the node's interfaces; without it, what its weir-l4 says, else it is not looked at.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Takes the health of proxies and the MTU from the daemons with this run directory.
    #[arg(long, value_name = "DIR")]
    run_dir: Vec<PathBuf>,
    /// Runs the packet through the loaded program too.
    #[arg(long, requires = "run_dir")]
    live: bool,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// What a packet that is built carries.
#[derive(clap::Args)]
#[group(multiple = false)]
struct Carries {
    /// A TCP segment that opens a connection: the default.
    #[arg(long)]
    syn: bool,
    /// A TCP segment of an open connection.
    #[arg(long)]
    ack: bool,
    /// The last TCP segment of a connection.
    #[arg(long)]
    fin: bool,
    /// A TCP reset.
    #[arg(long)]
    rst: bool,
    /// A UDP datagram.
    #[arg(long)]
    udp: bool,
    /// An ICMP echo request.
    #[arg(long)]
    echo: bool,
}

impl Carries {
    fn carried(&self) -> Carried {
        match self {
            Self { udp: true, .. } => Carried::Udp,
            Self { echo: true, .. } => Carried::Echo,
            Self { ack: true, .. } => Carried::Tcp(Carried::ACK),
            Self { fin: true, .. } => Carried::Tcp(Carried::FIN | Carried::ACK),
            Self { rst: true, .. } => Carried::Tcp(Carried::RST),
            _ => Carried::Tcp(Carried::SYN),
        }
    }
}

/// What a socket lookup finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Found {
    /// Nothing.
    #[default]
    None,
    /// A socket of the flow's own; of a UDP flow that hosts remember, that it is remembered.
    Own,
    /// Only a listener.
    Listener,
    /// A listener whose SYN cookie the packet answers.
    Cookie,
}

/// What is said.
#[derive(Serialize)]
struct Answer {
    node: Name,
    /// The packet, in hex.
    packet: String,
    /// The model over the configuration.
    model: Told,
    /// The loaded program, and the model over what is in its kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<Fit>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let Config { snapshot, .. } = Config::read(&args.dir)?;
    let status = l4_status(&args.run_dir)?;
    let node = node(args, &snapshot, status.as_ref())?;
    let frame = frame(args, &snapshot)?;
    let health = live::proxies(&snapshot, &args.run_dir)?;
    let servers = live::servers(&snapshot, &args.run_dir)?;
    let mut image = explain::image(&snapshot, &node, &health, &servers, SystemTime::now())?;
    image.config.mtu = args.mtu.or_else(|| status.as_ref().map(mtu_of)).unwrap_or(0);
    let otherwise = match args.socket {
        Found::None => None,
        Found::Own => Some(Socket::Own),
        Found::Listener => Some(Socket::Listener),
        Found::Cookie => Some(Socket::AwaitsCookie),
    };
    let names = explain::names(&snapshot);
    // Who has a flow's socket remembers a UDP flow.
    let has_other_udp_flows = args.socket == Found::Own;
    let mut host = Host { otherwise, has_other_udp_flows, ..Host::default() };
    let model = datapath::explain(&image, &mut host, &frame, &names);
    let live = match args.run_dir.first().filter(|_| args.live) {
        Some(run_dir) => {
            let socket = run_dir.join(inspect::SOCKET);
            let fit = live::block_on(inspect::run(&socket, &frame))?;
            Some(fit.with_context(|| format!("ask weir-l4 at {}", socket.display()))?)
        }
        None => None,
    };
    let answer = Answer { node, packet: to_hex(&frame), model: model.into(), live };
    match args.output {
        Format::Json => output::emit_json(&answer)?,
        Format::Table => output::emit(&text(&answer))?,
    }
    let is_well = answer
        .live
        .as_ref()
        .map_or(answer.model.action != "drop", |fit| fit.agrees && fit.program.action != "drop");
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The status of the first daemon that answers.
fn l4_status(run_dirs: &[PathBuf]) -> Result<Option<L4Status>> {
    let Some(run_dir) = run_dirs.first() else { return Ok(None) };
    Ok(live::block_on(live::fetch::<L4Status>(run_dir, "l4.sock"))?.ok())
}

/// What tunnels have to fit into, as weir-l4 takes it: the smallest MTU, unless XDP is generic.
fn mtu_of(status: &L4Status) -> u32 {
    if status.interfaces.iter().any(|interface| interface.mode == "generic") {
        return 0;
    }
    status.interfaces.iter().map(|interface| interface.mtu).min().unwrap_or(0)
}

fn node(args: &Args, snapshot: &Snapshot, status: Option<&L4Status>) -> Result<Name> {
    let said = args.node.clone().or_else(|| status.and_then(|status| status.node.parse().ok()));
    let mut all = snapshot.nodes.keys();
    let node = match (said, all.next(), all.next()) {
        (Some(node), ..) => node,
        (None, Some(only), None) => only.clone(),
        _ => bail!("say which node gets the packet: --node NAME"),
    };
    if !snapshot.nodes.contains_key(&node) {
        bail!("there is no node {node}");
    }
    Ok(node)
}

fn frame(args: &Args, snapshot: &Snapshot) -> Result<Vec<u8>> {
    if let Some(hex) = &args.hex {
        return from_hex(hex).context("--hex: not pairs of hex digits");
    }
    if let Some(path) = &args.pcap {
        return from_file(path, args.number);
    }
    let (Some(source), Some(to)) = (args.from, &args.to) else { bail!("--from needs --to") };
    let destination = address_of(snapshot, &destination(to)?, source.ip())
        .with_context(|| format!("{to}: no such VIP with an address of the client's family"))?;
    let written = Written {
        source,
        destination,
        carried: args.carried.carried(),
        payload_len: args.payload,
        hops_left: args.ttl,
        sequence: 1,
    };
    written.frame().context("the addresses are of different families, or the payload is too long")
}

fn from_file(path: &Path, number: usize) -> Result<Vec<u8>> {
    let file = fs::read(path).with_context(|| path.display().to_string())?;
    pcap::frame(&file, number).with_context(|| format!("{}, packet {number}", path.display()))
}

fn text(answer: &Answer) -> String {
    let model = &answer.model;
    let mut text = format!("node {}, as configured\n{}", answer.node, steps(&model.steps));
    if !model.frame.is_empty() {
        text += &format!("\n{}\n", model.frame);
    }
    let Some(fit) = &answer.live else { return text };
    let Fit { program, model: live, agrees } = fit;
    text += &format!("\nthe loaded program: {}, counted under {}\n", program.action, program.reason);
    if !program.frame.is_empty() {
        text += &format!("{}\n", program.frame);
    }
    if !agrees {
        text += &format!(
            "\nPROGRAM AND MODEL DIFFER: over what is in the kernel the model says {}, counted under {}.\nPlease report \
             this packet: {}\n{}",
            live.action,
            live.reason,
            answer.packet,
            steps(&live.steps)
        );
    } else if live.steps != model.steps {
        text += &format!(
            "the model over what is in the kernel agrees, and differs from the configuration's:\n{}",
            steps(&live.steps)
        );
    } else {
        text += "the model agrees\n";
    }
    text
}

fn steps(steps: &[Step]) -> String {
    let mut table = Table::new(["STAGE", "DECISION", "REASON"]);
    for step in steps {
        let stage = serde_json::to_value(step.stage).ok();
        let stage = stage.and_then(|stage| stage.as_str().map(str::to_owned)).unwrap_or_default();
        table.row([stage, step.decision.clone(), step.reason.clone()]);
    }
    table.render()
}
