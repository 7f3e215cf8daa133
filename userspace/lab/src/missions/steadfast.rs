//! Mission 10: two thousand connections, and then some, that stay open and busy while about everything an operator does to balancers is
//! done to them, one thing after the other.
//!
//! A host that is removed takes its connections with it: they end before it goes, as clients end them some day after a
//! drain. All connections through other hosts count. They are opened before the first change: what is opened while changes
//! follow each other within `flow_hold` is what a slot may lose, see `weir_core::image::phases`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weir_model::{Admin, Spread, status::L4Status};

use super::{
    Trial,
    observe::{Watch, ask},
    operate::{announced, proxies_used, set_admin, set_member, set_vip},
    pulse::Pulse,
};
use crate::{
    daemon::Kind,
    topology::{Host, Role, Target},
};

/// Connections, from clients of zone 1: the router shares them between its two balancers. Two hosts of five take theirs
/// with them.
const CONNECTIONS: u16 = 3_600;
/// Connections that must live from before the first change to the end.
const KEPT: usize = 2_000;
/// From an answer to the next request of a connection.
const EVERY: Duration = Duration::from_millis(1_250);
/// One retransmission: the least timeout of TCP, and a tick of the kernel's clock. What a request takes without one is
/// measured, and added.
const RETRANSMISSION: Duration = Duration::from_millis(200 + 10);
/// Long enough for slots to forget what was before the mission.
const BRIEF_HOLD: Duration = Duration::from_secs(1);
/// As long as connections are held during the mission.
const HOLD: Duration = Duration::from_secs(3600);
/// How long no slot may change before all count as settled: a change of which `BRIEF_HOLD` is left is announced by then.
const QUIET: Duration = Duration::from_secs(3);

const fn balancer(zone: u8, index: u8) -> Host {
    Host { zone, role: Role::Balancer, index }
}

/// Through these the clients come; the first loses its `weir-l4`, the second its routes.
const NEAR: [Host; 2] = [balancer(1, 1), balancer(1, 2)];
/// Is added.
const ADDED: Host = balancer(2, 2);
/// Is drained and taken back.
const RESTED: Host = NEAR[1];
/// Is drained and removed from the group.
const REMOVED: Host = balancer(3, 1);
/// Is drained and then gone altogether.
const GONE: Host = balancer(2, 1);
/// Stays as it is.
const OTHER: Host = balancer(3, 2);

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();
    set_vip(trial, |vip| (vip.spread, vip.flow_hold) = (Spread::Group, BRIEF_HOLD))?;
    set_member(trial, ADDED, false)?;
    proxies_used(trial, &[NEAR[0], NEAR[1], GONE, REMOVED, OTHER]).await?;
    settled(trial).await?;
    set_vip(trial, |vip| vip.flow_hold = HOLD)?;

    let watch = Watch::open(&lab);
    let begun = Instant::now();
    let mut pulse = Pulse::open(&lab, [1].into_iter(), CONNECTIONS, EVERY).await?;
    trial.say(format!("{} connections after {:.1} s", pulse.len(), begun.elapsed().as_secs_f64()));
    let least = [NEAR[0], NEAR[1], GONE, REMOVED, OTHER].map(|host| pulse.through(host)).into_iter().min();
    let least = least.unwrap_or_default();
    let fair = usize::from(CONNECTIONS) / 5;
    trial.check("fewest connections through a proxy", format!("about {fair}"), least, least > fair / 2);
    pulse.beat_on().await;
    pulse.slowest();
    pulse.beat_on().await;
    let calm = pulse.slowest();
    let limit = RETRANSMISSION + calm;
    trial.say(format!("an answer takes at most {} ms while nothing happens", calm.as_millis()));

    set_member(trial, ADDED, true)?;
    proxies_used(trial, &[NEAR[0], NEAR[1], ADDED, GONE, REMOVED, OTHER]).await?;
    pulse.check_kept(trial, "z2lb2 added", limit).await;

    set_admin(trial, RESTED, Admin::Drain)?;
    proxies_used(trial, &[NEAR[0], ADDED, GONE, REMOVED, OTHER]).await?;
    pulse.check_kept(trial, "z1lb2 drained", limit).await;
    set_admin(trial, RESTED, Admin::Active)?;
    proxies_used(trial, &[NEAR[0], NEAR[1], ADDED, GONE, REMOVED, OTHER]).await?;
    pulse.check_kept(trial, "z1lb2 taken back", limit).await;

    kill_l4(trial, NEAR[0]).await?;
    pulse.check_kept(trial, "weir-l4 of z1lb1 dead", limit).await;
    start_l4(trial, NEAR[0]).await?;
    pulse.check_kept(trial, "weir-l4 of z1lb1 back", limit).await;

    set_admin(trial, REMOVED, Admin::Drain)?;
    proxies_used(trial, &[NEAR[0], NEAR[1], ADDED, GONE, OTHER]).await?;
    pulse.check_kept(trial, "z3lb1 drained, with its own connections", limit).await;
    let ended = pulse.close(REMOVED);
    trial.say(format!("the {ended} connections of z3lb1 are over"));
    set_member(trial, REMOVED, false)?;
    announced(trial, REMOVED, false).await?;
    pulse.check_kept(trial, "z3lb1 removed", limit).await;

    withdraw(trial, NEAR[1]).await?;
    pulse.check_kept(trial, "z1lb2 left ECMP", limit).await;
    if let Some(balancer) = lab.balancers.lock().await.get_mut(&NEAR[1]) {
        balancer.start(Kind::Bgp)?;
    }
    announced(trial, NEAR[1], true).await?;
    pulse.check_kept(trial, "z1lb2 joined ECMP", limit).await;

    set_admin(trial, GONE, Admin::Drain)?;
    proxies_used(trial, &[NEAR[0], NEAR[1], ADDED, OTHER]).await?;
    let ended = pulse.close(GONE);
    trial.say(format!("the {ended} connections of z2lb1 are over"));
    set_member(trial, GONE, false)?;
    withdraw(trial, GONE).await?;
    lab.kill(&Target { hosts: vec![GONE], daemon: None }).await?;
    pulse.check_kept(trial, "z2lb1 gone for good", limit).await;

    trial.check(
        "connections from begin to end",
        format!("at least {KEPT}"),
        pulse.len(),
        pulse.len() >= KEPT,
    );
    pulse.check(trial, "packets lost from the first change to the end").await;
    trial.check_no_failures("requests of all zones all the time", &watch.records(&lab));
    Ok(())
}

/// Waits until no balancer has a slot that is about to change or forget its previous owner.
async fn settled(trial: &Trial) -> Result<()> {
    let mut since = Instant::now();
    let balancers: Vec<Host> = trial.lab.topology.of(Role::Balancer, None).collect();
    let begun = Instant::now();
    while since.elapsed() < QUIET {
        ensure!(begun.elapsed() < Duration::from_secs(30), "slots never settle");
        for host in &balancers {
            let status: L4Status = ask(&trial.lab, *host, Kind::L4).await?;
            if status.changing {
                since = Instant::now();
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn kill_l4(trial: &Trial, host: Host) -> Result<()> {
    trial.say(format!("kill weir-l4 of {host}"));
    trial.lab.kill(&Target { hosts: vec![host], daemon: Some(Kind::L4) }).await
}

async fn start_l4(trial: &Trial, host: Host) -> Result<()> {
    trial.say(format!("start weir-l4 of {host}"));
    trial.lab.restore(&Target { hosts: vec![host], daemon: Some(Kind::L4) }).await?;
    trial
        .until("weir-l4 answers", Duration::from_secs(20), |lab| async move {
            let status: L4Status = ask(&lab, host, Kind::L4).await?;
            ensure!(status.adopted && !status.vips.is_empty(), "it has confirmed nothing");
            Ok(())
        })
        .await?;
    Ok(())
}

/// Takes a balancer out of its router's ECMP.
async fn withdraw(trial: &Trial, host: Host) -> Result<()> {
    trial.say(format!("{host} withdraws its routes"));
    if let Some(balancer) = trial.lab.balancers.lock().await.get_mut(&host) {
        balancer.stop(Kind::Bgp).await?;
    }
    announced(trial, host, false).await
}
