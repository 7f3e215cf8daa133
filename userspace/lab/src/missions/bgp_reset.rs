//! Mission 8: a BGP session is reset, a router restarts, a host reboots. Announcements return, and none before the
//! datapath of its node has confirmed what it announces.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use weir_model::status::L4Status;

use super::{
    Trial,
    observe::{Watch, ask},
};
use crate::{
    daemon::Kind,
    lab::Lab,
    topology::{Host, Role, VIP4, VIP6},
};

/// BIRD waits a second before it accepts the next session, and the speaker tries every half second.
const SESSION_WITHIN: Duration = Duration::from_secs(6);
/// How long a session must stand without an announcement before silence counts as meant: ten times the speaker's rise.
const SILENCE: Duration = Duration::from_secs(2);

const HOST: Host = Host { zone: 1, role: Role::Balancer, index: 1 };

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();

    trial.say("tor1 resets the session with z1lb1");
    let watch = Watch::open(&lab);
    let before = established_count(&lab).await?;
    lab.console("tor1").await?.ask("restart z1lb1").await?;
    let (_, took) = trial
        .until("the session and the announcement return", Duration::from_secs(30), |lab| async move {
            ensure!(established_count(&lab).await? > before, "the session is not back");
            announced(&lab, true).await
        })
        .await?;
    trial.check_within("announcement of z1lb1 is back after a session reset", SESSION_WITHIN, took);
    watch.requests(trial, 60).await?;
    trial.check_no_failures("requests of all zones through the reset", &watch.records(&lab));

    trial.say("tor1 restarts");
    let restart = Watch::open(&lab);
    if let Some(router) = lab.routers.lock().await.get_mut("tor1") {
        router.stop().await?;
    }
    let took = restart
        .settled(trial, Duration::from_secs(30), |record| match &record.outcome {
            Err(error) if record.zone == 1 => Some(error.clone()),
            Ok(served) if record.zone == 1 && served.through == Some(1) => Some("through az1".into()),
            _ => None,
        })
        .await?;
    trial.check_within("clients of az1 go through other zones after", Duration::from_secs(3), took);
    if let Some(router) = lab.routers.lock().await.get_mut("tor1") {
        router.run()?;
    }
    let (_, took) = trial
        .until("the announcements return", Duration::from_secs(30), |lab| async move {
            announced(&lab, true).await
        })
        .await?;
    trial.check_within("announcements of z1lb1 are back after a router restart", SESSION_WITHIN, took);
    let others: Vec<_> = restart.records(&lab).into_iter().filter(|record| record.zone != 1).collect();
    trial.check_no_failures("requests of the other zones through the restart", &others);
    trial.heal().await?;

    trial.say("z1lb1 reboots; its BGP agent starts long before the rest");
    let reboot = Watch::open(&lab);
    if let Some(balancer) = lab.balancers.lock().await.get_mut(&HOST) {
        balancer.stop(Kind::Bgp).await?;
    }
    trial
        .until("the announcement is withdrawn", Duration::from_secs(10), |lab| async move {
            announced(&lab, false).await
        })
        .await?;
    reboot.requests(trial, 60).await?;
    trial.check_no_failures("requests of all zones through the withdrawal", &reboot.records(&lab));
    if let Some(balancer) = lab.balancers.lock().await.get_mut(&HOST) {
        balancer.kill(Kind::L4).await?;
        balancer.kill(Kind::Proxy).await?;
        balancer.forget_pins()?;
        balancer.start(Kind::Bgp)?;
    }
    trial
        .until("the session returns", Duration::from_secs(30), |lab| async move {
            let sessions = lab.console("tor1").await?.sessions().await?;
            let up = sessions.iter().any(|session| session.name == HOST.to_string() && session.established);
            ensure!(up, "not established");
            Ok(())
        })
        .await?;
    let begun = Instant::now();
    let mut early = 0;
    while begun.elapsed() < SILENCE {
        early += usize::from(announced(&lab, false).await.is_err());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let what = format!("looks that found an announcement in {} s without a datapath", SILENCE.as_secs());
    trial.check(what, 0, early, early == 0);

    if let Some(balancer) = lab.balancers.lock().await.get_mut(&HOST) {
        balancer.start(Kind::Proxy)?;
        balancer.start(Kind::L4)?;
    }
    let (confirmed, took) = trial
        .until("the announcement returns", Duration::from_secs(30), |lab| async move {
            let any = lab.console("tor1").await?.announcers(VIP4.into()).await?.contains(&HOST.to_string());
            ensure!(any, "not announced");
            let status: L4Status = ask(&lab, HOST, Kind::L4).await?;
            Ok(status.vips.values().any(|vip| vip.generation == status.config.generation))
        })
        .await?;
    trial.say(format!("announced {:.2} s after its daemons started", took.as_secs_f64()));
    trial.check("the datapath had confirmed what is announced", true, confirmed, confirmed);
    let after = Watch::open(&lab);
    after.requests(trial, 60).await?;
    trial.check_no_failures("requests of all zones once it is announced", &after.records(&lab));
    Ok(())
}

/// `Ok` when tor1 has the VIP from the host in both families (`wanted`), or in none.
async fn announced(lab: &Lab, wanted: bool) -> Result<()> {
    let console = lab.console("tor1").await?;
    for vip in [VIP4.into(), VIP6.into()] {
        let has = console.announcers(vip).await?.contains(&HOST.to_string());
        ensure!(has == wanted, "{HOST} {} {vip}", if has { "announces" } else { "does not announce" });
    }
    Ok(())
}

/// How often the host's session with its router was established.
async fn established_count(lab: &Lab) -> Result<u64> {
    let status: weir_model::status::BgpStatus = ask(lab, HOST, Kind::Bgp).await?;
    match status.peers.values().next() {
        Some(peer) => Ok(peer.established_count),
        None => bail!("{HOST} has no peer"),
    }
}
