//! `weir config accept`: a configuration that the daemons hold back, because it takes most VIPs off the network, is meant.
//!
//! The word is for the text of one directory: a daemon that holds back another one does not take it.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use weir_model::{Generation, status::ConfigStatus};
use weir_runtime::{
    source::{PERMIT_PAGE, Permit},
    status,
};

use crate::{
    config::Config,
    live,
    output::{self, Format, Table},
};

const DAEMONS: [(&str, &str); 3] =
    [("weir-l4", "l4.sock"), ("weir-proxy", "proxy.sock"), ("weir-bgp", "bgp.sock")];

/// How long the daemons may take to notice the directory, and to put it in force.
const SETTLED_MAX: Duration = Duration::from_secs(10);

/// Between two looks at them.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What the running daemons make of the configuration directory.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Shows what the daemons hold back because it takes most VIPs off the network; --force has them take it, once.
    ///
    /// Exit status: 0 when the directory is in force, 2 when it is held back, 1 when it is refused or no daemon answers.
    Accept(Accept),
}

#[derive(clap::Args)]
struct Accept {
    /// The configuration directory, as it is meant.
    dir: PathBuf,
    /// It is meant: have every daemon that holds back exactly this take it.
    #[arg(long)]
    force: bool,
    /// Where the daemons keep their sockets; once per node.
    #[arg(long, value_name = "DIR", default_value = "/run/weir", env = "WEIR_RUN_DIR")]
    run_dir: Vec<PathBuf>,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Of a status, what matters here.
#[derive(Deserialize)]
struct Configured {
    config: ConfigStatus,
}

/// One daemon.
#[derive(Serialize)]
struct Daemon {
    run_dir: PathBuf,
    daemon: &'static str,
    in_force: Option<Generation>,
    state: State,
    why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// The directory is in force.
    InForce,
    /// It is held back.
    HeldBack,
    /// It, or something else, is refused.
    Refused,
    /// It has not been noticed yet.
    Unnoticed,
    /// The daemon does not answer.
    Silent,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Verb::Accept(args) = &args.verb;
    let wanted = Config::read(&args.dir)?.snapshot.generation;
    let mut daemons = until_settled(args, wanted, |state| state != State::Unnoticed)?;
    if daemons.iter().all(|daemon| daemon.state == State::Silent) {
        bail!("no daemon answers; --run-dir says where they are");
    }
    if args.force {
        let by = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
        let permit = Permit { generation: wanted, by: by.unwrap_or_else(|| "weir config accept".into()) };
        let permit = serde_json::to_vec(&permit).context("write the permit")?;
        for daemon in daemons.iter().filter(|daemon| daemon.state == State::HeldBack) {
            let socket = daemon.run_dir.join(socket(daemon.daemon));
            live::block_on(status::ask(&socket, PERMIT_PAGE, permit.clone()))?
                .with_context(|| format!("{} in {}", daemon.daemon, daemon.run_dir.display()))?;
        }
        daemons = until_settled(args, wanted, |state| !matches!(state, State::Unnoticed | State::HeldBack))?;
    }
    match args.output {
        Format::Json => output::emit_json(&daemons)?,
        Format::Table => output::emit(&text(&daemons, wanted))?,
    }
    let is = |state| daemons.iter().any(|daemon| daemon.state == state);
    Ok(match (is(State::Refused) || is(State::Unnoticed), is(State::HeldBack)) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(2),
        (false, false) => ExitCode::SUCCESS,
    })
}

fn socket(daemon: &str) -> &'static str {
    DAEMONS.iter().find(|(name, _)| *name == daemon).map_or("", |(_, socket)| socket)
}

/// Looks until every daemon is `settled`, or the time is over.
fn until_settled(args: &Accept, wanted: Generation, settled: impl Fn(State) -> bool) -> Result<Vec<Daemon>> {
    let deadline = Instant::now() + SETTLED_MAX;
    loop {
        let mut daemons = Vec::new();
        for run_dir in &args.run_dir {
            for (daemon, socket) in DAEMONS {
                daemons.push(look(run_dir, daemon, socket, wanted)?);
            }
        }
        if daemons.iter().all(|daemon| settled(daemon.state)) || Instant::now() > deadline {
            return Ok(daemons);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn look(run_dir: &Path, daemon: &'static str, socket: &str, wanted: Generation) -> Result<Daemon> {
    let (in_force, state, why) = match live::block_on(live::fetch::<Configured>(run_dir, socket))? {
        Err(why) => (None, State::Silent, why),
        Ok(Configured { config }) => {
            let state = match (config.generation == wanted, config.held_back == Some(wanted)) {
                (true, _) if config.refused.is_empty() => State::InForce,
                (_, true) => State::HeldBack,
                _ if config.refused.is_empty() => State::Unnoticed,
                _ => State::Refused,
            };
            let problems = config.refused.iter().map(ToString::to_string).collect::<Vec<_>>();
            (Some(config.generation), state, problems.join("; "))
        }
    };
    Ok(Daemon { run_dir: run_dir.to_owned(), daemon, in_force, state, why })
}

fn text(daemons: &[Daemon], wanted: Generation) -> String {
    let mut table = Table::new(["DAEMON", "RUN DIR", "IN FORCE", "STATE", "WHY"]);
    for daemon in daemons {
        table.row([
            daemon.daemon.into(),
            daemon.run_dir.display().to_string(),
            daemon.in_force.map_or("-".into(), |generation| generation.to_string()),
            match daemon.state {
                State::InForce => "in force",
                State::HeldBack => "HELD BACK",
                State::Refused => "refused",
                State::Unnoticed => "not noticed",
                State::Silent => "-",
            }
            .into(),
            daemon.why.clone(),
        ]);
    }
    let mut text = table.render();
    if daemons.iter().any(|daemon| daemon.state == State::HeldBack) {
        text.push_str(&format!(
            "\n{wanted} is held back; weir bgp diff shows what routers would be told, --force has it taken\n"
        ));
    }
    text
}
