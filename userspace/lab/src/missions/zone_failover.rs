//! Mission 5: an operator fails zone 1 over, half first, then whole, and restores it. Nothing fails; clients that went
//! with the first half stay where they went; all return.

use std::{ffi::OsStr, time::Duration};

use anyhow::{Result, ensure};

use super::{
    Trial,
    observe::{Watch, by_zone, placement, print_zones},
};

/// A change of the configuration reaches every proxy well under a second.
const APPLIED_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();
    let others: Vec<u8> = lab.topology.zones().filter(|zone| *zone != 1).collect();
    let watch = Watch::open(&lab);
    let before = lab.census(1).await?;
    trial.check_served_by("clients of az1 before are served by", 1, &before);

    let dry = zone_command(trial, "fail", &["--dry-run"]).await?;
    let written = lab.config.dir().join("failover-az1.toml").exists();
    trial.check("files that weir zone fail --dry-run writes", 0, usize::from(written), dry && !written);
    // With three zones the others would carry half more than their own: the operator insists.
    zone_command(trial, "fail", &["--force", "--percent", "50%"]).await?;
    let (half, took) = trial
        .until("half of az1 leaves", Duration::from_secs(20), |lab| async move {
            let census = lab.census(1).await?;
            let left = census.len() - by_zone(&census).get(&1).copied().unwrap_or(0);
            let share = left as f64 / census.len() as f64;
            ensure!((0.35..=0.65).contains(&share), "served by {}", print_zones(&by_zone(&census)));
            Ok(census)
        })
        .await?;
    trial.check(
        "half of the clients of az1 leave after",
        "50 % ± 15",
        format!("{} within {:.2} s", print_zones(&by_zone(&half)), took.as_secs_f64()),
        true,
    );
    // Proxies read the change one after another: the picture that counts is taken when all have.
    settle(trial).await?;
    let half = lab.census(1).await?;

    let failed = Watch::open(&lab);
    zone_command(trial, "fail", &["--force"]).await?;
    let took = failed
        .settled(trial, Duration::from_secs(20), |record| {
            let home = record.zone == 1 && record.outcome.as_ref().is_ok_and(|served| served.zone == 1);
            home.then(|| "served at home".to_owned())
        })
        .await?;
    trial.check_within("no client of az1 is served there after", APPLIED_WITHIN, took);
    let whole = lab.census(1).await?;
    trial.check_even("clients of az1 are split evenly", &others, &whole);
    let (moved, now) = (placement(&half), placement(&whole));
    let away = moved.iter().filter(|(_, zones)| !zones.contains(&1)).count();
    let again =
        moved.iter().filter(|(client, zones)| !zones.contains(&1) && now.get(client) != Some(zones)).count();
    let seen = format!("{again} of {away} moved");
    trial.check("clients that left with the first half and had to move again", "0 moved", seen, again == 0);

    let restored = Watch::open(&lab);
    zone_command(trial, "restore", &[]).await?;
    let took = restored
        .settled(trial, Duration::from_secs(20), |record| {
            let away = record.zone == 1 && record.outcome.as_ref().is_ok_and(|served| served.zone != 1);
            away.then(|| "served elsewhere".to_owned())
        })
        .await?;
    trial.check_within("all clients of az1 are served there again after", APPLIED_WITHIN, took);
    let after = lab.census(1).await?;
    trial.check_same_place("the same clients return", &before, &after);
    trial.check_no_failures("requests of all zones all the time", &watch.records(&lab));
    Ok(())
}

/// `weir zone VERB` for az1, as an operator types it.
async fn zone_command(trial: &Trial, verb: &str, options: &[&str]) -> Result<bool> {
    let directory = trial.lab.config.dir().as_os_str();
    let mut arguments: Vec<&OsStr> = vec!["zone".as_ref(), verb.as_ref(), directory, "az1".as_ref()];
    arguments.extend(options.iter().map(AsRef::<OsStr>::as_ref));
    trial.say(format!("weir zone {verb} az1 {}", options.join(" ")));
    let (done, said) = trial.lab.programs.operate(&arguments).await?;
    // What a rehearsal thinks of it may be no.
    ensure!(done || options.contains(&"--dry-run"), "weir zone {verb} says: {said}");
    Ok(!said.is_empty())
}

/// Waits until two pictures of zone 1 agree.
async fn settle(trial: &Trial) -> Result<()> {
    trial
        .until("all proxies agree", Duration::from_secs(20), |lab| async move {
            let (one, two) = (placement(&lab.census(1).await?), placement(&lab.census(1).await?));
            ensure!(one == two, "clients still move");
            Ok(())
        })
        .await?;
    Ok(())
}
