//! Mission 9: a broken configuration. Every daemon refuses it, says why, and keeps the last good one.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Deserialize;
use weir_model::status::ConfigStatus;

use super::{
    Trial,
    observe::{Watch, ask},
};
use crate::{daemon::Kind, lab::Lab, topology::Role};

/// Daemons watch the directory; a busy machine may take its time.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);
/// The file that is put beside the others.
const FILE: &str = "broken.toml";

/// What is put into it, and what it is.
const BROKEN: [(&str, &str); 3] = [
    ("a file that is not TOML", "[vip.web\naddresses = [\n"),
    ("an unknown field and a bad unit", "[zone.az9]\ncolour = \"blue\"\n\n[pool.p]\nqueue_timeout = \"5\"\n"),
    (
        "a VIP of a group that does not exist, at an address that is taken",
        "[vip.other]\naddresses = [\"198.51.100.10\"]\ngroup = \"egde\"\nservices = [\"tcp/80\"]\n",
    ),
];

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();
    let watch = Watch::open(&lab);
    let before = statuses(&lab).await?;
    for (what, text) in BROKEN {
        lab.config.put(FILE, text)?;
        let (_, took) = trial
            .until("refused everywhere", Duration::from_secs(20), |lab| async move {
                for (who, status) in statuses(&lab).await? {
                    ensure!(!status.refused.is_empty(), "{who} has refused nothing");
                }
                Ok(())
            })
            .await?;
        let what = format!("{what} is refused by all {} daemons", before.len());
        trial.check_within(what, REFUSED_WITHIN, took);
        let now = statuses(&lab).await?;
        let kept = now.iter().zip(&before).filter(|((_, a), (_, b))| a.generation == b.generation).count();
        trial.check(
            "daemons that keep the last good configuration",
            before.len(),
            kept,
            kept == before.len(),
        );
        // The other half of a conflict may stand elsewhere, but has a place too.
        let told = now.iter().filter(|(_, status)| {
            status.refused.iter().any(|problem| problem.file == FILE)
                && status.refused.iter().all(|problem| problem.line > 0)
        });
        let told = told.count();
        trial.check("daemons that name the file and the line", before.len(), told, told == before.len());
        lab.config.remove(FILE)?;
        let (_, took) = trial
            .until("accepted again", Duration::from_secs(20), |lab| async move {
                for (who, status) in statuses(&lab).await? {
                    ensure!(status.refused.is_empty(), "{who} still refuses");
                }
                Ok(())
            })
            .await?;
        trial.check_within("nothing is refused any more once it is mended", REFUSED_WITHIN, took);
    }
    watch.requests(trial, 100).await?;
    trial.check_no_failures("requests of all zones all the time", &watch.records(&lab));
    Ok(())
}

/// The part of every daemon's status that this mission is about.
#[derive(Deserialize)]
struct AnyStatus {
    config: ConfigStatus,
}

async fn statuses(lab: &Lab) -> Result<Vec<(String, ConfigStatus)>> {
    let mut found = Vec::new();
    for host in lab.topology.of(Role::Balancer, None) {
        for kind in Kind::ALL {
            let status: AnyStatus = ask(lab, host, kind).await?;
            found.push((format!("{} of {host}", kind.program()), status.config));
        }
    }
    Ok(found)
}
