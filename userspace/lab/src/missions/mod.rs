//! Missions: each breaks something, says what is expected, measures, and passes or fails.
//!
//! A mission finds the laboratory healthy and leaves it healthy. It waits on conditions with deadlines, never on time
//! alone; what it counts are requests that clients really sent.

mod balancers_die;
mod baseline;
mod bgp_reset;
mod both_die;
mod broken_config;
mod l4_killed;
mod long_lived;
mod observe;
mod operate;
mod pulse;
mod servers_die;
mod steadfast;
mod streams;
mod zone_failover;

use std::{
    fmt::{self, Write as _},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

use crate::lab::Lab;

/// What a mission found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Its name.
    pub(crate) mission: String,
    /// Whether every check passed, and there was one.
    pub(crate) passed: bool,
    /// What was looked at.
    pub(crate) checks: Vec<Check>,
}

/// One expectation and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) what: String,
    /// What should have been seen.
    pub(crate) expected: String,
    /// What was seen.
    pub(crate) seen: String,
    /// Whether that is the same.
    pub(crate) passed: bool,
}

/// A mission under way.
type Run<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// A mission.
pub(crate) struct Mission {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it does, in a line.
    pub(crate) about: &'static str,
    /// How many zones it takes: traffic that leaves one, or a host, needs another to go to.
    zones_min: u8,
    run: for<'a> fn(&'a mut Trial) -> Run<'a>,
}

/// All missions, in the order they run.
pub(crate) const ALL: &[Mission] = &[
    Mission {
        name: "baseline",
        about: "every client is served in its own zone, over IPv4 and IPv6, http and https",
        zones_min: 1,
        run: |trial| Box::pin(baseline::run(trial)),
    },
    Mission {
        name: "balancers-die",
        about: "balancers of a zone die: served through another zone, by the servers of the home zone",
        zones_min: 2,
        run: |trial| Box::pin(balancers_die::run(trial)),
    },
    Mission {
        name: "servers-die",
        about: "servers of a zone die: its traffic is split evenly over the others, sticky per client",
        zones_min: 2,
        run: |trial| Box::pin(servers_die::run(trial)),
    },
    Mission {
        name: "both-die",
        about: "balancers and servers of a zone die: the other zones' own traffic stays",
        zones_min: 2,
        run: |trial| Box::pin(both_die::run(trial)),
    },
    Mission {
        name: "zone-failover",
        about: "an operator fails a zone over and restores it: nothing fails, the same clients return",
        zones_min: 2,
        run: |trial| Box::pin(zone_failover::run(trial)),
    },
    Mission {
        name: "long-lived",
        about: "long-lived connections survive a proxy added, drained, removed, and a host leaving ECMP",
        zones_min: 2,
        run: |trial| Box::pin(long_lived::run(trial)),
    },
    Mission {
        name: "l4-killed",
        about: "all weir-l4 killed, then restarted: no packet lost, no flow moved",
        zones_min: 2,
        run: |trial| Box::pin(l4_killed::run(trial)),
    },
    Mission {
        name: "bgp-reset",
        about: "a BGP session reset, a router restarted, a host rebooted: announcements return, none too early",
        zones_min: 2,
        run: |trial| Box::pin(bgp_reset::run(trial)),
    },
    Mission {
        name: "broken-config",
        about: "a broken configuration is refused everywhere, traffic untouched",
        zones_min: 2,
        run: |trial| Box::pin(broken_config::run(trial)),
    },
    Mission {
        name: "steadfast",
        about: "2,000 busy connections outlive added, drained, removed, withdrawn and dead balancers",
        zones_min: 3,
        run: |trial| Box::pin(steadfast::run(trial)),
    },
];

/// A running mission: the laboratory, and what was found so far.
pub(crate) struct Trial {
    /// The laboratory.
    pub(crate) lab: Arc<Lab>,
    /// When the mission began.
    pub(crate) begun: Instant,
    checks: Vec<Check>,
    progress: UnboundedSender<String>,
}

impl Trial {
    /// Tells who watches what happens now.
    pub(crate) fn say(&self, text: impl fmt::Display) {
        // Nobody may be listening.
        let _ = self.progress.send(format!("{:7.2} s  {text}", self.begun.elapsed().as_secs_f64()));
    }

    /// Records an expectation and what came of it.
    pub(crate) fn check(
        &mut self,
        what: impl Into<String>,
        expected: impl fmt::Display,
        seen: impl fmt::Display,
        passed: bool,
    ) {
        let check =
            Check { what: what.into(), expected: expected.to_string(), seen: seen.to_string(), passed };
        self.say(check.to_line());
        self.checks.push(check);
    }

    /// Records how long something took against its limit.
    pub(crate) fn check_within(&mut self, what: impl Into<String>, limit: Duration, took: Duration) {
        let seen = format!("{:.2} s", took.as_secs_f64());
        self.check(what, format!("at most {:.2} s", limit.as_secs_f64()), seen, took <= limit);
    }

    /// Asks again and again until the answer is `Ok`, and returns it with the time that took; after `within` the last
    /// complaint is an error.
    pub(crate) async fn until<T, F, Fut>(
        &self,
        what: &str,
        within: Duration,
        mut ask: F,
    ) -> Result<(T, Duration)>
    where
        F: FnMut(Arc<Lab>) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let begun = Instant::now();
        loop {
            match ask(self.lab.clone()).await {
                Ok(answer) => return Ok((answer, begun.elapsed())),
                Err(error) if begun.elapsed() > within => {
                    bail!("{what}: not within {} s: {error:#}", within.as_secs_f64());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Mends everything and waits until it is healthy again.
    pub(crate) async fn heal(&mut self) -> Result<Duration> {
        self.lab.restore_all().await?;
        let healed = self.until("healthy again", Duration::from_secs(60), observe::healthy).await;
        Ok(healed?.1)
    }
}

impl Check {
    fn to_line(&self) -> String {
        let verdict = if self.passed { "ok  " } else { "FAIL" };
        format!("{verdict} {}: {} (expected {})", self.what, self.seen, self.expected)
    }
}

/// Says which of the names are no missions.
pub(crate) fn check_names(names: &[String]) -> Result<()> {
    if let Some(name) = names.iter().find(|name| find(name).is_none()) {
        let known: Vec<&str> = ALL.iter().map(|mission| mission.name).collect();
        bail!("there is no mission {name:?}: {}", known.join(", "));
    }
    Ok(())
}

/// By name, or by number from 1.
fn find(name: &str) -> Option<&'static Mission> {
    let by_number = name.parse::<usize>().ok().and_then(|number| ALL.get(number.checked_sub(1)?));
    by_number.or_else(|| ALL.iter().find(|mission| mission.name == name))
}

/// Runs missions one after another. An error in a mission is a failed check, not an error of the run.
pub(crate) async fn run(
    lab: &Arc<Lab>,
    names: &[String],
    progress: UnboundedSender<String>,
) -> Result<Vec<Report>> {
    check_names(names)?;
    let missions: Vec<&Mission> = names.iter().filter_map(|name| find(name)).collect();
    if let Some(mission) = missions.iter().find(|mission| mission.zones_min > lab.topology.zones) {
        bail!("{} takes more zones: --zones {} or more", mission.name, mission.zones_min);
    }
    let mut reports = Vec::new();
    for mission in missions {
        let _ = progress.send(format!("{}: {}", mission.name, mission.about));
        let begun = Instant::now();
        let mut trial = Trial { lab: lab.clone(), begun, checks: Vec::new(), progress: progress.clone() };
        if let Err(error) = attempt(mission, &mut trial).await {
            trial.check("the mission runs to its end", "no error", format!("{error:#}"), false);
        }
        let passed = !trial.checks.is_empty() && trial.checks.iter().all(|check| check.passed);
        let verdict = if passed { "passed" } else { "FAILED" };
        let _ = progress.send(format!(
            "{}: {verdict} after {:.1} s",
            mission.name,
            begun.elapsed().as_secs_f64()
        ));
        if !passed {
            let _ = progress.send(lab.hints().await);
        }
        reports.push(Report { mission: mission.name.into(), passed, checks: trial.checks });
    }
    Ok(reports)
}

async fn attempt(mission: &Mission, trial: &mut Trial) -> Result<()> {
    trial.heal().await?;
    let done = (mission.run)(trial).await;
    // Also after an error: the next mission must find what it expects.
    observe::undo_changes(&trial.lab)?;
    let healed = trial.heal().await;
    done?;
    let took = healed?;
    trial.say(format!("healthy again after {:.2} s", took.as_secs_f64()));
    Ok(())
}

/// The reports for people.
pub(crate) fn to_text(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let verdict = if report.passed { "passed" } else { "FAILED" };
        let _ = writeln!(text, "{:<16} {verdict}", report.mission);
        for check in &report.checks {
            let _ = writeln!(text, "  {}", check.to_line());
        }
    }
    let failed = reports.iter().filter(|report| !report.passed).count();
    let _ = writeln!(text, "{} of {} missions passed", reports.len() - failed, reports.len());
    text
}
