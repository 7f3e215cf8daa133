//! `weir bgp diff`: what the routers would be told if another configuration were taken, before they are.
//!
//! The running `weir-bgp` is asked, which alone knows its verdicts and what each router has agreed to; where none runs, the program
//! itself says what it would say from a start.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use weir_model::{
    Name,
    rehearsal::{Candidate, REHEARSAL_PAGE, Rehearsal, SaidKind},
    status::Tier,
    units,
};
use weir_runtime::status::{self, FetchError};

use crate::{
    config::Config,
    live,
    output::{self, Format, Table},
};

/// Prefixes of one message that are shown without `-v`.
const PREFIXES_SHOWN: usize = 8;

/// Exit status when the daemons would refuse the configuration.
const REFUSED: u8 = 2;

/// Dry run: shows the exact UPDATEs each router would be sent if weir-bgp took another configuration. Sends nothing.
///
/// Exit status: 0 when it would be taken, 2 when it would be refused for what it takes off the network, 1 when it cannot be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of TOML files that might be put in force.
    candidate: PathBuf,
    /// Only sessions with this peer.
    #[arg(long, value_name = "NAME")]
    peer: Option<Name>,
    /// Where weir-bgp keeps its socket; once per node.
    #[arg(long, value_name = "DIR", default_value = "/run/weir", env = "WEIR_RUN_DIR")]
    run_dir: Vec<PathBuf>,
    /// The node to start from nothing, where no weir-bgp runs.
    #[arg(long, env = "WEIR_NODE", value_name = "NAME")]
    node: Option<Name>,
    /// Shows all prefixes, and the bytes of each message.
    #[arg(short, long)]
    verbose: bool,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let files = Config::read(&args.candidate)?.files;
    let question = serde_json::to_vec(&Candidate { files }).context("write the question")?;
    let mut rehearsals = BTreeMap::new();
    for run_dir in &args.run_dir {
        let mut rehearsal = ask(args, run_dir, &question)?;
        rehearsal.peers.retain(|name, _| args.peer.as_ref().is_none_or(|only| only == name));
        rehearsals.insert(rehearsal.node.clone(), rehearsal);
    }
    match args.output {
        Format::Json => output::emit_json(&rehearsals)?,
        Format::Table => {
            let texts: Vec<String> =
                rehearsals.values().map(|rehearsal| text(rehearsal, args.verbose)).collect();
            output::emit(&texts.join("\n"))?;
        }
    }
    let refused = rehearsals.values().any(|rehearsal| rehearsal.refused.is_some());
    Ok(if refused { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

fn ask(args: &Args, run_dir: &Path, question: &[u8]) -> Result<Rehearsal> {
    let socket = run_dir.join("bgp.sock");
    match live::block_on(status::ask(&socket, REHEARSAL_PAGE, question.to_vec()))? {
        Ok(answer) => {
            serde_json::from_slice(&answer).context("weir-bgp answered something else than expected")
        }
        Err(FetchError::Connect { .. }) => alone(args, run_dir),
        Err(error) => Err(error).with_context(|| format!("ask weir-bgp in {}", run_dir.display())),
    }
}

/// From a start, by the program itself.
fn alone(args: &Args, run_dir: &Path) -> Result<Rehearsal> {
    let Some(node) = &args.node else {
        bail!(
            "weir-bgp does not run in {}: --run-dir says where it does, --node for which node to begin from nothing",
            run_dir.display()
        );
    };
    // The one installed with this program, else any.
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("weir-bgp"));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| "weir-bgp".into());
    let output = Command::new(&program)
        .arg(&args.candidate)
        .args(["--dry-run", "--node", node.as_str(), "--run-dir"])
        .arg(run_dir)
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    serde_json::from_slice(&output.stdout).context("weir-bgp said something else than expected")
}

fn text(rehearsal: &Rehearsal, verbose: bool) -> String {
    let in_force = rehearsal.in_force.map_or("nothing".to_owned(), |generation| generation.to_string());
    let mut lines = vec![format!("{}: from {in_force} to {}", rehearsal.node, rehearsal.candidate)];
    lines.extend(rehearsal.assumed.iter().map(|assumed| format!("taken for granted: {assumed}")));
    let after = |after| {
        if after == std::time::Duration::ZERO { "at once".into() } else { units::duration::print(after) }
    };

    let mut vips = Table::new(["VIP", "AFTER", "ANNOUNCED", "TIER", "WHY"]);
    for change in &rehearsal.vips {
        let (announced, tier) = if change.announced { ("yes", tier(change.tier)) } else { ("no", "-") };
        vips.row([
            change.vip.to_string(),
            after(change.after),
            announced.into(),
            tier.into(),
            change.reason.clone(),
        ]);
    }
    let mut sessions = Table::new(["PEER", "ADDRESS", "SESSION", "MESSAGES"]);
    let mut said = Table::new([
        "PEER",
        "AFTER",
        "SAYS",
        "PREFIXES",
        "NEXT HOP",
        "AS PATH",
        "MED",
        "LOCAL PREF",
        "COMMUNITIES",
    ]);
    let mut bytes = Table::new(["PEER", "AFTER", "BYTES"]);
    let mut refused = Table::new(["NOT TOLD", "PEER", "WHY"]);
    let number = |value: Option<u32>| value.map_or("-".into(), |value| value.to_string());
    for (name, peer) in &rehearsal.peers {
        sessions.row([
            name.to_string(),
            peer.address.clone(),
            peer.session.clone(),
            peer.says.len().to_string(),
        ]);
        for message in &peer.says {
            let announced = message.announced.iter().map(|route| route.prefix.as_str());
            let prefixes: Vec<&str> = announced.chain(message.withdrawn.iter().map(String::as_str)).collect();
            let shown = if verbose { prefixes.len() } else { prefixes.len().min(PREFIXES_SHOWN) };
            let mut listed = prefixes[..shown].join(" ");
            if shown < prefixes.len() {
                listed.push_str(&format!(" … {} more", prefixes.len() - shown));
            }
            // Of one message all routes have the same attributes.
            let route = message.announced.first();
            let path = route.map_or(Vec::new(), |route| route.as_path.iter().map(u32::to_string).collect());
            said.row([
                name.to_string(),
                after(message.after),
                kind(message.kind).into(),
                if prefixes.is_empty() { message.note.clone() } else { listed },
                route.map_or("-".into(), |route| route.next_hop.clone()),
                if route.is_some() { path.join(" ") } else { "-".into() },
                number(route.and_then(|route| route.med)),
                number(route.and_then(|route| route.local_pref)),
                route.map_or(String::new(), |route| route.communities.join(" ")),
            ]);
            bytes.row([name.to_string(), after(message.after), message.bytes.clone()]);
        }
        for (prefix, why) in &peer.refused {
            refused.row([prefix.clone(), name.to_string(), why.clone()]);
        }
    }
    let mut tables = vec![vips, sessions, said, refused];
    if verbose {
        tables.push(bytes);
    }
    let tables = tables.iter().map(Table::render).filter(|text| !text.is_empty());
    let mut text = lines.iter().map(|line| output::printable(line) + "\n").collect::<String>();
    for table in tables {
        text.push('\n');
        text.push_str(&table);
    }
    if rehearsal.is_silent() {
        text.push_str("\nno router is told anything\n");
    }
    if let Some(problem) = &rehearsal.refused {
        text.push_str(&format!("\nREFUSED: {}\n", output::printable(&problem.to_string())));
    }
    text
}

/// A tier, for people.
pub(crate) fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Normal => "normal",
        Tier::Worse => "worse",
        Tier::GracefulShutdown => "graceful shutdown",
    }
}

fn kind(kind: SaidKind) -> &'static str {
    match kind {
        SaidKind::Announce => "announce",
        SaidKind::Withdraw => "withdraw",
        SaidKind::EndOfRib => "end of RIB",
        SaidKind::Notification => "notification",
        SaidKind::Refresh => "mark of a refresh",
    }
}
