//! Mission 4: balancers and servers of zone 1 die. Its traffic is split evenly over the others, whose own traffic stays
//! where it was.

use std::time::Duration;

use anyhow::Result;

use super::{Trial, observe::Watch};
use crate::{load::Record, topology::zone_name};

/// As for dead balancers, and the detection of dead servers runs at the same time.
const FAILOVER_WITHIN: Duration = Duration::from_secs(3);

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();
    let others: Vec<u8> = lab.topology.zones().filter(|zone| *zone != 1).collect();
    let mut before = Vec::new();
    for zone in &others {
        before.push(lab.census(*zone).await?);
    }
    let watch = Watch::open(&lab);
    lab.kill(&lab.topology.select("az1")?).await?;
    let took = watch
        .settled(trial, Duration::from_secs(30), |record| match &record.outcome {
            _ if record.zone != 1 => None,
            Err(error) => Some(error.clone()),
            Ok(served) if served.zone == 1 => Some(format!("served by {}", served.server)),
            Ok(_) => None,
        })
        .await?;
    trial.check_within("clients of az1 are served by other zones after", FAILOVER_WITHIN, took);

    let first = lab.census(1).await?;
    trial.check_no_failures("requests of az1 from then on", &first);
    trial.check_even("clients of az1 are split evenly", &others, &first);
    let second = lab.census(1).await?;
    trial.check_same_place("clients of az1 stay in the zone they went to", &first, &second);
    for (zone, before) in others.iter().zip(&before) {
        let after = lab.census(*zone).await?;
        trial.check_same_place(
            &format!("clients of {} stay where they were", zone_name(*zone)),
            before,
            &after,
        );
    }
    let unrelated: Vec<Record> = watch.records(&lab).into_iter().filter(|record| record.zone != 1).collect();
    trial.check_no_failures("requests of the other zones all the time", &unrelated);
    let strayed = unrelated.iter().filter(|r| r.outcome.as_ref().is_ok_and(|s| s.zone != r.zone)).count();
    trial.check("requests of the other zones served elsewhere", 0, strayed, strayed == 0);
    Ok(())
}
