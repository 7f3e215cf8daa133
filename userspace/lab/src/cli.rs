//! `weir lab …`: what each verb does and prints.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write as _},
    process::{ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    control::{self, Reply, Request},
    lab::{Lab, Plan},
    missions,
    status::LabStatus,
    sweep,
    topology::{Topology, ZONES_MAX},
};

/// How often the live view is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// How often a line is printed when nobody looks.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// How long `up --detach` waits for the laboratory, and `down` for its end.
const DETACH_WITHIN: Duration = Duration::from_secs(90);

/// A laboratory of network namespaces on this machine: routers, balancers, proxies, backends and clients.
#[derive(Debug, Parser)]
#[command(name = "weir lab")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

/// The verbs of `weir lab`.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Build a laboratory and watch it; Ctrl-C takes everything away.
    Up {
        /// What it looks like.
        #[command(flatten)]
        size: Size,
        /// Leave it in the background; `weir lab down` ends it.
        #[arg(long)]
        detach: bool,
    },
    /// End a laboratory.
    Down {
        /// Which laboratory.
        #[command(flatten)]
        which: Which,
    },
    /// Show zones, sessions, announcements, and where each zone's clients are served.
    Status {
        /// Which laboratory.
        #[command(flatten)]
        which: Which,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Break something: az1, az1:balancers, az1:servers, z1lb1, z1be1, l4, z1lb1:bgp …
    Kill {
        /// What.
        target: String,
        /// Which laboratory.
        #[command(flatten)]
        which: Which,
    },
    /// Mend it; without a target, everything.
    Restore {
        /// What.
        target: Option<String>,
        /// Which laboratory.
        #[command(flatten)]
        which: Which,
    },
    /// Run missions; in the laboratory that is up, or in one made for it.
    Run {
        /// Their names; see --list.
        #[arg(value_name = "MISSION")]
        missions: Vec<String>,
        /// Run all of them.
        #[arg(long, conflicts_with = "missions")]
        all: bool,
        /// List the missions.
        #[arg(long)]
        list: bool,
        /// Build a laboratory for the run even when one is up.
        #[arg(long)]
        fresh: bool,
        /// What it looks like.
        #[command(flatten)]
        size: Size,
        /// How to print what was found.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Which laboratory.
#[derive(Clone, Debug, clap::Args)]
pub struct Which {
    /// Its name; needed only when several are up.
    #[arg(long)]
    name: Option<String>,
}

/// What a new laboratory looks like.
#[derive(Clone, Debug, clap::Args)]
pub struct Size {
    /// Its name.
    #[arg(long)]
    name: Option<String>,
    /// How many zones.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(ZONES_MAX)))]
    zones: u8,
    /// Requests per second in each zone.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    rate: u32,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Parses the words after `weir lab` and does what they say.
pub fn run(args: Vec<OsString>) -> Result<ExitCode> {
    let name = OsString::from("weir lab");
    match Args::try_parse_from(std::iter::once(name).chain(args)) {
        Ok(args) => execute(args.command),
        Err(error) => {
            error.print()?;
            Ok(ExitCode::from(error.exit_code() as u8))
        }
    }
}

/// Does what a command says. Blocks; must not be called from an asynchronous task.
pub fn execute(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Threads that start processes must not end before them; workers live as long as the runtime.
        .worker_threads(2)
        .enable_all()
        .build()?;
    let done =
        runtime.block_on(async { tokio::spawn(dispatch(command)).await.context("the laboratory panicked")? });
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { size, detach: false } => up(&size.plan()?).await,
        Command::Up { size, detach: true } => up_detached(&size.plan()?).await,
        Command::Down { which } => down(&which.resolve()?).await,
        Command::Status { which, output } => status(&which.resolve()?, output).await,
        Command::Kill { target, which } => change(&which.resolve()?, Request::Kill(target)).await,
        Command::Restore { target, which } => change(&which.resolve()?, Request::Restore(target)).await,
        Command::Run { list: true, .. } => {
            for mission in missions::ALL {
                println!("{:<22} {}", mission.name, mission.about);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { missions, all, fresh, size, output, .. } => {
            let names = if all {
                missions::ALL.iter().map(|mission| mission.name.to_owned()).collect()
            } else if missions.is_empty() {
                bail!("say which mission, or --all; --list lists them");
            } else {
                missions
            };
            run_missions(names, fresh, &size, output).await
        }
    }
}

impl Which {
    /// The name of a laboratory that is up.
    fn resolve(&self) -> Result<String> {
        let mut running = sweep::running();
        match (&self.name, running.len()) {
            (Some(name), _) if running.contains(name) => Ok(name.clone()),
            (Some(name), _) => bail!("laboratory {name} is not up"),
            (None, 1) => Ok(running.remove(0)),
            (None, 0) => bail!("no laboratory is up: `weir lab up` builds one"),
            (None, _) => bail!("several laboratories are up, say --name: {}", running.join(", ")),
        }
    }
}

impl Size {
    fn plan(&self) -> Result<Plan> {
        let name = self.name.clone().unwrap_or_else(|| format!("p{}", std::process::id()));
        Ok(Plan { name, topology: Topology { zones: self.zones }, rate: self.rate })
    }
}

/// Builds, watches, and takes away.
async fn up(plan: &Plan) -> Result<ExitCode> {
    let mut interrupted = Interrupted::new()?;
    let lab = tokio::select! {
        lab = Lab::build(plan) => lab?,
        () = interrupted.wait() => bail!("interrupted while building"),
    };
    eprintln!("{}", built(&lab));
    let (down, mut downed) = watch::channel(false);
    let serving = tokio::spawn(control::serve(lab.clone(), down));
    let ended = tokio::select! {
        () = interrupted.wait() => Ok(()),
        _ = downed.wait_for(|down| *down) => Ok(()),
        // Whoever read the lines may be gone; the laboratory stays until it is told to end.
        error = watch_it(&lab) => error,
    };
    serving.abort();
    tear_down(lab).await;
    ended.map(|()| ExitCode::SUCCESS)
}

fn built(lab: &Lab) -> String {
    format!(
        "laboratory {} is up: network after {:.2} s, processes started after {:.2} s, first request served after \
         {:.2} s, every zone after {:.2} s",
        lab.name, lab.times.network, lab.times.started, lab.times.first_request, lab.times.ready
    )
}

/// Ends the processes, then the network and everything else the claim covers.
async fn tear_down(lab: Arc<Lab>) {
    lab.stop_processes().await;
    // Tasks of the control socket may hold it for a moment longer.
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut lab = lab;
    loop {
        match Arc::try_unwrap(lab) {
            // Joins threads and removes namespaces: not for a worker that others wait for.
            Ok(lab) => {
                let _ = tokio::task::spawn_blocking(move || drop(lab)).await;
                return;
            }
            Err(shared) if Instant::now() > deadline => {
                shared.take_away();
                return;
            }
            Err(shared) => {
                lab = shared;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Draws the live view, or prints a line per second; ends only by an error.
async fn watch_it(lab: &Lab) -> Result<()> {
    let live = std::io::stdout().is_terminal();
    if live {
        print!("\x1b[2J");
    }
    loop {
        let status = LabStatus::of(lab).await?;
        draw(&status, live)?;
        for balancer in lab.balancers.lock().await.values() {
            balancer.site().trim_access_log();
        }
        tokio::time::sleep(if live { DRAW_EVERY } else { LINE_EVERY }).await;
    }
}

fn draw(status: &LabStatus, live: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if live {
        // Home; each line cleared to its end; then everything below.
        let text = status.to_text().replace('\n', "\x1b[K\n");
        let help = "Ctrl-C ends it. In another shell: weir lab kill az1:servers, restore, run --all";
        write!(out, "\x1b[H{text}\x1b[K\n{help}\x1b[K\n\x1b[J")?;
    } else {
        writeln!(out, "{}", status.to_line())?;
    }
    Ok(out.flush()?)
}

/// Starts this program again in a session of its own and waits until the laboratory answers.
async fn up_detached(plan: &Plan) -> Result<ExitCode> {
    let log = std::env::temp_dir().join(format!("weir-lab-{}.log", plan.name));
    let file = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["lab", "up", "--name", &plan.name]);
    command.args(["--zones", &plan.topology.zones.to_string(), "--rate", &plan.rate.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().context("start the laboratory in the background")?;
    let deadline = Instant::now() + DETACH_WITHIN;
    loop {
        if let Ok(Reply::Status(status)) =
            control::ask(&sweep::directory(&plan.name), &Request::Status, |_| ()).await
        {
            let _ = std::fs::remove_file(&log);
            println!(
                "laboratory {} is up: first request after {:.2} s, every zone after {:.2} s",
                plan.name, status.times.first_request, status.times.ready
            );
            return Ok(ExitCode::SUCCESS);
        }
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            let said = crate::daemon::tail(&log, 40);
            let _ = std::fs::remove_file(&log);
            let _ = child.kill();
            bail!("laboratory {} did not come up:\n{said}", plan.name);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn down(name: &str) -> Result<ExitCode> {
    control::ask(&sweep::directory(name), &Request::Down, |_| ()).await?;
    let deadline = Instant::now() + DETACH_WITHIN;
    // The directory goes last.
    while sweep::directory(name).exists() {
        if Instant::now() > deadline {
            bail!("laboratory {name} does not end");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(name: &str, output: Output) -> Result<ExitCode> {
    let reply = control::ask(&sweep::directory(name), &Request::Status, |_| ()).await?;
    let Reply::Status(status) = reply else {
        bail!("the laboratory answered something else than its status")
    };
    match output {
        Output::Table => print!("{}", status.to_text()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(name: &str, request: Request) -> Result<ExitCode> {
    control::ask(&sweep::directory(name), &request, |_| ()).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_missions(names: Vec<String>, fresh: bool, size: &Size, output: Output) -> Result<ExitCode> {
    missions::check_names(&names)?;
    let existing = match &size.name {
        _ if fresh => None,
        Some(name) => sweep::running().contains(name).then(|| name.clone()),
        None => {
            let running = sweep::running();
            if running.is_empty() { None } else { Some(Which { name: None }.resolve()?) }
        }
    };
    let reports = match existing {
        Some(name) => {
            let request = Request::Run(names);
            match control::ask(&sweep::directory(&name), &request, |text| eprintln!("{text}")).await? {
                Reply::Reports(reports) => reports,
                _ => bail!("the laboratory answered something else than reports"),
            }
        }
        None => {
            let mut interrupted = Interrupted::new()?;
            let plan = size.plan()?;
            let lab = tokio::select! {
                lab = Lab::build(&plan) => lab?,
                () = interrupted.wait() => bail!("interrupted while building"),
            };
            eprintln!("{}", built(&lab));
            let (progress, mut said) = tokio::sync::mpsc::unbounded_channel::<String>();
            let printer = tokio::spawn(async move {
                while let Some(text) = said.recv().await {
                    eprintln!("{text}");
                }
            });
            let reports = tokio::select! {
                reports = missions::run(&lab, &names, progress) => reports,
                () = interrupted.wait() => Err(anyhow::anyhow!("interrupted")),
            };
            let _ = printer.await;
            tear_down(lab).await;
            reports?
        }
    };
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&reports)?),
        Output::Table => print!("{}", missions::to_text(&reports)),
    }
    Ok(if reports.iter().all(|report| report.passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// SIGINT, SIGTERM and SIGHUP: each means the end, in good order.
struct Interrupted([tokio::signal::unix::Signal; 3]);

impl Interrupted {
    fn new() -> Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn wait(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
    }
}
