//! Mission 6: long-lived connections survive a proxy being added, drained and removed, and a balancer host leaving ECMP.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use weir_model::Admin;

use super::{Trial, observe::Watch, streams::Streams};
use crate::{
    config::name,
    daemon::Kind,
    topology::{Host, Role, VIP4, VIP6},
};

/// How long a change of the configuration may take until all traffic follows it.
const APPLIED_WITHIN: Duration = Duration::from_secs(20);
/// Streams opened at each stage.
const STREAMS: u16 = 16;

const FIRST: Host = Host { zone: 1, role: Role::Balancer, index: 1 };
const SECOND: Host = Host { zone: 1, role: Role::Balancer, index: 2 };

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();
    let mut streams = Streams::default();

    set_member(trial, SECOND, false)?;
    proxies_used(trial, &[FIRST]).await?;
    let watch = Watch::open(&lab);
    streams.open(&lab, 1, STREAMS).await?;
    let through = streams.through("z1lb1");
    trial.check("streams through z1lb1 while it is alone", STREAMS, through, through == usize::from(STREAMS));

    set_member(trial, SECOND, true)?;
    proxies_used(trial, &[FIRST, SECOND]).await?;
    announced(trial, SECOND, true).await?;
    streams.check_alive(trial, "streams broken by adding z1lb2").await;
    streams.open(&lab, 1, STREAMS).await?;
    let through = streams.through("z1lb2");
    trial.check("new streams that z1lb2 takes", "some", through, through > 0);

    set_admin(trial, FIRST, Admin::Drain)?;
    proxies_used(trial, &[SECOND]).await?;
    streams.check_alive(trial, "streams broken by draining z1lb1").await;

    // What is drained to its end can be removed without anybody noticing.
    streams.close("z1lb1");
    set_member(trial, FIRST, false)?;
    announced(trial, FIRST, false).await?;
    proxies_used(trial, &[SECOND]).await?;
    streams.check_alive(trial, "streams broken by removing z1lb1").await;

    set_admin(trial, FIRST, Admin::Active)?;
    set_member(trial, FIRST, true)?;
    announced(trial, FIRST, true).await?;
    proxies_used(trial, &[FIRST, SECOND]).await?;
    streams.check_alive(trial, "streams broken by adding z1lb1 again").await;

    if let Some(balancer) = lab.balancers.lock().await.get_mut(&FIRST) {
        balancer.stop(Kind::Bgp).await?;
    }
    announced(trial, FIRST, false).await?;
    streams.check_alive(trial, "streams broken by z1lb1 leaving ECMP").await;
    if let Some(balancer) = lab.balancers.lock().await.get_mut(&FIRST) {
        balancer.start(Kind::Bgp)?;
    }
    announced(trial, FIRST, true).await?;
    streams.check_alive(trial, "streams broken by z1lb1 joining ECMP").await;
    trial.check_no_failures("requests of all zones all the time", &watch.records(&lab));
    Ok(())
}

/// Puts a balancer into the group of the VIP, or takes it out.
fn set_member(trial: &Trial, host: Host, member: bool) -> Result<()> {
    let (edge, node) = (name("edge")?, name(&host.to_string())?);
    trial.say(format!("{} {host}", if member { "add" } else { "remove" }));
    trial.lab.config.change(|objects| {
        if let Some(group) = objects.group.get_mut(&edge) {
            group.nodes.retain(|known| *known != node);
            if member {
                group.nodes.push(node);
                group.nodes.sort();
            }
        }
        Ok(())
    })
}

fn set_admin(trial: &Trial, host: Host, admin: Admin) -> Result<()> {
    let node = name(&host.to_string())?;
    trial.say(format!("{host} is {admin:?}"));
    trial.lab.config.change(|objects| {
        if let Some(node) = objects.node.get_mut(&node) {
            node.admin = admin;
        }
        Ok(())
    })
}

/// Waits until exactly these proxies take new connections of zone 1.
async fn proxies_used(trial: &Trial, hosts: &[Host]) -> Result<()> {
    let wanted: BTreeSet<String> = hosts.iter().map(Host::to_string).collect();
    trial
        .until("new connections follow", APPLIED_WITHIN, |lab| {
            let wanted = wanted.clone();
            async move {
                let census = lab.census(1).await?;
                let used: BTreeSet<String> = census
                    .iter()
                    .map(|record| record.outcome.as_ref().map_or_else(Clone::clone, |s| s.balancer.clone()))
                    .collect();
                ensure!(used == wanted, "new connections go to {used:?}");
                Ok(())
            }
        })
        .await?;
    Ok(())
}

/// Waits until the router has the VIP from `host`, or has it no longer, in both families.
async fn announced(trial: &Trial, host: Host, wanted: bool) -> Result<()> {
    trial
        .until("the announcement follows", APPLIED_WITHIN, |lab| async move {
            let console = lab.console("tor1").await?;
            for vip in [VIP4.into(), VIP6.into()] {
                let has = console.announcers(vip).await?.contains(&host.to_string());
                ensure!(
                    has == wanted,
                    "{host} {} {vip}",
                    if has { "announces" } else { "does not announce" }
                );
            }
            Ok(())
        })
        .await?;
    Ok(())
}
