//! Mission 3: the servers of zone 1 die, once by crashing and once by answering nonsense. Its traffic is split evenly
//! over the other zones, each client stays where it went, and a request that can be retried never fails.

use std::time::Duration;

use anyhow::Result;

use super::{Trial, observe::Watch};
use crate::{config::CHECK_INTERVAL, load::Record, topology::zone_name};

/// Three failed checks in a row, the last of which may have begun just before, and room for a busy machine.
const DETECTED_WITHIN: Duration = Duration::from_millis(2 * 4 * CHECK_INTERVAL.as_millis() as u64);

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();
    let others: Vec<u8> = lab.topology.zones().filter(|zone| *zone != 1).collect();
    let target = lab.topology.select("az1:servers")?;

    trial.say("the servers of az1 crash");
    let watch = Watch::open(&lab);
    lab.kill(&target).await?;
    let took = watch.settled(trial, Duration::from_secs(30), away).await?;
    trial.check_within(
        "clients of az1 are served by other zones after a crash within",
        DETECTED_WITHIN,
        took,
    );
    let first = lab.census(1).await?;
    trial.check_even("clients of az1 are split evenly", &others, &first);
    let second = lab.census(1).await?;
    trial.check_same_place("clients of az1 stay in the zone they went to", &first, &second);
    for zone in &others {
        let own = lab.census(*zone).await?;
        trial.check_served_by(&format!("clients of {} are still served by", zone_name(*zone)), *zone, &own);
    }
    trial.check_no_failures("requests, all of which can be retried", &watch.records(&lab));
    lab.restore(&target).await?;
    let took = trial.heal().await?;
    trial.say(format!("all servers are used again after {:.2} s", took.as_secs_f64()));
    let home = lab.census(1).await?;
    trial.check_served_by("clients of az1 return to", 1, &home);

    trial.say("the servers of az1 answer everything with an error");
    let watch = Watch::open(&lab);
    for backend in lab.backends.lock().await.values().filter(|backend| backend.host().zone == 1) {
        backend.set_sick(true);
    }
    let took = watch.settled(trial, Duration::from_secs(30), away).await?;
    trial.check_within(
        "clients of az1 are served by other zones after an error within",
        DETECTED_WITHIN,
        took,
    );
    let detected = watch.begun + took;
    let third = lab.census(1).await?;
    trial.check_same_place("the same clients go to the same zones as before", &first, &third);
    let after: Vec<Record> =
        watch.records(&lab).into_iter().filter(|r| r.zone == 1 && r.began > detected).collect();
    trial.check_no_failures("requests of az1 once detected", &after);
    let unrelated: Vec<Record> = watch.records(&lab).into_iter().filter(|r| r.zone != 1).collect();
    trial.check_no_failures("requests of the other zones all the time", &unrelated);
    Ok(())
}

/// Why this request of zone 1 was not served by another zone.
fn away(record: &Record) -> Option<String> {
    match &record.outcome {
        Err(error) => Some(error.clone()),
        Ok(served) if record.zone == 1 && served.zone == 1 => Some(format!("served by {}", served.server)),
        Ok(_) => None,
    }
}
