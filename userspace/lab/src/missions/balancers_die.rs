//! Mission 2: the balancers of zone 1 die. Anycast brings its clients to another zone, which sends them back to the
//! servers of their home zone.

use std::time::Duration;

use anyhow::Result;

use super::{Trial, observe::Watch};
use crate::load::Record;

/// A dead link is seen at once; a client whose SYN got lost just then tries again after 1 s.
const FAILOVER_WITHIN: Duration = Duration::from_secs(3);

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();
    let target = lab.topology.select("az1:balancers")?;
    let watch = Watch::open(&lab);
    lab.kill(&target).await?;
    let took = watch
        .settled(trial, Duration::from_secs(30), |record| (record.zone == 1).then(|| wrong(record)).flatten())
        .await?;
    trial.check_within("clients of az1 are served through another zone after", FAILOVER_WITHIN, took);

    let after = Watch::open(&lab);
    let census = lab.census(1).await?;
    trial.check_no_failures("requests of az1 from then on", &census);
    trial.check_served_by("clients of az1 are served by the servers of", 1, &census);
    let through = census.iter().filter(|record| wrong(record).is_some()).count();
    trial.check("requests of az1 through its own dead balancers", 0, through, through == 0);
    after.requests(trial, 60).await?;
    trial.check_no_failures("requests of all zones from then on", &after.records(&lab));
    let others: Vec<Record> = watch.records(&lab).into_iter().filter(|record| record.zone != 1).collect();
    trial.check_no_failures("requests of the other zones all the time", &others);

    let back = Watch::open(&lab);
    lab.restore(&target).await?;
    let took = back
        .settled(trial, Duration::from_secs(60), |record| {
            (record.zone == 1 && wrong(record).is_none()).then(|| "through another zone".to_owned())
        })
        .await?;
    trial.check_within("clients of az1 use their own balancers again after", Duration::from_secs(15), took);
    Ok(())
}

/// Why this is not a request of zone 1 served by its own servers through another zone's balancers.
fn wrong(record: &Record) -> Option<String> {
    match &record.outcome {
        Err(error) => Some(error.clone()),
        Ok(served) if served.zone != 1 => Some(format!("served by {}", served.server)),
        Ok(served) if served.through == Some(1) => Some(format!("served through {}", served.balancer)),
        Ok(_) => None,
    }
}
