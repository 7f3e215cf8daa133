//! What an operator does in missions, and how missions see that it was done.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use weir_model::{Admin, Vip};

use super::Trial;
use crate::{
    config::name,
    topology::{Host, VIP4, VIP6, router_name},
};

/// How long a change of the configuration may take until all traffic follows it.
const APPLIED_WITHIN: Duration = Duration::from_secs(20);

/// Puts a balancer into the group of the VIP, or takes it out.
pub(super) fn set_member(trial: &Trial, host: Host, member: bool) -> Result<()> {
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

/// Drains a balancer, or takes it back.
pub(super) fn set_admin(trial: &Trial, host: Host, admin: Admin) -> Result<()> {
    let node = name(&host.to_string())?;
    trial.say(format!("{host} is {admin:?}"));
    trial.lab.config.change(|objects| {
        if let Some(node) = objects.node.get_mut(&node) {
            node.admin = admin;
        }
        Ok(())
    })
}

/// Changes the VIP itself.
pub(super) fn set_vip(trial: &Trial, change: impl FnOnce(&mut Vip)) -> Result<()> {
    let web = name("web")?;
    trial.lab.config.change(|objects| {
        objects.vip.get_mut(&web).map(change);
        Ok(())
    })
}

/// Waits until exactly these proxies take new connections of zone 1.
pub(super) async fn proxies_used(trial: &Trial, hosts: &[Host]) -> Result<()> {
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

/// Waits until the router of `host` has the VIP from `host`, or has it no longer, in both families.
pub(super) async fn announced(trial: &Trial, host: Host, wanted: bool) -> Result<()> {
    trial
        .until("the announcement follows", APPLIED_WITHIN, |lab| async move {
            let console = lab.console(&router_name(host.zone)).await?;
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
